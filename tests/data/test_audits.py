"""Leaks that are planted are found, and where nothing leaks nothing is said."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import SplitConfig
from lsec_jax.data.audits import audit_candidates, audit_splits
from lsec_jax.data.candidates import generate_candidates
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError
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
    with pytest.raises(DataError, match=rf"1 negatives are edges, e.g. in the list of user {user}$"):
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
