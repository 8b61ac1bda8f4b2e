"""A declaration of the live world, and the slow definition of what an encoder gives; shared by tests."""

import functools
import math

import numpy as np

from lsec_jax.config import HistoryConfig, SplitConfig
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.splits import assign_splits
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table

DAY = 1.0 / 86_400
SLOW = 4_000 * DAY  # as if watches were known late, so that many of them are hidden
HISTORIES = (
    HistoryConfig("watches", item="room", where="watched"),
    HistoryConfig("clicks", events="product_click", item="item", delay=0.5),
)
TABLES = (Table("room", min_count=3), Table("streamer", max_size=12), Table("category"), Table("user", buckets=64))
FIELDS = (
    Field("user", "user", "context", "user"),
    Field("hour", "time.hour", "context"),
    Field("weekday", "time.weekday", "context"),
    Field("gender", "user.gender", "context"),
    Field("activity", "user.log_activity", "context"),
    Field("room", "room", "target", "room"),
    Field("streamer", "streamer", "target", "streamer"),
    Field("category", "room.category", "target", "category"),
    Field("viewers", ".viewers", "dynamic", transform="log1p"),
    Field("position", ".position", "dynamic"),
)
WATCHES = SequenceFields(
    "channels",
    "watches",
    6,
    (
        Field("room", "item", table="room"),
        Field("streamer", "streamer", table="streamer"),
        Field("category", "item.category", table="category"),
        Field("ages", "ages"),
        Field("stay", "stay_seconds", transform="log1p"),
        Field("shared", "share"),
        Field("watched", "watched"),
        Field("goods", "room.num_goods"),
    ),
    known_after="stay_seconds",
    known_after_unit=SLOW,
)
CLICKS = SequenceFields(
    "products",
    "clicks",
    4,
    (
        Field("item", "item"),
        Field("category", "item.category", table="category"),
        Field("price", "item.price", transform="log1p"),
    ),
    is_ordered=False,
)
LABELS = (
    Label("watched", "watched", measured="stay_seconds", minimum=20.0),
    Label("stay", "stay_seconds", "regression", "log1p", only_if="watched"),
    Label("bag", "goods_bag_click", only_if="watched"),
)


def declaration(**changes):
    """The one above, with changes."""
    parts = {"tables": TABLES, "fields": FIELDS, "sequences": (WATCHES, CLICKS), "labels": LABELS}
    return Declaration(**parts | changes)


@functools.cache
def world(seed=0):
    """A small live world, split by time, with histories."""
    data = synthetic.live_tiny(LiveConfig(num_impressions=1_500), seed=seed).load()
    return add_histories(assign_splits(data, SplitConfig(), ("buy",)), HISTORIES)


def behaviours_before(data, config, row):
    """Rows of the behaviours before an impression, oldest first, by going through all of them."""
    shown, table = data.events["impression"], data.events[config.events]
    where = table.value(config.where) if config.where else np.ones(len(table))
    return [
        i
        for i in range(len(table))
        if table.ids("user")[i] == shown.ids("user")[row]
        and table.ids(config.item)[i] >= 0
        and where[i] > 0
        and table.time[i] + config.delay < shown.time[row]
    ]


def external(data, table, role, row, feature=""):
    """(kind, external id) of a role's node or of its categorical feature; None where there is none."""
    nodes = data.nodes[table.nodes[role].node_type]
    node = table.ids(role)[row]
    if node < 0:
        return None
    if not feature:
        return nodes.ids[node]
    code = nodes.features[feature].values[node]
    return None if code < 0 else nodes.features[feature].vocabulary[code]


def row_of(encoder, table, external_id):
    """The row of a table by the list of its vocabulary."""
    vocabulary = encoder.fitted["vocabularies"][table]
    return 1 + vocabulary.index(external_id) if external_id in vocabulary else 0


def scaled(encoder, name, value, transform=""):
    """(standardised value, is missing) of one number."""
    (mean,), (deviation,) = encoder.fitted["scales"][name]
    if value is None or math.isnan(value):
        return 0.0, 1.0
    value = math.log1p(value) if transform else float(value)
    return (value - mean) / deviation, 0.0


def columns_of(encoder, batch, name, sequence=None):
    """A field's columns of a batch."""
    fields = encoder.layout.fields
    if sequence:
        fields = next(of.fields for of in encoder.layout.sequences if of.name == sequence)
    field = next(of for of in fields if of.name == name)
    source = batch["ids"][field.table] if field.kind == "ids" else batch["numbers"]
    return source[:, field.start : field.stop]
