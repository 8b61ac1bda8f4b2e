"""Attention over a short list of vectors."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class AdditiveAttention(nnx.Module):
    """sum_r a_r v_r with a = softmax_r(q . tanh(W v_r + b)).

    Bahdanau et al. 2015, Sec. 3.1, with a learnt constant query.
    """

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        init = jax.nn.initializers.glorot_uniform()
        self.weights = nnx.Param(init(rngs.params(), (width, hidden), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(hidden))
        self.query = nnx.Param(init(rngs.params(), (hidden, 1), jnp.float32)[:, 0])

    def __call__(self, vectors: Float[Array, "r n d"]) -> Float[Array, "n d"]:
        """Combines r vectors of each of n nodes."""
        projected = vectors @ self.weights[...]
        hidden = jnp.tanh(projected + jnp.broadcast_to(self.bias[...], projected.shape))
        return jnp.einsum("rn,rnd->nd", jax.nn.softmax(hidden @ self.query[...], axis=0), vectors)
