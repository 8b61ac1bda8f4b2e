"""One run at a time in a workdir."""

import datetime
import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import IO, Any

from absl import logging

from lsec_jax.config import ConfigError
from lsec_jax.parallel import processes

LOCK_NAME = "lock"
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)


class WorkdirLock:
    """Keeps other runs out of a workdir; the system releases it when the process ends, however it ends.

    Use as a context manager. Entering takes the lock where the workdir has had a run already, and writes nothing
    elsewhere. Of a run of several processes, the first holds it for all. Commands that only read do not ask for it.
    """

    def __init__(self, workdir: Path):
        self._path = workdir / LOCK_NAME
        self._file: IO[str] | None = None

    def __enter__(self) -> "WorkdirLock":
        if self._path.is_file():
            self.take()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self) -> None:
        """Takes the lock, unless this run has it already; the workdir must exist.

        Raises:
            ConfigError: if another run has it, with its process and host.
        """
        if self._file is not None or not processes.is_first():
            return
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(file)
            if error.errno in _HELD_BY_ANOTHER:
                file.close()
                raise ConfigError(
                    f"workdir {self._path.parent} is in use by {holder}; wait for its end, or choose another --workdir"
                ) from None
            logging.warning(
                "%s: this file system cannot lock files (%s): see to it that no second run uses this workdir",
                self._path,
                error.strerror,
            )
        file.truncate(0)
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}) + "\n")
        file.flush()
        self._file = file


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        told = json.loads(file.read())
        return f"process {told['pid']} on host {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):  # it has only just taken the lock
        return "another process"
