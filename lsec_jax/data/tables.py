"""Reading columns of CSV, TSV and Parquet files, whole or in blocks: which format, which columns, which header.

`table` converts what was read, `files` has the rules for whole files, `delimited` those for quotes.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lsec_jax.data import delimited, files
from lsec_jax.data.columns import BLOCK_ROWS
from lsec_jax.data.table import Table
from lsec_jax.schema import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
PARQUET_SUFFIXES = (".parquet", ".pq")
_PARQUET_TYPES = (
    *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_timestamp, pa.types.is_date),
)
_BLOCK_BYTES = 2**24  # of text


def read_table(
    path: Path,
    columns: Sequence[str | int],
    *,
    delimiter: str = "",
    file_format: str = "",
    column_names: Sequence[str] = (),
    has_quotes: bool = True,
    delimiter_key: str = "",
    expected: str = "",
) -> Table:
    """Reads some columns of a CSV, TSV (also .gz) or Parquet file.

    Args:
        path: file; its .gz neighbour is taken where only that exists.
        columns: names, or 0-based positions.
        delimiter: of text files; "" = from the extension.
        file_format: "text" or "parquet"; "" = from the extension.
        column_names: names of the columns of a text file without header; () = the first record is the header.
        has_quotes: whether values of a text file may be in quotes; without, a quote is a character like others.
        delimiter_key: config key that sets the delimiter, for errors; "" = none does.
        expected: what a text file of a fixed format must look like, for errors, e.g. "a line is 'user<tab>item'"; "" =
            the config decides it, and errors name its keys.

    Raises:
        DataError: missing, empty, cut or malformed file, or a column that it does not have.
    """
    return next(
        _blocks(path, columns, delimiter, file_format, column_names, has_quotes, delimiter_key, expected, is_whole=True)
    )


def column_names(path: Path, expected: str = "") -> list[str]:
    """Returns the names in the header of a text file, or of a Parquet file's columns, as `read_table` reads them.

    Args:
        path: file; its .gz neighbour is taken where only that exists.
        expected: as of `read_table`.

    Raises:
        DataError: missing, empty or damaged file, or an unknown extension.
    """
    path = files.find_file(path)
    suffix = _suffix(path)
    if suffix not in PARQUET_SUFFIXES:
        delimiter = _delimiter(path, suffix)
        data = next(files.text_blocks(path, _if_empty(expected), _BLOCK_BYTES)).data
        return delimited.split_first_record(path, data, delimiter, has_quotes=True)[0]
    _check_not_empty(path)
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_parquet(path, error) from None


def read_blocks(
    path: Path,
    columns: Sequence[str | int],
    *,
    delimiter: str = "",
    file_format: str = "",
    column_names: Sequence[str] = (),
    delimiter_key: str = "",
) -> Iterator[Table]:
    """Reads some columns of a file that may be larger than memory, as `read_table`, in blocks of rows.

    Quoted values of text files may have no line breaks here.
    """
    return _blocks(path, columns, delimiter, file_format, column_names, True, delimiter_key, "", is_whole=False)


def _blocks(
    path: Path,
    columns: Sequence[str | int],
    delimiter: str,
    file_format: str,
    column_names: Sequence[str],
    has_quotes: bool,
    delimiter_key: str,
    expected: str,
    is_whole: bool,
) -> Iterator[Table]:
    path = files.find_file(path)
    suffix = _suffix(path)
    if file_format not in ("", "text", "parquet"):
        raise DataError(f"{path}: unknown format '{file_format}'; valid: text, parquet, '' (from the extension)")
    if file_format == "parquet" or (not file_format and suffix in PARQUET_SUFFIXES):
        return _parquet_blocks(path, columns, None if is_whole else BLOCK_ROWS)
    delimiter = delimiter or _delimiter(path, suffix)
    block_bytes = None if is_whole else _BLOCK_BYTES
    names = list(column_names)
    return _delimited_blocks(path, columns, delimiter, names, has_quotes, delimiter_key, expected, block_bytes)


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _delimiter(path: Path, suffix: str) -> str:
    if suffix not in DELIMITERS:
        known = ", ".join((*DELIMITERS, *PARQUET_SUFFIXES))
        raise DataError(f"{path}: cannot tell the format from '{suffix}' (known: {known}); set delimiter or format")
    return DELIMITERS[suffix]


def _if_empty(expected: str) -> str:
    return f"write or copy it again; {expected}" if expected else "write it again, or take it out of the config"


def _delimited_blocks(
    path: Path,
    columns: Sequence[str | int],
    delimiter: str,
    names: list[str],
    has_quotes: bool,
    delimiter_key: str,
    expected: str,
    block_bytes: int | None,
) -> Iterator[Table]:
    positions: list[int] = []
    skip, is_empty = 0, True
    for block in files.text_blocks(path, _if_empty(expected), block_bytes):
        data, first_line = block.data, block.first_line
        num_line_breaks = delimited.check_quotes(path, data, delimiter, has_quotes, first_line)
        if first_line == 1:
            names, positions, skip = _header(path, columns, data, delimiter, names, has_quotes, delimiter_key, expected)
            if skip:
                num_line_breaks -= skip - 1  # those of the header
        if data.count(files.NEWLINE) == skip:
            skip = 0
            continue  # the header, and no rows
        is_empty = False
        if num_line_breaks and block_bytes is not None:
            raise DataError(
                f"{path}: quoted values with line breaks, which files that are read in blocks may not have; take the "
                "line breaks out, or write the file as Parquet"
            )
        row_word, first_row = ("record", 1 + min(skip, 1)) if num_line_breaks else ("line", first_line + skip)
        layout = delimited.Layout(delimiter, has_quotes, len(names), skip, row_word, first_line, expected)
        arrays = delimited.read_columns(path, data, layout, positions)
        by_column = {column: arrays[position] for column, position in zip(columns, positions, strict=True)}
        refuses_quotes = not has_quotes and delimited.QUOTE in data
        yield Table(path, by_column, first_row, row_word, num_line_breaks, refuses_quotes, share=block.share)
        skip = 0
    if is_empty:
        remedy = "write or copy it again" if expected else "write it again or remove it"
        raise DataError(f"{path}: empty table: a header ({_listed(names)}) and no rows; {remedy}")


def _header(
    path: Path,
    columns: Sequence[str | int],
    data: bytes,
    delimiter: str,
    names: list[str],
    has_quotes: bool,
    delimiter_key: str,
    expected: str,
) -> tuple[list[str], list[int], int]:
    """Returns the names of a file's columns, the positions of those that are read, and the number of header lines."""
    first, num_lines = delimited.split_first_record(path, data, delimiter, has_quotes)
    skip = 0 if names else num_lines
    hint = delimited.delimiter_hint(first, delimiter, delimiter_key) + (f"; {expected}" if expected else "")
    if names:
        line = data[: data.index(files.NEWLINE)].rstrip(b"\r")
        _check_first(f"{path}, line 1", line, first, names, hint, bool(expected))
    elif not expected and all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in first):
        hint += "; if the first line is data and not a header, set column_names"
    names = names or first
    return names, [_position(path, names, column, hint) for column in columns], skip


