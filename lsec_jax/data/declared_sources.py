"""Where declared fields come from: a column of the events or behaviours, and a feature of the node it names. No jax."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.event_columns import Batch, take_or
from lsec_jax.declaration import CLOCK, Field
from lsec_jax.schema import Events, Feature, Histories, LiveCommerceData, NodeTable
from lsec_jax.schema.blocks import blocks


@dataclasses.dataclass(frozen=True)
class IdSource:
    """A field of ids.

    Attributes:
        place: where its column lies in a batch of columns: ("nodes", ROLE), ("features", NAME), ("clock", UNIT), or
            ("histories", NAME).
        what: the kind of external ids; fields of one table have the same.
        external: the external id of each code, [n].
        codes: of each node that the column names, [nodes] int32, -1 = missing; None = the column has the codes.
    """

    place: tuple[str, str]
    what: str
    external: np.ndarray
    codes: np.ndarray | None = None

    def codes_of(self, batch: Batch) -> np.ndarray:
        """Returns the codes of a batch of columns, of any shape; -1 where there is none."""
        column = batch[self.place[0]][self.place[1]]
        return column if self.codes is None else take_or(self.codes, column, -1)

    def rows_of_column(self, rows_of_codes: np.ndarray) -> np.ndarray:
        """Returns the table's row for each value of the column, with a last one for -1; of those for each code."""
        if self.codes is None:
            return rows_of_codes
        return np.append(rows_of_codes.take(self.codes), 0).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class NumberSource:
    """A field of numbers.

    Attributes:
        place: as of `IdSource`.
        size: numbers d.
        of_nodes: numbers of the nodes that the column names, [nodes, d]; None = the column has the numbers.
        is_flag: true or false, which is shown as 1 or 0, and is never missing.
    """

    place: tuple[str, str]
    size: int = 1
    of_nodes: np.ndarray | None = None
    is_flag: bool = False

    def values_of(self, batch: Batch) -> np.ndarray:
        """Returns the values of a batch of columns, [k, d] with NaN, k the elements of the column."""
        column = batch[self.place[0]][self.place[1]]
        if self.of_nodes is None:
            return column.reshape(-1, self.size)
        ids = column.reshape(-1)
        found = np.full((len(ids), self.size), np.nan, np.float32)
        found[ids >= 0] = self.of_nodes[ids[ids >= 0]]
        return found


Source = IdSource | NumberSource


def record_source(data: LiveCommerceData, events: Events, field: Field, key: str) -> Source:
    """Returns where a record's field comes from.

    Args:
        data: with the events.
        events: the table.
        field: declared.
        key: of the field, for messages.

    Raises:
        DataError: a role, column or feature that is not there.
        ConfigError: a source that is none.
    """
    name = field.source
    if name in CLOCK:
        return IdSource(("clock", name), name, np.arange(CLOCK[name]))
    if name.startswith("."):
        column = name[1:]
        if column in events.features:
            return _of_feature(("features", column), events.features[column], None)
        return NumberSource(("values", column), is_flag=events.value(column).dtype == bool)
    role, _, feature = name.partition(".")
    place = ("nodes", role)
    events.ids(role)
    return _of_node(data, place, events.nodes[role].node_type, feature, key)


def behaviour_source(data: LiveCommerceData, histories: Histories, field: Field, key: str) -> Source:
    """Returns where a field of a behaviour comes from; arguments and errors as `record_source`."""
    name = field.source
    if name == "ages":
        return NumberSource(("histories", "ages"))
    base, _, feature = name.partition(".")
    if base == "item":
        return _of_node(data, ("histories", "items"), histories.item, feature, key)
    if not histories.events:
        raise ConfigError(
            f"{key}.source = '{name}': histories '{field.name}' do not say which events they were made of, so only "
            "'item', 'item.FEATURE' and 'ages' can be shown; make them with config.histories"
        )
    behaviours = data.events_of(histories.events)
    if base in behaviours.nodes:
        return _of_node(data, ("histories", base), behaviours.nodes[base].node_type, feature, key)
    if feature:
        behaviours.ids(base)
    return NumberSource(("histories", base), is_flag=behaviours.value(base).dtype == bool)


def _of_node(data: LiveCommerceData, place: tuple[str, str], node_type: str, feature: str, key: str) -> Source:
    table: NodeTable = data.nodes[node_type]
    if not feature:
        return IdSource(place, f"ids of {node_type}", table.ids)
    if feature not in table.features:
        there = ", ".join(table.features) or "none"
        raise ConfigError(
            f"{key}.source: {node_type} nodes have no feature '{feature}'; they have: {there}. Choose one of them, or "
            "add it to the data source"
        )
    return _of_feature(place, table.features[feature], table.features[feature].values)


def _of_feature(place: tuple[str, str], feature: Feature, of_nodes: np.ndarray | None) -> Source:
    """A feature of the events, or one of nodes with its values."""
    if feature.kind in ("categorical", "ordinal"):
        # An empty vocabulary would be an array of floats.
        return IdSource(place, "values of features", np.array(feature.vocabulary, np.str_), of_nodes)
    size = feature.values.shape[1] if feature.kind == "vector" else 1
    return NumberSource(place, size, None if of_nodes is None else of_nodes.reshape(-1, size))


def check_logarithm(data: LiveCommerceData, table: Events, source: NumberSource, key: str) -> None:
    """Raises ConfigError if a column of which the logarithm is taken has numbers below 0.

    Args:
        data: for nothing but the message.
        table: that has the column, of events or behaviours.
        source: of the field.
        key: of the field.
    """
    if source.place[1] == "ages":
        return
    for values in _all_values(table, source):
        if (values < 0).any():
            raise ConfigError(
                f"{key}.transform = 'log1p': data set '{data.name}' has {values[values < 0].min()} there; logarithms "
                "are for numbers of 0 or more: leave it out"
            )


def _all_values(table: Events, source: NumberSource) -> Iterator[np.ndarray]:
    if source.of_nodes is not None:
        column = source.of_nodes
    elif source.place[0] == "features":
        column = table.features[source.place[1]].values
    else:
        column = table.value(source.place[1])
    yield from (column[block] for block in blocks(len(column)))
