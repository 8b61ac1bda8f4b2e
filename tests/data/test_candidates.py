import dataclasses

import numpy as np
import pytest

from lsec_jax import config_json, schema
from lsec_jax.config import EvaluationConfig, RunConfig, SplitConfig
from lsec_jax.data import candidates, csr
from lsec_jax.data.csr import csr_from_pairs
from lsec_jax.data.sources import prepared, synthetic
from lsec_jax.data.splits import assign_splits
from lsec_jax.data.writer import Writer


def data_of(dense, split):
    """A data set with one relation from a [users, items] 0/1 matrix and a split code per edge."""
    sources, targets = (ids.astype(np.int32) for ids in np.nonzero(dense))
    users = schema.NodeTable("user", np.array([f"u{i}" for i in range(dense.shape[0])]))
    items = schema.NodeTable("item", np.arange(dense.shape[1]))
    buy = schema.Relation("buy", "user", "item", sources, targets, split=np.asarray(split, np.int8))
    return schema.LiveCommerceData("test", {"user": users, "item": items}, {"buy": buy})


def random_data(share=0.05, num_users=80, num_items=200, seed=0):
    generator = np.random.default_rng(seed)
    dense = generator.random((num_users, num_items)) < share
    return data_of(dense, generator.choice(3, int(dense.sum()), p=[0.8, 0.1, 0.1])), dense


@pytest.mark.parametrize(("share", "length"), [(0.05, 30), (0.05, 150), (0.4, 90)])
def test_lists_hold_all_positives_and_nothing_bought_in_any_split(share, length):
    data, dense = random_data(share)
    lists = candidates.generate_candidates(data, "buy", schema.TEST, length, seed=1)
    sources, targets = data.relation("buy").edges(schema.TEST)
    assert lists.target_ids.shape == lists.labels.shape == (len(np.unique(sources)), length)
    assert lists.target_ids.dtype == lists.source_ids.dtype == np.int32
    for user, row, labels in zip(lists.source_ids, lists.target_ids, lists.labels, strict=True):
        assert len(np.unique(row)) == length
        assert sorted(row[labels]) == sorted(targets[sources == user])
        assert not dense[user, row[~labels]].any()


