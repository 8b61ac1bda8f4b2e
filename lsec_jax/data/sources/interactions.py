"""Any data: a CSV, TSV or Parquet file per relation, table of events and node type, with columns named in the config.

Duplicate pairs are dropped and counted: the earliest time stays, without times the first row, with that row's weight.
Given validation and test files become split codes; a pair in several files belongs to the first of train, validation
and test. Ids that occur only in validation or test files are nodes like all others (cold nodes), and are counted.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lsec_jax.data import ids, tables
from lsec_jax.data.cleaning import Reader, TimeUnit, WrongRows, has_one_unit, time_unit
from lsec_jax.data.columns import Workspace
from lsec_jax.data.event_log import EventLog
from lsec_jax.data.files import expand_path
from lsec_jax.data.sources import interactions_events, interactions_nodes, interactions_trees
from lsec_jax.data.sources.interactions_outline import outline_of
from lsec_jax.data.sources.interactions_specs import (
    AvailabilitySpec,
    ColumnSpec,
    EventSpec,
    NodeSpec,
    RelationSpec,
    RoleSpec,
    TreeSpec,
    check_availability,
    check_nodes,
    check_specs,
    check_trees,
)
from lsec_jax.data.sources.interactions_trees import ListedTree
from lsec_jax.schema import SPLITS, DataError, LiveCommerceData, Relation

__all__ = ["AvailabilitySpec", "ColumnSpec", "Config", "EventSpec", "NodeSpec", "RelationSpec", "RoleSpec", "TreeSpec"]


@dataclasses.dataclass
class Config:
    """Reads interaction files.

    Relations are read in memory, whole. Events may be larger than that: `python -m lsec_jax.prepare` reads them in
    blocks.

    Attributes:
        path: base directory of the files; `~` and `${VARIABLES}` are expanded.
        relations: one spec per relation.
        name: of the data set, for reports; "" = the directory's name.
        availability: one spec per node type that has windows in which it can be bought; () = all always can.
        events: one spec per table of events.
        nodes: one spec per node type that has features.
        trees: one spec per node type that has a tree over its nodes.
    """

    path: str = ""
    relations: tuple[RelationSpec, ...] = ()
    name: str = ""
    availability: tuple[AvailabilitySpec, ...] = ()
    events: tuple[EventSpec, ...] = ()
    nodes: tuple[NodeSpec, ...] = ()
    trees: tuple[TreeSpec, ...] = ()

    def load(self) -> LiveCommerceData:
        """Reads everything; raises DataError naming file, line and column, or the config key."""
        return self.load_into(Workspace())

    def outline(self) -> LiveCommerceData:
        """Returns the tables that `load` will return, without rows; raises DataError naming the config key."""
        self._check()
        name = self.name or "interactions"
        return outline_of(name, self.relations, self.events, self.nodes, self.availability, self.trees)

    def _check(self) -> None:
        check_specs(self.relations, self.events)
        check_availability(self.availability, self.relations, self.events)
        check_nodes(self.nodes, self.relations, self.events)
        check_trees(self.trees, self.relations, self.events)

    def load_into(self, workspace: Workspace) -> LiveCommerceData:
        """The same, with the columns of events where the workspace has them."""
        root = expand_path(self.path)
        self._check()
        name = self.name or root.resolve().name
        counts: dict[str, int] = {}
        wrong = WrongRows()
        trees = self._read_trees(root, counts)
        with EventLog(workspace.scratch, workspace.memory_bytes) as log:
            try:
                rows = [
                    _read_relation(root, spec, f"data.relations[{i}]", trees, wrong)
                    for i, spec in enumerate(self.relations)
                ]
                units = [unit for row in rows for unit in row.units]
                units += interactions_events.collect(root, self.events, trees, log, workspace, wrong)
                windows = [
                    interactions_nodes.read_windows(root, spec, f"data.availability[{i}]", wrong)
                    for i, spec in enumerate(self.availability)
                ]
                listed = [
                    interactions_nodes.read_features(root, spec, f"data.nodes[{i}]", wrong)
                    for i, spec in enumerate(self.nodes)
                ]
            except DataError as error:
                if not workspace.is_quarantining:
                    wrong.refuse(name, str(error))
                raise
            if not workspace.is_quarantining:
                wrong.refuse(name)
            wrong.count(counts)
            has_dates = has_one_unit(units)
            columns = [
                (end, column)
                for spec, row in zip(self.relations, rows, strict=True)
                for end, column in ((spec.source, row.source), (spec.target, row.target))
            ]
            listed_ids = {node: of.nodes.ids for node, of in trees.items()}
            nodes, indices = ids.build_nodes([*columns, *interactions_events.ids_of(self.events, log)], listed_ids)
            events = interactions_events.write(self.events, nodes, log, workspace)
        relations = {
            spec.name: _relation(spec, row, indices[2 * i], indices[2 * i + 1], counts)
            for i, (spec, row) in enumerate(zip(self.relations, rows, strict=True))
        }
        if not events:
            _count_cold(relations, {name: len(table) for name, table in nodes.items()}, counts)
        availability = {
            spec.node: interactions_nodes.availability(spec, found, nodes[spec.node], has_dates, counts)
            for spec, found in zip(self.availability, windows, strict=True)
        }
        for node_spec, found in zip(self.nodes, listed, strict=True):
            nodes[node_spec.node] = interactions_nodes.with_features(node_spec, found, nodes[node_spec.node], counts)
        return LiveCommerceData(
            name,
            nodes,
            relations,
            has_dates=has_dates is True,
            availability=availability,
            counts=counts,
            events=events,
            trees={node: of.tree for node, of in trees.items()},
        )

    def _read_trees(self, root: Path, counts: dict[str, int]) -> dict[str, ListedTree]:
        """Reads the trees by node type; counts rows that say what another one says."""
        trees = {}
        for i, spec in enumerate(self.trees):
            found = trees[spec.node] = interactions_trees.read_tree(root, spec, f"data.trees[{i}]")
            if found.num_repeated:
                counts[f"tree of {spec.node}: rows that are there twice, dropped"] = found.num_repeated
        return trees


@dataclasses.dataclass(frozen=True)
class _Rows:
    """All rows of one relation's files, one after the other; `file` is each row's split code."""

    source: ids.IdColumn
    target: ids.IdColumn
    time: np.ndarray | None
    weight: np.ndarray | None
    file: np.ndarray
    units: list[TimeUnit]
    num_line_breaks: int


def _read_relation(
    root: Path, spec: RelationSpec, place: str, trees: Mapping[str, ListedTree], wrong: WrongRows
) -> _Rows:
    """Reads a relation's one to three files; `place` is its config key, `wrong` gains rows that cannot be used."""
    parts: list[dict[str, Any]] = []
    units, files, num_line_breaks = [], [], 0
    columns = [spec.source_column, spec.target_column]
    columns += [column for column in (spec.time_column, spec.weight_column) if column]
    ends = ((spec.source_column, spec.source), (spec.target_column, spec.target))
    known = [(column, trees[node]) for column, node in ends if node in trees]
    for (_, split), path in zip(SPLITS.items(), (spec.path, spec.validation_path, spec.test_path), strict=True):
        if not path:
            continue
        table = tables.read_table(
            root / expand_path(path),
            columns,
            delimiter=spec.delimiter,
            file_format=spec.format,
            column_names=spec.column_names,
            delimiter_key=f"{place}.delimiter",
        )
        num_line_breaks += table.num_line_breaks
        if spec.time_column:
            units.append(time_unit(f"relation '{spec.name}' has", table, spec.time_column))
        readers = _readers(spec, bool(units) and units[-1].has_dates)
        good, found = interactions_trees.without_strangers(*wrong.without(table, readers), readers, known, wrong)
        if not len(good):
            raise DataError(f"relation '{spec.name}': no row of {table.path} can be used")
        parts.append(found)
        files.append(np.full(len(good), split, np.int8))
    return _Rows(
        source=ids.join_columns([part["source"] for part in parts]),
        target=ids.join_columns([part["target"] for part in parts]),
        time=np.concatenate([part["time"] for part in parts]) if spec.time_column else None,
        weight=np.concatenate([part["weight"] for part in parts]) if spec.weight_column else None,
        file=np.concatenate(files),
        units=units,
        num_line_breaks=num_line_breaks,
    )


