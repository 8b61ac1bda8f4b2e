"""Leaves wrong rows of relations and events out, and keeps everything else in step with the rows that are left."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from lsec_jax.schema.tables import DataError, Events, EventTruth, Relation, Truth
from lsec_jax.schema.validation import HasTables, find_problems
from lsec_jax.schema.validation.problems import Problem, place_of

Row = TypeVar("Row", Relation, Events)


def quarantine(data: HasTables) -> Any:
    """Leaves out the rows of relations and events that have problems; `counts` gains how many.

    Counted are the rows of each table, and those of each of its columns; a row that is wrong in two columns is one row
    of the table. Events whose parent is left out lose it (-1), which is counted too; they stay even if they were
    earlier than it. The truth of events is of the rows that are left.

    Raises:
        DataError: for what leaving rows out does not solve, all at once.
    """
    problems = find_problems(data)
    tables: dict[str, Relation | Events] = {place_of(table): table for table in data.relations.values()}
    tables |= {place_of(table): table for table in data.events.values()}
    hopeless = [problem for problem in problems if problem.table not in tables or len(problem.rows) == 0]
    if hopeless:
        raise _refusal(data, hopeless)
    if not problems:
        return data
    if data.histories:
        names = ", ".join(sorted(data.histories))
        raise DataError(
            f"data set '{data.name}': rows cannot be left out, as its histories ({names}) point at them; leave rows "
            "out first, and derive the histories then (prepare --quarantine does). What is wrong:\n  "
            + "\n  ".join(map(str, problems))
        )
    keep = {place: np.ones(len(table), bool) for place, table in tables.items()}
    counts = dict(data.counts)
    by_column: dict[tuple[str, str], list[np.ndarray]] = {}
    for problem in problems:
        if not problem.is_of_parent:
            keep[problem.table][problem.rows] = False
            by_column.setdefault((problem.table, problem.column), []).append(problem.rows)
    early = {problem.table: problem.rows for problem in problems if problem.is_of_parent}
    for place, rows in _before_kept_parents(early, data.events, keep).items():
        by_column.setdefault((place, "parent"), []).append(rows)
    for (place, column), found in by_column.items():
        counts[f"{place}: rows quarantined"] = int((~keep[place]).sum())
        counts[f"{place}: rows quarantined, {column}"] = len(np.unique(np.concatenate(found)))
    relations = {name: _kept(relation, keep) for name, relation in data.relations.items()}
    events = {name: _kept(of, keep) for name, of in data.events.items()}
    events = {name: _with_parents(of, data.events, keep, counts) for name, of in events.items()}
    kept = {name: keep[place_of(of)] for name, of in data.events.items()}
    truth = _TruthOfKept(data.truth, kept) if isinstance(data.truth, EventTruth) else data.truth
    cleaned = data.replace(relations=relations, events=events, counts=counts, truth=truth)
    if left := find_problems(cleaned):  # e.g. a relation that lost all its edges
        raise _refusal(data, left)
    return cleaned


def _before_kept_parents(
    early: Mapping[str, np.ndarray], tables: Mapping[str, Events], keep: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Leaves out the events that are earlier than a parent that stays, in place, and returns their rows.

    Whether a parent stays may depend on its own parent. The times rise from each early event to its parent, so that
    there is always one whose parent is not in question.
    """
    places = {place_of(of): of for of in tables.values()}
    left_out: dict[str, np.ndarray] = {}
    while True:
        in_question = {place: np.zeros(len(of), bool) for place, of in places.items()}
        for place, rows in early.items():
            parent_place, parents = _parents(places[place], tables)
            in_question[place][rows[keep[place][rows] & keep[parent_place][parents[rows]]]] = True
        decided = {}
        for place, mask in in_question.items():
            if mask.any():
                parent_place, parents = _parents(places[place], tables)
                rows = np.flatnonzero(mask)
                decided[place] = rows[~in_question[parent_place][parents[rows]]]
        if not decided:
            return left_out
        for place, rows in decided.items():
            keep[place][rows] = False
            left_out[place] = np.union1d(left_out.get(place, rows), rows)


def _parents(events: Events, tables: Mapping[str, Events]) -> tuple[str, np.ndarray]:
    assert events.parent is not None
    return place_of(tables[events.parent[0]]), events.parent[1]


def _refusal(data: HasTables, problems: list[Problem]) -> DataError:
    return DataError(f"data set '{data.name}' cannot be used:\n  " + "\n  ".join(map(str, problems)))


def _kept(table: Row, keep: Mapping[str, np.ndarray]) -> Row:
    mask = keep[place_of(table)]
    return table if mask.all() else table.take(mask)


def _with_parents(
    events: Events, before: Mapping[str, Events], keep: Mapping[str, np.ndarray], counts: dict[str, int]
) -> Events:
    """Events whose parents point into what is left of the parents' table."""
    if events.parent is None or keep[place_of(before[events.parent[0]])].all():
        return events
    name, rows = events.parent
    mask = keep[place_of(before[name])]
    moved = np.where(mask, np.cumsum(mask) - 1, -1)
    parents = np.where(rows >= 0, moved[np.maximum(rows, 0)], -1)
    lost = int(np.sum((rows >= 0) & (parents < 0)))
    if lost:
        counts[f"{place_of(events)}: parents in '{name}' quarantined"] = lost
    return dataclasses.replace(events, parent=(name, parents))


class _TruthOfKept:
    """The truth of a world of whose events some rows were left out: a Truth and an EventTruth."""

    def __init__(self, truth: Truth, keep: Mapping[str, np.ndarray]):
        """Takes the whole world's truth, and which rows of its events are left, [n] bool by table."""
        self._truth, self._keep = truth, keep

    @property
    def relations(self) -> tuple[str, ...]:
        """As the world's."""
        return self._truth.relations

    def probabilities(self, relation: str, source_ids: np.ndarray, start: float, end: float) -> np.ndarray:
        """As the world's: what might have been does not depend on the rows that are left."""
        return self._truth.probabilities(relation, source_ids, start, end)

    def expected(self, events: str, column: str) -> np.ndarray:
        """The world's, of the rows that are left, [n] float32."""
        assert isinstance(self._truth, EventTruth)
        return self._truth.expected(events, column)[self._keep[events]]

    def __getattr__(self, name: str) -> Any:
        """The world's other methods, of what might have been; its columns are of all rows, and so not given."""
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._truth, name)
        if not callable(found):
            raise AttributeError(f"'{name}' is of all rows of the world, of which some were left out")
        return found
