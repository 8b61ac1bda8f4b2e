"""Typed features from columns of text: categories, ranges such as "24-30", dates, and vectors by row number.

What stands for "no value" differs between data sets: every function takes the texts that do, beside the empty one.
"""

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsec_jax.data.files import find_file
from lsec_jax.data.table import Table
from lsec_jax.schema import DataError, Feature

SECONDS_PER_DAY = 86400
_RANGE = re.compile(r"(\d+(?:\.\d+)?)(?:(\+)|-(\d+(?:\.\d+)?))?", re.ASCII)
_INTEGER = re.compile(r"0|-?[1-9]\d*", re.ASCII)


def vocabulary(kind: str, texts: Collection[str]) -> list[str]:
    """Sorts distinct texts into the vocabulary of a feature.

    Args:
        kind: "categorical": by number where all are plain integers, else as text; "ordinal": ranges by their lower
            ends, then by the upper ones.
        texts: of "ordinal" ones, ranges.
    """
    if kind == "ordinal":
        return sorted(texts, key=lambda text: (_ends(text), text))
    if all(_INTEGER.fullmatch(text) for text in texts):
        return sorted(texts, key=int)
    return sorted(texts)


def single_precision(table: Table, column: str, missing: Collection[str] = ()) -> np.ndarray:
    """Returns numbers, [rows] float32, NaN where there is none or it is NaN; raises DataError for other text."""
    if missing:
        table = _filled(table, column, _is_missing(table, column, missing), "")
    values = table.optional_numbers(column)
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    bad = np.flatnonzero(np.isinf(found))
    if len(bad):
        problem = f"value {values[bad[0]]} is too large for single precision; correct or drop the row"
        table.fail(int(bad[0]), column, problem)
    return found


def categories(table: Table, column: str, missing: Collection[str]) -> Feature:
    """Reads a categorical feature; its vocabulary is sorted as `vocabulary` says."""
    texts, codes = _distinct(table, column)
    return _coded("categorical", texts, codes, missing)


def ranges(table: Table, column: str, missing: Collection[str], missing_key: str = "data.missing") -> Feature:
    """Reads an ordinal feature from ranges of numbers: "0-10", "5000+" or a single number.

    "a+" has no upper end, "a" is "a-a".

    Args:
        table: with the column.
        column: its name.
        missing: texts for no value.
        missing_key: config key that has them, for errors; "" = there is none.

    Raises:
        DataError: another text, or a range that ends below its start.
    """
    texts, codes = _distinct(table, column)
    remedy = f"add it to the config key {missing_key}" if missing_key else "leave it empty"
    for code, text in enumerate(texts):
        if text and text not in missing and _ends(text) is None:
            row = int(np.flatnonzero(codes == code)[0])
            table.fail(
                row,
                column,
                f"'{text}' is not a range such as 24-30, 5000+ or 0; correct it, or, if it stands for no value, "
                f"{remedy}",
            )
    return _coded("ordinal", texts, codes, missing)


def _ends(text: str) -> tuple[float, float] | None:
    """The ends of a range, or None where the text is none."""
    found = _RANGE.fullmatch(text)
    low, high = (float(found[1]), np.inf if found[2] else float(found[3] or found[1])) if found else (1.0, 0.0)
    return (low, high) if high >= low else None


def numbers(table: Table, column: str, missing: Collection[str]) -> np.ndarray:
    """Returns numbers, [rows] float64, NaN where there is none; raises DataError for other text."""
    is_missing = _is_missing(table, column, missing)
    values = _filled(table, column, is_missing, "0").numbers(column)
    return np.where(is_missing, np.nan, values)


def days(table: Table, column: str, missing: Collection[str]) -> Feature:
    """Reads ISO 8601 dates as a numeric feature in days since 1970-01-01 UTC; raises DataError for other text."""
    if pa.types.is_large_string(table.columns[column].type):
        table = _filled(table, column, _is_missing(table, column, missing), "")
    seconds = table.optional_dates(column)
    return Feature("numeric", (seconds / SECONDS_PER_DAY).astype(np.float32))


def load_vectors(path: Path) -> np.ndarray:
    """Returns the rows of a .npy file as a read-only memory map, [n, d] floating point; raises DataError."""
    path = find_file(path)
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise DataError(f"{path}: not a complete .npy file of numbers ({reason}); copy it again") from None
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        form = f"{vectors.dtype} of shape {vectors.shape}" if isinstance(vectors, np.ndarray) else "an archive"
        raise DataError(f"{path}: {form}; expected floating-point vectors, one a row; save it with np.save")
    return vectors


def vectors_of(table: Table, column: str, vectors: np.ndarray, missing: Collection[str]) -> Feature:
    """Reads a vector feature: the column has row numbers of `vectors`; -1 is no value, too.

    Args:
        table: of n rows.
        column: of row numbers from 0.
        vectors: [v, d].
        missing: texts for no value.

    Raises:
        DataError: a number that is no row of the vectors, or a row of them that is not finite.
    """
    rows = numbers(table, column, missing)
    has_vector = ~np.isnan(rows) & (rows != -1)
    wrong = np.flatnonzero(has_vector & ~((rows >= 0) & (rows < len(vectors)) & (rows == np.floor(rows))))
    if len(wrong):
        limits = f"of the {len(vectors)} vectors, 0..{len(vectors) - 1}, and not -1 for none"
        table.fail(int(wrong[0]), column, f"{rows[wrong[0]]:g} is no row {limits}; correct the row, or the vectors")
    values = np.full((len(rows), vectors.shape[1]), np.nan, np.float32)
    with np.errstate(over="ignore"):
        values[has_vector] = vectors[rows[has_vector].astype(np.int64)]
    wrong = np.flatnonzero(has_vector & ~np.isfinite(values).all(axis=1))
    if len(wrong):
        problem = f"vector {int(rows[wrong[0]])} has values that are not finite in single precision; correct it"
        table.fail(int(wrong[0]), column, problem)
    return Feature("vector", values)


def _distinct(table: Table, column: str) -> tuple[list[str], np.ndarray]:
    """Returns a column's texts, in order of appearance, which may repeat, and each row's position, [rows] int64."""
    found, codes = table.words(column)
    return found.to_pylist(), codes.to_numpy().astype(np.int64)


def _coded(kind: str, texts: list[str], codes: np.ndarray, missing: Collection[str]) -> Feature:
    """Codes into the sorted vocabulary."""
    found = vocabulary(kind, {text for text in texts if text and text not in missing})
    position = {text: code for code, text in enumerate(found)}
    return Feature(kind, np.array([position.get(text, -1) for text in texts], np.int32)[codes], tuple(found))


def _is_missing(table: Table, column: str, missing: Collection[str]) -> np.ndarray:
    values = pa.array(["", *missing], pa.large_string())
    return pc.is_in(table.texts(column), value_set=values).to_numpy(zero_copy_only=False)


def _filled(table: Table, column: str, is_missing: np.ndarray, text: str) -> Table:
    """The table with a text in place of missing values, so that the others keep their rows for messages."""
    filled = pc.if_else(pa.array(is_missing), pa.scalar(text, pa.large_string()), table.texts(column))
    return dataclasses.replace(table, columns={**table.columns, column: filled})
