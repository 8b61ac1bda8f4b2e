"""What interaction files will give, as the config says, before any is read: the same tables, without rows."""

from collections.abc import Sequence

import numpy as np

from lsec_jax.data.sources.interactions_specs import (
    AvailabilitySpec,
    ColumnSpec,
    EventSpec,
    NodeSpec,
    RelationSpec,
    TreeSpec,
)
from lsec_jax.schema import Availability, EventNodes, Events, Feature, LiveCommerceData, NodeTable, Relation, Tree

_INDICES = np.zeros(0, np.int32)
_NUMBERS = np.zeros(0, np.float32)
_MEASURED = ("label", "measure")


def outline_of(
    name: str,
    relations: Sequence[RelationSpec],
    events: Sequence[EventSpec],
    nodes: Sequence[NodeSpec],
    availability: Sequence[AvailabilitySpec],
    trees: Sequence[TreeSpec] = (),
) -> LiveCommerceData:
    """Returns the tables of checked specs, without rows."""
    types = [end for spec in relations for end in (spec.source, spec.target)]
    types += [role.node or role.role for spec in events for role in spec.roles]
    features = {spec.node: _features(spec.columns) for spec in nodes}
    return LiveCommerceData(
        name,
        {node: NodeTable(node, np.zeros(0, np.int64), features.get(node, {})) for node in dict.fromkeys(types)},
        {spec.name: Relation(spec.name, spec.source, spec.target, _INDICES, _INDICES) for spec in relations},
        availability={spec.node: Availability(np.zeros(0), np.zeros(0)) for spec in availability},
        events={spec.name: _events(spec) for spec in events},
        trees={spec.node: Tree(_INDICES) for spec in trees},
    )


def _events(spec: EventSpec) -> Events:
    measured = [column for column in spec.columns if column.kind in _MEASURED]
    return Events(
        spec.name,
        {role.role: EventNodes(role.node or role.role, _INDICES) for role in spec.roles},
        np.zeros(0),
        {column.name: _NUMBERS for column in measured},
        _features([column for column in spec.columns if column not in measured]),
    )


def _features(columns: Sequence[ColumnSpec]) -> dict[str, Feature]:
    return {column.name: Feature("numeric" if column.kind == "date" else column.kind, _NUMBERS) for column in columns}
