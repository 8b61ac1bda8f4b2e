"""Checkpoints, SIGTERM and the failure of one process in a run of several."""

import fcntl
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params
from tests import runs
from tests.started import ended, free_port, start

NUM_ROWS, WIDTH = 1000, 300
# A table in four pieces, two for each of two processes, too large for Orbax to put both into one file.
PRELUDE = """
import os, pathlib, sys, time
import jax
address, rank, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
from lsec_jax.config import ConfigError, ParallelConfig, RunConfig
from lsec_jax.parallel import processes, startup
from lsec_jax.parallel.members import Member
startup.start(Member(address, 2, rank), RunConfig(None, None, parallel=ParallelConfig(heartbeat_seconds=10)), {})

import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lsec_jax import cli
from lsec_jax.training import fit, orbax_errors
from lsec_jax.training.checkpoint_folders import CheckpointError, DamagedCheckpointError
from lsec_jax.training.checkpoints import Checkpoints, Progress, read_chosen
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params
from lsec_jax.training.termination import Termination

mesh = jax.make_mesh((4,), ("model",), (AxisType.Auto,))
table = np.zeros((1200, 300), np.float32)
table[:1000] = np.arange(300_000).reshape(1000, 300)

def place(values, *axes):
    return jax.make_array_from_callback(values.shape, NamedSharding(mesh, P(*axes)), lambda index: values[index])

def state_at(step):
    return TrainState(place(np.array(step, np.int32)), Params({}, {"user": place(table, "model", None)}), ())

def save(*steps, **options):
    with Checkpoints(folder / "checkpoints", 3, **options) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), Progress())

class Run:
    restore = lambda self, checkpoints, step, verifies: checkpoints.restore(state_at(0), step, verifies)

def restore(fall_back):
    return fit._restore(Run(), folder / "checkpoints", fall_back, Checkpoints.latest_step)
"""
TERMINATED = """
with Checkpoints(folder / "checkpoints", 2) as checkpoints, Termination() as termination:
    termination.begin()
    for step in range(1, 10**4):
        if step == 1:
            checkpoints.save(state_at(step), Progress(), 0.5)
        time.sleep(0.02)
        if termination.is_due(step):
            checkpoints.save(state_at(step), Progress())
            break
with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
    assert checkpoints.latest_step() == step
    restored, _ = checkpoints.restore(state_at(0), step)
for piece in restored.params.tables["user"].addressable_shards:
    np.testing.assert_array_equal(piece.data, table[piece.index])
print("ended at", step)
"""


def started(script, folder, *arguments):
    """Two processes that run the script."""
    address = f"127.0.0.1:{free_port()}"
    return [start(["-c", PRELUDE + script, address, rank, folder, *arguments], num_devices=2) for rank in range(2)]


def test_sigterm_to_one_process_ends_all_at_one_step_and_what_they_saved_restores_on_one(tmp_path):
    children = started(TERMINATED, tmp_path)
    for _ in range(3000):
        if runs.steps_of(tmp_path):
            break
        assert all(child.poll() is None for child in children)
        time.sleep(0.1)
    children[1].send_signal(signal.SIGTERM)
    done = ended(children)
    assert [of.code for of in done] == [0, 0], "\n".join(of.err for of in done)
    told = [of.out.splitlines()[-1] for of in done]
    step = runs.steps_of(tmp_path)[-1]
    assert told == [f"ended at {step}"] * 2 and 1 < step < 10**4 - 1
    table = np.arange(1.0 * NUM_ROWS * WIDTH).reshape(NUM_ROWS, WIDTH)
    template = TrainState(jnp.int32(0), Params({}, {"user": jnp.zeros((NUM_ROWS, WIDTH))}), ())
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(template, step)
    np.testing.assert_array_equal(restored.params.tables["user"], table)