def _check_first(
    place: str, line: bytes, first: list[str], names: list[str], hint: str, has_fixed_format: bool
) -> None:
    """Refuses a first record of a file without header that has not one field for each name, or is the names."""
    if len(names) != len(first):
        if has_fixed_format:
            raise DataError(f"{place}: {len(first)} fields ({files.quote(line)}), expected {len(names)}{hint}")
        raise DataError(f"{place}: {len(first)} fields, but column_names has {len(names)}: {_listed(names)}{hint}")
    if names == first:
        if has_fixed_format:
            raise DataError(f"{place}: a header ({files.quote(line)}), which this format does not have; remove it")
        raise DataError(
            f"{place}: the first line is column_names ({_listed(names)}), so the file has a header; leave column_names "
            "out"
        )


def _parquet_blocks(path: Path, columns: Sequence[str | int], block_rows: int | None) -> Iterator[Table]:
    _check_not_empty(path)
    first_row = 1
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            positions = [_position(path, names, column) for column in columns]
            wanted = [names[position] for position in dict.fromkeys(positions)]
            for name in wanted:
                _check_type(path, name, file.schema_arrow.field(name).type)
            if block_rows is None:
                parts: Iterable[pa.Table] = [file.read(columns=wanted)]
            else:
                parts = (pa.table(batch) for batch in file.iter_batches(block_rows, columns=wanted))
            for table in parts:
                if len(table):
                    arrays = _arrays(table, columns, [names[at] for at in positions])
                    for name, array in arrays.items():
                        _check_utf_8(path, name, array, first_row)
                    yield Table(path, arrays, first_row, "row", share=len(table) / file.metadata.num_rows)
                    first_row += len(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_parquet(path, error) from None
    if first_row == 1:
        raise DataError(f"{path}: empty table: no rows; write it again, or take it out of the config")


def _check_not_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty file; write it again, or take it out of the config")


def _not_parquet(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a complete Parquet file, it may be cut ({reason}); copy it again")


def _check_type(path: Path, name: str, kind: pa.DataType) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_of(kind) for is_of in _PARQUET_TYPES):
        raise DataError(
            f"{path}: column '{name}' is of type {kind}; store text, numbers, booleans or dates, or name another column"
        )


def _check_utf_8(path: Path, name: str | int, array: pa.Array, first_row: int) -> None:
    """Raises DataError for the first text that is not UTF-8, found by bisection."""
    low, high = 0, len(array)
    if not pa.types.is_large_string(array.type) or _is_utf_8(array):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _is_utf_8(array[low:middle]) else (low, middle)
    raise DataError(f"{path}, row {first_row + low}, column '{name}': not UTF-8 text; write the file again in UTF-8")


def _is_utf_8(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _arrays(table: pa.Table, columns: Sequence[str | int], names: Sequence[str]) -> dict[str | int, pa.Array]:
    arrays: dict[str | int, pa.Array] = {}
    for column, name in zip(columns, names, strict=True):
        array = table.column(name)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_string(array.type) or pa.types.is_string_view(array.type):
            array = array.cast(pa.large_string())
        if pa.types.is_float16(array.type):
            array = array.cast(pa.float32())
        arrays[column] = array.combine_chunks()
    return arrays


def _position(path: Path, names: Sequence[str], column: str | int, hint: str = "") -> int:
    if isinstance(column, int):
        if column >= len(names):
            raise DataError(f"{path}: no column {column + 1}; it has {len(names)}: {_listed(names)}")
        return column
    if list(names).count(column) > 1:
        raise DataError(f"{path}: column '{column}' occurs twice in the header ({_listed(names)}); rename one")
    if column in names:
        return list(names).index(column)
    hint = _listed([files.suggestion(column, names)]) + hint
    raise DataError(f"{path}: no column '{column}'{hint}; it has: {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    """Returns names for an error, which is one line also where names have line breaks."""
    return ", ".join(names).replace("\n", "\\n")
