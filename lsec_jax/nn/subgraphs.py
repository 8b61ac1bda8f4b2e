"""Sampled subgraphs with fixed fan-outs: messages for a selection of nodes, in static shapes, drawn on the device.

Hamilton et al., "Inductive Representation Learning on Large Graphs", NeurIPS 2017 (GraphSAGE, Alg. 2). From the nodes
that a step asks for, each layer adds the neighbours drawn for the one above. A node with at most `fanout` neighbours
takes all of them, so that wide fan-outs give the whole graph's sums; of more neighbours it draws `fanout`, one from
each of as many parts of its list, and counts each as often as its part is long: the sum is right on average.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.nn.propagation import BipartiteGraph, degree_scales, edge_weights, propagate
from lsec_jax.nn.rows import Backend, Rows


class Neighbors(NamedTuple):
    """Messages to r receivers, f slots each.

    Attributes:
        senders: positions among the other side's vectors, [r, f] int32.
        values: weights, times `counts`; 0 = no message, [r, f] float32.
        counts: how many neighbours each slot stands for, itself included, [r, f] float32.
    """

    senders: Int[Array, "r f"]
    values: Float[Array, "r f"]
    counts: Float[Array, "r f"]


class SampledGraph(NamedTuple):
    """What one layer needs in place of a BipartiteGraph: it has vectors of m' and n' nodes and gives those of r and q.

    Attributes:
        to_source, to_target: messages to the r sources and q targets.
        source_position, target_position: where those nodes stand among the layer's own input, [r], [q] int32.
        source_self, target_self: weights of their messages to themselves, [r], [q].
    """

    to_source: Neighbors
    to_target: Neighbors
    source_position: Int[Array, " r"]
    target_position: Int[Array, " q"]
    source_self: Float[Array, " r"]
    target_self: Float[Array, " q"]


class Selection(NamedTuple):
    """Some nodes of one type.

    Attributes:
        ids: ascending, padded with the number of nodes, [s] int32.
        position: where each node of the type stands in `ids`, if it does, [n] int32.
    """

    ids: Int[Array, " s"]
    position: Int[Array, " n"]


class Excluded(NamedTuple):
    """Edges that send nothing, and how that scales the values of the others.

    Attributes:
        to_source, to_target: where they stand in the graph's two lists of edges, each once, ascending, padded with the
            number of edges, [b] int32.
        source_scale, target_scale: degrees divided by those that remain, [m], [n].
    """

    to_source: Int[Array, " b"]
    to_target: Int[Array, " b"]
    source_scale: Float[Array, " m"]
    target_scale: Float[Array, " n"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["to_source", "to_target"])
@dataclasses.dataclass(frozen=True)
class Fanout:
    """Slots per receiving node; static: it decides shapes.

    Attributes:
        to_source: of a source node.
        to_target: of a target node.
    """

    to_source: int
    to_target: int


def quantile_fanout(
    source_ids: np.ndarray,
    target_ids: np.ndarray,
    num_sources: int,
    num_targets: int,
    quantile: float,
    limits: tuple[int, int] = (4, 512),
) -> Fanout:
    """The quantile of each side's degrees, nodes without edges included, within limits (LSEC-GNN Sec. 6.2.3).

    Args:
        source_ids: sources of the training edges, [e].
        target_ids: their targets, [e].
        num_sources: m.
        num_targets: n.
        quantile: p, in (0, 1].
        limits: smallest and largest fan-out.
    """
    degrees = np.bincount(source_ids, minlength=num_sources), np.bincount(target_ids, minlength=num_targets)
    return Fanout(*(int(np.clip(np.ceil(np.quantile(of, quantile)), *limits)) for of in degrees))


def select(mask: Bool[Array, " n"], size: int) -> Selection:
    """Lists the nodes of a mask; `size` must be at least their number."""
    ids = jnp.nonzero(mask, size=size, fill_value=mask.shape[0])[0]
    return Selection(ids.astype(jnp.int32), jnp.cumsum(mask, dtype=jnp.int32) - 1)


def select_ids(ids: Sequence[Int[Array, "..."]], num_nodes: int) -> Selection:
    """Lists the different nodes among some ids; of no ids, a selection that holds padding only."""
    mask = jnp.zeros(num_nodes, bool)
    for some in ids:
        mask = mask.at[some].set(True)
    return select(mask, max(1, min(num_nodes, sum(some.size for some in ids))))


def rows_of(vectors: Float[Array, "n d"], selection: Selection) -> Float[Array, "s d"]:
    """The selection's rows of a table; padding repeats the last row, which nothing refers to."""
    return vectors[jnp.minimum(selection.ids, vectors.shape[0] - 1)]


