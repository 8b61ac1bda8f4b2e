"""Losses against hand-written numpy."""

import jax.numpy as jnp
import numpy as np

from lsec_jax import losses

POSITIVE = np.array([2.0, -1.0])
NEGATIVE = np.array([[0.5, -3.0], [1.0, 4.0]])
MASK = np.array([[True, True], [False, True]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_binary_cross_entropy_is_the_mean_log_loss_of_positives_and_unmasked_negatives():
    terms = [-np.log(sigmoid(2.0)), -np.log(sigmoid(-1.0))]
    terms += [-np.log(1 - sigmoid(x)) for x in (0.5, -3.0, 4.0)]
    found = losses.binary_cross_entropy(jnp.asarray(POSITIVE), jnp.asarray(NEGATIVE), jnp.asarray(MASK))
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-6)


def test_binary_cross_entropy_is_finite_at_large_logits():
    found = losses.binary_cross_entropy(jnp.array([-1e4]), jnp.array([[1e4]]), jnp.array([[True]]))
    np.testing.assert_allclose(found, 1e4, rtol=1e-6)


def test_bpr_is_the_mean_over_unmasked_pairs():
    terms = [-np.log(sigmoid(2.0 - 0.5)), -np.log(sigmoid(2.0 + 3.0)), -np.log(sigmoid(-1.0 - 4.0))]
    found = losses.bayesian_personalized_ranking(jnp.asarray(POSITIVE), jnp.asarray(NEGATIVE), jnp.asarray(MASK))
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-6)


def test_bpr_with_everything_masked_is_zero():
    found = losses.bayesian_personalized_ranking(jnp.ones(1), jnp.ones((1, 2)), jnp.zeros((1, 2), bool))
    assert float(found) == 0.0


def test_mean_squared_norm_is_half_the_sum_of_squares_over_rows():
    found = losses.mean_squared_norm(jnp.array([[1.0, 2.0]]), jnp.array([[[3.0, 0.0]]]), num_rows=2)
    assert float(found) == 0.5 * (1 + 4 + 9) / 2
