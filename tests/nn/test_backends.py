"""All backends give the same: on random graphs, for every type of vectors and inside jax.shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.graph_attention import Logits, attend
from lsec_jax.nn.graph_stack import GraphStack
from lsec_jax.nn.propagation import bipartite_graph, exclude_edges, graphs_tuple, propagate, weighted_sum
from lsec_jax.nn.slots import gather_sum

BACKENDS = ["bcsr", "chunked", pytest.param("compiled", marks=pytest.mark.compiled)]
TYPES = [
    pytest.param(own, senders, id=f"{own}-{senders}")
    for own, senders in (
        ("float32", "float32"),
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
    )
]
WIDTH = 20


def random_graph(seed, num_sources=9, num_targets=6, num_edges=60):
    """Some nodes have none of the edges, most have several, some of them to one node; four edges are excluded."""
    generator = np.random.default_rng(seed)
    ends = (
        generator.integers(0, num_sources, num_edges) ** 2 // num_sources,
        generator.integers(0, num_targets, num_edges),
    )
    graph = bipartite_graph(graphs_tuple(*ends, num_sources, num_targets), num_sources)
    return exclude_edges(graph, jnp.asarray(generator.integers(0, num_edges, 4)), backend="segment")


def random_vectors(seed, count, dtype="float32"):
    """The same numbers in every type: bfloat16 holds them exactly."""
    values = np.random.default_rng(seed).integers(-64, 65, (count, WIDTH)) / 32
    return jnp.asarray(values, dtype)


def with_gradients(function, *operands):
    """What a function gives, and its gradients for one cotangent."""
    result, backward = jax.vjp(function, *operands)
    cotangent = jax.tree.map(lambda of: jnp.cos(jnp.arange(of.size)).reshape(of.shape).astype(of.dtype), result)
    return result, backward(cotangent)


def assert_close(found, wanted, tolerance):
    """Of gradients too: their types are those of the operands. Relative to the largest number of each array."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == other.dtype
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1e-3, np.abs(other).max()))


def tolerance_of(*dtypes):
    return max(4 * float(jnp.finfo(dtype).eps) for dtype in dtypes) if set(dtypes) != {"float32"} else 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("own_type", "type_"), TYPES)
def test_attention_and_its_gradients_are_those_of_segments_in_every_type(backend, own_type, type_):
    graph, logits = random_graph(0), jax.random.normal(jax.random.key(0), (3, 9))
    operands = logits[0], logits[1, :6].astype(type_), logits[2].astype(own_type)
    vectors = random_vectors(1, 9, own_type), random_vectors(2, 6, type_)

    def function(backend):
        def run(own_logits, sender_logits, loops, own, senders):
            return attend(graph, Logits(own_logits, sender_logits, loops), own, senders, "source", "elu", backend)

        return run

    found, wanted = (with_gradients(function(name), *operands, *vectors) for name in (backend, "segment"))
    assert found[0].dtype == type_
    assert [of.dtype for of in found[1]] == [of.dtype for of in (*operands, *vectors)]
    assert_close(found, wanted, tolerance_of(own_type, type_))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("type_", ["float32", "bfloat16", "float16"])
def test_sums_and_their_gradients_are_those_of_segments_in_every_type(backend, type_):
    for seed in range(3):
        graph, vectors = random_graph(seed), (random_vectors(seed, 9, type_), random_vectors(seed + 9, 6, type_))
        weights = random_vectors(seed, 3, type_).ravel()
        for name in ("propagate", "weighted_sum"):

            def run(backend, name=name, graph=graph, vectors=vectors, weights=weights):
                if name == "propagate":
                    return with_gradients(lambda *of: propagate(graph, *of, backend), *vectors)
                return with_gradients(lambda *of: weighted_sum(graph, *of, "target", backend), weights, vectors[0])

            assert_close(run(backend), run("segment"), tolerance_of(type_))


