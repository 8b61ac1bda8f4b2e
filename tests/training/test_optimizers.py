"""What the optimizers compute."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsec_jax.config import ConfigError, OptimizerConfig, RunConfig, validate
from lsec_jax.training import optimizers
from tests import runs


def steps_of(config, gradients):
    """Parameters after each gradient, from zeros."""
    optimizer = optimizers.build(config, 10)
    params = jnp.zeros(3)
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(np.asarray(params))
    return found


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.9])
def test_adagrad_divides_by_the_root_of_the_decayed_sum_of_squares(decay):
    gradients = [jnp.array([1.0, -2.0, 0.0]), jnp.array([0.5, 3.0, 0.0]), jnp.array([0.0, 1.0, 2.0])]
    config = OptimizerConfig(
        name="adagrad", learning_rate=0.1, initial_accumulator=0.25, eps=1e-6, accumulator_decay=decay
    )
    squares, params = np.full(3, 0.25), np.zeros(3)
    for gradient, found in zip(gradients, steps_of(config, gradients), strict=True):
        gradient = np.asarray(gradient, float)
        squares = decay * squares + gradient**2
        params = params - 0.1 * gradient / np.sqrt(squares + 1e-6)
        np.testing.assert_allclose(found, params, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_a_decay_outside_0_and_1_is_refused(decay):
    config: RunConfig = runs.tiny_config()
    config.optimizer = OptimizerConfig(name="adagrad", accumulator_decay=decay)
    with pytest.raises(ConfigError, match=r"accumulator_decay = .* must be in \(0, 1\]"):
        validate(config)


def test_other_optimizers_have_no_decay():
    config = runs.tiny_config()
    config.optimizer = OptimizerConfig(name="adam", accumulator_decay=0.9)
    with pytest.raises(ConfigError, match="'adam' has no such key"):
        validate(config)
