"""Rankers of sharing recommendation on the shares of a small world, through a run."""

import numpy as np
import pytest

from lsec_jax.training import run as run_lib
from tests import sharing_runs
from tests.parallel.test_sharing_strategies import QUICK

WITHOUT_TEST = sorted({*sharing_runs.MODELS} - {name for name, _ in QUICK})


@pytest.mark.parametrize("name", WITHOUT_TEST)
def test_a_ranker_takes_two_steps_of_a_run_and_scores_rows_of_all_splits(name):
    run = run_lib.prepare(sharing_runs.sharing_config(name))
    state, step, input_at = run.initial_state(), run.step_function(), run.input_at()
    losses = []
    for i in range(2):
        state, metrics = step(state, run.inputs, input_at(i).batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    scores = run.scorer_function()(state)(np.arange(0, len(run.data.events["share"]), 9))["accepted"]
    assert np.isfinite(scores).all() and np.ptp(scores) > 0


def test_the_world_has_scenarios_that_training_does_not_know():
    run = run_lib.prepare(sharing_runs.sharing_config("multi_scenario"))
    rows = np.arange(len(run.data.events["share"]))
    shown = run.encoder.encode(rows)["ids"]["scenario_id"][:, 0]
    assert (shown == 0).any() and len(np.unique(shown)) > 3
