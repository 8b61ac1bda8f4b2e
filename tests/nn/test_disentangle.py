"""The disentangled encoder against a transcription of Eq. 5-7, and the attention that it reads with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.attention import masked_mean, masked_softmax, target_attention
from lsec_jax.nn.disentangle import Disentangler

WIDTH, LENGTHS = 6, [0, 1, 50, 7]
MASK = np.arange(50)[None, :] >= 50 - np.asarray(LENGTHS)[:, None]


def inputs(seed=0):
    generator = np.random.default_rng(seed)
    embeddings, states = generator.normal(size=(2, len(LENGTHS), 50, WIDTH))
    arrays = embeddings, states * MASK[:, :, None], generator.normal(size=(len(LENGTHS), WIDTH))
    embeddings, states, target = (jnp.asarray(of, jnp.float32) for of in arrays)
    return embeddings, states, jnp.asarray(MASK), target


def softmax(logits):
    weights = np.exp(logits - np.max(logits))
    return weights / weights.sum()


def slow_vectors(embeddings, states, mask, target, scale, prototypes=None):
    """One row and one behaviour after the other, both exponentials of Eq. 5 written out, in float64."""
    found = np.zeros((2, *target.shape))
    for b in range(len(target)):
        own = [t for t in range(mask.shape[1]) if mask[b, t]]
        if not own:
            continue
        e, h = (np.asarray(of[b], np.float64)[own] for of in (embeddings, states))
        o = (e.mean(axis=0), e.max(axis=0)) if prototypes is None else prototypes
        exponentials = [np.exp(h * of) for of in o]
        for which in (0, 1):
            z = exponentials[which] / (exponentials[0] + exponentials[1]) * h
            weights = softmax([scale * np.dot(np.asarray(target[b], np.float64), of) for of in z])
            found[which, b] = sum(w * of for w, of in zip(weights, z, strict=True))
    return found


@pytest.mark.parametrize(("prototypes", "scale"), [("pooled", "none"), ("learned", "sqrt")])
def test_vectors_are_those_of_the_equations(prototypes, scale):
    module = Disentangler(WIDTH, nnx.Rngs(0), prototypes, scale)
    if module.prototypes is not None:
        module.prototypes[...] = 30 * module.prototypes[...]
    found = module(*inputs())
    learned = None if module.prototypes is None else np.asarray(module.prototypes[...], np.float64)
    wanted = slow_vectors(*inputs(), 1 if scale == "none" else WIDTH**-0.5, learned)
    for vectors, of, empty in zip(found, wanted, module.empty[...], strict=True):
        np.testing.assert_allclose(vectors[1:], of[1:], atol=1e-5)
        np.testing.assert_array_equal(vectors[0], empty)
    assert np.abs(found.consistent - found.specific)[1:].max() > 0.1


def test_one_behaviour_is_divided_and_nothing_of_it_is_lost():
    arguments = inputs()
    # With one element mean and maximum are equal, and each part is half of the state.
    found = Disentangler(WIDTH, nnx.Rngs(0))(*arguments)
    np.testing.assert_allclose(found.consistent[1], arguments[1][1, -1] / 2, rtol=1e-6)
    np.testing.assert_allclose(found.consistent[1] + found.specific[1], arguments[1][1, -1], rtol=1e-6)


@pytest.mark.parametrize("prototypes", ["pooled", "learned"])
def test_padding_changes_neither_vectors_nor_gradients_and_all_are_finite(prototypes):
    embeddings, states, mask, target = inputs()
    graphdef, state = nnx.split(Disentangler(WIDTH, nnx.Rngs(0), prototypes))

    @jax.jit
    def value(state, embeddings, states, target):
        found = nnx.merge(graphdef, state)(embeddings, states, mask, target)
        return jnp.sin(found.consistent).sum() + jnp.sin(2 * found.specific).sum()

    results = []
    for padding in (0.0, 1e6):
        filled = jnp.where(mask[:, :, None], embeddings, padding)
        results.append(jax.value_and_grad(value, (0, 1, 2, 3))(state, filled, states, target))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert all(np.isfinite(of).all() for of in jax.tree.leaves(results))
    of_state, of_embeddings, of_states, of_target = results[0][1]
    assert not of_embeddings[0].any() and not of_states[0].any() and not of_target[0].any()
    assert np.asarray(of_state["empty"][...]).all()


def test_large_states_do_not_overflow():
    embeddings, states, mask, target = inputs()
    found = Disentangler(WIDTH, nnx.Rngs(0))(100 * embeddings, 100 * states, mask, 100 * target)
    assert all(np.isfinite(of).all() for of in found)


def test_target_attention_weighs_values_by_the_softmax_of_its_products():
    keys, values, mask, target = inputs()
    found = target_attention(target, keys, values, mask, 0.3)
    assert not found[0].any()
    for b in (1, 2, 3):
        own = np.flatnonzero(MASK[b])
        weights = softmax([0.3 * np.dot(target[b], keys[b, t]) for t in own])
        np.testing.assert_allclose(
            found[b], sum(w * values[b, t] for w, t in zip(weights, own, strict=True)), atol=1e-5
        )


def test_masked_softmax_and_mean_leave_masked_elements_out():
    logits = jnp.array([[5.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    mask = jnp.array([[False, True, True], [False, False, False]])
    found = masked_softmax(logits, mask)
    np.testing.assert_allclose(found, [[0, 1 / (1 + np.e), np.e / (1 + np.e)], [0, 0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda of: jnp.sin(masked_softmax(of, mask)).sum())(logits)
    assert np.isfinite(gradient).all() and not gradient[1].any()
    means = masked_mean(jnp.array([[[9.0], [1.0], [2.0]], [[9.0], [9.0], [9.0]]]), mask)
    np.testing.assert_allclose(means, [[1.5], [0]])


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="'pooled' and 'learned'"):
        Disentangler(WIDTH, nnx.Rngs(0), "random")
    with pytest.raises(ValueError, match="'none' and 'sqrt'"):
        Disentangler(WIDTH, nnx.Rngs(0), scale="d")
