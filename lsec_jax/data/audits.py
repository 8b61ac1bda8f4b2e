"""Looks for leaks between training and evaluation, in what a run really uses; O(e log e) per relation.

`history_audits.audit_all_histories` does the same for histories.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from lsec_jax.data.csr import contains
from lsec_jax.schema import (
    TEST,
    TRAIN,
    VALIDATION,
    Candidates,
    DataError,
    Events,
    LiveCommerceData,
    Relation,
    split_name,
)

LATEST = (TRAIN, VALIDATION)
LEAVE_ONE_OUT_LEAST = 3  # edges of a source node of which two can be held out


def audit_splits(data: LiveCommerceData) -> None:
    """Checks that nothing leaks from later splits into earlier ones; raises DataError with all that does.

    No relation may have a pair in two splits, nor, between nodes of one type, the reverse of a pair in an earlier split
    unless it came first. Where there are cut times, no training edges and events may reach the first cut, nor
    validation ones the second. Where an edge is an event of its pair (in a table with splits, at the same time), that
    event must be in the edge's split, and no later event of the pair in an earlier one. Of edges without a time, no
    event of the pair may be in an earlier split. What other relations tell is left to `told_elsewhere`.
    """
    problems = [problem for relation in data.relations.values() for problem in _split_problems(data, relation)]
    for events in data.events.values():
        if events.split is not None:
            problems += _late_rows(data, f"events '{events.name}'", "events", events.time, events.split)
            for relation in data.relations.values():
                problems += _event_problems(data, relation, events)
    if problems:
        raise DataError(f"data set '{data.name}' leaks between splits:\n  " + "\n  ".join(problems))


def _split_problems(data: LiveCommerceData, relation: Relation) -> Iterator[str]:
    name = relation.name
    if relation.split is None:
        yield f"relation '{name}' has no split; run assign_splits first"
        return
    keys = _keys(relation, len(data.nodes[relation.target]))
    order = np.argsort(keys, kind="stable")
    keys, splits = keys[order], relation.split[order]
    twice = np.flatnonzero((keys[1:] == keys[:-1]) & (splits[1:] != splits[:-1]))
    if len(twice):
        row = order[twice[0]]
        pair = f"({relation.source_ids[row]}, {relation.target_ids[row]})"
        yield f"relation '{name}': {len(twice)} pairs are in two splits, e.g. {pair}"
    if relation.source == relation.target:
        yield from _reverse_problems(data, relation, keys, order)
    if relation.time is not None:
        yield from _late_rows(data, f"relation '{name}'", "edges", relation.time, relation.split)


def _reverse_problems(data: LiveCommerceData, relation: Relation, keys: np.ndarray, order: np.ndarray) -> Iterator[str]:
    """Edges between nodes of one type whose reverse, which tells them, is in an earlier split without being earlier."""
    assert relation.split is not None
    reverse = relation.target_ids.astype(np.int64) * len(data.nodes[relation.target]) + relation.source_ids
    rows = np.flatnonzero(contains(keys, reverse))
    others = order[np.searchsorted(keys, reverse[rows])]
    is_bad = relation.split[others] < relation.split[rows]
    if relation.time is not None:
        is_bad &= relation.time[others] >= relation.time[rows]
    if is_bad.any():
        row = rows[np.argmax(is_bad)]
        pair = f"({relation.source_ids[row]}, {relation.target_ids[row]})"
        yield (
            f"relation '{relation.name}': {int(is_bad.sum())} pairs have their reverse in an earlier split, e.g. {pair}"
        )


def audit_leave_one_out(data: LiveCommerceData, relations: Iterable[str]) -> None:
    """Checks leave-one-out splits, each source node against its own cut; raises DataError with all that is wrong.

    Nodes with at least 3 edges have one of them in TEST and one in VALIDATION, others none; no training edge of a node
    is later than its validation edge, and that no later than its test edge.
    """
    problems = []
    for relation in map(data.relation, relations):
        assert relation.time is not None and relation.split is not None
        ids, time, num_sources = relation.source_ids, relation.time, len(data.nodes[relation.source])
        has_two = np.bincount(ids, minlength=num_sources) >= LEAVE_ONE_OUT_LEAST
        latest, earliest = np.full((3, num_sources), -np.inf), np.full((3, num_sources), np.inf)
        np.maximum.at(latest, (relation.split, ids), time)
        np.minimum.at(earliest, (relation.split, ids), time)
        held_out = [np.bincount(ids[relation.split == code], minlength=num_sources) for code in (VALIDATION, TEST)]
        found = {
            "have not one validation and one test edge": (np.stack(held_out) != has_two).any(axis=0),
            "train on a later time than that of their validation edge": latest[TRAIN] > earliest[VALIDATION],
            "train on a later time than that of their test edge": latest[TRAIN] > earliest[TEST],
            "are validated on a later time than that of their test edge": latest[VALIDATION] > earliest[TEST],
        }
        problems += [
            f"relation '{relation.name}': {int(bad.sum())} {relation.source} nodes {text}, e.g. "
            f"{data.nodes[relation.source].ids[np.argmax(bad)]}"
            for text, bad in found.items()
            if bad.any()
        ]
    if problems:
        raise DataError(f"data set '{data.name}' is not split leave-one-out:\n  " + "\n  ".join(problems))


def told_elsewhere(data: LiveCommerceData, tasks: Iterable[str], is_leave_one_out: bool) -> list[str]:
    """Returns what other relations' training edges tell of held-out edges: allowed, but a model may use it.

    Relations that are no tasks train whole where there is no cut time, so that these are warnings and no errors:
    held-out pairs that train in another relation between the same types, in either direction, without being earlier
    there; and of leave-one-out splits, training edges at or after the first held-out time of their own source.

    Args:
        data: split.
        tasks: relations that are evaluated.
        is_leave_one_out: whether they are split so.
    """
    found: list[str] = []
    for task in map(data.relation, tasks):
        for other in data.relations.values():
            if other.name != task.name:
                found += _shared_pairs(data, task, other)
                if is_leave_one_out and task.time is not None:
                    found += _after_own_cut(data, task, other)
    return found


def _shared_pairs(data: LiveCommerceData, task: Relation, other: Relation) -> Iterator[str]:
    assert task.split is not None and other.split is not None
    num_targets = len(data.nodes[task.target])
    held_out = np.flatnonzero(task.split != TRAIN)
    wanted = _keys(task, num_targets)[held_out]
    train = np.flatnonzero(other.split == TRAIN)
    sources, targets = other.source_ids[train].astype(np.int64), other.target_ids[train].astype(np.int64)
    is_told = np.zeros(len(held_out), bool)
    for ends, one, two in (
        ((other.source, other.target), sources, targets),
        ((other.target, other.source), targets, sources),
    ):
        if ends != (task.source, task.target):
            continue
        keys = one * num_targets + two
        order = np.argsort(keys, kind="stable")
        rows = np.flatnonzero(contains(keys[order], wanted))
        if task.time is not None and other.time is not None:
            edges = train[order[np.searchsorted(keys[order], wanted[rows])]]
            rows = rows[other.time[edges] >= task.time[held_out[rows]]]
        is_told[rows] = True
    if is_told.any():
        row = held_out[np.argmax(is_told)]
        yield (
            f"{int(is_told.sum())} of {len(held_out)} held-out pairs of relation '{task.name}' train in relation "
            f"'{other.name}', e.g. ({task.source_ids[row]}, {task.target_ids[row]})"
        )


def _after_own_cut(data: LiveCommerceData, task: Relation, other: Relation) -> Iterator[str]:
    assert task.time is not None and task.split is not None and other.split is not None
    if other.time is None or task.source not in (other.source, other.target):
        return
    cut = np.full(len(data.nodes[task.source]), np.inf)
    is_held_out = task.split != TRAIN
    np.minimum.at(cut, task.source_ids[is_held_out], task.time[is_held_out])
    is_late = np.zeros(len(other), bool)
    for end, ids in ((other.source, other.source_ids), (other.target, other.target_ids)):
        if end == task.source:
            is_late |= other.time >= cut[ids]
    if count := int((is_late & (other.split == TRAIN)).sum()):
        yield (
            f"{count} training edges of relation '{other.name}' are at or after the first held-out time of their own "
            f"{task.source} in relation '{task.name}'"
        )


def _late_rows(data: LiveCommerceData, place: str, what: str, time: np.ndarray, row_split: np.ndarray) -> Iterator[str]:
    if data.cut_times is None:
        return
    for split, cut in zip(LATEST, data.cut_times, strict=True):
        if late := int((time[row_split == split] >= cut).sum()):
            yield f"{place}: {late} {split_name(split)} {what} at or after the cut at {cut:g}"


def _event_problems(data: LiveCommerceData, relation: Relation, events: Events) -> Iterator[str]:
    """What is wrong between a relation's edges and those events of their pairs that tell them."""
    is_there = relation.source in events.nodes and relation.target in events.nodes
    if not is_there or relation.split is None or relation.source == relation.target:
        return
    assert events.split is not None
    num_targets = len(data.nodes[relation.target])
    edge_keys = _keys(relation, num_targets)
    order = np.argsort(edge_keys, kind="stable")
    source_ids, target_ids = events.ids(relation.source), events.ids(relation.target)
    keys = np.where((source_ids < 0) | (target_ids < 0), -1, source_ids.astype(np.int64) * num_targets + target_ids)
    rows = np.flatnonzero(contains(edge_keys[order], keys))
    edges = order[np.searchsorted(edge_keys[order], keys[rows])]
    is_earlier, is_later = events.split[rows] < relation.split[edges], events.split[rows] > relation.split[edges]
    if relation.time is None:
        is_bad = is_earlier
    else:
        is_edge = events.time[rows] == relation.time[edges]
        comes_from_events = np.zeros(len(relation), bool)
        comes_from_events[edges[is_edge]] = True
        is_repeat = comes_from_events[edges] & (events.time[rows] > relation.time[edges])
        is_bad = (is_edge & (is_earlier | is_later)) | (is_repeat & is_earlier)
    bad = rows[is_bad]
    if len(bad):
        row = bad[0]
        pair = f"({source_ids[row]}, {target_ids[row]})"
        yield (
            f"events '{events.name}': {len(bad)} are in another split than their pair in relation '{relation.name}', "
            f"e.g. row {row}: {pair}"
        )


