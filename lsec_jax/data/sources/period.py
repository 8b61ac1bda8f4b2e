"""Another source's data as it was known at a time: what happened later is left out. For daily training on growing logs.

Relations without times are left out, because nothing says what of them was known; and so are events, histories, trees
and published candidates, which no model that trains day by day reads yet.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.schema import Availability, DataError, LiveCommerceData, NodeTable, Relation, Truth


@dataclasses.dataclass
class Config:
    """A period of another source's data; times in its unit (seconds since 1970 where they are dates).

    Attributes:
        source: config of the other source.
        train_end: edges before it are training edges.
        test_start: edges from here on are test edges, those between are validation edges; at least train_end.
        end: edges and nodes that come here or later are left out. A node comes when it becomes available; nodes of
            types without an availability are there from the start.
    """

    source: Any = None
    train_end: float = 0.0
    test_start: float = 0.0
    end: float = 0.0

    def validate(self) -> None:
        """Checks its own keys; raises ConfigError."""
        if not hasattr(self.source, "load"):
            raise ConfigError(f"config.data.source = {self.source!r}: give the config of a data source")
        if not -np.inf < self.train_end <= self.test_start < self.end < np.inf:
            times = f"{self.train_end}, {self.test_start}, {self.end}"
            raise ConfigError(
                f"config.data: train_end, test_start, end = {times}; give train_end <= test_start < end, all finite"
            )

    def load(self) -> LiveCommerceData:
        """Loads the other source and cuts its period out; raises as that source and `cut`."""
        self.validate()
        return self.cut(self.source.load())

    def cut(self, data: LiveCommerceData) -> LiveCommerceData:
        """Cuts the period out of the other source's data, with splits and cut times; counts say what was left out.

        Raises:
            DataError: no relation has times.
        """
        kept = {name: _known(data, name, self.end) for name in data.nodes}
        counts = dict(data.counts)
        relations = {}
        for name, relation in data.relations.items():
            if relation.time is None:
                counts[f"{name}: edges without a time, left out"] = len(relation)
                continue
            relations[name] = self._edges(relation, kept, counts)
        if not relations:
            raise DataError(f"data set '{data.name}' has no relation with times; a period cannot be cut out of it")
        return LiveCommerceData(
            f"{data.name}, until {data.time_text(self.end)}",
            {name: _nodes(table, kept[name]) for name, table in data.nodes.items()},
            relations,
            cut_times=(self.train_end, self.test_start),
            end_time=self.end,
            has_dates=data.has_dates,
            truth=None if data.truth is None else _PeriodTruth(data.truth, relations, kept),
            availability={
                name: Availability(of.start[kept[name]], of.end[kept[name]]) for name, of in data.availability.items()
            },
            counts=counts,
        )

    def _edges(self, relation: Relation, kept: Mapping[str, np.ndarray], counts: dict[str, int]) -> Relation:
        """The relation's edges of the period between nodes of the period, with their split."""
        assert relation.time is not None
        is_early = relation.time < self.end
        is_known = kept[relation.source][relation.source_ids] & kept[relation.target][relation.target_ids]
        if unknown := int((is_early & ~is_known).sum()):
            counts[f"{relation.name}: edges of nodes that are not available in the period, left out"] = unknown
        found = relation.take(is_early & is_known)
        assert found.time is not None
        at = {name: np.cumsum(kept[name]) - 1 for name in (relation.source, relation.target)}
        return dataclasses.replace(
            found,
            source_ids=at[relation.source][found.source_ids].astype(np.int32),
            target_ids=at[relation.target][found.target_ids].astype(np.int32),
            split=np.digitize(found.time, (self.train_end, self.test_start)).astype(np.int8),
        )


def _known(data: LiveCommerceData, node_type: str, end: float) -> np.ndarray:
    """Which nodes are known before a time, [n] bool."""
    if node_type not in data.availability:
        return np.ones(len(data.nodes[node_type]), bool)
    return data.availability[node_type].start < end


def _nodes(table: NodeTable, kept: np.ndarray) -> NodeTable:
    return NodeTable(table.name, table.ids[kept], {name: of.take(kept) for name, of in table.features.items()})


class _PeriodTruth:
    """The other source's truth, of the nodes that are left."""

    def __init__(self, truth: Truth, relations: Mapping[str, Relation], kept: Mapping[str, np.ndarray]):
        self._truth = truth
        self._rows = {
            name: (np.flatnonzero(kept[relations[name].source]), np.flatnonzero(kept[relations[name].target]))
            for name in truth.relations
            if name in relations
        }

    @property
    def relations(self) -> tuple[str, ...]:
        """Those it has probabilities for."""
        return tuple(self._rows)

    def probabilities(self, relation: str, source_ids: np.ndarray, start: float, end: float) -> np.ndarray:
        """As the source's, [b, n_targets] float32."""
        sources, targets = self._rows[relation]
        return self._truth.probabilities(relation, sources[source_ids], start, end)[:, targets]
