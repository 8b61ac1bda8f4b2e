"""From external ids and raw pairs to node tables, internal indices and distinct edges: what all sources share."""

import dataclasses
import types
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsec_jax.schema import SPLITS, NodeTable

MAX_CHARACTERS = 1000  # of an id or a word: arrays of text are as wide as the longest
_NEGATIVE = "negative id {}; ids are integers >= 0 or text; correct it or drop the row"
_CONTROL = r"[\p{Cc}\p{Zl}\p{Zp}]"
_HAS_CONTROL = "{!r} has a control character or line break; rename it, and check the file's quotes"
# (RE2 pattern, problem) of texts that cannot be ids.
_BAD_TEXTS = (
    (_CONTROL, f"id {_HAS_CONTROL}"),
    (
        r"\A(?i:nan|-?[0-9]+\.0+)\z",
        "id {} is a floating-point number; write ids as integers or text (missing values made them floats?)",
    ),
    (
        r"\A(?:(?i:null)|None|NA|<NA>)\z",
        "id {} is how other tools write a missing value; drop the row, or, if it is an id, rename it",
    ),
    (r"\A-[0-9]+\z", _NEGATIVE),
)


@dataclasses.dataclass(frozen=True)
class IdColumn:
    """One column of external ids: `values[codes[row]]` is the id in a row.

    Attributes:
        values: distinct ids, [v] int64 or str.
        codes: positions in `values`, [rows] int64.
    """

    values: np.ndarray
    codes: np.ndarray


def refused_ids(values: np.ndarray | pa.Array) -> tuple[np.ndarray, str] | None:
    """Finds values that cannot be ids.

    Args:
        values: [v] int64, or Arrow text.

    Returns:
        (which values have the first kind of problem found, [v] bool; its message, with a place for the id), or None.
    """
    if isinstance(values, np.ndarray):
        return (values < 0, _NEGATIVE) if (values < 0).any() else None
    return _first_problem(values, _BAD_TEXTS)


def refused_words(values: pa.Array) -> tuple[np.ndarray, str] | None:
    """The same for the texts of a category, [v] Arrow text: those that are too long or have control characters."""
    return _first_problem(values, ((_CONTROL, f"text {_HAS_CONTROL}"),))


def _first_problem(values: pa.Array, patterns: Iterable[tuple[str, str]]) -> tuple[np.ndarray, str] | None:
    is_long = pc.greater(pc.utf8_length(values), MAX_CHARACTERS).to_numpy(zero_copy_only=False)
    if is_long.any():
        return is_long, f"a text of more than {MAX_CHARACTERS} characters; shorten it, and check the file's quotes"
    for pattern, problem in patterns:
        is_bad = pc.match_substring_regex(values, pattern).to_numpy(zero_copy_only=False)
        if is_bad.any():
            return is_bad, problem
    return None


def build_nodes(
    columns: Iterable[tuple[str, IdColumn]], listed: Mapping[str, np.ndarray] = types.MappingProxyType({})
) -> tuple[dict[str, NodeTable], list[np.ndarray]]:
    """Builds node tables from all columns that name nodes, ids sorted, so that row order does not matter.

    Args:
        columns: (node type, ids) of every column of every relation.
        listed: by node type, all ids of its table in their order, which the columns' are among, [n] int64 or str.

    Returns:
        Node tables by type, and for every column its internal indices, [rows] int32, in the order given. A type's ids
        are int64 if they are in all its columns, else strings.
    """
    columns = list(columns)
    nodes = {}
    for name in dict.fromkeys(name for name, _ in columns):
        if name in listed:
            nodes[name] = NodeTable(name, listed[name])
            continue
        column = join_columns([column for other, column in columns if other == name])
        # With return_index np.unique sorts; without, it hashes, which is slower on distinct integers.
        nodes[name] = NodeTable(name, np.unique(column.values, return_index=True)[0])
    return nodes, [nodes[name].index_of(column.values)[column.codes].astype(np.int32) for name, column in columns]


def join_columns(columns: list[IdColumn]) -> IdColumn:
    """Puts columns one after the other; `values` may then repeat, and are strings if any column's are."""
    if any(column.values.dtype.kind == "U" for column in columns):
        columns = [IdColumn(column.values.astype(np.str_), column.codes) for column in columns]
    offsets = np.cumsum([0, *(len(column.values) for column in columns[:-1])])
    return IdColumn(
        np.concatenate([column.values for column in columns]),
        np.concatenate([column.codes + offset for column, offset in zip(columns, offsets, strict=True)]),
    )


def first_occurrences(source_ids: np.ndarray, target_ids: np.ndarray, rank: np.ndarray | None = None) -> np.ndarray:
    """Returns the rows that keep every pair once, ascending: the row of lowest rank, then the first one.

    Args:
        source_ids: [e] integers >= 0.
        target_ids: [e] integers >= 0.
        rank: [e], e.g. times, or None (the first row is kept).
    """
    keys = source_ids.astype(np.int64) * (int(target_ids.max(initial=0)) + 1) + target_ids
    if rank is None:
        return np.sort(np.unique(keys, return_index=True)[1])
    order = np.lexsort((rank, keys))  # stable: equal keys and ranks stay in row order
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[order][1:] != keys[order][:-1]
    return np.sort(order[is_first])


def distinct_pairs(
    name: str,
    source_ids: np.ndarray,
    target_ids: np.ndarray,
    split: np.ndarray,
    time: np.ndarray | None,
    counts: dict[str, int],
) -> np.ndarray:
    """Returns the rows that keep every pair of a relation once, ascending, and counts the others.

    Kept is the row of the earliest split (train, validation, test), then the earliest time, then the first row.

    Args:
        name: of the relation.
        source_ids: [e] internal indices.
        target_ids: [e] internal indices.
        split: [e] split code of each row's file, ascending; in any order where there are times.
        time: [e] or None.
        counts: gains "<name>: duplicate rows dropped" (within a file) and "<name>: <split> pairs that are in an earlier
            split, dropped", where not zero.
    """
    order = np.arange(len(split))
    if time is not None:
        order[np.lexsort((time, split))] = np.arange(len(split))
    keep = first_occurrences(source_ids, target_ids, None if time is None else order)
    duplicates = 0
    for split_name, code in SPLITS.items():
        rows = np.flatnonzero(split == code)
        distinct = len(rows)
        if len(keep) < len(split):
            distinct = len(first_occurrences(source_ids[rows], target_ids[rows]))
        duplicates += len(rows) - distinct
        if earlier := distinct - int((split[keep] == code).sum()):
            counts[f"{name}: {split_name} pairs that are in an earlier split, dropped"] = earlier
    if duplicates:
        counts[f"{name}: duplicate rows dropped"] = duplicates
    return keep
