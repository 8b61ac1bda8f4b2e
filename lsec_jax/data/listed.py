"""Relations in text files whose nodes are listed elsewhere, so that an id that is not listed is refused."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lsec_jax.data import ids
from lsec_jax.data.table import Table
from lsec_jax.schema import NodeTable, Relation


@dataclasses.dataclass(frozen=True)
class ListedNodes:
    """All nodes of one type.

    Attributes:
        nodes: the table.
        listed_in: where the nodes come from, for messages, e.g. a file's name.
    """

    nodes: NodeTable
    listed_in: str

    @classmethod
    def numbered(cls, name: str, count: int, listed_in: str) -> "ListedNodes":
        """Returns nodes whose ids are 0..count-1."""
        return cls(NodeTable(name, np.arange(count)), listed_in)

    def indices(self, table: Table, column: str | int) -> np.ndarray:
        """Returns the internal indices of a column's ids, [rows] int32; raises DataError for one that is not listed."""
        column_ids = table.ids(column)
        found = self.nodes.index_of(column_ids.values)
        unknown = np.flatnonzero(found[column_ids.codes] < 0)
        if len(unknown):
            row = int(unknown[0])
            known = self.nodes.ids
            table.fail(
                row,
                column,
                f"{self.nodes.name} {column_ids.values[column_ids.codes[row]]} is not in {self.listed_in}, which has "
                f"{len(known)}, {known[0]} to {known[-1]}; correct the row, or list it there",
            )
        return found[column_ids.codes].astype(np.int32)


def read_relation(
    name: str,
    ends: tuple[ListedNodes, ListedNodes],
    parts: Mapping[int, Table],
    columns: tuple[str, str],
    counts: dict[str, int],
    weight_column: str | None = None,
) -> Relation:
    """Builds a relation from the distinct pairs of one table per split.

    Args:
        name: of the relation.
        ends: its source and target nodes.
        parts: tables by split code, ascending; with one table the relation gets no split.
        columns: of the source and target ids.
        counts: gains the dropped rows, as `ids.distinct_pairs` says.
        weight_column: of finite weights > 0, or None.

    Raises:
        DataError: for an id that is not listed, or a bad weight.
    """
    source_ids, target_ids = (
        np.concatenate([end.indices(table, column) for table in parts.values()])
        for end, column in zip(ends, columns, strict=True)
    )
    split = np.concatenate([np.full(len(table), code, np.int8) for code, table in parts.items()])
    keep = ids.distinct_pairs(name, source_ids, target_ids, split, None, counts)
    weight = None
    if weight_column:
        weight = np.concatenate([table.weights(weight_column) for table in parts.values()])[keep]
    return Relation(
        name,
        ends[0].nodes.name,
        ends[1].nodes.name,
        source_ids[keep],
        target_ids[keep],
        weight=weight,
        split=split[keep] if len(parts) > 1 else None,
    )
