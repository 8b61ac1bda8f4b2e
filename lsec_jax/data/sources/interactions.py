"""Any interaction data: one CSV, TSV or Parquet file per relation, with its columns named in the config.

Duplicate pairs are dropped and counted: the earliest time stays, without times the first row, with that row's weight.
Given validation and test files become split codes; a pair in several files belongs to the first of train, validation
and test. Ids that occur only in validation or test files are nodes like all others (cold nodes), and are counted.
"""

import dataclasses
from pathlib import Path

import numpy as np

from lsec_jax.data import ids, tables
from lsec_jax.data.files import expand_path
from lsec_jax.schema import NAME_RULE, SPLITS, Availability, DataError, LiveCommerceData, NodeTable, Relation, is_name


@dataclasses.dataclass
class RelationSpec:
    """Where one relation's interactions are.

    Attributes:
        name: of the relation, e.g. "buy"; letters, digits, _ and -.
        source, target: node types at its two ends, e.g. "user", "item"; likewise.
        path: its file (all interactions, or the training ones), inside `Config.path`, or absolute.
        source_column, target_column: columns with the external ids.
        time_column: column with times >= 0 (numbers) or dates (ISO 8601, read as seconds since 1970 UTC), or None.
        weight_column: column with finite weights > 0, or None.
        validation_path, test_path: files of a given split, same columns, or None.
        column_names: names of all columns of text files that have no header; () = the first line is the header.
        delimiter: of text files, one ASCII character; "" = from the extension (.csv comma; .tsv, .txt, .tab tab).
        format: "text", "parquet", or "" = from the extension.
    """

    name: str = ""
    source: str = ""
    target: str = ""
    path: str = ""
    source_column: str = ""
    target_column: str = ""
    time_column: str | None = None
    weight_column: str | None = None
    validation_path: str | None = None
    test_path: str | None = None
    column_names: tuple[str, ...] = ()
    delimiter: str = ""
    format: str = ""

    def check(self, place: str) -> None:
        """Raises DataError for the first field that is missing or cannot be used, with its key and the remedy."""
        for field in ("name", "source", "target"):
            _require_given(self, place, field)
            if not is_name(getattr(self, field)):
                raise DataError(f"config key {place}.{field} = {getattr(self, field)!r}: {NAME_RULE}")
        columns = {"source_column": f"the {self.source} ids", "target_column": f"the {self.target} ids"}
        _check_file(self, place, columns, ("time_column", "weight_column"))


@dataclasses.dataclass
class AvailabilitySpec:
    """Where it is written when the nodes of one type can be bought; nodes that are not listed always can.

    Attributes:
        node: node type, e.g. "item".
        path: its file, one row per node, inside `Config.path`, or absolute.
        id_column: column with the external ids.
        start_column, end_column: the window [start, end), in the unit of the relations' times: numbers >= 0 or ISO 8601
            dates; an empty start or end is open.
        column_names, delimiter, format: as in `RelationSpec`.
    """

    node: str = ""
    path: str = ""
    id_column: str = "id"
    start_column: str = "start"
    end_column: str = "end"
    column_names: tuple[str, ...] = ()
    delimiter: str = ""
    format: str = ""

    def check(self, place: str) -> None:
        """Raises DataError for the first field of the file that is missing or cannot be used."""
        columns = {"id_column": f"the {self.node} ids", "start_column": "the starts", "end_column": "the ends"}
        _check_file(self, place, columns)


