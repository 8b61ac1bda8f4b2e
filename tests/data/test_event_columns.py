"""What batches show of events: the stored values, and histories that are the same in either layout."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsec_jax.config import ConfigError, HistoryConfig
from lsec_jax.data import store
from lsec_jax.data.event_columns import EventColumns, HistoryView
from lsec_jax.data.sequences import add_histories, last_items
from lsec_jax.data.writer import Writer
from lsec_jax.schema import DataError, EventNodes, Events, Feature, LiveCommerceData, NodeTable

INT = np.int32


def log(num_rows=300, seed=0, num_users=5):
    """Events with every kind of column, missing values among them, and a second table of gifts."""
    rng = np.random.default_rng(seed)
    users = EventNodes("user", rng.integers(-1, num_users, num_rows).astype(INT))
    rooms = EventNodes("room", rng.integers(-1, 7, num_rows).astype(INT))
    number = rng.random(num_rows).astype(np.float32)
    number[rng.random(num_rows) < 0.2] = np.nan
    shown = Events(
        "impression",
        {"user": users, "room": rooms},
        np.sort(rng.integers(0, 90, num_rows)).astype(float),
        {"watched": rng.random(num_rows) < 0.5, "stay_seconds": number},
        {
            "scene": Feature("categorical", rng.integers(-1, 3, num_rows).astype(INT), ("a", "b", "c")),
            "viewers": Feature("numeric", number[::-1].copy()),
            "message": Feature("vector", rng.random((num_rows, 3)).astype(np.float32)),
        },
    )
    givers, takers = (rng.integers(0, size, 40).astype(INT) for size in (num_users, 7))
    roles = {"giver": EventNodes("user", givers), "room": EventNodes("room", takers)}
    gift = Events("gift", roles, np.sort(rng.integers(0, 90, 40)).astype(float))
    nodes = {"user": NodeTable("user", np.arange(num_users)), "room": NodeTable("room", np.arange(7))}
    return LiveCommerceData("log", nodes, {}, events={"impression": shown, "gift": gift})


def with_histories(data, **changes):
    return add_histories(data, [HistoryConfig("watches", item="room", **{"length": 4} | changes)])


def assert_same_batch(first, second):
    assert first.keys() == second.keys()
    for kind in first:
        assert first[kind].keys() == second[kind].keys()
        for name, values in first[kind].items():
            if kind == "histories":
                assert_same_batch({"items": values}, {"items": second[kind][name]})
                continue
            assert values.dtype == second[kind][name].dtype
            np.testing.assert_array_equal(values, second[kind][name])


def test_a_batch_has_the_stored_values_missing_ones_included():
    data = log()
    rows = np.array([299, 0, 17, 17])
    events = data.events["impression"]
    batch = EventColumns(data, "impression")(rows)
    assert {kind: [*columns] for kind, columns in batch.items()} == {
        "nodes": ["user", "room"],
        "values": ["watched", "stay_seconds"],
        "features": ["scene", "viewers", "message"],
        "histories": [],
    }
    for role, ids in batch["nodes"].items():
        np.testing.assert_array_equal(ids, events.ids(role)[rows])
    for name, values in batch["values"].items():
        np.testing.assert_array_equal(values, events.value(name)[rows])
    for name, values in batch["features"].items():
        np.testing.assert_array_equal(values, events.feature(name).values[rows])
    every = EventColumns(data, "impression")(np.arange(300))
    assert np.isnan(every["values"]["stay_seconds"]).any() and (every["features"]["scene"] == -1).any()


def test_what_is_unpacked_is_what_was_packed():
    columns = EventColumns(with_histories(log()), "impression", histories=[HistoryView("watches", 4, with_ages=True)])
    batch = columns(np.array([299, 0, 17]))
    packed = columns.pack(batch)
    assert {dtype: of.shape for dtype, of in packed["packed"].items()} == {
        "int32": (3, 3),
        "bool": (3, 1),
        "float32": (3, 2),
    }
    assert {kind: [*of] for kind, of in packed.items() if kind != "packed"} == {
        "nodes": [],
        "values": [],
        "features": ["message"],
        "histories": ["watches"],
    }
    assert_same_batch(columns.unpack(packed), batch)
    jitted = jax.jit(columns.unpack)(jax.device_put(packed))
    assert_same_batch(jax.tree.map(np.asarray, jitted), batch)


def test_columns_that_are_not_asked_for_are_not_there():
    batch = EventColumns(log(), "impression", roles=["room"], values=[], features=["viewers"])(np.arange(3))
    assert {kind: [*columns] for kind, columns in batch.items()} == {
        "nodes": ["room"],
        "values": [],
        "features": ["viewers"],
        "histories": [],
    }


def test_a_strided_column_is_read_as_it_is():
    data = log()
    events = data.events["impression"]
    wide = np.repeat(events.value("stay_seconds"), 2)
    strided = data.replace(events={"impression": dataclasses.replace(events, values={"stay_seconds": wide[::2]})})
    rows = np.array([5, 3])
    found = EventColumns(strided, "impression")(rows)["values"]["stay_seconds"]
    np.testing.assert_array_equal(found, events.value("stay_seconds")[rows])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 9), st.integers(1, 8), st.integers(1, 4), st.sampled_from([0.0, 7.0]))
def test_both_layouts_and_the_store_give_equal_batches(tmp_path_factory, num_rows, seed, stored_length, length, delay):
    data = log(num_rows, seed)
    length = min(length, stored_length)
    ends = with_histories(data, length=stored_length, delay=delay)
    last = with_histories(data, length=stored_length, delay=delay, is_materialized=True)
    views = [HistoryView("watches", length)]
    rows = np.random.default_rng(seed).integers(0, num_rows, 12) if num_rows else np.zeros(0, np.int64)
    wanted = EventColumns(ends, "impression", histories=views)(rows)
    assert wanted["histories"]["watches"]["items"].shape == (len(rows), length)
    assert_same_batch(EventColumns(last, "impression", histories=views)(rows), wanted)
    for of in (ends, last):
        directory = tmp_path_factory.mktemp("store")
        with Writer(directory, {}) as writer:
            writer.finish(of, {}, lambda num_bytes: None)
        assert_same_batch(EventColumns(store.read(directory), "impression", histories=views)(rows), wanted)


def test_ages_and_columns_of_behaviours_belong_to_their_items():
    data = with_histories(log(seed=7))
    first = EventColumns(data, "impression")(np.zeros(1, int))  # what is missing must not look like this row
    assert first["nodes"]["room"] >= 0 and first["values"]["watched"] and first["values"]["stay_seconds"] > 0
    view = HistoryView(
        "watches", 4, with_ages=True, behaviours="impression", columns=("room", "watched", "stay_seconds")
    )
    found = EventColumns(data, "impression", histories=[view])(np.arange(300))["histories"]["watches"]
    assert {name: (of.shape, str(of.dtype)) for name, of in found.items()} == {
        "items": ((300, 4), "int32"),
        "ages": ((300, 4), "float32"),
        "room": ((300, 4), "int32"),
        "watched": ((300, 4), "bool"),
        "stay_seconds": ((300, 4), "float32"),
    }
    np.testing.assert_array_equal(found["room"], found["items"])
    is_there = found["items"] >= 0
    assert is_there.any() and not is_there.all()
    np.testing.assert_array_equal(np.isnan(found["ages"]), ~is_there)
    assert (found["ages"][is_there] > 0).all()
    assert not found["watched"][~is_there].any() and np.isnan(found["stay_seconds"][~is_there]).all()
    # By the slow definition, of a row in the middle.
    events = data.events["impression"]
    row = int(np.flatnonzero(is_there.all(axis=1))[0])
    before = [
        i
        for i in range(row)
        if events.ids("user")[i] == events.ids("user")[row]
        and events.ids("room")[i] >= 0
        and events.time[i] < events.time[row]
    ][-4:]
    np.testing.assert_array_equal(found["ages"][row], (events.time[row] - events.time[before]).astype(np.float32))
    np.testing.assert_array_equal(found["stay_seconds"][row], events.value("stay_seconds")[before])
    np.testing.assert_array_equal(found["watched"][row], events.value("watched")[before])


def test_behaviours_that_are_not_known_yet_are_left_out_and_the_others_move_up():
    """Also where no column is shown: by the slow definition, for every row."""
    data = with_histories(log(seed=3))
    plain = HistoryView("watches", 4, with_ages=True, columns=("stay_seconds",))
    view = dataclasses.replace(plain, known_after="stay_seconds", known_after_unit=20.0, hides="behaviours")
    rows = np.arange(300)
    every, found, items_alone = (
        EventColumns(data, "impression", histories=[of])(rows)["histories"]["watches"]
        for of in (plain, view, dataclasses.replace(view, with_ages=False, columns=()))
    )
    moments, num_hidden = data.events["impression"].time, 0
    for row in rows:
        stay = np.fmax(every["stay_seconds"][row], 0.0)
        is_known = (every["items"][row] >= 0) & (moments[row] - every["ages"][row] + 20.0 * stay < moments[row])
        num_hidden += ((every["items"][row] >= 0) & ~is_known).sum()
        pad = 4 - is_known.sum()
        assert found["items"][row].tolist() == [-1] * pad + every["items"][row][is_known].tolist()
        np.testing.assert_array_equal(found["ages"][row], np.r_[[np.nan] * pad, every["ages"][row][is_known]])
        wanted = np.r_[[np.nan] * pad, every["stay_seconds"][row][is_known]]
        np.testing.assert_array_equal(found["stay_seconds"][row], wanted)
    assert num_hidden > 20
    np.testing.assert_array_equal(items_alone["items"], found["items"])


def test_the_owner_is_the_role_of_its_type():
    data = log()
    config = HistoryConfig("given", events="gift", owner="giver", item="room", moments=("gift",), length=3)
    data = add_histories(data, [config])
    found = EventColumns(data, "gift", histories=[HistoryView("given", 3)])(np.arange(40))["histories"]["given"]
    named = EventColumns(data, "gift", histories=[HistoryView("given", 3, owner="giver")])(np.arange(40))
    np.testing.assert_array_equal(found["items"], named["histories"]["given"]["items"])
    assert (found["items"] >= 0).any()


WRONG = {
    "events": (DataError, r"no events 'view'; it has: gift, impression", {"events": "view"}),
    "role": (DataError, r"have no 'item'; they have: user, room", {"roles": ["item"]}),
    "value": (DataError, r"no column 'price'; they have: watched, stay_seconds", {"values": ["price"]}),
    "feature": (DataError, r"no feature 'age'; they have: scene, viewers, message", {"features": ["age"]}),
    "histories": (
        DataError,
        r"no histories 'buys'; it has: watches",
        {"histories": [HistoryView("buys", 4)]},
    ),
    "moments": (
        DataError,
        r"not kept for events 'gift', but for: impression; add 'gift' to their moments",
        {"events": "gift", "histories": [HistoryView("watches", 4)]},
    ),
    "length": (ConfigError, r"length = 0; give a whole number of 1", {"histories": [HistoryView("watches", 0)]}),
    "half a length": (ConfigError, r"length = 2.5; give a whole", {"histories": [HistoryView("watches", 2.5)]}),
    "true as length": (ConfigError, r"length = True; give a whole", {"histories": [HistoryView("watches", True)]}),
    "owner": (
        ConfigError,
        r"histories 'watches' were made with the owner 'user', not 'room'; leave the owner out",
        {"histories": [HistoryView("watches", 4, owner="room")]},
    ),
    "behaviours": (
        DataError,
        r"no column 'price'",
        {"histories": [HistoryView("watches", 4, behaviours="impression", columns=("price",))]},
    ),
    "known without columns": (
        ConfigError,
        r"known_after = 'stay_seconds', but no columns are shown",
        {"histories": [HistoryView("watches", 4, known_after="stay_seconds")]},
    ),
    "known after no time": (
        ConfigError,
        r"known_after = 'watched' is true or false, not a time",
        {"histories": [HistoryView("watches", 4, columns=("room",), known_after="watched")]},
    ),
    "hides": (
        ConfigError,
        r"histories 'watches': hides = 'all'; choose 'columns' or 'behaviours'",
        {"histories": [HistoryView("watches", 4, hides="all")]},
    ),
    "known after no unit": (
        ConfigError,
        r"known_after_unit = 0.0; give a finite number above 0",
        {"histories": [HistoryView("watches", 4, columns=("room",), known_after="stay_seconds", known_after_unit=0.0)]},
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_there_is_refused_with_what_is(case):
    error, message, changes = WRONG[case]
    with pytest.raises(error, match=message):
        EventColumns(with_histories(log()), **{"events": "impression"} | changes)


@pytest.mark.parametrize("changes", [{"length": 5}, {"with_ages": True}, {"columns": ("room",)}])
def test_what_the_materialised_layout_does_not_have_is_refused(changes):
    data = with_histories(log(), is_materialized=True)
    with pytest.raises(ConfigError, match=r"stored as the last 4 items .* store them with is_materialized=False"):
        EventColumns(data, "impression", histories=[HistoryView("watches", **{"length": 4} | changes)])


@pytest.mark.parametrize("is_materialized", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"owner": "friend"}, "made with the owner 'user', not 'friend'; leave the owner out"),
        ({"owner": "nobody"}, "made with the owner 'user', not 'nobody'; leave the owner out"),
        ({"behaviours": "gift"}, "made of events 'impression', not 'gift'; leave the behaviours out"),
        ({"behaviours": "view"}, "made of events 'impression', not 'view'; leave the behaviours out"),
    ],
)
def test_another_owner_and_other_behaviours_are_refused_in_both_layouts(is_materialized, changes, message):
    """Even where the first rows cannot tell: here, the friend is the user."""
    data = log()
    shown = data.events["impression"]
    shown = dataclasses.replace(shown, nodes={**shown.nodes, "friend": shown.nodes["user"]})
    data = with_histories(data.replace(events={**data.events, "impression": shown}), is_materialized=is_materialized)
    with pytest.raises(ConfigError, match=message):
        EventColumns(data, "impression", histories=[HistoryView("watches", 4, **changes)])
    plain, named = (
        EventColumns(data, "impression", histories=[view])(np.arange(300))
        for view in (HistoryView("watches", 4), HistoryView("watches", 4, owner="user", behaviours="impression"))
    )
    assert_same_batch(plain, named)


def test_a_behaviour_shows_its_columns_once_they_are_known():
    """Against the slow rule, in units that differ and with a delay; its item and its age are there before."""
    data = log(seed=7)
    shown = data.events["impression"]
    stay = (600 * shown.value("stay_seconds")).astype(np.float32)  # seconds, where times are minutes
    stay[::7] = -5.0
    shown = dataclasses.replace(shown, values={**shown.values, "stay_seconds": stay})
    data = with_histories(data.replace(events={**data.events, "impression": shown}), delay=1.5)
    view = HistoryView("watches", 4, with_ages=True, columns=("room", "watched", "stay_seconds"))
    every = EventColumns(data, "impression", histories=[view])(np.arange(300))["histories"]["watches"]
    view = dataclasses.replace(view, known_after="stay_seconds", known_after_unit=1 / 60)
    found = EventColumns(data, "impression", histories=[view])(np.arange(300))["histories"]["watches"]
    is_hidden = ~(1.5 + np.fmax(every["stay_seconds"], 0.0) / 60 < every["ages"]) & (every["items"] >= 0)
    assert 50 < is_hidden.sum() < (every["items"] >= 0).sum() - 50
    for name, missing in {"room": -1, "watched": False, "stay_seconds": np.nan}.items():
        np.testing.assert_array_equal(found[name], np.where(is_hidden, missing, every[name]))
    for name in ("items", "ages"):
        np.testing.assert_array_equal(found[name], every[name])


def test_a_packed_batch_is_sharded_by_its_rows():
    columns = EventColumns(with_histories(log()), "impression", histories=[HistoryView("watches", 4)])
    batch = columns(np.arange(64))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    placed = jax.device_put(columns.pack(batch), sharding)
    assert {shard.data.shape[0] for leaf in jax.tree.leaves(placed) for shard in leaf.addressable_shards} == {16}
    unpacked = jax.jit(columns.unpack)(placed)
    assert unpacked["nodes"]["user"].sharding.is_equivalent_to(sharding, 1)
    assert_same_batch(jax.tree.map(np.asarray, unpacked), batch)


def test_two_views_of_one_history_are_refused():
    with pytest.raises(ConfigError, match="histories 'watches' are shown twice"):
        EventColumns(
            with_histories(log()), "impression", histories=[HistoryView("watches", 4), HistoryView("watches", 2)]
        )


def test_histories_know_their_owner_events_and_delay_in_the_store_too(tmp_path):
    data = log()
    shown = data.events["impression"]
    other = EventNodes("user", (shown.ids("user") + 1) % 5)
    data = data.replace(events={"impression": dataclasses.replace(shown, nodes={**shown.nodes, "friend": other})})
    data = with_histories(data, owner="friend", delay=0.25)
    with Writer(tmp_path / "d", {}) as writer:
        writer.finish(data, {}, lambda num_bytes: None)
    read = store.read(tmp_path / "d")
    for of in (data, read):
        watches = of.histories["watches"]
        assert (watches.owner_role, watches.events, watches.delay) == ("friend", "impression", 0.25)
        found = EventColumns(of, "impression", histories=[HistoryView("watches", 4)])(np.arange(300))
        wanted = last_items(watches, other.ids, watches.ends["impression"], 4)
        np.testing.assert_array_equal(found["histories"]["watches"]["items"], wanted)


def test_histories_whose_events_are_not_known_show_no_columns():
    data = with_histories(log())
    watches = dataclasses.replace(data.histories["watches"], events="", owner_role="")
    data = data.replace(histories={"watches": watches})
    EventColumns(data, "impression", histories=[HistoryView("watches", 4)])
    with pytest.raises(ConfigError, match="do not say which events they were made of"):
        EventColumns(data, "impression", histories=[HistoryView("watches", 4, columns=("room",))])
    room = dataclasses.replace(watches, owner_role="room")
    with pytest.raises(ConfigError, match="those of the type user; role 'room' of events 'impression' is of type room"):
        EventColumns(data.replace(histories={"watches": room}), "impression", histories=[HistoryView("watches", 4)])
