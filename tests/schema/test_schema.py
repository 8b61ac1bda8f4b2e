"""Data sets: validation and fingerprints."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.schema import TEST, VALIDATION, Availability, Candidates, DataError, NodeTable
from tests.worlds import world


def with_buy(data, **changes):
    buy = dataclasses.replace(data.relations["buy"], **changes)
    return data.replace(relations={**data.relations, "buy": buy})


def test_the_fingerprint_does_not_depend_on_the_order_of_edges():
    data = with_buy(world(), time=np.arange(40.0))
    buy = data.relations["buy"]
    order = np.random.default_rng(0).permutation(len(buy))
    columns = {name: getattr(buy, name)[order] for name in ("source_ids", "target_ids", "time", "split")}
    assert with_buy(data, **columns).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("column", ["time", "weight", "split", "target_ids"])
def test_the_fingerprint_depends_on_every_column(column):
    data = with_buy(world(), time=np.arange(40.0), weight=np.arange(40, dtype=np.float32))
    changed = with_buy(data, **{column: getattr(data.relations["buy"], column)[::-1] + np.int8(column == "split")})
    assert changed.fingerprint() != data.fingerprint()


def test_the_fingerprint_depends_on_published_candidates():
    lists = [
        Candidates(np.array([0]), np.array([[0, item]]), np.array([[True, False]]), "published") for item in (1, 2)
    ]
    data = world()
    one, other = (data.replace(candidates={("buy", TEST): part}) for part in lists)
    assert len({data.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3


@pytest.mark.parametrize("changes", [{"cut_times": (1.0, 2.0)}, {"end_time": 9.0}, {"has_dates": True}])
def test_the_fingerprint_depends_on_the_period(changes):
    data = world()
    assert data.replace(**changes).fingerprint() != data.fingerprint()
    assert data.replace(**changes).fingerprint(version=1) == data.fingerprint(version=1) == data.fingerprint()
    later = data.replace(cut_times=(1.0, 3.0), end_time=9.0)
    assert later.fingerprint() != data.replace(cut_times=(1.0, 2.0), end_time=9.0).fingerprint()


def test_the_fingerprint_does_not_depend_on_the_width_in_which_text_is_stored():
    ids = np.array([f"u{i}" for i in range(12)])
    narrow, wide = (NodeTable("user", ids.astype(kind)) for kind in ("U3", "U9"))
    data = world()
    found = {data.replace(nodes={**data.nodes, "user": users}).fingerprint() for users in (narrow, wide)}
    assert len(found) == 1
    assert data.replace(nodes={**data.nodes, "user": narrow}).fingerprint(version=1) in found


def test_validation_reports_all_problems_at_once():
    data = world()
    data = with_buy(data, source_ids=np.full(40, 99, np.int32), time=np.full(40, np.nan))
    data = data.replace(nodes={**data.nodes, "item": NodeTable("item", np.zeros(9, np.int64))})
    with pytest.raises(DataError) as error:
        data.validate()
    for part in (
        "node table 'item', column 'ids', row 1 and 7 more: the id 0 is there already",
        "relation 'buy', column 'source_ids', row 0 and 39 more: user index 99 outside 0..11",
        "relation 'buy', column 'time', row 0 and 39 more: nan is not finite",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["../../user", "/user", "a/b", "", "-user", "us er", "user\n", ".."])
def test_names_that_could_lead_out_of_a_folder_are_refused(name):
    data = world()
    with pytest.raises(DataError) as error:
        data.replace(nodes={**data.nodes, name: NodeTable(name, np.arange(3))}).validate()
    assert f"node type {name!r}: names are letters, digits, _ and -" in str(error.value)
    with pytest.raises(DataError, match=r"relation .*: names are letters, digits, _ and -.*; rename it"):
        data.replace(relations={**data.relations, name: data.relations["buy"]}).validate()


@pytest.mark.parametrize("name", ["user", "live_room-2", "2nd", "Käufer", "用户"])
def test_words_of_any_script_are_names(name):
    data = world()
    data.replace(nodes={**data.nodes, name: NodeTable(name, np.arange(12))}).validate()


def test_ids_are_found_as_numbers_and_as_their_text():
    numbers, texts = NodeTable("item", np.array([30, 10])), NodeTable("user", np.array(["b", "7"]))
    np.testing.assert_array_equal(numbers.index_of(np.array([10, 11, 30])), [1, -1, 0])
    np.testing.assert_array_equal(numbers.index_of(np.array(["10", "x"])), [1, -1])
    np.testing.assert_array_equal(texts.index_of(np.array([7, 8])), [1, -1])
    np.testing.assert_array_equal(texts.index_of(np.array([], np.str_)), [])


def windows(start=0.0, end=10.0):
    """The same window for each of the nine items."""
    return Availability(np.full(9, start), np.full(9, end))


def test_the_fingerprint_depends_on_availability_and_only_where_there_is_some():
    data = world()
    found = {data.replace(availability=a).fingerprint() for a in ({}, {"item": windows()}, {"item": windows(end=9.0)})}
    assert len(found) == 3 and data.fingerprint() in found
    # Workdirs keep fingerprints: data without availability must keep its own for ever.
    assert data.fingerprint() == "b6cbe8486cc3dfdc12ed12fe51c601424f561b62a2b40e2fa2f3949863d4d968"


@pytest.mark.parametrize(
    ("node_type", "start", "end", "message"),
    [
        (
            "item",
            3.0,
            3.0,
            "availability of 'item', column 'start', row 0 and 8 more: item 0: start 3.0, end 3.0; the start must lie",
        ),
        ("item", np.nan, 3.0, "item 0: start nan, end 3.0"),
        ("item", 3.0, np.nan, "item 0: start 3.0, end nan"),
        ("item", np.inf, np.inf, "item 0: start inf, end inf"),
        (
            "user",
            0.0,
            1.0,
            r"availability of 'user', column 'start': shape \(9,\), give one float64 for each of the 12",
        ),
        ("room", 0.0, 1.0, "availability of 'room': no such node table"),
    ],
)
def test_windows_that_cannot_be_used_are_refused(node_type, start, end, message):
    with pytest.raises(DataError, match=message):
        world().replace(availability={node_type: windows(start, end)}).validate()


def test_windows_are_half_open_and_may_be_open_ended():
    data = world().replace(availability={"item": windows(-np.inf, np.inf)})
    data.validate()
    at = Availability(np.array([2.0, -np.inf]), np.array([5.0, np.inf]))
    assert [at.at(time).tolist() for time in (1.9, 2.0, 4.9, 5.0)] == [[0, 1], [1, 1], [1, 1], [0, 1]]
    assert at.overlaps(0.0, 2.0).tolist() == at.overlaps(5.0, 9.0).tolist() == [False, True]
    assert at.overlaps(0.0, 2.1).tolist() == at.overlaps(4.9, 9.0).tolist() == [True, True]
    assert at.at(np.array([1.0, 3.0, 9.0]), np.array([1, 0, 0])).tolist() == [True, True, False]


def test_what_is_offered_follows_the_period_of_the_split():
    data = world().replace(availability={"item": Availability(np.arange(9.0), np.arange(9.0) + 1)})
    assert data.offered("item", TEST) is None  # no cut times
    data = data.replace(cut_times=(4.0, 6.0), end_time=8.0)
    assert np.flatnonzero(data.offered("item", VALIDATION)).tolist() == [4, 5]
    assert np.flatnonzero(data.offered("item", TEST)).tolist() == [6, 7]
    assert data.offered("user", TEST) is None
    late = data.replace(cut_times=(20.0, 25.5), end_time=30.0)
    with pytest.raises(
        DataError, match=r"no item is available at any time of the validation period \(20.0 to 25.5\); ch"
    ):
        late.offered("item", VALIDATION)
    with pytest.raises(DataError, match=r"the test period \(1970-01-01T00:00:25.500Z to 1970-01-01T00:00:30Z\); check"):
        late.replace(has_dates=True).offered("item", TEST)
