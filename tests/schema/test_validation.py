"""Everything that is wrong is found, at once, with table, column and row; nothing ends in a traceback."""

import copy
import dataclasses

import numpy as np
import pytest

from lsec_jax.config import HistoryConfig
from lsec_jax.data.sequences import add_histories
from lsec_jax.schema import (
    TEST,
    TRAIN,
    VALIDATION,
    Availability,
    Candidates,
    DataError,
    EventNodes,
    Events,
    EventTruth,
    Feature,
    NodeTable,
    Tree,
)
from lsec_jax.schema.validation import find_problems
from tests.worlds import world

INT = np.int32


def texts(data):
    return [str(problem) for problem in find_problems(data)]


def one(data):
    found = texts(data)
    assert len(found) == 1, found
    with pytest.raises(DataError):
        data.validate()
    return found[0]


def with_buy(data=None, **changes):
    data = data or world()
    return data.replace(relations={**data.relations, "buy": dataclasses.replace(data.relations["buy"], **changes)})


def lists(**changes):
    columns = {
        "source_ids": np.array([3, 5], INT),
        "target_ids": np.array([[0, 1, 2], [8, 0, 3]], INT),
        "labels": np.array([[True, False, False], [False, True, False]]),
        "origin": "published",
    }
    return Candidates(**{**columns, **changes})


def with_lists(key=("buy", TEST), **changes):
    return world().replace(candidates={key: lists(**changes)})


def events(**changes):
    columns = {
        "name": "shown",
        "nodes": {"user": EventNodes("user", np.array([0, 11, -1], INT))},
        "time": np.array([1.0, 2.0, 2.0]),
        "values": {"watched": np.array([True, False, True])},
        "features": {"place": Feature("numeric", np.zeros(3, np.float32))},
        "group": np.array([1, 1, 2]),
        "split": np.array([0, 1, 2], np.int8),
    }
    return Events(**{**columns, **changes})


def with_events(*tables):
    return world().replace(events={table.name: table for table in tables})


def test_sound_tables_have_no_problems():
    answers = events(name="answer", parent=("shown", np.array([0, -1, 2])))
    data = with_events(events(), answers).replace(candidates={("buy", VALIDATION): lists(), ("buy", TEST): lists()})
    assert texts(data.replace(cut_times=(1.0, 1.0), end_time=np.nextafter(2.0, 3.0))) == []
    # Published files may have single lists without a positive, which evaluation leaves out.
    assert texts(with_lists(labels=np.array([[True, False, False], [False] * 3]))) == []


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        (("rent", TEST), {}, r"candidates of 'rent', split 2: no such relation (relations: buy, follow, sell)"),
        (("../buy", TEST), {}, "candidates of '../buy', split 2: no such relation"),
        (("buy", TRAIN), {}, "split 0: candidates are of the splits 1 (validation), 2 (test)"),
        (("buy", 3), {}, "split 3: candidates are of the splits"),
        (("buy", TEST), {"source_ids": np.array([3, 12], INT)}, "'source_ids', row 1: user index 12 outside 0..11"),
        (("buy", TEST), {"source_ids": np.array([5, 5], INT)}, "'source_ids', row 1: 5 has a list already"),
        (("buy", TEST), {"source_ids": np.array([3.0, np.nan])}, "'source_ids': float64; give an int32 index of each"),
        (
            ("buy", TEST),
            {"target_ids": np.array([[0, 1, 9], [8, -1, 3]], INT)},
            "row 0 and 1 more: item index 9 outside",
        ),
        (("buy", TEST), {"target_ids": np.zeros((2, 3))}, "'target_ids': float64; give as many int32 indices in each"),
        (("buy", TEST), {"labels": np.ones((2, 2), bool)}, "'labels': shape (2, 2), give a bool for each"),
        (
            ("buy", TEST),
            {"labels": np.ones((2, 3), INT)},
            "'labels': int32; give a bool for each of the candidates, 2 x",
        ),
        (("buy", TEST), {"labels": np.zeros((2, 3), bool)}, "'labels': no list has a positive"),
    ],
)
def test_candidate_lists_that_cannot_be_used_are_refused(key, changes, message):
    assert message in one(with_lists(key, **changes))


