"""Negative sampling on device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


class PositiveEdges(NamedTuple):
    """The training positives of one task.

    Attributes:
        source_ids, target_ids: [e] int32, sorted by source, then target.
        indptr: [m + 1] int32, where each source's edges start.
        search_steps: [s] int32, zeros; s bounds the binary search (static): 2^s > largest number of edges of a source.
        num_targets: [n, 0] int32, empty: carries the number of target nodes n as a static shape.
    """

    source_ids: Int[Array, " e"]
    target_ids: Int[Array, " e"]
    indptr: Int[Array, " m_plus_1"]
    search_steps: Int[Array, " s"]
    num_targets: Int[Array, "n 0"]


def positive_edges(source_ids: np.ndarray, target_ids: np.ndarray, num_sources: int, num_targets: int) -> PositiveEdges:
    """Puts pairs on the device.

    Args:
        source_ids: [e] int, sorted.
        target_ids: [e] int, sorted within a source; each pair once.
        num_sources: m.
        num_targets: n.
    """
    counts = np.bincount(source_ids, minlength=num_sources)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return PositiveEdges(
        jnp.asarray(source_ids, jnp.int32),
        jnp.asarray(target_ids, jnp.int32),
        jnp.asarray(indptr, jnp.int32),
        jnp.zeros(int(counts.max()).bit_length(), jnp.int32),
        jnp.zeros((num_targets, 0), jnp.int32),
    )


def is_positive(
    edges: PositiveEdges, source_ids: Int[Array, " b"], target_ids: Int[Array, "b m"]
) -> Bool[Array, "b m"]:
    """Whether each pair is a training positive, exactly: a binary search in the source's sorted targets."""
    shape = target_ids.shape
    low = jnp.broadcast_to(edges.indptr[source_ids][:, None], shape)
    end = jnp.broadcast_to(edges.indptr[source_ids + 1][:, None], shape)
    last = edges.target_ids.shape[0] - 1
    high = end
    for _ in range(edges.search_steps.shape[0]):
        middle = (low + high) // 2
        go_right = (middle < high) & (edges.target_ids[jnp.minimum(middle, last)] < target_ids)
        low, high = jnp.where(go_right, middle + 1, low), jnp.where(go_right, high, middle)
    return (low < end) & (edges.target_ids[jnp.minimum(low, last)] == target_ids)


def uniform_targets(key: Array, edges: PositiveEdges, num_rows: int, num_draws: int) -> Int[Array, "b m"]:
    """Draws targets uniformly, [num_rows, num_draws] int32; known positives are not removed, see `is_positive`."""
    return jax.random.randint(key, (num_rows, num_draws), 0, edges.num_targets.shape[0], jnp.int32)
