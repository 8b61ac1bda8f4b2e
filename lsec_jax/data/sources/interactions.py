"""Any data: a CSV, TSV or Parquet file per relation, table of events and node type, with columns named in the config.

Duplicate pairs are dropped and counted: the earliest time stays, without times the first row, with that row's weight.
Given validation and test files become split codes; a pair in several files belongs to the first of train, validation
and test. Ids that occur only in validation or test files are nodes like all others (cold nodes), and are counted.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lsec_jax.data import ids, tables
from lsec_jax.data.columns import Workspace
from lsec_jax.data.event_log import EventLog
from lsec_jax.data.files import expand_path
from lsec_jax.data.sources import interactions_events, interactions_nodes
from lsec_jax.data.sources.interactions_specs import (
    AvailabilitySpec,
    ColumnSpec,
    EventSpec,
    NodeSpec,
    RelationSpec,
    RoleSpec,
    check_availability,
    check_nodes,
    check_specs,
)
from lsec_jax.schema import SPLITS, DataError, LiveCommerceData, Relation

__all__ = ["AvailabilitySpec", "ColumnSpec", "Config", "EventSpec", "NodeSpec", "RelationSpec", "RoleSpec"]


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
    """

    path: str = ""
    relations: tuple[RelationSpec, ...] = ()
    name: str = ""
    availability: tuple[AvailabilitySpec, ...] = ()
    events: tuple[EventSpec, ...] = ()
    nodes: tuple[NodeSpec, ...] = ()

    def load(self) -> LiveCommerceData:
        """Reads everything; raises DataError naming file, line and column, or the config key."""
        return self.load_into(Workspace())

    def load_into(self, workspace: Workspace) -> LiveCommerceData:
        """The same, with the columns of events where the workspace has them."""
        root = expand_path(self.path)
        check_specs(self.relations, self.events)
        check_availability(self.availability, self.relations, self.events)
        check_nodes(self.nodes, self.relations, self.events)
        counts: dict[str, int] = {}
        rows = [_read_relation(root, spec, f"data.relations[{i}]") for i, spec in enumerate(self.relations)]
        with EventLog(workspace.scratch, workspace.memory_bytes) as log:
            units = interactions_events.collect(root, self.events, log, workspace, counts)
            has_dates = _one_time_unit(self.relations, rows, units)
            columns = [
                (end, column)
                for spec, row in zip(self.relations, rows, strict=True)
                for end, column in ((spec.source, row.source), (spec.target, row.target))
            ]
            nodes, indices = ids.build_nodes([*columns, *interactions_events.ids_of(self.events, log)])
            events = interactions_events.write(self.events, nodes, log, workspace)
        relations = {}
        for i, (spec, row) in enumerate(zip(self.relations, rows, strict=True)):
            if row.num_line_breaks:
                counts[f"{spec.name}: line breaks inside quoted values"] = row.num_line_breaks
            relations[spec.name] = _relation(spec, row, indices[2 * i], indices[2 * i + 1], counts)
        if not events:
            _count_cold(relations, {name: len(table) for name, table in nodes.items()}, counts)
        availability = {
            spec.node: interactions_nodes.read_availability(
                root, spec, f"data.availability[{i}]", nodes[spec.node], has_dates, counts
            )
            for i, spec in enumerate(self.availability)
        }
        for i, node_spec in enumerate(self.nodes):
            nodes[node_spec.node] = interactions_nodes.with_features(
                root, node_spec, f"data.nodes[{i}]", nodes[node_spec.node], counts
            )
        return LiveCommerceData(
            self.name or root.resolve().name,
            nodes,
            relations,
            has_dates=has_dates is True,
            availability=availability,
            counts=counts,
            events=events,
        )


@dataclasses.dataclass(frozen=True)
class _Rows:
    """All rows of one relation's files, one after the other; `file` is each row's split code."""

    source: ids.IdColumn
    target: ids.IdColumn
    time: np.ndarray | None
    weight: np.ndarray | None
    file: np.ndarray
    has_dates: bool
    num_line_breaks: int


def _read_relation(root: Path, spec: RelationSpec, place: str) -> _Rows:
    """Reads a relation's one to three files; `place` is its config key."""
    sources, targets, times, weights, files, dates, num_line_breaks = [], [], [], [], [], set(), 0
    columns = [spec.source_column, spec.target_column]
    columns += [column for column in (spec.time_column, spec.weight_column) if column]
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
        sources.append(table.ids(spec.source_column))
        targets.append(table.ids(spec.target_column))
        if spec.time_column:
            time, is_dates = table.times(spec.time_column)
            times.append(time)
            dates.add(is_dates)
        if spec.weight_column:
            weights.append(table.weights(spec.weight_column))
        files.append(np.full(len(table), split, np.int8))
    if len(dates) > 1:
        raise DataError(f"relation '{spec.name}': '{spec.time_column}' has dates in one file and numbers in another")
    return _Rows(
        source=ids.join_columns(sources),
        target=ids.join_columns(targets),
        time=np.concatenate(times) if times else None,
        weight=np.concatenate(weights) if weights else None,
        file=np.concatenate(files),
        has_dates=True in dates,
        num_line_breaks=num_line_breaks,
    )


def _one_time_unit(specs: tuple[RelationSpec, ...], rows: list[_Rows], of_events: Mapping[str, bool]) -> bool | None:
    """Whether all times are dates, or None where there are none; raises DataError where some are and others are not.

    Args:
        specs: of the relations.
        rows: of the relations.
        of_events: whether the times of a place, such as "events 'gift' have ... in column 'time'", are dates.
    """
    units = {
        row.has_dates: f"relation '{spec.name}' has {{}} in column '{spec.time_column}'"
        for spec, row in zip(specs, rows, strict=True)
        if row.time is not None
    }
    units |= {dates: place for place, dates in of_events.items()}
    if len(units) == 2:
        raise DataError(f"{units[True].format('dates')}, {units[False].format('numbers')}; all times must use one unit")
    return next(iter(units), None)


def _relation(
    spec: RelationSpec, rows: _Rows, source_ids: np.ndarray, target_ids: np.ndarray, counts: dict[str, int]
) -> Relation:
    """Builds the relation from its distinct pairs; fills `counts`."""
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
    """Counts ids that no training row of any relation has."""
    for name, size in sizes.items():
        is_warm = np.zeros(size, bool)
        for relation in relations.values():
            keep = slice(None) if relation.split is None else relation.split == SPLITS["train"]
            for end, indices in ((relation.source, relation.source_ids), (relation.target, relation.target_ids)):
                if end == name:
                    is_warm[indices[keep]] = True
        if not is_warm.all():
            counts[f"{name}: ids only in validation or test files"] = int((~is_warm).sum())
