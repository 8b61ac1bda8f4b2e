"""What holds for every ranker of sharing recommendation: TREEMS and its baselines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.declaration import Field, Neighbourhood, Table
from tests.models.impressions.batches import loss_and_gradients, outputs
from tests.models.sharing.batches import (
    DECLARED,
    FANOUTS,
    GRAPHS,
    MODELS,
    SCENARIOS,
    batch_of,
    config_of,
    one_sided,
    trainable,
)

TASKS = {"tasks": ("replied",), "task_weights": (0.3,), "task_tower_widths": (4,)}
CONFIGS = {name: config_of(name) for name in MODELS}
ALL_KEYS = {"tasks": ("replied",), "task_weighting": "adaptive", "task_tower_widths": (4,), "dropout": 0.3, "l2": 0.01}


def randomised(params, seed=1):
    """Parameters of which none is 0 or like another, but for row 0 of the tables."""
    leaves, tree = jax.tree.flatten(params.dense)
    rng = np.random.default_rng(seed)
    moved = [of + jnp.asarray(0.2 * rng.normal(size=of.shape), jnp.float32) for of in leaves]
    return params._replace(dense=jax.tree.unflatten(tree, moved))


@pytest.fixture(scope="module", params=CONFIGS)
def ranker(request):
    """(name, model, parameters, batch)."""
    model, params, layout = trainable(CONFIGS[request.param])
    return request.param, model, randomised(params), batch_of(layout)


def changed(batch, table, columns, new):
    ids = batch["ids"][table]
    return {**batch, "ids": {**batch["ids"], table: ids.at[:, columns].set(new(ids[:, columns]))}}


def test_losses_gradients_and_outputs_are_finite_where_much_is_missing(ranker):
    name, model, params, batch = ranker
    total, metrics, gradients = loss_and_gradients(model, params, batch)
    assert np.isfinite(total) and all(np.isfinite(of) for of in metrics.values()), metrics
    assert all(np.isfinite(of).all() for of in jax.tree.leaves(gradients))
    found = outputs(model, params, batch)
    assert np.isfinite(found).all() and np.ptp(found) > 0.05, name


def test_every_parameter_has_a_gradient(ranker):
    name, model, params, batch = ranker
    _, _, gradients = loss_and_gradients(model, params, batch)
    without = [
        jax.tree_util.keystr(path)
        for path, of in jax.tree_util.tree_leaves_with_path(gradients.dense)
        if of.size and not of.any() and "['biases']['']" not in jax.tree_util.keystr(path)
    ]  # the target's projection serves products with histories
    assert not without, (name, without)


def test_answers_are_read_in_training_alone(ranker):
    _, model, params, batch = ranker
    other = {**batch, "labels": 1 - batch["labels"]}
    np.testing.assert_array_equal(outputs(model, params, batch), outputs(model, params, other))


def test_a_row_is_scored_as_if_it_were_alone(ranker):
    _, model, params, batch = ranker
    order = np.random.default_rng(0).permutation(16)
    shuffled = jax.tree.map(lambda of: of[order], batch)
    found = outputs(model, params, batch)[order]
    np.testing.assert_allclose(found, outputs(model, params, shuffled), rtol=1e-5, atol=1e-5)


def test_neighbours_who_are_not_there_and_the_row_of_nobody_change_nothing(ranker):
    """Neighbours are rows of a table, and row 0 is nobody's: what it holds is read of nobody."""
    name, model, params, batch = ranker
    present = {**batch, "ids": {**batch["ids"]}}
    layout = model.module(params.dense).layout
    own = {of.start for of in layout.fields if of.table == "user"}
    assert (np.asarray(batch["ids"]["user"])[:, sorted(own)] > 0).all()
    moved = {of: table.at[0].set(37.0) if of != "scenario" else table for of, table in params.tables.items()}
    found = outputs(model, params._replace(tables=moved), present)
    np.testing.assert_allclose(found, outputs(model, params, batch), rtol=1e-5, atol=1e-5)
    assert layout.neighbourhoods or name not in GRAPHS


def test_neighbours_count_where_the_model_reads_them_and_their_order_does_not_but_to_an_lstm(ranker):
    name, model, params, batch = ranker
    layout = model.module(params.dense).layout
    plain = outputs(model, params, batch)
    turned = gone = batch
    for of in layout.neighbourhoods:
        sizes = [stop - start for start, stop in of.hops]
        shapes = [of.fanouts[: i + 1] for i in range(len(sizes))]
        for i, (start, stop) in enumerate(of.hops):
            # All hops alike, so that each neighbour keeps his own neighbours.
            def flip(ids, shape=shapes[i]):
                whole = ids.reshape(-1, *shape)
                return jnp.flip(whole, axis=tuple(range(1, whole.ndim))).reshape(ids.shape)

            turned = changed(turned, "user", slice(start, stop), flip)
        gone = changed(gone, "user", slice(of.start, of.stop), jnp.zeros_like)
    change = np.abs(outputs(model, params, turned) - plain).max()
    assert change > 1e-4 if name == "pinsage_lstm" else change < 1e-5, (name, change)
    assert (np.abs(outputs(model, params, gone) - plain).max() > 1e-3) == (name in GRAPHS)


@pytest.mark.parametrize("name", [pytest.param("treems", marks=pytest.mark.slow), "scenario_meta", "cune"])
def test_all_that_rankers_of_impressions_have_works(name):
    model, params, layout = trainable(config_of(name, **ALL_KEYS))
    params, batch = randomised(params), batch_of(layout)
    _, metrics, gradients = loss_and_gradients(model, params, batch)
    assert {"loss", "accepted/loss", "replied/loss", "replied/cosine"} <= metrics.keys()
    assert all(np.isfinite(of).all() for of in jax.tree.leaves(gradients)), name


