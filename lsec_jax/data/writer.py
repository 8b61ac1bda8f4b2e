"""Writing a prepared directory: columns that are filled in place, and a manifest that makes them whole.

While a directory is being written it holds a file INCOMPLETE, which is locked, and no manifest. So what was interrupted
is never read and is cleared away by the next attempt, and two attempts at once do not mix.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lsec_jax.config_json import differences
from lsec_jax.data import store
from lsec_jax.data.files import write_json
from lsec_jax.schema import DataError, LiveCommerceData

_MARK = "lsec_jax is preparing data here; python -m lsec_jax.prepare clears it away and begins anew\n"
_SCRATCH = "scratch"


def check_directory(directory: Path, source: Mapping[str, Any]) -> bool:
    """Whether a directory holds this very source already, whole.

    Args:
        directory: new, empty, interrupted, or prepared.
        source: JSON of what the data comes from.

    Raises:
        DataError: it holds something else.
    """
    if directory.is_symlink() and not directory.exists():
        raise DataError(
            f"{directory}: a link to {directory.readlink()}, which is not there; make it, or remove the link"
        )
    if (directory / store.MANIFEST).exists():
        stored = store.read_manifest(directory)["source"]
        if changed := differences(stored, source, "source"):
            raise DataError(
                f"{directory} holds data prepared otherwise (stored -> given):\n  "
                + "\n  ".join(changed)
                + "\nGive another directory, or remove this one."
            )
        if _is_ours(directory):
            (directory / store.INCOMPLETE).unlink(missing_ok=True)  # killed when all else was done
        return True
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory}: this is a file; give a new or empty directory")
    if directory.is_dir() and any(directory.iterdir()) and not _is_ours(directory):
        raise DataError(f"{directory}: not empty, and not begun by `prepare`; give a new or empty directory")
    return False


def _is_ours(directory: Path) -> bool:
    """Whether a directory is marked; an empty mark is of a process killed before it wrote anything."""
    mark = directory / store.INCOMPLETE
    if not mark.is_file():
        return False
    text = mark.read_text(errors="replace")
    return text == _MARK or (text == "" and list(directory.iterdir()) == [mark])


class Writer:
    """Fills a directory; `finish` makes it whole.

    Used in a with statement: an error clears away what was written, and an interrupt leaves it marked as incomplete.
    """

    def __init__(self, directory: Path, source: Mapping[str, Any]):
        """Takes a directory as `check_directory` found it, not whole, and JSON of what the data comes from."""
        self._directory, self._source = directory, source
        self._columns: dict[str, np.ndarray] = {}
        self._is_whole = False
        self._new_folders = [folder for folder in (directory, *directory.parents) if not folder.exists()]

    @property
    def scratch(self) -> Path:
        """An empty folder that is removed at the end."""
        return self._directory / _SCRATCH

    def __enter__(self) -> "Writer":
        """Locks and clears the directory; raises DataError where another process writes, or nothing can be written."""
        with self._reporting():
            self._directory.mkdir(parents=True, exist_ok=True)
            mark = self._directory / store.INCOMPLETE
            self._lock = mark.open("a+")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have ended, and removed the mark, between the opening and the locking.
                is_there = mark.exists() and os.path.samestat(mark.stat(), os.fstat(self._lock.fileno()))
            except BlockingIOError:
                is_there = False
            if not is_there:
                self._lock.close()
                raise DataError(f"{self._directory}: another process is preparing data here; wait for it")
        if (self._directory / store.MANIFEST).exists():
            self._release()
            raise DataError(f"{self._directory}: another process has just prepared data here; run the command again")
        self._clear()
        with self._reporting():
            if not (self._directory / store.INCOMPLETE).read_text():  # never empty where there is something to clear
                self._lock.write(_MARK)
                self._lock.flush()
            self.scratch.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_whole:
            return
        if isinstance(error, Exception):
            self._clear()
            self._release()
            with contextlib.suppress(OSError):  # somebody has put something else there
                for folder in self._new_folders:
                    folder.rmdir()
        elif error is not None:
            self._lock.close()  # interrupted: stays marked

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._directory}: cannot be written ({error.strerror}); make room there or choose another place"
            ) from None

    def new_column(self, path: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Returns an array to fill that lies in the directory; the disk has room for it."""
        if 0 in shape:  # cannot be mapped
            self._columns[path] = np.empty(shape, dtype)
            return self._columns[path]
        with self._reporting():
            file = self._file(path)
            array = np.lib.format.open_memmap(file, mode="w+", dtype=np.dtype(dtype), shape=shape)
            with file.open("rb+") as stream:  # else a full disk would end the process when the array is filled
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        self._columns[path] = array
        return array

    def finish(self, data: LiveCommerceData, statistics: Mapping[str, Any], on_column: Callable[[int], None]) -> None:
        """Writes the columns that do not lie in the directory yet, and the manifest.

        Args:
            data: valid; its names are names of files.
            statistics: JSON.
            on_column: called after each column with its bytes.
        """
        with self._reporting():
            shutil.rmtree(self.scratch)
            columns = store.columns_of(data)
            for path in self._columns.keys() - columns.keys():
                self._file(path).unlink(missing_ok=True)
            forms = {}
            for path, values in columns.items():
                self._keep(path, values)
                forms[path] = {"dtype": values.dtype.str, "shape": list(values.shape), "sha256": store.sha256(values)}
                on_column(values.nbytes)
            manifest = {
                "format": store.FORMAT,
                "schema_version": store.SCHEMA_VERSION,
                "source": self._source,
                "data": store.description_of(data),
                "statistics": statistics,
                "columns": forms,
            }
            write_json(self._directory / store.MANIFEST, manifest)
            self._is_whole = True
            self._release()

    def _keep(self, path: str, values: np.ndarray) -> None:
        """Writes a column, unless it lies in the directory already."""
        if self._columns.get(path) is values and isinstance(values, np.memmap):
            values.flush()
            return
        file = self._file(path)
        file.unlink(missing_ok=True)  # and not overwritten: it may be mapped
        with file.open("wb") as stream:
            np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)

    def _file(self, path: str) -> Path:
        file = self._directory / f"{path}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _clear(self) -> None:
        for name in (*store.FOLDERS, _SCRATCH):
            shutil.rmtree(self._directory / name, ignore_errors=True)

    def _release(self) -> None:
        (self._directory / store.INCOMPLETE).unlink(missing_ok=True)
        self._lock.close()
