"""Candidates at a moment: what is live then, and records of it as an encoder reads them. Nothing of then or later."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lsec_jax.data.event_columns import take_or
from lsec_jax.data.sequences import build_histories, ends_before, last_items
from lsec_jax.declaration import Declaration
from lsec_jax.schema import DataError, EventNodes, Events, Feature, LiveCommerceData

CANDIDATES = "candidate"
HOSTS = "hosts"


def live_candidates(data: LiveCommerceData, node_type: str, at: float) -> np.ndarray:
    """Returns the nodes that are available at a time, rising [k] int32: from their start on, at their end no more.

    Args:
        data: with the availability of the node type.
        node_type: e.g. "room".
        at: the time, in the data set's unit.

    Raises:
        DataError: it is not known when nodes of the type are available, or the time is no number.
    """
    if node_type not in data.availability:
        there = ", ".join(sorted(data.availability)) or "none"
        raise DataError(
            f"data set '{data.name}' does not say when {node_type} nodes are available, only: {there}; choose a source "
            "that does (docs/data-formats.md, 'What each source has')"
        )
    if not np.isfinite(at):
        raise DataError(f"the time of a request is {at}; give a finite number")
    return np.flatnonzero(data.availability[node_type].at(at)).astype(np.int32)


class Candidates(NamedTuple):
    """Records of candidates.

    Attributes:
        data: the data with one more table of events, CANDIDATES, in time order; its histories are kept for it too.
        rows: the row of that table for each pair that was asked for, [n] int64.
    """

    data: LiveCommerceData
    rows: np.ndarray


def is_hosted(data: LiveCommerceData, events: Events, role: str, target: str) -> bool:
    """Whether the relation `hosts` says who has a role of the target's own, e.g. the streamer of a room."""
    hosts = data.relations.get(HOSTS)
    types = events.nodes[role].node_type, events.nodes[target].node_type
    return role != target and hosts is not None and (hosts.source, hosts.target) == types


