"""Gradients of layers with a backward pass of their own; their outputs are tested with the models that use them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.gat_layer import GatLayer
from lsec_jax.nn.graph_attention import ACTIVATIONS
from lsec_jax.nn.graph_stack import GraphStack
from lsec_jax.nn.propagation import bipartite_graph, exclude_edges, graphs_tuple
from lsec_jax.nn.subgraphs import Fanout, rows_of, sample_layers, select_ids

NUM_SOURCES, NUM_TARGETS, WIDTH = 7, 5, 3
SOURCE_IDS = np.array([0, 0, 1, 2, 2, 3, 3, 4, 5, 5])
TARGET_IDS = np.array([0, 3, 1, 0, 2, 3, 2, 1, 2, 0])  # source 6 and target 4 have no edges
EXCLUDED = np.array([0, 6])


def dense_attention(heads, receivers, senders, adjacency, self_loop, activation):
    """Masked softmax over a full matrix, for plain automatic differentiation."""
    receivers, senders = heads.project(receivers).vectors, heads.project(senders).vectors
    own = jnp.einsum("mhd,hd->hm", receivers, heads.receiver_vectors[...])
    if self_loop:
        senders = jnp.concatenate([senders, receivers])
        adjacency = jnp.concatenate([adjacency, jnp.eye(len(receivers))], axis=1)
    other = jnp.einsum("nhd,hd->hn", senders, heads.sender_vectors[...])
    weights = jnp.exp(jax.nn.leaky_relu(own[:, :, None] + other[:, None, :], 0.2)) * adjacency[None]
    total = weights.sum(axis=2, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1.0)
    return ACTIVATIONS[activation](jnp.einsum("hmn,nhd->mhd", weights, senders).reshape(len(receivers), -1))


@pytest.mark.parametrize(
    ("backend", "activation"),
    [
        ("segment", "elu"),
        ("bcsr", "relu"),
        ("chunked", "leaky_relu"),
        *(pytest.param("compiled", name, marks=pytest.mark.compiled) for name in ACTIVATIONS),
    ],
)
@pytest.mark.parametrize("self_loop", [False, True])
@pytest.mark.parametrize("weights_per_direction", [False, True])
def test_gradients_of_gat_equal_those_of_dense_attention(backend, activation, self_loop, weights_per_direction):
    whole = bipartite_graph(graphs_tuple(SOURCE_IDS, TARGET_IDS, NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    graph = exclude_edges(whole, jnp.asarray(EXCLUDED))
    kept = np.setdiff1d(np.arange(len(SOURCE_IDS)), EXCLUDED)
    adjacency = jnp.zeros((NUM_SOURCES, NUM_TARGETS)).at[SOURCE_IDS[kept], TARGET_IDS[kept]].set(1.0)
    options = {
        "self_loop": self_loop,
        "weights_per_direction": weights_per_direction,
        "backend": backend,
        "activation": activation,
    }
    graphdef, state = nnx.split(GatLayer(WIDTH, 4, 2, rngs=nnx.Rngs(0), **options))
    first, second = jax.random.split(jax.random.key(1))
    inputs = jax.random.normal(first, (NUM_SOURCES, WIDTH)), jax.random.normal(second, (NUM_TARGETS, WIDTH))

    def value(outputs):
        return sum(jnp.sum(jnp.sin(3 * output)) for output in outputs)

    def sparse(state, inputs):
        return value(nnx.merge(graphdef, state)(graph, *inputs))

    def dense(state, inputs):
        layer, (sources, targets) = nnx.merge(graphdef, state), inputs
        heads = layer.to_source_heads
        other = heads if layer.to_target_heads is None else layer.to_target_heads
        return value(
            (
                dense_attention(heads, sources, targets, adjacency, self_loop, activation),
                dense_attention(other, targets, sources, adjacency.T, self_loop, activation),
            )
        )

    (found, found_gradients), (wanted, wanted_gradients) = (
        jax.value_and_grad(function, (0, 1))(state, inputs) for function in (sparse, dense)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found_gradients, wanted_gradients)


@pytest.mark.parametrize("backend", ["bcsr", pytest.param("compiled", marks=pytest.mark.compiled)])
@pytest.mark.parametrize("weights_per_direction", [False, True])
def test_a_stack_of_gat_layers_equals_one_layer_after_the_other(backend, weights_per_direction):
    whole = bipartite_graph(graphs_tuple(SOURCE_IDS, TARGET_IDS, NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    graph = exclude_edges(whole, jnp.asarray(EXCLUDED))
    options = {"rngs": nnx.Rngs(0), "backend": backend, "weights_per_direction": weights_per_direction}
    graphdef, state = nnx.split(GraphStack("gat", WIDTH, (4, 6, 5), num_heads=2, **options))
    inputs = jnp.ones((NUM_SOURCES, WIDTH)).at[2].set(3.0), jnp.ones((NUM_TARGETS, WIDTH)).at[1].set(-2.0)

    def value(outputs):
        # Of some nodes only, as in a training step: the others' cotangents are zero.
        return jnp.sum(jnp.sin(3 * outputs[0][np.array([0, 3, 6])])) + jnp.sum(jnp.sin(3 * outputs[1][2]))

    def together(state, inputs):
        return value(nnx.merge(graphdef, state)(graph, *inputs))

    def one_by_one(state, inputs):
        for layer in nnx.merge(graphdef, state).layers:
            inputs = layer(graph, *inputs)
        return value(inputs)

    found, wanted = (jax.value_and_grad(function, (0, 1))(state, inputs) for function in (together, one_by_one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), found, wanted)


@pytest.mark.parametrize(("fanout", "bias"), [(8, 0.03), (64, 0.003)])
@pytest.mark.parametrize("self_loop", [False, True])
def test_gat_over_sampled_neighbours_is_close_to_gat_over_all_on_average(fanout, bias, self_loop):
    num_neighbors, num_draws = 100, 2000
    graph = bipartite_graph(graphs_tuple(np.zeros(num_neighbors, int), np.arange(num_neighbors), 1, num_neighbors), 1)
    layer = GatLayer(WIDTH, 4, 2, rngs=nnx.Rngs(0), self_loop=self_loop, activation="none")
    first, second = jax.random.split(jax.random.key(1))
    sources = 5 + jax.random.normal(first, (1, WIDTH))  # far from its neighbours: how much it weighs itself shows
    targets = jax.random.normal(second, (num_neighbors, WIDTH))
    asked_for = select_ids([jnp.array([0])], 1), select_ids([], num_neighbors)

    def sampled(key):
        (drawn,), *needed = sample_layers(key, graph, *asked_for, Fanout(fanout, 1), 1)
        return layer(drawn, rows_of(sources, needed[0]), rows_of(targets, needed[1]))[0][0]

    found = jax.vmap(sampled)(jax.random.split(jax.random.key(2), num_draws))
    error = np.asarray(found.std(axis=0)) / np.sqrt(num_draws)
    expected = layer(graph, sources, targets)[0][0]
    assert (np.abs(found.mean(axis=0) - expected) <= bias + 4 * error).all()
    assert error.min() > 0
