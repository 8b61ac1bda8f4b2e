"""The columns of one file as they were read, and their conversion, with errors that name file, line, column, remedy.

Text is read as text and converted here, column by column, so that every refused value has a place. Rules: spaces
around a value do not count; blank lines are refused; a column of ids is a column of integers when every value is a
plain decimal integer ("7", not "007"), else of strings.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsec_jax.data import delimited, files
from lsec_jax.data.ids import IdColumn, refused_ids, refused_words
from lsec_jax.schema import DataError

_NO_DATE = "1970-01-01"
DATE_EXAMPLES = "such as 2021-05-01 or 2021-05-01T20:15:00"
LOOKS_LIKE_DATE = re.compile(r"\s*\d{4}-\d")
# A time of day and then a zone; the date's own "-01" is none.
ZONED = r"[T ][0-9:.]+(?:Z|[+-][0-9:]+)$"


class ColumnError(DataError):
    """A column that is wrong as a whole, whatever its rows: its type cannot hold what is expected."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The chosen columns of one file, not yet converted.

    Attributes:
        path: of the file.
        columns: Arrow arrays of equal length, by name (by position where the file was read by position).
        first_line: number of the first data row in the file, 1-based.
        line_word: what a row's number counts: "line", or "record" where quoted values hold line breaks, or "row".
        num_line_breaks: inside quoted values of the rows.
        refuses_quotes: whether values that are used must not be in quotes.
        rows: which of the rows that were read these are, 0-based, or None: all of them.
        share: which share of the file was read.
    """

    path: Path
    columns: Mapping[str | int, pa.Array]
    first_line: int
    line_word: str
    num_line_breaks: int = 0
    refuses_quotes: bool = False
    rows: np.ndarray | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def fail(self, row: int, column: str | int, problem: str) -> NoReturn:
        """Raises DataError for a 0-based data row, naming file, line and column."""
        name = f"column '{column}'" if isinstance(column, str) else f"column {column + 1}"
        raise DataError(f"{self.path}, {self.row_name(row)}, {name}: {problem}")

    def row_name(self, row: int) -> str:
        """Returns where a 0-based data row is in the file, e.g. "line 3"."""
        return f"{self.line_word} {self.first_line + (row if self.rows is None else int(self.rows[row]))}"

    def fail_column(self, column: str | int, problem: str) -> NoReturn:
        """Raises ColumnError, naming file and column."""
        name = f"column '{column}'" if isinstance(column, str) else f"column {column + 1}"
        raise ColumnError(f"{self.path}, {name}: {problem}")

    def only(self, columns: Iterable[str | int]) -> "Table":
        """Returns the same rows of some columns."""
        return dataclasses.replace(self, columns={column: self.columns[column] for column in columns})

    def take(self, rows: np.ndarray) -> "Table":
        """Returns some rows, by position [k]; errors in them keep their places in the file."""
        columns = {name: array.take(pa.array(rows)) for name, array in self.columns.items()}
        return dataclasses.replace(self, columns=columns, rows=rows if self.rows is None else self.rows[rows])

    def ids(self, column: str | int) -> IdColumn:
        """Returns external ids: int64 if all are plain non-negative integers, else strings. Raises DataError."""
        array = self.columns[column]
        if pa.types.is_integer(array.type):
            encoded = _filled(self, column, array, "an id").dictionary_encode()
            values = _to_int64(encoded.dictionary)
        elif pa.types.is_large_string(array.type):
            encoded = _filled(self, column, pc.utf8_trim_whitespace(array), "an id").dictionary_encode()
            values = _plain_integers(encoded.dictionary)
        else:
            self.fail_column(column, f"type {array.type} cannot hold ids; store them as integers or text")
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        dictionary = encoded.dictionary
        if values is None:
            dictionary = dictionary.cast(pa.large_string())  # also integers beyond int64
        if refused := refused_ids(dictionary if values is None else values):
            row = int(np.flatnonzero(refused[0][codes])[0])
            self.fail(row, column, refused[1].format(dictionary[int(codes[row])].as_py()))
        return IdColumn(np.asarray(dictionary.to_pylist(), np.str_) if values is None else values, codes)

    def unique_ids(self, column: str | int) -> np.ndarray:
        """Returns external ids that may not repeat, [rows] int64 or str; raises DataError."""
        ids = self.ids(column)
        self._check_unique(column, ids.codes)
        return ids.values[ids.codes]

    def unique_integers(self, column: str | int) -> np.ndarray:
        """Returns integers >= 0 that may not repeat, [rows] int64; raises DataError."""
        values = self.integers(column)
        self._check_unique(column, values)
        return values

    def integers(self, column: str | int, upper: int | None = None, upper_reason: str = "") -> np.ndarray:
        """Returns integers in 0..upper-1, [rows] int64; raises DataError, ending in `upper_reason` past the bound."""
        values = self._cast(column, pa.int64(), "an integer >= 0")
        bad = np.flatnonzero(values < 0)
        if len(bad):
            self.fail(
                int(bad[0]), column, f"negative value {values[bad[0]]}; expected an integer >= 0; correct the row"
            )
        if upper is not None and len(bad := np.flatnonzero(values >= upper)):
            self.fail(int(bad[0]), column, f"{values[bad[0]]} is out of range 0..{upper - 1}{upper_reason}")
        return values

    def numbers(self, column: str | int, expected: str = "a number") -> np.ndarray:
        """Returns finite numbers, [rows] float64; raises DataError, which says what was `expected`."""
        if pa.types.is_boolean(self.columns[column].type):
            self.fail_column(column, f"type bool where {expected} is expected; store numbers, or name another column")
        values = self._cast(column, pa.float64(), expected)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            self.fail(int(bad[0]), column, f"value {values[bad[0]]}; expected a finite number; correct or drop the row")
        return values

    def weights(self, column: str | int) -> np.ndarray:
        """Returns finite weights > 0, [rows] float32; raises DataError."""
        values = self.numbers(column)
        with np.errstate(over="ignore"):
            weights = values.astype(np.float32)
        bad = np.flatnonzero(~((weights > 0) & np.isfinite(weights)))
        if len(bad):
            self.fail(
                int(bad[0]),
                column,
                f"weight {values[bad[0]]}; weights must be finite and > 0 in single precision; correct or drop the row",
            )
        return weights

    def labels(self, column: str | int) -> np.ndarray:
        """Returns 0/1 labels, [rows] bool; raises DataError."""
        values = self._cast(column, pa.float64(), "a label, 0 or 1")
        bad = np.flatnonzero((values != 0) & (values != 1))
        if len(bad):
            self.fail(int(bad[0]), column, f"label {values[bad[0]]:g}; labels must be 0 or 1; correct or drop the row")
        return values == 1

    def optional_times(self, column: str | int, missing: float, has_dates: bool | None) -> np.ndarray:
        """Returns `times` with `missing` where the value is empty, [rows] float64; `has_dates` as its method says."""
        is_empty, filled = self._without_empty(column, _NO_DATE if has_dates else "0")
        if filled is None:
            return np.full(len(self), missing)
        return np.where(is_empty, missing, filled.times(column, has_dates)[0])

    def optional_dates(self, column: str | int) -> np.ndarray:
        """Returns `dates`, NaN where the value is empty, [rows] float64; raises DataError."""
        is_empty, filled = self._without_empty(column, _NO_DATE)
        return np.full(len(self), np.nan) if filled is None else np.where(is_empty, np.nan, filled.dates(column))

    def optional_numbers(self, column: str | int) -> np.ndarray:
        """Returns `numbers`, NaN where the value is empty or NaN, [rows] float64; raises DataError."""
        is_empty, filled = self._without_empty(column)
        if filled is None:
            return np.full(len(self), np.nan)
        values = np.where(is_empty, np.nan, filled._cast(column, pa.float64(), "a number, or empty"))
        bad = np.flatnonzero(np.isinf(values))
        if len(bad):
            self.fail(int(bad[0]), column, f"value {values[bad[0]]}; expected a finite number; correct or drop the row")
        return values

    def optional_ids(self, column: str | int) -> tuple[IdColumn, np.ndarray]:
        """Returns `ids`, and where the value is empty and the id is some other row's, [rows] bool."""
        is_empty, filled = self._without_empty(column)
        if filled is None:
            return IdColumn(np.zeros(1, np.int64), np.zeros(len(self), np.int64)), is_empty
        return filled.ids(column), is_empty

    def texts(self, column: str | int) -> pa.Array:
        """Returns each row's word, [rows] Arrow large string; raises as `words`."""
        found, codes = self.words(column)
        return found.take(codes)

    def words(self, column: str | int) -> tuple[pa.Array, pa.Array]:
        """Returns the values as text without spaces around it, and each row's position among them.

        Returns:
            [v] Arrow large strings, which may repeat, "" for no value (null, NaN, blank); and positions, [rows] int32.

        Raises:
            DataError: a text that is too long, or has control characters.
        """
        array = self.columns[column]
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), None, array)
        encoded = array.dictionary_encode(null_encoding="encode")
        found = pc.utf8_trim_whitespace(pc.fill_null(encoded.dictionary.cast(pa.large_string()), ""))
        if refused := refused_words(found):
            row = int(np.flatnonzero(refused[0][encoded.indices.to_numpy()])[0])
            self.fail(row, column, refused[1].format(found[encoded.indices[row].as_py()].as_py()))
        return found, encoded.indices

    def _without_empty(self, column: str | int, text: str = "0") -> tuple[np.ndarray, "Table | None"]:
        """Returns which values are empty, and the table with zeros, or a text, there; None where all are empty.

        Filled and not dropped, so that the others keep their rows for messages.
        """
        array = self.columns[column]
        is_empty = _is_empty(array)
        mask = is_empty.to_numpy(zero_copy_only=False)
        if mask.all() or not mask.any():
            return mask, None if mask.all() else self
        filler: Any = array[int(np.argmin(mask))]
        if pa.types.is_large_string(array.type):
            filler = pa.scalar(text, array.type)
        elif not pa.types.is_boolean(array.type):
            filler = pa.scalar(0, array.type)
        return mask, dataclasses.replace(self, columns={**self.columns, column: pc.if_else(is_empty, filler, array)})

    def has_dates(self, column: str | int) -> bool | None:
        """Whether times are dates: by their type, or as most of the texts look; None where all are empty."""
        array = self.columns[column]
        if not pa.types.is_large_string(array.type):
            return None if array.null_count == len(array) else _is_date_type(array.type)
        num_texts = len(array) - pc.sum(_is_empty(array)).as_py()
        num_dates = pc.sum(pc.match_substring_regex(array, rf"\A{LOOKS_LIKE_DATE.pattern}")).as_py() or 0
        return 2 * num_dates >= num_texts if num_texts else None

    def times(self, column: str | int, has_dates: bool | None = None) -> tuple[np.ndarray, bool]:
        """Returns times >= 0; raises DataError.

        Args:
            column: of numbers, or of dates.
            has_dates: which of both, e.g. as another block of the file has them; None = as the first value.

        Returns:
            ([rows] float64, whether they are dates, then in seconds since 1970 UTC).
        """
        array = self.columns[column]
        if has_dates is None:
            is_text = pa.types.is_large_string(array.type)
            has_dates = bool(LOOKS_LIKE_DATE.match(array[0].as_py() or "")) if is_text else _is_date_type(array.type)
        expected = f"a number, and dates must all be ISO 8601 {DATE_EXAMPLES}"
        values = self.dates(column) if has_dates else self.numbers(column, expected)
        bad = np.flatnonzero(values < 0)
        if len(bad):
            self.fail(int(bad[0]), column, f"negative time {self.columns[column][bad[0]]}; times must be >= 0")
        return values, has_dates

    def dates(self, column: str | int) -> np.ndarray:
        """Returns ISO 8601 dates, or those of Parquet, in seconds since 1970 UTC, [rows] float64; raises DataError."""
        array = self.columns[column]
        if _is_date_type(array.type):
            stamps = _filled(self, column, array, "a time").cast(pa.timestamp("us"), safe=False)
        elif pa.types.is_large_string(array.type):
            text = _filled(self, column, pc.utf8_trim_whitespace(array), "a time")
            stamps = self._checked(column, text, parse_dates, f"an ISO 8601 date {DATE_EXAMPLES}")
        else:
            self.fail_column(column, f"type {array.type} where dates are expected; store dates, or name another column")
        return stamps.cast(pa.int64()).to_numpy() / 1e6

    def _check_unique(self, column: str | int, keys: np.ndarray) -> None:
        """Raises DataError for the first row whose integer key, one for each id, was there before."""
        first_rows = np.unique(keys, return_index=True)[1]
        if len(first_rows) < len(keys):
            is_first = np.zeros(len(keys), bool)
            is_first[first_rows] = True
            row = int(np.flatnonzero(~is_first)[0])
            self.fail(row, column, f"id {str(self.columns[column][row]).strip()} occurs twice; ids must be unique")

    def _cast(self, column: str | int, kind: pa.DataType, expected: str) -> np.ndarray:
        array = self.columns[column]
        if pa.types.is_large_string(array.type):
            array = pc.utf8_trim_whitespace(array)
        elif _is_date_type(array.type):
            self.fail_column(column, f"type {array.type} where {expected} is expected; name another column")
        array = _filled(self, column, array, expected)
        # Integers beyond double precision are rounded, as text is.
        is_safe = not (pa.types.is_integer(array.type) and pa.types.is_floating(kind))
        return self._checked(column, array, lambda part: part.cast(kind, safe=is_safe), expected).to_numpy(
            zero_copy_only=False
        )

    def _checked(self, column: str | int, array: pa.Array, convert: Callable, expected: str) -> pa.Array:
        """Converts, or names the first value that cannot be converted (found by bisection over prefixes)."""
        try:
            return convert(array)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            low, high = 0, len(array)  # convert(array[:low]) works, convert(array[:high]) fails
        while high - low > 1:
            middle = (low + high) // 2
            try:
                convert(array[low:middle])
                low = middle
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                high = middle
        self.fail(low, column, f"'{array[low]}' is not {expected}; correct or drop the row")


