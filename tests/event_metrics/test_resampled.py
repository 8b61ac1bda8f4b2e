"""Parts of the rows in bootstrap samples: against loops over repeated rows, and against plain metrics."""

import numpy as np
import pytest

from lsec_jax.event_metrics import resampled
from tests.impressions import CUTOFFS, LABELS, measured, random_rows, slow_auc, slow_ranks

NUM_PARTS = 4


def some_rows(has_requests=True, num_levels=3, seed=0, num_rows=300):
    """Scored rows, and the part of each: some of none, and one part without any."""
    scores, answers, users, requests = random_rows(num_rows, 8, 60, num_levels, seed)
    found = resampled.ScoredRows(
        scores["watched"], answers[:, 0] > 0.5, users + 5, requests * 7 if has_requests else None
    )
    return found, np.random.default_rng(seed).choice([-1, 0, 1, 3], num_rows, p=[0.1, 0.5, 0.3, 0.1])


def slow(rows, weights):
    """Metrics of rows of which each is there as often as its unit's weight says; a drawn request is one by itself."""
    of_rows = weights[rows.units()[1]].astype(int)
    copies = np.array([copy for count in of_rows for copy in range(count)], int)
    repeated = np.repeat(np.arange(len(of_rows)), of_rows)
    scores, labels, users = rows.scores[repeated], rows.is_positive[repeated], rows.users[repeated]
    found = {"auc": slow_auc(scores, labels)}
    aucs = [(slow_auc(scores[users == user], labels[users == user]), np.sum(users == user)) for user in set(users)]
    aucs = np.array([pair for pair in aucs if not np.isnan(pair[0])]).reshape(-1, 2)
    found["gauc"] = np.average(aucs[:, 0], weights=aucs[:, 1]) if len(aucs) else np.nan
    if rows.requests is None:
        return found
    first = []
    for pair in set(zip(rows.requests[repeated].tolist(), copies.tolist(), strict=True)):
        of = (rows.requests[repeated] == pair[0]) & (copies == pair[1])
        if labels[of].any():
            first.append(slow_ranks(scores[of], labels[of])[0])
    first = np.array(first)
    found["mrr"] = np.mean(1 / first) if len(first) else np.nan
    for k in CUTOFFS:
        found[f"hr@{k}"] = np.mean(first <= k) if len(first) else np.nan
    return found


def of_part(rows, kept):
    requests = None if rows.requests is None else rows.requests[kept]
    return resampled.ScoredRows(rows.scores[kept], rows.is_positive[kept], rows.users[kept], requests)


@pytest.mark.parametrize("has_requests", [True, False])
@pytest.mark.parametrize("num_levels", [0, 1])
def test_metrics_of_a_sample_are_those_of_its_rows_repeated_as_often_as_they_were_drawn(has_requests, num_levels):
    rows, parts = some_rows(has_requests, num_levels)
    num_units, units = rows.units()
    weights = np.concatenate(list(resampled.samples(num_units, 12, 1, len(parts))), axis=1)
    found = resampled.PartMetrics(rows, parts, NUM_PARTS, CUTOFFS).measure(weights)
    for part in range(NUM_PARTS):
        kept = np.flatnonzero(parts == part)
        there = np.unique(units[kept])  # the units of the part alone have other numbers
        for sample in range(12):
            expected = slow(of_part(rows, kept), weights[there, sample])
            assert expected.keys() == found.keys()
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][part, sample], value, rtol=1e-12, err_msg=f"{part} {name}")


@pytest.mark.parametrize("has_requests", [True, False])
def test_with_weights_of_one_the_metrics_are_those_of_event_metrics(has_requests):
    scores, answers, users, requests = random_rows(num_levels=4)
    requests = requests if has_requests else None
    expected = measured({"watched": scores["watched"]}, answers, users, requests, LABELS[:1], output="scores").metrics
    rows = resampled.ScoredRows(scores["watched"], answers[:, 0] > 0.5, users, requests)
    metrics = resampled.PartMetrics(rows, np.zeros(len(users), int), 1, CUTOFFS)
    found = metrics.measure(np.ones((rows.units()[0], 1)))
    assert "mrr" in found or not has_requests
    for name, value in found.items():
        assert value[0, 0] == pytest.approx(expected[name], rel=1e-12), name


