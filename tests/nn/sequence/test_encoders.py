"""What every sequence encoder has in common, and DIN, HGN and GRU against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.config import ConfigError
from lsec_jax.nn.sequence.din import DinEncoder
from lsec_jax.nn.sequence.encoder import ENCODERS, build
from lsec_jax.nn.sequence.gru import GruEncoder
from lsec_jax.nn.sequence.hgn import HgnEncoder

WIDTH = 8
OPTIONS = {
    "transformer": {"num_heads": 2, "num_layers": 1},
    "din": {"layer_widths": (5,)},
    "hgn": {},
    "gru": {},
}
KINDS = list(ENCODERS)


def inputs(lengths, max_length, seed=0):
    """Elements, mask and target of rows padded in front; the last elements are the same whatever max_length is."""
    generator = np.random.default_rng(seed)
    elements = generator.normal(size=(len(lengths), 50, WIDTH))[:, 50 - max_length :]
    mask = np.arange(max_length)[None, :] >= max_length - np.asarray(lengths)[:, None]
    target = generator.normal(size=(len(lengths), WIDTH))
    return jnp.asarray(elements, jnp.float32), jnp.asarray(mask), jnp.asarray(target, jnp.float32)


def perturbed(module):
    """Biases and the like are not 0, so that leaving one out shows."""
    graphdef, state = nnx.split(module)
    leaves, treedef = jax.tree.flatten(state)
    generator = np.random.default_rng(9)
    moved = [of + jnp.asarray(0.2 * generator.normal(size=of.shape), jnp.float32) for of in leaves]
    return nnx.merge(graphdef, jax.tree.unflatten(treedef, moved))


def encoder_of(kind):
    return perturbed(build(kind, WIDTH, nnx.Rngs(0), **OPTIONS[kind]))


def value_and_gradients(encoder, elements, mask, target):
    graphdef, state = nnx.split(encoder)

    @jax.jit
    def value(state, elements, target):
        merged = nnx.merge(graphdef, state)
        states = merged(elements, mask, target)
        return jnp.sin(states).sum() + jnp.sin(2 * merged.pool(states, mask, target)).sum()

    return jax.value_and_grad(value, (0, 1, 2))(state, elements, target)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_padding_holds_changes_neither_outputs_nor_gradients(kind):
    encoder = encoder_of(kind)
    elements, mask, target = inputs([0, 1, 50, 7], 50)
    filled = jnp.where(mask[:, :, None], elements, jnp.nan)
    empty = jnp.where(mask[:, :, None], elements, 0.0)
    found, wanted = (value_and_gradients(encoder, of, mask, target) for of in (filled, empty))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert all(np.isfinite(of).all() for of in jax.tree.leaves(found))
    assert not np.asarray(found[1][1])[~np.asarray(mask)].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_state_and_the_vector_of_an_empty_sequence_are_zero(kind):
    elements, mask, target = inputs([0, 1, 50], 50)
    encoder = encoder_of(kind)
    states = encoder(elements, mask, target)
    pooled = encoder.pool(states, mask, target)
    assert not np.asarray(states)[~np.asarray(mask)].any()
    assert not np.asarray(pooled)[0].any()
    assert (np.abs(pooled[1:]).sum(axis=1) > 0.1).all()
    assert (np.abs(np.asarray(states)[np.asarray(mask)]).sum(axis=1) > 0.01).all()


@pytest.mark.parametrize("kind", KINDS)
def test_how_much_padding_there_is_does_not_matter(kind):
    encoder = encoder_of(kind)
    short, long = ((elements, mask, target) for elements, mask, target in (inputs([0, 1, 6], of) for of in (6, 50)))
    states = [encoder(*of) for of in (short, long)]
    np.testing.assert_allclose(states[0], states[1][:, -6:], atol=1e-5)
    pooled = [encoder.pool(of, mask, target) for of, (_, mask, target) in zip(states, (short, long), strict=True)]
    np.testing.assert_allclose(*pooled, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_states_do_not_depend_on_the_other_rows(kind):
    encoder = encoder_of(kind)
    elements, mask, target = inputs([3, 5, 2], 6)
    whole, part = encoder(elements, mask, target), encoder(elements[1:2], mask[1:2], target[1:2])
    np.testing.assert_allclose(whole[1:2], part, atol=1e-6)


def test_dropout_of_a_row_does_not_depend_on_the_other_rows_and_needs_a_key():
    encoder = build("transformer", WIDTH, nnx.Rngs(0), **OPTIONS["transformer"], dropout_rate=0.5)
    elements, mask, target = inputs([3, 5, 2, 6], 6)
    key, row_ids = jax.random.key(5), jnp.arange(4, dtype=jnp.int32)
    whole = encoder(elements, mask, target, key, row_ids)
    part = encoder(elements[2:], mask[2:], target[2:], key, row_ids[2:])
    np.testing.assert_allclose(whole[2:], part, atol=1e-6)
    kept = encoder(elements, mask, target)
    assert np.abs(whole - kept).max() > 0.1
    plain = build("transformer", WIDTH, nnx.Rngs(0), **OPTIONS["transformer"])
    np.testing.assert_array_equal(kept, plain(elements, mask, target))


@pytest.mark.parametrize("kind", KINDS)
def test_computing_in_bfloat16_returns_float32_near_that_of_float32(kind):
    arguments = inputs([0, 1, 6], 6)
    exact, rounded = (
        build(kind, WIDTH, nnx.Rngs(0), **OPTIONS[kind], dtype=dtype)(*arguments) for dtype in (None, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(exact, rounded, atol=0.1)
    assert np.abs(exact - rounded).max() > 0


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.mark.parametrize("activation", ["prelu", "sigmoid"])
def test_din_weighs_each_element_by_an_mlp_of_element_target_difference_and_product(activation):
    encoder = perturbed(DinEncoder(WIDTH, nnx.Rngs(0), layer_widths=(5, 4), activation=activation))
    elements, mask, target = inputs([0, 1, 6], 6)
    parts = encoder.element_weights, encoder.target_weights, encoder.difference_weights, encoder.product_weights
    first = np.concatenate([of[...] for of in parts])
    wanted = np.zeros(elements.shape)
    for b, t in zip(*np.nonzero(mask), strict=True):
        e, q = np.asarray(elements[b, t], np.float64), np.asarray(target[b], np.float64)
        x = np.concatenate([e, q, e - q, e * q])
        for i, weights in enumerate([first, *(of[...] for of in encoder.weights)]):
            x = x @ weights + encoder.biases[i][...]
            if i < 2 and activation == "sigmoid":
                x = sigmoid(x)
            elif i < 2:
                x = np.where(x > 0, x, np.asarray(encoder.slopes[i][...]) * x)
        wanted[b, t] = x * e
    states = encoder(elements, mask, target)
    np.testing.assert_allclose(states, wanted, atol=1e-5)
    np.testing.assert_allclose(encoder.pool(states, mask, target), wanted.sum(axis=1), atol=1e-5)


def test_hgn_gates_features_then_instances_and_adds_weighted_mean_and_sum():
    encoder = perturbed(HgnEncoder(WIDTH, nnx.Rngs(0), max_length=9))
    elements, mask, target = inputs([0, 1, 6], 6)
    pooled = encoder.pool(encoder(elements, mask, target), mask, target)
    for b, length in ((1, 1), (2, 6)):
        u, mean, total, item_item = np.asarray(target[b], np.float64), 0.0, 0.0, 0.0
        for age in range(length):  # 0 = the newest
            e = np.asarray(elements[b, 5 - age], np.float64)
            gate = e @ encoder.element_weights[...] + u @ encoder.target_weights[...] + encoder.bias[...]
            feature = e * sigmoid(gate)
            weight = sigmoid(feature @ encoder.instance_weights[...] + u @ encoder.position_weights[...][:, age])
            mean, total, item_item = mean + weight * feature, total + weight, item_item + e
        np.testing.assert_allclose(pooled[b], mean / total + item_item, atol=1e-5)


def test_hgn_without_positions_reads_elements_in_any_order():
    elements, mask, target = inputs([6, 6, 6], 6)
    order = np.array([3, 1, 5, 0, 2, 4])
    for has_positions in (False, True):
        encoder = perturbed(HgnEncoder(WIDTH, nnx.Rngs(0), max_length=9, has_positions=has_positions))
        pooled, other = (encoder.pool(encoder(of, mask, target), mask, target) for of in (elements, elements[:, order]))
        assert np.allclose(pooled, other, atol=1e-5) != has_positions


def test_gru_follows_its_equations_from_the_oldest_to_the_newest_element():
    encoder = perturbed(GruEncoder(WIDTH, nnx.Rngs(0)))
    elements, mask, target = inputs([0, 1, 6], 6)
    states = encoder(elements, mask, target)
    (wr, wz, wn), (ur, uz, un) = (
        np.split(np.asarray(of[...], np.float64), 3, axis=1) for of in (encoder.input_weights, encoder.state_weights)
    )
    br, bz, bn = np.split(np.asarray(encoder.input_bias[...], np.float64), 3)
    for b, length in ((1, 1), (2, 6)):
        h = np.zeros(WIDTH)
        for t in range(6 - length, 6):
            x = np.asarray(elements[b, t], np.float64)
            r, z = sigmoid(x @ wr + br + h @ ur), sigmoid(x @ wz + bz + h @ uz)
            n = np.tanh(x @ wn + bn + r * (h @ un + encoder.new_bias[...]))
            h = (1 - z) * n + z * h
            np.testing.assert_allclose(states[b, t], h, atol=1e-5)
        np.testing.assert_array_equal(encoder.pool(states, mask, target)[b], states[b, -1])


def test_unknown_encoders_and_options_and_refused_values_are_named():
    with pytest.raises(ConfigError, match="'lstm': valid are transformer, din, hgn, gru"):
        build("lstm", WIDTH, nnx.Rngs(0))
    with pytest.raises(
        ConfigError, match="'hgn' has no option 'num_heads'; valid are max_length, has_positions, dtype"
    ):
        build("hgn", WIDTH, nnx.Rngs(0), num_heads=2)
    with pytest.raises(ConfigError, match="'transformer': width 8 is no multiple of num_heads 3"):
        build("transformer", WIDTH, nnx.Rngs(0), num_heads=3)
    with pytest.raises(ConfigError, match="'din': layer_widths"):
        build("din", WIDTH, nnx.Rngs(0), layer_widths=())
    with pytest.raises(ConfigError, match="activation 'dice': give"):
        build("din", WIDTH, nnx.Rngs(0), activation="dice")
    with pytest.raises(ConfigError, match="scale 'sqrt': valid are 'width' and 'head'"):
        build("transformer", WIDTH, nnx.Rngs(0), scale="sqrt")


def test_sequences_longer_than_the_instance_gates_are_refused():
    with pytest.raises(ValueError, match="sequences of 6 elements; the encoder has instance gates for 5"):
        HgnEncoder(WIDTH, nnx.Rngs(0), max_length=5)(*inputs([1], 6))
