"""Every model trains to the same numbers, however a run is divided over devices."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lsec_jax.config import ConfigError, ParallelConfig
from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.models.edge_tasks import TaskConfig
from lsec_jax.parallel import processes, strategies
from lsec_jax.parallel.divided_ranking import DividedRanker
from lsec_jax.parallel.mesh import make_mesh
from lsec_jax.training import run as run_lib
from tests import runs

NUM_STEPS = 50
# A choice by scores may fall otherwise where two are as good as equal, and all later numbers with it.
NUM_STEPS_WITH_CHOICES = 10
# Sums are made in another order: after 50 steps the metrics agree to this.
TOLERANCE = 2e-5

_TASKS = (TaskConfig("buy", weight=0.6, num_negatives=2), TaskConfig("follow", weight=0.4, loss="bpr"))
_ALL_RELATIONS = lsec_gnn.Config(
    tasks=_TASKS, embedding_dim=8, layer_dims=(6, 5), num_heads=2, predictor_hidden=7, l2=1e-3
)
MODELS = {
    "lightgcn": runs.tiny_config().model,
    "lsec_gcn": _ALL_RELATIONS,
    "lsec_gcn_whole_degrees": dataclasses.replace(_ALL_RELATIONS, excluded_degrees="whole", combination="attention"),
    "lsec_ngcf": dataclasses.replace(_ALL_RELATIONS, aggregator="ngcf", layer_combination="concat"),
    "lsec_gat": dataclasses.replace(_ALL_RELATIONS, aggregator="gat"),
    "lsec_gat_chunked": dataclasses.replace(_ALL_RELATIONS, aggregator="gat", backend="chunked"),
    "lsec_gcn_sampled": dataclasses.replace(_ALL_RELATIONS, training_graph="sampled", fanout_limits=(2, 3)),
    "shared_draws": dataclasses.replace(
        _ALL_RELATIONS, relations=("buy",), tasks=(TaskConfig("buy", num_negatives=2, rows_per_draw=4),)
    ),
    "hardest": dataclasses.replace(
        _ALL_RELATIONS, relations=("buy",), tasks=(TaskConfig("buy", num_negatives=2, hardest_of=3, rows_per_draw=4),)
    ),
    "ncf_lazy": ncf.Config(embedding_dim=6, mlp_dims=(8, 4), l2=1e-3),
    "ncf_dense": ncf.Config(embedding_dim=6, mlp_dims=(8, 4)),
}
# The others take as long again each.
QUICK = {"lsec_gcn", "lsec_gat", "lsec_gcn_sampled", "ncf_lazy"}
QUICK_EXCHANGING = {"ncf_lazy"}
PARALLEL = {
    "pmap": ParallelConfig("pmap", data=8),
    "sharded": ParallelConfig("sharded", data=2, model=4),
    # Ids of some steps have no room, those of others have.
    "all_to_all": ParallelConfig("sharded", data=2, model=4, lookup="all_to_all", lookup_capacity=2.0),
}


def config_of(name, parallel):
    config = runs.tiny_config(batch_size=64)
    config.model, config.parallel = MODELS[name], parallel
    # With Adam's own eps a gradient that is nothing but rounding would move a parameter as far as any other.
    config.optimizer.learning_rate, config.optimizer.eps = 0.02, 1e-4
    config.optimizer.tables = "lazy" if name == "ncf_lazy" else "auto"
    return config


def trained(name, parallel):
    """(metrics of each step, the scorer's arrays, parameters without the rows that fill up parts)."""
    run = run_lib.prepare(config_of(name, parallel))
    metrics, state = stepped(run, name)
    counts = {name: len(nodes) for name, nodes in run.data.nodes.items()}
    tables = {name: np.asarray(table)[: counts[name]] for name, table in state.params.tables.items()}
    params = jax.tree.map(np.asarray, (state.params.dense, tables))
    return metrics, scorer_arrays(run, state), params


def stepped(run, name):
    """(metrics of each step, the last state)."""
    state, step, input_at = run.initial_state(), run.step_function(), run.input_at()
    metrics = []
    for i in range(NUM_STEPS_WITH_CHOICES if name == "hardest" else NUM_STEPS):
        own = input_at(i)
        drawn = () if own.drawn is None else (own.drawn,)
        state, of_step = step(state, run.inputs, own.batch, *drawn)
        metrics.append({key: float(value) for key, value in of_step.items()})
    return metrics, state


def assert_close(metrics, wanted_metrics):
    """Each metric of each step."""
    assert metrics[0].keys() == wanted_metrics[0].keys()
    for key in metrics[0]:
        found, wanted = ([of[key] for of in each] for each in (metrics, wanted_metrics))
        np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)


