"""Rankers of sharing recommendation train to the same numbers, however a run is divided over devices."""

import functools

import jax
import numpy as np
import pytest

from lsec_jax.config import ParallelConfig
from lsec_jax.training import run as run_lib
from tests import sharing_runs
from tests.models.sharing.batches import MODELS
from tests.parallel.test_strategies import PARALLEL, assert_close

NUM_STEPS = 5
# The others take as long again each.
QUICK = {("treems", "sharded"), ("scenario_meta", "pmap"), ("scenario_meta", "sharded"), ("pinsage_lstm", "sharded")}


def trained(name, parallel):
    """(metrics of each step, parameters without the rows that fill up parts, outputs of some rows)."""
    config = sharing_runs.sharing_config(name, dropout=0.2, l2=1e-3)
    config.parallel = parallel
    # With Adam's own eps a gradient that is nothing but rounding would move a parameter as far as any other.
    config.optimizer.eps = 1e-4
    run = run_lib.prepare(config)
    state, step, input_at = run.initial_state(), run.step_function(), run.input_at()
    metrics = []
    for i in range(NUM_STEPS):
        state, of_step = step(state, run.inputs, input_at(i).batch)
        metrics.append({key: float(value) for key, value in of_step.items()})
    sizes = {of.name: of.num_rows for of in run.encoder.layout.tables}
    kept = {of: np.asarray(values)[: sizes[of]] for of, values in state.params.tables.items()}
    params = jax.tree.map(np.asarray, (state.params.dense, kept))
    return metrics, params, run.scorer_function()(state)(np.arange(0, 900, 3))


@functools.cache
def reference(name):
    return trained(name, ParallelConfig())


def case(name, strategy):
    return pytest.param(name, strategy, marks=[] if (name, strategy) in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(("name", "strategy"), [case(name, strategy) for strategy in PARALLEL for name in MODELS])
def test_a_ranker_trains_to_the_same_numbers_on_one_device_and_on_eight(name, strategy):
    metrics, params, outputs = trained(name, PARALLEL[strategy])
    wanted_metrics, wanted_params, wanted_outputs = reference(name)
    for of in metrics if strategy == "all_to_all" else ():
        of.pop("lookup_overflow")
    assert_close(metrics, wanted_metrics)
    assert np.ptp([of["loss"] for of in wanted_metrics]) > 1e-3  # or nothing was compared
    for found, wanted in ((params, wanted_params), (outputs, wanted_outputs)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), found, wanted)


def test_adaptation_is_part_of_what_is_compared():
    metrics, params, _ = reference("scenario_meta")
    assert np.ptp([of["adaptation/distance"] for of in metrics]) > 0
    dense = params[0]
    for of in dense["gradients"].values():
        assert not of[0].any() and of[1:].any()
    assert all(np.ptp(of) > 0 for of in dense["rates"].values())
