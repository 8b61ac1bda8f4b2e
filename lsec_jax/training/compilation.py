"""When XLA compiles: how often, how long, a warning when it happens late, and a cache of what it made, on disk."""

import contextlib
import functools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

from lsec_jax.config import ConfigError

_COMPILE = "/jax/core/compile/backend_compile_duration"
_PHASES = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration", _COMPILE)
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compiled(NamedTuple):
    """What was compiled in this process since `log` was first called.

    Attributes:
        programs: how many programs XLA was asked for.
        from_cache: how many of them came from the cache on disk.
        seconds: time in which something was traced, lowered, compiled or read from the cache.
    """

    programs: int
    from_cache: int
    seconds: float


class CompilationLog:
    """Listens to jax's own events, of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # programs of steps and of their inputs may compile at the same time
        self._programs: list[str] = []
        self._from_cache = 0
        self._spans: list[tuple[float, float]] = []

    def now(self) -> Compiled:
        """What was compiled so far."""
        with self._lock:
            return Compiled(len(self._programs), self._from_cache, sum(end - start for start, end in self._spans))

    def programs_since(self, before: Compiled) -> list[str]:
        """The functions whose programs were asked for since then."""
        return self._programs[before.programs :]

    def on_span(self, event: str, start_time: float, end_time: float, **about: str | int) -> None:
        """Takes one phase in; phases lie within each other, and those of threads overlap: time counts once."""
        if event not in _PHASES:
            return
        start, end = start_time, end_time
        with self._lock:
            while self._spans and self._spans[-1][1] >= start:
                start, end = min(start, self._spans[-1][0]), max(end, self._spans.pop()[1])
            self._spans.append((start, end))
            if event == _COMPILE:
                self._programs.append(str(about.get("fun_name", "?")))

    def on_event(self, event: str, **about: str | int) -> None:
        """Counts what came from the cache."""
        with self._lock:
            self._from_cache += event == _CACHE_HIT


@functools.cache
def log() -> CompilationLog:
    """The log of this process, which begins with the first call."""
    made = CompilationLog()
    jax.monitoring.register_event_time_span_listener(made.on_span)
    jax.monitoring.register_event_listener(made.on_event)
    return made


class RecompilationGuard:
    """Warns, once, if something compiles in a phase that has run before: shapes or types that change cost a stall."""

    def __init__(self) -> None:
        self._warm: set[str] = set()
        self._has_warned = False

    @contextlib.contextmanager
    def phase(self, name: str, step: int) -> Iterator[None]:
        """Watches what is inside.

        Args:
            name: of the phase; its first time is the warm-up.
            step: for the warning.
        """
        before = log().now()
        yield
        if name in self._warm and not self._has_warned and (again := log().programs_since(before)):
            self._has_warned = True
            logging.warning(
                "step %d: %s compiled again after warm-up: %s. Training goes on, but every such compilation stalls it",
                step,
                name,
                ", ".join(dict.fromkeys(again)),
            )
        self._warm.add(name)


def use_cache(directory: Path) -> None:
    """Keeps every compiled program in a directory, for later processes; programs of any size and duration.

    Entries know the program, jaxlib, its flags, the device and the directory's path. Give only a directory that nobody
    else may write to: what lies in it is run. It grows until someone empties it. An entry that a killed process or a
    full disk left damaged is compiled again in each process, with a warning, until it is removed.

    Args:
        directory: made if need be.

    Raises:
        ConfigError: if it cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(
            f"--compilation_cache={directory}: cannot be written ({error.strerror}); choose another directory"
        ) from None
    jax.config.update("jax_compilation_cache_dir", os.fspath(directory.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # jax asks only once per process whether there is one
    log()
