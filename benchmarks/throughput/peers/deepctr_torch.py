"""A peer of the throughput suite: deepctr-torch 0.3.0, its DIN and MMoE.

  PYTHON benchmarks/throughput/peers/deepctr_torch.py ROW WORKLOAD_DIR [--quick]

Holds none of its code. Layers are those of `records.py`; without its L2 terms.
"""

import functools
import sys
from pathlib import Path

import numpy as np
import records
import torch
from protocol import Work, serve
from torch_step import step

sys.path.pop(0)  # this folder, in which "deepctr_torch" is this file

from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIN
from deepctr_torch.models.multitask import MMOE

NUM_ROWS = 1 + records.VOCABULARY
_NO_L2 = {"l2_reg_embedding": 0.0}


def inputs(batch: records.Records) -> torch.Tensor:
    """All columns side by side in the order of `columns`, as it wants them; the history newest first, padding last."""
    lengths = (batch.history > 0).sum(axis=1, keepdims=True)
    of = [batch.context, batch.target[:, None], batch.history[:, ::-1], lengths]
    return torch.from_numpy(np.concatenate(of, axis=1).astype(np.float32))


def columns(width: int) -> list[SparseFeat | VarLenSparseFeat]:
    """The fields, the target's table shared with the history."""
    fields = [SparseFeat(name, NUM_ROWS, width) for name in (*records.CONTEXT, records.TARGET)]
    history = SparseFeat(f"hist_{records.TARGET}", NUM_ROWS, width, embedding_name=records.TARGET)
    return [*fields, VarLenSparseFeat(history, records.LENGTH, "mean", length_name="length")]


def din(width: int) -> torch.nn.Module:
    """Its activation unit with PReLU, which takes less than its default Dice."""
    unit = {"att_hidden_size": records.ACTIVATION_UNIT, "att_activation": "prelu"}
    return DIN(columns(width), [records.TARGET], dnn_hidden_units=records.TOWER, **unit, **_NO_L2)


def mmoe(width: int) -> torch.nn.Module:
    """Gates without hidden layers."""
    return MMOE(
        columns(width),
        num_experts=records.NUM_EXPERTS,
        expert_dnn_hidden_units=records.EXPERT,
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=records.TASK_TOWER,
        task_names=records.TASKS,
        **_NO_L2,
    )


MODELS = {"din": (din, 1), "mmoe": (mmoe, len(records.TASKS))}


def make(workload: Path, _is_quick: bool, model: str, width: int) -> Work:
    """One repetition is one step."""
    build, num_tasks = MODELS[model]
    return step(workload, build(width), inputs, num_tasks, "ids go in as floats, and are made integers for each lookup")


if __name__ == "__main__":
    serve(
        {
            f"ranker/{model}/{width}": functools.partial(make, model=model, width=width)
            for model in MODELS
            for width in records.WIDTHS
        }
    )
