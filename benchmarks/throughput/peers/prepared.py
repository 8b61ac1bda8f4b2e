"""Training edges of prepared data (docs/data-formats.md, `prepared`), read with numpy alone for peers."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

TRAIN = 0


class Edges(NamedTuple):
    """The training edges of one relation, in the order of the files.

    Attributes:
        source, target: node types.
        source_ids, target_ids: int64 [e].
    """

    source: str
    target: str
    source_ids: np.ndarray
    target_ids: np.ndarray


def manifest(workload: Path) -> dict:
    """What `prepare` says of the data; raises FileNotFoundError if it is not there."""
    return json.loads((workload / "manifest.json").read_text())["data"]


def num_nodes(workload: Path) -> dict[str, int]:
    """Nodes of each type."""
    names = manifest(workload)["nodes"]
    return {name: len(np.load(workload / "nodes" / name / "ids.npy", mmap_mode="r")) for name in names}


def edges(workload: Path, relation: str, split: int = TRAIN) -> Edges:
    """The edges of a relation with a split code (0 training, 1 validation, 2 test)."""
    ends, folder = manifest(workload)["relations"][relation], workload / "relations" / relation
    chosen = np.load(folder / "split.npy") == split
    sides = (np.load(folder / f"{side}_ids.npy")[chosen].astype(np.int64) for side in ("source", "target"))
    return Edges(ends["source"], ends["target"], *sides)
