"""Histories: against a slow definition, and never a look into the future."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsec_jax.config import ConfigError, HistoryConfig
from lsec_jax.data import columns, event_statistics, sequences
from lsec_jax.data.sequences import (
    add_histories,
    audit_histories,
    build_histories,
    ends_before,
    last_before,
    last_items,
)
from lsec_jax.schema import DataError, EventNodes, Events, LiveCommerceData, NodeTable


def watches(owners, items, times):
    nodes = {
        "user": EventNodes("user", np.array(owners, np.int32)),
        "room": EventNodes("room", np.array(items, np.int32)),
    }
    return Events("impression", nodes, np.array(times, float))


def slow_history(events, owner, moment, delay=0.0):
    rows = zip(events.ids("user"), events.ids("room"), events.time, strict=True)
    return [item for who, item, time in rows if who == owner and item >= 0 and time + delay < moment]


times = st.lists(st.integers(0, 12), min_size=0, max_size=30).map(sorted)


@st.composite
def logs(draw):
    when = draw(times)
    owners = draw(st.lists(st.integers(-1, 3), min_size=len(when), max_size=len(when)))
    items = draw(st.lists(st.integers(-1, 5), min_size=len(when), max_size=len(when)))
    return watches(owners, items, when)


@settings(max_examples=200, deadline=None)
@given(
    logs(), st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 14)), max_size=20), st.sampled_from([0.0, 1.5, 3.0])
)
def test_a_history_is_what_the_slow_definition_says(events, moments, delay):
    owners = np.array([owner for owner, _ in moments], np.int32)
    at = np.array([moment for _, moment in moments], float)
    histories = build_histories(events, "user", "room", 4)
    ends = ends_before(histories, owners, at, delay)
    audit_histories(histories, owners, at, ends)
    for length in (1, 3, 40):
        found = last_items(histories, owners, ends, length)
        assert found.shape == (len(moments), length) and found.dtype == np.int32
        for row, owner, moment in zip(found, owners, at, strict=True):
            wanted = slow_history(events, owner, moment, delay)[-length:] if owner >= 0 else []
            assert row.tolist() == [-1] * (length - len(wanted)) + wanted


def test_long_rows_take_the_memory_of_what_is_given():
    values, starts, ends = np.arange(50, dtype=np.int32), np.array([0, 20]), np.array([10, 50])
    tracemalloc.start()
    found = last_before(values, starts, ends, 20_000, -1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * found.nbytes
    assert found[0, -11:].tolist() == [-1, *range(10)] and found[1, -31:].tolist() == [-1, *range(20, 50)]
    assert (found[:, :-31] == -1).all()


def test_a_hundred_thousand_moments_see_nothing_of_their_own_time_or_later():
    rng = np.random.default_rng(0)
    n = 100_000
    events = watches(rng.integers(0, 500, n), rng.integers(0, 900, n), np.sort(rng.integers(0, 5_000, n)))
    histories = build_histories(events, "user", "room", 500)
    owners = events.ids("user")
    ends = ends_before(histories, owners, events.time)
    audit_histories(histories, owners, events.time, ends)
    seen = ends > histories.starts[owners]
    assert seen.mean() > 0.9
    assert (histories.times[ends[seen] - 1] < events.time[seen]).all()
    # Nothing is missed either: what comes next is of the moment or later, or another owner's.
    more = ends < histories.starts[owners + 1]
    assert (histories.times[ends[more]] >= events.time[more]).all()
    np.testing.assert_array_equal(histories.items, events.ids("room")[histories.rows])


def test_a_mask_picks_the_behaviours_that_count():
    events = watches([0, 0, 0], [1, 2, 3], [1, 2, 3])
    histories = build_histories(events, "user", "room", 1, np.array([True, False, True]))
    assert histories.items.tolist() == [1, 3] and histories.rows.tolist() == [0, 2]


def test_the_audit_finds_a_moment_that_sees_its_own_time():
    histories = build_histories(watches([0, 0, 1], [1, 2, 3], [1, 2, 3]), "user", "room", 2)
    with pytest.raises(DataError, match=r"row 1: at 2\.0 its history has a behaviour of 2\.0"):
        audit_histories(histories, np.array([0, 0]), np.array([2.0, 2.0]), np.array([1, 2]))
    with pytest.raises(DataError, match="row 0: its history ends at 3, outside that of its owner 0"):
        audit_histories(histories, np.array([0]), np.array([9.0]), np.array([3]))
    moved = dataclasses.replace(histories, times=histories.times + 5)
    with pytest.raises(DataError, match="histories must end before the moment"):
        audit_histories(moved, np.array([0]), np.array([2.0]), np.array([1]))


def shares(node_types, length=2, is_materialized=False):
    """A data set with events of givers and receivers, and a history of what receivers got."""
    ids = {"user": [0, 1, 0, 1], "target_user": [1, 0, 1, 1], "room": [3, 4, 5, 6]}
    roles = {role: EventNodes(node_types.get(role, role), np.array(rows, np.int32)) for role, rows in ids.items()}
    events = Events("share", roles, np.arange(4.0))
    sizes = {"user": 2, "room": 9, "target_user": 2}
    nodes = {name: NodeTable(name, np.arange(size)) for name, size in sizes.items()}
    config = HistoryConfig(
        "got", "share", "target_user", "room", moments=("share",), length=length, is_materialized=is_materialized
    )
    return add_histories(LiveCommerceData("x", nodes, {}, events={"share": events}), (config,))


@pytest.mark.parametrize("is_materialized", [False, True])
def test_statistics_of_histories_are_those_of_their_owners_role(is_materialized):
    data = shares({"target_user": "user"}, is_materialized=is_materialized)
    found = event_statistics.describe(data)["histories"]["got"]
    # Receivers 1, 0, 1, 1 have got 0, 0, 1 and 2 before.
    assert found == {"behaviours": 4, "owners": 2, "moments": {"share": {"length": 0.75, "empty": 0.5}}}


def test_owners_of_a_type_without_nodes_have_empty_histories():
    events = watches([-1, -1], [1, 2], [1, 2])
    histories = build_histories(events, "user", "room", 0)
    ends = ends_before(histories, events.ids("user"), events.time)
    audit_histories(histories, events.ids("user"), events.time, ends)
    assert ends.tolist() == [0, 0] and (last_items(histories, events.ids("user"), ends, 3) == -1).all()


def test_a_negative_delay_is_refused():
    with pytest.raises(DataError, match="known before they happen"):
        ends_before(build_histories(watches([], [], []), "user", "room", 1), np.array([0]), np.array([1.0]), -1.0)
    with pytest.raises(DataError, match="known before they happen"):
        ends_before(build_histories(watches([], [], []), "user", "room", 1), np.array([0]), np.array([1.0]), np.nan)


def test_small_blocks_and_regions_give_the_same_histories(monkeypatch):
    rng = np.random.default_rng(1)
    n = 3_000
    events = watches(rng.integers(-1, 50, n), rng.integers(-1, 90, n), np.sort(rng.integers(0, 500, n)))
    where = rng.random(n).astype(np.float32) - 0.5
    whole = build_histories(events, "user", "room", 60, where)
    monkeypatch.setattr(sequences, "_REGION_ROWS", 64)
    monkeypatch.setattr(sequences, "blocks", lambda rows: columns.blocks(rows, 100))
    in_blocks = build_histories(events, "user", "room", 60, where)
    for name in ("starts", "items", "times", "rows"):
        np.testing.assert_array_equal(getattr(in_blocks, name), getattr(whole, name))


def shop(events):
    nodes = {"user": NodeTable("user", np.arange(4)), "room": NodeTable("room", np.arange(6))}
    return LiveCommerceData("shop", nodes, {}, events={"impression": events})


def test_both_layouts_show_the_same_items():
    rng = np.random.default_rng(2)
    data = shop(watches(rng.integers(0, 4, 200), rng.integers(0, 6, 200), np.sort(rng.integers(0, 50, 200))))
    config = HistoryConfig("watches", item="room", length=7, delay=2.0)
    ends = add_histories(data, [config]).histories["watches"]
    last = add_histories(data, [dataclasses.replace(config, is_materialized=True)]).histories["watches"]
    owners = data.events["impression"].ids("user")
    np.testing.assert_array_equal(
        last.last["impression"], last_items(ends, owners, ends.ends["impression"], config.length)
    )
    assert not ends.last and not last.ends and (ends.owner, ends.item) == ("user", "room")


def test_histories_that_cannot_be_are_refused():
    data = shop(watches([0, 1], [1, 2], [1, 2]))
    gifts = Events("gift", {"user": EventNodes("room", np.zeros(1, np.int32))}, np.zeros(1))
    data = data.replace(events={**data.events, "gift": gifts})
    with pytest.raises(ConfigError, match="of type user in events 'impression', but of type room in 'gift'"):
        add_histories(data, [HistoryConfig("watches", item="room", moments=("gift",))])
    with pytest.raises(ConfigError, match=r"histories\[0\].name = '../x'"):
        add_histories(data, [HistoryConfig("../x", item="room")])
    with pytest.raises(DataError, match="events 'impression' have no 'streamer'; they have: user, room"):
        add_histories(data, [HistoryConfig("watches")])
    with pytest.raises(DataError, match="no events 'view'"):
        add_histories(data, [HistoryConfig("watches", item="room", moments=("view",))])
    with pytest.raises(DataError, match="no column 'bought'"):
        add_histories(data, [HistoryConfig("watches", item="room", where="bought")])


@pytest.mark.parametrize(
    ("owners", "times", "message"),
    [
        ([0, 2], [9.0, 9.0], "row 1: owner 2 of 2"),
        ([-2, 0], [9.0, 9.0], "row 0: owner -2 of 2"),
        ([0, 0], [np.nan, np.nan], "row 0 and 1 more: its moment is NaN"),
    ],
)
def test_the_audit_finds_moments_of_nobody_known_and_of_no_time(owners, times, message):
    histories = build_histories(watches([0, 0, 1], [1, 2, 3], [1, 2, 3]), "user", "room", 2)
    with pytest.raises(DataError, match=message):
        audit_histories(histories, np.array(owners), np.array(times), np.array([1, 1]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([2, 1, 3], r"owner 0: behaviour 1 has time 1\.0 and comes after one of 2\.0; times must not fall"),
        ([1, np.nan, 3], "owner 0: behaviour 1 has time nan"),
        ([1, 2, np.nan], "owner 1: behaviour 2 has time nan"),
        ([np.nan, 2, 3], "owner 0: behaviour 0 has time nan"),
    ],
)
def test_the_audit_finds_times_that_fall_within_an_owner(values, message):
    histories = build_histories(watches([0, 0, 1], [1, 2, 3], [1, 2, 3]), "user", "room", 2)
    broken = dataclasses.replace(histories, times=np.array(values, float))
    with pytest.raises(DataError, match=message):
        audit_histories(broken, np.array([0]), np.array([9.0]), np.array([0]))
    # A later owner may begin before an earlier one ends.
    audit_histories(
        dataclasses.replace(histories, times=np.array([5.0, 6.0, 1.0])), np.array([1]), np.array([9.0]), np.array([3])
    )


def test_the_audit_finds_starts_that_are_none():
    histories = build_histories(watches([0, 0, 1], [1, 2, 3], [1, 2, 3]), "user", "room", 2)
    for starts in ([0, 2, 4], [1, 2, 3], [0, 4, 3]):
        with pytest.raises(DataError, match="starts do not rise from 0 to 3"):
            broken = dataclasses.replace(histories, starts=np.array(starts))
            audit_histories(broken, np.array([0]), np.array([9.0]), np.array([0]))
