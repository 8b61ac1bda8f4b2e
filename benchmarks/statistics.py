"""Means, spreads and intervals of repeated runs; pure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from lsec_jax.training.evaluation import EvaluationRow

LEVEL = 0.95
_DRAWN_AT_ONCE = 2**22  # users of all resamples that are in memory together


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean, sample standard deviation (None for one value) and the values themselves."""
    values = [float(value) for value in values]
    return {"mean": float(np.mean(values)), "std": _std(values), "values": values}


def paired_difference(higher: Sequence[float], lower: Sequence[float]) -> dict[str, Any]:
    """The mean of higher - lower over seeds with its 95% t-interval.

    Args:
        higher: one value per seed.
        lower: of the same seeds, in the same order.

    Returns:
        "mean", "low", "high" (None for fewer than two seeds) and "values", the differences.
    """
    if len(higher) != len(lower):
        raise ValueError(f"pairs need equally many values, got {len(higher)} and {len(lower)}")
    values = [float(a) - float(b) for a, b in zip(higher, lower, strict=True)]
    mean, std = float(np.mean(values)), _std(values)
    half = None if std is None else _half_width(std / math.sqrt(len(values)), len(values) - 1)
    return {"mean": mean, **_interval(mean, half), "values": values}


def welch_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The difference of two independent means, ours - theirs, with Welch's 95% interval.

    Returns:
        "mean", "low" and "high" (None where a side has fewer than two values).
    """
    mean = float(np.mean(ours)) - float(np.mean(theirs))
    if min(len(ours), len(theirs)) < 2:
        return {"mean": mean, **_interval(mean, None)}
    squares = [float(np.var(side, ddof=1)) / len(side) for side in (ours, theirs)]
    total = sum(squares)
    if total == 0.0:
        return {"mean": mean, **_interval(mean, 0.0)}
    weights = [s**2 / (len(side) - 1) for s, side in zip(squares, (ours, theirs), strict=True)]
    return {"mean": mean, **_interval(mean, _half_width(math.sqrt(total), total**2 / sum(weights)))}


def bootstrap_difference(
    higher: np.ndarray,
    lower: np.ndarray,
    num_draws: int = 1000,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> dict[str, float]:
    """The mean of higher - lower over users with the 95% percentile interval of resampled users.

    Args:
        higher: one value per user, [u]; NaN = the user has none.
        lower: of the same users, in the same order, [u]; NaN for the same ones.
        num_draws: resamples.
        seed: of the resamples.
        weights: of the users in the mean, e.g. their impressions, [u]; None = equal. Each resample's mean has the
            weights of its own users.

    Returns:
        "mean", "low", "high".
    """
    weights = np.ones(higher.shape) if weights is None else weights.astype(np.float64)
    if not higher.shape == lower.shape == weights.shape:
        raise ValueError(f"pairs need equally many values, got {higher.shape}, {lower.shape} and {weights.shape}")
    if not np.array_equal(np.isnan(higher), np.isnan(lower)):
        raise ValueError("pairs need values of the same users, but others are NaN")
    kept = ~np.isnan(higher) & (weights > 0)
    if not kept.any():
        raise ValueError("no user has a value; nothing can be resampled")
    weights = weights[kept]
    weighted = weights * (higher[kept].astype(np.float64) - lower[kept].astype(np.float64))
    generator = np.random.default_rng(seed)
    means = []
    for draws in np.array_split(np.arange(num_draws), -(-num_draws * len(weights) // _DRAWN_AT_ONCE)):
        users = generator.integers(0, len(weights), (len(draws), len(weights)))
        means.append(weighted[users].sum(axis=1) / weights[users].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": float(weighted.sum() / weights.sum()), "low": float(low), "high": float(high)}


def paired_rows(
    higher: EvaluationRow, lower: EvaluationRow, metrics: Sequence[str], num_draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """`bootstrap_difference` of two evaluations of the same users, by metric that is a mean over users.

    Users are resampled whole, with all their requests and impressions; metrics of requests and impressions weigh them
    as the metric does.
    """
    if not np.array_equal(higher.user_ids, lower.user_ids):
        raise ValueError("the rows are of different users; evaluate both on the same split and users")
    return {
        name: bootstrap_difference(
            higher.per_user[name], lower.per_user[name], num_draws, seed, higher.weights.get(name)
        )
        for name in metrics
    }


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _half_width(standard_error: float, degrees: float) -> float:
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, degrees)) * standard_error


def _interval(mean: float, half: float | None) -> dict[str, float | None]:
    return {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
