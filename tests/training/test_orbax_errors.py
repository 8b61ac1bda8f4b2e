"""What goes wrong while checkpoints are written and read: what users can put right, and what a new start does."""

import contextlib
import errno
import itertools
import os

import pytest
from jax.errors import JaxRuntimeError

from lsec_jax import cli
from lsec_jax.parallel import processes
from lsec_jax.parallel.processes import LostProcessError
from lsec_jax.schema import DataError
from lsec_jax.training.checkpoint_folders import CheckpointError, reading
from lsec_jax.training.checkpoints import Checkpoints


def chained(*errors):
    """The first error, which the second one caused, and so on."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


BARRIER = "Timed out while waiting for async_write_complete barrier."
LOST = [
    chained(TimeoutError(BARRIER), JaxRuntimeError("UNAVAILABLE: failed to connect to all addresses")),
    chained(TimeoutError("ChainedFuture"), TimeoutError(BARRIER), JaxRuntimeError("INTERNAL: a task has died")),
    JaxRuntimeError("UNKNOWN: Gloo AllReduce failed: Connection reset by peer"),
    ValueError("UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed"),
    ValueError("INTERNAL: NCCL operation ncclAllGather(...) failed: remote process exited"),
]
LATE = [
    chained(TimeoutError(BARRIER), JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out.")),
    TimeoutError("Timed out after 7.1 seconds."),
]
OF_DISKS = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)),
    ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device"),
]


@contextlib.contextmanager
def run_of(num_processes):
    processes.set_own(0, num_processes)
    try:
        yield
    finally:
        processes.set_own(0, 1)


def of_writing(tmp_path, error, num_processes=1):
    """What leaves the place where checkpoints are written."""
    with Checkpoints(tmp_path, save_seconds=7) as checkpoints, pytest.raises(Exception) as caught:
        with run_of(num_processes), checkpoints._writing():
            raise error
    return caught.value


def of_reading(tmp_path, error, num_processes=1):
    with pytest.raises(Exception) as caught, run_of(num_processes), reading(tmp_path / "3"):
        raise error
    return caught.value


@pytest.mark.parametrize("error", LOST, ids=str)
@pytest.mark.parametrize("place", [of_writing, of_reading])
def test_another_process_that_ended_is_no_users_error(tmp_path, place, error):
    found = place(tmp_path, error, num_processes=2)
    assert type(found) is LostProcessError and not isinstance(found, cli.USER_ERRORS)


@pytest.mark.parametrize("error", LATE, ids=str)
def test_a_checkpoint_that_takes_too_long_names_the_key_that_says_how_long(tmp_path, error):
    found = of_writing(tmp_path, error)
    assert type(found) is CheckpointError and "config.checkpoint.save_seconds = 7; no checkpoint" in str(found)


@pytest.mark.parametrize("error", OF_DISKS, ids=str)
def test_a_disk_that_cannot_be_written_is_named(tmp_path, error):
    found = of_writing(tmp_path, error)
    assert type(found) is CheckpointError and "Make room on that disk" in str(found)


def test_a_device_without_memory_is_not_a_full_disk(tmp_path):
    error = JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4096 bytes")
    assert of_writing(tmp_path, error) is error


def test_what_users_can_get_wrong_is_known_among_what_fails_in_another_process():
    class OfPlugin(DataError):
        """A package of one's own may have such types."""

    types = (*cli.USER_ERRORS, OfPlugin, FileNotFoundError)
    assert all(processes._is_for_users(type_.__new__(type_)) for type_ in types)
    others = [MemoryError(), ValueError("a bug"), KeyError("a bug"), LostProcessError("ended"), RuntimeError("a bug")]
    assert not any(map(processes._is_for_users, others))