MAKE_DAMAGE = """
save(1, 2, 3)
if rank == 0:
    paths = (folder / "checkpoints" / "3" / "state" / "ocdbt.process_1").rglob("d/*")
    of_array = max(paths, key=lambda path: path.stat().st_size)
    of_array.write_bytes(of_array.read_bytes()[:1000])
with processes.agreed("damaging"):
    pass
"""
FALLEN_BACK = """
state, _ = restore(fall_back=True)
print("goes on from", int(state.step))

opened = Checkpoints.restore
def limited(*args):
    if rank == 1:
        raise MemoryError("no room for the table")
    return opened(*args)
Checkpoints.restore = limited
try:
    restore(fall_back=True)
except (CheckpointError, processes.ProcessError, RuntimeError, MemoryError) as error:
    print(type(error).__name__, error)
"""
REFUSED = """
try:
    restore(fall_back=False)
except DamagedCheckpointError as error:
    print(error)
    sys.exit(5 + rank)
"""


def test_damage_that_one_process_sees_is_damage_to_all_and_each_ends_with_its_message(tmp_path):
    done = ended(started(MAKE_DAMAGE + REFUSED, tmp_path))
    assert [of.code for of in done] == [5, 6], "\n".join(of.err for of in done)
    for of in done:
        assert "checkpoints/3: damaged (" in of.out and "OUT_OF_RANGE" in of.out
    assert runs.steps_of(tmp_path) == [1, 2, 3]


def test_all_processes_fall_back_together_but_not_where_one_has_no_memory_which_is_no_users_error(tmp_path):
    done = ended(started(MAKE_DAMAGE + FALLEN_BACK, tmp_path))
    assert [of.code for of in done] == [0, 0], "\n".join(of.err for of in done)
    for of, kind in zip(done, ("RuntimeError", "MemoryError"), strict=True):
        resumed, trouble = of.out.splitlines()[-2:]
        assert resumed == "goes on from 2"
        assert trouble.startswith(f"{kind} ") and "no room for the table" in trouble
    assert runs.steps_of(tmp_path) == [1, 2]
    assert [path.name for path in (tmp_path / "damaged_checkpoints").iterdir()] == ["3"]


LOST = """
save(1, 2)
if rank == 1:
    Checkpoints.restore = lambda *args: os._exit(1)
restore(fall_back=True)
"""


def test_a_process_that_ends_while_it_restores_does_not_make_a_checkpoint_damaged(tmp_path):
    first, second = ended(started(LOST, tmp_path))
    assert second.code == 1 and first.code != 0 and "damaged" not in first.err
    assert runs.steps_of(tmp_path) == [1, 2] and not (tmp_path / "damaged_checkpoints").exists()


LOCKED = """
import functools
from lsec_jax.training import locks
locks.await_sight = functools.partial(locks.await_sight, seconds=1.0)
try:
    with locks.WorkdirLock(folder / (str(rank) if (folder / str(rank)).exists() else "")):
        print("taken")
except (ConfigError, processes.ProcessError) as error:
    print(error)
"""


