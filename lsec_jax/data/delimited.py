"""Splitting text into columns: quotes, the first record, and what is wrong with a text that cannot be split.

A value in quotes may hold delimiters, line breaks and doubled quotes. A quote within a value that does not begin with
one is a character like others. Formats that are written without quotes are read with `has_quotes=False`: there every
quote is such a character, and names and values that another program has put in quotes are refused where they are used.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.csv

from lsec_jax.data import files
from lsec_jax.schema import DataError

QUOTE = b'"'
USUAL_BLOCK_BYTES = 1 << 20  # Arrow's default: the longest row that it reads in parallel
MAX_ROW_BYTES = 1 << 26
QUOTED = r'(?s)\A".*"\z'  # for Arrow


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a text is split into columns.

    Attributes:
        delimiter: between the columns.
        has_quotes: whether values may be in quotes.
        width: the number of columns that every row must have.
        skip: the number of lines before the first row.
        row_word: what the numbers of rows count: "line", or "record" where quoted values hold line breaks.
        first_line: number of the text's first line in its file, 1-based.
        expected: what the file must look like, for errors; "" where the config decides it.
    """

    delimiter: str
    has_quotes: bool
    width: int
    skip: int
    row_word: str
    first_line: int = 1
    expected: str = ""


def header_of(path: Path, delimiter: str, *, has_quotes: bool) -> list[str]:
    """Returns the names in a text file's first record; raises DataError as `check_quotes`."""
    data = files.read_text(path)
    check_quotes(path, data, delimiter, has_quotes)
    return split_first_record(path, data, delimiter, has_quotes)[0]


def check_quotes(path: Path, data: bytes, delimiter: str, has_quotes: bool, first_line: int = 1) -> int:
    """Refuses quotes that would make rows disappear in a value without Arrow's noticing.

    Args:
        path: named in errors.
        data: whole lines of text.
        delimiter: between the columns.
        has_quotes: whether values may be in quotes.
        first_line: number of the text's first line in its file.

    Returns:
        The number of line breaks inside quoted values; 0 without `has_quotes`.

    Raises:
        DataError: a value begins with a quote that does not close at its end; without `has_quotes`, a value in quotes
            with a line break, which another program would read as one row and we as two.
    """
    if QUOTE not in data:
        return 0
    num_line_breaks = 0
    mark = re.escape(delimiter.encode())
    # A quote at the start of a value, the value, and the closing quote if the value ends there.
    pattern = rb'"(?:(?<=[%b\n]")|(?<=\A"))[^"]*+(?:""[^"]*+)*+("(?=[%b\r\n]))?' % (mark, mark)
    for value in re.finditer(pattern, data):
        is_closed, breaks = value[1] is not None, value[0].count(files.NEWLINE)
        num_line_breaks += breaks
        is_wrong = not is_closed if has_quotes else is_closed and breaks > 0
        if not is_wrong:
            continue
        place = f"{path}, line {data.count(files.NEWLINE, 0, value.start()) + first_line}"
        shown = files.quote(value[0][:100].split(files.NEWLINE)[0])
        if has_quotes:
            raise DataError(
                f"{place}: a quote begins a value and does not close at its end ({shown}); close it there, or, if it "
                'belongs to the value, put the value in quotes and double its own: """5 inch"" tape"'
            )
        raise DataError(
            f"{place}: a value in quotes with a line break in it ({shown}); this format has no quotes; take the line "
            "break out, or, if the rows are right, the quote"
        )
    return num_line_breaks if has_quotes else 0


def split_first_record(path: Path, data: bytes, delimiter: str, has_quotes: bool) -> tuple[list[str], int]:
    """Returns the fields of the first record of checked text, and how many lines it takes; raises DataError."""
    lines = io.TextIOWrapper(io.BytesIO(data), "utf-8", errors="replace", newline="\n")
    if not has_quotes:
        names = [name.strip() for name in next(lines).split(delimiter)]
        if names == [""]:
            raise DataError(f"{path}, line 1: a blank line; remove it")
        if quoted := [name for name in names if len(name) > 1 and name[0] == name[-1] == '"']:
            raise DataError(
                f"{path}, line 1: the name {quoted[0]} is in quotes, which this format does not have; write it without"
            )
        return names, 1
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        return [name.strip() for name in next(reader) or [""]], reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{path}, line 1: cannot be split into columns ({error}); check its quotes and the delimiter {delimiter!r}"
        ) from None


