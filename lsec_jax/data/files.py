"""Finding data files and reading their text whole; what is damaged or of another kind is refused with a remedy. JSON.

Rules for text: UTF-8, with or without a byte order mark; lines end in a line feed, with or without a carriage return
before it; the last one too, else it may be cut.
"""

import contextlib
import dataclasses
import difflib
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lsec_jax.schema import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")  # UTF-32, little endian, begins like the first
NEWLINE = b"\n"
_LONE_CARRIAGE_RETURN = re.compile(rb"\r(?!\n)")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expand_path(path: str | os.PathLike) -> Path:
    """Expands `~`, `${VARIABLE}` and `$VARIABLE`; a `$` before anything but a variable's name stays as it is.

    Raises:
        DataError: a variable is not set, or the path is empty.
    """

    def value_of(variable: re.Match[str]) -> str:
        name = variable[1] or variable[2]
        if name not in os.environ:
            raise DataError(
                f"path '{path}': the environment variable {name} is not set; "
                f"set it (export {name}=DIR), or pass --config.data.path=DIR"
            )
        return os.environ[name]

    expanded = _VARIABLE.sub(value_of, os.path.expanduser(os.fspath(path)))
    if not expanded:
        raise DataError("no data path was given; pass --config.data.path=DIR")
    return Path(expanded)


def find_file(path: Path) -> Path:
    """Returns `path`, or its .gz neighbour (or the plain file of a .gz path); raises DataError where neither exists."""
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    try:
        for candidate in (path, other):
            if candidate.is_file():
                return candidate
        if path.is_dir():
            raise DataError(f"{path}: is a directory; name a file in it")
        if not path.parent.is_dir():
            raise DataError(f"{path}: missing file; there is no directory {path.parent}; check the path")
        there = sorted(entry.name for entry in path.parent.iterdir())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be looked for ({error.strerror}); correct its name, or the permissions of its directory"
        ) from None
    listed = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
    raise DataError(f"{path}: missing file{suggestion(path.name, there)}; the directory has: {listed or 'nothing'}")


def read_bytes(path: Path) -> bytes:
    """Reads a whole file, unpacking .gz; raises DataError where it is missing, cannot be read or cannot be unpacked."""
    return next(_line_blocks(find_file(path), None))[0]


def read_text(path: Path, if_empty: str = "write it again, or take it out of the config") -> bytes:
    """Reads a whole text file, unpacking .gz, without its byte order mark.

    Args:
        path: of the file.
        if_empty: the remedy for an empty file.

    Raises:
        DataError: it is missing, empty, cut, not text, in UTF-16, or has carriage returns without a line feed.
    """
    return next(text_blocks(path, if_empty)).data


@dataclasses.dataclass(frozen=True)
class TextBlock:
    """Whole lines of a text file.

    Attributes:
        data: the text.
        first_line: number of its first line in the file, 1-based.
        share: which share of the file's bytes it is.
    """

    data: bytes
    first_line: int
    share: float


def text_blocks(path: Path, if_empty: str, block_bytes: int | None = None) -> Iterator[TextBlock]:
    """Reads a text file in blocks of whole lines, unpacking .gz, without its byte order mark.

    Args:
        path: of the file.
        if_empty: the remedy for an empty file.
        block_bytes: about the size of a block; None = the whole file is one.

    Raises:
        DataError: as `read_text`.
    """
    path = find_file(path)
    first_line = 1
    for data, share in _line_blocks(path, block_bytes):
        if first_line == 1:
            data = data.removeprefix(BYTE_ORDER_MARK)
            if not data.strip():
                break
            if problem := _not_utf_8_text(data, path.name):
                raise DataError(f"{path}: {problem}")
        _check_line_ends(path, data, first_line)
        yield TextBlock(data, first_line, share)
        first_line += data.count(NEWLINE)
    if first_line == 1:
        raise DataError(f"{path}: empty file; {if_empty}")


def _line_blocks(path: Path, block_bytes: int | None) -> Iterator[tuple[bytes, float]]:
    """Blocks that end where a line ends, but the last one, which ends as the file does, and their share of the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" and size else file as stream:
            if block_bytes is None:
                yield stream.read(), 1.0
                return
            done = 0
            while data := stream.read(block_bytes):
                data = data if data.endswith(NEWLINE) else data + stream.readline()
                yield data, (file.tell() - done) / size
                done = file.tell()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged gzip file ({error}); copy or download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _check_line_ends(path: Path, data: bytes, first_line: int) -> None:
    """Refuses carriage returns without a line feed, and a last line without one."""
    if lone := _LONE_CARRIAGE_RETURN.search(data):
        start = data.rfind(NEWLINE, 0, lone.start()) + 1
        raise DataError(
            f"{path}, line {data.count(NEWLINE, 0, start) + first_line}: a carriage return without a line feed "
            f"({quote(data[start : start + 100].split(NEWLINE)[0])}), as old Mac systems end lines; convert the line "
            r"ends (perl -pe 's/\r+\n|\r/\n/g'), and take it out of quoted values, where it is refused too"
        )
    if not data.endswith(NEWLINE):
        last = quote(data[data.rfind(NEWLINE) + 1 :])
        raise DataError(
            f"{path}, line {data.count(NEWLINE) + first_line}: the file does not end in a newline, so its last line "
            f"may be cut ({last}); copy it again, or, if it is complete, accept it by appending a newline (echo >> "
            f"{path.name})"
        )


def check_utf_8(path: Path, data: bytes, first_line: int = 1) -> None:
    """Raises DataError for text that is not UTF-8, naming its line; `first_line` is the number of the text's first."""
    try:
        data.decode()
    except UnicodeDecodeError as undecodable:
        line = data.count(NEWLINE, 0, undecodable.start) + first_line
        raise DataError(
            f"{path}, line {line}: not UTF-8 text; convert the file from the encoding that it has, for Latin 1: "
            f"iconv -f LATIN1 -t UTF-8 {path.name} > NEW_FILE"
        ) from None


def _not_utf_8_text(data: bytes, name: str) -> str:
    """Returns what a file is instead of text, judged by its first bytes, with the remedy; "" for text."""
    if data.startswith(b"PAR1") and b"\0" in data[:1000]:
        return (
            "this is a Parquet file, not text; name it .parquet, or set the relation's key format to 'parquet' "
            "(source interactions; the other sources read text only)"
        )
    if data.startswith(b"\x1f\x8b"):
        return "this is a gzip file; let its name end in .gz"
    if data.startswith(b"PK\x03\x04"):
        return "this is a zip archive or a spreadsheet, not text; unpack it, or save it as CSV in UTF-8"
    if data.startswith(UTF_16_MARKS) or b"\0" in data[:4]:
        return f"this is text in UTF-16 or UTF-32; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8 {name} > NEW_FILE)"
    return ""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file that takes the place of a file: a kill leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def suggestion(name: str, names: Sequence[str]) -> str:
    """Returns " (did you mean ...?)" with the closest of the names, or "" where none is close."""
    close = difflib.get_close_matches(name, names, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def quote(text: str | bytes) -> str:
    """Returns the text in quotes, with its control characters escaped, and shortened."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    return repr(text if len(text) <= 60 else text[:57] + "...")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, `replacing` what is there."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
