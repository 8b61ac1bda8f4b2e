"""Features, events and trees: what they hold, what is wrong with them, and what a quarantine leaves."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.schema import DataError, EventNodes, Events, Feature, NodeTable, Tree
from tests.worlds import world

NAN = np.float32(np.nan)


def impressions(**changes):
    columns = {
        "nodes": {"user": EventNodes("user", np.array([0, 1, 0, 2], np.int32))},
        "time": np.array([1.0, 2.0, 2.0, 3.0]),
        "values": {
            "watched": np.array([True, False, True, True]),
            "stay_seconds": np.array([5, NAN, 2, 9], np.float32),
        },
        "features": {"scene": Feature("categorical", np.array([0, 1, -1, 0], np.int32), ("feed", "search"))},
        "group": np.array([7, 7, 8, 9]),
    }
    return Events("impression", **{**columns, **changes})


def responses(rows=(0, 2), time=(2.0, 5.0)):
    nodes = {"user": EventNodes("user", np.array([1, 1], np.int32))}
    return Events("response", nodes, np.array(time), parent=("impression", np.array(rows)))


def with_events(*tables):
    return world().replace(events={table.name: table for table in tables})


def with_feature(feature):
    data = world()
    users = NodeTable("user", data.nodes["user"].ids, {"age": feature})
    return data.replace(nodes={**data.nodes, "user": users})


def problems(data):
    with pytest.raises(DataError) as error:
        data.validate()
    return str(error.value)


def test_events_features_and_trees_that_are_right_are_accepted():
    data = with_events(impressions(), responses()).replace(trees={"item": Tree(np.arange(9, dtype=np.int32) - 1)})
    data.validate()
    with_feature(Feature("numeric", np.full(12, NAN))).validate()
    with_feature(Feature("vector", np.zeros((12, 3), np.float32))).validate()
    assert data.events_of("impression").value("watched").sum() == 3


def test_what_is_missing_is_named_with_what_there_is():
    data = with_events(impressions())
    with pytest.raises(DataError, match=r"no events 'gift'; it has: impression\. Choose a source that has them"):
        data.events_of("gift")
    with pytest.raises(DataError, match=r"'impression' have no 'room'; they have: user\."):
        data.events_of("impression").ids("room")
    with pytest.raises(DataError, match=r"no column 'share'; they have: watched, stay_seconds\."):
        data.events_of("impression").value("share")


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (Feature("numerical", np.zeros(12, np.float32)), "kind 'numerical' is unknown; valid: categorical, ordinal"),
        (Feature("numeric", np.zeros(11, np.float32)), r"shape \(11,\); a numeric feature needs 12 rows of float32"),
        (Feature("numeric", np.zeros(12)), "a numeric feature needs 12 rows of float32"),
        (Feature("vector", np.zeros(12, np.float32)), "12 rows of float32, a vector each"),
        (Feature("ordinal", np.full(12, 2, np.int32), ("a", "b")), r"row 0 and 11 more: code 2 outside -1\.\.1"),
        (Feature("categorical", np.full(12, -2, np.int32), ("a",)), r"code -2 outside -1\.\.0"),
        (Feature("categorical", np.zeros(12, np.int32), ("a", "a")), "the vocabulary names something twice"),
        (Feature("numeric", np.full(12, np.inf, np.float32)), "row 0 and 11 more: infinite; missing numbers are NaN"),
    ],
)
def test_features_that_cannot_be_used_are_refused(feature, message):
    with pytest.raises(DataError, match=r"node table 'user', column 'age'.*" + message):
        with_feature(feature).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": np.array([1.0, 2.0, 1.5, 3.0])}, "'time': row 2: 1.5 after 2.0; sort events by time"),
        ({"time": np.array([1.0, np.nan, 2.0, 3.0])}, "'time', row 1: nan is not finite"),
        ({"values": {"watched": np.zeros(3, bool)}}, "'watched': shape (3,), but there are 4 events"),
        ({"values": {"watched": np.zeros(4, np.int64)}}, "'watched': int64; measured columns are bool or float32"),
        ({"values": {"stay": np.full(4, np.inf, np.float32)}}, "'stay', row 0 and 3 more: infinite; undefined is NaN"),
        ({"nodes": {"room": EventNodes("room", np.zeros(4, np.int32))}}, "'room': no node table 'room' (tables: "),
        ({"nodes": {"user": EventNodes("user", np.array([0, 12, -2, -1], np.int32))}}, "user index 12 outside -1..11"),
        ({"group": np.zeros(5, np.int64)}, "'group': shape (5,), but there are 4 events"),
        ({"features": {"scene": Feature("numeric", np.zeros(3, np.float32))}}, "'scene': float32 of shape (3,)"),
        ({"parent": ("gift", np.zeros(4, np.int64))}, "'parent': no events 'gift' (tables: impression)"),
    ],
)
def test_events_that_cannot_be_used_are_refused(changes, message):
    text = problems(with_events(impressions(**changes)))
    assert "events 'impression', column " in text and message in text


def test_a_response_before_what_it_answers_is_refused():
    text = problems(with_events(impressions(), responses(rows=(3, 0))))
    assert "column 'parent', row 0: happens at 2.0, before its parent at 3.0" in text
    assert "outside -1..3" in problems(with_events(impressions(), responses(rows=(4, 0))))


def test_columns_whose_names_could_lead_out_of_a_folder_are_refused():
    text = problems(with_events(impressions(values={"../watched": np.zeros(4, bool)})))
    assert "events 'impression', column '../watched': names are letters, digits, _ and -" in text
    data = world()
    users = NodeTable("user", np.arange(12), {"a/b": Feature("numeric", np.zeros(12, np.float32))})
    assert "column 'a/b': names are" in problems(data.replace(nodes={**data.nodes, "user": users}))


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        (np.arange(9, dtype=np.int32), "row 0 and 8 more: parent 0; a parent stands before its children"),
        (np.full(9, -2, np.int32), "parent -2"),
        (np.zeros(3, np.int32), r"shape \(3,\), but there are 9 nodes"),
    ],
)
def test_trees_that_cannot_be_used_are_refused(parents, message):
    with pytest.raises(DataError, match=r"tree of 'item', column 'parents'.*" + message):
        world().replace(trees={"item": Tree(parents)}).validate()


def test_paths_run_from_the_root_to_the_node():
    tree = Tree(np.array([-1, 0, 0, 1, 3, -1], np.int32))
    assert tree.depths().tolist() == [0, 1, 1, 2, 3, 0]
    assert tree.paths().tolist() == [
        [0, -1, -1, -1],
        [0, 1, -1, -1],
        [0, 2, -1, -1],
        [0, 1, 3, -1],
        [0, 1, 3, 4],
        [5, -1, -1, -1],
    ]
    assert Tree(np.zeros(0, np.int32)).paths().shape == (0, 1)


def test_the_fingerprint_depends_on_events_features_and_trees():
    changed = [
        world(),
        with_events(impressions()),
        with_events(impressions(group=None)),
        with_events(impressions(values={})),
        with_events(impressions(), responses()),
        with_events(impressions(), responses(rows=(0, 1))),
        with_feature(Feature("numeric", np.zeros(12, np.float32))),
        with_feature(Feature("numeric", np.ones(12, np.float32))),
        world().replace(trees={"item": Tree(np.full(9, -1, np.int32))}),
    ]
    assert len({data.fingerprint() for data in changed}) == len(changed)


def test_a_quarantine_leaves_out_every_bad_row_once_and_counts_it():
    nodes = {"user": EventNodes("user", np.array([0, 99, 0, 2], np.int32))}
    stay = np.array([5, np.inf, np.inf, 9], np.float32)
    bad = impressions(nodes=nodes, values={"stay_seconds": stay})
    data = with_events(bad, responses(rows=(0, 3), time=(2.0, 5.0)))
    cleaned = data.quarantined()
    left = cleaned.events["impression"]
    assert left.time.tolist() == [1.0, 3.0] and left.ids("user").tolist() == [0, 2]
    assert left.features["scene"].values.tolist() == [0, 0] and left.group.tolist() == [7, 9]
    assert cleaned.events["response"].parent[1].tolist() == [0, 1]  # row 3 is row 1 now
    counts = {key: value for key, value in cleaned.counts.items() if "quarantined" in key}
    assert counts == {
        "events 'impression': rows quarantined": 2,
        "events 'impression': rows quarantined, user": 1,
        "events 'impression': rows quarantined, stay_seconds": 2,
    }
    cleaned.validate()


def test_a_quarantine_counts_parents_that_it_takes_away():
    nodes = {"user": EventNodes("user", np.array([99, 1, 0, 2], np.int32))}
    cleaned = with_events(impressions(nodes=nodes), responses()).quarantined()
    assert cleaned.events["response"].parent[1].tolist() == [-1, 1]
    assert cleaned.counts["events 'response': parents in 'impression' quarantined"] == 1


def test_a_quarantine_keeps_the_first_of_two_equal_pairs():
    data = world()
    buy = data.relations["buy"]
    twice = buy.take(np.r_[np.arange(len(buy)), 0, 0])
    cleaned = data.replace(relations={**data.relations, "buy": twice}).quarantined()
    np.testing.assert_array_equal(cleaned.relations["buy"].source_ids, buy.source_ids)
    assert cleaned.counts["relation 'buy': rows quarantined, target_ids"] == 2


def with_pairs(source_ids, target_ids, **columns):
    data = world()
    ids = {"source_ids": np.array(source_ids, np.int32), "target_ids": np.array(target_ids, np.int32)}
    buy = dataclasses.replace(data.relations["buy"], **ids, split=None, **columns)
    return data.replace(relations={**data.relations, "buy": buy})


def test_a_wrong_row_costs_no_right_row_its_place():
    late = with_pairs([0, 0, 1], [1, 1, 2], time=np.array([np.nan, 5.0, 6.0])).quarantined().relations["buy"]
    assert late.time.tolist() == [5.0, 6.0]
    # An index beyond the table must not be taken for another pair.
    outside = with_pairs([0, 1, 2], [9, 0, 2]).quarantined().relations["buy"]
    assert list(zip(outside.source_ids, outside.target_ids, strict=True)) == [(1, 0), (2, 2)]


def test_a_column_of_another_length_is_refused():
    text = problems(with_pairs([0, 1, 2], [1, 2, 3], time=np.array([1.0, 2.0])))
    assert "relation 'buy', column 'time': shape (2,), but there are 3 edges" in text


def test_a_quarantine_changes_nothing_where_nothing_is_wrong():
    data = with_events(impressions(), responses())
    assert data.quarantined().fingerprint() == data.fingerprint()


def test_what_leaving_rows_out_does_not_solve_is_refused():
    with pytest.raises(DataError, match="sort events by time"):
        with_events(impressions(time=np.array([4.0, 3.0, 2.0, 1.0]))).quarantined()
    data = world()
    none = dataclasses.replace(data.relations["buy"], source_ids=np.full(40, 99, np.int32))
    with pytest.raises(DataError, match="has no edges"):
        data.replace(relations={**data.relations, "buy": none}).quarantined()
