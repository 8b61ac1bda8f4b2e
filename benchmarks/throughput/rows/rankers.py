"""Rows `ranker/MODEL/WIDTH`: one training step of a ranker of impressions, on batches that are in memory.

DIN (activation unit of 36, tower of 256 and 128), MMoE (8 experts of 256 and 128, two tasks with towers of 64) and BST
(one layer of 4 heads, feed-forward nets of 2,048, a tower of 256 and 128), with the same layers, tables of 10,000 rows
and Adam on all parameters, whole tables included, for every contestant. `peers/records.py` has the records and sizes.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.throughput.peers import records
from benchmarks.throughput.peers.protocol import Work
from benchmarks.throughput.rows.row import Row
from lsec_jax.config import OptimizerConfig
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.declaration.layout import FieldLayout, LabelLayout, Layout, SequenceLayout, TableLayout
from lsec_jax.models import ctr_baselines
from lsec_jax.training import optimizers
from lsec_jax.training.state import Keys, TrainableModel, TrainState, init_state, make_train_step

_DEEP = {"tower_widths": records.TOWER}
_TWO_TASKS = {
    **{"tasks": records.TASKS[1:], "task_weights": (1.0,), "tower_widths": records.TASK_TOWER},
    **{"task_tower_widths": records.TASK_TOWER, "num_experts": records.NUM_EXPERTS, "expert_widths": records.EXPERT},
}
MODELS: dict[str, dict[str, Any]] = {
    "din": {**_DEEP, "activation_widths": records.ACTIVATION_UNIT},
    "mmoe": _TWO_TASKS,
    "bst": {**_DEEP, "num_heads": records.NUM_HEADS, "feed_forward_width": records.FEED_FORWARD},
}
_PEERS = {"din": ("torch_rechub", "deepctr_torch"), "mmoe": ("torch_rechub", "deepctr_torch"), "bst": ("torch_rechub",)}
_DEEPCTR_WIDTH = 16


def declaration() -> Declaration:
    """What a record shows."""
    return Declaration(
        events="impression",
        user=records.CONTEXT[0],
        target=records.TARGET,
        tables=(Table(records.TARGET),),
        fields=(
            *(Field(name, name, "context") for name in records.CONTEXT),
            Field(records.TARGET, records.TARGET, "target", table=records.TARGET),
        ),
        sequences=(
            SequenceFields(
                records.HISTORY,
                records.HISTORY,
                length=records.LENGTH,
                fields=(Field(records.TARGET, "item", table=records.TARGET),),
            ),
        ),
        labels=tuple(Label(name, name) for name in records.TASKS),
    )


def layout(num_tasks: int) -> Layout:
    """Where the records' columns are in a batch of `batches`."""
    context = tuple(FieldLayout(name, "context", "ids", name, 0, 1) for name in records.CONTEXT)
    target = FieldLayout(records.TARGET, "target", "ids", records.TARGET, 0, 1)
    element = dataclasses.replace(target, part="", start=1, stop=1 + records.LENGTH)
    tables = (*records.CONTEXT, records.TARGET)
    return Layout(
        tuple(TableLayout(name, 1 + records.VOCABULARY, 0) for name in tables),
        (*context, target),
        (SequenceLayout(records.HISTORY, records.LENGTH, True, (element,)),),
        tuple(LabelLayout(name, "binary", "", 0.3) for name in records.TASKS[:num_tasks]),
        0,
    )


def batches(of: records.Records, num_tasks: int) -> list[dict[str, Any]]:
    """The records as rankers read them, on the device."""
    found = []
    for context, target, history, labels in zip(*of, strict=True):
        places = np.arange(len(target), dtype=np.int32)
        ids = {name: context[:, i : i + 1] for i, name in enumerate(records.CONTEXT)}
        batch = {
            "ids": {**ids, records.TARGET: np.concatenate([target[:, None], history], axis=1)},
            "numbers": np.zeros((len(target), 0), np.float32),
            "masks": {records.HISTORY: history > 0},
            "labels": labels[:, :num_tasks],
            **{"users": context[:, 0], "rows": places, "places": places},
        }
        found.append(jax.tree.map(jnp.asarray, batch))
    return found


def config_of(model: str, width: int) -> ctr_baselines.Config:
    """The ranker that is measured."""
    config = ctr_baselines.Config(
        features=declaration(), variant=model, embedding_dim=width, embedding_std=1e-4, **MODELS[model]
    )
    config.validate()
    return config


def stepper(config: Any, own: Layout) -> tuple[Callable[..., tuple[TrainState, Any]], TrainState]:
    """The compiled step, whose state is donated, and the state that it begins with; Adam, tables updated as a whole."""
    keys = Keys.from_seed(0)
    model = TrainableModel(config.build(own, nnx.Rngs(keys.dense)))
    optimizer = optimizers.build(OptimizerConfig(learning_rate=records.LEARNING_RATE), num_steps=1000)
    step = jax.jit(make_train_step(model, optimizer, keys.negatives), donate_argnums=0)
    return step, init_state(model, optimizer, keys)


def make(folder: Path, _quick: bool, model: str, width: int) -> Work:
    """One repetition is one step; each goes on with the state of the one before."""
    config = config_of(model, width)
    num_tasks = 1 + len(config.tasks)
    given = records.read(folder)
    data, losses = itertools.cycle(batches(given, num_tasks)), []
    step, state = stepper(config, layout(num_tasks))

    def one() -> None:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, (), next(data)))
        losses.append(metrics["loss"])

    return Work(
        run=one,
        examples=given.target.shape[1],
        finish=lambda: checked(np.asarray(jax.device_get(losses))),
    )


def checked(losses: np.ndarray) -> Mapping[str, Any]:
    """The first and the last loss; raises ValueError if one is not finite."""
    if not np.isfinite(losses).all():
        raise ValueError(f"the loss is not finite: {losses}")
    return {"first_loss": float(losses[0]), "last_loss": float(losses[-1])}


def _row(model: str, width: int) -> Row:
    peers = tuple(name for name in _PEERS[model] if name != "deepctr_torch" or width == _DEEPCTR_WIDTH)
    return Row(functools.partial(make, model=model, width=width), workload="records", sizes=("small",), peers=peers)


ROWS = {f"ranker/{model}/{width}": _row(model, width) for model in MODELS for width in records.WIDTHS}
