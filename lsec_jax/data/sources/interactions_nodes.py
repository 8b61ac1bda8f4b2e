"""Interaction files that have one row per node: when it is available, and its features."""

import dataclasses
from pathlib import Path

import numpy as np

from lsec_jax.data import features, tables
from lsec_jax.data.files import expand_path
from lsec_jax.data.sources.interactions_specs import AvailabilitySpec, NodeSpec
from lsec_jax.data.table import Table
from lsec_jax.schema import Availability, Feature, NodeTable


def read_availability(
    root: Path, spec: AvailabilitySpec, place: str, nodes: NodeTable, has_dates: bool | None, counts: dict[str, int]
) -> Availability:
    """Reads the windows of one node type.

    Args:
        root: base directory.
        spec: of the file.
        place: its config key.
        nodes: of the type.
        has_dates: whether the data set's times are dates.
        counts: gains the windows that belong to no node, and the nodes without one.

    Raises:
        DataError: the file cannot be used, a window is empty, or its times are of another unit.
    """
    columns = [spec.id_column, spec.start_column, spec.end_column]
    table, at = _read_listed(root, spec, place, columns, nodes)
    bounds = []
    for column, missing in ((spec.start_column, -np.inf), (spec.end_column, np.inf)):
        values, dates = table.optional_times(column, missing)
        if dates is not None and dates != has_dates:
            found, other = ("dates", "numbers") if dates else ("numbers", "dates")
            table.fail(0, column, f"{found}, but the other times are {other}; use one unit")
        bounds.append(values)
    empty = np.flatnonzero(bounds[0] >= bounds[1])
    if len(empty):
        row = int(empty[0])
        start, end = table.columns[spec.start_column][row], table.columns[spec.end_column][row]
        problem = f"the start {start} is not before {end}"
        if bounds[0][row] == bounds[1][row]:  # also of integers that differ beyond double precision
            problem = f"the start {start} and the end {end} are one time, in double precision"
        table.fail(row, spec.end_column, f"{problem}; windows are half-open, [start, end); correct the row")
    if unknown := int((at < 0).sum()):
        counts[f"{spec.node}: windows of ids that are in no relation, dropped"] = unknown
    if without := len(nodes) - (len(at) - unknown):
        counts[f"{spec.node}: nodes without a window, always available"] = without
    windows = np.full(len(nodes), -np.inf), np.full(len(nodes), np.inf)
    for window, values in zip(windows, bounds, strict=True):
        window[at[at >= 0]] = values[at >= 0]
    return Availability(*windows)


def with_features(root: Path, spec: NodeSpec, place: str, nodes: NodeTable, counts: dict[str, int]) -> NodeTable:
    """Returns the nodes with the features of their file; nodes that it does not list have none.

    Args:
        root: base directory.
        spec: of the file.
        place: its config key.
        nodes: of the type.
        counts: gains the rows that belong to no node, and the nodes without one.

    Raises:
        DataError: the file cannot be used.
    """
    columns = [spec.id_column, *(of.column or of.name for of in spec.columns)]
    table, at = _read_listed(root, spec, place, columns, nodes)
    if unknown := int((at < 0).sum()):
        counts[f"{spec.node}: rows of features of ids that nothing else has, dropped"] = unknown
    if without := len(nodes) - (len(at) - unknown):
        counts[f"{spec.node}: nodes without a row of features"] = without
    row_of = np.full(len(nodes), -1)
    row_of[at[at >= 0]] = np.flatnonzero(at >= 0)
    found = {of.name: _feature(table, of.column or of.name, of.kind, spec.missing) for of in spec.columns}
    return dataclasses.replace(nodes, features={name: _take(feature, row_of) for name, feature in found.items()})


def _feature(table: Table, column: str, kind: str, missing: tuple[str, ...]) -> Feature:
    if kind == "categorical":
        return features.categories(table, column, missing)
    if kind == "ordinal":
        return features.ranges(table, column, missing)
    if kind == "date":
        return features.days(table, column, missing)
    return Feature("numeric", features.numbers(table, column, missing).astype(np.float32))


def _take(feature: Feature, rows: np.ndarray) -> Feature:
    """Some rows, where -1 has no value."""
    nothing = np.float32(np.nan) if feature.kind == "numeric" else np.int32(-1)
    return dataclasses.replace(feature, values=np.where(rows >= 0, feature.values[rows], nothing))


def _read_listed(
    root: Path, spec: AvailabilitySpec | NodeSpec, place: str, columns: list[str], nodes: NodeTable
) -> tuple[Table, np.ndarray]:
    """Reads a file and finds the nodes of its rows, [rows] int64, -1 where an id is of none."""
    table = tables.read_table(
        root / expand_path(spec.path),
        columns,
        delimiter=spec.delimiter,
        file_format=spec.format,
        column_names=spec.column_names,
        delimiter_key=f"{place}.delimiter",
    )
    listed = table.unique_ids(spec.id_column)
    at = nodes.index_of(listed)
    if (at < 0).all():
        problem = (
            f"no id of the file, such as {listed[0]}, is of type {spec.node} in the other files, such as {nodes.ids[0]}"
        )
        table.fail(0, spec.id_column, f"{problem}; write the ids as they do")
    return table, at
