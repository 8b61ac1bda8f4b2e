"""Propagation against a dense numpy transcription of Eq. 5-6."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from lsec_jax.nn.propagation import (
    add_self,
    bipartite_graph,
    exclude_edges,
    graphs_tuple,
    propagate,
    weighted_sum,
    with_wanted,
)

NUM_SOURCES, NUM_TARGETS, WIDTH = 7, 5, 3
BACKENDS = ["segment", "bcsr", "chunked", pytest.param("compiled", marks=pytest.mark.compiled)]


def random_edges(seed=0, count=14):
    pairs = np.random.default_rng(seed).choice(NUM_SOURCES * NUM_TARGETS, count, replace=False)
    return pairs // NUM_TARGETS, pairs % NUM_TARGETS


def random_vectors(seed=1):
    generator = np.random.default_rng(seed)
    return (
        jnp.asarray(generator.normal(size=(NUM_SOURCES, WIDTH)), jnp.float32),
        jnp.asarray(generator.normal(size=(NUM_TARGETS, WIDTH)), jnp.float32),
    )


def dense_matrix(source_ids, target_ids, weights, self_loops):
    """D^-1/2 (A [+ I]) D^-1/2 over all nodes, edge by edge."""
    size = NUM_SOURCES + NUM_TARGETS
    adjacency = np.zeros((size, size))
    for source, target, weight in zip(source_ids, target_ids, weights, strict=True):
        adjacency[source, NUM_SOURCES + target] = adjacency[NUM_SOURCES + target, source] = weight
    if self_loops:
        adjacency += np.eye(size)
    degrees = adjacency.sum(1)
    scale = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    return scale[:, None] * adjacency * scale[None, :]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_propagation_is_the_normalised_adjacency_times_the_vectors(backend, self_loops, weighted):
    source_ids, target_ids = random_edges()
    weights = np.random.default_rng(5).uniform(0.5, 3, len(source_ids)) if weighted else np.ones(len(source_ids))
    graph = bipartite_graph(
        graphs_tuple(source_ids, target_ids, NUM_SOURCES, NUM_TARGETS, weights), NUM_SOURCES, self_loops
    )
    sources, targets = random_vectors()
    to_sources, to_targets = propagate(graph, sources, targets, backend)
    if self_loops:
        to_sources = add_self(to_sources, sources, graph.source_self)
        to_targets = add_self(to_targets, targets, graph.target_self)
    expected = dense_matrix(source_ids, target_ids, weights, self_loops) @ np.concatenate([sources, targets])
    np.testing.assert_allclose(np.concatenate([to_sources, to_targets]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_equals_that_of_the_dense_product(backend):
    source_ids, target_ids = random_edges()
    graph = bipartite_graph(graphs_tuple(source_ids, target_ids, NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    matrix = jnp.asarray(dense_matrix(source_ids, target_ids, np.ones(len(source_ids)), False), jnp.float32)

    def through_graph(sources, targets):
        to_sources, to_targets = propagate(graph, sources, targets, backend)
        return jnp.sum(jnp.sin(to_sources)) + jnp.sum(to_targets**3)

    def through_matrix(sources, targets):
        out = matrix @ jnp.concatenate([sources, targets])
        return jnp.sum(jnp.sin(out[:NUM_SOURCES])) + jnp.sum(out[NUM_SOURCES:] ** 3)

    found = jax.grad(through_graph, (0, 1))(*random_vectors())
    wanted = jax.grad(through_matrix, (0, 1))(*random_vectors())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("receiver", ["source", "target"])
def test_a_weighted_sum_and_its_gradients_equal_those_of_the_dense_product(backend, receiver):
    source_ids, target_ids = random_edges()
    graph = bipartite_graph(graphs_tuple(source_ids, target_ids, NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    rows = graph.to_source if receiver == "source" else graph.to_target
    senders = random_vectors()[1 if receiver == "source" else 0]
    weights = jnp.asarray(np.random.default_rng(2).normal(size=len(source_ids)), jnp.float32)
    num_receivers = NUM_SOURCES if receiver == "source" else NUM_TARGETS

    def through_graph(weights, senders):
        return jnp.sum(jnp.sin(weighted_sum(graph, weights, senders, receiver, backend)))

    def through_matrix(weights, senders):
        matrix = jnp.zeros((num_receivers, len(senders))).at[rows.receivers, rows.senders].set(weights)
        return jnp.sum(jnp.sin(matrix @ senders))

    np.testing.assert_allclose(through_graph(weights, senders), through_matrix(weights, senders), rtol=1e-5)
    found = jax.grad(through_graph, (0, 1))(weights, senders)
    wanted = jax.grad(through_matrix, (0, 1))(weights, senders)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_a_weighted_sum_takes_a_numpy_cotangent_outside_jit():
    graph = bipartite_graph(graphs_tuple(*random_edges(), NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    weights, targets = jnp.ones(14), random_vectors()[1]
    total, backward = jax.vjp(lambda *of: weighted_sum(graph, *of, "source", "bcsr"), weights, targets)
    cotangent = np.random.default_rng(4).normal(size=total.shape).astype(np.float32)
    for found, wanted in zip(backward(cotangent), backward(jnp.asarray(cotangent)), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_edges_may_come_in_any_order():
    source_ids, target_ids = random_edges()
    order = np.random.default_rng(3).permutation(len(source_ids))
    one = bipartite_graph(graphs_tuple(source_ids, target_ids, NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    other = bipartite_graph(graphs_tuple(source_ids[order], target_ids[order], NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    for a, b in zip(propagate(one, *random_vectors()), propagate(other, *random_vectors()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_excluded_edges_send_nothing_either_way_and_may_keep_the_degrees(backend):
    source_ids, target_ids = random_edges()
    graph = bipartite_graph(graphs_tuple(source_ids, target_ids, NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    excluded = np.array([2, 9, 2])
    matrix = dense_matrix(source_ids, target_ids, np.ones(len(source_ids)), False)
    for edge in excluded:
        source, target = source_ids[edge], NUM_SOURCES + target_ids[edge]
        matrix[source, target] = matrix[target, source] = 0
    thinned = exclude_edges(graph, jnp.asarray(excluded), renormalize=False)
    found = propagate(thinned, *random_vectors(), backend)
    expected = matrix @ np.concatenate(random_vectors())
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_excluding_edges_equals_building_the_graph_without_them(self_loops, weighted):
    source_ids, target_ids = random_edges()
    # Weights that differ by many orders: what remains must not drown in what was removed.
    weights = 10 ** np.random.default_rng(5).uniform(-3, 6, len(source_ids)) if weighted else np.ones(len(source_ids))
    all_of_one_node = np.flatnonzero(source_ids == source_ids[0])
    excluded = np.concatenate([all_of_one_node, [9, 13, 9]])
    kept = np.setdiff1d(np.arange(len(source_ids)), excluded)

    def build(edges):
        graph = graphs_tuple(source_ids[edges], target_ids[edges], NUM_SOURCES, NUM_TARGETS, weights[edges])
        return bipartite_graph(graph, NUM_SOURCES, self_loops)

    found = exclude_edges(build(np.arange(len(source_ids))), jnp.asarray(excluded))
    expected = build(kept)
    for a, b in zip(propagate(found, *random_vectors()), propagate(expected, *random_vectors()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.source_self, expected.source_self, rtol=1e-5)
    np.testing.assert_allclose(found.target_self, expected.target_self, rtol=1e-5)


def test_nodes_without_edges_receive_zeros():
    graph = bipartite_graph(graphs_tuple(np.array([0]), np.array([0]), NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    to_sources, to_targets = propagate(graph, *random_vectors())
    assert not np.asarray(to_sources)[1:].any()
    assert not np.asarray(to_targets)[1:].any()


def test_propagation_agrees_with_jraphs_graph_convolution():
    source_ids, target_ids = random_edges()
    sources, targets = random_vectors()
    graph = bipartite_graph(graphs_tuple(source_ids, target_ids, NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    both_ways = jraph.GraphsTuple(
        nodes=jnp.concatenate([sources, targets]),
        edges=None,
        senders=jnp.concatenate([source_ids, target_ids + NUM_SOURCES]),
        receivers=jnp.concatenate([target_ids + NUM_SOURCES, source_ids]),
        globals=None,
        n_node=jnp.array([NUM_SOURCES + NUM_TARGETS]),
        n_edge=jnp.array([2 * len(source_ids)]),
    )
    convolved = jraph.GraphConvolution(lambda nodes: nodes, symmetric_normalization=True)(both_ways).nodes
    found = np.concatenate(propagate(graph, sources, targets))
    np.testing.assert_allclose(found, convolved, rtol=1e-5, atol=1e-6)


def test_an_edge_outside_the_node_tables_is_refused_with_its_position():
    with pytest.raises(ValueError, match="edge 1 "):
        bipartite_graph(graphs_tuple(np.array([0, 9]), np.array([0, 0]), NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)


def test_a_weight_of_zero_is_refused_with_its_position():
    with pytest.raises(ValueError, match="edge 1: weights must be positive"):
        graph = graphs_tuple(np.array([0, 1]), np.array([0, 0]), NUM_SOURCES, NUM_TARGETS, np.array([1.0, 0.0]))
        bipartite_graph(graph, NUM_SOURCES)


def slow_sums(graph, sources, targets):
    """Eq. 6 edge by edge."""
    to_sources, to_targets = np.zeros(sources.shape), np.zeros(targets.shape)
    rows = graph.to_source
    for source, target, value in zip(*map(np.asarray, (rows.receivers, rows.senders, rows.values)), strict=True):
        to_sources[source] += np.float64(value) * targets[target]
        to_targets[target] += np.float64(value) * sources[source]
    return to_sources, to_targets


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("self_loops", [False, True])
def test_rows_of_any_length_and_excluded_edges_give_the_slow_sums(backend, dtype, self_loops):
    generator = np.random.default_rng(0)
    # One source with 300 edges (more than 16 x 16), one with exactly 16, one with 17, some with few or none.
    degrees = np.array([300, 16, 17, 0, 1, 2, 0])
    source_ids, target_ids = np.repeat(np.arange(7), degrees), generator.integers(0, 40, degrees.sum())
    weights = generator.uniform(0.5, 3, len(source_ids))
    graph = bipartite_graph(graphs_tuple(source_ids, target_ids, 7, 40, weights), 7, self_loops)
    graph = exclude_edges(graph, jnp.asarray([0, 5, 316, 333]), backend=backend)
    vectors = [jnp.asarray(generator.normal(size=(count, WIDTH)), dtype) for count in (7, 40)]
    cotangents = [jnp.asarray(generator.normal(size=(count, WIDTH)), dtype) for count in (7, 40)]
    found, backward = jax.vjp(lambda *of: propagate(graph, *of, backend), *vectors)
    results = (*found, *backward(tuple(cotangents)))
    expected = [slow_sums(graph, *(np.asarray(of, np.float64) for of in both)) for both in (vectors, cotangents)]
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-6  # three roundings, none of them of a sum's parts
    for result, wanted in zip(results, (*expected[0], *expected[1]), strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(np.asarray(result, np.float64), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("num_sources", "num_targets", "edges"), [(3, 2, 0), (1, 1, 0), (1, 1, 1)])
def test_graphs_without_edges_or_with_one_node_a_side_work(backend, num_sources, num_targets, edges):
    ends = np.zeros(edges, int), np.zeros(edges, int)
    graph = bipartite_graph(graphs_tuple(*ends, num_sources, num_targets), num_sources)
    vectors = jnp.ones((num_sources, WIDTH)), 2 * jnp.ones((num_targets, WIDTH))
    found, backward = jax.vjp(lambda *of: propagate(graph, *of, backend), *vectors)
    for result, wanted in zip((*found, *backward(found)), (2.0, 1.0, 1.0, 2.0), strict=True):
        np.testing.assert_allclose(result, np.full(result.shape, wanted * edges))
    weights = jnp.ones(edges)
    total, backward = jax.vjp(lambda *of: weighted_sum(graph, *of, "source", backend), weights, vectors[1])
    assert jax.tree.map(jnp.shape, backward(total)) == ((edges,), vectors[1].shape)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("share", [0.9, 0.1])
def test_sums_that_are_not_wanted_change_neither_the_others_nor_gradients(backend, dtype, share):
    generator = np.random.default_rng(0)
    sources, targets = generator.integers(0, 40, 3000), generator.integers(0, 700, 3000)
    sources[:1000], targets[1000:1600] = 7, 3  # two nodes with many edges
    graph = bipartite_graph(graphs_tuple(sources, targets, 40, 700), 40)
    vectors = [jnp.asarray(generator.normal(size=(count, 20)), dtype) for count in (40, 700)]
    wanted = [jnp.asarray(generator.random(count) < share).at[:8].set(True) for count in (40, 700)]
    cotangents = [jnp.where(of[:, None], of_side[::-1], 0) for of, of_side in zip(wanted, vectors, strict=True)]

    def both(graph, backend):
        arrived, backward = jax.vjp(lambda *sides: propagate(graph, *sides, backend), *vectors)
        kept = [jnp.where(of[:, None], side, 0) for of, side in zip(wanted, arrived, strict=True)]
        return arrived, [*kept, *backward(tuple(cotangents))]

    arrived, found = both(with_wanted(graph, *wanted), backend)
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for own, expected in zip(found, both(graph, "segment")[1], strict=True):
        np.testing.assert_allclose(
            own.astype(jnp.float32), expected.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )
    if backend == "compiled":  # the others have no use for it
        assert not arrived[1][~wanted[1]].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_a_weighted_sum_reach_senders_whose_own_sums_are_not_wanted(backend):
    graph = bipartite_graph(graphs_tuple(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2), 2)
    thinned = with_wanted(graph, jnp.asarray([True, True]), jnp.asarray([False, False]))

    def total(vectors, graph):
        return weighted_sum(graph, jnp.arange(1.0, 4.0), vectors, "source", backend).sum()

    found, expected = (jax.grad(total)(jnp.ones((2, 16)), of) for of in (thinned, graph))
    np.testing.assert_array_equal(found, expected)
    assert expected.all()


@pytest.mark.compiled
@pytest.mark.parametrize("transform", ["vmap", "pmap", "shard_map"])
def test_the_compiled_kernels_give_each_replica_its_own_sums_and_gradients(transform):
    num_replicas = jax.device_count()
    graph = bipartite_graph(graphs_tuple(*random_edges(), NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    sources = jax.random.normal(jax.random.key(0), (num_replicas, NUM_SOURCES, WIDTH))
    targets = jax.random.normal(jax.random.key(1), (num_replicas, NUM_TARGETS, WIDTH))

    def gradients(backend):
        def loss(sources, targets):
            return sum(jnp.sum(jnp.sin(side)) for side in propagate(graph, sources, targets, backend))

        return jax.value_and_grad(loss, (0, 1))

    own = gradients("compiled")
    if transform == "vmap":
        found = jax.jit(jax.vmap(own))(sources, targets)
    elif transform == "pmap":
        found = jax.pmap(own)(sources, targets)
    else:
        mesh = jax.make_mesh((num_replicas,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = jax.sharding.PartitionSpec("data")
        found = jax.jit(jax.shard_map(jax.vmap(own), mesh=mesh, in_specs=spec, out_specs=spec))(sources, targets)
    wanted = jax.vmap(gradients("segment"))(sources, targets)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_edges_of_a_graph_are_arguments_of_the_compiled_function():
    graph = bipartite_graph(graphs_tuple(*random_edges(), NUM_SOURCES, NUM_TARGETS), NUM_SOURCES)
    for backend in ("segment", "bcsr", "chunked"):
        jaxpr = jax.make_jaxpr(lambda graph, *of, backend=backend: propagate(graph, *of, backend))(
            graph, *random_vectors()
        )
        assert all(np.size(constant) <= 16 for constant in jaxpr.consts)
