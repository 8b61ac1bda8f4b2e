"""Finds everything that is wrong with a data set's tables, and leaves wrong rows out where that is asked for."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lsec_jax.schema.tables import (
    NAME_RULE,
    Availability,
    Candidates,
    Events,
    Histories,
    NodeTable,
    Relation,
    Tree,
    Truth,
    is_name,
)
from lsec_jax.schema.validation.events import event_problems
from lsec_jax.schema.validation.histories import history_problems
from lsec_jax.schema.validation.nodes import availability_problems, node_problems, tree_problems, view_problems
from lsec_jax.schema.validation.problems import NO_ROWS, Problem, form_problem, place_of, rows_where, wrong_key
from lsec_jax.schema.validation.relations import candidate_problems, relation_problems
from lsec_jax.schema.views import View

__all__ = ["HasTables", "Problem", "find_problems"]


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
    def histories(self) -> Mapping[str, Histories]:
        """By name."""
        ...

    @property
    def views(self) -> Mapping[str, View]:
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
    def candidates(self) -> Mapping[tuple[str, int], Candidates]:
        """By relation and split."""
        ...

    @property
    def cut_times(self) -> tuple[float, float] | None:
        """Of a chronological split."""
        ...

    @property
    def end_time(self) -> float | None:
        """Of the observed period."""
        ...

    @property
    def truth(self) -> Truth | None:
        """Of a simulated world."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """What reading found."""
        ...

    def replace(self, **changes: Any) -> Any:
        """A copy with some attributes changed."""
        ...


def find_problems(data: HasTables) -> list[Problem]:
    """Returns everything that is wrong, vectorised: O(rows log rows) for what occurs twice, else O(rows)."""
    return [
        *_names(data),
        *_period(data),
        *(problem for table in data.nodes.values() for problem in node_problems(table)),
        *(problem for relation in data.relations.values() for problem in relation_problems(relation, data.nodes)),
        *(problem for events in data.events.values() for problem in event_problems(events, data.nodes, data.events)),
        *(
            problem
            for name, of in data.histories.items()
            for problem in history_problems(name, of, data.nodes, data.events)
        ),
        *(problem for name, tree in data.trees.items() for problem in tree_problems(name, tree, data.nodes)),
        *(problem for view in data.views.values() for problem in view_problems(view, data.nodes)),
        *(problem for name, of in data.availability.items() for problem in availability_problems(name, of, data.nodes)),
        *(
            problem
            for key, lists in data.candidates.items()
            for problem in candidate_problems(key, lists, data.relations, data.nodes)
        ),
    ]


def _names(data: HasTables) -> Iterator[Problem]:
    tables = (("node type", data.nodes), ("relation", data.relations), ("events", data.events))
    for kind, by_name in tables:
        for key, table in by_name.items():
            if not is_name(key):
                yield Problem(f"{kind} {key!r}", "", NO_ROWS, NAME_RULE)
            yield from wrong_key(place_of(table), key, table.name)


def _period(data: HasTables) -> Iterator[Problem]:
    cuts, end = data.cut_times, data.end_time
    if cuts is not None and (len(cuts) != 2 or not -math.inf < cuts[0] <= cuts[1] < math.inf):
        yield Problem("cut_times", "", NO_ROWS, f"{cuts}; give two finite times, the first one not after the second")
    if end is not None and not math.isfinite(end):
        yield Problem("end_time", "", NO_ROWS, f"{end}; give a finite time, or None")
    elif end is not None:
        if cuts is not None and len(cuts) == 2 and end <= cuts[1]:
            yield Problem(
                "end_time", "", NO_ROWS, f"{end} is not after the start of test at {cuts[1]}; give a later time"
            )
        tables: list[Relation | Events] = [*data.relations.values(), *data.events.values()]
        yield from (problem for table in tables for problem in _after_end(table, end))


def _after_end(table: Relation | Events, end: float) -> Iterator[Problem]:
    time = table.time
    if time is None or form_problem(time, [np.float64], (None,), ""):
        return
    late = rows_where(len(time), lambda rows: np.isfinite(time[rows]) & (time[rows] >= end))
    if len(late):
        text = f"{end}; {len(late)} rows of {place_of(table)} are at or after it, e.g. row {late[0]} at {time[late[0]]}"
        yield Problem("end_time", "", NO_ROWS, f"{text}; give a time after all of them")
