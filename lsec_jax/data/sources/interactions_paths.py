"""Trees from files with a path in each row, in one column or in one for each level; rows and levels are columns here.

A path's name at each level is coded, then every prefix level by level, so that no step goes row by row.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsec_jax.data.ids import IdColumn, refused_ids
from lsec_jax.data.sources.interactions_specs import TreeSpec
from lsec_jax.data.table import Table

_UNIQUE = "make each path end in a name of its own"


@dataclasses.dataclass(frozen=True)
class _Prefixes:
    """The distinct beginnings of all paths, level by level: the nodes of the tree.

    Attributes:
        parents: the prefix that is a name shorter, [n] int64, -1 for a root.
        texts: joined, [n] Arrow text.
        rows: the first row whose path begins so, [n] int64.
        ends: each row's whole path, [rows] int64.
    """

    parents: np.ndarray
    texts: pa.Array
    rows: np.ndarray
    ends: np.ndarray


def read_paths(table: Table, spec: TreeSpec, place: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Reads paths.

    Args:
        table: of the file.
        spec: of it.
        place: its config key.

    Returns:
        The nodes' ids, unique, [n] int64 or str; their parents, -1 for none, and their first rows, [n] int64; and the
        number of different rows.

    Raises:
        DataError: an id or a path that cannot be used, an id with two paths, or a path with two ids.
    """
    own = table.ids(spec.id_column)
    codes, names = _split(table, spec.path_column, spec) if spec.path_column else _levels(table, spec)
    prefixes = _prefixes(codes, names, spec.separator)
    _check_one_to_one(table, spec, own, prefixes)
    return _ids(table, spec, place, own, prefixes), prefixes.parents, prefixes.rows, len(np.unique(own.codes))


def _split(table: Table, column: str, spec: TreeSpec) -> tuple[np.ndarray, pa.Array]:
    """Splits a column of paths: codes of names by level, -1 after the end, [rows, levels] int32; and the names."""
    texts, text_of_row = table.words(column)
    of_row = text_of_row.to_numpy()
    parts = pc.split_pattern(texts, spec.separator.strip())
    lengths = pc.list_value_length(parts).to_numpy()
    encoded = pc.utf8_trim_whitespace(parts.flatten()).dictionary_encode()
    codes = np.full((len(texts), lengths.max()), -1, np.int32)
    codes[np.arange(codes.shape[1]) < lengths[:, None]] = encoded.indices.to_numpy()
    if (empty := pc.index(encoded.dictionary, "").as_py()) >= 0:
        row = int(np.flatnonzero((codes == empty).any(axis=1)[of_row])[0])
        text = texts[int(of_row[row])].as_py()
        if not text:
            table.fail(row, column, "empty value where a path is expected; fill it in or drop the row")
        level = 1 + int(np.argmax(codes[of_row[row]] == empty))
        table.fail(row, column, f"the path '{text}' has no name at level {level}; fill it in, or take out a separator")
    return codes[of_row], encoded.dictionary


def _levels(table: Table, spec: TreeSpec) -> tuple[np.ndarray, pa.Array]:
    """Reads a column for each level, as `_split`."""
    words = [table.words(column) for column in spec.level_columns]
    encoded = pa.concat_arrays([texts for texts, _ in words]).dictionary_encode()
    offsets = np.cumsum([0, *(len(texts) for texts, _ in words)])
    of_text = encoded.indices.to_numpy()
    codes = np.stack(
        [of_text[offset + of_row.to_numpy()] for offset, (_, of_row) in zip(offsets[:-1], words, strict=True)], axis=1
    )
    separator, names = spec.separator.strip(), encoded.dictionary
    codes[codes == pc.index(names, "").as_py()] = -1
    is_there = codes >= 0
    if not is_there[:, 0].all():
        row = int(np.argmin(is_there[:, 0]))
        table.fail(row, spec.level_columns[0], "empty value where a path begins; fill it in or drop the row")
    gaps = np.argwhere(~is_there[:, :-1] & is_there[:, 1:])
    if len(gaps):
        row, after = int(gaps[0, 0]), int(gaps[0, 1]) + 1
        found = f"column '{spec.level_columns[after]}' has '{names[int(codes[row, after])]}'"
        problem = f"empty value, but the path goes on: {found}; fill it in, or empty the rest"
        table.fail(row, spec.level_columns[int(np.argmin(is_there[row]))], problem)
    is_bad = pc.match_substring(names, separator).to_numpy(zero_copy_only=False)
    if is_bad.any():
        row, level = map(int, np.argwhere(is_there & is_bad[codes])[0])
        problem = f"'{names[int(codes[row, level])]}' has the separator '{separator}' of joined paths in it"
        table.fail(row, spec.level_columns[level], f"{problem}; set another one, or rename the level")
    return codes, names


