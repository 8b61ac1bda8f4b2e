"""Rows `propagate/RELATION/WIDTH/BACKEND`: normalised neighbour sums of one relation, forward and backward."""

import functools
from pathlib import Path
from typing import Any

import jax

from benchmarks.throughput.peers.protocol import Unavailable, Work
from benchmarks.throughput.rows.row import Row
from lsec_jax.config import ConfigError
from lsec_jax.data.sources import prepared
from lsec_jax.models import lsec_gnn
from lsec_jax.nn.propagation import BipartiteGraph, bipartite_graph, graphs_tuple, propagate
from lsec_jax.schema import TRAIN

RELATIONS = ("buy", "follow", "sell")
WIDTHS = (64, 128, 200)
BACKENDS = ("segment", "bcsr", "chunked", "compiled")
BYTES = "one vector read per edge and one written per node, forward and backward"


def moved_bytes(graph: BipartiteGraph, width: int, item_bytes: int = 4) -> int:
    """Bytes of vectors that one forward and backward pass reads (one per edge) and writes (one per node)."""
    num_edges = 2 * graph.to_source.senders.shape[0]
    num_nodes = graph.source_degrees.shape[0] + graph.target_degrees.shape[0]
    return 2 * (num_edges + num_nodes) * width * item_bytes


def require_backend(model: Any) -> None:
    """Raises Unavailable where a model's backend cannot be had; a model is asked, as earlier revisions have no more."""
    try:
        model.validate()
    except ConfigError as reason:
        raise Unavailable(str(reason)) from None


def make(folder: Path, quick: bool, relation: str, width: int, backend: Any) -> Work:
    """One repetition is one forward and backward pass over the training edges of a relation."""
    require_backend(lsec_gnn.Config(backend=backend))
    data = prepared.Config(str(folder)).load()
    of = data.relation(relation)
    num_sources, num_targets = len(data.nodes[of.source]), len(data.nodes[of.target])
    graph = bipartite_graph(graphs_tuple(*of.edges(TRAIN), num_sources, num_targets), num_sources)
    keys = jax.random.split(jax.random.key(0), 2)
    vectors = [jax.random.normal(key, (n, width)) for key, n in zip(keys, (num_sources, num_targets), strict=True)]
    run = jax.jit(_forward_and_backward(backend))
    return Work(
        run=lambda: jax.block_until_ready(run(graph, *vectors)),
        edges=int(graph.to_source.senders.shape[0]),
        bytes=moved_bytes(graph, width),
        notes=f"bytes: {BYTES}",
    )


def _forward_and_backward(backend: Any) -> Any:
    def run(graph: BipartiteGraph, sources: jax.Array, targets: jax.Array) -> Any:
        arrived, backward = jax.vjp(lambda *vectors: propagate(graph, *vectors, backend), sources, targets)
        return arrived, backward(arrived)

    return run


ROWS = {
    f"propagate/{relation}/{width}/{backend}": Row(
        functools.partial(make, relation=relation, width=width, backend=backend),
        # How it grows shows at one width.
        sizes=("quarter", "small", "double") if width == max(WIDTHS) else ("small",),
        is_quick=(relation, width) == ("buy", 64),
    )
    for relation in RELATIONS
    for width in WIDTHS
    for backend in BACKENDS
}
