"""Lazy updates of embedding tables against dense optax and a slow numpy reference; runs that use them.

What must agree bit for bit runs without jit: compiled, the loops of lazy and dense updates are fused and vectorised
differently, which moves last bits.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from lsec_jax.config import ConfigError, OptimizerConfig
from lsec_jax.models import ncf
from lsec_jax.models.graph_inputs import Inputs
from lsec_jax.nn.sampling import positive_edges
from lsec_jax.schema import DataError
from lsec_jax.training import fit, optimizers, run, state, tables, writers
from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.tables import Params
from tests import runs
from tests.worlds import random_edges

pytestmark = pytest.mark.usefixtures("no_pictures")

OPTIMIZERS = ("adam", "adagrad", "sgd")
WIDTH = 3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Tests of a few rows must go through several blocks, and through one that overlaps another."""
    monkeypatch.setattr(tables, "CPU_BLOCK", 4)


def optimizer_of(name):
    return optimizers.build(OptimizerConfig(name, learning_rate=0.1, warmup_steps=3), 100)


def start(name, num_rows, seed=0):
    """Parameters and state: a dense part, a lazy table and another one."""
    drawn = [jax.random.normal(key, (num_rows, WIDTH)) for key in jax.random.split(jax.random.key(seed), 3)]
    params = Params({"w": drawn[0]}, {"lazy": drawn[1], "other": drawn[2]})
    return params, optimizer_of(name).init(params)


def lazy_step(name, params, opt_state, gradients, ids, of_slots):
    """One step, from the gradient of each slot of the lazy table."""
    rows, slots = tables.distinct_rows(ids, len(params.tables["lazy"]))
    summed = {**gradients.tables, "lazy": tables.sum_repeated(of_slots, slots)}
    gradients = gradients._replace(tables=summed)
    return tables.apply_gradients(optimizer_of(name), gradients, params, opt_state, {"lazy": rows})


def dense_step(name, params, opt_state, gradients, ids, of_slots):
    """The same with optax alone."""
    whole = jnp.zeros_like(params.tables["lazy"]).at[ids].add(of_slots)
    gradients = gradients._replace(tables={**gradients.tables, "lazy": whole})
    return tables.apply_gradients(optimizer_of(name), gradients, params, opt_state, {})


def draw(generator, num_rows, num_slots):
    """(gradients of what is dense, ids, gradients of the slots)."""
    dense = [jnp.asarray(generator.normal(size=(num_rows, WIDTH)), jnp.float32) for _ in range(2)]
    ids = jnp.asarray(generator.integers(0, num_rows, num_slots), jnp.int32)
    of_slots = jnp.asarray(generator.normal(size=(num_slots, WIDTH)), jnp.float32)
    return Params({"w": dense[0]}, {"other": dense[1]}), ids, of_slots


