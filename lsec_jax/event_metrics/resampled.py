"""Metrics of parts of the rows in bootstrap samples, many samples at once; numpy only.

A sample draws units (requests, or users) with replacement; here it is a weight of each unit: how often it was drawn.
All rows of a unit have its weight, and a metric of a sample is that of the rows repeated so often.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from lsec_jax.event_metrics import ranked
from lsec_jax.event_metrics.sorted_keys import pack

LEVEL = 0.95
MIN_DEFINED = 0.9  # share of the samples that must define a metric for an interval of it
_SECTIONS = 2**22  # rows x samples that are in memory together


def samples(num_units: int, num_samples: int, seed: int, num_rows: int) -> Iterator[Float[np.ndarray, "u s"]]:
    """Yields the weights of u units in s samples at a time, float64: each sample draws as many units as there are.

    Args:
        num_units: u.
        num_samples: in all.
        seed: of the draws, which depend on these three alone.
        num_rows: that are to be weighted; with more of them fewer samples come at a time.
    """
    generator = np.random.default_rng(seed)
    at_once = max(_SECTIONS // max(num_rows, num_units, 1), 1)
    for start in range(0, num_samples if num_units else 0, at_once):
        count = min(at_once, num_samples - start)
        draws = generator.integers(num_units, size=(count, num_units))
        places = (draws * count + np.arange(count)[:, None]).ravel()
        yield np.bincount(places, minlength=num_units * count).reshape(num_units, count).astype(np.float64)


def intervals(values: Float[np.ndarray, "p s"]) -> Float[np.ndarray, "2 p"]:
    """The LEVEL percentile interval of each part.

    Args:
        values: of p parts in s samples, NaN where a sample does not define the metric.

    Returns:
        Low and high; NaN where fewer than MIN_DEFINED of the samples define the metric, as of very small parts.
    """
    found = np.full((2, len(values)), np.nan)
    if not values.shape[1]:
        return found
    kept = np.flatnonzero(np.mean(~np.isnan(values), axis=1) >= MIN_DEFINED)
    if len(kept):
        found[:, kept] = np.nanquantile(values[kept], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return found


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Scored rows with what resampling needs of them; n rows.

    Attributes:
        scores: not NaN, [n]; compared in float32.
        is_positive: [n] bool.
        users: whose, [n] int.
        requests: which were shown together, [n] int; None = not known.
    """

    scores: Float[np.ndarray, " n"]
    is_positive: Bool[np.ndarray, " n"]
    users: Int[np.ndarray, " n"]
    requests: Int[np.ndarray, " n"] | None

    def units(self) -> tuple[int, Int[np.ndarray, " n"]]:
        """Returns how many requests (users where they are not known) there are, and the number of each row's."""
        ids, numbers = np.unique(self.users if self.requests is None else self.requests, return_inverse=True)
        return len(ids), numbers


