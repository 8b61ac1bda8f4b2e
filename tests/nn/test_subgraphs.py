"""Sampled subgraphs against the whole graph's sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.nn.propagation import bipartite_graph, exclude_edges, graphs_tuple, propagate
from lsec_jax.nn.subgraphs import (
    Fanout,
    draw_slots,
    exclude_from_draws,
    gather_sum,
    neighbor_sums,
    quantile_fanout,
    receivers,
    rows_of,
    sample_layers,
    select,
    select_ids,
)

NUM_SOURCES, NUM_TARGETS, WIDTH = 9, 7, 3


def random_graph(count=30, seed=0, is_weighted=False, self_loops=True):
    generator = np.random.default_rng(seed)
    pairs = generator.choice(NUM_SOURCES * NUM_TARGETS, count, replace=False)
    ids, weights = (pairs // NUM_TARGETS, pairs % NUM_TARGETS), generator.uniform(0.1, 10, count)
    edges = graphs_tuple(*ids, NUM_SOURCES, NUM_TARGETS, weights if is_weighted else None)
    return bipartite_graph(edges, NUM_SOURCES, self_loops)


def random_vectors(seed=1):
    first, second = jax.random.split(jax.random.key(seed))
    return jax.random.normal(first, (NUM_SOURCES, WIDTH)), jax.random.normal(second, (NUM_TARGETS, WIDTH))


def through_layers(graph, fanout, key, source_ids, target_ids, num_layers):
    """What arrives at some nodes after layers of plain sums, from sampled messages."""
    asked_for = select_ids([source_ids], NUM_SOURCES), select_ids([target_ids], NUM_TARGETS)
    layers, *needed = sample_layers(key, graph, *asked_for, fanout, num_layers)
    vectors = tuple(rows_of(table, own) for table, own in zip(random_vectors(), needed, strict=True))
    for layer in layers:
        vectors = neighbor_sums(layer, *vectors)
    return vectors[0][asked_for[0].places(source_ids)], vectors[1][asked_for[1].places(target_ids)]


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_wide_fanouts_give_the_sums_of_the_whole_graph(num_layers):
    graph, source_ids, target_ids = random_graph(), jnp.array([4, 4, 0]), jnp.array([6])
    expected = random_vectors()
    for _ in range(num_layers):
        expected = propagate(graph, *expected)
    found = through_layers(
        graph, Fanout(NUM_TARGETS, NUM_SOURCES), jax.random.key(0), source_ids, target_ids, num_layers
    )
    np.testing.assert_allclose(found[0], expected[0][source_ids], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1][target_ids], rtol=1e-4, atol=1e-6)


def test_narrow_fanouts_give_them_on_average_and_differ_from_draw_to_draw():
    graph, source_ids, target_ids = random_graph(), jnp.arange(NUM_SOURCES), jnp.arange(NUM_TARGETS)
    draw = jax.jit(jax.vmap(lambda key: through_layers(graph, Fanout(2, 3), key, source_ids, target_ids, 1)))
    found = draw(jax.random.split(jax.random.key(1), 4000))
    for side, expected in zip(found, propagate(graph, *random_vectors()), strict=True):
        error = np.asarray(side.std(axis=0)) / np.sqrt(4000)
        assert (np.abs(side.mean(axis=0) - expected) <= 5 * error + 1e-6).all()
        assert error.max() > 0


@pytest.mark.parametrize("degree", [0, 1, 3, 4, 5, 11])
def test_slots_are_one_of_each_part_and_the_parts_make_up_the_list(degree):
    keys = jax.random.split(jax.random.key(0), 500)
    offsets, sizes = jax.vmap(lambda key: draw_slots(key, jnp.array([0]), jnp.array([degree]), 4))(keys)
    offsets, (sizes, *others) = np.asarray(offsets)[:, 0], np.asarray(sizes)[:, 0]
    assert (others == sizes).all() and sizes.sum() == degree and sizes.max() - sizes.min() <= 1
    for slot, part in enumerate(np.split(np.arange(degree), np.cumsum(sizes)[:-1])):
        assert sizes[slot] == 0 or set(offsets[:, slot]) == set(part)


@pytest.mark.parametrize("degree", [50_000_001, 2**31 - 1])
def test_every_neighbour_of_a_node_with_very_many_can_be_drawn(degree):
    offsets, sizes = draw_slots(jax.random.key(0), jnp.arange(4000), jnp.full(4000, degree), 3)
    last = np.asarray(offsets)[:, 2]
    assert (degree - np.asarray(sizes)[:, 2] <= last).all() and (last < degree).all()
    np.testing.assert_allclose(np.bincount(last % 8, minlength=8) / 4000, 1 / 8, atol=0.03)


def test_excluded_edges_send_nothing():
    graph = random_graph()
    thinned = exclude_edges(graph, jnp.arange(0, 30, 3))
    source_ids, target_ids = jnp.arange(NUM_SOURCES), jnp.arange(NUM_TARGETS)
    found = through_layers(thinned, Fanout(8, 9), jax.random.key(0), source_ids, target_ids, 1)
    for side, expected in zip(found, propagate(thinned, *random_vectors()), strict=True):
        np.testing.assert_allclose(side, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("is_weighted", [True, False])
def test_leaving_edges_out_of_the_draws_equals_drawing_from_the_graph_without_them(
    is_weighted, self_loops, renormalize
):
    graph = random_graph(is_weighted=is_weighted, self_loops=self_loops)
    senders = np.asarray(graph.to_source.senders)
    last = NUM_TARGETS - 1  # loses all its edges
    its_edges = np.flatnonzero(senders[np.asarray(graph.source_position)] == last)
    edge_ids = jnp.asarray([*its_edges, 0, 7, 29, 7, *its_edges[:1]])
    asked_for = (
        select_ids([jnp.arange(0, NUM_SOURCES, 2)], NUM_SOURCES),
        select_ids([jnp.array([1, last])], NUM_TARGETS),
    )

    @jax.jit
    def both(key):
        thinned = exclude_edges(graph, edge_ids, renormalize)
        excluded = exclude_from_draws(graph, edge_ids, renormalize)
        return (
            sample_layers(key, thinned, *asked_for, Fanout(2, 3), 2),
            sample_layers(key, graph, *asked_for, Fanout(2, 3), 2, excluded),
        )

    for seed in range(20):
        expected, found = both(jax.random.key(seed))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)


@pytest.mark.compiled
def test_compiled_sums_over_slots_of_bfloat16_add_in_float32():
    senders, values = jnp.array([[0, 1, 1], [1, 0, 0]]), jnp.full((2, 3), 1 / 3)
    vectors = jax.random.normal(jax.random.key(0), (2, 40)).astype(jnp.bfloat16)

    def total(vectors):
        return gather_sum(senders, values, vectors, False, "compiled").astype(jnp.float32).sum()

    expected = (values[:, :, None] * vectors.astype(jnp.float32)[senders]).sum(axis=1)
    found = gather_sum(senders, values, vectors, False, "compiled")
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
    np.testing.assert_array_equal(jax.grad(total)(vectors), jnp.ones((2, 40), jnp.bfloat16))


def test_a_selection_that_needs_room_for_all_nodes_is_all_nodes():
    found = select_ids([jnp.array([4, 1, 1]), jnp.array([0, 2])], 5)
    assert found.position is None and found.ids.tolist() == [0, 1, 2, 3, 4]
    assert found.places(jnp.array([3, 0])).tolist() == [3, 0]


def test_a_node_without_edges_and_a_selection_without_nodes_receive_zeros():
    graph = bipartite_graph(graphs_tuple(np.array([0]), np.array([0]), NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    found = through_layers(graph, Fanout(2, 2), jax.random.key(0), jnp.array([5]), jnp.zeros(0, jnp.int32), 2)
    assert not np.asarray(found[0]).any() and found[1].shape == (0, WIDTH)


def test_the_rows_of_the_output_are_found_among_those_of_the_input():
    graph = random_graph()
    asked_for = select_ids([jnp.array([7, 2])], NUM_SOURCES), select_ids([jnp.array([3])], NUM_TARGETS)
    (layer,), *needed = sample_layers(jax.random.key(0), graph, *asked_for, Fanout(3, 3), 1)
    sources, targets = (rows_of(table, own) for table, own in zip(random_vectors(), needed, strict=True))
    own = receivers(layer, sources, targets)
    np.testing.assert_array_equal(own[0], random_vectors()[0][jnp.array([2, 7])])
    np.testing.assert_array_equal(own[1], random_vectors()[1][jnp.array([3])])
    np.testing.assert_allclose(layer.source_self, graph.source_self[jnp.array([2, 7])])


def test_selections_are_sorted_padded_and_know_their_places():
    found = select(jnp.array([False, True, True, False, True]), 4)
    assert found.ids.tolist() == [1, 2, 4, 5]
    assert found.position[jnp.array([1, 2, 4])].tolist() == [0, 1, 2]
    assert select_ids([jnp.array([4, 1]), jnp.array([[1], [2]])], 5).ids.tolist() == [1, 2, 4, 5]


def test_fanouts_are_quantiles_of_the_degrees_within_limits():
    source_ids, target_ids = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 3, 0, 1, 0])
    assert quantile_fanout(source_ids, target_ids, 4, 4, 1.0, (1, 512)) == Fanout(4, 3)
    assert quantile_fanout(source_ids, target_ids, 4, 4, 0.5, (1, 512)) == Fanout(2, 2)  # medians 1.5, rounded up
    assert quantile_fanout(source_ids, target_ids, 4, 4, 1.0, (5, 512)) == Fanout(5, 5)
    assert quantile_fanout(source_ids, target_ids, 4, 4, 1.0, (1, 2)) == Fanout(2, 2)


@pytest.mark.parametrize("learnt_values", [False, True])
@pytest.mark.parametrize("width", [3, 16, 71, 150, 300])
@pytest.mark.parametrize("backend", ["bcsr", pytest.param("compiled", marks=pytest.mark.compiled)])
def test_gradients_of_a_gathered_sum_equal_those_of_the_plain_formula(learnt_values, width, backend):
    senders = jnp.array([[0, 3, 3], [2, 0, 1]])
    values = jnp.array([[0.5, -1.0, 2.0], [0.0, 1.0, 3.0]])
    vectors = jax.random.normal(jax.random.key(0), (NUM_TARGETS, width))

    def gathered(values, vectors):
        return jnp.sum(jnp.sin(gather_sum(senders, values, vectors, learnt_values, backend)))

    def plain(values, vectors):
        return jnp.sum(jnp.sin((values[:, :, None] * vectors[senders]).sum(axis=1)))

    np.testing.assert_allclose(gathered(values, vectors), plain(values, vectors), rtol=1e-5, atol=1e-5)
    found, wanted = jax.grad(gathered, (0, 1))(values, vectors), jax.grad(plain, (0, 1))(values, vectors)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-6)
    if learnt_values:
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5)