@dataclasses.dataclass
class Config:
    """Reads interaction files.

    Attributes:
        path: base directory of the files; `~` and `${VARIABLES}` are expanded.
        relations: one spec per relation.
        name: of the data set, for reports; "" = the directory's name.
        availability: one spec per node type that has windows in which it can be bought; () = all always can.
    """

    path: str = ""
    relations: tuple[RelationSpec, ...] = ()
    name: str = ""
    availability: tuple[AvailabilitySpec, ...] = ()

    def load(self) -> LiveCommerceData:
        """Reads all relations; raises DataError naming file, line and column, or the config key."""
        root = expand_path(self.path)
        _check_specs(self.relations)
        _check_availability(self.availability, self.relations)
        rows = [_read_relation(root, spec, f"data.relations[{i}]") for i, spec in enumerate(self.relations)]
        _check_one_time_unit(self.relations, rows)
        nodes, indices = ids.build_nodes(
            (end, column)
            for spec, row in zip(self.relations, rows, strict=True)
            for end, column in ((spec.source, row.source), (spec.target, row.target))
        )
        counts: dict[str, int] = {}
        relations = {}
        for i, (spec, row) in enumerate(zip(self.relations, rows, strict=True)):
            if row.num_line_breaks:
                counts[f"{spec.name}: line breaks inside quoted values"] = row.num_line_breaks
            relations[spec.name] = _relation(spec, row, indices[2 * i], indices[2 * i + 1], counts)
        _count_cold(relations, {name: len(table) for name, table in nodes.items()}, counts)
        units = {row.has_dates for row in rows if row.time is not None}
        availability = {
            spec.node: _read_availability(root, spec, f"data.availability[{i}]", nodes[spec.node], units, counts)
            for i, spec in enumerate(self.availability)
        }
        return LiveCommerceData(
            self.name or root.resolve().name,
            nodes,
            relations,
            has_dates=True in units,
            availability=availability,
            counts=counts,
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


def _check_specs(specs: tuple[RelationSpec, ...]) -> None:
    if not specs:
        raise DataError("config key data.relations is empty; give a RelationSpec for every interaction file")
    for i, spec in enumerate(specs):
        spec.check(f"data.relations[{i}]")
    names = [spec.name for spec in specs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"config key data.relations: the name '{repeated[0]}' is used twice; names must differ")


def _require_given(spec: RelationSpec | AvailabilitySpec, place: str, field: str) -> None:
    if not getattr(spec, field):
        raise DataError(f"config key {place}.{field} is empty; give it, e.g. --config.{place}.{field}=...")


def _check_file(
    spec: RelationSpec | AvailabilitySpec, place: str, columns: dict[str, str], optional: tuple[str, ...] = ()
) -> None:
    """Checks the fields that say where a file is and how it is read.

    Args:
        spec: with the fields.
        place: its config key.
        columns: fields of columns that must be given and differ, and what each column holds.
        optional: fields of other columns.

    Raises:
        DataError: for the first field that is missing or cannot be used, with its key and the remedy.
    """
    taken: dict[str, str] = {}
    for field in ("path", *columns):
        _require_given(spec, place, field)
    for field, content in columns.items():
        column = getattr(spec, field)
        if column in taken:
            problem = f"'{column}' is {taken[column]} too; name the column of {content}"
            raise DataError(f"config key {place}.{field} = {problem}")
        taken[column] = field
    for field in (*columns, *optional):
        column = getattr(spec, field)
        if spec.column_names and column and column not in spec.column_names:
            listed = ", ".join(spec.column_names)
            raise DataError(f"config key {place}.{field}: '{column}' is not among column_names ({listed})")
    if spec.delimiter and (len(spec.delimiter) > 1 or not spec.delimiter.isascii() or spec.delimiter in '"\r\n\0'):
        raise DataError(
            f"config key {place}.delimiter = {spec.delimiter!r}: must be one ASCII character, no quote or line "
            f"break (for a tab on the command line: --config.{place}.delimiter=$'\\t'); convert other files"
        )


def _check_availability(specs: tuple[AvailabilitySpec, ...], relations: tuple[RelationSpec, ...]) -> None:
    targets = sorted({spec.target for spec in relations})
    for i, spec in enumerate(specs):
        place = f"data.availability[{i}]"
        if spec.node not in targets:
            raise DataError(
                f"config key {place}.node = '{spec.node}' is the target of no relation, so that its windows would have "
                f"no effect; choose one of: {', '.join(targets)}"
            )
        if spec.node in [other.node for other in specs[:i]]:
            raise DataError(f"config key {place}.node = '{spec.node}' is given twice; put its windows into one file")
        spec.check(place)
    if specs and not any(spec.time_column for spec in relations):
        raise DataError(
            "config key data.availability: no relation has times to compare the windows with; name a time_column, or "
            "leave the availability out"
        )


def _read_availability(
    root: Path, spec: AvailabilitySpec, place: str, nodes: NodeTable, units: set[bool], counts: dict[str, int]
) -> Availability:
    """Reads one file; `place` is its config key, `units` says whether the relations' times are dates."""
    columns = [spec.id_column, spec.start_column, spec.end_column]
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
            f"no id of the file, such as {listed[0]}, is of type {spec.node} in the relations, such as {nodes.ids[0]}"
        )
        table.fail(0, spec.id_column, f"{problem}; write the ids as the relations' files do")
    bounds = []
    for column, missing in ((spec.start_column, -np.inf), (spec.end_column, np.inf)):
        values, dates = table.optional_times(column, missing)
        if dates is not None and {dates} != units:
            found, other = ("dates", "numbers") if dates else ("numbers", "dates")
            table.fail(0, column, f"{found}, but the relations' times are {other}; use one unit")
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


def _check_one_time_unit(specs: tuple[RelationSpec, ...], rows: list[_Rows]) -> None:
    units = {row.has_dates: spec for spec, row in zip(specs, rows, strict=True) if row.time is not None}
    if len(units) == 2:
        raise DataError(
            f"relation '{units[True].name}' has dates in column '{units[True].time_column}', relation "
            f"'{units[False].name}' numbers in column '{units[False].time_column}'; all relations must use one unit"
        )


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
