"""What goes wrong inside Orbax, told apart: damage to files, trouble with the machine, processes that ended."""

import re
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import orbax.checkpoint as ocp

from lsec_jax.parallel import processes

# With what TensorStore begins its messages about missing or wrong bytes; others are about the machine.
_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
# What jax's runtime says of a device without memory, and of a barrier that not all reached in time.
_NO_MEMORY, _TOO_LATE = "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"
# Broken collectives; where their result is fetched, jax raises them as plain ValueErrors.
_COLLECTIVES = re.compile(r"\bGloo \w+ failed|\bgloo/transport/|\bNCCL (operation|error)", re.IGNORECASE)


def is_damage(error: BaseException) -> bool:
    """Whether the files are missing or make no sense; that they could not be opened or held says nothing of them."""
    error = error.__cause__ or error
    if is_of_runtime(error):
        return False
    if status := re.match(r"[A-Z_]{5,}(?=: )", str(error)):
        return status[0] in _DAMAGE
    return isinstance(error, (FileNotFoundError, ValueError, KeyError, TypeError))


def is_of_runtime(error: BaseException) -> bool:
    """Whether jax's runtime says so, of devices and processes, and not who reads and writes files."""
    return any(isinstance(of, jax.errors.JaxRuntimeError) for of in _causes(error))


def is_lost_process(error: BaseException) -> bool:
    """Whether the processes of a run have lost each other, at a barrier or in what they compute together.

    Orbax makes a TimeoutError, and so an OSError, of whatever jax says at a barrier.
    """

    def says_so(of: BaseException) -> bool:
        if _COLLECTIVES.search(str(of)):
            return True
        return isinstance(of, jax.errors.JaxRuntimeError) and not str(of).startswith((_NO_MEMORY, _TOO_LATE))

    return processes.count() > 1 and any(map(says_so, _causes(error)))


def is_out_of_time(error: BaseException) -> bool:
    """Whether Orbax, or jax at a barrier, gave up waiting; a time that the system ran out of has a number."""

    def says_so(of: BaseException) -> bool:
        if isinstance(of, jax.errors.JaxRuntimeError):
            return str(of).startswith(_TOO_LATE)
        return isinstance(of, TimeoutError) and of.errno is None

    return any(map(says_so, _causes(error)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def brief(error: BaseException) -> str:
    """Orbax's messages run over pages; the first line of what it had from TensorStore says what happened."""
    error = error.__cause__ or error
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def barrier() -> Callable[..., None]:
    """Orbax's barrier for its threads, but one whose write failed passes by; else all would wait for each other.

    Its error is raised where this process next waits for what it saves, and ends it, and so the others.
    """
    own_thread, meet = threading.current_thread(), ocp.multihost.get_barrier_sync_fn()

    def passed(*, key: str, timeout_ms: int) -> None:
        has_failed = threading.current_thread() is not own_thread and sys.exception() is not None
        if not has_failed:
            meet(key=key, timeout_ms=timeout_ms)

    return passed
