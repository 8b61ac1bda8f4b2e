"""Tables of events that may be larger than memory: collected in DuckDB, sorted by time, written as columns.

DuckDB sorts and joins within a memory limit and spills the rest to disk.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from lsec_jax.data.columns import BLOCK_ROWS, NewColumn
from lsec_jax.data.ids import IdColumn
from lsec_jax.schema import DataError

TIME = "time"
_ROW, _KEY, _CODE = "row number", "key", "code"  # no column of a log has these names: they are paths, or "time"


class EventLog:
    """The rows of tables, appended in blocks in any order of time and read back in theirs."""

    def __init__(self, scratch: Path | None, memory_bytes: int):
        """Opens a database.

        Args:
            scratch: an empty folder for its files, or None: everything is in memory.
            memory_bytes: what the database may take before it spills into the folder.
        """
        self._connection = duckdb.connect(":memory:" if scratch is None else str(scratch / "log.duckdb"))
        settings = {"preserve_insertion_order": "false", "enable_progress_bar": "false"}
        if scratch is not None:
            settings["memory_limit"] = f"'{memory_bytes // 2**20}MiB'"
            settings["temp_directory"] = _text(str(scratch / "spilled"))
        for name, value in settings.items():
            self._connection.execute(f"SET {name} = {value}")
        self._sizes: dict[str, int] = {}

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *error: Any) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise DataError(
                f"events cannot be sorted ({str(error).splitlines()[0]}); make room on the disk, or give more memory "
                "(--memory_gib)"
            ) from None

    def append(self, table: str, columns: Mapping[str, pa.Array]) -> None:
        """Appends rows.

        Args:
            table: its name; the first rows make it.
            columns: by path, "time" among them, each [rows]; the same ones each time. A column of integers becomes one
                of text when its first text comes.
        """
        size = len(columns[TIME])
        first = self._sizes.get(table, 0)
        block = pa.table({**columns, _ROW: pa.array(np.arange(first, first + size))})
        if not first:
            self._connection.execute(f"CREATE TABLE {_name(table)} AS SELECT * FROM block LIMIT 0")
        for path, kind in self._types(table).items():
            if kind == "BIGINT" and pa.types.is_large_string(block.schema.field(path).type):
                self._connection.execute(f"ALTER TABLE {_name(table)} ALTER COLUMN {_name(path)} TYPE VARCHAR")
        with self._reporting():
            self._connection.execute(f"INSERT INTO {_name(table)} BY NAME SELECT * FROM block")
        self._sizes[table] = first + size

    def size(self, table: str) -> int:
        """The number of rows."""
        return self._sizes.get(table, 0)

    def distinct(self, table: str, path: str) -> IdColumn:
        """The distinct values of a column of integers or text that are there, sorted, with the codes of no row."""
        query = f"SELECT DISTINCT {_name(path)} AS {_KEY} FROM {_name(table)} WHERE {_KEY} IS NOT NULL ORDER BY {_KEY}"
        with self._reporting():
            found = self._connection.sql(query).to_arrow_table()[_KEY]
        values = np.asarray(found.to_pylist(), np.str_ if self._types(table)[path] == "VARCHAR" else np.int64)
        return IdColumn(values, np.zeros(0, np.int64))

    def write(
        self,
        table: str,
        codes: Mapping[str, np.ndarray],
        new_column: NewColumn,
        dtypes: Mapping[str, type],
        on_rows: Callable[[int], None],
    ) -> dict[str, np.ndarray]:
        """Writes a table's columns in order of time, and of appending where times are equal.

        Args:
            table: its name.
            codes: by path of a column, the values that its codes are positions in, [v] int64 or str, all that the
                column has among them; what is missing becomes -1.
            new_column: gives the arrays to fill.
            dtypes: of the arrays by path; these columns are written.
            on_rows: called with the number of rows in each block written.

        Returns:
            The filled arrays by path.
        """
        types = self._types(table)
        selected, joins = [], []
        for i, path in enumerate(dtypes):
            column = f"events.{_name(path)}"
            if path not in codes:
                selected.append(column)
                continue
            keys = pa.table({_KEY: codes[path], _CODE: np.arange(len(codes[path]), dtype=np.int32)})
            self._connection.register(f"codes {i}", keys)
            if types[path] == "BIGINT" and codes[path].dtype.kind != "i":
                column = f"CAST({column} AS VARCHAR)"
            joins.append(f"LEFT JOIN {_name(f'codes {i}')} AS c{i} ON {column} = c{i}.{_KEY}")
            selected.append(f"coalesce(c{i}.{_CODE}, -1)")
        query = (
            f"SELECT {', '.join(selected)} FROM {_name(table)} AS events {' '.join(joins)} "
            f"ORDER BY events.{_name(TIME)}, events.{_name(_ROW)}"
        )
        arrays = {path: new_column(path, (self.size(table),), dtype) for path, dtype in dtypes.items()}
        start = 0
        with self._reporting():
            for batch in self._connection.sql(query).to_arrow_reader(BLOCK_ROWS):
                for array, values in zip(arrays.values(), batch.columns, strict=True):
                    array[start : start + len(batch)] = values.to_numpy(zero_copy_only=False)
                start += len(batch)
                on_rows(len(batch))
        assert start == self.size(table), "a join has changed the number of rows"
        return arrays

    def _types(self, table: str) -> dict[str, str]:
        """Names of the columns' types in the database."""
        relation = self._connection.table(_name(table))
        return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
