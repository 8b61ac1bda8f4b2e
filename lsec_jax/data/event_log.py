"""Tables of events that may be larger than memory: collected in DuckDB, sorted by time, written as columns.

DuckDB sorts and joins within a memory limit and spills the rest to disk.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from lsec_jax.data.columns import BLOCK_ROWS, NewColumn
from lsec_jax.data.ids import IdColumn
from lsec_jax.schema import DataError

TIME = "time"
_NO_ROOM = (duckdb.IOException, duckdb.OutOfMemoryException)


@dataclasses.dataclass
class _Stored:
    """What the database has of a table.

    Attributes:
        name: there; the database does not tell "Gift" from "gift", so that tables and columns have numbers.
        columns: names there by path.
        size: number of rows.
    """

    name: str
    columns: dict[str, str]
    size: int = 0


class EventLog:
    """The rows of tables, appended in blocks in any order of time and read back in theirs."""

    def __init__(self, scratch: Path | None, memory_bytes: int):
        """Opens a database.

        Args:
            scratch: an empty folder for its files, or None: everything is in memory.
            memory_bytes: what the database may take before it spills into the folder.

        Raises:
            DataError: nothing can be written there.
        """
        self._tables: dict[str, _Stored] = {}
        settings = {"preserve_insertion_order": "false", "enable_progress_bar": "false"}
        path = ":memory:"
        if scratch is not None:
            path = str(scratch.resolve() / "log.duckdb")
            settings["memory_limit"] = f"'{memory_bytes // 2**20}MiB'"
            settings["temp_directory"] = _text(str(scratch.resolve() / "spilled"))
        with self._reporting():
            self._connection = duckdb.connect(path)
            for name, value in settings.items():
                self._connection.execute(f"SET {name} = {value}")

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *error: Any) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns what the database says when the disk is full, or the user interrupts it, into what it means."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            if isinstance(error, duckdb.InterruptException) or "nterrupted" in message:
                raise KeyboardInterrupt from None
            if not isinstance(error, (*_NO_ROOM, OSError)) and "Out of Memory" not in message:
                raise
            raise DataError(
                f"events cannot be sorted ({message}); make room on the disk, or give more memory (--memory_gib)"
            ) from None

    def append(self, table: str, columns: Mapping[str, pa.Array]) -> None:
        """Appends rows.

        Args:
            table: its name; the first rows make it.
            columns: by path, "time" among them, each [rows]; the same ones each time. A column of integers becomes one
                of text when its first text comes.
        """
        if table not in self._tables:
            names = {path: f"c{i}" for i, path in enumerate(columns)}
            self._tables[table] = _Stored(f"events_{len(self._tables)}", names)
        stored, size = self._tables[table], len(columns[TIME])
        block = pa.table(
            {
                **{name: columns[path] for path, name in stored.columns.items()},
                "row_number": pa.array(np.arange(stored.size, stored.size + size)),
            }
        )
        with self._reporting():
            self._connection.register("appended", block)
            if not stored.size:
                self._connection.execute(f"CREATE TABLE {stored.name} AS SELECT * FROM appended LIMIT 0")
            for path, kind in self._types(stored).items():
                name = stored.columns[path]
                if kind == "BIGINT" and pa.types.is_large_string(block.schema.field(name).type):
                    self._connection.execute(f"ALTER TABLE {stored.name} ALTER COLUMN {name} TYPE VARCHAR")
            self._connection.execute(f"INSERT INTO {stored.name} BY NAME SELECT * FROM appended")
            self._connection.unregister("appended")
        stored.size += size

    def size(self, table: str) -> int:
        """The number of rows."""
        return self._tables[table].size if table in self._tables else 0

    def is_text(self, table: str, path: str) -> bool:
        """Whether a column has text, and not integers."""
        with self._reporting():
            return self._types(self._tables[table])[path] == "VARCHAR"

    def distinct(self, table: str, path: str) -> IdColumn:
        """The distinct values of a column of integers or text that are there, sorted, with the codes of no row."""
        stored = self._tables[table]
        column = stored.columns[path]
        query = f"SELECT DISTINCT {column} FROM {stored.name} WHERE {column} IS NOT NULL ORDER BY {column}"
        with self._reporting():
            found = self._connection.sql(query).to_arrow_table()[column]
        values = np.asarray(found.to_pylist(), np.str_ if self.is_text(table, path) else np.int64)
        return IdColumn(values, np.zeros(0, np.int64))

    def write(
        self,
        table: str,
        codes: Mapping[str, np.ndarray],
        new_column: NewColumn,
        dtypes: Mapping[str, type],
        on_rows: Callable[[int], None],
        ranked: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Writes a table's columns in order of time, and of appending where times are equal.

        Args:
            table: its name.
            codes: by path of a column, the values that its codes are positions in, [v] int64 or str, all that the
                column has among them; what is missing becomes -1.
            new_column: gives the arrays to fill.
            dtypes: of the arrays by path; these columns are written.
            on_rows: called with the number of rows in each block written.
            ranked: paths of columns without missing values that become the positions of their values among the sorted
                distinct ones, which are found in the database.

        Returns:
            The filled arrays by path.
        """
        stored = self._tables[table]
        arrays = {path: new_column(path, (stored.size,), dtype) for path, dtype in dtypes.items()}
        direct = [path for path in dtypes if path not in ranked]
        with self._reporting():
            self._fill([arrays[path] for path in direct], self._query(stored, direct, codes), on_rows)
            for path in ranked:
                # In steps of their own, each of which spills: joining all the distinct texts would not.
                columns = f"{stored.columns[TIME]} AS time, row_number"
                code = f"dense_rank() OVER (ORDER BY {stored.columns[path]}) - 1 AS code"
                self._connection.execute(
                    f"CREATE OR REPLACE TABLE ranks AS SELECT {columns}, {code} FROM {stored.name}"
                )
                self._fill([arrays[path]], "SELECT code FROM ranks ORDER BY time, row_number", lambda rows: None)
                self._connection.execute("DROP TABLE ranks")
        return arrays

    def _query(self, stored: _Stored, paths: Sequence[str], codes: Mapping[str, np.ndarray]) -> str:
        """Returns the query for columns in order, and registers the codes that it joins."""
        types = self._types(stored)
        selected, joins = [], []
        for i, path in enumerate(paths):
            column = f"events.{stored.columns[path]}"
            if path not in codes:
                selected.append(column)
                continue
            keys = pa.table({"key": codes[path], "code": np.arange(len(codes[path]), dtype=np.int32)})
            self._connection.register(f"codes_{i}", keys)
            if types[path] == "BIGINT" and codes[path].dtype.kind != "i":
                column = f"CAST({column} AS VARCHAR)"
            joins.append(f"LEFT JOIN codes_{i} ON {column} = codes_{i}.key")
            selected.append(f"coalesce(codes_{i}.code, -1)")
        return (
            f"SELECT {', '.join(selected)} FROM {stored.name} AS events {' '.join(joins)} "
            f"ORDER BY events.{stored.columns[TIME]}, events.row_number"
        )

    def _fill(self, arrays: Sequence[np.ndarray], query: str, on_rows: Callable[[int], None]) -> None:
        """Writes the columns of a query's rows into arrays."""
        start = 0
        for batch in self._connection.sql(query).to_arrow_reader(BLOCK_ROWS):
            for array, values in zip(arrays, batch.columns, strict=True):
                array[start : start + len(batch)] = values.to_numpy(zero_copy_only=False)
            start += len(batch)
            on_rows(len(batch))
        assert start == len(arrays[0]), "a join has changed the number of rows"

    def _types(self, stored: _Stored) -> dict[str, str]:
        """Names of the columns' types in the database, by path."""
        relation = self._connection.table(stored.name)
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        return {path: types[name] for path, name in stored.columns.items()}


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
