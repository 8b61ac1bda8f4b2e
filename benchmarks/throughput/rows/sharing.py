"""Rows `sharing/MODEL/WIDTH`: one training step of sharing recommendation without a graph, beside a peer's MMoE.

Records are those of rankers without their history: ids of four context fields and of a target. x is five embeddings
wide on both sides, 8 experts of 128, 96, 64, 32 and 16 read it, one task's tower of 128 and 64 follows, and Adam
updates all parameters, whole tables included.

- `sharing/mmoe`: one gate on x mixes the last layer of the experts, as the peer's MMoE does: what both do is the same.
- `sharing/scenario_mmoe`: the gate is that of the row's scenario, one of 240.
- `sharing/treems`: gates that read the path to the scenario mix all five layers, and the tower reads all of the
  mixtures.

The peer has neither of the last two, its time beside them is that of its MMoE.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.throughput import treems_world
from benchmarks.throughput.peers import records
from benchmarks.throughput.peers.protocol import Work
from benchmarks.throughput.rows import rankers
from benchmarks.throughput.rows.row import Row
from lsec_jax.declaration import Declaration, Label
from lsec_jax.declaration import Path as TreePath
from lsec_jax.declaration.layout import Layout, PathLayout, TableLayout
from lsec_jax.models import ctr_baselines, treems
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.sharing_baselines import mmoe

MODELS = ("mmoe", "scenario_mmoe", "treems")
PATH = "path"


def declaration(model: str) -> Declaration:
    """What a record shows."""
    whole = rankers.declaration()
    fields = [dataclasses.replace(of, part=part_of(of.name, of.part)) for of in whole.fields]
    labels = (Label(records.TASKS[0], records.TASKS[0]),)
    paths = (TreePath(PATH, records.SCENARIO),) if model == "treems" else ()
    return dataclasses.replace(whole, fields=tuple(fields), sequences=(), labels=labels, paths=paths)


def part_of(field: str, part: str) -> str:
    """The scenario is the dynamic context."""
    return "dynamic" if field == records.SCENARIO else part


def layout(model: str) -> Layout:
    """Where the records' columns are in a batch of `batches`."""
    whole = rankers.layout(1)
    tables = [
        dataclasses.replace(of, num_rows=1 + records.NUM_SCENARIOS) if of.name == records.SCENARIO else of
        for of in whole.tables
    ]
    fields = tuple(dataclasses.replace(of, part=part_of(of.name, of.part)) for of in whole.fields)
    paths: tuple[PathLayout, ...] = ()
    if model == "treems":
        rows = scenario_paths()
        tables.append(TableLayout(PATH, 1 + int(rows.max()), 0))
        paths = (PathLayout(PATH, records.SCENARIO, rows.shape[1]),)
    return dataclasses.replace(whole, tables=tuple(tables), fields=fields, sequences=(), paths=paths)


def scenario_paths() -> np.ndarray:
    """Rows of the nodes from the root to each scenario, [240, 5] int32."""
    tree, leaves = treems_world.full_tree(treems_world.BRANCHING)
    return tree.paths()[leaves] + 1


def batches(of: records.Records, model: str) -> list[dict[str, Any]]:
    """The records as our models read them, on the device."""
    found, paths = [], scenario_paths()
    for batch in rankers.batches(records.with_scenarios(of), 1):
        ids = {**batch["ids"], records.TARGET: batch["ids"][records.TARGET][:, :1]}
        if model == "treems":
            ids[PATH] = jnp.asarray(paths[np.asarray(ids[records.SCENARIO])[:, 0] - 1])
        found.append({**batch, "ids": ids, "masks": {}})
    return found


def config_of(model: str, width: int) -> ImpressionConfig:
    """The model that is measured."""
    sizes: dict[str, Any] = {
        "features": declaration(model),
        "embedding_dim": width,
        "embedding_std": 1e-4,
        "num_experts": records.NUM_EXPERTS,
        "expert_widths": records.SHARING_EXPERT,
        "tower_widths": records.SHARING_TOWER,
    }
    configs: dict[str, Callable[[], ImpressionConfig]] = {
        "mmoe": lambda: ctr_baselines.Config(variant="mmoe", tower_reads_dynamic=True, **sizes),
        "scenario_mmoe": lambda: mmoe.Config(scenario=records.SCENARIO, **sizes),
        "treems": lambda: treems.Config(has_graph=False, **sizes),
    }
    config = configs[model]()
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