def test_a_sample_that_draws_nothing_of_a_part_defines_no_metric_of_it():
    rows, parts = some_rows()
    weights = np.ones((rows.units()[0], 2))
    weights[np.unique(rows.units()[1][parts == 3]), 1] = 0
    found = resampled.PartMetrics(rows, parts, NUM_PARTS, CUTOFFS).measure(weights)
    for name, values in found.items():
        assert not np.isnan(values[3, 0]) and np.isnan(values[3, 1]), name
        assert np.isnan(values[2]).all() and not np.isnan(values[0]).any(), name


def test_parts_of_one_class_have_no_auc_and_parts_without_rows_no_metric():
    empty, no_parts = np.zeros(0, int), np.zeros(0, int)
    rows = resampled.ScoredRows(np.zeros(0, np.float32), np.zeros(0, bool), empty, empty)
    found = resampled.PartMetrics(rows, no_parts, 2, (1,)).measure(np.ones((0, 3)))
    assert all(np.isnan(values).all() and values.shape == (2, 3) for values in found.values())
    rows = resampled.ScoredRows(np.zeros(2, np.float32), np.ones(2, bool), np.zeros(2, int), np.zeros(2, int))
    found = resampled.PartMetrics(rows, np.zeros(2, int), 1, (1,)).measure(np.ones((1, 1)))
    assert np.isnan(found["auc"]) and np.isnan(found["gauc"]) and found["mrr"] == found["hr@1"] == 1


def test_samples_draw_as_many_units_as_there_are_and_depend_on_the_seed_alone():
    few = np.concatenate(list(resampled.samples(50, 40, 3, 100)), axis=1)
    many = list(resampled.samples(50, 40, 3, 2**20))  # a few samples at a time
    assert few.shape == (50, 40) and len(many) == 10
    np.testing.assert_array_equal(few, np.concatenate(many, axis=1))
    np.testing.assert_array_equal(few.sum(axis=0), 50)
    assert not np.array_equal(few, np.concatenate(list(resampled.samples(50, 40, 4, 100)), axis=1))
    assert abs(np.mean(few == 0) - np.exp(-1)) < 0.03
    assert list(resampled.samples(50, 0, 3, 100)) == list(resampled.samples(0, 5, 3, 100)) == []


def test_intervals_are_percentiles_of_parts_that_nearly_all_samples_define():
    values = np.tile(np.arange(101.0), (3, 1))
    values[1, :5], values[2, :20] = np.nan, np.nan
    found = resampled.intervals(values)
    np.testing.assert_allclose(found[:, 0], [2.5, 97.5])
    np.testing.assert_allclose(found[:, 1], [5 + 0.025 * 95, 100 - 0.025 * 95])
    assert np.isnan(found[:, 2]).all()
    assert np.isnan(resampled.intervals(np.zeros((2, 0)))).all()


def test_intervals_hold_the_true_value_about_as_often_as_they_say():
    held = {"auc": 0, "mrr": 0}
    generator = np.random.default_rng(5)
    # Requests of one positive and three negatives, independent of each other: P(positive above a negative) is known.
    shift, trials, size = 1.0, 150, 80
    positive, negative = generator.normal(shift, 1, 400_000), generator.normal(0, 1, (400_000, 3))
    expected = {
        "auc": np.mean(positive[:, None] > np.roll(negative, 1, axis=0)),
        "mrr": np.mean(1 / (1 + (negative > positive[:, None]).sum(axis=1))),
    }
    for trial in range(trials):
        scores = np.concatenate([generator.normal(shift, 1, (size, 1)), generator.normal(0, 1, (size, 3))], axis=1)
        requests = np.repeat(np.arange(size), 4)
        is_positive = np.tile([True, False, False, False], size)
        rows = resampled.ScoredRows(scores.ravel().astype(np.float32), is_positive, requests, requests)
        metrics = resampled.PartMetrics(rows, np.zeros(len(requests), int), 1, (1,))
        drawn = [metrics.measure(of) for of in resampled.samples(size, 300, trial, len(requests))]
        for name in held:
            low, high = resampled.intervals(np.concatenate([of[name] for of in drawn], axis=1))[:, 0]
            held[name] += low <= expected[name] <= high
    for name, count in held.items():
        assert 0.88 < count / trials <= 0.99, f"{name}: {count} of {trials}"
