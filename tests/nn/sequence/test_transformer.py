"""The Transformer against a slow transcription of Eq. 3-4, and what attention does with masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo  # no public way to its checks

from lsec_jax.nn.sequence import self_attention as attention
from lsec_jax.nn.sequence.self_attention import self_attention
from lsec_jax.nn.sequence.transformer import TransformerEncoder

WIDTH, LENGTH, ROWS = 8, 6, 5
LENGTHS = np.array([6, 0, 1, 3, 5])
MASK = np.arange(LENGTH)[None, :] >= LENGTH - LENGTHS[:, None]


def random_inputs(rows=ROWS, length=LENGTH, width=WIDTH, seed=0):
    generator = np.random.default_rng(seed)
    return (
        jnp.asarray(generator.normal(size=(rows, length, width)), jnp.float32),
        jnp.asarray(generator.normal(size=(rows, width)), jnp.float32),
    )


def slow_attention(queries, keys, values, mask, scale, is_causal):
    """One row, one head, one query after the other, in float64."""
    arrived = np.zeros(queries.shape)
    for b, q, h in np.ndindex(*queries.shape[:3]):
        seen = [k for k in range(keys.shape[1]) if mask[b, k] and (k <= q or not is_causal)]
        if seen:
            logits = np.array([scale * queries[b, q, h] @ keys[b, k, h] for k in seen])
            weights = np.exp(logits - logits.max())
            arrived[b, q, h] = sum(w * values[b, k, h] for w, k in zip(weights / weights.sum(), seen, strict=True))
    return arrived


def slow_norm(x):
    return (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6)


def slow_states(encoder, elements, mask, num_heads, scale, is_causal):
    """Eq. 3-4 with residuals and normalisation, in float64."""
    x = np.array(elements, np.float64)
    rows, length, width = x.shape
    if encoder.positions is not None:
        for t in range(length):
            x[:, t] += np.asarray(encoder.positions[...])[length - 1 - t]
    for block in encoder.blocks:
        q, k, v = (
            (x @ np.asarray(w[...], np.float64)).reshape(rows, length, num_heads, -1)
            for w in (block.query_weights, block.key_weights, block.value_weights)
        )
        heads = slow_attention(q, k, v, mask, scale, is_causal).reshape(rows, length, width)
        a = np.apply_along_axis(slow_norm, -1, x + heads @ np.asarray(block.output_weights[...]))
        hidden = np.maximum(a @ np.asarray(block.ffn_weights[...]) + np.asarray(block.ffn_bias[...]), 0)
        fed = hidden @ np.asarray(block.ffn_output_weights[...]) + np.asarray(block.ffn_output_bias[...])
        x = np.apply_along_axis(slow_norm, -1, a + fed)
    return np.where(mask[:, :, None], x, 0)


@pytest.mark.parametrize(("is_causal", "scale", "has_positions"), [(False, "width", True), (True, "head", False)])
def test_states_are_those_of_the_equations(is_causal, scale, has_positions):
    options = {"num_heads": 2, "ffn_width": 12, "is_causal": is_causal, "scale": scale, "has_positions": has_positions}
    encoder = TransformerEncoder(WIDTH, nnx.Rngs(0), **options)
    for block in encoder.blocks:
        block.ffn_bias[...] = jnp.linspace(-1, 1, 12)
        block.ffn_output_bias[...] = jnp.linspace(-1, 1, WIDTH)
    elements, target = random_inputs()
    wanted = slow_states(encoder, elements, MASK, 2, WIDTH**-0.5 if scale == "width" else 4**-0.5, is_causal)
    np.testing.assert_allclose(encoder(elements, jnp.asarray(MASK), target), wanted, atol=2e-5)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("implementation", ["blocks", "xla"])
def test_attention_is_that_of_the_equation(implementation, is_causal):
    generator = np.random.default_rng(1)
    q, k, v = (jnp.asarray(generator.normal(size=(ROWS, LENGTH, 3, 2)), jnp.float32) for _ in range(3))
    options = {"scale": 0.7, "is_causal": is_causal, "implementation": implementation}
    found = self_attention(q, k, v, jnp.asarray(MASK), **options)
    wanted = slow_attention(q, k, v, MASK, 0.7, is_causal)
    np.testing.assert_allclose(
        np.where(MASK[:, :, None, None], found, 0), np.where(MASK[:, :, None, None], wanted, 0), atol=1e-5
    )


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("block_rows", [1, 2, 3, 100])
def test_attention_and_its_gradients_are_the_same_in_blocks_of_any_size(monkeypatch, is_causal, block_rows):
    monkeypatch.setattr(attention, "_BLOCK_WEIGHTS", block_rows * 3 * LENGTH**2)
    generator = np.random.default_rng(2)
    arrays = tuple(jnp.asarray(generator.normal(size=(ROWS, LENGTH, 3, 2)), jnp.float32) for _ in range(3))
    factors = generator.normal(size=arrays[0].shape).astype(np.float32) * MASK[:, :, None, None]

    def value(implementation, arrays):
        options = {"scale": 0.7, "is_causal": is_causal, "implementation": implementation}
        return (self_attention(*arrays, jnp.asarray(MASK), **options) * factors).sum()

    found, wanted = (jax.value_and_grad(value, 1)(name, arrays) for name in ("blocks", "xla"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_attention_in_bfloat16_is_near_that_in_float32():
    generator = np.random.default_rng(3)
    arrays = [jnp.asarray(generator.normal(size=(ROWS, LENGTH, 3, 8)), jnp.bfloat16) for _ in range(3)]
    halves = self_attention(*arrays, jnp.asarray(MASK), scale=0.3)
    assert halves.dtype == jnp.bfloat16
    wanted = self_attention(*(of.astype(jnp.float32) for of in arrays), jnp.asarray(MASK), scale=0.3)
    np.testing.assert_allclose(halves.astype(jnp.float32), wanted, atol=0.03)


def test_a_causal_state_does_not_depend_on_what_comes_later():
    encoder = TransformerEncoder(WIDTH, nnx.Rngs(0), num_heads=2, is_causal=True, has_positions=False)
    elements, target = random_inputs()
    changed = elements.at[:, -1].add(3)
    before, after = (encoder(of, jnp.asarray(MASK), target) for of in (elements, changed))
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
    assert np.abs(before[0, -1] - after[0, -1]).max() > 0.1


def test_computing_in_bfloat16_is_near_float32_and_returns_float32():
    elements, target = random_inputs()
    states = [
        TransformerEncoder(WIDTH, nnx.Rngs(0), num_heads=2, dtype=dtype)(elements, jnp.asarray(MASK), target)
        for dtype in (None, jnp.bfloat16)
    ]
    assert states[1].dtype == jnp.float32
    np.testing.assert_allclose(states[0], states[1], atol=0.1)
    assert np.abs(states[0] - states[1]).max() > 0


def test_a_causal_encoder_pools_its_newest_state_and_another_attends_from_the_target():
    states, target = random_inputs()
    states = states * MASK[:, :, None]
    causal, full = (TransformerEncoder(WIDTH, nnx.Rngs(0), is_causal=of) for of in (True, False))
    np.testing.assert_array_equal(causal.pool(states, jnp.asarray(MASK), target), states[:, -1])
    query = target[:, None, None]
    keys = states[:, :, None]
    wanted = slow_attention(query, keys, keys, MASK, WIDTH**-0.5, False)[:, 0, 0]
    np.testing.assert_allclose(full.pool(states, jnp.asarray(MASK), target), wanted, atol=1e-5)


def test_sequences_longer_than_the_positions_and_unfit_settings_are_refused():
    encoder = TransformerEncoder(WIDTH, nnx.Rngs(0), max_length=LENGTH - 1)
    elements, target = random_inputs()
    with pytest.raises(ValueError, match="sequences of 6 elements; the encoder has positions for 5"):
        encoder(elements, jnp.asarray(MASK), target)
    with pytest.raises(ValueError, match="no multiple of num_heads 8"):
        TransformerEncoder(12, nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout rate"):
        TransformerEncoder(WIDTH, nnx.Rngs(0), dropout_rate=-0.1)


def test_cudnn_takes_what_auto_gives_it(monkeypatch):
    """Its checks of shapes and layouts, forward and backward, without the device."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda *given: True)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda *given: False)
    arrays = jax.ShapeDtypeStruct((4, 50, 8, 16), jnp.bfloat16), jax.ShapeDtypeStruct((4, 50), bool)

    def attend(values, mask):
        return self_attention(values, values, values, mask, scale=0.25, implementation="cudnn")

    assert jax.eval_shape(attend, *arrays).shape == (4, 50, 8, 16)
    slope = jax.eval_shape(jax.grad(lambda *given: attend(*given).astype(jnp.float32).sum()), *arrays)
    assert slope.shape == (4, 50, 8, 16) and slope.dtype == jnp.bfloat16
