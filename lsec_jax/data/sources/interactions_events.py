"""Events of interaction files: read in blocks, checked, collected in a database, written in order of time.

Every row that cannot be used is found, in all files and columns; then the data are refused, or, where that is asked
for, these rows are left out and counted.
"""

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsec_jax.data import features, tables
from lsec_jax.data.cleaning import Reader, TimeUnit, WrongRows, time_unit
from lsec_jax.data.columns import Workspace
from lsec_jax.data.event_log import TIME, EventLog
from lsec_jax.data.files import expand_path
from lsec_jax.data.ids import IdColumn
from lsec_jax.data.sources.interactions_specs import ColumnSpec, EventSpec, RoleSpec
from lsec_jax.data.sources.interactions_trees import ListedTree, without_strangers
from lsec_jax.data.table import Table
from lsec_jax.schema import DataError, EventNodes, Events, Feature, NodeTable

_CODED = ("categorical", "ordinal")
_DTYPES = {
    "label": np.bool_,
    "measure": np.float32,
    "numeric": np.float32,
    "categorical": np.int32,
    "ordinal": np.int32,
}


def collect(
    root: Path,
    specs: Sequence[EventSpec],
    trees: Mapping[str, ListedTree],
    log: EventLog,
    workspace: Workspace,
    wrong: WrongRows,
) -> list[TimeUnit]:
    """Reads the events' files into the log.

    Args:
        root: base directory.
        specs: checked.
        trees: by node type, which have all nodes of their types.
        log: gains a table for each spec; not completely where rows are wrong that may not be left out.
        workspace: whether wrong rows are left out, and who is told of the progress.
        wrong: gains the rows that cannot be read, and those whose nodes a tree lacks.

    Returns:
        The unit of every file's times.

    Raises:
        DataError: a file cannot be read, or has no row that can.
    """
    files = [(i, path) for i, spec in enumerate(specs) for path in _files(root, spec, f"data.events[{i}].path")]
    units, num_rows = [], [0] * len(specs)
    for i, path in files:
        spec = specs[i]
        readers: dict[str, Reader] = {}
        types = [(role.column or role.role, role.node or role.role) for role in spec.roles]
        known = [(column, trees[node]) for column, node in types if node in trees]
        for table in _blocks(path, spec, f"data.events[{i}].delimiter"):
            workspace.on_progress("reading", table.share / len(files))
            if not readers:
                unit = time_unit(f"events '{spec.name}' have", table, spec.time_column)
                units.append(unit)
                readers = _readers(spec, unit.has_dates)
            good, found = without_strangers(*wrong.without(table, readers), readers, known, wrong)
            num_rows[i] += len(good)
            if len(good) and (workspace.is_quarantining or not wrong):
                log.append(spec.name, {TIME: pa.array(found.pop(TIME)), **found})
    for spec, number in zip(specs, num_rows, strict=True):
        if not number:
            raise DataError(f"events '{spec.name}': no row of {spec.path} can be used")
    return units


def ids_of(specs: Sequence[EventSpec], log: EventLog) -> Iterator[tuple[str, IdColumn]]:
    """Returns (node type, its distinct ids) of every role."""
    for spec in specs:
        for role in spec.roles:
            yield role.node or role.role, log.distinct(spec.name, f"nodes/{role.role}")


def write(
    specs: Sequence[EventSpec], nodes: Mapping[str, NodeTable], log: EventLog, workspace: Workspace
) -> dict[str, Events]:
    """Writes what was collected, sorted by time, where the workspace has its columns.

    Args:
        specs: as they were collected.
        nodes: tables that have all the ids.
        log: with the rows.
        workspace: gives the columns.
    """
    num_rows = sum(log.size(spec.name) for spec in specs)
    return {spec.name: _write(spec, nodes, log, workspace, num_rows) for spec in specs}