@pytest.mark.parametrize("backend", ["bcsr", pytest.param("compiled", marks=pytest.mark.compiled)])
@pytest.mark.parametrize(("value_type", "type_"), TYPES)
def test_sums_over_slots_take_every_type_and_add_in_float32(backend, value_type, type_):
    generator = np.random.default_rng(0)
    senders = generator.integers(0, 6, (9, 300))
    values, vectors = jnp.asarray(generator.integers(0, 3, (9, 300)), value_type), random_vectors(1, 6, type_)
    found, (to_values, to_vectors) = with_gradients(
        lambda *of: gather_sum(jnp.asarray(senders, jnp.int32), *of, True, backend), values, vectors
    )
    cotangent = np.asarray(jnp.cos(jnp.arange(9 * WIDTH)).reshape(9, WIDTH).astype(type_), np.float64)
    values, vectors = np.asarray(values, np.float64), np.asarray(vectors, np.float64)
    expected = np.zeros((6, WIDTH))
    np.add.at(expected, senders, values[:, :, None] * cotangent[:, None, :])
    assert (found.dtype, to_values.dtype, to_vectors.dtype) == (type_, value_type, type_)
    wanted = (values[:, :, None] * vectors[senders]).sum(1), (vectors[senders] * cotangent[:, None, :]).sum(2), expected
    for result, right in zip((found, to_values, to_vectors), wanted, strict=True):
        tolerance = float(jnp.finfo(result.dtype).eps) if result.dtype != jnp.float32 else 1e-5
        np.testing.assert_allclose(
            np.asarray(result, np.float64), right, rtol=tolerance, atol=1e-5 * np.abs(right).max()
        )


@pytest.mark.parametrize("aggregator", ["gcn", "gat"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_stacks_on_a_random_graph_do_not_depend_on_the_backend(aggregator, backend):
    graph, inputs = random_graph(3, num_edges=200), (random_vectors(1, 9), random_vectors(2, 6))

    def run(backend):
        options = {"rngs": nnx.Rngs(0), "num_heads": 2, "backend": backend}
        graphdef, state = nnx.split(GraphStack(aggregator, WIDTH, (18, 5), **options))
        step = jax.jit(lambda *of: with_gradients(lambda state, *of: nnx.merge(graphdef, state)(graph, *of), *of))
        return step(state, *inputs)

    assert_close(run(backend), run("segment"), 1e-5)


@pytest.mark.parametrize("backend", ["chunked", pytest.param("compiled", marks=pytest.mark.compiled)])
def test_a_stack_of_gat_layers_runs_inside_shard_map(backend):
    count, graph = 2, random_graph(0)
    graphdef, state = nnx.split(GraphStack("gat", WIDTH, (4, 3), rngs=nnx.Rngs(0), num_heads=2, backend=backend))
    inputs = tuple(
        jnp.stack([random_vectors(seed + i, nodes) for i in range(count)]) for seed, nodes in ((1, 9), (5, 6))
    )

    def gradients(sources, targets):
        def loss(sources, targets):
            return sum(jnp.sum(jnp.sin(side)) for side in nnx.merge(graphdef, state)(graph, sources, targets))

        return jax.grad(loss, (0, 1))(sources, targets)

    def own(*inputs):
        return jax.tree.map(lambda of: of[None], gradients(*(of[0] for of in inputs)))

    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
    spec = jax.sharding.PartitionSpec("data")
    found = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=spec, out_specs=spec))(*inputs)
    for i in range(count):
        wanted = jax.jit(gradients)(*(of[i] for of in inputs))
        assert_close([of[i] for of in found], list(wanted), 1e-5)


@pytest.mark.parametrize("backend", ["segment", pytest.param("compiled", marks=pytest.mark.compiled)])
def test_replicas_that_exclude_edges_of_their_own_add_up_the_gradients_of_shared_vectors(backend):
    count, vectors = 2, (random_vectors(1, 9), random_vectors(2, 6))

    def gradients(edge_ids, *vectors):
        def loss(*vectors):
            graph = exclude_edges(random_graph(0), edge_ids, backend=backend)
            return sum(jnp.sum(jnp.sin(side)) for side in propagate(graph, *vectors, backend))

        return jax.grad(loss, (0, 1))(*vectors)

    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
    own, shared = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    run = jax.shard_map(gradients, mesh=mesh, in_specs=(own, shared, shared), out_specs=shared)
    found = jax.jit(run)(jnp.arange(4), *vectors)
    wanted = [jax.jit(gradients)(ids, *vectors) for ids in jnp.arange(4).reshape(2, 2)]
    assert_close(found, jax.tree.map(jnp.add, *wanted), 1e-5)


def test_checkpoints_of_gat_find_their_parameters_by_the_same_names_and_shapes():
    """Those that runs were stored with; a change here needs a migration."""
    stack = GraphStack("gat", 8, (4, 6), rngs=nnx.Rngs(0), num_heads=2, weights_per_direction=True)
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(stack)))
    expected = {
        f"layers/{layer}/to_{side}_heads/{name}": shape
        for layer, in_dim, out_dim in ((0, 8, 4), (1, 8, 6))
        for side in ("source", "target")
        for name, shape in (
            ("weights", (in_dim, 2 * out_dim)),
            ("receiver_vectors", (2, out_dim)),
            ("sender_vectors", (2, out_dim)),
        )
    }
    assert {jax.tree_util.keystr(path, simple=True, separator="/"): of.shape for path, of in leaves} == expected
