"""What holds for every ranker of impressions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.models import ctr_baselines
from lsec_jax.models.impressions.ranker import Draws
from lsec_jax.training.tables import Params
from tests.models.impressions.batches import (
    LENGTH,
    baseline_config,
    batch,
    eliverec_config,
    loss_and_gradients,
    outputs,
    trainable,
)

CONFIGS = {
    **{variant: baseline_config(variant) for variant in ctr_baselines.VARIANTS},
    "eliverec": eliverec_config(),
    "eliverec-single": eliverec_config(product="", tasks=(), task_weighting="fixed"),
    "eliverec-plain": eliverec_config(is_disentangled=False, is_gated=False),
    "din-tasks": baseline_config("din", tasks=("stay", "bag"), task_weighting="adaptive", tower_reads_dynamic=True),
    "mmoe-tasks": baseline_config("mmoe", tasks=("stay", "bag"), task_weights=(0.3, 0.1)),
    "wdl-single": baseline_config("wdl", sequences=("clicks",), tasks=("bag",), task_weighting="uncertainty"),
    "none": baseline_config("wdl", sequences=("none",)),
}


def batch_of(config, **keys):
    declared = config.declaration
    tasks = tuple(of.name for of in declared.labels[1:])
    return batch(sequences=tuple(of.name for of in declared.sequences), tasks=tasks, **keys)


@pytest.fixture(scope="module", params=CONFIGS)
def ranker(request):
    """(config, model, parameters large enough to tell inputs apart)."""
    config = CONFIGS[request.param]
    model, params = trainable(config)
    return config, model, params._replace(tables=jax.tree.map(lambda of: 50.0 * of, params.tables))


def test_losses_gradients_and_outputs_are_finite_with_empty_sequences(ranker):
    config, model, params = ranker
    own = batch_of(config)
    _, metrics, gradients = loss_and_gradients(model, params, own)
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.isfinite(outputs(model, params, own)).all()


def test_what_stands_in_the_padding_changes_nothing(ranker):
    config, model, params = ranker
    own = batch_of(config)
    noisy = {**own, "ids": dict(own["ids"]), "numbers": own["numbers"]}
    if "watches" in own["masks"]:
        padding = ~own["masks"]["watches"]
        noisy["ids"]["streamer"] = (
            own["ids"]["streamer"].at[:, 1:].set(jnp.where(padding, 7, own["ids"]["streamer"][:, 1:]))
        )
        wide = jnp.repeat(padding, 2, axis=1)
        noisy["numbers"] = own["numbers"].at[:, 4:].set(jnp.where(wide, 100.0, own["numbers"][:, 4:]))
    if "clicks" in own["masks"]:
        noisy["ids"]["item"] = jnp.where(own["masks"]["clicks"], own["ids"]["item"], 9)
    np.testing.assert_allclose(outputs(model, params, own), outputs(model, params, noisy), rtol=1e-5, atol=1e-5)


def test_a_row_is_scored_as_if_it_were_alone(ranker):
    config, model, params = ranker
    own = batch_of(config)
    order = np.random.default_rng(0).permutation(16)
    shuffled = jax.tree.map(lambda of: of[order], own)
    np.testing.assert_allclose(
        outputs(model, params, own)[order], outputs(model, params, shuffled), rtol=1e-5, atol=1e-5
    )


def test_what_the_model_reads_changes_its_outputs(ranker):
    config, model, params = ranker
    own = batch_of(config)
    plain = outputs(model, params, own)
    changes = {"user": own | {"ids": own["ids"] | {"user": own["ids"]["user"] % 7 + 9}}}
    changes["target"] = own | {"ids": own["ids"] | {"streamer": own["ids"]["streamer"].at[:, 0].set(3)}}
    for name in own["masks"]:
        changes[name] = own | {"masks": own["masks"] | {name: own["masks"][name].at[:, LENGTH // 2 :].set(False)}}
    for name, other in changes.items():
        assert np.abs(outputs(model, params, other) - plain).max() > 1e-4, name


def test_outputs_begin_at_the_mean_answers(ranker):
    config, _, _ = ranker
    model, params = trainable(config)
    means = {"watched": np.log(0.3 / 0.7), "stay": 4.0, "bag": np.log(0.2 / 0.8)}
    module = model.module(params.dense)
    expected = [means[of.name] for of in module.layout.labels]
    np.testing.assert_allclose(module.output_biases[...], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["wdl", "din-tasks", "eta", "eliverec"])
def test_the_model_overfits_one_batch(name):
    config = CONFIGS[name]
    model, params = trainable(config)
    own = batch_of(config, seed=3, users=np.arange(16))
    optimizer = optax.adam(1e-2)
    state, losses = optimizer.init(params), []
    update = jax.jit(lambda gradients, state, params: optimizer.update(gradients, state, params))
    for _ in range(250):
        _, metrics, gradients = loss_and_gradients(model, params, own)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(metrics["watched/loss"]))
    assert losses[-1] < 0.2 * losses[0], losses[::50]


@pytest.mark.parametrize("name", ["bst", "din-tasks", "mmoe-tasks", "eliverec"])
def test_bfloat16_is_close_to_float32(name):
    config = CONFIGS[name]
    own = batch_of(config)
    model, params = trainable(config)
    params = params._replace(tables=jax.tree.map(lambda of: 20.0 * of, params.tables))
    half, _ = trainable(dataclasses.replace(config, dtype="bfloat16"))
    plain, rounded = outputs(model, params, own), outputs(half, params, own)
    assert 0 < np.abs(plain - rounded).max() < 0.05 * max(np.abs(plain).max(), 1.0)
    assert rounded.dtype == np.float32
    gradients = loss_and_gradients(half, params, own)[2]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["bst", "eliverec"])
def test_dropout_depends_on_places_in_the_whole_batch_and_is_off_in_evaluation(name):
    config = dataclasses.replace(CONFIGS[name], dropout=0.5)
    if name == "eliverec":
        config = dataclasses.replace(config, independence=0.0, contrast="none").without_unused()
    own = batch_of(config)
    model, params = trainable(config)
    first = float(loss_and_gradients(model, params, own, step=1)[0])
    assert first == float(loss_and_gradients(model, params, own, step=1)[0])
    assert first != float(loss_and_gradients(model, params, own, step=2)[0])
    order = np.random.default_rng(0).permutation(16)
    shuffled = jax.tree.map(lambda of: of[order], own)
    assert first == pytest.approx(float(loss_and_gradients(model, params, shuffled, step=1)[0]), rel=1e-5)
    plain, _ = trainable(dataclasses.replace(config, dropout=0.0))
    np.testing.assert_allclose(outputs(model, params, own), outputs(plain, params, own), rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tasks": ("share",)}, "config.model.tasks"),
        ({"tasks": ("stay",)}, "task_weights"),
        ({"sequences": ("views",)}, "config.model.sequences"),
        ({"task_weighting": "adaptive"}, "nothing to weight"),
        ({"look_ahead": "one_step"}, "look_ahead = one_step has no effect"),
        ({"num_retrieved": 9}, "num_retrieved = 9 has no effect"),
        ({"num_layers": 2}, "num_layers = 2 has no effect"),
        ({"sequences": ("none", "watches")}, "config.model.sequences"),
        ({"embedding_std": float("inf")}, "finite"),
        ({"l2": float("inf")}, "must be finite"),
        ({"dropout": 1.0}, "below 1"),
        ({"dtype": "float16"}, "config.model.dtype"),
        ({"tasks": ("bag", "bag"), "task_weights": (1.0, 1.0)}, "each name once"),
        ({"tasks": ("bag",), "task_weights": (float("nan"),)}, "task_weights"),
    ],
)
def test_what_cannot_work_is_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        baseline_config("din", **keys).validate()


def test_heads_have_to_share_the_width_only_where_there_are_some():
    with pytest.raises(ConfigError, match="cannot share"):
        baseline_config("bst", num_heads=3).validate()
    baseline_config("hgn", embedding_dim=6).validate()


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_without_effect_have_their_defaults_and_others_stay(name):
    config = CONFIGS[name]
    assert config.without_unused() == config
    others = {bool: lambda of: not of, tuple: lambda of: (*of, 9)}
    for key, is_used in config.uses().items():
        value = getattr(config, key)
        if is_used or isinstance(value, str):
            continue
        wrong = dataclasses.replace(config, **{key: others.get(type(value), lambda of: of + 1)(value)})
        with pytest.raises(ConfigError, match=f"config.model.{key} = .* has no effect"):
            wrong.validate()
        assert wrong.without_unused() == config


def test_dropout_leaves_the_wide_part_of_wide_and_deep_whole():
    config = baseline_config("wdl", dropout=0.5)
    own = batch_of(config)
    model, params = trainable(config)
    dense = jax.tree.map(jnp.zeros_like, params.dense)
    tables = {name: jnp.zeros_like(of).at[:, -1].set(2.0) for name, of in params.tables.items()}
    module = model.module(dense)
    found = module._represent(
        {name: tables[name][ids] for name, ids in own["ids"].items()}, own, Draws(jax.random.key(0), own["places"])
    )
    np.testing.assert_allclose(found.offset, 4.0)  # of the user and the streamer
    losses = [float(loss_and_gradients(model, Params(dense, tables), own, step=step)[0]) for step in (1, 2)]
    assert losses[0] == losses[1] == pytest.approx(float(np.mean(np.log1p(np.exp(4.0)) - 4.0 * own["labels"][:, 0])))


def test_l2_is_of_fields_and_behaviours_and_not_of_the_padding():
    config = baseline_config("wdl")
    own = batch_of(config)
    model, params = trainable(config)
    tables = {name: of.at[0].set(9.0) for name, of in params.tables.items()}
    with_l2, _ = trainable(dataclasses.replace(config, l2=0.5))
    found = [float(loss_and_gradients(of, params._replace(tables=tables), own)[0]) for of in (model, with_l2)]
    squares = 0.0
    for name, ids in own["ids"].items():
        is_there = np.ones(ids.shape, bool)
        if name == "streamer":
            is_there[:, 1:] = own["masks"]["watches"]
        elif name == "item":
            is_there = np.asarray(own["masks"]["clicks"])
        squares += np.square(np.asarray(tables[name])[ids][is_there]).sum()
    assert found[1] - found[0] == pytest.approx(0.5 * squares / 2 / len(own["labels"]), rel=1e-3)