def scorer_arrays(run, state):
    """The scorer's arrays without the rows that fill up parts."""
    scorer = run.scorer_function()(state)
    scorer = scorer.scorer if isinstance(scorer, DividedRanker) else scorer
    relation = run.data.relations[run.task]
    counts = {"source": len(run.data.nodes[relation.source]), "target": len(run.data.nodes[relation.target])}
    trimmed = {name: getattr(scorer, name)[: counts[name.split("_")[0]]] for name in scorer.per_node}
    return jax.tree.map(np.asarray, dataclasses.replace(scorer, **trimmed))


@functools.cache
def reference(name):
    return trained(name, ParallelConfig())


def case(name, strategy):
    is_quick = name in (QUICK_EXCHANGING if strategy == "all_to_all" else QUICK)
    return pytest.param(name, strategy, marks=[] if is_quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "strategy"), [case(name, strategy) for strategy in PARALLEL for name in MODELS])
def test_a_model_trains_to_the_same_numbers_on_one_device_and_on_eight(name, strategy):
    metrics, scorer, params = trained(name, PARALLEL[strategy])
    wanted_metrics, wanted_scorer, wanted_params = reference(name)
    if strategy == "all_to_all":
        overflows = [of.pop("lookup_overflow") for of in metrics]
        assert name != "ncf_lazy" or 0 == min(overflows) < max(overflows)
    assert_close(metrics, wanted_metrics)
    assert np.ptp([of["loss"] for of in wanted_metrics]) > 1e-3  # or nothing was compared
    for found, wanted in ((scorer, wanted_scorer), (params, wanted_params)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), found, wanted)


def test_tables_and_moments_are_divided_and_the_rest_is_copied():
    run = run_lib.prepare(config_of("lsec_gcn", PARALLEL["sharded"]))
    state = run.initial_state()
    params, moments = state.params, state.opt_state[0].mu
    for tables in (params.tables, moments.tables):
        for table in tables.values():
            assert len(table) % 4 == 0
            assert {shard.data.shape[0] for shard in table.addressable_shards} == {len(table) // 4}
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves((params.dense, moments.dense, state.step)))
    edges = run.inputs.graphs["buy"].to_source.senders
    assert {shard.data.shape[0] for shard in edges.addressable_shards} == {len(edges) // 4}


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ({"data": 3}, r"a batch of 'buy' has 64 rows .* over 3 devices; set config.training.batch_size to 63 or 66"),
        ({"data": 16}, r"config.parallel.data x config.parallel.model = 16 x 1 needs 16 devices, and there are 8"),
        ({"strategy": "sharded", "data": 0, "model": 9}, r"= all x 9 needs 9 devices, and there are 8"),
        ({"model": 2}, r"config.parallel.model = 2: strategy 'pmap' divides nothing along that axis; set it to 1"),
        ({"strategy": "ddp"}, r"config.parallel.strategy = 'ddp' is not known; choose one of: pmap, sharded"),
        ({"data": -1}, r"config.parallel.data = -1 must be at least 0"),
        (
            {"lookup": "gather"},
            r"config.parallel.lookup = 'gather' is not known; choose one of: all_gather, all_to_all",
        ),
        (
            {"lookup": "all_to_all"},
            r"'all_to_all': with config.parallel.model = 1 every device has whole tables; leave",
        ),
        (
            {"strategy": "sharded", "model": 2, "lookup": "all_to_all", "lookup_capacity": 0.0},
            r"config.parallel.lookup_capacity = 0.0 must be positive and finite",
        ),
        (
            {"strategy": "sharded", "model": 2, "lookup_capacity": 1.5},
            r"lookup_capacity = 1.5: lookup 'all_gather' has no such key; leave it at 2.0, or set .* to 'all_to_all'",
        ),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_with_a_remedy(parallel, message):
    with pytest.raises(ConfigError, match=message):
        run_lib.prepare(config_of("lightgcn", ParallelConfig(**parallel)))


def test_no_device_is_left_without_work_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)  # so that the CPU's devices count as those of a cluster
    for model in (3, 5):
        message = rf"model = {model} leaves {8 % model} of 8 without work; set .*model to a divisor \(1, 2, 4, 8\)"
        with pytest.raises(ConfigError, match=message):
            make_mesh(ParallelConfig("sharded", model=model))
    assert make_mesh(ParallelConfig("sharded", model=4)).shape == {"data": 2, "model": 4}
    assert make_mesh(ParallelConfig("sharded", data=2, model=3)).shape == {"data": 2, "model": 3}


def test_rows_that_share_their_draws_stay_on_one_device():
    config = config_of("shared_draws", ParallelConfig("pmap", data=8))
    config.training.batch_size = 56
    with pytest.raises(ConfigError, match=r"evenly, 4 rows together, over 8 devices; .*batch_size to 32 or 64"):
        run_lib.prepare(config)


def test_virtual_devices_of_a_cpu_are_used_where_they_are_asked_for():
    assert strategies.make(ParallelConfig()).num_replicas == 1
    assert strategies.make(ParallelConfig("sharded", model=2)).num_replicas == 2
    assert strategies.make(ParallelConfig("sharded", data=4, model=2)).num_replicas == jax.device_count() == 8