class CandidateEvents:
    """Makes records of users, targets and moments that no log has, from what was known before each moment.

    Roles and features that the caller does not give are those of the newest event of the same target strictly before
    the moment: as stale as that is, and missing (-1, NaN) where there was none. Features of the event that the
    declaration counts to the context are the user's own, and missing unless given. The owner of a target comes from the
    relation `hosts` where that names one. Values (what is measured) are missing, so that no label is defined; those
    that are true or false are numbers here, NaN, but for fields that show them, where they are False.

    An encoder reads the records with `EventEncoder.reading(data, CANDIDATES)`.
    """

    def __init__(self, data: LiveCommerceData, declaration: Declaration):
        """Sorts the events by target.

        Args:
            data: with the events.
            declaration: what a model sees of them.

        Raises:
            DataError: the events or a role are missing.
        """
        self._data, self._declaration = data, declaration
        self._events = data.events_of(declaration.events)
        self._events.ids(declaration.user)
        self._events.ids(declaration.target)
        self._target_type = self._events.nodes[declaration.target].node_type
        size = len(data.nodes[self._target_type])
        self._past = build_histories(self._events, declaration.target, declaration.target, size)

    def __call__(
        self,
        user_ids: np.ndarray,
        target_ids: np.ndarray,
        times: np.ndarray,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> Candidates:
        """Returns the records of pairs, in any order; those of one user and time are one group.

        Args:
            user_ids: internal indices, [n].
            target_ids: internal indices, [n].
            times: moments in the data set's unit, [n] float64.
            given: roles, features and values that the caller knows, by name, each [n].

        Raises:
            DataError: a target that is not available at its moment, or what is none of the table's columns or nodes.
        """
        self._check(user_ids, target_ids, times, given or {})
        order = np.argsort(times, kind="stable")
        users, targets, times = user_ids[order], target_ids[order], times[order].astype(np.float64)
        known = {name: np.asarray(values)[order] for name, values in (given or {}).items()}
        events = self._records(users, targets, times, known)
        rows = np.empty(len(order), np.int64)
        rows[order] = np.arange(len(order))
        return Candidates(_with_events(self._data, events), rows)

    @property
    def blank_fields(self) -> list[str]:
        """Fields that are missing (flags: false) in records unless they are given: no earlier event tells them."""
        values = self._events.values
        return [
            of.name
            for of in self._declaration.fields
            if of.source.startswith(".") and (of.source[1:] in values or of.part == "context")
        ]

    def _records(
        self, users: np.ndarray, targets: np.ndarray, times: np.ndarray, known: Mapping[str, np.ndarray]
    ) -> Events:
        newest = self._newest(targets, times)
        declaration, table = self._declaration, self._events
        nodes = {}
        for role, of in table.nodes.items():
            if role in (declaration.user, declaration.target):
                ids = users if role == declaration.user else targets
            else:
                ids = known[role] if role in known else self._owners(role, targets, newest)
            nodes[role] = EventNodes(of.node_type, ids.astype(np.int32))
        features = {}
        of_others = {field.source[1:] for field in declaration.fields if field.part == "context"}
        for name, feature in table.features.items():
            # The context is the user's own: that of the newest event is another user's.
            rows = np.full_like(newest, -1) if name in of_others else newest
            column = known[name].astype(feature.values.dtype) if name in known else _taken(feature, rows)
            features[name] = dataclasses.replace(feature, values=column)
        shown = {field.source[1:] for field in declaration.fields if field.source.startswith(".")}
        values = {}
        for name, column in table.values.items():
            is_flag = column.dtype == bool and name in shown
            missing = np.zeros(len(times), bool) if is_flag else np.full(len(times), np.nan, np.float32)
            values[name] = known[name].astype(missing.dtype) if name in known else missing
        return Events(CANDIDATES, nodes, times, values, features, group=_groups(users, times))

    def _newest(self, targets: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The newest event of each target strictly before its moment, [n] int64; -1 where there is none."""
        ends = ends_before(self._past, targets, times)
        return np.where(ends > self._past.starts[targets], take_or(self._past.rows, ends - 1, -1), -1)

    def _owners(self, role: str, targets: np.ndarray, newest: np.ndarray) -> np.ndarray:
        """Who has the role: of the relation `hosts`, else of the newest event."""
        found = take_or(np.asarray(self._events.ids(role)), newest, -1)
        if not is_hosted(self._data, self._events, role, self._declaration.target):
            return found
        return np.where(self._hosts[targets] >= 0, self._hosts[targets], found)

    @functools.cached_property
    def _hosts(self) -> np.ndarray:
        """The host of each target, -1 = none, of the relation `hosts` where that is between the two."""
        hosts = self._data.relations[HOSTS]
        owners = np.full(len(self._data.nodes[self._target_type]), -1, np.int32)
        owners[hosts.target_ids] = hosts.source_ids
        return owners

    def _check(
        self, users: np.ndarray, targets: np.ndarray, times: np.ndarray, given: Mapping[str, np.ndarray]
    ) -> None:
        events, declaration = self._events, self._declaration
        lengths = {"users": len(users), "targets": len(targets), "times": len(times)}
        lengths |= {f"'{name}'": len(values) for name, values in given.items()}
        if len({*lengths.values()}) > 1:
            raise DataError(f"the columns of candidates differ in length: {lengths}; give one entry for each pair")
        there = [*events.nodes, *events.features, *events.values]
        if unknown := [name for name in given if name not in there]:
            raise DataError(f"events '{events.name}' have no '{unknown[0]}'; they have: {', '.join(there)}")
        both = {declaration.user: users, declaration.target: targets}
        if twice := [name for name in given if name in both]:
            raise DataError(f"'{twice[0]}' of candidates is given twice; each pair has its own already, leave it out")
        for role, ids in (both | {name: ids for name, ids in given.items() if name in events.nodes}).items():
            size, first = len(self._data.nodes[events.nodes[role].node_type]), 0 if role in both else -1
            if len(ids) and not (ids.min() >= first and ids.max() < size):
                raise DataError(f"candidates' {role} ids go from {ids.min()} to {ids.max()}; there are {size} from 0")
        if not np.isfinite(times).all():
            raise DataError("a candidate's time is not finite; give a number for each pair")
        self._check_available(targets, times)

    def _check_available(self, targets: np.ndarray, times: np.ndarray) -> None:
        availability = self._data.availability.get(self._target_type)
        if availability is None:
            return
        wrong = np.flatnonzero(~availability.at(times, targets))
        if len(wrong):
            row, target = wrong[0], targets[wrong[0]]
            start, end = availability.start[target], availability.end[target]
            raise DataError(
                f"candidate {row} ({len(wrong)} in all): {self._target_type} "
                f"{self._data.nodes[self._target_type].ids[target]} is available from {start} to {end} (exclusive), "
                f"not at {times[row]}; `live_candidates` gives those that are"
            )


def _groups(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """A number for each pair of user and time, [n] int64."""
    order = np.lexsort((times, users))
    is_new = (np.diff(users[order], prepend=-1) != 0) | (np.diff(times[order], prepend=np.nan) != 0)
    groups = np.empty(len(users), np.int64)
    groups[order] = np.cumsum(is_new) - 1
    return groups


def _taken(feature: Feature, newest: np.ndarray) -> np.ndarray:
    """The feature's values at some rows, missing at -1."""
    missing = -1 if feature.values.dtype.kind == "i" else np.nan
    found = np.full((len(newest), *feature.values.shape[1:]), missing, feature.values.dtype)
    found[newest >= 0] = feature.values[newest[newest >= 0]]
    return found


def _with_events(data: LiveCommerceData, events: Events) -> LiveCommerceData:
    """Adds a table of events, and keeps the histories for it whose owners' role it has."""
    histories = dict(data.histories)
    for name, of in data.histories.items():
        if of.role not in events.nodes or events.nodes[of.role].node_type != of.owner:
            continue
        owners = events.ids(of.role)
        ends = ends_before(of, owners, events.time, of.delay)
        last = dict(of.last)
        if last:
            length = next(iter(last.values())).shape[1]
            last[events.name] = last_items(of, owners, ends, length)
        histories[name] = dataclasses.replace(of, ends={**of.ends, events.name: ends} if of.ends else {}, last=last)
    return data.replace(events={**data.events, events.name: events}, histories=histories)
