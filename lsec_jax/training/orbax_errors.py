"""What goes wrong inside Orbax, told apart: damage to files, trouble with the machine, processes that ended."""

import re
import sys
import threading
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp

# With what TensorStore begins its messages about missing or wrong bytes; others are about the machine.
_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")


def is_damage(error: BaseException) -> bool:
    """Whether the files are missing or make no sense; that they could not be opened or held says nothing of them."""
    error = error.__cause__ or error
    if status := re.match(r"[A-Z_]{5,}(?=: )", str(error)):
        return status[0] in _DAMAGE
    return isinstance(error, (FileNotFoundError, ValueError, KeyError, TypeError))


def is_broken_connection(error: BaseException) -> bool:
    """Whether the processes of a run have lost each other, as Orbax says it of a barrier."""
    return isinstance(error.__cause__ or error, jax.errors.JaxRuntimeError)


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
