"""Inputs of steps, made ahead by a thread."""

import threading
import weakref

import jax
import numpy as np
import pytest

from lsec_jax.schema import DataError
from lsec_jax.training import fit, run, workdirs
from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.step_inputs import StepInput, StepInputs
from tests import runs


@pytest.mark.parametrize("num_ahead", [0, 1, 2, 7])
def test_inputs_come_in_the_order_of_steps_and_none_is_made_beyond_the_last(num_ahead):
    made = []

    def make(step):
        made.append(step)
        return StepInput({"at": step})

    with StepInputs(make, 3, 8, num_ahead) as stream:
        assert [stream.next().batch["at"] for _ in range(5)] == [3, 4, 5, 6, 7]
    assert made == [3, 4, 5, 6, 7]


def test_the_next_input_is_made_while_this_one_is_used():
    begun = threading.Event()

    def make(step):
        if step == 1:
            begun.set()
        return StepInput({})

    with StepInputs(make, 0, 10, 1) as stream:
        stream.next()
        assert begun.wait(timeout=60)


@pytest.mark.parametrize("num_ahead", [0, 2])
def test_what_goes_wrong_with_an_input_is_raised_where_its_step_would_begin(num_ahead):
    def make(step):
        if step == 1:
            raise ValueError("no such edge")
        return StepInput({})

    with StepInputs(make, 0, 10, num_ahead) as stream:
        stream.next()
        with pytest.raises(ValueError, match="no such edge"):
            stream.next()


@pytest.mark.parametrize("num_ahead", [0, 1, 3])
def test_no_more_inputs_are_in_memory_than_those_ahead_and_the_one_in_use(num_ahead):
    made, most = [], []

    def make(step):
        array = np.zeros(3)
        made.append(weakref.ref(array))
        return StepInput({"at": array})

    with StepInputs(make, 0, 50, num_ahead) as stream:
        for _ in range(20):
            used = stream.next()
            for future in stream._ready:
                future.result()
            most.append(sum(array() is not None for array in made))
            del used
    assert max(most) == 1 + num_ahead


def test_what_goes_wrong_ahead_ends_the_command_with_its_message_and_the_checkpoint_before_it_stays(
    tmp_path, monkeypatch
):
    input_at = run.Run.input_at

    def broken(self):
        made = input_at(self)

        def make(step):
            if step == 5:
                raise DataError("edge 7 of 'buy' is gone; restore the file")
            return made(step)

        return make

    monkeypatch.setattr(run.Run, "input_at", broken)
    config = tmp_path / "config.py"
    config.write_text(runs.CONFIG_FILE)
    message = runs.refusal("train", f"--config={config}", f"--workdir={tmp_path / 'run'}")
    assert message == "edge 7 of 'buy' is gone; restore the file"
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step-inputs")]


def test_leaving_ends_the_thread():
    with StepInputs(lambda step: StepInput({}), 0, 10, 2) as stream:
        stream.next()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("step-inputs")]


def sampled_config(prefetch):
    config = runs.tiny_config(log_every=1, prefetch=prefetch, num_steps=6)
    return runs.replace(config, model={"training_graph": "sampled", "fanout_limits": (2, 3)})


def final_params(workdir):
    prepared = run.prepare(workdirs.load_config(workdir, None, ()))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return jax.device_get(checkpoints.restore(prepared.initial_state(), 6)[0].params)


def test_sampled_training_that_is_killed_and_resumed_equals_an_unbroken_one_whatever_is_made_ahead(
    tmp_path, no_pictures
):
    with runs.killed_at(3):
        fit.run(sampled_config(3), tmp_path / "broken")
    fit.run(sampled_config(3), tmp_path / "broken")
    fit.run(sampled_config(0), tmp_path / "whole")
    broken, whole = final_params(tmp_path / "broken"), final_params(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, broken, whole)


def test_draws_made_ahead_are_those_that_the_step_would_make_itself():
    prepared = run.prepare(sampled_config(0))
    given = prepared.input_at()(4)
    assert given.drawn is not None and given.draw_seconds > 0
    step, results = prepared.step_function(), []
    for drawn in ((), (given.drawn,)):
        state = prepared.initial_state()._replace(step=jax.numpy.asarray(4, "int32"))
        results.append(step(state, prepared.inputs, given.batch, *drawn)[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *results)
    other = prepared.input_at()(5)
    assert not np.array_equal(other.drawn.negatives["buy"], given.drawn.negatives["buy"])
