"""Terms that keep vectors of the same rows apart or together: distance correlation, InfoNCE and their rivals.

All work on g groups of n rows each, and return one value per group: a group never straddles devices, so that the mean
over groups does not depend on how many devices there are. Rows that do not count are masked; a group without enough
rows gives 0. Everything is float32 and at full precision, gradients are finite for equal rows and rows of zeros.
Memory is a few times g x n x n.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

_SMALL = 1e-12  # below it a square or a variance counts as 0, where its root has no slope
_MASKED = -1e30


def distance_correlation(
    x: Float[Array, "g n d"], y: Float[Array, "g n e"], mask: Bool[Array, "g n"], unbiased: bool = False
) -> Float[Array, " g"]:
    """How much two vectors of each row depend on each other (Szekely et al. 2007; eLiveRec Eq. 8).

    dCov / sqrt(dVar(X) dVar(Y)) with dCov(X, Y) = sqrt(mean(A * B)) of the double-centred distance matrices A and B.
    On few rows of many dimensions that is mostly bias: independent normals, 128 wide, give .82 for n = 256.

    Args:
        x: vectors.
        y: of the same rows, as wide or not.
        mask: True = a row that counts.
        unbiased: U-centred matrices (Szekely and Rizzo 2013): the estimate of the correlation's square, whose mean is 0
            for independent vectors; it can be negative, and no root is drawn. Needs four rows.

    Returns:
        [g] float32; at most 1, and 0 where x or y is the same in all rows.
    """
    centre = _unbiased_centre if unbiased else _centre
    a, b = (centre(_distances(of, mask), mask) for of in (x, y))
    covariance, x_variance, y_variance = ((s * t).sum(axis=(1, 2)) for s, t in ((a, b), (a, a), (b, b)))
    # Roots of each: their product could leave the range of float32.
    scale = _root(x_variance) * _root(y_variance)
    squared = jnp.where(scale > 0, covariance / jnp.where(scale > 0, scale, 1.0), 0.0)
    return squared if unbiased else _root(squared)


def contrastive(
    anchors: Float[Array, "g n d"],
    positives: Float[Array, "g n d"],
    user_ids: Int[Array, "g n"],
    mask: Bool[Array, "g n"],
    temperature: float = 0.5,
    symmetric: bool = False,
) -> Float[Array, " g"]:
    """InfoNCE: mean of -log(exp(s_ii) / sum_j exp(s_ij)), s = cosine / temperature (eLiveRec Eq. 9).

    The sum is over the row's own positive and the positives of other users' rows: a request has several rows of one
    user, whose vectors are no negatives of each other.

    Args:
        anchors: one per row.
        positives: what belongs to each anchor.
        user_ids: whose rows they are.
        mask: True = a row that counts: neither of its sequences is empty.
        temperature: of the cosines.
        symmetric: mean of this and the same with the two sides exchanged.
    """
    logits, others = _logits(anchors, positives, user_ids, mask, temperature)
    own = jnp.eye(mask.shape[1], dtype=bool)[None]
    allowed = jnp.where(others | own, logits, _MASKED)
    matching = jnp.diagonal(logits, axis1=1, axis2=2)
    losses = jax.nn.logsumexp(allowed, axis=2) - matching
    if symmetric:  # who is another user of whom is symmetric, too
        losses = (losses + jax.nn.logsumexp(allowed, axis=1) - matching) / 2
    return _mean(losses, mask)


def mutual_information(
    x: Float[Array, "g n d"],
    y: Float[Array, "g n d"],
    user_ids: Int[Array, "g n"],
    mask: Bool[Array, "g n"],
    temperature: float = 0.5,
) -> Float[Array, " g"]:
    """How much more alike two vectors of a row are than those of different users; to be minimised.

    Mean of s_ii - log mean_j exp(s_ij) over the j of other users, s = cosine / temperature: the leave-one-out bound
    (Poole et al. 2019, Eq. 12), from above if exp(s) were the conditional density up to a factor. It is `contrastive`,
    negated, with the row's own pair left out of the sum. For the ablation SR of eLiveRec's Table III, for which the
    paper says no estimator.

    Args:
        x: one per row.
        y: one per row.
        user_ids: whose rows they are.
        mask: True = a row that counts. Rows without another user in their group do not.
        temperature: of the cosines.
    """
    logits, others = _logits(x, y, user_ids, mask, temperature)
    count = others.sum(axis=2)
    mean = jax.nn.logsumexp(jnp.where(others, logits, _MASKED), axis=2) - jnp.log(jnp.maximum(count, 1))
    return _mean(jnp.diagonal(logits, axis1=1, axis2=2) - mean, mask & (count > 0))


def cosine_distance(x: Float[Array, "g n d"], y: Float[Array, "g n d"], mask: Bool[Array, "g n"]) -> Float[Array, " g"]:
    """Mean of 1 - cosine over the rows that count (instead of InfoNCE in eLiveRec's Table III)."""
    return _mean(1 - (_normalised(x) * _normalised(y)).sum(axis=2), mask)


def euclidean_distance(
    x: Float[Array, "g n d"], y: Float[Array, "g n d"], mask: Bool[Array, "g n"]
) -> Float[Array, " g"]:
    """Mean length of x - y over the rows that count (instead of InfoNCE in eLiveRec's Table III)."""
    return _mean(_root(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)).sum(axis=2)), mask)


