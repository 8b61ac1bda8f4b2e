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

from lsec_jax.nn import replicas
from lsec_jax.nn.hashed_bits import hashed_bits
from lsec_jax.nn.propagation import BipartiteGraph, degree_scales, edge_weights, propagate
from lsec_jax.nn.rows import Backend, Rows
from lsec_jax.nn.slots import gather_sum


class Neighbors(NamedTuple):
    """Messages to r receivers, f slots each.

    Attributes:
        senders: positions among the other side's vectors, [r, f] int32.
        values: weights, times `counts`; 0 = no message, [r, f] float32.
        counts: how many neighbours each slot stands for, itself included, [r, f] float32; None where not asked for.
    """

    senders: Int[Array, "r f"]
    values: Float[Array, "r f"]
    counts: Float[Array, "r f"] | None


class SampledGraph(NamedTuple):
    """What one layer needs in place of a BipartiteGraph: it has vectors of m' and n' nodes and gives those of r and q.

    Attributes:
        to_source, to_target: messages to the r sources and q targets.
        source_position, target_position: where those nodes stand among the layer's own input, [r], [q] int32; None:
            they are that input.
        source_self, target_self: weights of their messages to themselves, [r], [q].
    """

    to_source: Neighbors
    to_target: Neighbors
    source_position: Int[Array, " r"] | None
    target_position: Int[Array, " q"] | None
    source_self: Float[Array, " r"]
    target_self: Float[Array, " q"]


class Selection(NamedTuple):
    """Some nodes of one type.

    Attributes:
        ids: ascending, padded with the number of nodes, [s] int32.
        position: where each node of the type stands in `ids`, if it does, [n] int32; None: all nodes are selected.
    """

    ids: Int[Array, " s"]
    position: Int[Array, " n"] | None

    def places(self, ids: Int[Array, "*s"]) -> Int[Array, "*s"]:
        """Where nodes of the selection stand in it; of others, any place."""
        return ids if self.position is None else self.position[ids]

    def take(self, vectors: Float[Array, "s d"], ids: Int[Array, "*t"]) -> Float[Array, "*t d"]:
        """Rows of nodes of the selection, from its vectors."""
        return vectors[self.places(ids)]


class Sample(NamedTuple):
    """The messages of all layers.

    Attributes:
        layers: the first layer first.
        sources, targets: the nodes whose input vectors the first layer needs.
    """

    layers: list[SampledGraph]
    sources: Selection
    targets: Selection


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


def select_all(num_nodes: int) -> Selection:
    """Selects all nodes: what has room for all of them anyway need not look for those that are asked for."""
    return Selection(jnp.arange(num_nodes, dtype=jnp.int32), None)


def select_ids(ids: Sequence[Int[Array, "..."]], num_nodes: int) -> Selection:
    """Lists the different nodes among some ids, or all nodes if the ids are as many.

    Of no ids, a selection that holds padding only.
    """
    size = max(1, sum(some.size for some in ids))
    if size >= num_nodes and ids:
        return select_all(num_nodes)
    mask = jnp.zeros(num_nodes, bool)
    for some in ids:
        mask = mask.at[some].set(True)
    return select(mask, min(num_nodes, size))