def exclude_from_draws(graph: BipartiteGraph, edge_ids: Int[Array, " b"], renormalize: bool = True) -> Excluded:
    """Leaves edges out of `sample_layers` as `exclude_edges` does out of a whole graph.

    Memory and time grow with the edges that are left out and with the nodes (the scales), not with the other edges.
    Remaining degrees are differences here, in float32: where edge weights differ so much that what remains of a node is
    less than about 1e-4 of its degree, only few digits of it are right. Without weights it does not happen.

    Args:
        graph: the training graph.
        edge_ids: positions in the GraphsTuple that the graph was made from; duplicates are fine.
        renormalize: as in `exclude_edges`.
    """
    num_edges = len(graph.source_position)
    distinct = jnp.unique(edge_ids, size=len(edge_ids), fill_value=num_edges)
    to_source, to_target = (
        jnp.sort(position.at[distinct].get(mode="fill", fill_value=num_edges))
        for position in (graph.source_position, graph.target_position)
    )
    if not renormalize:
        return Excluded(to_source, to_target, jnp.ones_like(graph.source_degrees), jnp.ones_like(graph.target_degrees))
    rows = graph.to_source
    sources, targets = rows.receivers[to_source], rows.senders[to_source]  # of padding the last edge's, with value 0
    values = rows.values.at[to_source].get(mode="fill", fill_value=0.0)
    values *= graph.source_factors[sources] * graph.target_factors[targets]
    weights = edge_weights(values, graph.source_degrees[sources], graph.target_degrees[targets])
    source_scale = degree_scales(graph.source_degrees, graph.source_degrees.at[sources].add(-weights))
    target_scale = degree_scales(graph.target_degrees, graph.target_degrees.at[targets].add(-weights))
    return Excluded(to_source, to_target, source_scale, target_scale)


def sample_layers(
    key: Array,
    graph: BipartiteGraph,
    sources: Selection,
    targets: Selection,
    fanout: Fanout,
    num_layers: int,
    excluded: Excluded | None = None,
) -> tuple[list[SampledGraph], Selection, Selection]:
    """Draws the messages of all layers, from the last to the first.

    Memory and time grow with what is drawn, and a little with the nodes (a mask per layer), not with the edges.

    Args:
        key: of the draws.
        graph: to draw from; edges of value 0 send nothing.
        sources: source nodes whose vectors are asked for.
        targets: target nodes whose vectors are asked for.
        fanout: of every layer.
        num_layers: how many.
        excluded: edges that send nothing; slots that draw one stay empty, and the others stand for those that remain.

    Returns:
        (one SampledGraph per layer, the first layer first; the sources and the targets whose input vectors it needs).
    """
    layers: list[SampledGraph] = []
    source_self, target_self = graph.source_self, graph.target_self
    if excluded is not None:
        source_self, target_self = source_self * excluded.source_scale, target_self * excluded.target_scale
    for layer_key in jax.random.split(key, num_layers):
        to_source, to_target = _draw_both_ways(layer_key, graph, sources, targets, fanout, excluded)
        more_sources, more_targets = _with_senders(sources, to_target), _with_senders(targets, to_source)
        layers.append(
            SampledGraph(
                to_source._replace(senders=_positions(more_targets, to_source.senders)),
                to_target._replace(senders=_positions(more_sources, to_target.senders)),
                _positions(more_sources, sources.ids),
                _positions(more_targets, targets.ids),
                _at(source_self, sources.ids),
                _at(target_self, targets.ids),
            )
        )
        sources, targets = more_sources, more_targets
    return layers[::-1], sources, targets


