"""Negative sampling on device, and which of the drawn pairs count."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.nn import replicas


class Windows(NamedTuple):
    """When the positives happened and when targets were available, as ranks among all those times.

    Ranks keep every comparison of the float64 times exact, which float32 would not (seconds since 1970 lose minutes).

    Attributes:
        times: of each positive, [e] int32.
        starts, ends: half-open window of each target, [n] int32.
    """

    times: Int[Array, " e"]
    starts: Int[Array, " n"]
    ends: Int[Array, " n"]


def windows(times: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Windows:
    """Ranks times [e] and windows [n], float64 without NaN, and puts them on the device."""
    ordered = np.unique(np.concatenate([times, starts, ends]))
    return Windows(*(jnp.asarray(np.searchsorted(ordered, part), jnp.int32) for part in (times, starts, ends)))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["source_ids", "target_ids", "indptr", "windows"],
    meta_fields=["search_steps", "num_targets"],
)
@dataclasses.dataclass(frozen=True)
class PositiveEdges:
    """The training positives of one task.

    Attributes:
        source_ids, target_ids: [e] int32, sorted by source, then target.
        indptr: [m + 1] int32, where each source's edges start.
        search_steps: s bounds the binary search (static): 2^s > largest number of edges of a source.
        num_targets: number of target nodes, n (static).
        windows: when targets were available; None = always.
    """

    source_ids: Int[Array, " e"]
    target_ids: Int[Array, " e"]
    indptr: Int[Array, " m_plus_1"]
    search_steps: int
    num_targets: int
    windows: Windows | None = None


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
        int(counts.max()).bit_length(),
        num_targets,
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
    for _ in range(edges.search_steps):
        middle = (low + high) // 2
        go_right = (middle < high) & (edges.target_ids[jnp.minimum(middle, last)] < target_ids)
        low, high = jnp.where(go_right, middle + 1, low), jnp.where(go_right, high, middle)
    return (low < end) & (edges.target_ids[jnp.minimum(low, last)] == target_ids)


def negative_mask(
    edges: PositiveEdges, edge_ids: Int[Array, " b"], target_ids: Int[Array, "b m"]
) -> tuple[Bool[Array, "b m"], dict[str, Float[Array, ""]]]:
    """Which targets drawn for each positive count: no training positives, and available when the positive happened.

    Args:
        edges: training positives.
        edge_ids: rows' positions in them.
        target_ids: drawn for each row.

    Returns:
        (mask, shares for the log: "false_negatives", and with windows "unavailable_negatives").
    """
    mask = ~is_positive(edges, edges.source_ids[edge_ids], target_ids)
    shares = {"false_negatives": 1.0 - mask.mean()}
    if edges.windows is not None:
        times = edges.windows.times[edge_ids][:, None]
        is_available = (edges.windows.starts[target_ids] <= times) & (times < edges.windows.ends[target_ids])
        mask &= is_available
        shares["unavailable_negatives"] = 1.0 - is_available.mean()
    return mask, shares


def uniform_targets(key: Array, edges: PositiveEdges, num_rows: int, num_draws: int) -> Int[Array, "b m"]:
    """Draws targets uniformly, [num_rows, num_draws] int32; what does not count is not removed, see `negative_mask`.

    Each row of the whole batch has its own draws, on however many devices: each draws for all and keeps those of its
    rows.
    """
    shape = replicas.num_replicas() * num_rows, num_draws
    return replicas.own_rows(jax.random.randint(key, shape, 0, edges.num_targets, jnp.int32))


def draw_targets(
    key: Array, edges: PositiveEdges, num_rows: int, num_negatives: int, hardest_of: int, rows_per_draw: int
) -> Int[Array, "g k"]:
    """Draws the uniform candidates of `hardest_targets`, k = num_negatives x hardest_of for each group of rows."""
    return uniform_targets(key, edges, -(-num_rows // rows_per_draw), num_negatives * hardest_of)


def hardest_targets(
    predictor: Callable[[Array, Array], Array],
    sources: Float[Array, "b d"],
    draws: Int[Array, "g k"],
    drawn: Float[Array, "g k d"] | None,
    num_negatives: int,
    rows_per_draw: int,
) -> Int[Array, "b m"]:
    """Chooses m targets for every row, each the best-scored of an equal part of its group's draws.

    Known positives among the draws are likely to be chosen: the more draws, the more rows lose their negative to
    `negative_mask`.

    Args:
        predictor: (sources [g, r, d], targets [g, k, d]) -> scores [g, r, k]; gets no gradient here.
        sources: of the batch's rows.
        draws: from `draw_targets`.
        drawn: their vectors; not used (may be None) where there is nothing to choose: k = m.
        num_negatives: m.
        rows_per_draw: this many rows choose from the same draws.
    """
    num_rows, (num_groups, num_draws) = len(sources), draws.shape
    if num_draws == num_negatives:
        return jnp.repeat(draws, rows_per_draw, axis=0)[:num_rows]
    assert drawn is not None, "the choice needs the drawn targets' vectors"
    hardest_of = num_draws // num_negatives
    padding = num_groups * rows_per_draw - num_rows
    grouped = jnp.pad(sources, ((0, padding), (0, 0))).reshape(num_groups, rows_per_draw, -1)
    scores = jax.lax.stop_gradient(predictor(grouped, drawn))
    best = scores.reshape(num_groups, rows_per_draw, num_negatives, hardest_of).argmax(axis=3)
    first = hardest_of * jnp.arange(num_negatives)
    chosen = jnp.take_along_axis(draws[:, None, :], best + first[None, None, :], axis=2)
    return chosen.reshape(num_groups * rows_per_draw, num_negatives)[:num_rows]
