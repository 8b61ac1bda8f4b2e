"""Rows `sharing/MODEL/WIDTH`: one training step of sharing recommendation without a graph, beside a peer's MMoE.

Records are those of rankers without their history: ids of four context fields and of a target. x is five embeddings
wide on both sides, 8 experts of 128, 96, 64, 32 and 16 read it, one task's tower of 128 and 64 follows, and Adam
updates all parameters, whole tables included.

- `sharing/mmoe`: one gate on x mixes the last layer of the experts, as the peer's MMoE does: what both do is the same.
- `sharing/treems`: gates that read the path to the scenario mix all five layers, and the tower reads all of the
  mixtures; the peer has no such model, its time is that of its MMoE.
"""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.throughput.peers import records
from benchmarks.throughput.peers.protocol import Work
from benchmarks.throughput.rows import rankers
from benchmarks.throughput.rows.row import Row
from lsec_jax.declaration import Declaration, Label
from lsec_jax.declaration import Path as TreePath
from lsec_jax.declaration.layout import LabelLayout, Layout, PathLayout, TableLayout
from lsec_jax.models import ctr_baselines, treems
from lsec_jax.models.impressions.config import ImpressionConfig

MODELS = ("treems", "mmoe")
PATH, SCENARIO = "path", "scene"
_LEVELS = (1, 10, 100, 1000)  # nodes above the scenarios: each level tells the last digits of the scenario
_FIRST = tuple(1 + sum(_LEVELS[:i]) for i in range(len(_LEVELS) + 1))  # row of each level's first node
DEPTH = len(records.SHARING_EXPERT)


def declaration() -> Declaration:
    """What a record shows."""
    whole = rankers.declaration()
    labels = (Label(records.TASKS[0], records.TASKS[0]),)
    return dataclasses.replace(whole, sequences=(), labels=labels, paths=(TreePath(PATH, SCENARIO),))


def layout(model: str) -> Layout:
    """Where the records' columns are in a batch of `batches`."""
    whole = rankers.layout(1)
    labels = (LabelLayout(records.TASKS[0], "binary", "", 0.3),)
    if model == "mmoe":
        return dataclasses.replace(whole, sequences=(), labels=labels)
    tree = TableLayout(PATH, _FIRST[-1] + 1 + records.VOCABULARY, 0)
    paths = (PathLayout(PATH, SCENARIO, DEPTH),)
    return dataclasses.replace(whole, tables=(*whole.tables, tree), sequences=(), labels=labels, paths=paths)


def paths_of(scenarios: np.ndarray) -> np.ndarray:
    """Rows of the nodes from the root to scenarios [b], [b, 5] int32."""
    levels = [first + scenarios % count for first, count in zip(_FIRST, _LEVELS, strict=False)]
    return np.stack([*levels, _FIRST[-1] + scenarios], axis=1).astype(np.int32)


def batches(of: records.Records, model: str) -> list[dict[str, Any]]:
    """The records as our models read them, on the device."""
    found = []
    for batch in rankers.batches(of, 1):
        target, context = batch["ids"][records.TARGET][:, :1], batch["ids"]
        ids = {**context, records.TARGET: target}
        if model == "treems":
            ids[PATH] = jnp.asarray(paths_of(np.asarray(context[SCENARIO])[:, 0]))
        found.append({**batch, "ids": ids, "masks": {}})
    return found


def config_of(model: str, width: int) -> ImpressionConfig:
    """The model that is measured."""
    shown = declaration()
    sizes: dict[str, Any] = {
        "embedding_dim": width,
        "embedding_std": 1e-4,
        "num_experts": records.NUM_EXPERTS,
        "expert_widths": records.SHARING_EXPERT,
        "tower_widths": records.SHARING_TOWER,
    }
    if model == "mmoe":
        config: ImpressionConfig = ctr_baselines.Config(
            features=dataclasses.replace(shown, paths=()), variant="mmoe", **sizes
        )
    else:
        config = treems.Config(features=shown, has_graph=False, **sizes)
    config.validate()
    return config


def make(folder: Path, _quick: bool, model: str, width: int) -> Work:
    """One repetition is one step; each goes on with the state of the one before."""
    given = records.read(folder)
    data, losses = itertools.cycle(batches(given, model)), []
    step, state = rankers.stepper(config_of(model, width), layout(model))

    def one() -> None:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, (), next(data)))
        losses.append(metrics["loss"])

    return Work(
        run=one,
        examples=given.target.shape[1],
        finish=lambda: rankers.checked(np.asarray(jax.device_get(losses))),
    )


ROWS = {
    f"sharing/{model}/{width}": Row(
        functools.partial(make, model=model, width=width),
        workload="records",
        sizes=("small",),
        peers=("torch_rechub",),
        peer_row=f"sharing/mmoe/{width}",
    )
    for model in MODELS
    for width in records.SHARING_WIDTHS
}
