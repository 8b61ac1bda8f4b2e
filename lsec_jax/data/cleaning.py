"""Finding every row of a table that cannot be converted, so that all are reported, or left out and counted, at once."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lsec_jax.data.table import ColumnError, Table
from lsec_jax.schema import DataError

_MANY = 1000  # wrong values of one column and block: it is another column than the config says


@dataclasses.dataclass(frozen=True)
class Reader:
    """How one column is read.

    Attributes:
        column: its name in the file.
        read: converts it; raises DataError for a value that cannot be used.
        beside: other columns that it needs.
    """

    column: str
    read: Callable[[Table], Any]
    beside: tuple[str, ...] = ()


class TimeUnit(NamedTuple):
    """Whether the times of one file are dates.

    Attributes:
        owner: whose they are, e.g. "relation 'buy' has".
        place: column and file.
        has_dates: or numbers.
    """

    owner: str
    place: str
    has_dates: bool


def time_unit(owner: str, table: Table, column: str) -> TimeUnit:
    """Returns the unit of a file's times, as most of those in its first block have it."""
    return TimeUnit(owner, f"column '{column}' of {table.path}", bool(table.has_dates(column)))


def has_one_unit(units: Sequence[TimeUnit]) -> bool | None:
    """Whether all times are dates, None where there are none; raises DataError where some are and others are not."""
    first = {unit.has_dates: unit for unit in reversed(units)}
    if len(first) == 2:
        dates, numbers = first[True], first[False]
        raise DataError(
            f"{dates.owner} dates in {dates.place}, {numbers.owner} numbers in {numbers.place}; all times must use one "
            "unit"
        )
    return next(iter(first), None)


class WrongRows:
    """Collects what is wrong in the tables of a data set."""

    def __init__(self) -> None:
        """Knows of nothing wrong."""
        self._first: dict[tuple[str, str], str] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._strangers: dict[tuple[str, str], set[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def without(self, table: Table, readers: Mapping[str, Reader]) -> tuple[Table, dict[str, Any]]:
        """Reads columns of the rows in which all of them can be read.

        Args:
            table: as it was read from a file.
            readers: of the columns, by names for the results.

        Returns:
            The good rows (maybe none), and what the readers return for them; {} where there are none.

        Raises:
            DataError: more than a thousand values of one column are wrong, or a column is wrong as a whole.
        """
        try:
            return table, {name: reader.read(table) for name, reader in readers.items()}
        except ColumnError:
            raise
        except DataError:
            pass
        is_wrong = np.zeros(len(table), bool)
        for reader in readers.values():
            rows, message = _failing(table.only({reader.column, *reader.beside}), reader.read)
            is_wrong[rows] = True
            if len(rows):
                key = str(table.path), reader.column
                self._first.setdefault(key, message)
                self._counts[key] = self._counts.get(key, 0) + len(rows)
        table = table.take(np.flatnonzero(~is_wrong))
        return table, {name: reader.read(table) for name, reader in readers.items()} if len(table) else {}

    def add_strangers(self, table: Table, column: str, rows: np.ndarray, ids: Iterable[str], problem: str) -> None:
        """Knows of rows whose ids can be read and are none of those that there are.

        Args:
            table: as it was read from a file.
            column: with the ids.
            rows: that have them, rising, [k] int64, k > 0.
            ids: the different ones, as text.
            problem: of the first row.

        Raises:
            DataError: a column has had more than a thousand different ones.
        """
        key = str(table.path), column
        first = f"{table.path}, {table.row_name(int(rows[0]))}, column '{column}': {problem}"
        self._first.setdefault(key, first)
        self._counts[key] = self._counts.get(key, 0) + len(rows)
        found = self._strangers.setdefault(key, set())
        found.update(ids)
        if len(found) > _MANY:
            raise DataError(f"{first}\n  and so are more than {_MANY} others; check that it is the right column")

    def refuse(self, name: str, last: str = "") -> None:
        """Raises DataError with everything that is wrong, and what was found last; not if no row is wrong.

        Args:
            name: of the data set.
            last: what ended the reading, e.g. a line that cannot be split.
        """
        if not self:
            return
        lines = []
        for key, message in self._first.items():
            more = [f"{self._counts[key] - 1} more rows of this column"] if self._counts[key] > 1 else []
            if len(strangers := self._strangers.get(key, ())) > 1:
                more.append(f"{len(strangers)} different ids")
            lines.append(f"  {message}" + (f" ({', '.join(more)})" if more else ""))
        lines += [f"  {last}"] if last else []
        raise DataError(f"data set '{name}' cannot be used:\n" + "\n".join(lines))

    def count(self, counts: dict[str, int]) -> None:
        """Adds the numbers of wrong rows by file and column."""
        for (path, column), number in self._counts.items():
            counts[f"{path}: rows quarantined, column '{column}'"] = number


def _failing(table: Table, read: Callable[[Table], Any]) -> tuple[np.ndarray, str]:
    """Returns the rows that a reader refuses, found by bisection, rising, [k] int64, and what it says of the first."""
    found: list[int] = []
    first = ""
    parts = [np.arange(len(table))]
    while parts:
        rows = parts.pop()
        try:
            read(table.take(rows))
        except DataError as error:
            if len(rows) > 1:
                parts += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
                continue
            first = first or str(error)
            found.append(int(rows[0]))
            if len(found) > _MANY:
                raise DataError(
                    f"{first}\n  and so are more than {_MANY} rows; check that it is the right column"
                ) from None
    if not found:
        read(table)  # no row alone is wrong: says what is
    return np.array(found, np.int64), first
