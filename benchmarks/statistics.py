"""Means, spreads and intervals of repeated runs; pure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

LEVEL = 0.95


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
    higher: np.ndarray, lower: np.ndarray, num_draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """The mean of higher - lower over users with the 95% percentile interval of resampled users.

    Args:
        higher: one value per user, [u].
        lower: of the same users, in the same order, [u].
        num_draws: resamples.
        seed: of the resamples.

    Returns:
        "mean", "low", "high".
    """
    if higher.shape != lower.shape:
        raise ValueError(f"pairs need equally many values, got {higher.shape} and {lower.shape}")
    differences = higher.astype(np.float64) - lower.astype(np.float64)
    generator = np.random.default_rng(seed)
    means = [differences[generator.integers(0, len(differences), len(differences))].mean() for _ in range(num_draws)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _half_width(standard_error: float, degrees: float) -> float:
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, degrees)) * standard_error


def _interval(mean: float, half: float | None) -> dict[str, float | None]:
    return {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
