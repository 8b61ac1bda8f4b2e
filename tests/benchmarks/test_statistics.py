"""Paired intervals over resampled users."""

import numpy as np
import pytest

from benchmarks import statistics
from lsec_jax.training.evaluation import EvaluationRow


def slow_bootstrap(higher, lower, weights, num_draws, seed):
    """One resample after the other."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(num_draws):
        users = generator.integers(0, len(higher), len(higher))
        means.append(np.average((higher - lower)[users], weights=weights[users]))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("drawn_at_once", [2**22, 1000])
def test_resamples_are_those_of_a_loop_whatever_is_drawn_at_once(monkeypatch, drawn_at_once):
    monkeypatch.setattr(statistics, "_DRAWN_AT_ONCE", drawn_at_once)
    generator = np.random.default_rng(1)
    higher, lower = generator.random((2, 70))
    weights = generator.integers(1, 20, 70)
    for given in (weights, None):
        used = np.ones(70) if given is None else given
        found = statistics.bootstrap_difference(higher, lower, 300, 5, given)
        np.testing.assert_allclose([found["low"], found["high"]], slow_bootstrap(higher, lower, used, 300, 5))
        assert found["mean"] == pytest.approx(np.average(higher - lower, weights=used))


def evaluated(values, weights, user_ids):
    return EvaluationRow({}, "test", "impressions", "", 2, 0, 0.0, user_ids, {"gauc": values}, {"gauc": weights})


def test_two_evaluations_are_paired_by_user_with_the_metrics_weights_and_without_users_that_have_none():
    users, weights = np.arange(4), np.array([10.0, 0.0, 30.0, 5.0])
    higher = evaluated(np.array([0.9, np.nan, 0.5, 0.7]), weights, users)
    lower = evaluated(np.array([0.8, np.nan, 0.6, 0.7]), weights, users)
    found = statistics.paired_rows(higher, lower, ["gauc"], 200)["gauc"]
    assert found["mean"] == pytest.approx((10 * 0.1 - 30 * 0.1) / 45)
    assert found["low"] < found["mean"] < found["high"]
    with pytest.raises(ValueError, match="different users"):
        statistics.paired_rows(higher, evaluated(lower.per_user["gauc"], weights, users + 1), ["gauc"])
    with pytest.raises(ValueError, match="others are NaN"):
        statistics.bootstrap_difference(np.array([np.nan, 1.0]), np.ones(2))
    with pytest.raises(ValueError, match="no user has a value"):
        statistics.bootstrap_difference(np.full(2, np.nan), np.full(2, np.nan))
