"""The loop alone, ended at each of its steps and resumed: the end is that of a run that nothing broke."""

import dataclasses
import errno
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.config import TrainingConfig
from lsec_jax.training import checkpoints as checkpoints_lib
from lsec_jax.training import loop, state, writers
from lsec_jax.training.checkpoint_folders import CheckpointError
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.step_inputs import StepInput
from lsec_jax.training.termination import Terminated
from tests import runs

# Stops early at step 16, for the best validation is that of step 8.
CONFIG = TrainingConfig(
    num_steps=100, evaluate_every=4, patience=2, log_every=3, prefetch=0, on_nonfinite="skip", max_skipped=5
)
VALUES = {4: 0.2, 8: 0.9, 12: 0.3, 16: 0.9}
SAVE_EVERY, LAST = 5, 16


@jax.jit
def advance(old, inputs, batch):
    moved = old.params["w"] * 0.9 + jnp.sin(batch["at"])
    metrics = {"loss": jnp.sum(moved**2), "skipped": jnp.where((batch["at"] == 6) | (batch["at"] == 10), 1.0, 0.0)}
    return state.TrainState(old.step + 1, {"w": moved}, old.opt_state), metrics


def train(workdir, interrupted_at=None, interrupt=None, interrupt_validation=False):
    """Trains, or goes on; calls `interrupt` when a step begins, or in its validation."""

    def input_at(step):
        if step + 1 == interrupted_at and not interrupt_validation:
            interrupt()
        return StepInput({"at": np.float32(step + 1)})

    def validate(current):
        if int(current.step) == interrupted_at and interrupt_validation:
            interrupt()
        return {"validation": {"auc": VALUES[int(current.step)]}}

    with Checkpoints(workdir / "checkpoints", 2, keep_best=2) as checkpoints:
        start, progress = state.TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(3)}, ()), Progress()
        if (latest := checkpoints.latest_step()) is not None:
            start, progress = checkpoints.restore(start, latest)
        with writers.MetricWriter(workdir, int(start.step), CONFIG.num_steps, progress.owes_validation) as writer:
            loop.train(
                CONFIG, start, progress, advance, input_at, None, validate, checkpoints, writer, save_every=SAVE_EVERY
            )


def end_of(workdir):
    def timeless(record):
        return {name: value for name, value in record.items() if not name.endswith(runs.TIMING)}

    template = state.TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(3)}, ())
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        found, progress = checkpoints.restore(template, LAST)
        best = checkpoints.best_step()
    return {
        "w": np.asarray(found.params["w"]).tobytes(),
        "progress": timeless(dataclasses.asdict(progress)),
        "lines": [timeless(json.loads(line)) for line in (workdir / "metrics.jsonl").read_text().splitlines()],
        "shown": [of for of in runs.shown_by_tensorboard(workdir / "tensorboard") if timeless({of[1]: 0})],
        "best": best,
        "steps": runs.steps_of(workdir),
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    train(workdir)
    end = end_of(workdir)
    assert end["progress"]["skipped"] == [6, 10] and end["best"] == 8 and end["steps"] == [8, 15, 16]
    assert {line["step"] for line in end["lines"]} == {3, 4, 6, 8, 9, 12, 15, 16}
    return end


def separate_sessions(workdir):
    """A second's sessions would share one file."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        path.rename(path.with_name(f"earlier.{path.name}"))


def stop():
    raise KeyboardInterrupt


def ask():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", range(2, LAST + 1))
def test_a_run_that_was_cut_off_before_any_step_ends_like_an_unbroken_one(unbroken, tmp_path, step):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, step, stop)
    separate_sessions(tmp_path)
    train(tmp_path)
    assert end_of(tmp_path) == unbroken


@pytest.mark.parametrize("step", range(2, LAST + 1))
def test_a_run_that_was_asked_to_end_at_any_step_saves_it_and_ends_like_an_unbroken_one(unbroken, tmp_path, step):
    with pytest.raises(Terminated, match=rf"saved step {step}\b"):
        train(tmp_path, step, ask)
    assert runs.steps_of(tmp_path)[-1] == step
    separate_sessions(tmp_path)
    train(tmp_path)
    end = end_of(tmp_path)
    assert end.pop("steps")[-1] == LAST
    assert end == {name: value for name, value in unbroken.items() if name != "steps"}


@pytest.mark.parametrize("step", [*VALUES])
def test_a_run_that_was_asked_to_end_in_a_validation_makes_up_for_it(unbroken, tmp_path, step):
    with pytest.raises(Terminated, match=f"saved step {step}, whose validation comes first"):
        train(tmp_path, step, ask, interrupt_validation=True)
    separate_sessions(tmp_path)
    train(tmp_path)
    assert end_of(tmp_path) == unbroken


def stop_at(name):
    """Instead of replacing the file of that name."""
    write = checkpoints_lib.write_json
    return lambda path, value: stop() if path.name == name else write(path, value)


def full_disk(path, value):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


ENDS = {
    "killed before anything is stored": ((Checkpoints, "complete", lambda *args: stop()), KeyboardInterrupt),
    "killed before the first file": ((checkpoints_lib, "write_json", stop_at("metrics")), KeyboardInterrupt),
    "killed before the second file": ((checkpoints_lib, "write_json", stop_at("metadata")), KeyboardInterrupt),
    "full disk": ((checkpoints_lib, "write_json", full_disk), CheckpointError),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("step", [8, LAST])
def test_a_validation_that_is_owed_may_be_cut_off_again(unbroken, tmp_path, monkeypatch, step, how):
    with pytest.raises(Terminated):
        train(tmp_path, step, ask, interrupt_validation=True)
    separate_sessions(tmp_path)
    patch, error = ENDS[how]
    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(*patch)
        train(tmp_path)
    assert runs.steps_of(tmp_path)[-1] == step
    separate_sessions(tmp_path)
    train(tmp_path)
    assert end_of(tmp_path) == unbroken


def test_sigterm_is_as_before_when_training_is_over(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