def _prefixes(codes: np.ndarray, names: pa.Array, separator: str) -> _Prefixes:
    """Finds the prefixes of paths [rows, levels] of codes into names."""
    ends = np.full(len(codes), -1, np.int64)
    parents, first_rows, texts = [], [], pa.array([], pa.large_string())
    for level in range(codes.shape[1]):
        rows = np.flatnonzero(codes[:, level] >= 0)
        keys, first, of_row = np.unique(
            (ends[rows] + 1) * len(names) + codes[rows, level], return_index=True, return_inverse=True
        )
        above, name = np.divmod(keys, len(names))
        own = names.take(pa.array(name))
        if level:
            joint = pa.scalar(separator, pa.large_string())
            own = pc.binary_join_element_wise(texts.take(pa.array(above - 1)), own, joint)
        ends[rows] = len(texts) + of_row
        parents.append(above - 1)
        first_rows.append(rows[first])
        texts = pa.concat_arrays([texts, own])
    return _Prefixes(np.concatenate(parents), texts, np.concatenate(first_rows), ends)


def _check_one_to_one(table: Table, spec: TreeSpec, own: IdColumn, prefixes: _Prefixes) -> None:
    """Raises DataError for the first id that had another path before, or path that had another id."""
    column = spec.path_column or spec.level_columns[0]
    for keys, values, is_of_id in ((own.codes, prefixes.ends, True), (prefixes.ends, own.codes, False)):
        _, first, of_row = np.unique(keys, return_index=True, return_inverse=True)
        others = np.flatnonzero(values != values[first][of_row])
        if not len(others):
            continue
        row, before = int(others[0]), int(first[of_row[others[0]]])
        here, there = (own.values[own.codes[at]] for at in (row, before))
        path, path_before = (prefixes.texts[int(prefixes.ends[at])].as_py() for at in (row, before))
        if is_of_id:
            problem = f"the path of {here} is {path} here and {path_before} in {table.row_name(before)}"
            table.fail(row, column, f"{problem}; a {spec.node} has one path; drop one of the rows")
        problem = f"the path {path} is that of {here} here and of {there} in {table.row_name(before)}"
        table.fail(row, column, f"{problem}; {_UNIQUE}")


def _ids(table: Table, spec: TreeSpec, place: str, own: IdColumn, prefixes: _Prefixes) -> np.ndarray:
    """Each node's id: that of the row whose path it ends, else its joined prefix; raises DataError for a bad one."""
    ids = np.zeros(len(prefixes.rows), own.values.dtype)
    ids[prefixes.ends] = own.values[own.codes]
    is_inner = np.ones(len(ids), bool)
    is_inner[prefixes.ends] = False
    if not is_inner.any():
        return ids
    inner = np.flatnonzero(is_inner)
    texts = prefixes.texts.take(pa.array(inner))
    if refused := refused_ids(texts):
        bad = int(np.argmax(refused[0]))
        column = spec.path_column or spec.level_columns[0]
        table.fail(int(prefixes.rows[inner[bad]]), column, refused[1].format(texts[bad].as_py()))
    joined = np.asarray(texts.to_pylist(), np.str_)
    ids = ids.astype(np.str_)
    ids = ids.astype(np.promote_types(ids.dtype, joined.dtype))
    ids[inner] = joined
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        before, row = sorted(prefixes.rows[order[twice[0] : twice[0] + 2]].tolist())
        problem = f"the id {ids[order[twice[0]]]} would be that of two nodes, of this row and on the path of"
        remedy = f"rename one of them, or set config key {place}.separator"
        table.fail(row, spec.id_column, f"{problem} {table.row_name(before)}; {remedy}")
    return ids