jitted_lazy_step, jitted_dense_step = jax.jit(lazy_step, static_argnums=0), jax.jit(dense_step, static_argnums=0)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_close(left, right):
    """Equal but for the last bits of values and updates."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), left, right)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(OPTIMIZERS), st.sampled_from([1, 7, 40]), st.sampled_from([1, 4, 11]), st.integers(0, 2**32 - 1))
def test_the_first_step_is_dense_optaxs_bit_for_bit(name, num_rows, num_slots, seed):
    arguments = *start(name, num_rows), *draw(np.random.default_rng(seed), num_rows, num_slots)
    with jax.disable_jit():
        assert_same(lazy_step(name, *arguments), dense_step(name, *arguments))
    assert_close(jitted_lazy_step(name, *arguments), jitted_dense_step(name, *arguments))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_that_touch_every_row_are_dense_optaxs(name):
    generator = np.random.default_rng(1)
    lazy = dense = start(name, 7)
    with jax.disable_jit():
        for _ in range(5):
            gradients, _, of_slots = draw(generator, 7, 14)
            ids = jnp.asarray(generator.permutation(np.repeat(np.arange(7), 2)), jnp.int32)
            lazy = lazy_step(name, *lazy, gradients, ids, of_slots)
            dense = dense_step(name, *dense, gradients, ids, of_slots)
    assert_same(lazy, dense)


@pytest.mark.parametrize("name", ["adagrad", "sgd"])
def test_without_moments_that_decay_lazy_steps_are_dense_optaxs_whatever_they_touch(name):
    generator = np.random.default_rng(2)
    lazy = dense = start(name, 40)
    with jax.disable_jit():
        for _ in range(5):
            arguments = draw(generator, 40, 11)
            lazy, dense = lazy_step(name, *lazy, *arguments), dense_step(name, *dense, *arguments)
    assert_same(lazy, dense)


def reference(name, table, steps):
    """Lazy updates in float64, row by row, from the definition in `training/tables.py`."""
    table, rate = np.asarray(table, np.float64), [0.0, 0.1 / 3, 0.2 / 3]
    first = np.zeros_like(table)
    second = np.full_like(table, 0.1 if name == "adagrad" else 0.0)
    for step, (ids, of_slots) in enumerate(steps):
        learning_rate = rate[step] if step < 3 else 0.1
        for row in set(ids.tolist()):
            gradient = sum(of_slots[slot].astype(np.float64) for slot in np.flatnonzero(ids == row))
            if name == "sgd":
                table[row] -= learning_rate * gradient
            elif name == "adagrad":
                second[row] += gradient**2
                table[row] -= learning_rate * gradient / np.sqrt(second[row] + 1e-8)
            else:
                first[row] = 0.9 * first[row] + 0.1 * gradient
                second[row] = 0.999 * second[row] + 0.001 * gradient**2
                corrected = first[row] / (1 - 0.9 ** (step + 1)), second[row] / (1 - 0.999 ** (step + 1))
                table[row] -= learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return table, first, second


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_rows", [1, 40])
def test_many_steps_follow_the_definition(name, num_rows):
    generator = np.random.default_rng(3)
    params, opt_state = start(name, num_rows)
    begun, steps = params.tables["lazy"], []
    for _ in range(60):
        gradients, ids, of_slots = draw(generator, num_rows, 6)
        steps.append((np.asarray(ids), np.asarray(of_slots)))
        params, opt_state = jitted_lazy_step(name, params, opt_state, gradients, ids, of_slots)
    table, first, second = reference(name, begun, steps)
    np.testing.assert_allclose(params.tables["lazy"], table, rtol=2e-4, atol=2e-5)
    if name == "adam":
        np.testing.assert_allclose(opt_state[0].mu.tables["lazy"], first, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(opt_state[0].nu.tables["lazy"], second, rtol=2e-4, atol=2e-6)
        assert opt_state[0].count == 60
    if name == "adagrad":
        np.testing.assert_allclose(opt_state[0].sum_of_squares.tables["lazy"], second, rtol=2e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_that_are_not_looked_up_and_their_moments_keep_every_bit(name):
    generator = np.random.default_rng(4)
    before = start(name, 40)
    for _ in range(5):
        before = jitted_lazy_step(name, *before, *draw(generator, 40, 30))
    gradients, ids, of_slots = draw(generator, 40, 11)
    after = jitted_lazy_step(name, *before, gradients, ids, of_slots)
    untouched = np.setdiff1d(np.arange(40), ids)
    assert len(untouched) >= 29 and 39 in untouched  # 39 is the row that a clipped id would write

    def check(old, new):
        for table in ("lazy", "other"):
            is_same = (np.asarray(old.tables[table]) == np.asarray(new.tables[table])).all(axis=1)
            np.testing.assert_array_equal(np.flatnonzero(is_same), untouched if table == "lazy" else [])

    nodes = [jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Params)) for tree in (before, after)]
    pairs = [pair for pair in zip(*nodes, strict=True) if isinstance(pair[0], Params)]
    assert len(pairs) == {"adam": 3, "adagrad": 2, "sgd": 1}[name]
    for pair in pairs:
        check(*pair)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_each_row_is_listed_once_and_repeated_slots_point_past_the_table(ids):
    rows, slots = map(np.asarray, tables.distinct_rows(jnp.asarray(ids, jnp.int32), 9))
    assert sorted(rows[rows < 9]) == sorted(set(ids)) and len(set(rows.tolist())) == len(ids)
    np.testing.assert_array_equal(rows[slots], ids)
    of_slots = np.random.default_rng(0).normal(size=(len(ids), 2)).astype(np.float32)
    summed = np.asarray(tables.sum_repeated(jnp.asarray(of_slots), jnp.asarray(slots)))
    for slot, row in enumerate(rows):
        np.testing.assert_allclose(summed[slot], of_slots[np.array(ids) == row].sum(axis=0), rtol=1e-6)
    assert not summed[rows >= 9].any()


# Runs of a model that looks rows up.


def ncf_config(mode="lazy", relation="buy", **training):
    config = runs.tiny_config(**training)
    config.model = ncf.Config("neumf", relation, embedding_dim=4, mlp_dims=(4,), num_negatives=2, l2=0.01)
    config.optimizer.tables, config.optimizer.learning_rate = mode, 0.01
    return config


def steps_of(config, num_steps=1):
    prepared = run.prepare(config)
    current, step = prepared.initial_state(), prepared.step_function()
    for i in range(num_steps):
        current, metrics = step(current, prepared.inputs, prepared.batch_at()(i))
    return jax.device_get((current, metrics))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_lazy_step_of_ncf_is_the_dense_one(name):
    def first_step(mode):
        config = ncf_config(mode)
        config.optimizer.name = name
        return steps_of(config)

    (lazy, lazy_metrics), (dense, dense_metrics) = first_step("lazy"), first_step("dense")
    assert_close(lazy, dense)
    assert_close(lazy_metrics, dense_metrics)


def test_a_relation_between_nodes_of_one_type_trains_lazily_too():
    edges = random_edges()
    model = ncf.Ncf(ncf_config().model, {"user": 12}, ("user", "user"), nnx.Rngs(0))
    trainable = state.TrainableModel(model)
    positives = positive_edges(*(ids.astype(np.int32) for ids in edges["buy"]), 12, 12)
    inputs = Inputs({}, {"buy": positives}, {})
    keys, optimizer = state.Keys.from_seed(0), optimizer_of("adagrad")

    def trained(lazy):
        current = state.init_state(trainable, optimizer, keys)
        step = jax.jit(state.make_train_step(trainable, optimizer, keys.negatives, lazy))
        for i in range(4):
            current, _ = step(current, inputs, {"buy": np.arange(5 * i, 5 * i + 5, dtype=np.int32)})
        return current

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), trained(("user",)), trained(()))


def test_the_states_buffers_are_donated_and_no_table_is_copied():
    config = ncf_config()
    config.data = runs.tiny_world(num_users=4000, num_items=4000)
    prepared = run.prepare(config)
    before, step, batch = prepared.initial_state(), prepared.step_function(), prepared.batch_at()(0)
    table_bytes = before.params.tables["user"].nbytes
    memory = step.lower(before, prepared.inputs, batch).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= 6 * table_bytes  # two tables, two moments each
    assert memory.temp_size_in_bytes < table_bytes
    step(before, prepared.inputs, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, no_pictures):
    """The workdir of a finished lazy run, and the names of what it compiled."""
    workdir = tmp_path_factory.mktemp("lazy")
    with runs.compiled_names() as compiled:
        fit.run(ncf_config(), workdir)
    return workdir, compiled


def stored(workdir, step=8):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return jax.device_get(checkpoints.restore(run.prepare(ncf_config()).initial_state(), step)[0])


def test_a_lazy_step_compiles_once(unbroken):
    assert [unbroken[1].count(name) for name in ("step", "scorer")] == [1, 1]


def test_a_lazy_run_that_was_killed_and_resumed_equals_an_unbroken_one_bit_for_bit(unbroken, tmp_path):
    with runs.killed_at(6):
        fit.run(ncf_config(), tmp_path)
    fit.run(ncf_config(), tmp_path)
    assert_same(stored(tmp_path), stored(unbroken[0]))


def test_a_run_of_before_there_were_lazy_tables_goes_on_with_dense_ones(tmp_path, monkeypatch, caplog):
    fit.run(ncf_config("dense"), tmp_path)
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    for name in ("name", "tables", "initial_accumulator"):
        del record["optimizer"][name]
    path.write_text(json.dumps(record))
    monkeypatch.setattr(tables, "ROWS_PER_SLOT", 0.0)  # where "auto" would choose lazy ones
    writers.logging.set_verbosity(writers.logging.INFO)
    with caplog.at_level("INFO", logger="absl"):
        fit.run(ncf_config("auto"), tmp_path)
    assert "embedding tables: dense (config.optimizer.tables)" in caplog.text
    with pytest.raises(ConfigError, match=r'config\.optimizer\.tables: "dense" -> "lazy"'):
        fit.run(ncf_config("lazy"), tmp_path)


def test_the_choice_is_by_the_rows_and_lookups_of_each_table_and_the_log_says_so(caplog):
    config = ncf_config("auto", batch_size=30)
    prepared = run.prepare(config)
    writers.logging.set_verbosity(writers.logging.INFO)
    with caplog.at_level("INFO", logger="absl"):
        prepared.step_function()
    assert "embedding tables: item dense (90 lookups a step, 40 rows), user lazy (30 lookups a step, 60 rows)" in (
        caplog.text
    )
    assert tables.plan("dense", {"a": 10**6}, {"a": 1}).lazy == ()
    assert tables.plan("lazy", {"a": 1}, {"a": 10**6}).lazy == ("a",)
    assert "reads whole tables" in tables.plan("auto", {"a": 10**6}, None).reason


def test_lazy_tables_are_refused_for_a_model_that_reads_whole_ones():
    config = runs.tiny_config()
    config.optimizer.tables = "lazy"
    with pytest.raises(ConfigError, match=r"optimizer\.tables = 'lazy': lightgcn reads whole tables .* 'dense'"):
        run.prepare(config)


def test_a_stream_without_training_examples_is_refused(monkeypatch):
    monkeypatch.setattr(ncf.Config, "streams", lambda self, inputs: {"buy": 0})
    with pytest.raises(DataError, match=r"'buy' has no training examples after the split; change config\.split"):
        run.prepare(ncf_config())
