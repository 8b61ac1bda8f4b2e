"""Rankers of impressions train to the same numbers, however a run is divided over devices."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lsec_jax.config import ConfigError, ParallelConfig
from lsec_jax.training import run as run_lib
from tests import event_runs
from tests.parallel.test_strategies import PARALLEL, assert_close

NUM_STEPS = 6
MODELS = {
    "eliverec": event_runs.eliverec_model(dropout=0.2, l2=1e-3, specific_separation=0.01, is_symmetric=True),
    "din": event_runs.baseline_model("din", tasks=("stay",), task_weights=(0.3,), dropout=0.2, l2=1e-3),
    "one_step": event_runs.baseline_model(
        "wdl", tasks=("stay", "bag"), task_weighting="adaptive", look_ahead="one_step", look_ahead_rate=1.0
    ),
    "uncertainty": event_runs.baseline_model("mmoe", tasks=("stay",), task_weighting="uncertainty"),
}
# The others take as long again each.
QUICK = {("eliverec", "auto", "sharded"), ("eliverec", "auto", "pmap"), ("din", "lazy", "sharded")}
QUICK |= {("one_step", "auto", "pmap")}


def config_of(name, tables, parallel):
    config = event_runs.event_config(MODELS[name])
    config.parallel = parallel
    # With Adam's own eps a gradient that is nothing but rounding would move a parameter as far as any other.
    config.optimizer.eps, config.optimizer.tables = 1e-4, tables
    return config


def trained(name, tables, parallel):
    """(metrics of each step, parameters without the rows that fill up parts, outputs of some rows by task)."""
    run = run_lib.prepare(config_of(name, tables, parallel))
    state, step, input_at = run.initial_state(), run.step_function(), run.input_at()
    metrics = []
    for i in range(NUM_STEPS):
        state, of_step = step(state, run.inputs, input_at(i).batch)
        metrics.append({key: float(value) for key, value in of_step.items()})
    sizes = {of.name: of.num_rows for of in run.encoder.layout.tables}
    kept = {of: np.asarray(values)[: sizes[of]] for of, values in state.params.tables.items()}
    params = jax.tree.map(np.asarray, (state.params.dense, kept))
    return metrics, params, run.scorer_function()(state)(np.arange(1500, 2400, 3))


@functools.cache
def reference(name, tables):
    return trained(name, tables, ParallelConfig())


def case(name, tables, strategy):
    is_quick = (name, tables, strategy) in QUICK
    return pytest.param(name, tables, strategy, marks=[] if is_quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "tables", "strategy"),
    [case(name, tables, strategy) for strategy in PARALLEL for name in MODELS for tables in ("auto", "dense", "lazy")],
)
def test_a_ranker_trains_to_the_same_numbers_on_one_device_and_on_eight(name, tables, strategy):
    metrics, params, outputs = trained(name, tables, PARALLEL[strategy])
    wanted_metrics, wanted_params, wanted_outputs = reference(name, tables)
    for of in metrics if strategy == "all_to_all" else ():
        of.pop("lookup_overflow")
    assert_close(metrics, wanted_metrics)
    assert np.ptp([of["loss"] for of in wanted_metrics]) > 1e-3  # or nothing was compared
    for found, wanted in ((params, wanted_params), (outputs, wanted_outputs)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), found, wanted)


def test_regularisers_weights_and_dropout_are_part_of_what_is_compared():
    config = MODELS["eliverec"]
    assert config.has_regularisers and config.task_weighting == "adaptive" and config.dropout > 0
    metrics = reference("eliverec", "auto")[0]
    for name in ("distance_correlation/watches", "contrast", "bag/weight", "bag/cosine", "stay/loss"):
        assert np.ptp([of[name] for of in metrics]) > 0, (name, sorted(metrics[0]))


def test_groups_of_regularisers_stay_on_one_device():
    config = config_of("eliverec", "auto", PARALLEL["pmap"])
    config.model = dataclasses.replace(config.model, regulariser_group_size=16)
    message = r"a batch of 'impression' has 64 rows .*evenly, 16 rows together, over 8 devices; .*batch_size to 128"
    with pytest.raises(ConfigError, match=message):
        run_lib.prepare(config)


def test_tables_of_impressions_are_divided_by_rows_and_the_rest_is_copied():
    run = run_lib.prepare(config_of("din", "auto", PARALLEL["sharded"]))
    state = run.initial_state()
    for tables in (state.params.tables, state.opt_state[0].mu.tables):
        for table in tables.values():
            assert len(table) % 4 == 0
            assert {shard.data.shape[0] for shard in table.addressable_shards} == {len(table) // 4}
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params.dense))