def test_candidate_lists_of_another_length_are_refused():
    assert "'target_ids': shape (3, 3), give as many int32 indices in each of the 2 lists" in "\n".join(
        texts(with_lists(target_ids=np.zeros((3, 3), INT)))
    )
    assert "'target_ids': shape (6,)" in "\n".join(texts(with_lists(target_ids=np.zeros(6, INT))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": np.full(40, 3, np.int8)}, "'split', row 0 and 39 more: 3; split codes are 0 (train), 1"),
        ({"split": np.full(40, -1, np.int8)}, "'split', row 0 and 39 more: -1; split codes"),
        ({"split": np.zeros(40, np.int64)}, "'split': int64; but there are 40 edges, with one int8 each"),
        ({"source_ids": np.zeros(40)}, "'source_ids': float64; but there are 40 edges, with one int32 each"),
        ({"source_ids": np.full(40, np.nan)}, "'source_ids': float64"),
        ({"target_ids": np.full(40, None)}, "'target_ids': object"),
        ({"target_ids": np.zeros((40, 1), INT)}, "'target_ids': shape (40, 1), but there are 40 edges"),
        ({"target_ids": [0] * 40}, "'target_ids': a list, no numpy array"),
        ({"time": np.zeros(40, np.float32)}, "'time': float32"),
        ({"weight": np.array(["1"] * 40)}, "'weight': <U1"),
        ({"name": "bought"}, "relation 'bought': stands under the key 'buy'"),
    ],
)
def test_relations_of_another_form_are_refused(changes, message):
    assert message in one(with_buy(**changes))


def test_a_bad_column_does_not_hide_what_is_wrong_with_the_others():
    found = texts(
        with_buy(time=np.zeros(39), weight=np.zeros(40), split=np.full(40, 9, np.int8), source_ids=np.full(40, 99, INT))
    )
    columns = [
        column for column in ("time", "weight", "split", "source_ids") if f"column '{column}'" in "\n".join(found)
    ]
    assert len(found) == len(columns) == 4, found


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(12.0), "float64; ids are one column of int64 or of text"),
        (np.full(12, np.nan), "float64; ids are"),
        (np.array(["a"] * 6 + [None] * 6, object), "object; ids are"),
        (np.arange(24).reshape(12, 2), "shape (12, 2), ids are"),
        (np.array(3), "shape (), ids are"),
        (np.arange(12) > 5, "bool; ids are"),
        (None, "a NoneType, no numpy array; ids are"),
    ],
)
def test_node_ids_of_another_form_are_refused(ids, message):
    data = world()
    assert "node table 'user', column 'ids': " + message in "\n".join(
        texts(data.replace(nodes={**data.nodes, "user": NodeTable("user", ids)}))
    )


def test_a_node_table_under_another_name_is_refused():
    data = world()
    nodes = {**data.nodes, "guest": NodeTable("user", np.arange(3))}
    assert "node table 'user': stands under the key 'guest'; the key must be" in one(data.replace(nodes=nodes))
    assert "events 'shown': stands under the key 'seen'" in one(data.replace(events={"seen": events()}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": np.zeros((3, 1))}, "'time': shape (3, 1), time is one column of float64"),
        ({"time": np.array([1, 2, 3])}, "'time': int64; time is one column of float64"),
        ({"group": np.array([1.0, np.nan, 2.0])}, "'group': float64; but there are 3 events, with one int64 each"),
        ({"split": np.array([0, 1, 7], np.int8)}, "'split', row 2: 7; split codes are 0 (train)"),
        ({"split": np.zeros(3)}, "'split': float64; but there are 3 events, with one int8 each"),
        (
            {"nodes": {"user": EventNodes("user", np.zeros(3))}},
            "'user': float64; but there are 3 events, with an int32",
        ),
        (
            {"nodes": {"user": EventNodes("user", np.zeros((3, 2), INT))}},
            "'user': shape (3, 2), but there are 3 events",
        ),
        ({"parent": ("shown", np.zeros(3, np.int64))}, "'parent': these are its own events; a parent is a row of"),
        ({"parent": ("gone", np.zeros(3, np.int64))}, "'parent': no events 'gone' (tables: shown)"),
        ({"values": {"user": np.zeros(3, bool)}}, "'user': this is the name of a role and of a value; rename one"),
        ({"values": {"time": np.zeros(3, bool)}}, "'time': this is the name of a built-in column and of a value"),
        (
            {"features": {"parent": Feature("numeric", np.zeros(3, np.float32))}},
            "'parent': this is the name of a built-in",
        ),
    ],
)
def test_events_of_another_form_are_refused(changes, message):
    found = one(with_events(events(**changes)))
    assert "events 'shown', column " + message in found