def read_columns(path: Path, data: bytes, layout: Layout, positions: Sequence[int]) -> dict[int, pa.Array]:
    """Reads some columns of checked text.

    Args:
        path: named in errors.
        data: as `files.read_text` returns it, after `check_quotes`.
        layout: of the text.
        positions: of the columns, from 0.

    Returns:
        Arrow large strings of equal length by position.

    Raises:
        DataError: a row with missing or extra fields or of more than MAX_ROW_BYTES, text that is not UTF-8, or, without
            quotes, a blank line.
    """
    # Arrow takes a blank line for a row of empty values, which shifts row numbers where no value is used.
    if not layout.has_quotes and (blank := re.search(rb"\n\r?\n", data)):
        line = data.count(files.NEWLINE, 0, blank.start()) + 1 + layout.first_line
        raise DataError(f"{path}, line {line}: a blank line; remove it")
    wanted = [f"f{position}" for position in dict.fromkeys(positions)]
    parsing = dict(
        delimiter=layout.delimiter,
        quote_char='"' if layout.has_quotes else False,
        ignore_empty_lines=False,
        newlines_in_values=layout.has_quotes and QUOTE in data,
    )
    converting = pa.csv.ConvertOptions(
        include_columns=wanted, column_types={name: pa.large_string() for name in wanted}, strings_can_be_null=False
    )
    reading = dict(column_names=[f"f{i}" for i in range(layout.width)], skip_rows=layout.skip)
    for block_bytes in (USUAL_BLOCK_BYTES, MAX_ROW_BYTES):
        try:
            table = pa.csv.read_csv(
                io.BytesIO(data),
                read_options=pa.csv.ReadOptions(block_size=block_bytes, **reading),
                parse_options=pa.csv.ParseOptions(**parsing),
                convert_options=converting,
            )
            return {position: table.column(f"f{position}").combine_chunks() for position in positions}
        except pa.ArrowInvalid as error:
            problem = str(error)
            if "block size" not in problem:
                break
    _explain_malformed(path, data, layout, parsing, reading, problem)


def _explain_malformed(path: Path, data: bytes, layout: Layout, parsing: dict, reading: dict, problem: str) -> NoReturn:
    """Raises the DataError for a text that Arrow refused: finds the row by reading again on one thread."""
    if "block size" in problem:
        raise DataError(
            f"{path}: a row is longer than {MAX_ROW_BYTES >> 20} MiB; check the file's line ends and quotes, and "
            "correct or drop the row"
        ) from None
    # Before the second reading, whose handler could not be given a row that is no text.
    files.check_utf_8(path, data, layout.first_line)
    found: list[str] = []
    skip, row_word = layout.skip, layout.row_word

    def stop(row: pa.csv.InvalidRow) -> str:
        # Arrow counts the skipped lines; as records, they are the header.
        number = row.number - skip + min(skip, 1) if row_word == "record" else row.number + layout.first_line - 1
        found.append(
            f"{row_word} {number}: malformed row: {row.actual_columns} fields, expected {layout.width} "
            f"({files.quote(row.text)})"
        )
        return "error"

    try:
        pa.csv.read_csv(
            io.BytesIO(data),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=MAX_ROW_BYTES, **reading),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=stop, **parsing),
        )
    except pa.ArrowInvalid:
        pass
    if found:
        remedy = f"; {layout.expected}" if layout.expected else f", and check the delimiter {layout.delimiter!r}"
        raise DataError(f"{path}, {found[0]}; correct or drop the {row_word}{remedy}") from None
    raise DataError(
        f"{path}: cannot be parsed ({problem}); check quotes and the delimiter {layout.delimiter!r}"
    ) from None


def delimiter_hint(first: Sequence[str], delimiter: str, delimiter_key: str) -> str:
    """Returns the remedy for a first record of one field that holds another usual delimiter, else ""."""
    found = [mark for mark in ";\t|," if mark in first[0] and mark != delimiter]
    if len(first) > 1 or not found:
        return ""
    hint = f"; if {found[0]!r} separates the columns and not {delimiter!r}, write the file with {delimiter!r}"
    on_command_line = "$'\\t'" if found[0] == "\t" else f"'{found[0]}'"
    return hint + (f", or set the delimiter (--config.{delimiter_key}={on_command_line})" if delimiter_key else "")