def test_lists_are_frozen_by_the_seed():
    data, _ = random_data()
    one, two, other = (candidates.generate_candidates(data, "buy", schema.TEST, 30, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.target_ids, two.target_ids)
    assert (one.target_ids != other.target_ids).any()
    assert one.origin == "generated, N=30, seed 1"


@pytest.mark.parametrize("length", [20, 60])
def test_negatives_are_uniform_over_what_the_user_never_had(length):
    dense = np.zeros((4000, 100), bool)
    dense[:, :5] = True  # item 0 is the test positive, 1..4 are training
    data = data_of(dense, np.tile([2, 0, 0, 0, 0], 4000))
    lists = candidates.generate_candidates(data, "buy", schema.TEST, length, seed=0)
    counts = np.bincount(lists.target_ids[~lists.labels], minlength=100)
    assert (counts[:5] == 0).all()
    expected = 4000 * (length - 1) / 95
    assert (abs(counts[5:] - expected) < 6 * np.sqrt(expected)).all()


def test_the_place_in_the_row_is_the_order_of_ids():
    data, _ = random_data()
    lists = candidates.generate_candidates(data, "buy", schema.TEST, 30, seed=0)
    assert (np.diff(lists.target_ids, axis=1) > 0).all()


def test_the_list_shrinks_to_what_every_user_can_offer_and_says_so():
    data, dense = random_data()
    lists = candidates.generate_candidates(data, "buy", schema.TEST, 10_000, seed=0)
    sources, _ = data.relation("buy").edges(schema.TEST)
    users, num_positives = np.unique(sources, return_counts=True)
    feasible = (200 - dense.sum(axis=1)[users] + num_positives).min()
    assert lists.target_ids.shape[1] == feasible
    assert "N=10000 asked" in lists.origin
    assert f"N={feasible}" in lists.origin


def test_a_user_with_more_positives_than_candidates_is_named_with_the_remedy():
    dense = np.zeros((2, 20), bool)
    dense[0, :2] = dense[1, :7] = True
    data = data_of(dense, np.full(9, schema.TEST))
    with pytest.raises(schema.DataError, match=r"user u1 has 7 positives.*num_candidates to at least 7"):
        candidates.generate_candidates(data, "buy", schema.TEST, 5, seed=0)


def test_a_split_without_edges_is_refused():
    data, _ = random_data()
    empty = data_of(np.eye(3, 9, dtype=bool), np.zeros(3))
    with pytest.raises(schema.DataError, match="no edges in split 2"):
        candidates.generate_candidates(empty, "buy", schema.TEST, 5, seed=0)
    with pytest.raises(schema.DataError, match="it has: buy"):
        candidates.generate_candidates(data, "sell", schema.TEST, 5, seed=0)


def test_membership_in_sorted_keys_agrees_with_isin():
    generator = np.random.default_rng(0)
    for size in (0, 1, 40):
        sorted_keys, keys = np.sort(generator.integers(0, 60, size)), generator.integers(-5, 70, 200)
        np.testing.assert_array_equal(csr.contains(sorted_keys, keys), np.isin(keys, sorted_keys))
    assert csr.contains(np.array([1, 2]), np.array([], np.int64)).shape == (0,)


def test_ranges_are_concatenated_and_empty_ones_leave_nothing():
    np.testing.assert_array_equal(csr.expand_ranges(np.array([4, 9, 0]), np.array([2, 0, 3])), [4, 5, 0, 1, 2])
    assert csr.expand_ranges(np.array([], np.int64), np.array([], np.int64)).dtype == np.int64


def test_csr_holds_the_sorted_targets_of_every_source():
    indptr, indices = csr_from_pairs(np.array([2, 0, 2]), np.array([5, 1, 3]), 4)
    assert indptr.tolist() == [0, 1, 1, 3, 3]
    assert indices.tolist() == [1, 3, 5]
    with pytest.raises(ValueError, match="pair 1: source 4 outside"):
        csr_from_pairs(np.array([0, 4]), np.array([0, 0]), 4)


@pytest.mark.parametrize("length", [20, 60])
def test_negatives_are_even_over_what_is_available_in_the_period(length):
    dense = np.zeros((4000, 100), bool)
    dense[:, :5] = True  # item 0 is the test positive, 1..4 are training
    start = np.where(np.arange(100) < 15, 0.0, 8.0)  # items 0..14 are gone before the test period
    end = np.where(np.arange(100) < 15, 5.0, np.inf)
    data = data_of(dense, np.tile([2, 0, 0, 0, 0], 4000)).replace(cut_times=(6.0, 7.0), end_time=9.0)
    data = data.replace(availability={"item": schema.Availability(start, end)})
    lists = candidates.generate_candidates(data, "buy", schema.TEST, length, seed=0)
    assert lists.origin == f"generated, N={length}, seed 0, of the 85 available in the period"
    assert lists.labels.sum() == 4000 and (lists.target_ids[lists.labels] == 0).all()
    counts = np.bincount(lists.target_ids[~lists.labels], minlength=100)
    assert (counts[:15] == 0).all()
    expected = 4000 * (length - 1) / 85
    assert (abs(counts[15:] - expected) < 6 * np.sqrt(expected)).all()
    assert (np.diff(lists.target_ids, axis=1) > 0).all()


def test_lists_shrink_to_what_is_available():
    data, _ = random_data()
    start = np.where(np.arange(200) < 30, 0.0, 8.0)
    data = data.replace(cut_times=(1.0, 2.0), end_time=3.0)
    data = data.replace(availability={"item": schema.Availability(start, np.full(200, np.inf))})
    lists = candidates.generate_candidates(data, "buy", schema.TEST, 100, seed=0)
    assert lists.target_ids.shape[1] <= 34
    assert (lists.target_ids[~lists.labels] < 30).all()


def test_windows_that_are_always_open_change_no_list():
    data, _ = random_data()
    data = data.replace(cut_times=(1.0, 2.0), end_time=3.0)
    always = {"item": schema.Availability(np.full(200, -np.inf), np.full(200, np.inf))}
    for length in (30, 150):
        one, other = (
            candidates.generate_candidates(d, "buy", schema.TEST, length, 3)
            for d in (data, data.replace(availability=always))
        )
        np.testing.assert_array_equal(one.target_ids, other.target_ids)


def test_frozen_lists_are_those_that_an_evaluation_would_draw():
    data, _ = random_data()
    config = EvaluationConfig(num_candidates=20, candidates_seed=3)
    frozen = candidates.freeze_candidates(data, "buy", config)
    frozen.validate()
    assert set(frozen.candidates) == {("buy", schema.VALIDATION), ("buy", schema.TEST)} and not data.candidates
    for split in (schema.VALIDATION, schema.TEST):
        drawn = candidates.generate_candidates(data, "buy", split, 20, 3)
        lists = frozen.candidates["buy", split]
        for column in ("source_ids", "target_ids", "labels"):
            np.testing.assert_array_equal(getattr(lists, column), getattr(drawn, column))
        assert lists.origin == f"frozen, {drawn.origin}"


def test_freezing_keeps_published_lists_and_makes_none_for_a_split_without_edges():
    data, _ = random_data()
    published = candidates.generate_candidates(data, "buy", schema.TEST, 9, 8)
    data = data.replace(candidates={("buy", schema.TEST): published})
    assert candidates.freeze_candidates(data, "buy", EvaluationConfig()).candidates["buy", schema.TEST] is published
    buy = data.relations["buy"]
    without = dataclasses.replace(buy, split=np.where(buy.split == schema.VALIDATION, 0, buy.split).astype(np.int8))
    frozen = candidates.freeze_candidates(data.replace(relations={"buy": without}), "buy", EvaluationConfig())
    assert set(frozen.candidates) == {("buy", schema.TEST)}


@pytest.mark.parametrize("method", ["auto", "time", "random", "leave_one_out"])
def test_frozen_lists_are_stored_and_no_later_split_drops_them(method, tmp_path):
    split = SplitConfig(method=method)
    data = assign_splits(synthetic.tiny().load(), split, ("buy",))
    frozen = candidates.freeze_candidates(data, "buy", EvaluationConfig(num_candidates=30)).replace(truth=None)
    settings = config_json.to_json(RunConfig(data=synthetic.tiny(), model=None, split=split))
    source = {"data": settings["data"], "split": settings["split"], "tasks": ["buy"], "quarantine": False}
    with Writer(tmp_path / "d", {**source, "histories": []}) as writer:
        writer.finish(frozen, {}, lambda num_bytes: None)
    read = assign_splits(prepared.Config(str(tmp_path / "d")).load(), split, ("buy",))
    assert read.candidates.keys() == frozen.candidates.keys()
    assert read.fingerprint() == frozen.fingerprint() and read.cut_times == frozen.cut_times
