"""Layers over sampled neighbours beside slow transcriptions of GraphSAGE and GAT, and how they read hops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.hops import merge_views, read_hops
from lsec_jax.nn.sampled_layers import SLOPE, GatLayer, SageLayer

ROWS, WIDTH, FANOUT = 6, 4, 5
LAYERS = {
    **{name: lambda rngs, name=name: SageLayer(WIDTH, name, rngs) for name in ("mean", "max", "lstm")},
    "gat": lambda rngs: GatLayer(WIDTH, rngs),
}


def values(variable):
    return np.asarray(variable[...], float)


def inputs(seed=0):
    """(own, neighbours, mask): the first node has no neighbours; padding may stand anywhere."""
    rng = np.random.default_rng(seed)
    mask = rng.random((ROWS, FANOUT)) < 0.6
    mask[0], mask[1] = False, True
    arrays = (rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(ROWS, FANOUT, WIDTH)))
    return *(jnp.asarray(of, jnp.float32) for of in arrays), jnp.asarray(mask)


def slow_lstm(cell, there):
    """The last state of an LSTM, gate by gate."""
    kernels = {name: np.asarray(getattr(cell, name).kernel[...], float) for name in ("dense_i", "dense_h")}
    bias = np.asarray(cell.dense_h.bias[...], float)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    state, memory = np.zeros(WIDTH), np.zeros(WIDTH)
    for x in there:
        i, f, g, o = np.split(x @ kernels["dense_i"] + state @ kernels["dense_h"] + bias, 4)
        memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
        state = sigmoid(o) * np.tanh(memory)
    return state


def slow_sage(layer, own, there):
    """GraphSAGE, Algorithm 1, lines 4 to 7, of one node."""
    found = np.zeros(WIDTH)
    if there and layer.aggregator == "mean":
        found = np.mean(there, axis=0)
    elif there and layer.aggregator == "max":
        found = np.max([np.maximum(x @ values(layer.pool) + values(layer.pool_bias), 0) for x in there], axis=0)
    elif there:
        found = slow_lstm(layer.cell, there)
    new = np.maximum(np.concatenate([own, found]) @ values(layer.update), 0)
    return new / np.linalg.norm(new) if new.any() else new


def slow_gat(layer, own, there):
    """GAT, Eq. 1-4, of one node."""
    vectors = [x @ values(layer.weights) for x in (own, *there)]
    scores = [(vectors[0] @ values(layer.own) + x @ values(layer.neighbour))[0] for x in vectors]
    scores = np.exp([x if x > 0 else SLOPE * x for x in scores])
    new = sum(score * x for score, x in zip(scores / scores.sum(), vectors, strict=True))
    return np.where(new > 0, new, np.expm1(new))


@pytest.fixture(params=LAYERS)
def layer(request):
    """With biases that are not 0."""
    found = LAYERS[request.param](nnx.Rngs(0))
    if request.param == "max":
        found.pool_bias[...] = jnp.linspace(-0.5, 0.5, WIDTH)
    return found


def test_a_layer_is_that_of_the_equations(layer):
    own, neighbours, mask = inputs()
    slow = slow_gat if isinstance(layer, GatLayer) else slow_sage
    wanted = [
        slow(layer, np.asarray(own[i], float), [np.asarray(x, float) for x in neighbours[i][mask[i]]])
        for i in range(ROWS)
    ]
    np.testing.assert_allclose(layer(own, neighbours, mask), np.stack(wanted), rtol=1e-5, atol=1e-6)


def test_leading_axes_are_independent(layer):
    own, neighbours, mask = inputs()
    wide = layer(own.reshape(2, 3, WIDTH), neighbours.reshape(2, 3, FANOUT, WIDTH), mask.reshape(2, 3, FANOUT))
    np.testing.assert_allclose(wide.reshape(ROWS, WIDTH), layer(own, neighbours, mask), rtol=1e-6, atol=1e-6)


def test_what_stands_in_the_padding_changes_neither_outputs_nor_gradients(layer):
    own, neighbours, mask = inputs()

    def total(neighbours):
        return (layer(own, neighbours, mask) ** 3).sum()

    first, second = (
        jax.value_and_grad(total)(jnp.where(mask[..., None], neighbours, value)) for value in (0.0, jnp.nan)
    )
    assert np.isfinite(first[0]) and first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])
    assert np.isfinite(first[1]).all()


def test_the_order_of_neighbours_matters_to_the_lstm_alone(layer):
    own, neighbours, mask = inputs()
    turned = layer(own, neighbours[:, ::-1], mask[:, ::-1])
    change = np.abs(turned - layer(own, neighbours, mask)).max()
    assert (change > 1e-3) == (getattr(layer, "aggregator", "") == "lstm")
    assert change > 1e-3 or change < 1e-6


def two_views(seed=0, fanouts=((3, 2), (2, 4))):
    rng = np.random.default_rng(seed)
    own = jnp.asarray(rng.normal(size=(ROWS, WIDTH)), jnp.float32)
    found = []
    for of in fanouts:
        hops = [jnp.asarray(rng.normal(size=(ROWS, *of[: i + 1], WIDTH)), jnp.float32) for i in range(len(of))]
        masks = [jnp.asarray(rng.random((ROWS, *of[: i + 1])) < 0.7) for i in range(len(of))]
        found.append(((own, *hops), tuple(masks)))
    return found


def test_two_layers_read_two_hops_of_all_views():
    views, layers = two_views(), [SageLayer(WIDTH, "mean", nnx.Rngs(of)) for of in (0, 1)]
    wanted = []
    for row in range(ROWS):
        own, new = np.asarray(views[0][0][0][row], float), []
        near = []
        for hops, masks in views:
            for k in np.flatnonzero(masks[0][row]):
                near.append(np.asarray(hops[1][row, k], float))
                far = [np.asarray(x, float) for x in hops[2][row, k][masks[1][row, k]]]
                new.append(slow_sage(layers[0], near[-1], far))
        wanted.append(slow_sage(layers[1], slow_sage(layers[0], own, near), new))
    np.testing.assert_allclose(read_hops(layers, *merge_views(views)), np.stack(wanted), rtol=1e-5, atol=1e-6)


def test_nothing_below_a_neighbour_who_is_not_there_is_read():
    ((hops, masks),) = two_views(fanouts=((3, 2),))
    layers = [SageLayer(WIDTH, "max", nnx.Rngs(of)) for of in (0, 1)]
    poisoned = jnp.where(masks[0][..., None, None], hops[2], jnp.nan)
    everywhere = masks[1] | ~masks[0][..., None]
    found = read_hops(layers, (*hops[:2], poisoned), (masks[0], everywhere))
    np.testing.assert_array_equal(found, read_hops(layers, hops, masks))


def test_one_view_merged_is_itself_and_views_may_stand_in_any_order():
    views, layers = two_views(), [GatLayer(WIDTH, nnx.Rngs(of)) for of in (0, 1)]
    merged = merge_views(views[:1])
    jax.tree.map(np.testing.assert_array_equal, merged, tuple(map(tuple, views[0])))
    found, turned = (read_hops(layers, *merge_views(of)) for of in (views, views[::-1]))
    np.testing.assert_allclose(found, turned, rtol=1e-6, atol=1e-6)


def test_other_numbers_of_hops_than_of_layers_are_refused():
    ((hops, masks), _) = two_views()
    with pytest.raises(ValueError, match="3 hops and 2 masks for 1 layers"):
        read_hops([GatLayer(WIDTH, nnx.Rngs(0))], hops, masks)
