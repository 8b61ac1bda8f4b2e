"""One run at a time in a workdir."""

import datetime
import errno
import fcntl
import json
import os
import socket
import time
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
    elsewhere. Of a run of several processes, the first holds it for all, and the others see to it that they have the
    same workdir. Commands that only read do not ask for it.
    """

    def __init__(self, workdir: Path):
        self._path = workdir / LOCK_NAME
        self._file: IO[str] | None = None
        self._is_taken = False

    def __enter__(self) -> "WorkdirLock":
        if processes.of_first(self._path.is_file()):
            self.take()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._is_taken = False

    def take(self) -> None:
        """Takes the lock, unless this run has it already; the workdir must exist. All processes call it.

        Raises:
            ConfigError: if another run has it, with its process and host; if this process has another workdir.
            ProcessError: if that is so of another process of the run.
        """
        if self._is_taken:
            return
        told = processes.of_first(processes.by_first("taking the workdir", self._lock))
        with processes.agreed("looking at the workdir"):
            await_sight(self._path, told)
        self._is_taken = True

    def _lock(self) -> str:
        """Returns what the file says from now on."""
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
        told = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}) + "\n"
        file.write(told)
        file.flush()
        self._file = file
        return told


def await_sight(path: Path, text: str | None = None, seconds: float = 60.0) -> None:
    """Returns when this process sees what the first one does; network file systems may take a while.

    Args:
        path: that the first one sees.
        text: what it reads there, or None.
        seconds: how long to wait.

    Raises:
        ConfigError: if it does not see it in time.
    """
    deadline = time.monotonic() + seconds
    while not (path.exists() if text is None else path.is_file() and path.read_text() == text):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{path}: this process does not see what process 0 does there; give a --workdir that all processes "
                "share"
            )
        time.sleep(0.1)


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        told = json.loads(file.read())
        return f"process {told['pid']} on host {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):  # it has only just taken the lock
        return "another process"
