"""Weights of tasks: gradients that agree raise a weight, and nothing else does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.impressions.weights import TaskWeights, gradient_cosines

NAMES = ("watched", "friend", "opponent")
# Losses that are linear in the shared vectors: the primary one, one that agrees with it, and one against it.
DIRECTIONS = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.9, 0.0, 0.4359]], np.float32)


def config(**keys):
    return dataclasses.replace(ImpressionConfig(tasks=NAMES[1:], task_weighting="adaptive"), **keys)


def losses_of(levels):
    """Losses of given sizes, whose gradients are `DIRECTIONS`, whatever the sizes."""

    def of(shared):
        moves = jnp.einsum("bd,md->m", shared - jax.lax.stop_gradient(shared), jnp.asarray(DIRECTIONS)) / len(shared)
        return jnp.asarray(levels) + moves

    return of


def trained_weights(levels, steps=300, **keys):
    """Weights after training the net alone."""
    weights = TaskWeights(config(**keys), NAMES, nnx.Rngs(0))
    graphdef, params = nnx.split(weights)
    optimizer = optax.adam(1e-2)
    shared = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))

    @jax.jit
    def step(params, state):
        (_, metrics), gradients = jax.value_and_grad(
            lambda of: nnx.merge(graphdef, of)(losses_of(levels), shared), has_aux=True
        )(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, metrics

    state = optimizer.init(params)
    for _ in range(steps):
        params, state, metrics = step(params, state)
    return {name: float(of) for name, of in metrics.items()}


def test_cosines_are_those_of_the_whole_batch():
    rng = np.random.default_rng(1)
    gradients = [rng.normal(size=(5, 4)).astype(np.float32) for _ in range(3)]
    flat = [of.ravel().astype(float) for of in gradients]
    expected = [flat[0] @ of / np.linalg.norm(flat[0]) / np.linalg.norm(of) for of in flat[1:]]
    np.testing.assert_allclose(gradient_cosines([jnp.asarray(of) for of in gradients]), expected, rtol=1e-5)


def test_the_cosine_with_a_gradient_of_zero_is_0():
    gradients = [jnp.ones((2, 3)), jnp.zeros((2, 3))]
    assert gradient_cosines(gradients) == 0 and gradient_cosines(gradients[::-1]) == 0


@pytest.mark.parametrize("look_ahead", ["first_order", "one_step"])
def test_an_opposing_task_of_low_loss_loses_weight(look_ahead):
    found = trained_weights([0.7, 2.0, 0.01], look_ahead=look_ahead)
    print(found)
    assert found["opponent/cosine"] < -0.5 < 0.5 < found["friend/cosine"]
    assert found["opponent/weight"] < 0.5 < 1.5 < found["friend/weight"]


def test_weights_do_not_collapse():
    found = trained_weights([0.7, 2.0, 0.01], steps=1500, weight_entropy=1.0)
    assert found["opponent/weight"] > 0.05
    assert found["friend/weight"] + found["opponent/weight"] == pytest.approx(2.0, abs=1e-5)


def test_the_entropy_pulls_weights_together():
    apart = trained_weights([0.7, 1.0, 1.0], weight_entropy=0.01)
    together = trained_weights([0.7, 1.0, 1.0], weight_entropy=10.0)
    assert together["friend/weight"] - together["opponent/weight"] < 0.5 * (
        apart["friend/weight"] - apart["opponent/weight"]
    )


def test_the_weights_start_equal():
    weights = TaskWeights(config(), NAMES, nnx.Rngs(3))
    np.testing.assert_allclose(weights.weights(jnp.array([0.9, -0.9]), jnp.array([1.0, 0.1])), [1.0, 1.0])


def test_what_is_trained_by_the_losses_sees_the_weights_as_constants():
    """The trunk's gradient is that of L_rec + sum w_i L_i with w fixed, and nothing goes through the net."""
    weights = TaskWeights(config(), NAMES, nnx.Rngs(0))
    weights.output.kernel[...] = jax.random.normal(jax.random.key(0), weights.output.kernel.shape)
    shared = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))

    def curved(of):
        return jnp.stack([(of**2).mean(), jnp.abs(of).mean(), (of**3).mean()])

    (total, metrics), gradient = jax.value_and_grad(lambda of: weights(curved, of), has_aux=True)(shared)
    own = jnp.array([1.0, metrics["friend/weight"], metrics["opponent/weight"]])
    assert float(total) == pytest.approx(float((own * curved(shared)).sum()), rel=1e-6)
    expected = jax.grad(lambda of: (own * curved(of)).sum())(shared)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_the_net_is_not_trained_by_the_sizes_of_losses():
    """With gradients of equal direction, a task of lower loss gets no more weight."""
    weights = TaskWeights(config(weight_entropy=0.0), NAMES, nnx.Rngs(0))
    graphdef, params = nnx.split(weights)
    shared = jnp.ones((4, 3))

    def same_direction(of):
        total = (of - jax.lax.stop_gradient(of)).mean()
        return jnp.array([0.5, 3.0, 0.001]) + total

    gradients = jax.grad(lambda of: nnx.merge(graphdef, of)(same_direction, shared)[0])(params)
    np.testing.assert_allclose(gradients["output"]["kernel"][...], 0.0, atol=1e-6)


def test_fixed_weights_are_those_of_the_config():
    own = dataclasses.replace(config(), task_weighting="fixed", task_weights=(0.3, 0.1))
    weights = TaskWeights(own, NAMES, nnx.Rngs(0))
    total, metrics = weights(losses_of([1.0, 2.0, 3.0]), jnp.zeros((4, 3)))
    assert float(total) == pytest.approx(1.0 + 0.6 + 0.3)
    assert float(metrics["friend/weight"]) == pytest.approx(0.3)


def test_uncertainty_weights_learn_the_inverse_of_the_losses():
    own = config(task_weighting="uncertainty")
    weights = TaskWeights(own, NAMES, nnx.Rngs(0))
    graphdef, params = nnx.split(weights)
    optimizer = optax.adam(3e-2)
    state = optimizer.init(params)
    levels = [0.5, 2.0, 0.1]
    for _ in range(400):
        gradients = jax.grad(lambda of: nnx.merge(graphdef, of)(losses_of(levels), jnp.zeros((4, 3)))[0])(params)
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(params, updates)
    # d/ds (exp(-s) L + s / 2) = 0 at exp(-s) = 1 / (2 L).
    np.testing.assert_allclose(jnp.exp(-params["log_variances"][...]), 0.5 / np.array(levels), rtol=0.05)
