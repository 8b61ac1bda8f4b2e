"""Bipartite graphs in parts for several devices: each has the edges that its own nodes receive.

Nodes are divided in order and in equal parts, as tables are. Parts have equal shapes: the part with the most edges says
how long the others' lists are, and what fills them up sends nothing. Numpy only; nothing here is traced.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lsec_jax.nn.propagation import BipartiteGraph, DividedGraph
from lsec_jax.nn.rows import Level, Rows, compressed_rows


def rows_per_part(num_rows: int, num_parts: int) -> int:
    """How many rows of a table a device has, those included that fill up the last part."""
    return -(-num_rows // num_parts)


def divide(graph: BipartiteGraph, num_parts: int, has_transposes: bool) -> DividedGraph:
    """Cuts a graph for the devices along one axis.

    Args:
        graph: the whole one.
        num_parts: p.
        has_transposes: keep the transpose of each part, for attention: neighbour sums need none, because the transpose
            of all parts together is the other direction.

    Returns:
        numpy arrays whose first axis is p times as long as each part's.
    """
    sides = []
    for rows, position, other in (
        (graph.to_source, graph.source_position, graph.to_target),
        (graph.to_target, graph.target_position, graph.to_source),
    ):
        num_senders = num_parts * rows_per_part(len(other.indptr) - 1, num_parts)
        sides.append(_divide_rows(rows, np.asarray(position), num_parts, num_senders, has_transposes))
    (to_source, source_position, of_source), (to_target, target_position, of_target) = sides
    transposes = None if of_source is None or of_target is None else (of_source, of_target)
    return DividedGraph(
        to_source,
        to_target,
        source_position,
        target_position,
        filled_up(graph.source_degrees, num_parts),
        filled_up(graph.target_degrees, num_parts),
        filled_up(graph.source_self, num_parts),
        filled_up(graph.target_self, num_parts),
        transposes,
    )


def _divide_rows(
    rows: Rows, position: np.ndarray, num_parts: int, num_senders: int, has_transposes: bool
) -> tuple[Rows, Any, Rows | None]:
    """One direction's parts one after the other, where each edge stands in them, and their transposes."""
    indptr, senders, values = (np.asarray(of) for of in (rows.indptr, rows.senders, rows.values))
    num_rows = len(indptr) - 1
    size = rows_per_part(num_rows, num_parts)
    ends = np.minimum(np.arange(num_parts + 1) * size, num_rows)
    starts = indptr[ends]
    longest = max(1, int(np.diff(starts).max()))
    parts, transposes = [], []
    for i in range(num_parts):
        edges, nodes = slice(starts[i], starts[i + 1]), indptr[ends[i] : ends[i + 1] + 1] - starts[i]
        counts = np.diff(nodes)
        receivers = np.repeat(np.arange(len(counts)), counts)
        order = np.lexsort((receivers, senders[edges])) if has_transposes else np.arange(0)
        inverse = np.empty(len(order), np.int64)
        inverse[order] = np.arange(len(order))
        parts.append(compressed_rows(receivers, senders[edges], values[edges], inverse, size))
        if has_transposes:
            own = senders[edges][order], receivers[order], values[edges][order]
            transposes.append(compressed_rows(*own, order, num_senders))
    part = np.asarray(rows.receivers)[position] // size
    places = part * longest + position - starts[part]
    stacked = _stacked(parts, longest)
    if not has_transposes:
        stacked = stacked._replace(twins=None)
    transposed = _stacked(transposes, longest) if has_transposes else None
    return stacked, filled_up(places.astype(np.int32), num_parts), transposed


def _stacked(parts: list[Rows], num_edges: int) -> Rows:
    """Rows of equal shapes one after the other."""
    num_levels = max(len(part.levels) for part in parts)
    num_rows = len(parts[0].indptr) - 1
    nothing = Level(jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32), jnp.full(num_rows, -1, jnp.int32))
    levels = []
    for number in range(num_levels):
        of_parts = [part.levels[number] if number < len(part.levels) else nothing for part in parts]
        size = max(len(level.starts) for level in of_parts)
        starts, lengths = (_joined([level[i] for level in of_parts], size, 0) for i in (0, 1))
        levels.append(Level(starts, lengths, _joined([level.position for level in of_parts], num_rows, 0)))
    return Rows(
        _joined([part.indptr for part in parts], num_rows + 1, 0),
        _joined([part.senders for part in parts], num_edges, 0),
        _joined([part.receivers for part in parts], num_edges, num_rows - 1),
        _joined([part.values for part in parts], num_edges, 0),
        _joined([part.twins for part in parts], num_edges, 0),
        tuple(levels),
    )


def _joined(arrays: list[Any], size: int, fill: int) -> Any:
    """Arrays one after the other, each filled up to a size."""
    host = [np.asarray(array) for array in jax.device_get(arrays)]
    return np.concatenate([np.pad(array, (0, size - len(array)), constant_values=fill) for array in host])


def filled_up(array: Array | np.ndarray, num_parts: int) -> Any:
    """Zeros (False) after the rows up to a multiple of the parts, [n, ...] -> [m, ...]."""
    host = np.asarray(array)
    return np.pad(host, (0, -len(host) % num_parts))
