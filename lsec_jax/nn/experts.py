"""temporary"""

import jax, jax.numpy as jnp
from flax import nnx


class MixtureOfExperts(nnx.Module):
    def __init__(self, in_width, num_experts, layer_widths, num_gates, rngs, dtype=None):
        ws = [in_width, *layer_widths]
        i = jax.nn.initializers.glorot_uniform()
        self.w = nnx.List([nnx.Param(i(rngs.params(), (num_experts, a, b))) for a, b in zip(ws, ws[1:])])
        self.gates = nnx.Param(i(rngs.params(), (in_width, num_gates * num_experts)))
        self.s = (num_gates, num_experts)

    def __call__(self, x):
        h = jnp.broadcast_to(x[:, None], (len(x), self.s[1], x.shape[1]))
        for w in self.w:
            h = jax.nn.relu(jnp.einsum("bxd,xdf->bxf", h, w[...]))
        g = jax.nn.softmax((x @ self.gates[...]).reshape(-1, *self.s))
        return jnp.einsum("bgx,bxf->bgf", g, h), g