def _filled(table: Table, column: str | int, array: pa.Array, expected: str) -> pa.Array:
    """Returns the array, or raises DataError where it has a null, an empty text, or a quoted one that is refused."""
    row = pc.index(_is_empty(array), True).as_py()
    if row >= 0:
        table.fail(row, column, f"empty value where {expected} is expected; fill it in or drop the row")
    if table.refuses_quotes:
        row = pc.index(pc.match_substring_regex(array, delimited.QUOTED), True).as_py()
        if row >= 0:
            value = files.quote(array[row].as_py())
            table.fail(row, column, f"value {value} is in quotes, which this format does not have; write it without")
    return array


def _is_date_type(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _is_empty(array: pa.Array) -> pa.Array:
    """Whether each value is a null or a blank text, [rows] Arrow bool."""
    if not pa.types.is_large_string(array.type):
        return pc.is_null(array)
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), True)


def _to_int64(array: pa.Array) -> np.ndarray | None:
    try:
        return array.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None


def _plain_integers(array: pa.Array) -> np.ndarray | None:
    """Returns int64 if every text is an integer as Python would print it, else None."""
    values = _to_int64(array)
    return values if values is not None and pa.array(values).cast(pa.large_string()).equals(array) else None


def parse_dates(array: pa.Array) -> pa.Array:
    """Reads ISO 8601 text as microseconds, without a zone; raises pa.ArrowInvalid where it is none.

    Dates without a zone count as UTC, also among dates with one.
    """
    try:
        return array.cast(pa.timestamp("us"))  # no date has a zone
    except pa.ArrowInvalid:
        is_zoned, nothing = pc.match_substring_regex(array, ZONED), pa.scalar(None, pa.large_string())
        zoned = pc.if_else(is_zoned, array, nothing).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
        return pc.coalesce(zoned, pc.if_else(is_zoned, nothing, array).cast(pa.timestamp("us")))
