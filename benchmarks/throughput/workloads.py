"""The data that all workers of the throughput suite read: simulated worlds as `python -m lsec_jax.prepare` writes them.

"graph" is a world of LSEC-Small's proportions with users, items and streamers; "events" is one with a feed of
impressions and histories. A size multiplies nodes and edges, or impressions. "records" are batches for rankers, drawn
as `peers/records.py` says.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from absl import logging

from benchmarks.throughput.peers import records
from lsec_jax.config import HistoryConfig, RunConfig
from lsec_jax.data import preparation
from lsec_jax.data.sources import prepared, synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.models import lsec_gnn
from lsec_jax.schema import TRAIN

KINDS = ("graph", "events", "records")
SCALES = {"quarter": 0.25, "small": 1.0, "double": 2.0}
SIZES = ("tiny", *SCALES, "large")
NUM_IMPRESSIONS = 1_000_000
HISTORY = HistoryConfig("watches", where="watched")


def sizes_of(kind: str) -> tuple[str, ...]:
    """Which sizes there are of a kind."""
    if kind == "records":
        return tuple(records.SIZES)
    return SIZES if kind == "graph" else SIZES[:-1]


def config_of(kind: str, size: str) -> RunConfig:
    """What is prepared; the model only says which relations are split."""
    histories = () if kind == "graph" else (HISTORY,)
    return RunConfig(data=world_of(kind, size), model=lsec_gnn.Config(), histories=histories)


def world_of(kind: str, size: str) -> synthetic.Config:
    """The simulated world of a size."""
    if kind == "events":
        if size == "tiny":
            return synthetic.live_tiny()
        return synthetic.Config(live=LiveConfig(num_impressions=int(SCALES[size] * NUM_IMPRESSIONS)))
    if size in ("tiny", "large"):
        return synthetic.tiny() if size == "tiny" else synthetic.lsec_large()
    whole = synthetic.lsec_small()
    counted = ("num_users", "num_items", "num_streamers", "num_buy", "num_follow", "num_sell")
    return dataclasses.replace(whole, **{name: int(SCALES[size] * getattr(whole, name)) for name in counted})


@functools.cache
def prepare(kind: str, size: str, workdir: Path) -> Path:
    """Writes a workload, unless an earlier run has; returns its folder."""
    folder = workdir / "workloads" / f"{kind}_{size}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    logging.info("preparing %s", folder)
    if kind == "records":
        records.write(folder, size)
    else:
        preparation.run(config_of(kind, size), folder)
    return folder


def counts(kind: str, folder: Path) -> dict[str, Any]:
    """How much there is of a workload."""
    if kind == "records":
        num_batches, batch_size, length = records.read(folder).history.shape
        return {"batches": num_batches, "batch_size": batch_size, "length": length, "vocabulary": records.VOCABULARY}
    data = prepared.Config(str(folder)).load()
    return {
        "nodes": {name: len(table) for name, table in data.nodes.items()},
        "train_edges": {name: len(of.edges(TRAIN)[0]) for name, of in data.relations.items()},
        "events": {name: len(of) for name, of in data.events.items()},
    }
