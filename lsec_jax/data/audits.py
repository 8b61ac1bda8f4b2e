"""Looks for leaks between training and evaluation, in what a run really uses; O(e log e) per relation.

`sequences.audit_histories` does the same for histories.
"""

from collections.abc import Iterator

import numpy as np

from lsec_jax.data.csr import contains
from lsec_jax.schema import TRAIN, VALIDATION, Candidates, DataError, LiveCommerceData, Relation, split_name

LATEST = (TRAIN, VALIDATION)


def audit_splits(data: LiveCommerceData) -> None:
    """Checks that nothing leaks from later splits into earlier ones; raises DataError with all that does.

    No relation may have a pair in two splits; where there are cut times, no relation's training edges may reach the
    first cut, nor its validation edges the second.
    """
    problems = [problem for relation in data.relations.values() for problem in _split_problems(data, relation)]
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
    if data.cut_times is None or relation.time is None:
        return
    for split, cut in zip(LATEST, data.cut_times, strict=True):
        if late := int((relation.time[relation.split == split] >= cut).sum()):
            yield f"relation '{name}': {late} {split_name(split)} edges at or after the cut at {cut:g}"


def audit_candidates(data: LiveCommerceData, relation: str, split: int, lists: Candidates) -> None:
    """Checks the candidate lists of a split; raises DataError with all that is wrong.

    Every positive must be an edge of the split, no negative may be an edge of any split, and no list may hold a target
    twice. Published lists may well fail: their negatives are used as they are.
    """
    edges = data.relation(relation)
    num_targets = len(data.nodes[edges.target])
    keys = lists.source_ids.astype(np.int64)[:, None] * num_targets + lists.target_ids
    assert edges.split is not None
    edge_keys = _keys(edges, num_targets)
    known, own = np.sort(edge_keys), np.sort(edge_keys[edges.split == split])
    ordered = np.sort(keys, axis=1)
    found = {
        f"positives are no {split_name(split)} edges": lists.labels & ~contains(own, keys.ravel()).reshape(keys.shape),
        "negatives are edges": ~lists.labels & contains(known, keys.ravel()).reshape(keys.shape),
        "targets stand in a list already": ordered[:, 1:] == ordered[:, :-1],
    }
    problems = [
        f"{int(bad.sum())} {what}, e.g. in {_example(data, edges, lists, bad)}"
        for what, bad in found.items()
        if bad.any()
    ]
    if problems:
        raise DataError(
            f"candidates of '{relation}', {split_name(split)} ({lists.origin}):\n  " + "\n  ".join(problems)
        )


def _keys(relation: Relation, num_targets: int) -> np.ndarray:
    return relation.source_ids.astype(np.int64) * num_targets + relation.target_ids


def _example(data: LiveCommerceData, edges: Relation, lists: Candidates, bad: np.ndarray) -> str:
    row = int(np.flatnonzero(bad.any(axis=1))[0])
    return f"the list of {edges.source} {data.nodes[edges.source].ids[lists.source_ids[row]]}"
