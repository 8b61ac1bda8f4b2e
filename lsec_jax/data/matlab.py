"""Reading one numeric matrix of a MATLAB v5 file, with errors that name file, variable, row and column.

The file is a header and then elements: a tag (type and size), then the content. A variable is an element of type
matrix, or a compressed one that holds it: flags, dimensions, name and numbers, which are elements again.
scipy.io.loadmat reads the format too, but there a damaged file can end the process (a segmentation fault in scipy
1.17), and one with objects would make them. Here every size is checked against the bytes that are left.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from lsec_jax.data import files
from lsec_jax.schema import DataError

HEADER_BYTES = 128
V73_MARK = b"\x00\x02IM"  # version and byte order, in the last four bytes of the header
BYTE_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX_TYPE, COMPRESSED_TYPE = 14, 15
OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function", 17: "opaque"}
IS_LOGICAL, IS_COMPLEX = 0x200, 0x800  # bits of the flags, whose last byte is the class
# Enough for the flags, dimensions and name of a matrix: what is unpacked of variables that are not asked for.
HEAD_BYTES = 4096
LARGEST_ID = 2**53  # below it every integer has its own float64


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The columns of one variable.

    Attributes:
        path: of the file.
        variable: its name there.
        columns: what the columns mean, as many as there are.
        values: [rows, columns] float64, finite.
    """

    path: Path
    variable: str
    columns: tuple[str, ...]
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def fail(self, row: int, column: str, problem: str) -> NoReturn:
        """Raises DataError for a 0-based row, which the message counts from 1 as MATLAB does."""
        raise DataError(f"{self.path}, variable '{self.variable}', row {row + 1}, column '{column}': {problem}")

    def ids(self, column: str) -> np.ndarray:
        """Returns ids, [rows] int64; raises DataError for one that is no integer >= 1."""
        values = self.values[:, self.columns.index(column)]
        bad = np.flatnonzero((values < 1) | (values != np.floor(values)) | (values >= LARGEST_ID))
        if len(bad):
            self.fail(int(bad[0]), column, f"id {values[bad[0]]:g}; ids are integers >= 1; correct or drop the row")
        return values.astype(np.int64)

    def numbers(self, column: str, lowest: float, highest: float) -> np.ndarray:
        """Returns numbers in lowest..highest, [rows] float64; raises DataError for one outside."""
        values = self.values[:, self.columns.index(column)]
        bad = np.flatnonzero((values < lowest) | (values > highest))
        if len(bad):
            limits = f"{lowest:g}..{highest:g}" if np.isfinite(highest) else f"{lowest:g} or more"
            self.fail(int(bad[0]), column, f"{values[bad[0]]:g}, expected {limits}; correct or drop the row")
        return values


def read_matrix(path: Path, variable: str, columns: Sequence[str]) -> Matrix:
    """Reads one variable; of others only the name is looked at.

    Args:
        path: of the file, MATLAB v5 (what `save -v7` and `save -v6` write).
        variable: name of a real, dense, numeric matrix.
        columns: what its columns mean.

    Raises:
        DataError: the file is missing, cut or of another version, the variable is missing or of another class or shape,
            or a value is not finite.
    """
    path = files.find_file(path)
    data = files.read_bytes(path)
    order = _byte_order(path, data)
    try:
        variables = {found.name: found for found in _variables(data, order)}
        values = variables[variable].read() if variable in variables else None
    except _DamagedError as damage:
        raise DataError(f"{path}: truncated or damaged MATLAB file ({damage}); copy it again") from None
    if values is None:
        there = ", ".join(map(files.quote, variables)) or "nothing"
        raise DataError(f"{path}: no variable '{variable}'; it has: {there}; rename it, or copy the file again")
    shape = f"[rows, {len(columns)}] ({', '.join(columns)})"
    place = f"{path}, variable '{variable}'"
    if isinstance(values, str):
        raise DataError(f"{place}: {values}; expected a matrix of real numbers, {shape}; save it as one")
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise DataError(f"{place}: shape {list(values.shape)}; expected {shape}; save it like that")
    if len(values) == 0:
        raise DataError(f"{place}: no rows; expected {shape}; copy the file again")
    matrix = Matrix(path, variable, tuple(columns), values.astype(np.float64))
    bad = np.argwhere(~np.isfinite(matrix.values))
    if len(bad):
        row, column = bad[0].tolist()
        value = matrix.values[row, column]
        matrix.fail(row, columns[column], f"{value}; expected a finite number; correct or drop the row")
    return matrix


def _byte_order(path: Path, data: bytes) -> str:
    if not data:
        raise DataError(f"{path}: empty file; copy it again")
    mark = data[HEADER_BYTES - 4 : HEADER_BYTES]
    if mark == V73_MARK:
        raise DataError(f"{path}: MATLAB v7.3 (HDF5), which is not read; save it with -v7")
    if mark not in BYTE_ORDERS:
        raise DataError(
            f"{path}: not a MATLAB v5 file (its header of {HEADER_BYTES} bytes is missing or damaged); copy it again, "
            "or save it with -v7"
        )
    return BYTE_ORDERS[mark]