def rows_of(vectors: Float[Array, "n d"], selection: Selection) -> Float[Array, "s d"]:
    """The selection's rows of a table; padding repeats the last row, which nothing refers to."""
    if selection.position is None:
        return replicas.all_nodes(vectors)[: len(selection.ids)]
    last = replicas.num_shards() * vectors.shape[0] - 1
    return replicas.take(vectors, jnp.minimum(selection.ids, last))


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
    keeps_counts: bool = True,
) -> Sample:
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
        keeps_counts: attention needs the slots' counts, sums do not.
    """
    layers: list[SampledGraph] = []
    source_self, target_self = graph.source_self, graph.target_self
    if excluded is not None:
        source_self, target_self = source_self * excluded.source_scale, target_self * excluded.target_scale
    for layer_key in jax.random.split(key, num_layers):
        to_source, to_target = _draw_both_ways(layer_key, graph, sources, targets, fanout, excluded)
        if not keeps_counts:
            to_source, to_target = to_source._replace(counts=None), to_target._replace(counts=None)
        more_sources, more_targets = _with_senders(sources, to_target), _with_senders(targets, to_source)
        layers.append(
            SampledGraph(
                to_source._replace(senders=_positions(more_targets, to_source.senders)),
                to_target._replace(senders=_positions(more_sources, to_target.senders)),
                _receiver_positions(more_sources, sources),
                _receiver_positions(more_targets, targets),
                _at(source_self, sources.ids),
                _at(target_self, targets.ids),
            )
        )
        sources, targets = more_sources, more_targets
    return Sample(layers[::-1], sources, targets)


def draw_slots(
    key: Array, ids: Int[Array, " r"], degrees: Int[Array, " r"], fanout: int
) -> tuple[Int[Array, "r f"], Int[Array, "r f"]]:
    """Cuts each receiver's list of neighbours into `fanout` parts of almost equal length and draws one of each.

    Args:
        key: of the draws.
        ids: of the receivers. A node draws the same whichever others are asked for, so on any device.
        degrees: lengths of the lists.
        fanout: f.

    Returns:
        (what was drawn, as offsets in the lists; how long their parts are, 0 for the parts that a short list lacks).
    """
    slots = jnp.arange(fanout, dtype=jnp.int32)[None, :]
    length, longer_parts = (part[:, None] for part in jnp.divmod(degrees, fanout))
    sizes = length + (slots < longer_parts)
    starts = slots * length + jnp.minimum(slots, longer_parts)  # all in integers: float32 has no odd numbers from 2^24
    return starts + _below(key, ids[:, None] * fanout + slots, sizes), sizes


def _below(key: Array, places: Int[Array, "r f"], limits: Int[Array, "r f"]) -> Int[Array, "r f"]:
    """Draws whole numbers in [0, limit), 0 where the limit is 0.

    A hash of each number's place scaled by the limit; what is not uniform is below limit / 2^32.
    """
    first, second = jax.random.bits(key, (2,))
    bits = hashed_bits(places, first, second)
    # The upper word of bits * limit, from products of half words: jax has no 64-bit integers unless asked.
    limit, half = limits.astype(jnp.uint32), jnp.uint32(0xFFFF)
    middle = (bits >> 16) * (limit & half) + ((bits & half) * (limit & half) >> 16)
    rest = (bits & half) * (limit >> 16) + (middle & half)
    return ((bits >> 16) * (limit >> 16) + (middle >> 16) + (rest >> 16)).astype(jnp.int32)


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
    skipped = (None, None) if excluded is None else (excluded.to_source, excluded.to_target)
    to_source = _draw(source_key, graph.to_source, sources, fanout.to_source, skipped[0])
    to_target = _draw(target_key, graph.to_target, targets, fanout.to_target, skipped[1])
    if excluded is None:
        return to_source, to_target
    source_factors, target_factors = jnp.sqrt(excluded.source_scale), jnp.sqrt(excluded.target_scale)
    return (
        _scaled(to_source, _at(source_factors, sources.ids), target_factors),
        _scaled(to_target, _at(target_factors, targets.ids), source_factors),
    )


def _draw(key: Array, rows: Rows, receivers: Selection, fanout: int, excluded: Int[Array, " b"] | None) -> Neighbors:
    """Draws slots; those that drew an excluded edge stay empty."""
    is_node = receivers.ids < rows.indptr.shape[0] - 1
    start = rows.indptr[receivers.ids]
    degrees = jnp.where(is_node, rows.indptr[receivers.ids + 1] - start, 0)  # padding reads past the end: clamped
    offsets, sizes = draw_slots(key, receivers.ids, degrees, fanout)
    edges = jnp.where(sizes > 0, start[:, None] + offsets, 0)
    counts = sizes.astype(jnp.float32)
    values = rows.values[edges] * counts
    if excluded is not None:
        values = _without(values, edges, rows, receivers, excluded)
    return Neighbors(rows.senders[edges], values, counts)


def _without(
    values: Float[Array, "r f"],
    edges: Int[Array, "r f"],
    rows: Rows,
    receivers: Selection,
    excluded: Int[Array, " b"],
) -> Float[Array, "r f"]:
    """Empties the slots that hold excluded edges: for each edge, the one slot that could have drawn it."""
    num_receivers, fanout = edges.shape
    nodes = rows.receivers[excluded]  # of padding the last edge's: it is no edge, and no slot holds it
    place = jnp.minimum(receivers.places(nodes), num_receivers - 1)
    offset = excluded - rows.indptr[nodes]
    length, longer_parts = jnp.divmod(rows.indptr[nodes + 1] - rows.indptr[nodes], fanout)
    in_longer = longer_parts * (length + 1)
    slot = jnp.where(
        offset < in_longer, offset // (length + 1), longer_parts + (offset - in_longer) // jnp.maximum(length, 1)
    )
    slot = jnp.clip(slot, 0, fanout - 1)
    # A receiver that is not selected has another one's place, whose slots hold none of its edges.
    place = jnp.where(edges[place, slot] == excluded, place, num_receivers)
    return values.at[place, slot].set(0.0, mode="drop")


def _scaled(
    neighbors: Neighbors, receiver_factors: Float[Array, " r"], sender_factors: Float[Array, " n"]
) -> Neighbors:
    """Gives the slots the values of the degrees that remain."""
    factors = receiver_factors[:, None] * sender_factors[neighbors.senders]
    return neighbors._replace(values=neighbors.values * factors)


def _with_senders(selection: Selection, neighbors: Neighbors) -> Selection:
    """The selection and everybody who sends to the other side."""
    if selection.position is None:
        return selection
    num_nodes, (num_receivers, fanout) = len(selection.position), neighbors.senders.shape
    size = len(selection.ids) + num_receivers * fanout
    if size >= num_nodes:
        return select_all(num_nodes)
    mask = jnp.zeros(num_nodes, bool).at[selection.ids].set(True, mode="drop")
    sending = jnp.where(neighbors.values != 0, neighbors.senders, num_nodes)
    return select(mask.at[sending.ravel()].set(True, mode="drop"), size)


def _positions(selection: Selection, ids: Int[Array, "*s"]) -> Int[Array, "*s"]:
    """Positions of node ids; padding and slots without a message get any valid position."""
    num_nodes = len(selection.ids) if selection.position is None else len(selection.position)
    return jnp.maximum(selection.places(jnp.minimum(ids, num_nodes - 1)), 0)


def _receiver_positions(selection: Selection, receivers: Selection) -> Int[Array, " r"] | None:
    """Where a layer's receivers stand in its input; None where both are all nodes."""
    return None if receivers.position is None else _positions(selection, receivers.ids)


