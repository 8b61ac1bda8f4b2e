"""Checkpoints and SIGTERM in a run of several processes."""

import signal
import time

import jax.numpy as jnp
import numpy as np

from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params
from tests import runs
from tests.started import ended, free_port, start

NUM_ROWS = 10
# A table in four pieces, two for each of two processes; one of the processes is asked to end.
PROCESS = """
import pathlib, sys, time
import jax
address, rank, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
from lsec_jax.config import RunConfig
from lsec_jax.parallel import startup
from lsec_jax.parallel.members import Member
startup.start(Member(address, 2, rank), RunConfig(None, None), {})

import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.state import TrainState
from lsec_jax.training.tables import Params
from lsec_jax.training.termination import Termination

mesh = jax.make_mesh((4,), ("model",), (AxisType.Auto,))
table = np.zeros((12, 3), np.float32)
table[:10] = np.arange(30).reshape(10, 3)

def place(values, *axes):
    return jax.make_array_from_callback(values.shape, NamedSharding(mesh, P(*axes)), lambda index: values[index])

def state_at(step):
    return TrainState(place(np.array(step, np.int32)), Params({}, {"user": place(table, "model", None)}), ())

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


def test_sigterm_to_one_process_ends_all_at_one_step_and_what_they_saved_restores_on_one(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    children = [start(["-c", PROCESS, address, rank, tmp_path], num_devices=2) for rank in range(2)]
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
    table = np.arange(3.0 * NUM_ROWS).reshape(NUM_ROWS, 3)
    template = TrainState(jnp.int32(0), Params({}, {"user": jnp.zeros((NUM_ROWS, 3))}), ())
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(template, step)
    np.testing.assert_array_equal(restored.params.tables["user"], table)
