"""Interaction files that have a tree over the nodes of one type: a row per node with its parent, or per path.

They are read first, as the nodes of the type are those of the tree: ids of other files that it lacks are wrong rows.
A tree from which rows were left out would be another one, so that what is wrong in its own file is always refused.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lsec_jax.data import tables
from lsec_jax.data.cleaning import Reader, WrongRows
from lsec_jax.data.files import expand_path
from lsec_jax.data.sources.interactions_paths import read_paths
from lsec_jax.data.sources.interactions_specs import TreeSpec
from lsec_jax.data.table import Table
from lsec_jax.schema import DataError, NodeTable, Tree

_SHOWN = 10  # nodes of a cycle in a message


@dataclasses.dataclass(frozen=True)
class ListedTree:
    """The tree of one file.

    Attributes:
        path: of the file.
        nodes: all of the tree, level by level, by id within a level.
        tree: over them.
        num_repeated: rows that say what another one says.
    """

    path: Path
    nodes: NodeTable
    tree: Tree
    num_repeated: int


def read_tree(root: Path, spec: TreeSpec, place: str) -> ListedTree:
    """Reads the tree of one node type; the order of the rows does not matter.

    Args:
        root: base directory.
        spec: of the file, checked.
        place: its config key.

    Raises:
        DataError: the file cannot be used, or what it has is no tree: a parent without a row, a node with two parents,
            a node below itself, a path with a gap, a node with two paths, a path of two nodes, a second root.
    """
    columns = [spec.id_column, *(column for column in (spec.parent_column, spec.path_column) if column)]
    table = tables.read_table(
        root / expand_path(spec.path),
        [*columns, *spec.level_columns],
        delimiter=spec.delimiter,
        file_format=spec.format,
        column_names=spec.column_names,
        delimiter_key=f"{place}.delimiter",
    )
    if spec.parent_column:
        ids, parents, rows = _read_parents(table, spec, spec.parent_column)
        num_used = len(ids)
    else:
        ids, parents, rows, num_used = read_paths(table, spec, place)
    depths, ends = _depths(parents)
    if spec.parent_column and (ends >= 0).any():
        _fail_of_cycle(table, spec.parent_column, ids, parents, rows, ends)
    if not spec.several_roots:
        _check_roots(table, spec, place, ids, parents, rows)
    order = np.lexsort((np.unique(ids, return_inverse=True)[1], depths))
    position = np.empty(len(ids), np.int32)
    position[order] = np.arange(len(ids))
    ordered = np.where(parents[order] >= 0, position[parents[order]], np.int32(-1))
    return ListedTree(table.path, NodeTable(spec.node, ids[order]), Tree(ordered), len(table) - num_used)


def _read_parents(table: Table, spec: TreeSpec, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the nodes' ids, sorted, [n]; their parents, -1 for none, and their first rows, [n] int64."""
    own = table.ids(spec.id_column)
    try:
        above, is_root = table.optional_ids(column)
    except DataError as error:
        raise DataError(f"{error} (a root's parent is left empty)") from None
    nodes = NodeTable(spec.node, np.unique(own.values))
    node = nodes.index_of(own.values)[own.codes]
    parent = np.where(is_root, -1, nodes.index_of(above.values)[above.codes])
    dangling = np.flatnonzero(~is_root & (parent < 0))
    if len(dangling):
        row = int(dangling[0])
        missing, child = above.values[above.codes[row]], nodes.ids[node[row]]
        table.fail(row, column, f"{missing}, the parent of {child}, has no row; add it, or correct the parent")
    first = np.unique(node, return_index=True)[1]
    others = np.flatnonzero(parent != parent[first][node])
    if len(others):
        row = int(others[0])
        before = int(first[node[row]])
        here, there = (nodes.ids[parent[at]] if parent[at] >= 0 else "none" for at in (row, before))
        problem = f"the parent of {nodes.ids[node[row]]} is {here} here and {there} in {table.row_name(before)}"
        table.fail(row, column, f"{problem}; a node has one parent; drop one of the rows")
    return nodes.ids, parent[first], first


def _depths(parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of nodes above each, and -1 where they end in a root, else some node of the cycle, [n] int64.

    Each round doubles how far is seen, so that a chain of n nodes needs log n of them.
    """
    size = len(parents)
    above = np.append(np.where(parents < 0, size, parents), size)  # the last node stands for what is above roots
    depths = np.append((parents >= 0).astype(np.int64), 0)
    for _ in range(size.bit_length()):
        depths = depths + depths[above]
        above = above[above]
    return depths[:-1], np.where(above[:-1] == size, -1, above[:-1])


def _fail_of_cycle(
    table: Table, column: str, ids: np.ndarray, parents: np.ndarray, rows: np.ndarray, ends: np.ndarray
) -> None:
    cycle = [int(ends[ends >= 0][0])]
    while (above := int(parents[cycle[-1]])) != cycle[0]:
        cycle.append(above)
    start = int(np.argmin(rows[cycle]))
    cycle = cycle[start:] + cycle[:start]
    names = [str(ids[node]) for node in cycle[:_SHOWN]] + ["..."] * (len(cycle) > _SHOWN)
    circle = " -> ".join([*names, names[0]])
    problem = f"{names[0]} is its own ancestor, by {circle} ({len(cycle)} nodes, each before its parent)"
    table.fail(int(rows[cycle[0]]), column, f"{problem}; correct one of these parents")


def _check_roots(
    table: Table, spec: TreeSpec, place: str, ids: np.ndarray, parents: np.ndarray, rows: np.ndarray
) -> None:
    roots = np.flatnonzero(parents < 0)
    if len(roots) > 1:
        first, second = roots[np.argsort(rows[roots], kind="stable")][:2]
        remedy = "give all but one a parent" if spec.parent_column else "begin all paths with the same name"
        problem = (
            f"{ids[second]} is a root, and so is {ids[first]} in {table.row_name(int(rows[first]))}: {len(roots)} roots"
        )
        column = spec.parent_column or spec.path_column or spec.level_columns[0]
        table.fail(int(rows[second]), column, f"{problem}; {remedy}, or set config key {place}.several_roots to True")


def without_strangers(
    table: Table,
    found: dict[str, Any],
    readers: Mapping[str, Reader],
    known: Sequence[tuple[str, ListedTree]],
    wrong: WrongRows,
) -> tuple[Table, dict[str, Any]]:
    """Leaves out the rows that name nodes which a tree lacks.

    Args:
        table: as `WrongRows.without` returns it.
        found: likewise.
        readers: that it was given.
        known: (column that names nodes of a tree, the tree).
        wrong: gains the rows that are left out.

    Returns:
        As `WrongRows.without`.

    Raises:
        DataError: more than a thousand different nodes of one column are in no tree.
    """
    is_known = np.ones(len(table), bool)
    for column, tree in known if len(table) else ():
        ids, is_empty = table.optional_ids(column)
        is_strange = ~is_empty & (tree.nodes.index_of(ids.values) < 0)[ids.codes]
        rows = np.flatnonzero(is_strange)
        if len(rows):
            strangers = map(str, ids.values[np.unique(ids.codes[rows])].tolist())
            problem = f"{tree.nodes.name} {ids.values[ids.codes[rows[0]]]} is not in the tree of {tree.path}"
            wrong.add_strangers(table, column, rows, strangers, f"{problem}; add it there, or correct or drop the row")
            is_known &= ~is_strange
    if is_known.all():
        return table, found
    table = table.take(np.flatnonzero(is_known))
    return table, {name: reader.read(table) for name, reader in readers.items()} if len(table) else {}