def draw_slots(key: Array, degrees: Int[Array, " r"], fanout: int) -> tuple[Int[Array, "r f"], Int[Array, "r f"]]:
    """Cuts each receiver's list of neighbours into `fanout` parts of almost equal length and draws one of each.

    Args:
        key: of the draws.
        degrees: lengths of the lists.
        fanout: f.

    Returns:
        (what was drawn, as offsets in the lists; how long their parts are, 0 for the parts that a short list lacks).
    """
    slots = jnp.arange(fanout, dtype=jnp.int32)[None, :]
    length, longer_parts = (part[:, None] for part in jnp.divmod(degrees, fanout))
    sizes = length + (slots < longer_parts)
    starts = slots * length + jnp.minimum(slots, longer_parts)  # all in integers: float32 has no odd numbers from 2^24
    return starts + jax.random.randint(key, sizes.shape, 0, sizes), sizes


def _draw_both_ways(
    key: Array,
    graph: BipartiteGraph,
    sources: Selection,
    targets: Selection,
    fanout: Fanout,
    excluded: Excluded | None,
) -> tuple[Neighbors, Neighbors]:
    """Draws one layer's messages to the sources and to the targets; senders are node ids here."""
    source_key, target_key = jax.random.split(key)
    to_source, source_edges = _draw(source_key, graph.to_source, sources.ids, fanout.to_source)
    to_target, target_edges = _draw(target_key, graph.to_target, targets.ids, fanout.to_target)
    source_factors, target_factors = graph.source_factors, graph.target_factors
    if excluded is not None:
        source_factors = source_factors * jnp.sqrt(excluded.source_scale)
        target_factors = target_factors * jnp.sqrt(excluded.target_scale)
        to_source = _without(to_source, source_edges, excluded.to_source)
        to_target = _without(to_target, target_edges, excluded.to_target)
    return (
        _scaled(to_source, _at(source_factors, sources.ids), target_factors),
        _scaled(to_target, _at(target_factors, targets.ids), source_factors),
    )


def _draw(
    key: Array, rows: Rows, receivers: Int[Array, " r"], fanout: int
) -> tuple[Neighbors, Int[Array, "r {fanout}"]]:
    """Draws slots, and says which edge each holds."""
    is_node = receivers < rows.indptr.shape[0] - 1
    start = rows.indptr[receivers]
    degrees = jnp.where(is_node, rows.indptr[receivers + 1] - start, 0)  # padding reads past the end: clamped
    offsets, sizes = draw_slots(key, degrees, fanout)
    edges = jnp.where(sizes > 0, start[:, None] + offsets, 0)
    counts = sizes.astype(jnp.float32)
    return Neighbors(rows.senders[edges], rows.values[edges] * counts, counts), edges


def _without(neighbors: Neighbors, edges: Int[Array, "r f"], excluded: Int[Array, " b"]) -> Neighbors:
    """Empties the slots that hold excluded edges."""
    is_kept = excluded[jnp.searchsorted(excluded, edges)] != edges  # past the end: clamped, to an edge before this one
    return neighbors._replace(values=jnp.where(is_kept, neighbors.values, 0.0))


def _scaled(
    neighbors: Neighbors, receiver_factors: Float[Array, " r"], sender_factors: Float[Array, " n"]
) -> Neighbors:
    """Gives the slots the values of the degrees that remain."""
    factors = receiver_factors[:, None] * sender_factors[neighbors.senders]
    return neighbors._replace(values=neighbors.values * factors)


