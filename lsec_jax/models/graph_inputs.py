"""What models over relations read: training graphs and training positives, from a data set with splits."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.nn.propagation import BipartiteGraph, bipartite_graph, graphs_tuple
from lsec_jax.nn.sampling import PositiveEdges, Windows, positive_edges, windows
from lsec_jax.nn.subgraphs import Fanout, quantile_fanout
from lsec_jax.schema import TRAIN, DataError, LiveCommerceData, Relation


class Inputs(NamedTuple):
    """A model's big arrays: arguments of every jitted function, never closed over.

    Attributes:
        graphs: training graph by relation.
        positives: training positives by task relation; edge i is edge i of the relation's graph.
        fanouts: of sampled training, by relation; empty for training on the whole graph.
    """

    graphs: Mapping[str, BipartiteGraph]
    positives: Mapping[str, PositiveEdges]
    fanouts: Mapping[str, Fanout]


def build_inputs(
    data: LiveCommerceData, relations: Iterable[str], tasks: Iterable[str], edge_weights: bool, self_loops: bool
) -> Inputs:
    """Builds graphs and positives from training edges only.

    Args:
        data: with splits assigned.
        relations: to propagate over.
        tasks: relations to predict.
        edge_weights: use the relations' weights.
        self_loops: count a self-connection in the degrees (LSEC-GNN Eq. 5).

    Raises:
        ConfigError: if edge_weights is on and a relation has none.
        DataError: if a relation is missing, has no training edges, or has a weight that is not positive.
    """
    graphs = {name: _graph(data, name, edge_weights, self_loops) for name in relations}
    positives = {}
    for name in tasks:
        relation = data.relation(name)
        num_sources, num_targets = len(data.nodes[relation.source]), len(data.nodes[relation.target])
        edges = positive_edges(*relation.edges(TRAIN), num_sources, num_targets)
        positives[name] = dataclasses.replace(edges, windows=_windows(data, relation))
    return Inputs(graphs, positives, {})


def quantile_fanouts(
    data: LiveCommerceData, relations: Iterable[str], quantile: float, limits: tuple[int, int]
) -> dict[str, Fanout]:
    """The fan-outs of sampled training, from the degrees of the training graph (see `quantile_fanout`)."""
    result = {}
    for name in relations:
        relation = data.relation(name)
        num_sources, num_targets = len(data.nodes[relation.source]), len(data.nodes[relation.target])
        result[name] = quantile_fanout(*relation.edges(TRAIN), num_sources, num_targets, quantile, limits)
    return result


def _windows(data: LiveCommerceData, relation: Relation) -> Windows | None:
    availability, times = data.availability.get(relation.target), relation.edge_times(TRAIN)
    if availability is None or times is None:
        return None
    return windows(times, availability.start, availability.end)


def _graph(data: LiveCommerceData, name: str, edge_weights: bool, self_loops: bool) -> BipartiteGraph:
    relation = data.relation(name)
    if relation.source == relation.target:
        raise ConfigError(
            f"relation '{name}' joins {relation.source} nodes with each other; graphs here are bipartite: leave it out "
            "of config.model.relations"
        )
    source_ids, target_ids = relation.edges(TRAIN)
    if len(source_ids) == 0:
        raise DataError(f"relation '{name}' has no training edges after the split; change config.split")
    weights = None
    if edge_weights:
        if relation.weight is None:
            raise ConfigError(
                f"config.model.edge_weights is on, but relation '{name}' of the data has no weights; turn it off"
            )
        bad = np.flatnonzero(~(relation.weight > 0))
        if len(bad):
            raise DataError(
                f"relation '{name}', edge {bad[0]}: weight {relation.weight[bad[0]]} is not positive; correct it, or "
                "turn config.model.edge_weights off"
            )
        weights = relation.edge_weights(TRAIN)
    num_sources, num_targets = len(data.nodes[relation.source]), len(data.nodes[relation.target])
    return bipartite_graph(
        graphs_tuple(source_ids, target_ids, num_sources, num_targets, weights), num_sources, self_loops
    )


def nodes_with_edges(data: LiveCommerceData, relations: Iterable[str], node_type: str) -> np.ndarray:
    """Whether each node has a training edge in some relation, [n] bool: without one its vector is noise."""
    known = np.zeros(len(data.nodes[node_type]), bool)
    for name in relations:
        relation = data.relation(name)
        for end, ids in zip((relation.source, relation.target), relation.edges(TRAIN), strict=True):
            if end == node_type:
                known[ids] = True
    return known
