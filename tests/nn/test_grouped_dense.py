"""A layer with weights of each group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.nn.grouped_dense import GroupedDense

GROUPS = np.array([0, 1, 3, 1, 0, 2])


@pytest.fixture(params=[True, False], ids=["bias", "no_bias"])
def layer(request):
    """Whose parameters are all random."""
    found = GroupedDense(3, 2, 4, nnx.Rngs(0), has_bias=request.param)
    rng = np.random.default_rng(0)
    for _, parameter in nnx.iter_graph(found):
        if isinstance(parameter, nnx.Param):
            parameter[...] = jnp.asarray(rng.normal(size=parameter[...].shape), jnp.float32)
    return found


def test_each_row_has_the_weights_of_its_group_and_group_0_those_of_all(layer):
    x = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    wanted = []
    for row, group in zip(x, GROUPS, strict=True):
        is_known = float(group > 0)
        new = row @ (layer.weights[...] + is_known * layer.changes[...][group])
        if layer.bias is not None:
            new = new + layer.bias[...] + is_known * layer.bias_changes[...][group]
        wanted.append(new)
    np.testing.assert_allclose(layer(jnp.asarray(x), jnp.asarray(GROUPS)), np.stack(wanted), rtol=1e-5, atol=1e-6)


def test_group_0_never_learns_changes():
    layer = GroupedDense(3, 2, 4, nnx.Rngs(0))
    graph, params = nnx.split(layer)

    def loss(params):
        return (nnx.merge(graph, params)(jnp.ones((6, 3)), jnp.asarray(GROUPS)) ** 2).sum()

    gradients = nnx.to_pure_dict(jax.grad(loss)(params))
    for name in ("changes", "bias_changes"):
        assert not gradients[name][0].any() and gradients[name][1:].any(), name
    assert gradients["weights"].any()


def test_bfloat16_products_have_float32_outputs():
    layer = GroupedDense(3, 2, 4, nnx.Rngs(0), dtype=jnp.bfloat16)
    plain = GroupedDense(3, 2, 4, nnx.Rngs(0))
    x = jnp.linspace(-1, 1, 18).reshape(6, 3)
    found, wanted = (of(x, jnp.asarray(GROUPS)) for of in (layer, plain))
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - wanted).max() < 0.02
