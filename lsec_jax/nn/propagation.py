"""Normalised neighbour sums over bipartite graphs, the message passing of every graph model here.

A bipartite graph between m source nodes and n target nodes is the block matrix [[0, A], [A^T, 0]] of LSEC-GNN Eq. 6.
`propagate` multiplies by it. The matrix is symmetric, so the backward pass is the same function applied to the
cotangents: no scatter, no second set of arrays.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from lsec_jax.nn import replicas
from lsec_jax.nn.replicas import vary_as
from lsec_jax.nn.rows import Backend, Rows, compressed_rows, edge_dots, neighbor_sum


class BipartiteGraph(NamedTuple):
    """A symmetric normalised bipartite graph, stored once per direction.

    Attributes:
        to_source: rows are the m source nodes, senders the target nodes.
        to_target: rows are the n target nodes, senders the source nodes.
        source_position, target_position: [e] int32, where edge i of the GraphsTuple stands in each of the two.
        source_degrees, target_degrees: [m], [n] float32, sums of edge weights, plus 1 with self-loops.
        source_self, target_self: [m], [n] float32, the diagonal 1 / (degree + 1) with self-loops, else zeros.
        transposes: where the two directions are not each other's transpose, that of `to_source` and that of
            `to_target` (see `nn/divided_graphs.py`).
    """

    to_source: Rows
    to_target: Rows
    source_position: Int[Array, " e"]
    target_position: Int[Array, " e"]
    source_degrees: Float[Array, " m"]
    target_degrees: Float[Array, " n"]
    source_self: Float[Array, " m"]
    target_self: Float[Array, " n"]
    transposes: tuple[Rows, Rows] | None = None


class DividedGraph(BipartiteGraph):
    """A graph whose nodes are divided over devices along the axis `model`, as `nn/divided_graphs.py` makes it.

    Inside jax.shard_map it holds a device's own m of the source nodes and n of the target nodes, the edges that they
    receive, and of `source_position` and `target_position` the part for its share of the edges. Senders are numbered in
    the whole table: what they send is gathered from all devices.
    """

    __slots__ = ()


def graphs_tuple(
    source_ids: np.ndarray,
    target_ids: np.ndarray,
    num_sources: int,
    num_targets: int,
    weights: np.ndarray | None = None,
) -> jraph.GraphsTuple:
    """Returns a bipartite graph as a GraphsTuple: source nodes first, receivers shifted by num_sources.

    Args:
        source_ids: [e] int, in [0, num_sources).
        target_ids: [e] int, in [0, num_targets).
        num_sources: m.
        num_targets: n.
        weights: [e] edge weights, or None for ones.
    """
    return jraph.GraphsTuple(
        nodes=None,
        edges=np.ones(len(source_ids), np.float32) if weights is None else np.asarray(weights, np.float32),
        senders=np.asarray(source_ids, np.int32),
        receivers=np.asarray(target_ids, np.int32) + np.int32(num_sources),
        globals=None,
        n_node=np.array([num_sources + num_targets], np.int32),
        n_edge=np.array([len(source_ids)], np.int32),
    )


def bipartite_graph(graph: jraph.GraphsTuple, num_sources: int, self_loops: bool = False) -> BipartiteGraph:
    """Normalises a graph by D^-1/2 A D^-1/2 (Eq. 5; with self_loops, A + I and its degrees) and sorts it both ways.

    Args:
        graph: one bipartite graph; senders in [0, num_sources), receivers in [num_sources, n_node[0]);
            edges [e] weights.
        num_sources: m.
        self_loops: whether the degrees count a self-connection and `*_self` holds its weight.

    Raises:
        ValueError: if an edge does not lead from a source node to a target node, or has a weight that is not positive.
    """
    num_targets = int(np.sum(graph.n_node)) - num_sources
    sources, targets = np.asarray(graph.senders), np.asarray(graph.receivers) - num_sources
    bad = np.flatnonzero((sources < 0) | (sources >= num_sources) | (targets < 0) | (targets >= num_targets))
    if len(bad):
        raise ValueError(
            f"edge {bad[0]} ({graph.senders[bad[0]]} -> {graph.receivers[bad[0]]}) does not lead from a source in "
            f"[0, {num_sources}) to a target in [{num_sources}, {num_sources + num_targets})"
        )
    weights = np.asarray(graph.edges, np.float64)
    if len(weights) and not weights.min() > 0:
        raise ValueError(
            f"edge {np.flatnonzero(~(weights > 0))[0]}: weights must be positive to be normalised by degree"
        )
    loop = 1.0 if self_loops else 0.0
    source_degrees = np.bincount(sources, weights, num_sources) + loop
    target_degrees = np.bincount(targets, weights, num_targets) + loop
    values = weights / np.sqrt(source_degrees[sources] * target_degrees[targets])
    source_order, target_order = np.lexsort((targets, sources)), np.lexsort((sources, targets))
    source_position, target_position = _inverse(source_order), _inverse(target_order)

    def sort(receivers: np.ndarray, senders: np.ndarray, order: np.ndarray, other: np.ndarray, num_rows: int) -> Rows:
        return compressed_rows(receivers[order], senders[order], values[order], other[order], num_rows)

    return BipartiteGraph(
        sort(sources, targets, source_order, target_position, num_sources),
        sort(targets, sources, target_order, source_position, num_targets),
        jnp.asarray(source_position),
        jnp.asarray(target_position),
        jnp.asarray(source_degrees, jnp.float32),
        jnp.asarray(target_degrees, jnp.float32),
        jnp.asarray(loop / np.maximum(source_degrees, 1.0), jnp.float32),
        jnp.asarray(loop / np.maximum(target_degrees, 1.0), jnp.float32),
    )


def _inverse(order: np.ndarray) -> np.ndarray:
    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    return position


def exclude_edges(
    graph: BipartiteGraph, edge_ids: Int[Array, " b"], renormalize: bool = True, backend: Backend = "auto"
) -> BipartiteGraph:
    """Returns the graph without the given edges, in both directions; its arrays keep their shapes.

    Args:
        graph: the training graph.
        edge_ids: positions in the GraphsTuple that the graph was made from; duplicates are fine. The devices
            of a divided graph must give the same ones.
        renormalize: divide by the degrees that remain. Otherwise by those of the whole graph, and then every node that
            lost an edge is recognisable: what reaches it is too small for its degree.
        backend: of the sums that give the remaining degrees, as in `propagate`.
    """

    def without(rows: Rows, position: Int[Array, " e"]) -> Rows:
        places = position[edge_ids]
        if isinstance(graph, DividedGraph):
            places = replicas.local_indices(replicas.take_same(position, edge_ids), len(rows.values))
        return rows._replace(values=rows.values.at[places].set(0.0, mode="drop"))

    thinned = graph._replace(
        to_source=without(graph.to_source, graph.source_position),
        to_target=without(graph.to_target, graph.target_position),
    )
    if graph.transposes is not None:
        of_source, of_target = (
            transposed._replace(values=rows.values[transposed.twins])
            for transposed, rows in zip(graph.transposes, (thinned.to_source, thinned.to_target), strict=True)
        )
        thinned = thinned._replace(transposes=(of_source, of_target))
    return _renormalized(thinned, backend) if renormalize else thinned


def with_wanted(
    graph: BipartiteGraph, sources: Bool[Array, " m"] | None, targets: Bool[Array, " n"] | None
) -> BipartiteGraph:
    """Returns the graph for which only some nodes' sums are wanted; None = all. Those of the others may be anything.

    They must have no influence on a loss: its gradient would be that of the sums which were left out.
    """
    return graph._replace(
        to_source=graph.to_source._replace(wanted=sources), to_target=graph.to_target._replace(wanted=targets)
    )


def _renormalized(graph: BipartiteGraph, backend: Backend) -> BipartiteGraph:
    """Scales the values from the stored degrees to the degrees of the edges that still carry weight."""
    source_roots, target_roots = jnp.sqrt(graph.source_degrees), jnp.sqrt(graph.target_degrees)
    # A value is weight / (root * root): a sum of edge weights is a neighbour sum of roots.
    to_sources, to_targets = propagate(graph, source_roots[:, None], target_roots[:, None], backend)
    source_left = graph.source_self * graph.source_degrees + source_roots * to_sources[:, 0]
    target_left = graph.target_self * graph.target_degrees + target_roots * to_targets[:, 0]
    source_scale = degree_scales(graph.source_degrees, source_left)
    target_scale = degree_scales(graph.target_degrees, target_left)
    source_factors, target_factors = jnp.sqrt(source_scale), jnp.sqrt(target_scale)

    # Once per step and edge, a number: scaling vectors instead would read and write all of them in each layer.
    def scaled(rows: Rows, of_receivers: Array, of_senders: Array) -> Rows:
        factors = of_receivers[rows.receivers] * senders_of(graph, of_senders)[rows.senders]
        return rows._replace(values=rows.values * factors)

    return graph._replace(
        to_source=scaled(graph.to_source, source_factors, target_factors),
        to_target=scaled(graph.to_target, target_factors, source_factors),
        source_degrees=source_left,
        target_degrees=target_left,
        source_self=graph.source_self * source_scale,
        target_self=graph.target_self * target_scale,
    )


def edge_weights(
    values: Float[Array, " e"], receiver_degrees: Float[Array, " e"], sender_degrees: Float[Array, " e"]
) -> Float[Array, " e"]:
    """The weights that were normalised to `values` by the degrees of both ends of each edge."""
    return values * jnp.sqrt(receiver_degrees * sender_degrees)


def degree_scales(degrees: Float[Array, " n"], remaining: Float[Array, " n"]) -> Float[Array, " n"]:
    """Old degrees divided by those that remain, 0 for nodes without any; a value's factor is the root of its ends'."""
    is_left = remaining > 0
    return jnp.where(is_left, degrees / jnp.where(is_left, remaining, 1.0), 0.0)


def propagate(
    graph: BipartiteGraph,
    sources: Float[Array, "m d"],
    targets: Float[Array, "n d"],
    backend: Backend = "auto",
) -> tuple[Float[Array, "m d"], Float[Array, "n d"]]:
    """Sends messages along all edges, both ways: (A targets, A^T sources).

    Args:
        graph: from `bipartite_graph`. Its values are constants: they get no gradient.
        sources: vectors of the source nodes.
        targets: vectors of the target nodes.
        backend: one of `rows.BACKENDS`; "auto" is the fastest of the device.

    Returns:
        What arrives at the source nodes and at the target nodes; self-loops are not included, see `add_self`.
    """
    operands = graph, sources, targets
    return _propagate(graph, *vary_as(operands[1:], operands), backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _propagate(
    graph: BipartiteGraph, sources: Float[Array, "m d"], targets: Float[Array, "n d"], backend: Backend
) -> tuple[Float[Array, "m d"], Float[Array, "n d"]]:
    to_sources = neighbor_sum(graph.to_source, senders_of(graph, targets), backend)
    return to_sources, neighbor_sum(graph.to_target, senders_of(graph, sources), backend)


def _propagate_forward(
    graph: BipartiteGraph, sources: Array, targets: Array, backend: Backend
) -> tuple[tuple[Array, Array], BipartiteGraph]:
    return _propagate(graph, sources, targets, backend), graph


def _propagate_backward(
    backend: Backend, graph: BipartiteGraph, cotangents: tuple[Array, Array]
) -> tuple[None, Array, Array]:
    arriving_at_sources, arriving_at_targets = cotangents
    # Who receives in the forward pass sends here.
    graph = with_wanted(graph, None, None)
    to_sources, to_targets = _propagate(graph, arriving_at_sources, arriving_at_targets, backend)
    return None, to_sources, to_targets


_propagate.defvjp(_propagate_forward, _propagate_backward)


def weighted_sum(
    graph: BipartiteGraph,
    weights: Float[Array, " e"],
    senders: Float[Array, "n d"],
    receiver: Literal["source", "target"],
    backend: Backend = "auto",
) -> Float[Array, "m d"]:
    """Sums the senders' vectors over the edges into each receiver, with weights that are differentiated too.

    Args:
        graph: gives the edges; its own values are not used.
        weights: in the order of `graph.to_source`'s or `graph.to_target`'s edges.
        senders: vectors of the nodes on the other side.
        receiver: which side receives.
        backend: as in `propagate`.
    """
    operands = graph, weights, senders
    return _weighted_sum(graph, *vary_as(operands[1:], operands), receiver, backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _weighted_sum(
    graph: BipartiteGraph,
    weights: Float[Array, " e"],
    senders: Float[Array, "n d"],
    receiver: Literal["source", "target"],
    backend: Backend,
) -> Float[Array, "m d"]:
    rows, _ = both_ways(graph, receiver)
    return neighbor_sum(rows._replace(values=weights), senders, backend)


def _weighted_sum_forward(
    graph: BipartiteGraph, weights: Array, senders: Array, receiver: Literal["source", "target"], backend: Backend
) -> tuple[Array, tuple[BipartiteGraph, Array, Array]]:
    return _weighted_sum(graph, weights, senders, receiver, backend), (graph, weights, senders)


def _weighted_sum_backward(
    receiver: Literal["source", "target"],
    backend: Backend,
    saved: tuple[BipartiteGraph, Array, Array],
    cotangent: Array | np.ndarray,
) -> tuple[None, Array, Array]:
    graph, weights, senders = saved
    cotangent = jnp.asarray(cotangent)  # numpy's, where the caller passed one outside jit, takes no traced index
    rows, transposed = both_ways(with_wanted(graph, None, None), receiver)  # who received sends here
    to_senders = neighbor_sum(transposed._replace(values=weights[transposed.twins]), cotangent, backend)
    return None, edge_dots(rows, cotangent, senders, backend).astype(weights.dtype), to_senders


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


def senders_of(graph: BipartiteGraph, vectors: Shaped[Array, "n ..."]) -> Shaped[Array, "m ..."]:
    """What the nodes of a side send, numbered as the graph's senders are: of a divided graph, from all devices."""
    return replicas.all_nodes(vectors) if isinstance(graph, DividedGraph) else vectors


def both_ways(graph: BipartiteGraph, receiver: Literal["source", "target"]) -> tuple[Rows, Rows]:
    """The rows of the receivers on a side, and those of the same edges the other way."""
    of_source, of_target = graph.transposes or (graph.to_target, graph.to_source)
    return (graph.to_source, of_source) if receiver == "source" else (graph.to_target, of_target)


def add_self(
    arrived: Float[Array, "n d"], vectors: Float[Array, "n d"], self_weights: Float[Array, " n"]
) -> Float[Array, "n d"]:
    """Adds each node's message to itself (the I of A + I in Eq. 5)."""
    return arrived + self_weights[:, None] * vectors