@pytest.mark.parametrize("name", ["scenario_mmoe", "multi_scenario", "scenario_meta", "diffnet"])
def test_bfloat16_is_close_to_float32(name):
    model, params, layout = trainable(config_of(name, **TASKS))
    half, _, _ = trainable(config_of(name, dtype="bfloat16", **TASKS))
    params, batch = randomised(params), batch_of(layout)
    plain, rounded = (outputs(of, params, batch) for of in (model, half))
    assert 0 < np.abs(plain - rounded).max() < 0.05 * max(np.abs(plain).max(), 1.0)
    gradients = loss_and_gradients(half, params, batch)[2]
    assert all(of.dtype == jnp.float32 for of in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", GRAPHS)
def test_the_other_end_may_be_an_item_without_neighbours(name):
    model, params, layout = trainable(config_of(name, features=one_sided()))
    assert {of.role for of in layout.neighbourhoods} == {"user"}
    found = outputs(model, randomised(params), batch_of(layout))
    assert np.isfinite(found).all() and np.ptp(found) > 0.01


@pytest.mark.parametrize("name", sorted({*MODELS} - {*GRAPHS}))
def test_neighbours_that_a_model_does_not_read_are_not_drawn(name):
    assert not config_of(name).declaration.neighbourhoods and not config_of(name).declaration.paths
    without = dataclasses.replace(DECLARED, neighbourhoods=(), paths=())
    model, params, layout = trainable(config_of(name, features=without))
    assert np.isfinite(outputs(model, params, batch_of(layout))).all()


def test_what_is_drawn_is_what_is_read():
    assert [of.name for of in config_of("diffnet").declaration.neighbourhoods] == [
        "friend_of_user",
        "friend_of_target_user",
    ]
    assert {of.fanouts for of in config_of("cune").declaration.neighbourhoods} == {of[:1] for of in FANOUTS.values()}
    assert {of.fanouts for of in config_of("gat").declaration.neighbourhoods} == {*FANOUTS.values()}


@pytest.mark.parametrize("name", sorted({*GRAPHS} - {"treems"}))
def test_a_graph_ranker_without_neighbourhoods_is_refused(name):
    without = dataclasses.replace(DECLARED, neighbourhoods=())
    with pytest.raises(ConfigError, match=f"neighbourhoods is empty, and '{name}' reads neighbours"):
        config_of(name, features=without).validate()


def test_neighbourhoods_of_one_role_that_do_not_fit_are_refused():
    near = (*DECLARED.neighbourhoods, Neighbourhood("shares_of_user", "share", "user", "user", (4,)))
    with pytest.raises(
        ConfigError, match=r"of 'user' have vectors \[4\] wide and \[1, 2\] hops; give those of one role"
    ):
        trainable(config_of("gat", features=dataclasses.replace(DECLARED, neighbourhoods=near)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match=r"config.model.scenario = 'place' is not known; choose one of: scenario_id"):
        config_of(name, scenario="place").validate()
    static = tuple(of for of in DECLARED.fields if of.part != "dynamic")
    with pytest.raises(ConfigError, match="none is of the part 'dynamic', where a scenario shows"):
        config_of(name, features=dataclasses.replace(DECLARED, fields=static)).validate()
    fields = (*DECLARED.fields[:1], Field("activity", "user.activity", "dynamic"), *DECLARED.fields[2:])
    numbers = config_of(name, features=dataclasses.replace(DECLARED, fields=fields), scenario="activity")
    with pytest.raises(
        ConfigError, match=r"config.model.scenario = 'activity' shows 2 numbers, but a scenario is one id"
    ):
        trainable(numbers)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("pinsage_mean", {"aggregator": "sum"}, "config.model.aggregator = 'sum' is not known"),
        ("scenario_mmoe", {"num_experts": 0}, "num_experts = 0 must be at least 1"),
        ("scenario_mmoe", {"expert_widths": ()}, "expert_widths = .* must hold at least one width"),
        ("cune", {"num_friends": 0}, "num_friends = 0 must be at least 1"),
        ("cune", {"friend_weight": float("inf")}, "friend_weight = inf must be finite"),
        ("cune", {"tower_widths": (3,)}, "tower_widths = .* has no effect"),
        ("diffnet", {"tower_reads_dynamic": True}, "tower_reads_dynamic = True has no effect"),
        ("scenario_meta", {"inner_rate": -1.0}, "inner_rate = -1.0 must be at least 0"),
    ],
)
def test_keys_out_of_range_are_refused(name, keys, message):
    with pytest.raises(ConfigError, match=message):
        config_of(name, **keys).validate()


@pytest.mark.parametrize("name", ["cune", "diffnet", "gat", "pinsage_max"])
def test_neighbours_may_have_another_width_than_the_model(name):
    declared = dataclasses.replace(DECLARED, tables=(Table("user", width=3),))
    model, params, layout = trainable(config_of(name, features=declared))
    assert params.tables["user"].shape[1] == 3
    assert np.isfinite(outputs(model, params, batch_of(layout))).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_model_overfits_one_batch(name):
    model, params, layout = trainable(CONFIGS[name])
    batch = batch_of(layout, seed=3)
    optimizer = optax.adam(0.02)
    state, found = optimizer.init(params), []

    def loss(params, key):
        return model.module(params.dense).loss(params.tables, (), batch, key)

    @jax.jit
    def update(params, state):
        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params, jax.random.key(0))
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, metrics["accepted/loss"]

    for _ in range(150):
        params, state, of_step = update(params, state)
        found.append(float(of_step))
    assert found[-1] < 0.2 * found[0], found[::30]
