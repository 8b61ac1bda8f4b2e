"""Ranking metrics of the two evaluation protocols, batched by user; pure and jittable.

One legend for both: AUC counts ties 1/2; every rank-based metric puts a positive below all negatives of equal score, so
that a constant scorer finds nothing; gains are binary, the discount of rank r is 1 / log2(r + 1), and the ideal DCG is
cut at K. A NaN score ranks last. Undefined values are NaN and are left to the caller to leave out and count.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# 2 x positives x negatives <= k^2 / 2 has to stay below 2^31 in the pair counts of AUC.
_MAX_CANDIDATES = 65_535
_GROUP = 16  # positives that are compared with all candidates at once


def candidate_metrics(
    scores: Float[Array, "b k"],
    labels: Bool[Array, "b k"],
    cutoffs: tuple[int, ...],
    max_positives: int | None = None,
) -> dict[str, Float[Array, " b"]]:
    """Metrics of the `candidates` protocol (Sec. 6.2 of LSEC-GNN), per user.

    Args:
        scores: higher is better; NaN ranks last.
        labels: True = positive.
        cutoffs: the K of the @K metrics.
        max_positives: at least the positives of any row; None = k. Only so many of a row are looked at. Each is
            compared with all k candidates, 16 at a time: memory is about 8 x 16 x b x k bytes, and the time in
            proportion to the most positives of a row here.

    Returns:
        float32 [b] each: "auc"; "mrr" = mean over the positives of 1 / rank; for every K "ndcg@K" and
        "recall@K" = positives among the first K / positives. A row without positives is NaN everywhere, a row
        without negatives is NaN in "auc".
    """
    _check_cutoffs(cutoffs)
    if scores.shape[1] > _MAX_CANDIDATES:
        raise ValueError(f"{scores.shape[1]} candidates a user; at most {_MAX_CANDIDATES} are counted exactly")
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores).astype(jnp.float32)
    width = scores.shape[1] if max_positives is None else min(max_positives, scores.shape[1])
    best, _ = lax.top_k(jnp.where(labels, scores, -jnp.inf), width)  # [b, p], descending, padding last
    others = jnp.where(labels, jnp.nan, scores)  # NaN compares as false
    num_positives = _count(labels)
    at_least, above = _count_better(others, best, num_positives.max(initial=0))
    num_negatives = scores.shape[1] - num_positives
    order = jnp.arange(1, width + 1, dtype=jnp.int32)[None, :]
    real = order <= num_positives[:, None]
    ranks = (at_least + order).astype(jnp.float32)

    wins_twice = jnp.where(real, 2 * num_negatives[:, None] - at_least - above, 0).sum(axis=1)
    reciprocal = jnp.where(real, 1 / ranks, 0).sum(axis=1)
    metrics = {
        "auc": _over(wins_twice, 2 * num_positives * num_negatives),
        "mrr": _over(reciprocal, num_positives),
    }
    for k in cutoffs:
        hits = real & (ranks <= k)
        metrics[f"ndcg@{k}"] = _over(_discounted_gain(hits, ranks), _ideal_dcg(num_positives, k))
        metrics[f"recall@{k}"] = _over(_count(hits), num_positives)
    return metrics


def full_ranking_metrics(
    negative_top: Float[Array, "b t"],
    positive_scores: Float[Array, "b p"],
    positive_mask: Bool[Array, "b p"],
    cutoffs: tuple[int, ...],
) -> dict[str, Float[Array, " b"]]:
    """Metrics of the `full_ranking` protocol, per user, from the best negatives alone.

    The rank of the j-th best positive is j + #(negatives with a score at least as high): exact for ranks up to the
    number of negatives given, and beyond every cutoff otherwise. No ids are needed.

    Args:
        negative_top: the best scores among items that are neither positive nor masked, descending; at least
            max(cutoffs) of them, -inf where there are fewer.
        positive_scores: scores of the positives, any order; NaN ranks last.
        positive_mask: True = a positive, False = padding.
        cutoffs: the K of the @K metrics.

    Returns:
        float32 [b] each, for every K: "recall@K" = hits / positives, "ndcg@K", "hit_rate@K", "mrr@K" = 1 / rank of
        the first hit or 0, "map@K" = sum of the precision at each hit / min(K, positives). NaN where a row has no
        positive.
    """
    _check_cutoffs(cutoffs)
    if negative_top.shape[1] < max(cutoffs):
        raise ValueError(f"{negative_top.shape[1]} best negatives are too few for a cutoff of {max(cutoffs)}")
    num_positives = positive_mask.sum(axis=1)
    usable = positive_mask & ~jnp.isnan(positive_scores)
    best = jnp.where(usable, positive_scores, -jnp.inf).astype(jnp.float32)
    best, _ = lax.top_k(best, min(max(cutoffs), best.shape[1]))  # [b, j], descending, padding last
    order = jnp.arange(1, best.shape[1] + 1, dtype=jnp.int32)[None, :]
    num_better = _count(negative_top[:, None, :] >= best[:, :, None])
    ranks = (num_better + order).astype(jnp.float32)  # [b, j]
    real = order <= num_positives[:, None]
    has_positive = (num_positives > 0).astype(jnp.int32)

    metrics = {}
    for k in cutoffs:
        hits = real & (ranks <= k)
        precision_sum = jnp.where(hits, order / ranks, 0).sum(axis=1)
        metrics[f"recall@{k}"] = _over(hits.sum(axis=1), num_positives)
        metrics[f"ndcg@{k}"] = _over(_discounted_gain(hits, ranks), _ideal_dcg(num_positives, k))
        metrics[f"hit_rate@{k}"] = _over(hits[:, 0], has_positive)
        metrics[f"mrr@{k}"] = _over(jnp.where(hits[:, 0], 1 / ranks[:, 0], 0), has_positive)
        metrics[f"map@{k}"] = _over(precision_sum, jnp.minimum(num_positives, k))
    return metrics


def metric_names(protocol: str, cutoffs: tuple[int, ...]) -> tuple[str, ...]:
    """The names of a protocol's metrics."""
    if protocol == "candidates":
        return ("auc", "mrr", *(f"{name}@{k}" for k in cutoffs for name in ("ndcg", "recall")))
    return tuple(f"{name}@{k}" for k in cutoffs for name in ("recall", "ndcg", "hit_rate", "mrr", "map"))


