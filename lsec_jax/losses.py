"""Losses over one positive and m sampled negatives per row; pure array functions.

Where a batch is divided over devices (`nn/replicas.py`), means are over the whole batch: a device's loss is its sum
divided by its share of everybody's count, and the mean of all devices' losses is the batch's.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lsec_jax.nn import replicas


def binary_cross_entropy(
    positive: Float[Array, " b"], negative: Float[Array, "b m"], negative_mask: Bool[Array, "b m"]
) -> Float[Array, ""]:
    """Mean log loss over all positives and the unmasked negatives (LSEC-GNN Eq. 9-10), from logits.

    Args:
        positive: logits of observed pairs.
        negative: logits of sampled pairs.
        negative_mask: False where a sampled pair is known to be a positive and must not count.
    """
    mask = negative_mask.astype(jnp.float32)
    total = -jax.nn.log_sigmoid(positive).sum() - (jax.nn.log_sigmoid(-negative) * mask).sum()
    return total / (positive.shape[0] + replicas.mean(mask.sum()))


def bayesian_personalized_ranking(
    positive: Float[Array, " b"], negative: Float[Array, "b m"], negative_mask: Bool[Array, "b m"]
) -> Float[Array, ""]:
    """Mean of -log sigmoid(positive - negative) over the unmasked pairs (Rendle et al. 2009)."""
    mask = negative_mask.astype(jnp.float32)
    losses = -jax.nn.log_sigmoid(positive[:, None] - negative)
    return (losses * mask).sum() / jnp.maximum(replicas.mean(mask.sum()), 1.0 / replicas.num_replicas())


def sampled_softmax(
    positive: Float[Array, " b"], negative: Float[Array, "b m"], negative_mask: Bool[Array, "b m"]
) -> Float[Array, ""]:
    """Mean of -log softmax of the positive among itself and its unmasked negatives (Bengio and Senecal 2008).

    Uniform negatives need no correction: their log probability is a constant that cancels. Negatives chosen by their
    scores make it a heuristic.
    """
    masked = jnp.where(negative_mask, negative, -jnp.inf)
    logits = jnp.concatenate([positive[:, None], masked], axis=1)
    return -jax.nn.log_softmax(logits, axis=1)[:, 0].mean()


def mean_squared_norm(*vectors: Float[Array, "..."], num_rows: int) -> Float[Array, ""]:
    """Half the sum of squares of all vectors, divided by the number of rows of the batch (the L2 term of LightGCN)."""
    total = jnp.zeros(())
    for rows in vectors:
        total += jnp.square(rows.astype(jnp.float32)).sum()
    return 0.5 * total / num_rows