def _with_senders(selection: Selection, neighbors: Neighbors) -> Selection:
    """The selection and everybody who sends to the other side."""
    num_nodes, (num_receivers, fanout) = len(selection.position), neighbors.senders.shape
    mask = jnp.zeros(num_nodes, bool).at[selection.ids].set(True, mode="drop")
    sending = jnp.where(neighbors.values != 0, neighbors.senders, num_nodes)
    mask = mask.at[sending.ravel()].set(True, mode="drop")
    return select(mask, min(num_nodes, len(selection.ids) + num_receivers * fanout))


def _positions(selection: Selection, ids: Int[Array, "*s"]) -> Int[Array, "*s"]:
    """Positions of node ids; padding and slots without a message get any valid position."""
    return jnp.maximum(selection.position[jnp.minimum(ids, len(selection.position) - 1)], 0)


def _at(values: Float[Array, " n"], ids: Int[Array, " s"]) -> Float[Array, " s"]:
    return values[jnp.minimum(ids, len(values) - 1)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def gather_sum(
    senders: Int[Array, "r f"], values: Float[Array, "r f"], vectors: Float[Array, "n d"], learnt_values: bool
) -> Float[Array, "r d"]:
    """Sums each receiver's weighted messages, slot by slot: no [r, f, d] array in either direction.

    Args:
        senders: rows of `vectors`.
        values: weights.
        vectors: of the senders.
        learnt_values: whether the weights get a gradient; it costs a second gather.
    """

    def add_slot(slot: Array, total: Array) -> Array:
        return total + values[:, slot][:, None] * vectors[senders[:, slot]]

    start = jnp.zeros((senders.shape[0], vectors.shape[1]), vectors.dtype)
    return jax.lax.fori_loop(0, senders.shape[1], add_slot, start)


def _gather_sum_forward(
    senders: Array, values: Array, vectors: Array, learnt_values: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
    return gather_sum(senders, values, vectors, learnt_values), (senders, values, vectors)


def _gather_sum_backward(
    learnt_values: bool, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[None, Array | None, Array]:
    senders, values, vectors = saved

    def add_slot(slot: Array, total: Array) -> Array:
        return total.at[senders[:, slot]].add(values[:, slot][:, None] * cotangent)

    def slot_dots(slot: Array) -> Array:
        return jnp.sum(cotangent * vectors[senders[:, slot]], axis=1)

    to_vectors = jax.lax.fori_loop(0, senders.shape[1], add_slot, jnp.zeros_like(vectors))
    to_values = jax.lax.map(slot_dots, jnp.arange(senders.shape[1])).T if learnt_values else None
    return None, to_values, to_vectors


gather_sum.defvjp(_gather_sum_forward, _gather_sum_backward)


def neighbor_sums(
    graph: BipartiteGraph | SampledGraph,
    sources: Float[Array, "m d"],
    targets: Float[Array, "n d"],
    backend: Backend = "auto",
) -> tuple[Float[Array, "r d"], Float[Array, "q d"]]:
    """`propagate` on a whole graph, or the sampled messages of one layer."""
    if isinstance(graph, BipartiteGraph):
        return propagate(graph, sources, targets, backend)
    to_sources = gather_sum(graph.to_source.senders, graph.to_source.values, targets, False)
    return to_sources, gather_sum(graph.to_target.senders, graph.to_target.values, sources, False)


def receivers(
    graph: BipartiteGraph | SampledGraph, sources: Float[Array, "m ..."], targets: Float[Array, "n ..."]
) -> tuple[Float[Array, "r ..."], Float[Array, "q ..."]]:
    """The rows of a layer's input that belong to the nodes of its output: all of them on a whole graph."""
    if isinstance(graph, BipartiteGraph):
        return sources, targets
    return sources[graph.source_position], targets[graph.target_position]
