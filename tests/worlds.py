"""Small graphs and data sets shared by tests."""

import numpy as np

from lsec_jax.schema import LiveCommerceData, NodeTable, Relation

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


def world(edges=None):
    """A data set of the given edges (default: random ones), all of them for training."""
    edges = edges or random_edges()
    nodes = {name: NodeTable(name, np.arange(count)) for name, count in NUM_NODES.items()}
    relations = {
        name: Relation(
            name, *ENDS[name], ids[0].astype(np.int32), ids[1].astype(np.int32), split=np.zeros(len(ids[0]), np.int8)
        )
        for name, ids in edges.items()
    }
    return LiveCommerceData("test world", nodes, relations)
