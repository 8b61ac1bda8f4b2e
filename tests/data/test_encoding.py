"""Encoded records: each field by its slow definition, and what training and the past alone may know."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.data.batches import EventBatches
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.splits import event_rows
from lsec_jax.data.vocabularies import hash_ids
from lsec_jax.declaration import Field, Label, SequenceFields, Table
from lsec_jax.schema import TRAIN, Events, Feature
from tests.data.encoded_worlds import (
    CLICKS,
    FIELDS,
    HISTORIES,
    LABELS,
    SLOW,
    TABLES,
    WATCHES,
    behaviours_before,
    columns_of,
    declaration,
    external,
    row_of,
    scaled,
    world,
)

ROWS = np.r_[0, 3, 900:910, 1_380:1_400]


@pytest.fixture(scope="module")
def encoder():
    return EventEncoder(world(), declaration())


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_ids_of_records_are_those_of_the_slow_definition(encoder):
    data, batch = world(), encoder.encode(ROWS)
    shown = data.events["impression"]
    for name, role, feature in (
        ("room", "room", ""),
        ("streamer", "streamer", ""),
        ("category", "room", "category"),
        ("gender", "user", "gender"),
    ):
        wanted = [row_of(encoder, name, external(data, shown, role, row, feature)) for row in ROWS]
        assert any(wanted)
        np.testing.assert_array_equal(columns_of(encoder, batch, name)[:, 0], wanted)
    hours = [row_of(encoder, "hour", int((shown.time[row] % 1.0) * 24)) for row in ROWS]
    np.testing.assert_array_equal(columns_of(encoder, batch, "hour")[:, 0], hours)
    days = [row_of(encoder, "weekday", int(shown.time[row]) % 7) for row in ROWS]
    np.testing.assert_array_equal(columns_of(encoder, batch, "weekday")[:, 0], days)
    users = hash_ids(data.nodes["user"].ids)[shown.ids("user")[ROWS]] % np.uint64(64) + np.uint64(1)
    np.testing.assert_array_equal(columns_of(encoder, batch, "user")[:, 0], users)
    np.testing.assert_array_equal(batch["users"], shown.ids("user")[ROWS])
    np.testing.assert_array_equal(batch["rows"], ROWS)


def test_rows_of_nodes_are_the_ids_of_records_of_these_nodes_also_of_hashed_ones(encoder):
    shown = world().events["impression"]
    batch = encoder.encode(ROWS)
    for name, role in (("room", "room"), ("streamer", "streamer"), ("user", "user")):
        rows = encoder.rows_of_nodes(name)
        assert len(rows) == len(world().nodes[role])
        np.testing.assert_array_equal(rows[shown.ids(role)[ROWS]], columns_of(encoder, batch, name)[:, 0])


def test_numbers_of_records_are_standardised_by_training_rows(encoder):
    data, batch = world(), encoder.encode(ROWS)
    shown, train = data.events["impression"], event_rows(data, data.events["impression"], TRAIN)
    activity = data.nodes["user"].features["log_activity"].values[shown.ids("user")]
    columns = {
        "activity": activity,
        "viewers": np.log1p(shown.feature("viewers").values.astype(np.float64)),
        "position": shown.value("position"),
    }
    for name, values in columns.items():
        values = values.astype(np.float64)
        wanted = (values[ROWS] - values[train].mean()) / values[train].std()
        found = columns_of(encoder, batch, name)
        np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-5, atol=1e-6)
        assert not found[:, 1].any()


def test_sequences_are_those_of_the_slow_definition(encoder):
    data, batch = world(), encoder.encode(ROWS)
    shown, clicks = data.events["impression"], data.events["product_click"]
    prices = data.nodes["item"].features["price"].values
    hidden = 0
    for at, row in enumerate(ROWS):
        watches = behaviours_before(data, HISTORIES[0], row)[-6:]
        pad = 6 - len(watches)
        assert batch["masks"]["channels"][at].tolist() == [False] * pad + [True] * len(watches)
        for name in ("room", "streamer", "category", "ages", "stay", "shared", "watched", "goods"):
            assert not columns_of(encoder, batch, name, "channels")[at].reshape(6, -1)[:pad].any()
        for slot, i in enumerate(watches, start=pad):
            stay = shown.value("stay_seconds")[i]
            is_known = shown.time[i] + stay * SLOW < shown.time[row]
            hidden += not is_known
            room = row_of(encoder, "room", external(data, shown, "room", i))
            assert columns_of(encoder, batch, "room", "channels")[at, slot] == room
            category = row_of(encoder, "category", external(data, shown, "room", i, "category"))
            assert columns_of(encoder, batch, "category", "channels")[at, slot] == category
            streamer = row_of(encoder, "streamer", external(data, shown, "streamer", i)) if is_known else 0
            assert columns_of(encoder, batch, "streamer", "channels")[at, slot] == streamer
            goods = data.nodes["room"].features["num_goods"].values[shown.ids("room")[i]]
            wanted = {
                "ages": scaled(encoder, "channels.ages", shown.time[row] - shown.time[i], "log1p"),
                "stay": scaled(encoder, "channels.stay", stay if is_known else None, "log1p"),
                "goods": scaled(encoder, "channels.goods", goods if is_known else None),
                "shared": scaled(encoder, "channels.shared", shown.value("share")[i] if is_known else None),
                "watched": (float(is_known),),
            }
            for name, numbers in wanted.items():
                found = columns_of(encoder, batch, name, "channels")[at].reshape(6, -1)[slot]
                np.testing.assert_allclose(found, numbers, rtol=1e-4, atol=1e-5)
        products = behaviours_before(data, HISTORIES[1], row)[-4:]
        assert batch["masks"]["products"][at].sum() == len(products)
        for slot, i in enumerate(products, start=4 - len(products)):
            item = row_of(encoder, "products.item", external(data, clicks, "item", i))
            assert columns_of(encoder, batch, "item", "products")[at, slot] == item
            wanted = scaled(encoder, "products.price", prices[clicks.ids("item")[i]], "log1p")
            found = columns_of(encoder, batch, "price", "products")[at].reshape(4, -1)[slot]
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert hidden  # some watch goes on at the moment


def test_no_sequence_shows_its_own_moment_or_later(encoder):
    """On every impression of the world: the youngest behaviour that is shown is older than the record, by its delay."""
    data = world()
    shown, rows = data.events["impression"], np.arange(1_500)
    batch = encoder.encode(rows)
    ages = columns_of(encoder, batch, "ages", "channels").reshape(1_500, 6, 2)[:, :, 0]
    (mean,), (deviation,) = encoder.fitted["scales"]["channels.ages"]
    mask = batch["masks"]["channels"]
    assert mask.any(axis=1).sum() > 300
    assert (np.expm1(ages * deviation + mean)[mask] > 0).all()
    # A watch of this very impression, or of one at the same time, is not in the sequence that the impression shows.
    histories = data.histories["watches"]
    last = histories.ends["impression"][mask[:, -1]] - 1
    assert (histories.times[last] < shown.time[mask[:, -1]]).all()
    assert (histories.rows[last] < rows[mask[:, -1]]).all()


def test_running_behaviours_can_be_hidden_whole():
    whole = dataclasses.replace(WATCHES, hides="behaviours")
    data = world()
    encoder = EventEncoder(data, declaration(sequences=(whole, CLICKS)))
    batch, shown, hidden = encoder.encode(ROWS), data.events["impression"], 0
    for at, row in enumerate(ROWS):
        watches = behaviours_before(data, HISTORIES[0], row)[-6:]
        known = [i for i in watches if shown.time[i] + shown.value("stay_seconds")[i] * SLOW < shown.time[row]]
        hidden += len(watches) - len(known)
        rooms = [row_of(encoder, "room", external(data, shown, "room", i)) for i in known]
        pad = 6 - len(known)
        assert columns_of(encoder, batch, "room", "channels")[at].tolist() == [0] * pad + rooms
        assert batch["masks"]["channels"][at].tolist() == [False] * pad + [True] * len(known)
        stays = [scaled(encoder, "channels.stay", shown.value("stay_seconds")[i], "log1p") for i in known]
        found = columns_of(encoder, batch, "stay", "channels")[at].reshape(6, 2)[pad:]
        np.testing.assert_allclose(found, np.reshape(stays, (-1, 2)), rtol=1e-4, atol=1e-5)
    assert hidden


def test_labels_are_not_defined_where_nothing_was_asked(encoder):
    data = world()
    shown, rows = data.events["impression"], np.arange(1_500)
    answers = encoder.answers(rows)
    np.testing.assert_array_equal(encoder.encode(rows)["labels"], answers)
    watched, stay = shown.value("watched"), shown.value("stay_seconds")
    for row in range(1_500):
        assert answers[row, 0] == float(watched[row] and stay[row] >= 20.0)
        if not watched[row]:
            assert np.isnan(answers[row, 1:]).all()
        else:
            assert math.isclose(answers[row, 1], math.log1p(stay[row]), rel_tol=1e-5)
            assert answers[row, 2] == float(shown.value("goods_bag_click")[row] > 0)
    short = watched & (stay < 20.0)
    assert short.any()
    left_out = dataclasses.replace(LABELS[0], is_short_left_out=True)
    other = EventEncoder(data, declaration(labels=(left_out,))).answers(rows)[:, 0]
    np.testing.assert_array_equal(np.isnan(other), short)


def test_a_condition_hides_answers_that_the_column_has():
    shown, rows = world().events["impression"], np.arange(1_500)
    labels = (Label("any", "position", "regression"), Label("seen", "position", "regression", only_if="watched"))
    every, seen = EventEncoder(world(), declaration(labels=labels, fields=FIELDS[:-1])).answers(rows).T
    np.testing.assert_array_equal(every, shown.value("position"))
    np.testing.assert_array_equal(seen, np.where(shown.value("watched"), every, np.nan))


def test_numbers_become_answers_from_a_threshold_on():
    shown = world().events["impression"]
    rating = np.array([1.0, 4.0, 5.0, np.nan], np.float32)[np.arange(1_500) % 4]
    events = dataclasses.replace(shown, values={**shown.values, "rating": rating})
    data = world().replace(events={**world().events, "impression": events})
    labels = (Label("liked", "rating", at_least=4.0), Label("rated", "rating"))
    answers = EventEncoder(data, declaration(labels=labels)).answers(np.arange(4))
    np.testing.assert_array_equal(answers, [[0, 1], [1, 1], [1, 1], [np.nan, np.nan]])


def test_an_id_has_one_row_in_all_fields_of_a_table(encoder):
    batch = encoder.encode(np.arange(1_500))
    data = world()
    by_field = {}
    for name, ids in (("target", "room"), ("sequence", "room")):
        by_field[name] = columns_of(encoder, batch, ids, None if name == "target" else "channels")
    assert encoder.layout.num_slots("room") == 7 and batch["ids"]["room"].shape == (1_500, 7)
    rooms = data.events["impression"].ids("room")
    row_of_room = dict(zip(rooms.tolist(), by_field["target"][:, 0].tolist(), strict=True))
    checked = 0
    for row in range(0, 1_500, 7):
        watches = behaviours_before(data, HISTORIES[0], row)[-6:]
        for slot, i in enumerate(watches, start=6 - len(watches)):
            assert by_field["sequence"][row, slot] == row_of_room[rooms[i]]
            checked += 1
    assert checked > 100


def shuffled(data, seed=3):
    """The same data with other internal indices of rooms, and rooms that were not there."""
    rng = np.random.default_rng(seed)
    table = data.nodes["room"]
    order = rng.permutation(len(table))
    inverse = np.argsort(order).astype(np.int32)
    new_ids = np.r_[table.ids[order], ["room_new"]]
    features = {}
    for name, feature in table.features.items():
        values = feature.values[order]
        features[name] = dataclasses.replace(feature, values=np.r_[values, values[:1]])
    nodes = {**data.nodes, "room": dataclasses.replace(table, ids=new_ids, features=features)}

    def moved(events: Events) -> Events:
        rooms = events.nodes["room"]
        return dataclasses.replace(
            events, nodes={**events.nodes, "room": dataclasses.replace(rooms, ids=inverse[rooms.ids])}
        )

    events = {name: moved(of) if "room" in of.nodes else of for name, of in data.events.items()}
    return add_histories(data.replace(nodes=nodes, events=events, histories={}), HISTORIES)


def test_what_was_fitted_encodes_other_data_by_external_ids(encoder):
    stored = json.loads(json.dumps(encoder.fitted))
    assert stored == encoder.fitted
    other = EventEncoder(shuffled(world()), declaration(), stored)
    assert other.layout == encoder.layout and hash(other.layout) == hash(encoder.layout)
    assert_same(other.encode(ROWS), encoder.encode(ROWS))


def test_hashing_knows_nothing_of_a_data_set(encoder):
    tables = tuple(Table(table.name, buckets=50) for table in TABLES)
    data = world()
    hashed = EventEncoder(data, declaration(tables=tables))
    other = EventEncoder(shuffled(data), declaration(tables=tables))
    for name in ("room", "streamer", "category"):
        found = hashed.encode(ROWS)["ids"][name]
        np.testing.assert_array_equal(found, other.encode(ROWS)["ids"][name])
        assert hashed.layout.table(name).num_rows == 51
        at = columns_of(hashed, hashed.encode(ROWS), name)
        assert at.min() >= 1 and at.max() <= 50 and len(np.unique(at)) > 2
    assert hashed.unknown(np.arange(1_500))["room"] == 0


def test_missing_nodes_features_and_numbers_say_so():
    data = world()
    shown = data.events["impression"]
    nobody = shown.ids("room").copy()
    nobody[ROWS[:3]] = -1
    viewers = shown.feature("viewers").values.copy()
    viewers[ROWS[2:5]] = np.nan
    message = np.random.default_rng(0).random((1_500, 3)).astype(np.float32)
    message[ROWS[4]] = np.nan
    rooms = dataclasses.replace(shown.nodes["room"], ids=nobody)
    features = {**shown.features, "viewers": Feature("numeric", viewers), "message": Feature("vector", message)}
    shown = dataclasses.replace(shown, nodes={**shown.nodes, "room": rooms}, features=features)
    data = data.replace(events={**data.events, "impression": shown})
    data = add_histories(data.replace(histories={}), HISTORIES)
    fields = (*FIELDS, Field("goods", "room.num_goods", "target"), Field("message", ".message", "dynamic"))
    encoder = EventEncoder(data, declaration(fields=fields))
    batch = encoder.encode(ROWS)
    for name in ("room", "category"):
        assert columns_of(encoder, batch, name)[:4, 0].tolist()[:3] == [0, 0, 0]
    assert encoder.unknown(ROWS[:3])["room"] == 0  # nobody is not unknown
    np.testing.assert_array_equal(columns_of(encoder, batch, "goods")[:4, 1], [1, 1, 1, 0])
    np.testing.assert_array_equal(columns_of(encoder, batch, "goods")[:3, 0], 0)
    np.testing.assert_array_equal(columns_of(encoder, batch, "viewers")[:6, 1], [0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(columns_of(encoder, batch, "viewers")[2:5, 0], 0)
    train = event_rows(data, shown, TRAIN)
    mean, deviation = np.nanmean(message[train], axis=0), np.nanstd(message[train], axis=0)
    found = columns_of(encoder, batch, "message")
    assert found.shape == (len(ROWS), 4) and found[4].tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(found[5, :3], (message[ROWS[5]] - mean) / deviation, rtol=1e-4, atol=1e-5)
    assert np.isfinite(encoder.encode(np.arange(1_500))["numbers"]).all()


def test_packed_batches_are_unpacked_in_jitted_functions(encoder):
    packed = encoder.encode_packed(ROWS)
    assert {name: str(of.dtype) for name, of in packed.items()} == {
        "int32": "int32",
        "float32": "float32",
        "bool": "bool",
    }
    unpacked = jax.jit(encoder.unpack)(packed)
    assert_same(jax.tree.map(np.asarray, unpacked), jax.tree.map(np.asarray, encoder.encode(ROWS)))


def test_encoding_knows_no_neighbouring_rows(encoder):
    """A row is encoded as it is alone, whatever stands beside it and how often it comes."""
    together = encoder.encode(np.r_[ROWS[::-1], ROWS[:1]])
    for at, row in enumerate(np.r_[ROWS[::-1], ROWS[:1]]):
        alone = encoder.encode(np.array([row]))
        assert_same(jax.tree.map(lambda of, at=at: of[at : at + 1], together), alone)
    assert encoder.encode(np.zeros(0, np.int64))["numbers"].shape == (0, encoder.layout.num_numbers)


def test_batches_of_events_are_encoded_ones(encoder):
    train = event_rows(world(), world().events["impression"], TRAIN)
    batches = EventBatches(encoder, train, 128, (0,))
    assert_same(batches(3), encoder.encode(batches.rows(3)))
    packed = EventBatches(encoder.packed, train, 128, (0,))
    assert_same(encoder.unpack(packed(3)), batches(3))


def test_two_sequences_may_show_one_history():
    short = SequenceFields("recent", "watches", 2, (Field("room", "item", table="room"),))
    encoder = EventEncoder(world(), declaration(sequences=(WATCHES, short)))
    batch = encoder.encode(np.arange(1_400, 1_450))
    long, recent = (columns_of(encoder, batch, "room", name) for name in ("channels", "recent"))
    np.testing.assert_array_equal(recent, long[:, -2:])
    assert recent.any()


def test_materialised_histories_give_the_same_sequences():
    fields = (Field("room", "item", table="room"), Field("category", "item.category", table="category"))
    sequences = (SequenceFields("channels", "watches", 6, fields),)
    tables = tuple(dataclasses.replace(table, min_count=0) for table in TABLES)
    wanted = EventEncoder(world(), declaration(tables=tables, sequences=sequences))
    config = dataclasses.replace(HISTORIES[0], is_materialized=True)
    data = add_histories(world().replace(histories={}), [config])
    found = EventEncoder(data, declaration(tables=tables, sequences=sequences), wanted.fitted)
    assert_same(found.encode(ROWS), wanted.encode(ROWS))


def test_dates_have_days_of_86400_seconds():
    data = world().replace(has_dates=True)
    with pytest.raises(ConfigError, match=r"day_length = 1.0: times .* are dates in seconds; give 86400.0"):
        EventEncoder(data, declaration())
    shown = data.events["impression"]
    monday = np.datetime64("2024-03-04").astype("datetime64[s]").astype(np.int64)
    events = dataclasses.replace(shown, time=monday + 86_400.0 * (shown.time - np.floor(shown.time)))
    data = data.replace(events={"impression": events}, cut_times=(monday + 7e5, monday + 8e5), histories={})
    encoder = EventEncoder(data, declaration(sequences=(), day_length=86_400.0))
    assert encoder.fitted["vocabularies"]["weekday"] == [0]
