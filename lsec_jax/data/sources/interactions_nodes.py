"""Interaction files that have one row per node: when it is available, and its features.

They are read before the nodes are known, so that wrong rows of all files are reported together, and matched later.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lsec_jax.data import features, tables
from lsec_jax.data.cleaning import Reader, WrongRows
from lsec_jax.data.files import expand_path
from lsec_jax.data.sources.interactions_specs import AvailabilitySpec, ColumnSpec, NodeSpec
from lsec_jax.data.table import Table
from lsec_jax.schema import Availability, DataError, Feature, NodeTable


@dataclasses.dataclass(frozen=True)
class Listed:
    """The rows of a file that can be read.

    Attributes:
        table: them.
        ids: external ids, unique, [rows] int64 or str.
        columns: features by name; of windows, starts and ends by column, [rows] float64.
        has_dates: of windows, whether they are dates, by column; None where all are open.
    """

    table: Table
    ids: np.ndarray
    columns: Mapping[str, Any]
    has_dates: Mapping[str, bool | None] = dataclasses.field(default_factory=dict)


def read_windows(root: Path, spec: AvailabilitySpec, place: str, wrong: WrongRows) -> Listed:
    """Reads the windows of one node type.

    Args:
        root: base directory.
        spec: of the file.
        place: its config key.
        wrong: gains the rows that cannot be read, and those with an empty window.

    Raises:
        DataError: the file cannot be used.
    """
    bounds = {spec.start_column: -np.inf, spec.end_column: np.inf}
    table = _read(root, spec, place, list(bounds))
    has_dates = {column: table.has_dates(column) for column in bounds}
    readers = {column: _bound(column, missing, has_dates[column]) for column, missing in bounds.items()}
    found = _listed(table, spec, readers, wrong)
    windows = Reader(spec.end_column, lambda part: _check_windows(part, readers), (spec.start_column,))
    good, _ = wrong.without(found.table, {"windows": windows})
    return dataclasses.replace(_listed(good, spec, readers, wrong), has_dates=has_dates)


def _bound(column: str, missing: float, has_dates: bool | None) -> Reader:
    return Reader(column, lambda table: table.optional_times(column, missing, has_dates))


def _check_windows(table: Table, readers: Mapping[str, Reader]) -> None:
    starts, ends = (reader.read(table) for reader in readers.values())
    empty = np.flatnonzero(starts >= ends)
    if len(empty):
        row = int(empty[0])
        start, end = (table.columns[column][row] for column in readers)
        problem = f"the start {start} is not before {end}"
        if starts[row] == ends[row]:  # also of integers that differ beyond double precision
            problem = f"the start {start} and the end {end} are one time, in double precision"
        column = list(readers)[1]
        table.fail(row, column, f"{problem}; windows are half-open, [start, end); correct the row")


def availability(
    spec: AvailabilitySpec, listed: Listed, nodes: NodeTable, has_dates: bool | None, counts: dict[str, int]
) -> Availability:
    """Gives nodes their windows.

    Args:
        spec: of the file.
        listed: as `read_windows` returns it.
        nodes: of the type.
        has_dates: whether the data set's times are dates.
        counts: gains the windows that belong to no node, and the nodes without one.

    Raises:
        DataError: the windows are of another unit, or no id is a node's.
    """
    for column, dates in listed.has_dates.items():
        if dates is not None and dates != has_dates:
            found, other = ("dates", "numbers") if dates else ("numbers", "dates")
            listed.table.fail_column(column, f"{found}, but the other times are {other}; use one unit")
    at = _index_of(spec, listed, nodes)
    if unknown := int((at < 0).sum()):
        counts[f"{spec.node}: windows of ids that are in no relation, dropped"] = unknown
    if without := len(nodes) - (len(at) - unknown):
        counts[f"{spec.node}: nodes without a window, always available"] = without
    windows = np.full(len(nodes), -np.inf), np.full(len(nodes), np.inf)
    for window, values in zip(windows, listed.columns.values(), strict=True):
        window[at[at >= 0]] = values[at >= 0]
    return Availability(*windows)


def read_features(root: Path, spec: NodeSpec, place: str, wrong: WrongRows) -> Listed:
    """Reads the features of one node type.

    Args:
        root: base directory.
        spec: of the file.
        place: its config key.
        wrong: gains the rows that cannot be read.

    Raises:
        DataError: the file cannot be used.
    """
    table = _read(root, spec, place, [of.column or of.name for of in spec.columns])
    readers = {of.name: _feature(of, spec.missing, f"{place}.missing") for of in spec.columns}
    return _listed(table, spec, readers, wrong)


def with_features(spec: NodeSpec, listed: Listed, nodes: NodeTable, counts: dict[str, int]) -> NodeTable:
    """Returns the nodes with their features; nodes that the file does not list have none.

    Args:
        spec: of the file.
        listed: as `read_features` returns it.
        nodes: of the type.
        counts: gains the rows that belong to no node, and the nodes without one.

    Raises:
        DataError: no id is a node's.
    """
    at = _index_of(spec, listed, nodes)
    if unknown := int((at < 0).sum()):
        counts[f"{spec.node}: rows of features of ids that nothing else has, dropped"] = unknown
    if without := len(nodes) - (len(at) - unknown):
        counts[f"{spec.node}: nodes without a row of features"] = without
    row_of = np.full(len(nodes), -1)
    row_of[at[at >= 0]] = np.flatnonzero(at >= 0)
    return dataclasses.replace(
        nodes, features={name: _take(feature, row_of) for name, feature in listed.columns.items()}
    )


def _feature(spec: ColumnSpec, missing: tuple[str, ...], missing_key: str) -> Reader:
    column = spec.column or spec.name
    if spec.kind == "categorical":
        return Reader(column, lambda table: features.categories(table, column, missing))
    if spec.kind == "ordinal":
        return Reader(column, lambda table: features.ranges(table, column, missing, missing_key))
    if spec.kind == "date":
        return Reader(column, lambda table: features.days(table, column, missing))
    return Reader(column, lambda table: Feature("numeric", features.single_precision(table, column, missing)))


def _take(feature: Feature, rows: np.ndarray) -> Feature:
    """Some rows, where -1 has no value."""
    nothing = np.float32(np.nan) if feature.kind == "numeric" else np.int32(-1)
    return dataclasses.replace(feature, values=np.where(rows >= 0, feature.values[rows], nothing))


def _read(root: Path, spec: AvailabilitySpec | NodeSpec, place: str, columns: list[str]) -> Table:
    return tables.read_table(
        root / expand_path(spec.path),
        [spec.id_column, *columns],
        delimiter=spec.delimiter,
        file_format=spec.format,
        column_names=spec.column_names,
        delimiter_key=f"{place}.delimiter",
    )


def _listed(table: Table, spec: AvailabilitySpec | NodeSpec, readers: Mapping[str, Reader], wrong: WrongRows) -> Listed:
    """Reads the rows that can be; raises DataError where none can, or an id is there twice."""
    ids = Reader(spec.id_column, lambda part: part.ids(spec.id_column))
    good, found = wrong.without(table, {"ids": ids, **readers}) if len(table) else (table, {})
    if not len(good):
        raise DataError(f"{table.path}: no row can be used")
    del found["ids"]
    return Listed(good, good.unique_ids(spec.id_column), found)


def _index_of(spec: AvailabilitySpec | NodeSpec, listed: Listed, nodes: NodeTable) -> np.ndarray:
    """Finds the nodes of the rows, [rows] int64, -1 where an id is of none."""
    at = nodes.index_of(listed.ids)
    if (at < 0).all():
        there = f"such as {nodes.ids[0]}" if len(nodes) else "which have none"
        problem = f"no id of the file, such as {listed.ids[0]}, is of type {spec.node} in the other files, {there}"
        listed.table.fail(0, spec.id_column, f"{problem}; write the ids as they do")
    return at
