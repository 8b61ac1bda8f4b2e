"""Ending a run when it is asked to: by SIGTERM, which schedulers send before they take a machine away."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from lsec_jax.parallel import processes


class Terminated(Exception):
    """The run was asked to end and did; the message says what is saved."""


class Termination:
    """Listens for SIGTERM. Use as a context manager: outside it, and before `begin`, SIGTERM ends the process at once.

    A run of several processes leaves the signal to jax, which makes all of them agree on the step to end at.
    """

    def __init__(self) -> None:
        self._is_asked = self._may_raise = False
        self._before: Any = None

    def __enter__(self) -> "Termination":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self._is_asked and kind is None:
            raise Terminated("training is over and saved; the same command evaluates it")

    def begin(self) -> None:
        """From now on there is something to save, and the process ends where `is_due` is asked."""
        if self._before is None and processes.count() == 1:
            if threading.current_thread() is threading.main_thread():  # others cannot
                self._before = signal.signal(signal.SIGTERM, self._on_signal)

    def is_due(self, step: int) -> bool:
        """Whether to save and end after this step; to be asked after every step, by all processes."""
        if processes.count() == 1:
            return self._is_asked
        try:
            return multihost_utils.reached_preemption_sync_point(step)
        except RuntimeError:  # jax's preemption service is switched off
            return False

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """What is inside may be cut off: it raises Terminated when the signal comes, or has come."""
        self._may_raise = True
        try:
            if self._is_asked:
                raise Terminated
            yield
        finally:
            self._may_raise = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_asked = True
        if self._may_raise:
            self._may_raise = False  # a second signal must not interrupt what saves the state
            raise Terminated
