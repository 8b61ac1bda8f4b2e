"""What is wrong with histories: their form, their order, and whatever points at nothing."""

from collections.abc import Iterator, Mapping

import numpy as np

from lsec_jax.schema.blocks import blocks
from lsec_jax.schema.tables import NAME_RULE, Events, Histories, NodeTable, is_name
from lsec_jax.schema.validation.problems import (
    INDEX,
    NO_ROWS,
    Problem,
    form_problem,
    no_table,
    rows_where,
    size_of,
    wrong_indices,
    wrong_rows,
)


def history_problems(
    name: str, of: Histories, nodes: Mapping[str, NodeTable], tables: Mapping[str, Events]
) -> Iterator[Problem]:
    """Columns of another form, starts that do not rise, times that fall within an owner, wrong indices and rows.

    That no moment sees its own time or later is not checked here, but by `history_audits.audit_all_histories`.
    """
    place = f"histories '{name}'"
    if not is_name(name):
        yield Problem(place, "", NO_ROWS, NAME_RULE)
    yield from (no_table(place, "", end, nodes) for end in dict.fromkeys((of.owner, of.item)) if end not in nodes)
    if not 0 <= of.delay < np.inf:
        yield Problem(place, "delay", NO_ROWS, f"{of.delay}; give a finite time of at least 0")
    starts_problem = list(_starts(place, of, size_of(nodes[of.owner].ids) if of.owner in nodes else None))
    yield from starts_problem
    size = size_of(of.items)
    is_sound = not starts_problem
    for column, dtype in {"items": INDEX, "times": np.dtype(np.float64), "rows": np.dtype(np.int64)}.items():
        values, rule = getattr(of, column), f"but there are {size} behaviours, with one {dtype} each"
        if text := form_problem(values, [dtype], (size,), rule):
            is_sound = False
            yield Problem(place, column, NO_ROWS, text)
    if is_sound:
        if of.item in nodes:
            yield from wrong_indices(place, "items", of.items, nodes[of.item], 0)
        yield from _order(place, of)
        yield from _behaviours(place, of, tables)
    for moments in dict.fromkeys((*of.ends, *of.last)):
        if problems := list(_moments(place, of, moments, tables)):
            yield from problems
        else:
            yield from _of_moments(place, of, tables[moments], nodes, is_sound)


def _starts(place: str, of: Histories, num_owners: int | None) -> Iterator[Problem]:
    wanted, size = None if num_owners is None else num_owners + 1, size_of(of.items)
    rule = f"starts are one int64 for each of the {num_owners} owners and one more"
    if text := form_problem(of.starts, [np.int64], (wanted,), rule):
        yield Problem(place, "starts", NO_ROWS, text)
    elif len(of.starts) < 1 or of.starts[0] != 0 or of.starts[-1] != size or (np.diff(of.starts) < 0).any():
        text = f"they do not rise from 0 to the {size} behaviours; sequences.build_histories gives such ones"
        yield Problem(place, "starts", NO_ROWS, text)


def _order(place: str, of: Histories) -> Iterator[Problem]:
    """Searches in histories, and so all that is said of them, need times that never fall within an owner."""
    before, after = of.times[:-1], of.times[1:]
    infinite = rows_where(len(of.times), lambda rows: ~np.isfinite(of.times[rows]))
    yield from wrong_rows(place, "times", infinite, lambda row: f"{of.times[row]} is not finite")
    falls = rows_where(len(after), lambda rows: after[rows] < before[rows]) + 1
    falls = falls[of.starts[np.searchsorted(of.starts, falls)] != falls]  # an owner's first one may be earlier
    yield from wrong_rows(
        place,
        "times",
        falls,
        lambda row: (
            f"{of.times[row]} comes after {of.times[row - 1]} of the same owner; sort the events by time, and derive "
            "the histories again"
        ),
    )


def _behaviours(place: str, of: Histories, tables: Mapping[str, Events]) -> Iterator[Problem]:
    """Rows of events that are not there."""
    if of.events and of.events not in tables:
        there = ", ".join(sorted(tables)) or "none"
        yield Problem(place, "rows", NO_ROWS, f"no events '{of.events}' (tables: {there})")
        return
    size = size_of(tables[of.events].time) if of.events else None
    limit = np.iinfo(np.int64).max if size is None else size
    bad = rows_where(len(of.rows), lambda rows: (of.rows[rows] < 0) | (of.rows[rows] >= limit))
    limits = "below 0" if size is None else f"outside 0..{size - 1}"
    yield from wrong_rows(place, "rows", bad, lambda row: f"row {of.rows[row]} of '{of.events}' {limits}")


def _moments(place: str, of: Histories, name: str, tables: Mapping[str, Events]) -> Iterator[Problem]:
    """A table of moments that is not there, or does not have the owners."""
    role = of.role
    if name not in tables:
        there = ", ".join(sorted(tables)) or "none"
        yield Problem(place, "", NO_ROWS, f"moments '{name}' are no events (tables: {there})")
    elif role not in tables[name].nodes:
        there = ", ".join(tables[name].nodes) or "none"
        yield Problem(place, "", NO_ROWS, f"moments '{name}' have no owners '{role}' (roles: {there})")
    elif (node_type := tables[name].nodes[role].node_type) != of.owner:
        yield Problem(place, "", NO_ROWS, f"moments '{name}' have owners of type '{node_type}', not '{of.owner}'")


def _of_moments(
    place: str, of: Histories, moments: Events, nodes: Mapping[str, NodeTable], is_sound: bool
) -> Iterator[Problem]:
    name, size = moments.name, size_of(moments.time)
    rule = f"but there are {size} moments, with "
    if name in of.ends:
        if text := form_problem(of.ends[name], [np.int64], (size,), rule + "one int64 each"):
            yield Problem(place, f"ends/{name}", NO_ROWS, text)
        elif is_sound:
            yield from _ends(place, of, moments)
    if name in of.last:
        column = f"last/{name}"
        if text := form_problem(of.last[name], [INDEX], (size, None), rule + "int32 indices each"):
            yield Problem(place, column, NO_ROWS, text)
        elif of.item in nodes:
            yield from wrong_indices(place, column, of.last[name], nodes[of.item], -1)


def _ends(place: str, of: Histories, moments: Events) -> Iterator[Problem]:
    """Ends outside the owners' histories, which would show somebody else's behaviours."""
    ends, owners = of.ends[moments.name], moments.nodes[of.role].ids
    if form_problem(owners, [INDEX], (len(ends),), "") or not all(
        ((owners[rows] >= -1) & (owners[rows] < len(of))).all() for rows in blocks(len(ends))
    ):
        return  # which is a problem of the events

    def outside(rows: slice) -> np.ndarray:
        first = np.maximum(owners[rows], 0)
        low = np.where(owners[rows] >= 0, of.starts[first], 0)
        high = np.where(owners[rows] >= 0, of.starts[np.minimum(first + 1, len(of))], len(of.items))
        return (ends[rows] < low) | (ends[rows] > high)

    bad = rows_where(len(ends), outside)
    text = "outside the history of its owner"
    yield from wrong_rows(place, f"ends/{moments.name}", bad, lambda row: f"{ends[row]}, {text} {owners[row]}")
