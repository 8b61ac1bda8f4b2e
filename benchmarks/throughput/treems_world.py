"""Columns of a log of sharing, as `prepare` writes them, and the TREEMS that is measured on them; nothing to learn.

A suggestion shows a user, another user and a scenario of a tree. Users are linked in three views, each a graph as those
of `link_graph.py`.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.throughput import link_graph
from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import prepared
from lsec_jax.data.writer import Writer
from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Table
from lsec_jax.declaration import Path as TreePath
from lsec_jax.models import treems
from lsec_jax.schema import EventNodes, Events, Feature, LiveCommerceData, NodeTable, Tree

EVENTS = "suggestion"
VIEWS = ("friend", "pay", "share")
ROLES = ("user", "target_user")
BRANCHING = (3, 4, 4, 5)  # 240 scenarios under 4 levels
NUM_AGES = 8


class Shape(NamedTuple):
    """Of the model: what the tables of growth change, one at a time.

    Attributes:
        experts: n.
        views: how many of VIEWS; without any, no graph.
        fanouts: of each hop.
    """

    experts: int = 8
    views: int = 3
    fanouts: tuple[int, ...] = (8, 4)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the world and of the model's layers.

    Attributes:
        users: nodes.
        links: of each view.
        rows: of the log.
        embedding_dim: of all tables.
        expert_widths: one for each level of the tree.
        tower_widths: after the mixtures.
    """

    users: int = 200_000
    links: int = 2_000_000
    rows: int = 200_000
    embedding_dim: int = 32
    expert_widths: tuple[int, ...] = (128, 96, 64, 32, 16)
    tower_widths: tuple[int, ...] = (128, 64)


def declaration(shape: Shape) -> Declaration:
    """What a record shows."""
    return Declaration(
        events=EVENTS,
        user="user",
        target="target_user",
        tables=(Table("user", has_all=True), Table("age")),
        fields=(
            Field("user_id", "user", "context", table="user"),
            Field("age", "user.age", "context", table="age"),
            Field("target_id", "target_user", "target", table="user"),
            Field("target_age", "target_user.age", "target", table="age"),
            Field("scenario_id", "scenario", "dynamic"),
            Field("hour", "time.hour", "dynamic"),
        ),
        neighbourhoods=tuple(
            Neighbourhood(f"{view}_of_{role}", view, role, "user", shape.fanouts)
            for role in ROLES
            for view in VIEWS[: shape.views]
        ),
        paths=(TreePath(),),
        labels=(Label("accepted", "accepted"),),
    )


def config_of(folder: Path, shape: Shape, sizes: Sizes, batch_size: int) -> RunConfig:
    """The run: TREEMS with the paper's optimizer. Tables have lazy updates, whatever the shape, so that all have."""
    return RunConfig(
        data=prepared.Config(str(folder)),
        model=treems.Config(
            features=declaration(shape),
            num_experts=shape.experts,
            expert_widths=sizes.expert_widths,
            tower_widths=sizes.tower_widths,
            embedding_dim=sizes.embedding_dim,
            has_graph=shape.views > 0,
        ),
        split=SplitConfig(method="time", fractions=(0.98, 0.01, 0.01)),
        optimizer=OptimizerConfig(name="adagrad", learning_rate=0.05, tables="lazy"),
        training=TrainingConfig(batch_size=batch_size, metric="auc", patience=0),
        evaluation=EvaluationConfig(protocols=("impressions",), baselines=()),
    )


def full_tree(branching: tuple[int, ...]) -> tuple[Tree, np.ndarray]:
    """A tree of one root, whose nodes have as many children as their level says, and its leaves."""
    levels = [np.array([-1])]
    first = 0  # node of the level
    for count in branching:
        above = np.arange(first, first + len(levels[-1]))
        first += len(above)
        levels.append(np.repeat(above, count))
    return Tree(np.concatenate(levels).astype(np.int32)), np.arange(first, first + len(levels[-1]))


def write_world(directory: Path, sizes: Sizes) -> dict[str, Any]:
    """Writes the columns; returns what there is of each."""
    rng = np.random.default_rng(0)
    tree, leaves = full_tree(BRANCHING)
    ages = Feature(
        "categorical",
        rng.integers(0, NUM_AGES, sizes.users).astype(np.int32),
        tuple(f"age_{i}" for i in range(NUM_AGES)),
    )
    nodes = {
        "user": NodeTable("user", np.arange(sizes.users), {"age": ages}),
        "scenario": NodeTable("scenario", np.arange(len(tree.parents))),
    }
    users, targets = rng.integers(0, sizes.users, (2, sizes.rows)).astype(np.int32)
    events = Events(
        EVENTS,
        {
            "user": EventNodes("user", users),
            "target_user": EventNodes("user", targets),
            "scenario": EventNodes("scenario", rng.choice(leaves, sizes.rows).astype(np.int32)),
        },
        np.arange(sizes.rows) / sizes.rows * 30.0,
        {"accepted": rng.random(sizes.rows) < 0.2},
    )
    with Writer(directory, {"benchmark": "treems_step"}) as writer:
        views = {name: link_graph.draw_graph(name, sizes.users, sizes.links, rng, writer.new_column) for name in VIEWS}
        data = LiveCommerceData("sharing", nodes, {}, events={EVENTS: events}, views=views, trees={"scenario": tree})
        writer.finish(data, {}, lambda num_bytes: None)
    return {
        "scenarios": len(leaves),
        "levels": 1 + len(BRANCHING),
        "neighbours": {name: len(of.neighbours) for name, of in views.items()},
    }
