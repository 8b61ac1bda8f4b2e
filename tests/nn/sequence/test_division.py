"""Encoders and the disentangled encoder where the rows of a batch are divided over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lsec_jax.nn.disentangle import Disentangler
from lsec_jax.nn.sequence import self_attention
from lsec_jax.nn.sequence.encoder import build
from tests.nn.sequence.test_encoders import OPTIONS, WIDTH, inputs

KINDS = {**OPTIONS, "transformer": {**OPTIONS["transformer"], "dropout_rate": 0.3}}


class Both(nnx.Module):
    """An encoder, and the disentangled encoder on its states."""

    def __init__(self, kind):
        self.encoder = build(kind, WIDTH, nnx.Rngs(0), **KINDS[kind])
        self.disentangler = Disentangler(WIDTH, nnx.Rngs(1))

    def __call__(self, elements, mask, target, row_ids):
        states = self.encoder(elements, mask, target, jax.random.key(2), row_ids)
        consistent, specific = self.disentangler(elements, states, mask, target)
        return jnp.sin(consistent + 2 * specific + self.encoder.pool(states, mask, target)).sum(axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_do_not_depend_on_how_many_devices_share_the_rows(kind, monkeypatch):
    monkeypatch.setattr(self_attention, "_BLOCK_WEIGHTS", 2 * 6**2 * 2)  # several blocks on each device
    graphdef, state = nnx.split(Both(kind))
    batch = *inputs([3, 0, 1, 6, 5, 2, 4, 1] * 2, 6), jnp.arange(16, dtype=jnp.int32)

    def total(state, *batch):
        return nnx.merge(graphdef, state)(*batch).sum()

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), *[P("data")] * 4), out_specs=(P(), P()))
    def divided(state, *batch):
        value, gradients = jax.value_and_grad(total)(state, *batch)
        return jax.lax.psum(value, "data"), gradients  # gradients of what is copied are summed by shard_map

    found, wanted = divided(state, *batch), jax.jit(jax.value_and_grad(total))(state, *batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)
