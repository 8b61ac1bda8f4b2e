"""Scores of (source, target) pairs from their vectors."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class MlpPredictor(nnx.Module):
    """Two-layer MLP on the concatenated pair, [2 d -> hidden -> 1] (LSEC-GNN Eq. 8), returned as a logit.

    The first layer is kept as two halves, W1 [v_u ; v_i] = W1u v_u + W1i v_i: each node's half is computed once,
    however many pairs it is in, and only halves are gathered.
    """

    def __init__(self, source_width: int, target_width: int, hidden: int, rngs: nnx.Rngs):
        width = source_width + target_width
        init = jax.nn.initializers.glorot_uniform()
        weights = init(rngs.params(), (width, hidden), jnp.float32)
        self.source_weights = nnx.Param(weights[:source_width])
        self.target_weights = nnx.Param(weights[source_width:])
        self.hidden_bias = nnx.Param(jnp.zeros(hidden))
        self.output_weights = nnx.Param(init(rngs.params(), (hidden, 1), jnp.float32)[:, 0])
        self.output_bias = nnx.Param(jnp.zeros(()))

    def source_half(self, sources: Float[Array, "*b d"]) -> Float[Array, "*b hidden"]:
        """W1u v_u + b1."""
        projected = sources @ self.source_weights[...]
        return projected + jnp.broadcast_to(self.hidden_bias[...], projected.shape)

    def target_half(self, targets: Float[Array, "*b d"]) -> Float[Array, "*b hidden"]:
        """W1i v_i."""
        return targets @ self.target_weights[...]

    def __call__(
        self, source_halves: Float[Array, "b g h"], target_halves: Float[Array, "b k h"]
    ) -> Float[Array, "b g k"]:
        """Scores k targets for each of g sources from their halves, in b independent groups."""
        hidden = jax.nn.relu(source_halves[:, :, None, :] + target_halves[:, None, :, :])
        return hidden @ self.output_weights[...] + self.output_bias[...]


class DotPredictor(nnx.Module):
    """Inner product of the two vectors; has no parameters, and a node's half is its vector."""

    def source_half(self, sources: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """The vectors as they are."""
        return sources

    def target_half(self, targets: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """The vectors as they are."""
        return targets

    def __call__(
        self, source_halves: Float[Array, "b g d"], target_halves: Float[Array, "b k d"]
    ) -> Float[Array, "b g k"]:
        """Scores k targets for each of g sources, in b independent groups."""
        return jnp.einsum("bgd,bkd->bgk", source_halves, target_halves)
