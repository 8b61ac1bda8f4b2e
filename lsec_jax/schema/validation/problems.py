"""One thing that is wrong, and the checks of a single column that every table needs."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lsec_jax.schema.blocks import blocks
from lsec_jax.schema.tables import FEATURE_KINDS, NAME_RULE, Events, Feature, NodeTable, Relation, is_name

NO_ROWS = np.zeros(0, np.int64)
INDEX = np.dtype(np.int32)
CODES = "split codes are 0 (train), 1 (validation) and 2 (test)"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a column.

    Attributes:
        table: e.g. "relation 'buy'".
        column: e.g. "time", or "" for the whole table.
        rows: positions of the rows that have it, rising, [k] int64; none if no rows are to blame.
        text: what is wrong, with the first row's value.
        is_of_parent: whether the rows are wrong beside their parents only, and right where these are left out.
    """

    table: str
    column: str
    rows: np.ndarray
    text: str
    is_of_parent: bool = False

    def __str__(self) -> str:
        place = f"{self.table}, column '{self.column}'" if self.column else self.table
        if len(self.rows):
            place += f", row {self.rows[0]}"
            if len(self.rows) > 1:
                place += f" and {len(self.rows) - 1} more"
        return f"{place}: {self.text}"


def place_of(table: NodeTable | Relation | Events) -> str:
    """How messages name a table."""
    kinds = {NodeTable: "node table", Relation: "relation", Events: "events"}
    return f"{kinds[type(table)]} '{table.name}'"


def size_of(values: Any) -> int | None:
    """The number of rows of an array, or None of what is none."""
    return values.shape[0] if isinstance(values, np.ndarray) and values.ndim else None


def form_problem(values: Any, dtypes: Iterable[Any], shape: tuple[int | None, ...], rule: str) -> str:
    """What is wrong with a column's form, or nothing.

    Args:
        values: of the column.
        dtypes: those that it may have.
        shape: that it must have; None = any.
        rule: what it must be, for the message, e.g. "3 int32 indices".
    """
    if not isinstance(values, np.ndarray):
        return f"a {type(values).__name__}, no numpy array; {rule}"
    if values.ndim != len(shape) or any(
        wanted not in (None, size) for wanted, size in zip(shape, values.shape, strict=True)
    ):
        return f"shape {values.shape}, {rule}"
    return "" if values.dtype in list(map(np.dtype, dtypes)) else f"{values.dtype}; {rule}"


