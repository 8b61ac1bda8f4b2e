"""Metrics of sorted keys: of whole groups (users, requests), and of all rows as one group, with its calibration.

The legend is that of `lsec_jax/metrics.py`: AUC counts ties 1/2; every metric of ranks puts a positive below all
negatives of equal score; gains are binary, the discount of rank r is 1 / log2(r + 1), the ideal DCG is cut at K.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from lsec_jax.event_metrics.sorted_keys import GROUP_SHIFT, scores_of

CALIBRATION_BINS = 20


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of a block of sorted keys, g of them.

    Attributes:
        ids: [g] int64.
        sizes: rows of each, [g] int64.
        num_positives: of each, [g] int64.
        wins_twice: 2 x the pairs of a positive and a negative in which the positive has the higher score, ties
            counting 1/2, [g] int64.
        of_positives: the group (0 to g - 1) of each positive, in the order of the keys, [p] int64.
        ranks: of each positive in its group, from 1, [p] int64.
    """

    ids: Int[np.ndarray, " g"]
    sizes: Int[np.ndarray, " g"]
    num_positives: Int[np.ndarray, " g"]
    wins_twice: Int[np.ndarray, " g"]
    of_positives: Int[np.ndarray, " p"]
    ranks: Int[np.ndarray, " p"]

    def auc(self) -> Float[np.ndarray, " g"]:
        """Of each group; NaN for groups of one class."""
        pairs = self.num_positives * (self.sizes - self.num_positives)
        return np.where(pairs > 0, self.wins_twice / np.maximum(2 * pairs, 1), np.nan)

    def first_ranks(self) -> Float[np.ndarray, " g"]:
        """Rank of the first positive of each group; NaN for groups without one."""
        ranks = np.full(len(self.ids), np.nan)
        with_positive, first = np.unique(self.of_positives, return_index=True)
        ranks[with_positive] = self.ranks[first]
        return ranks

    def precision(self, k: int) -> Float[np.ndarray, " g"]:
        """Positives among the first K / min(K, rows of the group)."""
        return self._sums(self.ranks <= k, np.ones(len(self.ranks))) / np.minimum(self.sizes, k)

    def ndcg(self, k: int) -> Float[np.ndarray, " g"]:
        """DCG@K / the ideal one; NaN for groups without a positive."""
        gains = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
        ideal = np.concatenate([[np.nan], gains])[np.minimum(self.num_positives, k)]
        return self._sums(self.ranks <= k, 1 / np.log2(self.ranks + 1)) / ideal

    def _sums(self, is_hit: Bool[np.ndarray, " p"], gains: Float[np.ndarray, " p"]) -> Float[np.ndarray, " g"]:
        sums = np.bincount(self.of_positives[is_hit], gains[is_hit], len(self.ids))
        return sums.astype(np.float64)  # of nothing it would be int64


def group(keys: UInt64[np.ndarray, " n"]) -> Groups:
    """Finds the groups of sorted keys, at least one key, and what their metrics are made of."""
    groups = keys >> np.uint64(GROUP_SHIFT)
    starts = _starts(groups)
    sizes = np.diff(starts, append=len(keys))
    is_positive = (keys & np.uint64(1)).astype(bool)
    positives = np.flatnonzero(is_positive)
    bounds = np.searchsorted(positives, np.append(starts, len(keys)))  # of each group's positives
    of_positives = np.repeat(np.arange(len(starts)), np.diff(bounds))
    first = starts[of_positives]
    # Of a positive: the negatives above it are those before its ties, those at least as high all before itself.
    tie_starts = np.searchsorted(keys, keys[positives] & ~np.uint64(1))
    before_tie = tie_starts - np.searchsorted(positives, tie_starts)
    before_group = first - bounds[of_positives]
    above, at_least = before_tie - before_group, positives - np.arange(len(positives)) - before_group
    num_positives = np.diff(bounds)
    wins_twice = 2 * (sizes - num_positives)[of_positives] - above - at_least
    sums = np.concatenate([[0], np.cumsum(wins_twice)])
    return Groups(
        ids=groups[starts].astype(np.int64),
        sizes=sizes,
        num_positives=num_positives,
        wins_twice=sums[bounds[1:]] - sums[bounds[:-1]],
        of_positives=of_positives,
        ranks=positives - first + 1,
    )


@dataclasses.dataclass(frozen=True)
class Whole:
    """All rows as one group.

    Attributes:
        num_rows, num_positives: counts.
        auc: NaN where there is one class only.
        calibration_error: mean over CALIBRATION_BINS bins of equally many rows, in the order of the predictions, of
            |mean prediction - share of positives|; rows of equal prediction share a bin; NaN without predictions.
        calibration_ratio: sum of the predictions / positives; NaN without predictions or positives.
    """

    num_rows: int
    num_positives: int
    auc: float
    calibration_error: float
    calibration_ratio: float


def whole(
    blocks: Iterable[UInt64[np.ndarray, " _"]],
    num_rows: int,
    probability: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Whole:
    """Measures all rows.

    Args:
        blocks: their keys, rising over all blocks, one group.
        num_rows: keys in all.
        probability: gives the predictions from the scores, [n] float32 -> [n] float64; None = scores are none.
    """
    bins = np.zeros((3, CALIBRATION_BINS))  # rows, sum of the predictions, positives
    seen = negatives = losses_twice = 0
    for ties, counts in _ties(blocks):
        of_tie = counts.sum(axis=0)
        below = negatives + np.cumsum(counts[0]) - counts[0]  # negatives that are ranked above the tie
        losses_twice += int((counts[1] * (2 * below + counts[0])).sum())
        if probability is not None:
            first = seen + np.cumsum(of_tie) - of_tie
            at = first * CALIBRATION_BINS // num_rows
            for total, values in zip(bins, (of_tie, of_tie * probability(scores_of(ties)), counts[1]), strict=True):
                total += np.bincount(at, values, CALIBRATION_BINS)
        negatives += int(counts[0].sum())
        seen += int(of_tie.sum())
    assert seen == num_rows, "the keys are as many as was said"
    positives = seen - negatives
    pairs = positives * negatives
    is_calibrated = probability is not None and seen > 0
    return Whole(
        num_rows=seen,
        num_positives=positives,
        auc=1 - losses_twice / (2 * pairs) if pairs else np.nan,
        calibration_error=float(np.abs(bins[1] - bins[2]).sum() / seen) if is_calibrated else np.nan,
        calibration_ratio=float(bins[1].sum() / positives) if is_calibrated and positives else np.nan,
    )


def _ties(blocks: Iterable[np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yields (keys of ties without their label [t], negatives and positives of each [2, t] int64); each tie once."""
    held: tuple[np.ndarray, np.ndarray] = np.zeros(0, np.uint64), np.zeros((2, 0), np.int64)
    for keys in blocks:
        starts = _starts(keys >> np.uint64(1))
        positives = np.add.reduceat(keys & np.uint64(1), starts).astype(np.int64)
        ties = keys[starts] & ~np.uint64(1)
        counts = np.stack([np.diff(starts, append=len(keys)) - positives, positives])
        if len(held[0]) and held[0][0] == ties[0]:  # a tie may go on in the next block
            counts[:, 0] += held[1][:, 0]
        elif len(held[0]):
            yield held
        if len(ties) > 1:
            yield ties[:-1], counts[:, :-1]
        held = ties[-1:], counts[:, -1:]
    if len(held[0]):
        yield held


def _starts(sorted_values: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins, [g] int64."""
    return np.flatnonzero(np.concatenate([[True], sorted_values[1:] != sorted_values[:-1]]))