def _write(
    spec: EventSpec, nodes: Mapping[str, NodeTable], log: EventLog, workspace: Workspace, num_rows: int
) -> Events:
    """Writes one table; `num_rows` is that of all."""
    node_types = {role.role: role.node or role.role for role in spec.roles}
    dtypes: dict[str, Any] = {TIME: np.float64} | {f"nodes/{role}": np.int32 for role in node_types}
    codes = {f"nodes/{role}": nodes[node_type].ids for role, node_type in node_types.items()}
    if spec.group_column:
        dtypes["group"] = np.int64
    vocabularies = {}
    for column in spec.columns:
        dtypes[_path(column)] = _DTYPES[column.kind]
        if column.kind in _CODED:
            texts = log.distinct(spec.name, _path(column)).values.tolist()
            vocabularies[column.name] = features.vocabulary(column.kind, texts)
            codes[_path(column)] = np.asarray(vocabularies[column.name], np.str_)

    arrays = log.write(
        spec.name,
        codes,
        lambda path, shape, dtype: workspace.new_column(f"events/{spec.name}/{path}", shape, dtype),
        dtypes,
        lambda rows: workspace.on_progress("sorting", rows / num_rows),
        ranked=["group"] if spec.group_column and log.is_text(spec.name, "group") else [],
    )
    measured = [column for column in spec.columns if _path(column).startswith("values/")]
    return Events(
        spec.name,
        {role: EventNodes(node_type, arrays[f"nodes/{role}"]) for role, node_type in node_types.items()},
        arrays[TIME],
        values={column.name: arrays[_path(column)] for column in measured},
        features={
            column.name: Feature(column.kind, arrays[_path(column)], tuple(vocabularies.get(column.name, ())))
            for column in spec.columns
            if column not in measured
        },
        group=arrays.get("group"),
    )


def _path(column: ColumnSpec) -> str:
    return f"{'values' if column.kind in ('label', 'measure') else 'features'}/{column.name}"


def _files(root: Path, spec: EventSpec, key: str) -> list[Path]:
    path = expand_path(spec.path)
    if "*" not in spec.path:
        return [root / path]
    pattern = str(Path(glob.escape(str(root))) / glob.escape(str(path)).replace("[*]", "*")).removesuffix(".gz")
    found = sorted({Path(name) for ending in ("", ".gz") for name in glob.glob(pattern + ending)})
    if not found:
        raise DataError(f"config key {key} = '{spec.path}': no file matches {root / path}; check the path")
    if twice := [name for name in found if name.with_name(f"{name.name}.gz") in found]:
        raise DataError(f"config key {key} = '{spec.path}': {twice[0]} is there packed (.gz), too; remove one of both")
    return found


def _blocks(path: Path, spec: EventSpec, delimiter_key: str) -> Iterator[Table]:
    columns = [spec.time_column, *(role.column or role.role for role in spec.roles)]
    columns += [column.column or column.name for column in spec.columns]
    columns += [spec.group_column] if spec.group_column else []
    return tables.read_blocks(
        path,
        list(dict.fromkeys(columns)),
        delimiter=spec.delimiter,
        file_format=spec.format,
        column_names=spec.column_names,
        delimiter_key=delimiter_key,
    )


def _readers(spec: EventSpec, has_dates: bool) -> dict[str, Reader]:
    """How the columns are read, by their path in the store."""
    readers = {TIME: Reader(spec.time_column, lambda table: table.times(spec.time_column, has_dates)[0])}
    for role in spec.roles:
        readers[f"nodes/{role.role}"] = _node_reader(role)
    for column in spec.columns:
        readers[_path(column)] = _column_reader(column)
    if name := spec.group_column:
        readers["group"] = Reader(name, lambda table: _arrow(table.ids(name)))
    return readers


def _node_reader(role: RoleSpec) -> Reader:
    name = role.column or role.role

    def read_optional(table: Table) -> pa.Array:
        found, is_empty = table.optional_ids(name)
        return pc.if_else(pa.array(is_empty), None, _arrow(found))

    return Reader(name, read_optional if role.is_optional else lambda table: _arrow(table.ids(name)))


def _arrow(column: IdColumn) -> pa.Array:
    values = pa.array(column.values, pa.int64() if column.values.dtype.kind == "i" else pa.large_string())
    return values.take(pa.array(column.codes))


def _column_reader(column: ColumnSpec) -> Reader:
    name = column.column or column.name
    if column.kind == "label":
        return Reader(name, lambda table: pa.array(table.labels(name)))
    if column.kind in ("measure", "numeric"):
        return Reader(name, lambda table: pa.array(features.single_precision(table, name)))
    return Reader(name, lambda table: _texts(table, name, column.kind))


def _texts(table: Table, name: str, kind: str) -> pa.Array:
    """The texts of a coded feature, null where there is none, [rows]; refuses those that are no ranges."""
    if kind == "ordinal":
        features.ranges(table, name, (), missing_key="")
    words, codes = table.words(name)
    return pc.if_else(pc.equal(words, ""), None, words).take(codes)
