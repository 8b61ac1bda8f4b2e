"""Finds everything that is wrong with a data set's tables, and leaves wrong rows out where that is asked for."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from lsec_jax.schema.tables import (
    FEATURE_KINDS,
    NAME_RULE,
    Availability,
    DataError,
    Events,
    Feature,
    NodeTable,
    Relation,
    Tree,
    is_name,
)

Row = TypeVar("Row", Relation, Events)

_NO_ROWS = np.zeros(0, np.int64)


@runtime_checkable
class HasTables(Protocol):
    """A data set, as far as it is checked here; LiveCommerceData is one."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def nodes(self) -> Mapping[str, NodeTable]:
        """By type."""
        ...

    @property
    def relations(self) -> Mapping[str, Relation]:
        """By name."""
        ...

    @property
    def events(self) -> Mapping[str, Events]:
        """By name."""
        ...

    @property
    def trees(self) -> Mapping[str, Tree]:
        """By node type."""
        ...

    @property
    def availability(self) -> Mapping[str, Availability]:
        """By node type."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """What reading found."""
        ...

    def replace(self, **changes: Any) -> Any:
        """A copy with some attributes changed."""
        ...


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a column.

    Attributes:
        table: e.g. "relation 'buy'".
        column: e.g. "time", or "" for the whole table.
        rows: positions of the rows that have it, rising, [k] int64; none if no rows are to blame.
        text: what is wrong, with the first row's value.
    """

    table: str
    column: str
    rows: np.ndarray
    text: str

    def __str__(self) -> str:
        place = f"{self.table}, column '{self.column}'" if self.column else self.table
        if len(self.rows):
            place += f", row {self.rows[0]}"
            if len(self.rows) > 1:
                place += f" and {len(self.rows) - 1} more"
        return f"{place}: {self.text}"


def find_problems(data: HasTables) -> list[Problem]:
    """Returns everything that is wrong, vectorised: O(rows log rows) for pairs that occur twice, else O(rows)."""
    return [
        *_names(data),
        *(problem for table in data.nodes.values() for problem in _nodes(table)),
        *(problem for relation in data.relations.values() for problem in _relation(relation, data.nodes)),
        *(problem for events in data.events.values() for problem in _events(events, data)),
        *(problem for name, tree in data.trees.items() for problem in _tree(name, tree, data.nodes)),
        *(problem for name, of in data.availability.items() for problem in _availability(name, of, data.nodes)),
    ]


def quarantine(data: HasTables) -> Any:
    """Leaves out the rows of relations and events that have problems; `counts` gains how many, by table and column.

    Events whose parent is left out lose it (-1), which is counted too.

    Raises:
        DataError: for what leaving rows out does not solve, all at once.
    """
    problems = find_problems(data)
    sizes = {_place(relation): len(relation) for relation in data.relations.values()}
    sizes |= {_place(events): len(events) for events in data.events.values()}
    hopeless = [problem for problem in problems if problem.table not in sizes or len(problem.rows) == 0]
    if hopeless:
        raise DataError(f"data set '{data.name}' cannot be used:\n  " + "\n  ".join(map(str, hopeless)))
    keep = {place: np.ones(size, bool) for place, size in sizes.items()}
    counts = dict(data.counts)
    for problem in problems:
        keep[problem.table][problem.rows] = False
        key = f"{problem.table}: rows quarantined, {problem.column}"
        counts[key] = counts.get(key, 0) + len(problem.rows)
    relations = {name: _kept(relation, keep) for name, relation in data.relations.items()}
    events = {name: _kept(of, keep) for name, of in data.events.items()}
    events = {name: _with_parents(of, data.events, keep, counts) for name, of in events.items()}
    cleaned = data.replace(relations=relations, events=events, counts=counts)
    if left := find_problems(cleaned):  # e.g. a relation that lost all its edges
        raise DataError(f"data set '{data.name}' cannot be used:\n  " + "\n  ".join(map(str, left)))
    return cleaned


def _kept(table: Row, keep: Mapping[str, np.ndarray]) -> Row:
    mask = keep[_place(table)]
    return table if mask.all() else table.take(mask)


def _with_parents(
    events: Events, before: Mapping[str, Events], keep: Mapping[str, np.ndarray], counts: dict[str, int]
) -> Events:
    """Events whose parents point into what is left of the parents' table."""
    if events.parent is None or keep[_place(before[events.parent[0]])].all():
        return events
    name, rows = events.parent
    mask = keep[_place(before[name])]
    moved = np.where(mask, np.cumsum(mask) - 1, -1)
    parents = np.where(rows >= 0, moved[np.maximum(rows, 0)], -1)
    lost = int(np.sum((rows >= 0) & (parents < 0)))
    if lost:
        counts[f"{_place(events)}: parents in '{name}' quarantined"] = lost
    return dataclasses.replace(events, parent=(name, parents))


