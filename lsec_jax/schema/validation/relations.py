"""What is wrong with relations and with candidate lists."""

from collections.abc import Iterator, Mapping

import numpy as np

from lsec_jax.schema.tables import SPLITS, TEST, VALIDATION, Candidates, NodeTable, Relation
from lsec_jax.schema.validation.problems import (
    INDEX,
    NO_ROWS,
    Problem,
    form_problem,
    no_table,
    place_of,
    repeated,
    size_of,
    wrong_codes,
    wrong_indices,
    wrong_rows,
)

_DTYPES = {"source_ids": np.int32, "target_ids": np.int32, "time": np.float64, "weight": np.float32, "split": np.int8}


def relation_problems(relation: Relation, nodes: Mapping[str, NodeTable]) -> Iterator[Problem]:
    """Ends that are not there, columns of another form, and wrong rows."""
    place = place_of(relation)
    ends = {"source_ids": relation.source, "target_ids": relation.target}
    yield from (no_table(place, "", end, nodes) for end in dict.fromkeys(ends.values()) if end not in nodes)
    if (size := size_of(relation.source_ids)) == 0:
        yield Problem(place, "", NO_ROWS, "has no edges; remove it from the source or check the file")
        return
    columns = {column: getattr(relation, column) for column in _DTYPES}
    columns = {column: values for column, values in columns.items() if values is not None or column in ends}
    sound = {}
    for column, values in columns.items():
        rule = f"but there are {size} edges, with one {np.dtype(_DTYPES[column])} each"
        if text := form_problem(values, [_DTYPES[column]], (size,), rule):
            yield Problem(place, column, NO_ROWS, text)
        else:
            sound[column] = values
    found = [*_wrong_values(place, sound, {column: nodes[end] for column, end in ends.items() if end in nodes})]
    yield from found
    if all(column in sound for column in ends):
        yield from _pairs_twice(relation, sound.get("time"), found)


def _wrong_values(place: str, columns: Mapping[str, np.ndarray], ends: Mapping[str, NodeTable]) -> Iterator[Problem]:
    for column, values in columns.items():
        if column in ends:
            yield from wrong_indices(place, column, values, ends[column], 0)
        elif column in ("time", "weight"):
            bad = np.flatnonzero(~np.isfinite(values))
            # Called at once, so that the loop's variable is still this column's.
            yield from wrong_rows(place, column, bad, lambda row: f"{values[row]} is not finite")  # noqa: B023
        elif column == "split":
            yield from wrong_codes(place, values)


def _pairs_twice(relation: Relation, time: np.ndarray | None, found: list[Problem]) -> Iterator[Problem]:
    # Of the rows without another problem: a quarantine keeps the first one of those that are right.
    is_right = np.ones(len(relation), bool)
    for problem in found:
        is_right[problem.rows] = False
    right = np.flatnonzero(is_right)
    right = right if time is None else right[np.argsort(time[right], kind="stable")]
    sources, targets = relation.source_ids[right].astype(np.int64), relation.target_ids[right]
    twice = np.sort(right[repeated(sources * (int(targets.max(initial=0)) + 1) + targets)])
    text = f"this pair is there already; sources keep the {'first' if time is None else 'earliest'} occurrence"
    yield from wrong_rows(place_of(relation), "target_ids", twice, lambda row: text)


def candidate_problems(
    key: tuple[str, int], lists: Candidates, relations: Mapping[str, Relation], nodes: Mapping[str, NodeTable]
) -> Iterator[Problem]:
    """Lists of no relation or split, of another form, of nodes that are not there, or all without a positive."""
    name, split = key
    place = f"candidates of '{name}', split {split}"
    if name not in relations:
        yield Problem(place, "", NO_ROWS, f"no such relation (relations: {', '.join(sorted(relations)) or 'none'})")
    if split not in (VALIDATION, TEST):
        held_out = ", ".join(f"{code} ({text})" for text, code in SPLITS.items() if code in (VALIDATION, TEST))
        yield Problem(place, "", NO_ROWS, f"candidates are of the splits {held_out}")
    shape = (size_of(lists.source_ids), lists.target_ids.shape[1] if np.ndim(lists.target_ids) == 2 else None)
    forms = {
        "source_ids": (INDEX, shape[:1], "give an int32 index of each list's source"),
        "target_ids": (INDEX, shape, f"give as many int32 indices in each of the {shape[0]} lists"),
        "labels": (np.dtype(bool), shape, f"give a bool for each of the candidates, {shape[0]} x {shape[1]}"),
    }
    sound = {}
    for column, (dtype, wanted, rule) in forms.items():
        values = getattr(lists, column)
        if text := form_problem(values, [dtype], wanted, rule):
            yield Problem(place, column, NO_ROWS, text)
        else:
            sound[column] = values
    if name in relations:
        ends = {"source_ids": relations[name].source, "target_ids": relations[name].target}
        for column, end in ends.items():
            if column in sound and end in nodes:
                yield from wrong_indices(place, column, sound[column], nodes[end], 0)
    if "source_ids" in sound:
        twice = repeated(lists.source_ids)
        yield from wrong_rows(place, "source_ids", twice, lambda row: f"{lists.source_ids[row]} has a list already")
    # Single lists without a positive are known of published files: sources count them, evaluation leaves them out.
    if "labels" in sound and not lists.labels.any():
        yield Problem(place, "labels", NO_ROWS, "no list has a positive, so nothing could be evaluated")