def audit_candidates(data: LiveCommerceData, relation: str, split: int, lists: Candidates) -> None:
    """Checks the candidate lists of a split; raises DataError with all that is wrong.

    Every positive must be an edge of the split and every edge of the split a positive, no negative may be an edge of
    any split, no list may hold a target twice, and no source node have two lists. Published lists may well fail: their
    negatives are used as they are, and whom they leave out is not evaluated.
    """
    edges = data.relation(relation)
    num_sources, num_targets = len(data.nodes[edges.source]), len(data.nodes[edges.target])
    is_list, is_target = _inside(lists.source_ids, num_sources), _inside(lists.target_ids, num_targets)
    found = {
        f"sources are no {edges.source} nodes": ~is_list[:, None],
        f"targets are no {edges.target} nodes": ~is_target,
    }
    problems = [_candidate_problem(data, edges, lists, what, bad) for what, bad in found.items() if bad.any()]
    if not problems:  # else other pairs would have the same keys
        problems = _list_problems(data, edges, split, lists)
    if problems:
        raise DataError(
            f"candidates of '{relation}', {split_name(split)} ({lists.origin}):\n  " + "\n  ".join(problems)
        )


def _list_problems(data: LiveCommerceData, edges: Relation, split: int, lists: Candidates) -> list[str]:
    num_targets = len(data.nodes[edges.target])
    keys = lists.source_ids.astype(np.int64)[:, None] * num_targets + lists.target_ids
    edge_keys = _keys(edges, num_targets)
    assert edges.split is not None
    is_own = edges.split == split
    known, own = np.sort(edge_keys), np.sort(edge_keys[is_own])
    ordered = np.sort(keys, axis=1)
    twice = np.ones(len(keys), bool)
    twice[np.unique(lists.source_ids, return_index=True)[1]] = False
    found = {
        f"positives are no {split_name(split)} edges": lists.labels & ~contains(own, keys.ravel()).reshape(keys.shape),
        "negatives are edges": ~lists.labels & contains(known, keys.ravel()).reshape(keys.shape),
        "targets stand in a list already": ordered[:, 1:] == ordered[:, :-1],
        f"lists are of a {edges.source} that has one already": twice[:, None],
    }
    problems = [_candidate_problem(data, edges, lists, what, bad) for what, bad in found.items() if bad.any()]
    rows = np.flatnonzero(is_own)
    missing = rows[~contains(np.sort(keys[lists.labels]), edge_keys[rows])]
    has_list = np.isin(edges.source_ids[missing], lists.source_ids)
    for what, bad in (
        (
            f"{edges.source} nodes with {split_name(split)} edges have no list",
            np.unique(edges.source_ids[missing][~has_list]),
        ),
        (f"{split_name(split)} edges are no positives of their list", edges.source_ids[missing][has_list]),
    ):
        if len(bad):
            problems.append(f"{len(bad)} {what}, e.g. of {edges.source} {data.nodes[edges.source].ids[bad[0]]}")
    return problems


def _inside(ids: np.ndarray, size: int) -> np.ndarray:
    return (ids >= 0) & (ids < size)


def _keys(relation: Relation, num_targets: int) -> np.ndarray:
    return relation.source_ids.astype(np.int64) * num_targets + relation.target_ids


def _candidate_problem(data: LiveCommerceData, edges: Relation, lists: Candidates, what: str, bad: np.ndarray) -> str:
    row = int(np.flatnonzero(bad.any(axis=1))[0])
    source, ids = lists.source_ids[row], data.nodes[edges.source].ids
    name = f"{edges.source} {ids[source]}" if 0 <= source < len(ids) else f"row {row}, {edges.source} index {source}"
    return f"{int(bad.sum())} {what}, e.g. in the list of {name}"