def _place(table: Relation | Events) -> str:
    return f"{'relation' if isinstance(table, Relation) else 'events'} '{table.name}'"


def _names(data: HasTables) -> Iterator[Problem]:
    for kind, names in (("node type", data.nodes), ("relation", data.relations), ("events", data.events)):
        for name in names:
            if not is_name(name):
                yield Problem(f"{kind} {name!r}", "", _NO_ROWS, NAME_RULE)
    for table in data.nodes.values():
        yield from _column_names(f"node table '{table.name}'", table.features)
    for events in data.events.values():
        yield from _column_names(_place(events), (*events.nodes, *events.values, *events.features))


def _column_names(place: str, names: Iterable[str]) -> Iterator[Problem]:
    for name in names:
        if not is_name(name):
            yield Problem(place, name, _NO_ROWS, NAME_RULE)


def _nodes(table: NodeTable) -> Iterator[Problem]:
    place = f"node table '{table.name}'"
    if len(rows := _repeated(table.ids)):
        yield Problem(place, "ids", rows, f"the id {table.ids[rows[0]]} is there already; ids must be unique")
    yield from _features(place, table.features, len(table))


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Positions of values that occurred before, rising."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])


def _features(place: str, features: Mapping[str, Feature], num_rows: int) -> Iterator[Problem]:
    for name, feature in features.items():
        if text := _form_of_feature(feature, num_rows):
            yield Problem(place, name, _NO_ROWS, text)
        elif feature.kind in ("categorical", "ordinal"):
            bad = np.flatnonzero((feature.values < -1) | (feature.values >= len(feature.vocabulary)))
            limits = f"-1..{len(feature.vocabulary) - 1}"
            yield from _rows(
                place,
                name,
                bad,
                lambda row, values=feature.values, limits=limits: f"code {values[row]} outside {limits}",
            )
        else:
            bad = np.isinf(feature.values)
            bad = np.flatnonzero(bad.any(axis=1) if feature.kind == "vector" else bad)
            yield from _rows(place, name, bad, lambda row: "infinite; missing numbers are NaN")


def _form_of_feature(feature: Feature, num_rows: int) -> str:
    """What is wrong with a feature as a whole, or nothing."""
    if feature.kind not in FEATURE_KINDS:
        return f"kind '{feature.kind}' is unknown; valid: {', '.join(FEATURE_KINDS)}"
    dtype = np.int32 if feature.kind in ("categorical", "ordinal") else np.float32
    ndim = 2 if feature.kind == "vector" else 1
    if len(feature) != num_rows or feature.values.ndim != ndim or feature.values.dtype != dtype:
        form = f"{num_rows} rows of {np.dtype(dtype)}" + (", a vector each" if ndim == 2 else "")
        return f"{feature.values.dtype} of shape {feature.values.shape}; a {feature.kind} feature needs {form}"
    if len(set(feature.vocabulary)) < len(feature.vocabulary):
        return "the vocabulary names something twice"
    return ""


def _rows(place: str, column: str, bad: np.ndarray, text: Any) -> Iterator[Problem]:
    if len(bad):
        yield Problem(place, column, bad, text(bad[0]))


def _indices(place: str, column: str, ids: np.ndarray, table: NodeTable, lowest: int) -> Iterator[Problem]:
    bad = np.flatnonzero((ids < lowest) | (ids >= len(table)))
    limits = f"{lowest}..{len(table) - 1}"
    yield from _rows(place, column, bad, lambda row: f"{table.name} index {ids[row]} outside {limits}")


def _relation(relation: Relation, nodes: Mapping[str, NodeTable]) -> Iterator[Problem]:
    place = _place(relation)
    missing = [end for end in (relation.source, relation.target) if end not in nodes]
    for end in dict.fromkeys(missing):
        yield Problem(place, "", _NO_ROWS, f"no node table '{end}' (tables: {', '.join(sorted(nodes))})")
    if missing:
        return
    if len(relation) == 0:
        yield Problem(place, "", _NO_ROWS, "has no edges; remove it from the source or check the file")
        return
    for column in ("target_ids", "time", "weight", "split"):
        values = getattr(relation, column)
        if values is not None and values.shape != relation.source_ids.shape:
            yield Problem(place, column, _NO_ROWS, f"shape {values.shape}, but there are {len(relation)} edges")
            return
    sources, targets = nodes[relation.source], nodes[relation.target]
    found = [
        *_indices(place, "source_ids", relation.source_ids, sources, 0),
        *_indices(place, "target_ids", relation.target_ids, targets, 0),
    ]
    for column in ("time", "weight"):
        values = getattr(relation, column)
        if values is not None:
            bad = np.flatnonzero(~np.isfinite(values))
            found += _rows(place, column, bad, lambda row, values=values: f"{values[row]} is not finite")
    yield from found
    # Of the rows without another problem: a quarantine keeps the first one of those that are right.
    is_right = np.ones(len(relation), bool)
    for problem in found:
        is_right[problem.rows] = False
    right = np.flatnonzero(is_right)
    keys = relation.source_ids[right].astype(np.int64) * len(targets) + relation.target_ids[right]
    twice = "this pair is there already; sources keep the first occurrence"
    yield from _rows(place, "target_ids", right[_repeated(keys)], lambda row: twice)


