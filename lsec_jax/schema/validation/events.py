"""What is wrong with events."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lsec_jax.schema.tables import Events, NodeTable
from lsec_jax.schema.validation.problems import (
    INDEX,
    NO_ROWS,
    Problem,
    form_problem,
    no_table,
    place_of,
    rows_where,
    size_of,
    wrong_codes,
    wrong_features,
    wrong_indices,
    wrong_names,
    wrong_rows,
)

_BUILT_IN = ("time", "group", "split", "parent")


def event_problems(events: Events, nodes: Mapping[str, NodeTable], tables: Mapping[str, Events]) -> Iterator[Problem]:
    """Columns of another form or with another's name, wrong rows, and a wrong order."""
    place, num_rows = place_of(events), size_of(events.time)
    yield from _names(events)
    of_all = f"but there are {num_rows} events"
    if text := form_problem(events.time, [np.float64], (num_rows,), "time is one column of float64"):
        yield Problem(place, "time", NO_ROWS, text)
    else:
        yield from _time(place, events.time)
    for role, end in events.nodes.items():
        if end.node_type not in nodes:
            yield no_table(place, role, end.node_type, nodes)
        if text := form_problem(end.ids, [INDEX], (num_rows,), f"{of_all}, with an int32 index each"):
            yield Problem(place, role, NO_ROWS, text)
        elif end.node_type in nodes:
            yield from wrong_indices(place, role, end.ids, nodes[end.node_type], -1)
    for name, values in events.values.items():
        if text := form_problem(values, [bool, np.float32], (num_rows,), _rule(values, num_rows)):
            yield Problem(place, name, NO_ROWS, text)
        else:
            yield from wrong_rows(place, name, _infinite(values), lambda row: "infinite; undefined is NaN")
    for name, column, dtype in (("group", events.group, np.int64), ("split", events.split, np.int8)):
        if column is None:
            continue
        if text := form_problem(column, [dtype], (num_rows,), f"{of_all}, with one {np.dtype(dtype)} each"):
            yield Problem(place, name, NO_ROWS, text)
        elif name == "split":
            yield from wrong_codes(place, column)
    yield from wrong_features(place, events.features, num_rows)
    yield from _parents(events, tables)


def _infinite(values: np.ndarray) -> np.ndarray:
    return rows_where(len(values), lambda rows: np.isinf(values[rows]))


def _rule(values: Any, num_rows: int | None) -> str:
    is_long = isinstance(values, np.ndarray) and values.shape == (num_rows,)
    return "measured columns are bool or float32" if is_long else f"but there are {num_rows} events"


def _names(events: Events) -> Iterator[Problem]:
    """Names that are no file's, or that two columns share: messages and models could mean either."""
    place = place_of(events)
    kinds: dict[str, list[str]] = {name: ["a built-in column"] for name in _BUILT_IN}
    for kind, names in (("a role", events.nodes), ("a value", events.values), ("a feature", events.features)):
        yield from wrong_names(place, names)
        for name in names:
            kinds.setdefault(name, []).append(kind)
    for name, found in kinds.items():
        if len(found) > 1:
            yield Problem(place, name, NO_ROWS, f"this is the name of {' and of '.join(found)}; rename one")


def _time(place: str, time: np.ndarray) -> Iterator[Problem]:
    bad = rows_where(len(time), lambda rows: ~np.isfinite(time[rows]))
    yield from wrong_rows(place, "time", bad, lambda row: f"{time[row]} is not finite")
    before, after = time[:-1], time[1:]
    falls = bad if len(bad) else rows_where(len(after), lambda rows: after[rows] < before[rows]) + 1
    if len(bad) == 0 and len(falls):  # sorting, not leaving rows out, is the remedy
        text = f"row {falls[0]}: {time[falls[0]]} after {time[falls[0] - 1]}; sort events by time"
        yield Problem(place, "time", NO_ROWS, text)


def _parents(events: Events, tables: Mapping[str, Events]) -> Iterator[Problem]:
    if events.parent is None:
        return
    place, (name, rows) = place_of(events), events.parent
    num_rows = size_of(events.time)
    text = form_problem(rows, [np.int64], (num_rows,), f"but there are {num_rows} events, with one int64 each")
    if text:
        yield Problem(place, "parent", NO_ROWS, text)
    if name == events.name:
        yield Problem(place, "parent", NO_ROWS, "these are its own events; a parent is a row of another table")
    elif name not in tables:
        yield Problem(place, "parent", NO_ROWS, f"no events '{name}' (tables: {', '.join(sorted(tables))})")
    elif not text and (size := size_of(tables[name].time)) is not None:
        yield from _parent_rows(events, tables[name], rows, size)


def _parent_rows(events: Events, parents: Events, rows: np.ndarray, size: int) -> Iterator[Problem]:
    place = place_of(events)

    def outside(block: slice) -> np.ndarray:
        return (rows[block] < -1) | (rows[block] >= size)

    def parent_times(block: slice) -> np.ndarray:
        has_parent = (rows[block] >= 0) & (rows[block] < size)
        return np.where(has_parent, parents.time[np.where(has_parent, rows[block], 0)], -np.inf)

    bad = rows_where(len(rows), outside)
    yield from wrong_rows(
        place, "parent", bad, lambda row: f"row {rows[row]} of '{parents.name}' outside -1..{size - 1}"
    )
    if any(form_problem(of.time, [np.float64], (None,), "") for of in (events, parents)) or not size:
        return
    early = rows_where(len(rows), lambda block: events.time[block] < parent_times(block))
    if len(early):
        row = early[0]
        text = f"happens at {events.time[row]}, before its parent at {parents.time[rows[row]]}"
        yield Problem(place, "parent", early, text, is_of_parent=True)
