"""Functions of rows in blocks: the same results and gradients, whatever the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from lsec_jax.nn import row_blocks
from lsec_jax.nn.row_blocks import in_row_blocks

WIDTH, VALUES = 3, 12


def function(weights, values, others):
    """Two results of each row, one of them whole numbers."""
    hidden = jnp.tanh(values @ weights)
    return {"sum": (hidden * others["scale"][:, None]).sum(axis=1)}, others["count"] + 1


def problem(num_rows):
    rng = np.random.default_rng(0)
    weights, values, scale = (
        jnp.asarray(rng.normal(size=shape)) for shape in ((WIDTH, 4), (num_rows, WIDTH), num_rows)
    )
    return weights, values, {"scale": scale, "count": jnp.arange(num_rows)}


def blocked(weights, values, others):
    return in_row_blocks(lambda *arrays: function(weights, *arrays), (values, others), VALUES)


@pytest.mark.parametrize(("num_rows", "rows_at_once", "blocks"), [(12, 5, 3), (11, 4, 3), (7, 1, 7), (6, 100, 1)])
def test_blocks_change_neither_results_nor_gradients(monkeypatch, num_rows, rows_at_once, blocks):
    """Of numbers of rows that blocks divide, and that they do not."""
    monkeypatch.setattr(row_blocks, "BLOCK_VALUES", rows_at_once * VALUES)
    given = problem(num_rows)
    seen = []
    in_row_blocks(lambda values: seen.append(len(values)) or values, (given[1],), VALUES)
    assert set(seen) == {-(-num_rows // blocks)}
    (found, count), (wanted, wanted_count) = blocked(*given), function(*given)
    np.testing.assert_allclose(found["sum"], wanted["sum"], rtol=1e-6)
    np.testing.assert_array_equal(count, wanted_count)

    def loss(of):
        return lambda weights, values, scale: (of(weights, values, {**given[2], "scale": scale})[0]["sum"] ** 2).sum()

    arguments = (*given[:2], given[2]["scale"])
    for mine, plain in zip(*(jax.grad(loss(of), (0, 1, 2))(*arguments) for of in (blocked, function)), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-6)


def test_nothing_of_a_block_is_kept_for_the_backward_pass(monkeypatch):
    """What is in between is computed again: no array of all rows' hidden values is among what is saved."""
    monkeypatch.setattr(row_blocks, "BLOCK_VALUES", 4 * VALUES)
    weights, values, others = problem(32)
    _, pull_back = jax.vjp(lambda weights, values: blocked(weights, values, others)[0]["sum"], weights, values)
    sizes = [leaf.size for leaf in jax.tree.leaves(pull_back)]
    assert 32 * WIDTH in sizes and max(sizes) < 32 * 4


def test_each_device_has_blocks_of_its_own_rows(monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK_VALUES", 2 * VALUES)
    weights, values, others = problem(48)
    mesh, rows = Mesh(jax.devices()[:8], "data"), PartitionSpec("data")

    @jax.shard_map(mesh=mesh, in_specs=(PartitionSpec(), rows, rows), out_specs=(PartitionSpec(), rows))
    def gradients(weights, values, others):
        def loss(weights, values):
            return (blocked(weights, values, others)[0]["sum"] ** 2).sum()

        of_weights, of_values = jax.grad(loss, (0, 1))(weights, values)
        return of_weights, of_values

    wanted = jax.grad(lambda w, v: (function(w, v, others)[0]["sum"] ** 2).sum(), (0, 1))(weights, values)
    for mine, plain in zip(jax.jit(gradients)(weights, values, others), wanted, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-5)
