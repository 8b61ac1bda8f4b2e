"""Towers, experts and gates against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.dense import dense
from lsec_jax.nn.experts import Experts, MixtureOfExperts
from lsec_jax.nn.towers import Tower


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def fill_biases(module):
    for i, bias in enumerate(module.biases):
        bias[...] = random(*bias.shape, seed=10 + i)


def slow_layer(x, weights, bias):
    return np.array([sum(x[i] * weights[i, j] for i in range(len(x))) + bias[j] for j in range(len(bias))])


def test_dense_is_a_matrix_product_and_a_bias_over_any_leading_axes():
    x, weights, bias = random(2, 3, 4), random(4, 5), random(5)
    wanted = [[slow_layer(np.asarray(of), np.asarray(weights), np.asarray(bias)) for of in row] for row in x]
    np.testing.assert_allclose(dense(x, weights, bias), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dense(x[0, 0], weights), np.asarray(wanted)[0, 0] - bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("out_width", [None, 2])
def test_a_tower_is_its_layers_one_after_the_other(out_width):
    tower = Tower(4, (5, 3), nnx.Rngs(0), out_width)
    fill_biases(tower)
    x = random(6, 2, 4)
    wanted = []
    for row in np.asarray(x, np.float64).reshape(-1, 4):
        for i, (weights, bias) in enumerate(zip(tower.weights, tower.biases, strict=True)):
            row = slow_layer(row, np.asarray(weights[...]), np.asarray(bias[...]))
            row = np.maximum(row, 0) if i < 2 else row
        wanted.append(row)
    found = tower(x)
    assert found.shape == (6, 2, out_width or 3)
    np.testing.assert_allclose(found.reshape(12, -1), wanted, rtol=1e-4, atol=1e-5)
    assert len(tower.weights) == (3 if out_width else 2) and (np.asarray(wanted) < 0).any() == bool(out_width)


def test_a_tower_starts_with_glorots_spread_and_zero_biases():
    tower = Tower(300, (200,), nnx.Rngs(0))
    assert float(jnp.abs(tower.weights[0][...]).max()) == pytest.approx(np.sqrt(6 / 500), rel=1e-3)
    assert not tower.biases[0][...].any()


def test_towers_and_experts_in_bfloat16_are_near_float32_and_return_float32():
    x = random(6, 4)
    for build in (
        lambda dtype: Tower(4, (5,), nnx.Rngs(0), 2, dtype=dtype)(x),
        lambda dtype: MixtureOfExperts(4, 3, (5, 3), 2, nnx.Rngs(0), dtype)(x)[0],
    ):
        exact, rounded = build(None), build(jnp.bfloat16)
        assert rounded.dtype == jnp.float32
        np.testing.assert_allclose(exact, rounded, atol=0.05)
        assert np.abs(exact - rounded).max() > 0


def slow_experts(experts, x):
    """[layers][b, x, f]."""
    layers = [np.zeros((len(x), *bias.shape)) for bias in experts.biases]
    for b, e in np.ndindex(len(x), len(experts.biases[0][...])):
        row = np.asarray(x[b], np.float64)
        for output, weights, bias in zip(layers, experts.weights, experts.biases, strict=True):
            row = np.maximum(slow_layer(row, np.asarray(weights[...][e]), np.asarray(bias[...][e])), 0)
            output[b, e] = row
    return layers


def test_experts_return_every_layer_of_each():
    experts, x = Experts(4, 3, (5, 2, 6), nnx.Rngs(0)), random(7, 4)
    fill_biases(experts)
    found = experts(x)
    assert [of.shape for of in found] == [(7, 3, 5), (7, 3, 2), (7, 3, 6)]
    for layer, wanted in zip(found, slow_experts(experts, x), strict=True):
        np.testing.assert_allclose(layer, wanted, rtol=1e-4, atol=1e-5)


def test_each_gate_mixes_the_experts_by_a_softmax_of_its_own():
    mixture, x = MixtureOfExperts(4, 3, (5, 2), 2, nnx.Rngs(0)), random(7, 4)
    fill_biases(mixture.experts)
    outputs, gates = slow_experts(mixture.experts, x)[-1], np.asarray(mixture.gates[...])
    found, weights = mixture(x)
    assert found.shape == (7, 2, 2) and weights.shape == (7, 2, 3)
    for b, g in np.ndindex(7, 2):
        logits = np.array([np.asarray(x[b]) @ gates[:, g, e] for e in range(3)])
        wanted = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(weights[b, g], wanted, rtol=1e-4)
        np.testing.assert_allclose(found[b, g], sum(wanted[e] * outputs[b, e] for e in range(3)), rtol=1e-4, atol=1e-5)


def test_each_expert_is_drawn_as_a_network_of_its_own_width():
    experts = Experts(300, 7, (200,), nnx.Rngs(0))
    for weights in experts.weights[0][...]:
        assert float(jnp.abs(weights).max()) == pytest.approx(np.sqrt(6 / 500), rel=1e-3)
    gates = MixtureOfExperts(300, 5, (2,), 4, nnx.Rngs(0)).gates[...]
    assert float(jnp.abs(gates).max()) == pytest.approx(np.sqrt(6 / 305), rel=1e-3)


def test_gradients_of_experts_are_those_of_one_after_the_other():
    experts, x = Experts(4, 3, (5, 2), nnx.Rngs(0)), random(7, 4)
    graphdef, state = nnx.split(experts)

    def together(state, x):
        return sum(jnp.sin(of).sum() for of in nnx.merge(graphdef, state)(x))

    def one_by_one(state, x):
        module, total = nnx.merge(graphdef, state), 0.0
        for e in range(3):
            hidden = x
            for weights, bias in zip(module.weights, module.biases, strict=True):
                shift = jnp.broadcast_to(bias[...][e], (7, bias.shape[1]))
                hidden = jax.nn.relu(hidden @ weights[...][e] + shift)
                total += jnp.sin(hidden).sum()
        return total

    found, wanted = (jax.grad(of, (0, 1))(state, x) for of in (together, one_by_one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_no_experts_and_no_layers_are_refused():
    for count, widths in ((0, (2,)), (2, ())):
        with pytest.raises(ValueError, match="at least one of each"):
            Experts(4, count, widths, nnx.Rngs(0))