@pytest.mark.parametrize("rows", [np.zeros(2, np.int64), np.zeros(3, np.int32), np.array([0.0, np.nan, 1.0])])
def test_parents_of_another_form_are_refused(rows):
    answers = events(name="answer", parent=("shown", rows))
    assert "events 'answer', column 'parent': " in one(with_events(events(), answers))


def test_columns_of_one_name_do_not_hide_each_others_length():
    values, features = {"user": np.zeros(4, bool)}, {"user": Feature("numeric", np.zeros(5, np.float32))}
    found = "\n".join(texts(with_events(events(values=values, features=features))))
    assert "this is the name of a role and of a value and of a feature" in found
    assert "shape (4,), but there are 3 events" in found and "float32 of shape (5,)" in found


def test_everything_is_reported_at_once():
    data = with_events(
        events(
            time=np.zeros((3, 2)),
            group=np.zeros(3),
            split=np.full(3, 9, np.int8),
            nodes={"user": EventNodes("guest", np.zeros(2, INT))},
            values={"watched": np.zeros(3, np.int64), "stay": np.full(3, np.inf, np.float32)},
            parent=("shown", np.zeros(2, np.int64)),
        )
    ).replace(
        candidates={("rent", 0): lists(source_ids=np.array([1, 1], INT))},
        availability={"item": Availability(np.zeros(3), np.zeros(9, np.float32))},
        trees={"item": Tree(np.zeros(9))},
        cut_times=(2.0, 1.0),
        end_time=np.nan,
    )
    found = texts(data)
    assert len(found) == len(set(found)) == 17, found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut_times": (2.0, 1.0)}, "cut_times: (2.0, 1.0); give two finite times"),
        ({"cut_times": (np.nan, 1.0)}, "cut_times: "),
        ({"cut_times": (1.0, np.inf)}, "cut_times: "),
        ({"end_time": np.inf}, "end_time: inf; give a finite time"),
        ({"cut_times": (1.0, 2.0), "end_time": 2.0}, "end_time: 2.0 is not after the start of test at 2.0"),
    ],
)
def test_a_period_that_is_none_is_refused(changes, message):
    assert message in one(world().replace(**changes))


def test_rows_at_or_after_the_end_of_the_period_are_refused():
    message = "end_time: 2.0; 2 rows of events 'shown' are at or after it, e.g. row 1 at 2.0; give a time after all"
    assert message in one(with_events(events()).replace(end_time=2.0))
    size = len(world().relations["buy"])
    message = f"end_time: 7.0; {size - 7} rows of relation 'buy' are at or after it, e.g. row 7 at 7.0"
    assert message in one(with_buy(time=np.arange(size, dtype=float)).replace(end_time=7.0))


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (Feature("vector", np.zeros((3, 0), np.float32)), "'place': vectors of width 0; leave the feature out"),
        (
            Feature("vector", np.array([[1, 2], [np.nan, np.nan], [1, np.nan]], np.float32)),
            "'place', row 2: some of the vector is NaN; a missing one is all NaN",
        ),
        (Feature("vector", np.array([[1, 2], [1, np.inf], [1, 2]], np.float32)), "'place', row 1: infinite"),
        (Feature("numeric", np.zeros(3, np.float32), ("a",)), "'place': a numeric feature has no vocabulary, but this"),
    ],
)
def test_features_that_are_none_are_refused(feature, message):
    assert message in one(with_events(events(features={"place": feature})))


