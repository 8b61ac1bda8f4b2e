"""Leaks that are planted are found, and where nothing leaks nothing is said."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import SplitConfig
from lsec_jax.data.audits import audit_candidates, audit_splits, told_elsewhere
from lsec_jax.data.candidates import generate_candidates
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError, EventNodes, Events, Relation
from tests.data.test_splits import dataset, distinct_times, relation


def test_the_audit_finds_pairs_in_two_splits_late_edges_and_missing_splits():
    split = assign_splits(dataset(relation("buy", times=distinct_times())), SplitConfig(), ("buy",))
    buy = split.relations["buy"]
    flipped = buy.split.copy()
    flipped[np.argmax(buy.time)] = TRAIN
    leaky = split.replace(relations={"buy": dataclasses.replace(buy, split=flipped)})
    with pytest.raises(DataError, match=r"'buy': 1 train edges at or after the cut at 600"):
        audit_splits(leaky)
    source_ids, target_ids = buy.source_ids.copy(), buy.target_ids.copy()
    train, test = np.flatnonzero(buy.split == TRAIN)[0], np.flatnonzero(buy.split == TEST)[0]
    source_ids[test], target_ids[test] = source_ids[train], target_ids[train]
    twice = dataclasses.replace(buy, source_ids=source_ids, target_ids=target_ids)
    with pytest.raises(DataError, match=r"'buy': 1 pairs are in two splits, e.g. \("):
        audit_splits(split.replace(relations={"buy": twice}))
    with pytest.raises(DataError, match=r"'buy' has no split; run assign_splits first"):
        audit_splits(dataset(relation("buy")))


def candidates(split=TEST, **changes):
    data = assign_splits(dataset(relation("buy", times=distinct_times())), SplitConfig(), ("buy",))
    lists = generate_candidates(data, "buy", split, 30, 0)
    return data, dataclasses.replace(lists, **{name: change(getattr(lists, name)) for name, change in changes.items()})


@pytest.mark.parametrize("split", [VALIDATION, TEST])
def test_generated_candidates_pass(split):
    data, lists = candidates(split)
    audit_candidates(data, "buy", split, lists)


def repeat_first(target_ids):
    target_ids = target_ids.copy()
    target_ids[1, 1] = target_ids[1, 0]
    return target_ids


def test_a_negative_that_is_a_positive_is_found():
    data, lists = candidates()
    positive = np.argwhere(lists.labels)[0]
    labels = lists.labels.copy()
    labels[tuple(positive)] = False
    user = data.nodes["user"].ids[lists.source_ids[positive[0]]]
    with pytest.raises(DataError, match=rf"(?m)1 negatives are edges, e.g. in the list of user {user}$"):
        audit_candidates(data, "buy", TEST, dataclasses.replace(lists, labels=labels))


def test_a_positive_that_is_no_edge_of_the_split_is_found():
    data, lists = candidates()
    with pytest.raises(DataError, match="positives are no validation edges"):
        audit_candidates(data, "buy", VALIDATION, lists)
    negative = tuple(np.argwhere(~lists.labels)[0])
    labels = lists.labels.copy()
    labels[negative] = True
    with pytest.raises(DataError, match="1 positives are no test edges"):
        audit_candidates(data, "buy", TEST, dataclasses.replace(lists, labels=labels))


def test_a_target_that_stands_twice_in_a_list_is_found():
    data, lists = candidates(target_ids=repeat_first)
    with pytest.raises(DataError, match="1 targets stand in a list already"):
        audit_candidates(data, "buy", TEST, lists)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("target_ids", -1, "2 targets are no item nodes, e.g. in the list of user"),
        ("target_ids", 60, "2 targets are no item nodes"),
        ("source_ids", 50, r"1 sources are no user nodes, e.g. in the list of row 3, user index 50"),
        ("source_ids", -1, "1 sources are no user nodes"),
    ],
)
def test_candidates_that_are_no_nodes_are_found_and_stand_for_no_other_pair(column, value, message):
    data, lists = candidates()
    values = getattr(lists, column).copy()
    values[3] = np.where(np.arange(30) < 2, value, values[3]) if values.ndim == 2 else value
    with pytest.raises(DataError, match=message):
        audit_candidates(data, "buy", TEST, dataclasses.replace(lists, **{column: values}))


def test_held_out_users_and_edges_that_the_lists_leave_out_are_found():
    data, lists = candidates()
    columns = ("source_ids", "target_ids", "labels")
    half = dataclasses.replace(lists, **{name: getattr(lists, name)[::2] for name in columns})
    left_out = lists.source_ids[1::2]
    user = data.nodes["user"].ids[left_out[0]]
    message = rf"{len(left_out)} user nodes with test edges have no list, e.g. of user {user}$"
    with pytest.raises(DataError, match=message):
        audit_candidates(data, "buy", TEST, half)
    # A list that has another target in the place of a positive.
    row = np.flatnonzero(lists.labels.sum(axis=1) > 1)[0]
    place = row, np.flatnonzero(lists.labels[row])[0]
    buy = data.relations["buy"]
    bought = buy.target_ids[buy.source_ids == lists.source_ids[row]]
    targets, labels = lists.target_ids.copy(), lists.labels.copy()
    targets[place] = np.setdiff1d(np.arange(60), np.r_[bought, targets[row]])[0]
    labels[place] = False
    with pytest.raises(DataError, match=r"1 test edges are no positives of their list, e\.g\. of user"):
        audit_candidates(data, "buy", TEST, dataclasses.replace(lists, target_ids=targets, labels=labels))
    sources = lists.source_ids.copy()
    sources[1] = sources[0]
    with pytest.raises(DataError, match="1 lists are of a user that has one already"):
        audit_candidates(data, "buy", TEST, dataclasses.replace(lists, source_ids=sources))


def with_events(**changes):
    """A split data set whose edges are the first events of their pairs; half of them happen again, in the end."""
    data = assign_splits(dataset(relation("buy", times=distinct_times())), SplitConfig(), ("buy",))
    buy = data.relations["buy"]
    again = np.arange(0, len(buy), 2)
    rows = np.r_[np.argsort(buy.time), again]
    time = np.r_[np.sort(buy.time), np.full(len(again), 1e4)]
    nodes = {"user": EventNodes("user", buy.source_ids[rows]), "item": EventNodes("item", buy.target_ids[rows])}
    split = np.digitize(time, data.cut_times).astype(np.int8)
    events = dataclasses.replace(Events("visit", nodes, time, split=split), **changes)
    return data.replace(events={"visit": events}), events


def flipped(split, row, code):
    split = split.copy()
    split[row] = code
    return split


def test_events_that_are_split_as_their_relation_pass():
    audit_splits(with_events()[0])


def test_events_at_or_after_the_cut_of_their_split_are_found():
    data, events = with_events()
    with pytest.raises(DataError, match=r"events 'visit': 1 train events at or after the cut at 600\n"):
        audit_splits(with_events(split=flipped(events.split, -1, TRAIN))[0])
    # Without cut times nothing is late, but the pair's edge may be in a later split.
    leaky = with_events(split=flipped(events.split, 480, TRAIN))[0].replace(cut_times=None)
    with pytest.raises(
        DataError, match=r"'visit': 1 are in another split than their pair in relation 'buy', e.g. row 48"
    ):
        audit_splits(leaky)
    assert data.relations["buy"].split[np.argsort(data.relations["buy"].time)[480]] == TEST


def test_the_event_that_is_a_training_edge_must_not_be_held_out():
    _, events = with_events()
    held_out = with_events(split=flipped(events.split, 0, TEST))[0]
    with pytest.raises(DataError, match=r"1 are in another split than their pair in relation 'buy', e.g. row 0: \("):
        audit_splits(held_out)


def test_events_that_a_relation_does_not_come_from_may_be_split_otherwise():
    """A user may be shown what she follows later."""
    data, events = with_events()
    other = dataclasses.replace(data.relations["buy"], name="other", time=data.relations["buy"].time + 0.25)
    shown = dataclasses.replace(events, split=flipped(events.split, 480, TRAIN))
    data = data.replace(events={"visit": shown}, relations={"other": other}, cut_times=None)
    audit_splits(data)


def test_an_edge_without_its_event_does_not_hide_what_is_wrong_with_the_others():
    data, events = with_events(split=flipped(with_events()[1].split, 480, TRAIN))
    pair = np.argsort(data.relations["buy"].time)[3]
    of_pair = (events.ids("user") == data.relations["buy"].source_ids[pair]) & (
        events.ids("item") == data.relations["buy"].target_ids[pair]
    )
    data = data.replace(events={"visit": events.take(~of_pair)}, cut_times=None)
    with pytest.raises(DataError, match="'visit': 1 are in another split than their pair in relation 'buy'"):
        audit_splits(data)


def test_training_events_of_held_out_edges_without_a_time_are_found():
    data, events = with_events()
    buy = dataclasses.replace(data.relations["buy"], time=None)
    data = data.replace(relations={"buy": buy})
    audit_splits(data)
    leaky = dataclasses.replace(events, split=flipped(events.split, 480, TRAIN))
    with pytest.raises(DataError, match=r"are in another split than their pair in relation 'buy', e\.g\. row 480"):
        audit_splits(data.replace(events={"visit": leaky}, cut_times=None))


def test_held_out_pairs_that_train_in_another_relation_are_told():
    buy = relation("buy", times=distinct_times())
    whole = dataclasses.replace(buy, name="view", time=None)
    reverse = Relation("bought_by", "item", "user", buy.target_ids, buy.source_ids)
    data = assign_splits(dataset(buy, whole, reverse), SplitConfig(method="random"), ("buy",))
    row = np.flatnonzero(data.relations["buy"].split != TRAIN)[0]
    pair = f"({buy.source_ids[row]}, {buy.target_ids[row]})"
    assert told_elsewhere(data, ("buy",), False) == [
        f"100 of 100 held-out pairs of relation 'buy' train in relation '{name}', e.g. {pair}"
        for name in ("view", "bought_by")
    ]
    # An edge that is earlier tells nothing that was not known at the time.
    earlier = dataclasses.replace(buy, name="view", time=buy.time - 1.0)
    data = assign_splits(dataset(buy, earlier), SplitConfig(method="random"), ("buy",))
    assert told_elsewhere(data, ("buy",), False) == []
    later = dataclasses.replace(buy, name="view", time=buy.time + 1.0)
    assert told_elsewhere(assign_splits(dataset(buy, later), SplitConfig(), ("buy",)), ("buy",), False) == []


def test_training_edges_at_or_after_the_own_cut_of_a_user_are_told():
    buy, other = relation("buy", times=distinct_times()), relation("view", seed=1, times=distinct_times(seed=1))
    data = assign_splits(dataset(buy, other), SplitConfig(method="leave_one_out"), ("buy",))
    split = data.relations["buy"].split
    cut = {user: buy.time[(buy.source_ids == user) & (split != TRAIN)].min(initial=np.inf) for user in range(50)}
    count = sum(time >= cut[user] for user, time in zip(other.source_ids, other.time, strict=True))
    assert count and told_elsewhere(data, ("buy",), True)[-1] == (
        f"{count} training edges of relation 'view' are at or after the first held-out time of their own user in "
        "relation 'buy'"
    )
    assert not any("own user" in text for text in told_elsewhere(data, ("buy",), False))