class _DamagedError(Exception):
    """Says what is wrong with the bytes."""


@dataclasses.dataclass(frozen=True)
class _Variable:
    """One variable, not yet read: `content` is its element's, packed or not."""

    name: str
    is_packed: bool
    content: memoryview
    order: str

    def read(self) -> np.ndarray | str:
        """Returns the numbers, of any number of dimensions, or the name of what the variable is instead."""
        content = _unpack(self.content, self.order) if self.is_packed else self.content
        elements = _elements(content, self.order)
        flags = _numbers(*_next(elements, "flags"), self.order)
        dimensions = _numbers(*_next(elements, "dimensions"), self.order)
        _next(elements, "name")
        if len(flags) != 2 or flags.dtype.itemsize != 4:
            raise _DamagedError(f"'{self.name}' has {len(flags)} flags of {flags.dtype}, not two of 4 bytes")
        for kind, is_that in (
            (OTHER_CLASSES.get(int(flags[0]) & 0xFF), True),
            ("logical", flags[0] & IS_LOGICAL),
            ("complex", flags[0] & IS_COMPLEX),
        ):
            if kind and is_that:
                return f"class {kind}"
        numbers = _numbers(*_next(elements, "numbers"), self.order)
        shape = dimensions.tolist()
        is_shape = dimensions.dtype.kind in "iu" and len(shape) and min(shape) >= 0
        if not is_shape or math.prod(shape) != len(numbers):
            raise _DamagedError(f"'{self.name}' has {len(numbers)} numbers and the dimensions {shape}")
        return numbers.reshape(shape, order="F")


def _variables(data: bytes, order: str) -> Iterator[_Variable]:
    for kind, content in _elements(memoryview(data)[HEADER_BYTES:], order):
        if kind not in (MATRIX_TYPE, COMPRESSED_TYPE):
            raise _DamagedError(f"an element of type {kind} where a variable is expected")
        is_packed = kind == COMPRESSED_TYPE
        elements = _elements(_unpack(content, order, HEAD_BYTES) if is_packed else content, order)
        for part in ("flags", "dimensions"):
            _next(elements, part)
        name = bytes(_next(elements, "name")[1]).decode("ascii", errors="replace")
        yield _Variable(name, is_packed, content, order)


def _unpack(packed: memoryview, order: str, max_bytes: int = 0) -> memoryview:
    """Returns the content of the matrix in a compressed element: all of it, or what is in its first bytes."""
    stream = zlib.decompressobj()
    try:
        element = memoryview(stream.decompress(packed, max_bytes))
    except zlib.error as error:
        raise _DamagedError(str(error)) from None
    if max_bytes:
        return element[8:]  # after the tag
    if not stream.eof:
        raise _DamagedError("a compressed variable ends too early")
    kind, content = _next(_elements(element, order), "matrix")
    if kind != MATRIX_TYPE:
        raise _DamagedError(f"a compressed element of type {kind} where a matrix is expected")
    return content


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yields (type, content) of elements that stand one after the other."""
    start = 0
    while start < len(data):
        if len(data) - start < 8:
            raise _DamagedError(f"{len(data) - start} bytes where an element's tag has 8")
        kind, size = np.frombuffer(data[start : start + 8], f"{order}u4").tolist()
        if kind >> 16:  # a small element: size and type in the first half of the tag, the content in the second
            kind, size = kind & 0xFFFF, kind >> 16
            content, end = data[start + 4 : start + 4 + min(size, 4)], start + 8
        else:
            content, end = data[start + 8 : start + 8 + size], start + 8 + size
            # Elements begin at multiples of 8 bytes, but compressed ones follow each other directly.
            end += 0 if kind == COMPRESSED_TYPE else -size % 8
        if len(content) < size:
            raise _DamagedError(f"an element of {size} bytes with {len(content)} of them there")
        yield kind, content
        start = end


def _next(elements: Iterator[tuple[int, memoryview]], part: str) -> tuple[int, memoryview]:
    for element in elements:
        return element
    raise _DamagedError(f"a variable without its {part}")


def _numbers(kind: int, content: memoryview, order: str) -> np.ndarray:
    """Returns the numbers of an element, [n]."""
    if kind not in NUMBER_TYPES:
        raise _DamagedError(f"an element of type {kind} where numbers are expected")
    dtype = np.dtype(order + NUMBER_TYPES[kind])
    if len(content) % dtype.itemsize:
        raise _DamagedError(f"{len(content)} bytes of numbers of {dtype.itemsize} bytes")
    return np.frombuffer(content, dtype)