class KnownWorld:
    """The truth of `events()`."""

    relations = ("buy",)

    def probabilities(self, relation, source_ids, start, end):
        return np.full((len(source_ids), 9), 0.5, np.float32)

    def expected(self, events, column):
        return np.array([0.1, 0.2, 0.3], np.float32)

    def enter_probabilities(self, user_ids, times):
        return np.full((len(user_ids), 4), 0.25, np.float32)

    triggers = np.array([-1, 0, 1])


def test_the_truth_of_events_is_of_the_rows_that_a_quarantine_leaves():
    wrong = events(nodes={"user": EventNodes("user", np.array([0, 99, 2], INT))}, split=np.array([0, 5, 0], np.int8))
    data = with_events(wrong).replace(truth=KnownWorld())
    cleaned = data.quarantined()
    assert cleaned.truth.expected("shown", "watched").tolist() == np.array([0.1, 0.3], np.float32).tolist()
    assert cleaned.truth.relations == ("buy",)
    assert cleaned.truth.probabilities("buy", np.arange(2), 0.0, 1.0).shape == (2, 9)
    assert cleaned.truth.enter_probabilities(np.arange(2), np.zeros(2)).shape == (2, 4)
    with pytest.raises(AttributeError, match="'triggers' is of all rows"):
        cleaned.truth.triggers  # noqa: B018
    assert isinstance(copy.deepcopy(cleaned.truth), EventTruth)
    # One row is wrong in two columns.
    assert {key: count for key, count in cleaned.counts.items() if "quarantined" in key} == {
        "events 'shown': rows quarantined": 1,
        "events 'shown': rows quarantined, user": 1,
        "events 'shown': rows quarantined, split": 1,
    }
    assert with_events(events()).replace(truth=KnownWorld()).quarantined().truth.expected("shown", "x").size == 3


def test_rows_that_histories_point_at_are_not_left_out():
    sound = events(nodes={"user": EventNodes("user", np.array([0, 9, 2], INT))})
    config = HistoryConfig("shows", "shown", "user", "user", moments=("shown",))
    data = add_histories(with_events(sound), [config])
    assert data.quarantined() is data
    wrong = dataclasses.replace(sound, split=np.array([0, 5, 0], np.int8))
    with pytest.raises(
        DataError, match=r"its histories \(shows\) point at them; leave rows out first(.|\n)*'split', row 1"
    ):
        data.replace(events={"shown": wrong}).quarantined()


def test_of_a_pair_that_is_there_twice_a_quarantine_keeps_the_earliest_one():
    columns = {"source_ids": np.array([1, 2, 1, 1], INT), "target_ids": np.array([3, 4, 3, 3], INT), "split": None}
    cleaned = with_buy(**columns, time=np.array([5.0, 9.0, 2.0, np.nan])).quarantined()
    assert cleaned.relations["buy"].time.tolist() == [9.0, 2.0]
    # Without times, or of equal ones, it is the first one.
    for time in (None, np.full(4, 2.0)):
        columns["weight"] = np.arange(4, dtype=np.float32)
        assert with_buy(**columns, time=time).quarantined().relations["buy"].weight.tolist() == [0.0, 1.0]


def test_a_child_stays_where_the_parent_that_it_is_earlier_than_is_left_out():
    """Row 0 of the answers is before a parent that stays; row 1 is before one of no user; row 2 is as it should be."""
    shown = events(nodes={"user": EventNodes("user", np.array([0, 99, 2], INT))}, time=np.array([5.0, 6.0, 7.0]))
    answers = Events("answer", {}, np.array([1.0, 1.5, 8.0]), parent=("shown", np.array([0, 1, 2])))
    # Before an answer that goes, and before one that stays.
    replies = Events("reply", {}, np.array([0.0, 0.5]), parent=("answer", np.array([0, 1])))
    cleaned = with_events(replies, shown, answers).quarantined()
    assert cleaned.events["answer"].time.tolist() == [1.5, 8.0]
    assert cleaned.events["answer"].parent[1].tolist() == [-1, 1]
    assert cleaned.events["reply"].time.tolist() == [0.0] and cleaned.events["reply"].parent[1].tolist() == [-1]
    assert cleaned.counts["events 'answer': rows quarantined, parent"] == 1
    assert cleaned.counts["events 'reply': rows quarantined, parent"] == 1
