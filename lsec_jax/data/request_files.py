"""Files of requests: whose candidates to rank, in what context and when, a row for each candidate. No jax."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lsec_jax.data import features, files, tables
from lsec_jax.data.requests import is_hosted
from lsec_jax.data.table import Table
from lsec_jax.declaration import CLOCK, Declaration
from lsec_jax.schema import DataError, Events, LiveCommerceData, NodeTable

TIME = "time"
_EXPECTED = "the first line names the columns, each other line is a candidate"


@dataclasses.dataclass(frozen=True)
class RequestRows:
    """The candidates of a file, n of them.

    Attributes:
        roles: internal indices by role, [n] int64: of the user, of the roles besides, and last of the target.
        times: the moments in the data set's unit, [n] float64.
        given: columns of the events by name, [n].
        requests: number of each candidate's request, [n] int64, in the order of their first rows: one user, moment and
            other roles than the target's.
        absent: columns of the events that fields read and the file has not.
        unread: columns of the file that nothing reads.
    """

    roles: Mapping[str, np.ndarray]
    times: np.ndarray
    given: Mapping[str, np.ndarray]
    requests: np.ndarray
    absent: tuple[str, ...]
    unread: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.times)


def read_requests(path: Path, data: LiveCommerceData, declaration: Declaration, at: float | None = None) -> RequestRows:
    """Reads candidates from a CSV, TSV or Parquet file.

    Its columns have the names of what they are: roles (external ids), "time", and columns of the events.

    Args:
        path: of the file.
        data: with the nodes and events.
        declaration: what a model reads of a candidate; roles that `hosts` tells of the target are not in the file.
        at: the moment of all candidates where the file has no times, in the data set's unit.

    Raises:
        DataError: the file cannot be read; a column that the declaration needs is missing; an id, time or value that
            cannot be, or a candidate that is not available then, or is in its request twice.
    """
    events = data.events_of(declaration.events)
    names = tables.column_names(path, _EXPECTED)
    roles = _roles(path, names, data, declaration)
    read = dict.fromkeys(field.source[1:] for field in declaration.fields if field.source.startswith("."))
    shown = [name for name in read if name in names]
    clock = [TIME] if TIME in names else []
    if not clock and at is None:
        raise DataError(f"{path}: no column '{TIME}', and --at is missing; add the column, or give --at=TIME")
    if clock and at is not None:
        raise DataError(f"{path}: a column '{TIME}', and --at is given too; leave one of them out")
    table = tables.read_table(path, [*roles, *shown, *clock], expected=_EXPECTED)
    ids = {role: _indices(table, role, data, events.nodes[role].node_type) for role in roles}
    times = _times(table, data) if clock else np.full(len(table), at, np.float64)
    target = declaration.target
    _check_available(table, target, data, events, ids[target], times)
    given = {name: _column(table, name, events) for name in shown}
    _check_logarithms(table, declaration, given)
    requests = request_numbers([*(ids[role] for role in roles if role != target), times])
    _check_distinct(table, target, requests, ids[target])
    absent = tuple(name for name in read if name not in names)
    unread = tuple(name for name in names if name not in (*roles, *shown, *clock))
    return RequestRows(ids, times, given, requests, absent, unread)


def request_numbers(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers rows that are equal in all columns [n] alike, from 0 on in the order of the first such row, [n] int64."""
    order = np.lexsort(columns)
    is_new = np.zeros(len(order), bool)
    for column in columns:
        is_new[1:] |= np.diff(column[order]) != 0
    sorted_numbers = np.empty(len(order), np.int64)
    sorted_numbers[order] = np.cumsum(is_new)
    first = np.unique(sorted_numbers, return_index=True)[1]
    by_first = np.empty(len(first), np.int64)
    by_first[np.argsort(first)] = np.arange(len(first))
    return by_first[sorted_numbers]


def needed_roles(data: LiveCommerceData, declaration: Declaration) -> list[str]:
    """The roles besides user and target that a declaration reads and `hosts` does not tell of the target."""
    events, user, target = data.events_of(declaration.events), declaration.user, declaration.target
    read = {field.source.partition(".")[0] for field in declaration.fields if field.source not in CLOCK}
    read |= {of.role for of in declaration.neighbourhoods} | {of.role for of in declaration.paths}
    read |= {data.histories_of(of.history).role for of in declaration.sequences}
    others = [role for role in events.nodes if role in read and role not in (user, target)]
    return [role for role in others if not is_hosted(data, events, role, target)]


