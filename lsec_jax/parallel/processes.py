"""The processes of one run: who this one is, what all must have in common, and how all of them stop together.

Everything here is a no-op in a run of one process. What all processes must call, they must call in the same order.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from lsec_jax.config_json import differences

T = TypeVar("T")


class ProcessError(RuntimeError):
    """The processes of a run cannot work together; the message names the processes and the remedy."""


class LostProcessError(RuntimeError):
    """Another process of the run has ended; no user's error: the same command, started again, goes on."""


def count() -> int:
    """How many processes the run has."""
    return _Own.count


def index() -> int:
    """Which of them this is, counted from 0."""
    return _Own.index


def is_first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return _Own.index == 0


def are_connected() -> bool:
    """Whether the processes are connected: then the normal end of one waits for all others."""
    return jax.distributed.is_initialized()


def set_own(process_id: int, num_processes: int) -> None:
    """Start-up says who this process is."""
    _Own.index, _Own.count = process_id, num_processes


class _Own:
    index, count = 0, 1


def leave() -> None:
    """Parts from the other processes once all of them have called this; then each can end with a code of its own."""
    if _Own.count > 1:
        jax.distributed.shutdown()


@contextlib.contextmanager
def agreed(what: str) -> Iterator[None]:
    """Waits at its end for all processes; if one failed inside, all of them fail.

    Args:
        what: the phase, for messages, e.g. "preparing the data".

    Raises:
        ProcessError: if other processes failed by what a user can get wrong.
        RuntimeError: if they failed otherwise: the same command may do better.
        Exception: an error of this process's own, as it is.
    """
    if _Own.count == 1:
        yield
        return
    own_error = None
    try:
        yield
    except Exception as error:  # whatever it is, the others must not wait for this process for ever
        own_error = error
    texts = gather_texts("" if own_error is None else json.dumps([_is_for_users(own_error), _text(own_error)]))
    failed = {i: json.loads(text) for i, text in enumerate(texts) if text}
    if not failed:
        return
    leave()
    if own_error is not None:
        raise own_error
    told = f"{what}: " + "\n".join(f"process {i} failed: {text}" for i, (_, text) in failed.items())
    if any(is_for_users for is_for_users, _ in failed.values()):
        raise ProcessError(told)
    raise RuntimeError(told)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_for_users(error: Exception) -> bool:
    """Whether it is of cli.USER_ERRORS, which cannot be imported here: the package's own types and the system's."""
    is_own = any(of.__module__.startswith("lsec_jax.") for of in type(error).__mro__)
    return isinstance(error, OSError) or (is_own and not isinstance(error, LostProcessError))


def by_first(what: str, work: Callable[[], T]) -> T | None:
    """Has the first process do something, for which all wait, and fail if it fails.

    Args:
        what: the phase, for messages.
        work: what it does.

    Returns:
        What `work` returned, in the first process; None in the others.

    Raises:
        ProcessError, RuntimeError: as `agreed`.
    """
    found = None
    with agreed(what):
        if is_first():
            found = work()
    return found


def require_same(values: Mapping[str, Any], remedy: str) -> None:
    """Checks that all processes give the same values; if they do not, all of them part and fail.

    Args:
        values: JSON values by name.
        remedy: what to do about a difference.

    Raises:
        ProcessError: naming every value that differs from process 0's.
    """
    if _Own.count == 1:
        return
    text = json.dumps(values, sort_keys=True)
    digests = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
    if np.all(digests == digests[0]):
        return
    first, *others = (json.loads(own) for own in gather_texts(text))
    lines = [
        f"process {i}: {line}"
        for i, own in enumerate(others, 1)
        for name in sorted({*first, *own})
        for line in differences(first.get(name, "(absent)"), own.get(name, "(absent)"), name)
    ]
    if not lines:  # null and empty, which mean the same
        return
    leave()
    raise ProcessError("the processes differ (process 0 -> other):\n  " + "\n  ".join(lines) + f"\n{remedy}")


def of_first(value: Any) -> Any:
    """A JSON value of process 0, in all of them: what follows from a clock must not be decided by each."""
    return value if _Own.count == 1 else json.loads(gather_texts(json.dumps(value) if is_first() else "")[0])


def gather(value: Any) -> list[Any]:
    """Returns the JSON values of all processes, in their order."""
    return [value] if _Own.count == 1 else [json.loads(text) for text in gather_texts(json.dumps(value))]


def gather_texts(text: str) -> list[str]:
    """Returns the texts of all processes, in their order."""
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(own)))
    if not lengths.max():
        return [""] * _Own.count
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]
