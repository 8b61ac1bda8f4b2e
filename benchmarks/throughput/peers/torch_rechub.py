"""A peer of the throughput suite: torch-rechub 0.9.0, its DIN, MMoE and BST.

  PYTHON benchmarks/throughput/peers/torch_rechub.py ROW WORKLOAD_DIR [--quick]

Holds none of its code. Layers are those of `records.py`; its towers and activation units always have batch
normalisation, and DIN's tower Dice. Its BST hands one position's output to the tower, ours all of them.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import records
import torch
from protocol import Work, serve
from torch_step import step

sys.path.pop(0)  # this folder, in which "torch_rechub" is this file

from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.models.ranking import BST, DIN

NUM_ROWS = 1 + records.VOCABULARY


def inputs(batch: records.Records) -> dict[str, torch.Tensor]:
    """Columns by feature."""
    context = {name: torch.from_numpy(batch.context[:, i].copy()) for i, name in enumerate(records.CONTEXT)}
    return {
        **context,
        records.TARGET: torch.from_numpy(batch.target),
        records.HISTORY: torch.from_numpy(batch.history),
    }


def sharing_inputs(batch: records.Records) -> dict[str, torch.Tensor]:
    """Columns by feature, with scenarios."""
    return inputs(records.with_scenarios(batch))


def features(width: int, pooling: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Of the context, the history and the target, which share a table."""
    context = [SparseFeature(name, NUM_ROWS, width) for name in records.CONTEXT]
    target = SparseFeature(records.TARGET, NUM_ROWS, width, padding_idx=0)
    history = SequenceFeature(
        records.HISTORY, NUM_ROWS, width, pooling=pooling, shared_with=records.TARGET, padding_idx=0
    )
    return context, [history], [target]


def din(width: int) -> torch.nn.Module:
    """Its activation unit with PReLU, which takes less than its default Dice."""
    unit = {"dims": list(records.ACTIVATION_UNIT), "activation": "prelu"}
    return DIN(*features(width, "concat"), {"dims": list(records.TOWER)}, unit)


def mmoe(width: int) -> torch.nn.Module:
    """On the mean of the history and the other fields."""
    context, history, target = features(width, "mean")
    towers = [{"dims": list(records.TASK_TOWER)} for _ in records.TASKS]
    kinds = ["classification"] * len(records.TASKS)
    return MMOE([*context, *target, *history], kinds, records.NUM_EXPERTS, {"dims": list(records.EXPERT)}, towers)


def sharing_mmoe(width: int) -> torch.nn.Module:
    """On the fields without the history, for one task."""
    context, _, target = features(width, "mean")
    context[records.CONTEXT.index(records.SCENARIO)] = SparseFeature(records.SCENARIO, 1 + records.NUM_SCENARIOS, width)
    tower = {"dims": list(records.SHARING_TOWER)}
    return MMOE(
        [*context, *target], ["classification"], records.NUM_EXPERTS, {"dims": list(records.SHARING_EXPERT)}, [tower]
    )


def bst(width: int) -> torch.nn.Module:
    """Without dropout; its feed-forward nets always have records.FEED_FORWARD units."""
    sizes = {"nhead": records.NUM_HEADS, "dropout": 0.0, "num_layers": 1, "max_seq_len": 1 + records.LENGTH}
    model = BST(*features(width, "concat"), {"dims": list(records.TOWER)}, **sizes)
    assert model.transformer_layers.layers[0].linear1.out_features == records.FEED_FORWARD
    return model


Build = Callable[[int], torch.nn.Module]
MODELS: dict[str, tuple[Build, int, tuple[int, ...]]] = {
    "ranker/din": (din, 1, records.WIDTHS),
    "ranker/mmoe": (mmoe, len(records.TASKS), records.WIDTHS),
    "ranker/bst": (bst, 1, records.WIDTHS),
    "sharing/mmoe": (sharing_mmoe, 1, records.SHARING_WIDTHS),
}


def make(workload: Path, _is_quick: bool, build: Build, num_tasks: int, width: int) -> Work:
    """One repetition is one step."""
    read = sharing_inputs if build is sharing_mmoe else inputs
    return step(workload, build(width), read, num_tasks, "batch normalisation in each layer of towers and units")


if __name__ == "__main__":
    serve(
        {
            f"{model}/{width}": functools.partial(make, build=build, num_tasks=num_tasks, width=width)
            for model, (build, num_tasks, widths) in MODELS.items()
            for width in widths
        }
    )
