"""Small graphs and data sets shared by tests."""

import jax.numpy as jnp
import numpy as np

from lsec_jax.data.csr import csr_from_pairs
from lsec_jax.models.lsec_gnn import Inputs
from lsec_jax.nn.propagation import bipartite_graph, graphs_tuple
from lsec_jax.nn.sampling import PositiveEdges

NUM_NODES = {"user": 12, "item": 9, "streamer": 4}
ENDS = {"buy": ("user", "item"), "follow": ("user", "streamer"), "sell": ("streamer", "item")}
NUM_EDGES = {"buy": 40, "follow": 20, "sell": 15}


def random_edges(seed=0):
    """Random distinct edges of each relation, sorted by source, then target."""
    generator = np.random.default_rng(seed)
    edges = {}
    for name, (source, target) in ENDS.items():
        size = NUM_NODES[source] * NUM_NODES[target]
        pairs = np.sort(generator.choice(size, NUM_EDGES[name], replace=False))
        edges[name] = (pairs // NUM_NODES[target], pairs % NUM_NODES[target])
    return edges


def positive_edges(source_ids, target_ids, num_sources, num_targets):
    """PositiveEdges from sorted pairs."""
    indptr, _ = csr_from_pairs(source_ids, target_ids, num_sources)
    return PositiveEdges(
        jnp.asarray(source_ids, jnp.int32),
        jnp.asarray(target_ids, jnp.int32),
        jnp.asarray(indptr, jnp.int32),
        jnp.zeros(int(np.diff(indptr).max()).bit_length(), jnp.int32),
        jnp.zeros((num_targets, 0), jnp.int32),
    )


def model_inputs(config, edges):
    """The Inputs of a model config on the given edges."""
    graphs, positives = {}, {}
    for name in config.relations:
        source, target = ENDS[name]
        graph = graphs_tuple(*edges[name], NUM_NODES[source], NUM_NODES[target])
        self_loops = config.aggregator == "gcn" and config.self_loop
        graphs[name] = bipartite_graph(graph, NUM_NODES[source], self_loops)
    for task in config.tasks:
        source, target = ENDS[task.relation]
        positives[task.relation] = positive_edges(*edges[task.relation], NUM_NODES[source], NUM_NODES[target])
    return Inputs(graphs, positives)