def _readers(spec: RelationSpec, has_dates: bool) -> dict[str, Reader]:
    source, target, time, weight = spec.source_column, spec.target_column, spec.time_column, spec.weight_column
    readers = {
        "source": Reader(source, lambda table: table.ids(source)),
        "target": Reader(target, lambda table: table.ids(target)),
    }
    if time:
        readers["time"] = Reader(time, lambda table: table.times(time, has_dates)[0])
    if weight:
        readers["weight"] = Reader(weight, lambda table: table.weights(weight))
    return readers


def _relation(
    spec: RelationSpec, rows: _Rows, source_ids: np.ndarray, target_ids: np.ndarray, counts: dict[str, int]
) -> Relation:
    """Builds the relation from its distinct pairs; fills `counts`."""
    if rows.num_line_breaks:
        counts[f"{spec.name}: line breaks inside quoted values"] = rows.num_line_breaks
    keep = ids.distinct_pairs(spec.name, source_ids, target_ids, rows.file, rows.time, counts)
    return Relation(
        name=spec.name,
        source=spec.source,
        target=spec.target,
        source_ids=source_ids[keep],
        target_ids=target_ids[keep],
        time=None if rows.time is None else rows.time[keep],
        weight=None if rows.weight is None else rows.weight[keep],
        split=rows.file[keep] if spec.validation_path or spec.test_path else None,
    )


def _count_cold(relations: dict[str, Relation], sizes: dict[str, int], counts: dict[str, int]) -> None:
    """Counts ids that rows of relations have, and no training row of any."""
    for name, size in sizes.items():
        is_there, is_warm = np.zeros(size, bool), np.zeros(size, bool)
        for relation in relations.values():
            keep = slice(None) if relation.split is None else relation.split == SPLITS["train"]
            for end, indices in ((relation.source, relation.source_ids), (relation.target, relation.target_ids)):
                if end == name:
                    is_there[indices] = True
                    is_warm[indices[keep]] = True
        if (is_there & ~is_warm).any():
            counts[f"{name}: ids only in validation or test files"] = int((is_there & ~is_warm).sum())