def _roles(path: Path, names: Sequence[str], data: LiveCommerceData, declaration: Declaration) -> list[str]:
    """The roles that the file has, the user first and the target last; raises DataError where one is needed besides."""
    events, user, target = data.events_of(declaration.events), declaration.user, declaration.target
    others = [role for role in events.nodes if role not in (user, target) and not is_hosted(data, events, role, target)]
    for role in (user, *needed_roles(data, declaration), target):
        if role not in names:
            there = ", ".join(names)
            raise DataError(
                f"{path}: no column '{role}'{files.suggestion(role, names)}; it has: {there}. The model reads the "
                f"{role} of each candidate: add a column with the ids of type {events.nodes[role].node_type}"
            )
    return [user, *(role for role in others if role in names), target]


def _indices(table: Table, role: str, data: LiveCommerceData, node_type: str) -> np.ndarray:
    """Internal indices of a role's ids, [n] int64."""
    ids = table.ids(role)
    known = data.nodes[node_type].index_of(ids.values)
    found = known[ids.codes]
    bad = np.flatnonzero(found < 0)
    if len(bad):
        remedy = f"add it to the data as a {node_type} and train on from this run (train --init_from)"
        if node_type in data.trees:
            remedy = (
                "add it to the tree's file under its parent and train on from this run (train --init_from); one that "
                "the tree has and training never saw can be asked for as it is"
            )
        table.fail(
            int(bad[0]),
            role,
            f"id {ids.values[ids.codes[bad[0]]]} is no {node_type} of data set '{data.name}' ({(known < 0).sum()} such "
            f"ids in {len(bad)} rows); correct it, leave the rows out, or {remedy}",
        )
    return found


def _times(table: Table, data: LiveCommerceData) -> np.ndarray:
    has_dates = table.has_dates(TIME)
    if has_dates is not None and has_dates != data.has_dates:
        found, wanted = ("dates", "numbers") if has_dates else ("numbers", "dates")
        table.fail_column(TIME, f"{found}, but times of data set '{data.name}' are {wanted}; write them as the data do")
    return table.times(TIME, data.has_dates)[0]


def _check_available(
    table: Table, role: str, data: LiveCommerceData, events: Events, ids: np.ndarray, times: np.ndarray
) -> None:
    node_type = events.nodes[role].node_type
    availability = data.availability.get(node_type)
    wrong = np.zeros(0, int) if availability is None else np.flatnonzero(~availability.at(times, ids))
    if availability is not None and len(wrong):
        row = int(wrong[0])
        start, end = (
            data.time_text(of[ids[row]]) if np.isfinite(of[ids[row]]) else "an unknown time"
            for of in (availability.start, availability.end)
        )
        table.fail(
            row,
            role,
            f"{node_type} {data.nodes[node_type].ids[ids[row]]} is available from {start} to {end} (exclusive), not at "
            f"{data.time_text(times[row])} ({len(wrong)} such rows); leave them out, or give another time",
        )


def _column(table: Table, name: str, events: Events) -> np.ndarray:
    """A feature or value of the events, as their table has it; missing where the file says nothing."""
    if name not in events.features:
        return table.labels(name) if events.value(name).dtype == bool else features.single_precision(table, name)
    feature = events.features[name]
    if feature.kind == "numeric":
        return features.single_precision(table, name)
    if feature.kind == "vector":
        table.fail_column(name, "a feature of vectors, which files of requests cannot give; leave the column out")
    texts, positions = (of.to_numpy(zero_copy_only=False) for of in table.words(name))
    texts = texts.astype(np.str_)
    codes = NodeTable(name, np.array(feature.vocabulary, np.str_)).index_of(texts)
    bad = np.flatnonzero(((codes < 0) & (texts != ""))[positions])
    if len(bad):
        there = ", ".join(feature.vocabulary[:20]) + (", ..." if len(feature.vocabulary) > 20 else "")
        problem = f"'{texts[positions[bad[0]]]}' is none of the data's values ({there}); correct it, or leave it empty"
        table.fail(int(bad[0]), name, problem)
    return codes[positions].astype(np.int32)


def _check_logarithms(table: Table, declaration: Declaration, given: Mapping[str, np.ndarray]) -> None:
    for field in declaration.fields:
        name = field.source[1:]
        if field.transform and field.source.startswith(".") and name in given and (given[name] < 0).any():
            row = int(np.flatnonzero(given[name] < 0)[0])
            problem = f"{given[name][row]:g}, but the model reads the logarithm, which is of numbers of 0 or more"
            table.fail(row, name, f"{problem}; correct it, or leave it empty")


def _check_distinct(table: Table, role: str, requests: np.ndarray, targets: np.ndarray) -> None:
    order = np.lexsort((targets, requests))  # stable: of equal ones, the first row is first
    again = np.flatnonzero((np.diff(targets[order]) == 0) & (np.diff(requests[order]) == 0)) + 1
    if len(again):
        at = again[np.argmin(order[again])]
        text = str(table.columns[role][int(order[at])]).strip()
        table.fail(
            int(order[at]),
            role,
            f"{text} is a candidate of this request already ({table.row_name(int(order[at - 1]))}; {len(again)} such "
            "rows); leave it out",
        )