def rows_where(num_rows: int, is_wrong: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Rows for which a condition holds, rising, [k] int64; it is asked for blocks of them, [block] bool."""
    found = [rows.start + np.flatnonzero(is_wrong(rows)) for rows in blocks(num_rows)]
    return np.concatenate([NO_ROWS, *found])


def wrong_rows(place: str, column: str, bad: np.ndarray, text: Callable[[int], str]) -> Iterator[Problem]:
    """A problem of rows, if there are any; `text` says what is wrong with the first one."""
    if len(bad):
        yield Problem(place, column, bad, text(int(bad[0])))


def wrong_indices(place: str, column: str, ids: np.ndarray, table: NodeTable, lowest: int) -> Iterator[Problem]:
    """Node indices, [n] or [n, k], outside lowest..(nodes - 1)."""
    size = size_of(table.ids)
    if size is None:  # which is a problem of the table
        return
    limits = f"{lowest}..{size - 1}"

    def outside(rows: slice) -> np.ndarray:
        return ((ids[rows] < lowest) | (ids[rows] >= size)).reshape(len(ids[rows]), -1)

    def first(row: int) -> Any:
        return ids[row : row + 1].ravel()[outside(slice(row, row + 1)).ravel()][0]

    bad = rows_where(len(ids), lambda rows: np.any(outside(rows), axis=1))
    yield from wrong_rows(place, column, bad, lambda row: f"{table.name} index {first(row)} outside {limits}")


def wrong_codes(place: str, split: np.ndarray) -> Iterator[Problem]:
    """Split codes that are none."""
    bad = rows_where(len(split), lambda rows: (split[rows] < 0) | (split[rows] > 2))
    yield from wrong_rows(place, "split", bad, lambda row: f"{split[row]}; {CODES}")


def wrong_names(place: str, names: Iterable[str]) -> Iterator[Problem]:
    """Names of columns that cannot be names of files."""
    yield from (Problem(place, name, NO_ROWS, NAME_RULE) for name in names if not is_name(name))


def wrong_key(place: str, key: str, name: str) -> Iterator[Problem]:
    """A table that stands under another name than its own."""
    if key != name:
        yield Problem(place, "", NO_ROWS, f"stands under the key '{key}'; the key must be the table's name")


def no_table(place: str, column: str, name: str, nodes: Mapping[str, NodeTable]) -> Problem:
    """A node table that is not there."""
    return Problem(place, column, NO_ROWS, f"no node table '{name}' (tables: {', '.join(sorted(nodes))})")


def repeated(keys: np.ndarray) -> np.ndarray:
    """Positions of values that occurred before, rising."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])


def wrong_features(place: str, features: Mapping[str, Feature], num_rows: int | None) -> Iterator[Problem]:
    """What is wrong with the features of a table."""
    for name, feature in features.items():
        if text := _form_of_feature(feature, num_rows):
            yield Problem(place, name, NO_ROWS, text)
        else:
            yield from _wrong_values(place, name, feature)


def _wrong_values(place: str, name: str, feature: Feature) -> Iterator[Problem]:
    values, size = feature.values, len(feature.vocabulary)
    if feature.kind in ("categorical", "ordinal"):
        bad = rows_where(len(values), lambda rows: (values[rows] < -1) | (values[rows] >= size))
        yield from wrong_rows(place, name, bad, lambda row: f"code {values[row]} outside -1..{size - 1}")
    else:
        table = values if values.ndim == 2 else values[:, None]
        bad = rows_where(len(table), lambda rows: np.isinf(table[rows]).any(axis=1))
        yield from wrong_rows(place, name, bad, lambda row: "infinite; missing numbers are NaN")
        partly = rows_where(len(table), lambda rows: _is_mixed(np.isnan(table[rows])))
        yield from wrong_rows(place, name, partly, lambda row: "some of the vector is NaN; a missing one is all NaN")


def _is_mixed(flags: np.ndarray) -> np.ndarray:
    return np.any(flags, axis=1) & ~np.all(flags, axis=1)


def _form_of_feature(feature: Feature, num_rows: int | None) -> str:
    """What is wrong with a feature as a whole, or nothing."""
    if feature.kind not in FEATURE_KINDS:
        return f"kind '{feature.kind}' is unknown; valid: {', '.join(FEATURE_KINDS)}"
    dtype = np.dtype(np.int32 if feature.kind in ("categorical", "ordinal") else np.float32)
    shape = (num_rows, None) if feature.kind == "vector" else (num_rows,)
    rows = "" if num_rows is None else f"{num_rows} "
    form = f"{rows}rows of {dtype}" + (", a vector each" if feature.kind == "vector" else "")
    if form_problem(feature.values, [dtype], shape, form):
        values = feature.values
        there = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        return f"{there}; a {feature.kind} feature needs {form}"
    if feature.values.shape[1:] == (0,):
        return "vectors of width 0; leave the feature out"
    if feature.vocabulary and feature.kind in ("numeric", "vector"):
        return f"a {feature.kind} feature has no vocabulary, but this one has {len(feature.vocabulary)} words"
    if not all(isinstance(word, str) for word in feature.vocabulary):
        return "the vocabulary holds something else than text; give strings"
    if len(set(feature.vocabulary)) < len(feature.vocabulary):
        return "the vocabulary names something twice"
    return ""