def _count_better(
    others: Float[Array, "b k"], positives: Float[Array, "b p"], most: Int[Array, ""]
) -> tuple[Int[Array, "b p"], Int[Array, "b p"]]:
    """How many others score at least as high as each positive, and higher; beyond the groups of the first `most`, 0."""

    def compare(group: Float[Array, "b g"]) -> tuple[Array, Array]:
        at_least, above = others[:, None, :] >= group[:, :, None], others[:, None, :] > group[:, :, None]
        return _count(at_least), _count(above)

    if positives.shape[1] <= _GROUP:
        return compare(positives)

    def step(i: Array, counts: tuple[Array, Array]) -> tuple[Array, Array]:
        found = compare(lax.dynamic_slice_in_dim(padded, i * _GROUP, _GROUP, axis=1))
        at_least, above = (
            lax.dynamic_update_slice_in_dim(whole, part, i * _GROUP, axis=1)
            for whole, part in zip(counts, found, strict=True)
        )
        return at_least, above

    padded = jnp.pad(positives, ((0, 0), (0, -positives.shape[1] % _GROUP)))
    none = jnp.zeros(padded.shape, jnp.int32)
    at_least, above = lax.fori_loop(0, -(-most // _GROUP), step, (none, none))
    return at_least[:, : positives.shape[1]], above[:, : positives.shape[1]]


def _count(mask: Bool[Array, "*b k"]) -> Int[Array, "*b"]:
    return mask.sum(axis=-1, dtype=jnp.int32)


def _discounted_gain(hits: Bool[Array, "b p"], ranks: Float[Array, "b p"]) -> Float[Array, " b"]:
    return jnp.where(hits, 1 / jnp.log2(ranks + 1), 0).sum(axis=1)


def _over(total: Array, count: Array) -> Float[Array, " b"]:
    """Divides in float32, NaN where the count is zero."""
    defined = count > 0
    ratio = total.astype(jnp.float32) / jnp.where(defined, count, 1).astype(jnp.float32)
    return jnp.where(defined, ratio, jnp.nan)


def _ideal_dcg(num_positives: Int[Array, " b"], k: int) -> Float[Array, " b"]:
    table = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))]).astype(np.float32)
    return jnp.asarray(table)[jnp.minimum(num_positives, k)]


def _check_cutoffs(cutoffs: tuple[int, ...]) -> None:
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cutoffs must be positive and at least one, got {cutoffs}")
