"""A layout and random batches for rankers of sharing recommendation, without a data set."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Path, SequenceFields, Table
from lsec_jax.declaration.layout import (
    FieldLayout,
    LabelLayout,
    Layout,
    NeighbourhoodLayout,
    PathLayout,
    SequenceLayout,
    TableLayout,
)
from lsec_jax.models import treems
from lsec_jax.models.sharing_baselines import cune, diffnet, dnn, gat, mmoe, multi_scenario, pinsage, scenario_meta
from lsec_jax.training.state import Keys, TrainableModel

LENGTH, DEPTH, WIDTH = 4, 3, 4
NUM_ROWS = {"user": 20, "scenario": 6, "hour": 5, "item": 9, "path": 12}
FANOUTS = {"friend": (3, 2), "pay": (2, 3)}

DECLARED = Declaration(
    events="share",
    target="target_user",
    tables=(Table("user"),),
    fields=(
        Field("user_id", "user", "context", table="user"),
        Field("activity", "user.activity", "context"),
        Field("target_id", "target_user", "target", table="user"),
        Field("scenario_id", "scenario", "dynamic"),
        Field("hour", "time.hour", "dynamic"),
    ),
    sequences=(SequenceFields("shared", "shares", length=LENGTH, fields=(Field("user_id", "item", table="user"),)),),
    neighbourhoods=tuple(
        Neighbourhood(f"{view}_of_{role}", view, role, "user", FANOUTS[view])
        for role in ("user", "target_user")
        for view in FANOUTS
    ),
    paths=(Path(),),
    labels=(Label("accepted", "accepted"), Label("replied", "replied", only_if="accepted")),
)
NUMBERS = {"activity": 2}


def one_sided():
    """DECLARED, but an item is ranked: only the user has neighbours."""
    fields = [of for of in DECLARED.fields if of.name != "target_id"] + [Field("item", "item", "target")]
    near = tuple(of for of in DECLARED.neighbourhoods if of.role == "user")
    return dataclasses.replace(DECLARED, target="item", fields=tuple(fields), neighbourhoods=near)


def layout_of(declared):
    """What an encoder would make of a declaration like DECLARED."""
    slots, numbers = {}, 0

    def place(name, size):
        start = slots.get(name, 0)
        slots[name] = start + size
        return start, start + size

    fields = []
    for of in declared.fields:
        if of.name in NUMBERS:
            fields.append(FieldLayout(of.name, of.part, "numbers", "", numbers, numbers + NUMBERS[of.name]))
            numbers += NUMBERS[of.name]
        else:
            table = of.table or {"scenario_id": "scenario"}.get(of.name, of.name)
            fields.append(FieldLayout(of.name, of.part, "ids", table, *place(table, 1)))
    sequences = tuple(
        SequenceLayout(of.name, LENGTH, True, (FieldLayout("user_id", "", "ids", "user", *place("user", LENGTH)),))
        for of in declared.sequences
    )
    own = {declared_of.source: of.start for declared_of, of in zip(declared.fields, fields, strict=True)}
    near = tuple(
        NeighbourhoodLayout(of.name, of.view, of.role, "user", of.fanouts, own[of.role], *place("user", size))
        for of in declared.neighbourhoods
        for size in [sum(math.prod(of.fanouts[: i + 1]) for i in range(len(of.fanouts)))]
    )
    paths = tuple(PathLayout(of.name, of.role, DEPTH) for of in declared.paths)
    labels = tuple(LabelLayout(of.name, "binary", "", 0.3) for of in declared.labels)
    widths = {of.name: of.width for of in declared.tables}
    names = [*slots, *(of.name for of in paths)]
    tables = tuple(TableLayout(name, NUM_ROWS[name], widths.get(name, 0)) for name in names)
    return Layout(tables, tuple(fields), sequences, labels, numbers, near, paths)


def batch_of(layout, rows=16, seed=0):
    """A batch: the first row has neither history, neighbours nor a known scenario; some nodes have no neighbours."""
    rng = np.random.default_rng(seed)
    ids = {
        of.name: rng.integers(1, of.num_rows, size=(rows, layout.num_slots(of.name))).astype(np.int32)
        for of in layout.tables
    }
    if "scenario" in ids:
        ids["scenario"][:, 0] = np.arange(rows) // 2 % NUM_ROWS["scenario"]
    masks = {}
    for of in layout.sequences:
        lengths = rng.integers(LENGTH + 1, size=rows)
        lengths[0] = 0
        masks[of.name] = np.arange(LENGTH)[None] >= LENGTH - lengths[:, None]
        ids["user"][:, of.fields[0].start : of.fields[0].stop][~masks[of.name]] = 0
    for of in layout.neighbourhoods:
        above, shape = np.ones((rows,), bool), (rows,)
        for (start, stop), fanout in zip(of.hops, of.fanouts, strict=True):
            shape = (*shape, fanout)
            above = above[..., None] & (rng.random(shape) < 0.75)
            above[0] = False
            ids["user"][:, start:stop][~above.reshape(rows, -1)] = 0
    for of in layout.paths:
        ends = rng.integers(1, of.depth + 1, size=rows)
        ids[of.name][np.arange(of.depth)[None] >= ends[:, None]] = 0
    labels = (rng.random((rows, 2)) < 0.5).astype(np.float32)
    labels[labels[:, 0] == 0, 1] = np.nan
    return {
        "ids": {name: jnp.asarray(of) for name, of in ids.items()},
        "numbers": jnp.asarray(rng.normal(size=(rows, layout.num_numbers)), jnp.float32),
        "masks": {name: jnp.asarray(of) for name, of in masks.items()},
        "labels": jnp.asarray(labels[:, : len(layout.labels)]),
        "users": jnp.arange(rows, dtype=jnp.int32) // 2,
        "rows": jnp.arange(rows, dtype=jnp.int32),
        "places": jnp.arange(rows, dtype=jnp.int32),
    }


MODELS = {
    "treems": (treems, {"num_experts": 3, "expert_widths": (5, 4, 3)}),
    "dnn": (dnn, {}),
    "multi_scenario": (multi_scenario, {}),
    "scenario_mmoe": (mmoe, {"num_experts": 3, "expert_widths": (5, 4)}),
    "pinsage_mean": (pinsage, {"aggregator": "mean"}),
    "pinsage_max": (pinsage, {"aggregator": "max"}),
    "pinsage_lstm": (pinsage, {"aggregator": "lstm"}),
    "gat": (gat, {}),
    "diffnet": (diffnet, {}),
    "cune": (cune, {"num_friends": 2, "friend_weight": 0.1}),
    "scenario_meta": (scenario_meta, {}),
}
PAIRS = ("diffnet", "cune")
SCENARIOS = ("multi_scenario", "scenario_mmoe", "scenario_meta")
GRAPHS = ("treems", "pinsage_mean", "pinsage_max", "pinsage_lstm", "gat", "diffnet", "cune")


def config_of(name, **keys):
    """A ranker on DECLARED, narrow."""
    module, own = MODELS[name]
    sizes = {"features": DECLARED, "embedding_dim": WIDTH, "embedding_std": 0.5}
    sizes |= {} if name in PAIRS else {"tower_widths": (6, 5)}
    return module.Config(**{**sizes, **own, **keys})


def trainable(config, seed=0):
    """(the model as pure functions, its initial parameters, its layout)."""
    config.validate()
    layout, keys = layout_of(config.declaration), Keys.from_seed(seed)
    model = TrainableModel(config.build(layout, nnx.Rngs(keys.dense)))
    return model, model.init(keys), layout