def _at(values: Float[Array, " n"], ids: Int[Array, " s"]) -> Float[Array, " s"]:
    return values[jnp.minimum(ids, len(values) - 1)]


def neighbor_sums(
    graph: BipartiteGraph | SampledGraph,
    sources: Float[Array, "m d"],
    targets: Float[Array, "n d"],
    backend: Backend = "auto",
) -> tuple[Float[Array, "r d"], Float[Array, "q d"]]:
    """`propagate` on a whole graph, or the sampled messages of one layer."""
    if isinstance(graph, BipartiteGraph):
        return propagate(graph, sources, targets, backend)
    to_sources = gather_sum(graph.to_source.senders, graph.to_source.values, targets, False, backend)
    return to_sources, gather_sum(graph.to_target.senders, graph.to_target.values, sources, False, backend)


def receivers(
    graph: BipartiteGraph | SampledGraph, sources: Float[Array, "m ..."], targets: Float[Array, "n ..."]
) -> tuple[Float[Array, "r ..."], Float[Array, "q ..."]]:
    """The rows of a layer's input that belong to the nodes of its output: all of them on a whole graph."""
    if isinstance(graph, BipartiteGraph):
        return sources, targets
    both = (sources, graph.source_position), (targets, graph.target_position)
    own_sources, own_targets = (vectors if position is None else vectors[position] for vectors, position in both)
    return own_sources, own_targets