class PartMetrics:
    """Metrics of each of some parts of the rows under weights of the units.

    With weights of 1 they are those that `EventMetrics` gives for the rows of the part alone: "auc", "gauc" (AUC of
    each user, weighted by her rows in the sample) and, where requests are known, "mrr" and "hr@K". Weighted counts are
    whole numbers in float64, so that nothing is rounded before the last division.
    """

    def __init__(
        self, rows: ScoredRows, parts: Int[np.ndarray, " n"], num_parts: int, cutoffs: tuple[int, ...]
    ) -> None:
        """Sorts the rows.

        Args:
            rows: n of them.
            parts: of the rows, 0 to num_parts - 1; -1 = of none.
            num_parts: p.
            cutoffs: K of hr@K.
        """
        kept = np.flatnonzero(parts >= 0)
        units, parts = rows.units()[1][kept], parts[kept].astype(np.int64)
        scores, is_positive = rows.scores[kept], rows.is_positive[kept]
        self._num_parts = num_parts
        self._whole = _Pairs(parts, parts, scores, is_positive, units)
        of_user = _number(parts, rows.users[kept])
        self._by_user = _Pairs(of_user, parts, scores, is_positive, units)
        self._ranks = None
        if rows.requests is not None:
            of_request = _number(parts, rows.requests[kept])
            self._ranks = _Ranks(of_request, parts, scores, is_positive, units, cutoffs)

    def measure(self, weights: Float[np.ndarray, "u s"]) -> dict[str, Float[np.ndarray, "p s"]]:
        """The metrics by name, NaN where a sample does not define one.

        Args:
            weights: of the units in s samples, whole numbers.
        """
        auc, has_pairs, _ = self._whole.measure(weights)
        found = {"auc": self._of_parts(self._whole.parts, np.where(has_pairs, auc, np.nan))}
        auc, has_pairs, sizes = self._by_user.measure(weights)
        sizes = np.where(has_pairs, sizes, 0.0)
        found["gauc"] = self._means(self._by_user.parts, sizes * auc, sizes)
        if self._ranks is not None:
            of_group = weights.take(self._ranks.units, axis=0)
            for name, values in self._ranks.values.items():
                found[name] = self._means(self._ranks.parts, of_group * values[:, None], of_group)
        return found

    def _of_parts(self, parts: np.ndarray, values: np.ndarray) -> np.ndarray:
        found = np.full((self._num_parts, values.shape[1]), np.nan)
        found[parts] = values
        return found

    def _means(self, parts: np.ndarray, sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Of groups whose parts [g] rise: sums / weights of each part, both [g, s]."""
        present, starts = np.unique(parts, return_index=True)
        totals = _sums(weights, starts)
        means = _sums(sums, starts) / np.where(totals > 0, totals, 1.0)
        return self._of_parts(present, np.where(totals > 0, means, np.nan))


class _Pairs:
    """Groups of rows that have both classes, sorted for weighted AUCs; g groups whose parts rise.

    Attributes:
        parts: of the groups, [g] int64.
    """

    def __init__(
        self, groups: np.ndarray, parts: np.ndarray, scores: np.ndarray, is_positive: np.ndarray, units: np.ndarray
    ) -> None:
        """Groups are any numbers >= 0 that rise with the part; all arrays are of the rows, [n]."""
        sizes = np.bincount(groups)
        num_positives = np.bincount(groups, is_positive, len(sizes))
        has_both = (num_positives > 0) & (num_positives < sizes)
        kept = np.flatnonzero(has_both[groups])
        numbers = (np.cumsum(has_both) - 1)[groups[kept]]
        keys = pack(numbers, scores[kept], is_positive[kept])
        order = np.argsort(keys, kind="stable")
        keys, numbers, kept = keys[order], numbers[order], kept[order]
        of_rows = is_positive[kept]
        positives, negatives = np.flatnonzero(of_rows), np.flatnonzero(~of_rows)
        self.parts = parts[kept[np.searchsorted(numbers, np.arange(has_both.sum()))]]
        self._positives, self._negatives = units[kept[positives]], units[kept[negatives]]
        # Of each positive: the negatives before its ties, and those before itself, which are at least as high.
        ties = np.searchsorted(keys, keys[positives] & ~np.uint64(1))
        self._above, self._at_least = np.searchsorted(negatives, ties), np.searchsorted(negatives, positives)
        bounds = np.arange(len(self.parts) + 1)
        self._positive_starts = np.searchsorted(numbers[positives], bounds[:-1])
        self._negative_bounds = np.searchsorted(numbers[negatives], bounds)

    def measure(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns AUC, whether there are pairs, and the weighted rows of each group, [g, s] each."""
        negatives = np.zeros((len(self._negatives) + 1, weights.shape[1]))  # before each one
        np.cumsum(weights.take(self._negatives, axis=0), axis=0, out=negatives[1:])
        of_positives = weights.take(self._positives, axis=0)
        losses_twice = of_positives * (negatives.take(self._above, axis=0) + negatives.take(self._at_least, axis=0))
        positives = _sums(of_positives, self._positive_starts)
        bounds = negatives.take(self._negative_bounds, axis=0)
        losses_twice = _sums(losses_twice, self._positive_starts) - 2 * bounds[:-1] * positives
        of_groups = bounds[1:] - bounds[:-1]
        pairs = positives * of_groups
        return 1 - losses_twice / np.maximum(2 * pairs, 1), pairs > 0, positives + of_groups


class _Ranks:
    """Groups of rows that have a positive; g groups whose parts rise.

    Attributes:
        parts, units: of the groups, [g] int64.
        values: by metric, [g] float64.
    """

    def __init__(
        self,
        groups: np.ndarray,
        parts: np.ndarray,
        scores: np.ndarray,
        is_positive: np.ndarray,
        units: np.ndarray,
        cutoffs: tuple[int, ...],
    ) -> None:
        """As `_Pairs`; a group's rows are of one unit."""
        self.parts = self.units = np.zeros(0, np.int64)
        first = np.zeros(0)
        if len(groups):
            found = ranked.group(np.sort(pack(groups, scores, is_positive)))  # groups are numbered without gaps
            first = found.first_ranks()
            with_positive = np.flatnonzero(found.num_positives > 0)
            rows = np.unique(groups, return_index=True)[1][with_positive]  # one of each
            first, self.parts, self.units = first[with_positive], parts[rows], units[rows]
        self.values = {"mrr": 1 / first, **{f"hr@{k}": (first <= k).astype(np.float64) for k in cutoffs}}


def _number(parts: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Numbers the pairs of a part and a member of it, rising with the part, [n] int64."""
    pairs = parts * (int(members.max(initial=0)) + 1) + members
    return np.unique(pairs, return_inverse=True)[1]


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of the rows [n, s] from each start to the next one, [g, s]."""
    return np.add.reduceat(values, starts, axis=0) if len(starts) else np.zeros((0, values.shape[1]))
