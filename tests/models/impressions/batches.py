"""A layout and random batches for rankers, without a data set."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.declaration.layout import FieldLayout, LabelLayout, Layout, SequenceLayout, TableLayout
from lsec_jax.models import ctr_baselines, eliverec
from lsec_jax.training.state import Keys, TrainableModel
from tests.event_runs import asked

LENGTH = 6
NUM_ROWS = {"user": 20, "streamer": 12, "item": 15}

DECLARED = Declaration(
    tables=(Table("streamer"),),
    fields=(
        Field("user", "user", "context"),
        Field("activity", "user.activity", "context"),
        Field("streamer_id", "streamer", "target", table="streamer"),
        Field("viewers", ".viewers", "dynamic"),
    ),
    sequences=(
        SequenceFields(
            "watches",
            "watches",
            length=LENGTH,
            fields=(Field("streamer_id", "item", table="streamer"), Field("stay", "stay_seconds")),
        ),
        SequenceFields("clicks", "clicks", length=LENGTH, fields=(Field("item", "item"),), is_ordered=False),
    ),
    labels=(
        Label("watched", "watched"),
        Label("stay", "stay_seconds", kind="regression", transform="log1p", only_if="watched"),
        Label("bag", "goods_bag_click", only_if="watched"),
    ),
)


def layout(sequences=("watches", "clicks"), tasks=("stay", "bag"), is_ordered=False):
    """What an encoder would make of DECLARED with some sequences and labels, and with clicks in some order or none."""
    fields = (
        FieldLayout("user", "context", "ids", "user", 0, 1),
        FieldLayout("activity", "context", "numbers", "", 0, 2),
        FieldLayout("streamer_id", "target", "ids", "streamer", 0, 1),
        FieldLayout("viewers", "dynamic", "numbers", "", 2, 4),
    )
    streamers = FieldLayout("streamer_id", "", "ids", "streamer", 1, 1 + LENGTH)
    stays = FieldLayout("stay", "", "numbers", "", 4, 4 + 2 * LENGTH)
    of = {
        "watches": SequenceLayout("watches", LENGTH, True, (streamers, stays)),
        "clicks": SequenceLayout("clicks", LENGTH, is_ordered, (FieldLayout("item", "", "ids", "item", 0, LENGTH),)),
    }
    labels = (
        LabelLayout("watched", "binary", "", 0.3),
        LabelLayout("stay", "regression", "log1p", 4.0),
        LabelLayout("bag", "binary", "", 0.2),
    )
    tables = tuple(
        TableLayout(name, count, 0) for name, count in NUM_ROWS.items() if name != "item" or "clicks" in sequences
    )
    chosen = tuple(label for label in labels if label.name in ("watched", *tasks))
    return Layout(tables, fields, tuple(of[name] for name in sequences), chosen, 4 + 2 * LENGTH)


def batch(rows=16, seed=0, sequences=("watches", "clicks"), tasks=("stay", "bag"), users=None):
    """A batch; its first row has empty sequences, its second one full ones."""
    rng = np.random.default_rng(seed)
    lengths = {name: rng.integers(LENGTH + 1, size=rows) for name in ("watches", "clicks")}
    masks = {}
    for name, of in lengths.items():
        of[:2] = 0, LENGTH
        masks[name] = np.arange(LENGTH)[None] >= LENGTH - of[:, None]
    streamers = rng.integers(1, NUM_ROWS["streamer"], size=(rows, 1 + LENGTH))
    streamers[:, 1:][~masks["watches"]] = 0
    items = rng.integers(1, NUM_ROWS["item"], size=(rows, LENGTH))
    items[~masks["clicks"]] = 0
    numbers = rng.normal(size=(rows, 4 + 2 * LENGTH))
    labels = np.stack([rng.random(rows) < 0.4, rng.exponential(3.0, rows), rng.random(rows) < 0.5], axis=1)
    labels = labels.astype(np.float32)
    labels[labels[:, 0] == 0, 1:] = np.nan
    kept = [0, *(1 + ("stay", "bag").index(name) for name in tasks)]
    ids = {"user": rng.integers(1, NUM_ROWS["user"], size=(rows, 1)), "streamer": streamers, "item": items}
    return {
        "ids": {
            name: jnp.asarray(of, jnp.int32) for name, of in ids.items() if name != "item" or "clicks" in sequences
        },
        "numbers": jnp.asarray(numbers, jnp.float32),
        "masks": {name: jnp.asarray(masks[name]) for name in sequences},
        "labels": jnp.asarray(labels[:, kept]),
        "users": jnp.asarray(np.arange(rows) // 2 if users is None else users, jnp.int32),
        "rows": jnp.arange(rows, dtype=jnp.int32),
        "places": jnp.arange(rows, dtype=jnp.int32),
    }


def eliverec_config(**keys):
    """eLiveRec on DECLARED, narrow."""
    sizes = {"embedding_dim": 8, "num_heads": 2, "tower_widths": (16, 8), "task_tower_widths": (8,)}
    sizes |= {"expert_widths": (8,), "num_experts": 3, "regulariser_group_size": 8, "gate_width": 4}
    tasks = {"channel": "watches", "product": "clicks", "tasks": ("stay", "bag"), "task_weighting": "adaptive"}
    return asked(eliverec.Config(**{"features": DECLARED, **sizes, **tasks, **keys}), keys)


def baseline_config(variant, **keys):
    """A baseline on DECLARED, narrow."""
    sizes = {"embedding_dim": 8, "num_heads": 2, "tower_widths": (16, 8), "task_tower_widths": (8,)}
    sizes |= {"expert_widths": (8,), "num_experts": 3, "num_retrieved": 3, "activation_widths": (6,)}
    return asked(ctr_baselines.Config(**{"features": DECLARED, "variant": variant, **sizes, **keys}), keys)


def trainable(config, seed=0):
    """The model as pure functions, and its initial parameters."""
    config.validate()
    declared = config.declaration
    sequences, tasks = (tuple(of.name for of in part) for part in (declared.sequences, declared.labels[1:]))
    own = layout(sequences, tasks, is_ordered=getattr(config, "encoder", "") == "gru")  # which needs an order
    keys = Keys.from_seed(seed)
    model = TrainableModel(config.build(own, nnx.Rngs(keys.dense)))
    return model, model.init(keys)


def _compiled(model, name, make):
    """What `make` returns, compiled once for each model."""
    compiled = vars(model).setdefault("compiled_by_tests", {})
    if name not in compiled:
        compiled[name] = jax.jit(make())
    return compiled[name]


def outputs(model, params, batch):
    """Outputs of all tasks, [b, m] float."""

    def make():
        return lambda params, batch: model.module(params.dense).predict(params.tables, batch)

    found = _compiled(model, "outputs", make)(params, batch)
    # Tasks in the layout's order, the primary one first; jit sorts them by name.
    return np.stack([np.asarray(found[of.name]) for of in model.module(params.dense).layout.labels], axis=1)


def loss_and_gradients(model, params, batch, step=0):
    """Loss, metrics and gradients of one step."""

    def make():
        def loss(params, batch, key):
            return model.module(params.dense).loss(params.tables, (), batch, key)

        return jax.value_and_grad(loss, has_aux=True)

    (total, metrics), gradients = _compiled(model, "loss", make)(params, batch, jax.random.key(step))
    return total, metrics, gradients