def _events(events: Events, data: HasTables) -> Iterator[Problem]:
    place, num_rows = _place(events), len(events)
    columns: dict[str, np.ndarray | None] = {role: nodes.ids for role, nodes in events.nodes.items()}
    columns |= {**events.values, "group": events.group, "split": events.split}
    for name, values in columns.items():
        if values is not None and values.shape != (num_rows,):
            yield Problem(place, name, _NO_ROWS, f"shape {values.shape}, but there are {num_rows} events")
            return
    for role, nodes in events.nodes.items():
        if nodes.node_type in data.nodes:
            yield from _indices(place, role, nodes.ids, data.nodes[nodes.node_type], -1)
        else:
            there = ", ".join(sorted(data.nodes))
            yield Problem(place, role, _NO_ROWS, f"no node table '{nodes.node_type}' (tables: {there})")
    bad = np.flatnonzero(~np.isfinite(events.time))
    yield from _rows(place, "time", bad, lambda row: f"{events.time[row]} is not finite")
    if len(bad) == 0:
        falls = np.flatnonzero(events.time[1:] < events.time[:-1]) + 1
        if len(falls):  # sorting, not leaving rows out, is the remedy
            text = f"row {falls[0]}: {events.time[falls[0]]} after {events.time[falls[0] - 1]}; sort events by time"
            yield Problem(place, "time", _NO_ROWS, text)
    for name, values in events.values.items():
        if values.dtype not in (np.dtype(bool), np.dtype(np.float32)):
            yield Problem(place, name, _NO_ROWS, f"{values.dtype}; measured columns are bool or float32")
        else:
            yield from _rows(place, name, np.flatnonzero(np.isinf(values)), lambda row: "infinite; undefined is NaN")
    yield from _features(place, events.features, num_rows)
    yield from _parents(events, data.events)


def _parents(events: Events, tables: Mapping[str, Events]) -> Iterator[Problem]:
    if events.parent is None:
        return
    place, (name, rows) = _place(events), events.parent
    if name not in tables:
        yield Problem(place, "parent", _NO_ROWS, f"no events '{name}' (tables: {', '.join(sorted(tables))})")
        return
    size = len(tables[name])
    bad = np.flatnonzero((rows < -1) | (rows >= size))
    yield from _rows(place, "parent", bad, lambda row: f"row {rows[row]} of '{name}' outside -1..{size - 1}")
    if len(bad) == 0 and size:
        parent_time = np.where(rows >= 0, tables[name].time[np.maximum(rows, 0)], -np.inf)
        early = np.flatnonzero(events.time < parent_time)
        yield from _rows(
            place,
            "parent",
            early,
            lambda row: f"happens at {events.time[row]}, before its parent at {parent_time[row]}",
        )


def _tree(name: str, tree: Tree, nodes: Mapping[str, NodeTable]) -> Iterator[Problem]:
    place = f"tree of '{name}'"
    if name not in nodes:
        yield Problem(place, "", _NO_ROWS, f"no such node table (tables: {', '.join(sorted(nodes))})")
    elif tree.parents.shape != (len(nodes[name]),):
        text = f"shape {tree.parents.shape}, but there are {len(nodes[name])} nodes"
        yield Problem(place, "parents", _NO_ROWS, text)
    else:
        bad = np.flatnonzero((tree.parents < -1) | (tree.parents >= np.arange(len(tree.parents))))
        text = "a parent stands before its children, a root has -1"
        yield from _rows(place, "parents", bad, lambda row: f"parent {tree.parents[row]}; {text}")


def _availability(name: str, availability: Availability, nodes: Mapping[str, NodeTable]) -> Iterator[Problem]:
    place = f"availability of '{name}'"
    if name not in nodes:
        yield Problem(place, "", _NO_ROWS, f"no such node table (tables: {', '.join(sorted(nodes))})")
        return
    shape = (len(nodes[name]),)
    for column in ("start", "end"):
        values = getattr(availability, column)
        if values.shape != shape or values.dtype != np.float64:
            expected = f"one float64 for each of the {shape[0]} nodes"
            yield Problem(place, column, _NO_ROWS, f"{values.dtype} of shape {values.shape}; give {expected}")
            return
    bad = np.flatnonzero(~(availability.start < availability.end))  # also NaN
    yield from _rows(
        place,
        "start",
        bad,
        lambda row: (
            f"{name} {nodes[name].ids[row]}: start {availability.start[row]}, end {availability.end[row]}; "
            "the start must lie before the end"
        ),
    )
