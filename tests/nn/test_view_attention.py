"""Multi-view attention beside a slow transcription of TREEMS' equations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.view_attention import SLOPE, MultiViewAttention, ViewLayer

ROWS, WIDTH, CONTEXT, FANOUTS = 5, 4, 3, (3, 2)


def leaky(x):
    return np.where(x >= 0, x, SLOPE * x)


def inputs(seed=0, views=2):
    """(views, context): the first user has no neighbours, a neighbour of the second has none."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(views):
        hops = [rng.normal(size=(ROWS, *FANOUTS[:i], WIDTH)).astype(np.float32) for i in range(3)]
        masks = [rng.random((ROWS, *FANOUTS[: i + 1])) < 0.7 for i in range(2)]
        masks[0][0], masks[0][1], masks[1][1, 0] = False, True, False
        found.append((tuple(map(jnp.asarray, hops)), tuple(map(jnp.asarray, masks))))
    return found, jnp.asarray(rng.normal(size=(ROWS, CONTEXT)), jnp.float32)


def slow_layer(layer, own, neighbours, mask, context):
    """One user: vectors of her own [d], of her neighbours [k, d]."""
    there = [np.asarray(of, float) for of, is_there in zip(neighbours, mask, strict=True) if is_there]
    if not there:
        return own
    weights = {name: np.asarray(getattr(layer, name)[...], float) for name in ("own", "neighbour", "context", "update")}
    stacked = np.concatenate([weights["own"], weights["neighbour"], weights["context"]])  # a, or W, of Eq. 10
    scores = []
    for of in there:
        x = leaky(np.concatenate([own, of, context]) @ stacked)
        scores.append((x if layer.scores is None else x @ np.asarray(layer.scores[...], float))[0])
    alphas = np.exp(scores) / np.exp(scores).sum()
    together = sum(alpha * of for alpha, of in zip(alphas, there, strict=True))
    return leaky(np.concatenate([own, together]) @ weights["update"])


def slow(module, views, context):
    """Two layers, user by user."""
    rows = []
    for row in range(ROWS):
        parts = []
        for (first, second), (hops, masks) in zip(module.layers, views, strict=True):
            own, near, far = (np.asarray(of, float)[row] for of in hops)
            is_near, is_far = (np.asarray(of)[row] for of in masks)
            c = np.asarray(context, float)[row]
            new = slow_layer(first, own, near, is_near, c)
            of_near = [slow_layer(first, near[k], far[k], is_far[k], c) for k in range(FANOUTS[0])]
            parts.append(slow_layer(second, new, of_near, is_near, c))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


@pytest.mark.parametrize("attention", ["published", "dynamic"])
def test_two_layers_of_two_views_are_those_of_the_equations(attention):
    views, context = inputs()
    module = MultiViewAttention(WIDTH, CONTEXT, 2, 2, nnx.Rngs(0), attention)
    found = module(views, context)
    np.testing.assert_allclose(found, slow(module, views, context), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[0], np.concatenate([hops[0][0] for hops, _ in views]))


@pytest.mark.parametrize("attention", ["published", "dynamic"])
def test_padding_changes_neither_outputs_nor_gradients(attention):
    views, context = inputs()
    module = MultiViewAttention(WIDTH, CONTEXT, 2, 2, nnx.Rngs(0), attention)

    def poisoned(value):
        return [
            (
                (
                    hops[0],
                    jnp.where(masks[0][..., None], hops[1], value),
                    jnp.where((masks[1] & masks[0][..., None])[..., None], hops[2], value),
                ),
                masks,
            )
            for hops, masks in views
        ]

    @jax.jit
    def total(views, context):
        return (module(views, context) ** 2).sum()

    first, second = (jax.value_and_grad(total, argnums=1)(poisoned(value), context) for value in (0.0, jnp.nan))
    assert np.isfinite(first[0]) and first[0] == second[0]
    np.testing.assert_array_equal(*(of[1] for of in (first, second)))


def test_more_padding_changes_nothing():
    views, context = inputs(views=1)
    module = MultiViewAttention(WIDTH, CONTEXT, 1, 2, nnx.Rngs(0))
    ((hops, masks),) = views
    wider = (
        (hops[0], jnp.pad(hops[1], ((0, 0), (0, 2), (0, 0))), jnp.pad(hops[2], ((0, 0), (0, 2), (0, 3), (0, 0)))),
        (jnp.pad(masks[0], ((0, 0), (0, 2))), jnp.pad(masks[1], ((0, 0), (0, 2), (0, 3)))),
    )
    np.testing.assert_allclose(module([wider], context), module(views, context), rtol=1e-6, atol=1e-6)


def test_the_context_orders_neighbours_in_dynamic_attention_alone():
    rng = np.random.default_rng(0)
    own, neighbours = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((1, WIDTH), (1, 6, WIDTH)))
    mask = jnp.ones((1, 6), bool)

    def order(layer, context):
        """Of the neighbours by how much the output moves with each of them: by their weights."""
        spread = jax.nn.softmax(jnp.where(mask, _logits(layer, own, neighbours, context), -1e30), axis=-1)
        return tuple(np.argsort(np.asarray(spread)[0]))

    contexts = [jnp.asarray(10 * rng.normal(size=(1, CONTEXT)), jnp.float32) for _ in range(20)]
    for attention, changes in (("published", False), ("dynamic", True)):
        layer = ViewLayer(WIDTH, CONTEXT, nnx.Rngs(1), attention)
        orders = {order(layer, context) for context in contexts}
        assert (len(orders) > 1) == changes


def _logits(layer, own, neighbours, context):
    of_user = own @ layer.own[...] + context @ layer.context[...]
    found = jax.nn.leaky_relu(of_user[:, None] + neighbours @ layer.neighbour[...], SLOPE)
    return (found if layer.scores is None else found @ layer.scores[...])[..., 0]


def test_other_numbers_of_views_or_hops_are_refused():
    views, context = inputs()
    module = MultiViewAttention(WIDTH, CONTEXT, 2, 1, nnx.Rngs(0))
    with pytest.raises(ValueError, match="3 hops and 2 masks for 1 layers"):
        module(views, context)
    with pytest.raises(ValueError, match="1 views for 2"):
        module(views[:1], context)
    assert len(list(itertools.chain(*module.layers))) == 2