def test_a_workdir_in_use_is_refused_to_all_processes_of_a_run(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = ended(started(LOCKED, tmp_path))
    assert [of.code for of in done] == [0, 0], "\n".join(of.err for of in done)
    told = [of.out.splitlines()[-1] for of in done]
    assert all(f"workdir {tmp_path} is in use by another process" in text for text in told), told


def test_processes_that_have_workdirs_of_their_own_are_refused(tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "lock").write_text("of the same earlier run")
    done = ended(started(LOCKED, tmp_path))
    assert [of.code for of in done] == [0, 0], "\n".join(of.err for of in done)
    told = [of.out.splitlines()[-1] for of in done]
    assert all(f"{tmp_path / '1' / 'lock'}: this process does not see what process 0" in text for text in told), told


FULL = """
import resource
try:
    with Checkpoints(folder / "checkpoints", 3) as checkpoints:
        checkpoints.save(state_at(1), Progress())
        assert checkpoints.finished_step() == 1
        if rank == int(sys.argv[4]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for step in (2, 3):
            checkpoints.save(state_at(step), Progress())
except cli.USER_ERRORS as error:
    print(error, flush=True)
    os._exit(2)
"""


@pytest.mark.parametrize("failing", [0, 1])
def test_only_the_process_that_cannot_write_its_part_of_a_checkpoint_says_so_and_all_end(tmp_path, failing):
    begun = time.monotonic()
    done = ended(started(FULL, tmp_path, failing))
    assert time.monotonic() - begun < 100, "they waited for each other"
    assert done[failing].code == 2 and done[1 - failing].code not in (0, 2), "\n".join(of.err for of in done)
    assert "could not be written" not in done[1 - failing].out
    assert "could not be written" in done[failing].out and "step 1 is intact" in done[failing].out
    assert runs.steps_of(tmp_path) == [1]


# A process that has written its files meets the others before the checkpoint gets its name.
COMMITTING = """
import threading
import orbax.checkpoint as ocp
save(1)

def before_commit(action):
    meet = ocp.multihost.get_barrier_sync_fn()
    def met(**rest):
        if threading.current_thread() is not threading.main_thread():
            action()
        meet(**rest)
    if rank == int(sys.argv[4]):
        orbax_errors.barrier = lambda: met

def report(**options):
    try:
        save(2, **options)
    except cli.USER_ERRORS as error:
        print(type(error).__name__, error, flush=True)
        os._exit(2)
"""
KILLED = (
    COMMITTING
    + """
before_commit(lambda: os.kill(os.getpid(), 9))
report()
"""
)
SLOW = (
    COMMITTING
    + """
before_commit(lambda: time.sleep(8))
report(save_seconds=2)
"""
)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_during_a_save_ends_the_other_which_may_be_started_again(tmp_path, killed):
    done = ended(started(KILLED, tmp_path, killed))
    assert done[killed].code == -signal.SIGKILL
    assert done[1 - killed].code not in (0, 2), done[1 - killed].err
    assert runs.steps_of(tmp_path) == [1] and list((tmp_path / "checkpoints").glob("2*tmp*"))
    again = ended(started("save(2)", tmp_path))
    assert [of.code for of in again] == [0, 0] and runs.steps_of(tmp_path) == [1, 2]


def test_a_checkpoint_that_a_process_does_not_write_in_time_names_the_key_and_the_one_before_it_stays(tmp_path):
    first, second = ended(started(SLOW, tmp_path, 1))
    assert first.code == 2, first.err
    assert (
        "CheckpointError" in first.out and "config.checkpoint.save_seconds = 2; the checkpoint of step 1" in first.out
    )
    assert second.code != 0 and runs.steps_of(tmp_path) == [1]


HANGING = """
import signal
if rank == int(sys.argv[4]):
    (folder / "hangs").touch()
    os.kill(os.getpid(), signal.SIGSTOP)
processes.gather(rank)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hanging", [0, 1])
def test_a_process_that_hangs_ends_the_other_after_the_seconds_without_a_heartbeat(tmp_path, hanging):
    children = started(HANGING, tmp_path, hanging)
    try:
        for _ in range(3000):
            if (tmp_path / "hangs").exists():
                break
            assert all(child.poll() is None for child in children)
            time.sleep(0.1)
        begun = time.monotonic()
        (other,) = ended([children[1 - hanging]])
        assert other.code not in (0, 2) and time.monotonic() - begun < 60, other.err
    finally:
        children[hanging].kill()
        children[hanging].communicate()


CHOSEN = """
save(1, 2)
newest = folder / "checkpoints" / "2"

def read(checkpoints, step):
    if step == 2 and rank == 1:  # training goes on and removes it when one process has read it already
        newest.rename(folder / "removed")
        raise CheckpointError("gone")
    while step == 2 and newest.exists():
        time.sleep(0.05)
    return [step, rank]

print(read_chosen(folder / "checkpoints", lambda checkpoints: checkpoints.latest_step() if rank == 0 else 99, read))
"""


def test_the_first_process_chooses_for_all_and_again_where_a_checkpoint_is_gone_for_one_of_them(tmp_path):
    done = ended(started(CHOSEN, tmp_path))
    assert [of.code for of in done] == [0, 0], "\n".join(of.err for of in done)
    assert [of.out.splitlines()[-1] for of in done] == [f"(1, [1, {rank}])" for rank in range(2)]