def _root(values: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """sqrt, 0 with slope 0 below _SMALL."""
    is_positive = values > _SMALL
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, values, 1.0)), 0.0)


def _mean(values: Float[Array, "g n"], mask: Bool[Array, "g n"]) -> Float[Array, " g"]:
    count = jnp.maximum(mask.sum(axis=1, dtype=jnp.float32), 1.0)
    return jnp.where(mask, values, 0.0).sum(axis=1) / count


def _normalised(vectors: Float[Array, "g n d"]) -> Float[Array, "g n d"]:
    """Vectors of length 1; of zeros, zeros."""
    vectors = vectors.astype(jnp.float32)
    return vectors * lax.rsqrt(jnp.square(vectors).sum(axis=2, keepdims=True) + _SMALL)


def _inner_products(x: Float[Array, "g n d"], y: Float[Array, "g n d"]) -> Float[Array, "g n n"]:
    return jnp.einsum("gid,gjd->gij", x, y, precision=lax.Precision.HIGHEST)


def _logits(
    x: Float[Array, "g n d"],
    y: Float[Array, "g n d"],
    user_ids: Int[Array, "g n"],
    mask: Bool[Array, "g n"],
    temperature: float,
) -> tuple[Float[Array, "g n n"], Bool[Array, "g n n"]]:
    """Returns (cosines / temperature; whether j counts and is another user's than i)."""
    others = (user_ids[:, :, None] != user_ids[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    return _inner_products(_normalised(x), _normalised(y)) / temperature, others


def _distances(x: Float[Array, "g n d"], mask: Bool[Array, "g n"]) -> Float[Array, "g n n"]:
    """Distances of all pairs of rows that count, 0 of the others and of a row to itself.

    From inner products, of vectors around their mean: differences of large numbers would have few digits.
    """
    x = jnp.where(mask[:, :, None], x.astype(jnp.float32), 0.0)
    count = jnp.maximum(mask.sum(axis=1, dtype=jnp.float32), 1.0)
    x = jnp.where(mask[:, :, None], x - (x.sum(axis=1) / count[:, None])[:, None, :], 0.0)
    squares = jnp.square(x).sum(axis=2)
    squared = squares[:, :, None] + squares[:, None, :] - 2 * _inner_products(x, x)
    is_pair = _pairs(mask) & ~jnp.eye(mask.shape[1], dtype=bool)[None]
    return _root(jnp.where(is_pair, squared, 0.0))


def _pairs(mask: Bool[Array, "g n"]) -> Bool[Array, "g n n"]:
    return mask[:, :, None] & mask[:, None, :]


def _centre(distances: Float[Array, "g n n"], mask: Bool[Array, "g n"]) -> Float[Array, "g n n"]:
    """a_ij - mean of row i - mean of column j + mean of all, over the rows that count; 0 elsewhere."""
    count = jnp.maximum(mask.sum(axis=1, dtype=jnp.float32), 1.0)
    means = distances.sum(axis=2) / count[:, None]
    grand = (means.sum(axis=1) / count)[:, None, None]
    return jnp.where(_pairs(mask), distances - means[:, :, None] - means[:, None, :] + grand, 0.0)


def _unbiased_centre(distances: Float[Array, "g n n"], mask: Bool[Array, "g n"]) -> Float[Array, "g n n"]:
    """The same with n - 2 and (n - 1)(n - 2) in the place of n and n^2, and 0 on the diagonal."""
    count = mask.sum(axis=1, dtype=jnp.float32)
    less_one, less_two = (jnp.maximum(count - of, 1.0) for of in (1, 2))
    sums = distances.sum(axis=2)
    means = sums / less_two[:, None]
    grand = (sums.sum(axis=1) / (less_one * less_two))[:, None, None]
    is_pair = _pairs(mask) & ~jnp.eye(mask.shape[1], dtype=bool)[None] & (count >= 4)[:, None, None]
    return jnp.where(is_pair, distances - means[:, :, None] - means[:, None, :] + grand, 0.0)
