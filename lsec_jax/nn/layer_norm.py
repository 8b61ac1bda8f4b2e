"""Layer normalisation."""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

_EPSILON = 1e-6


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-6) * scale + bias over the last axis (Ba et al. 2016, Eq. 4), in float32."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, values: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Returns float32, whatever the input's type."""
        values = values.astype(jnp.float32)
        centred = values - values.mean(axis=-1, keepdims=True)
        inverse = lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + _EPSILON)
        scale, bias = (jnp.broadcast_to(of[...], values.shape) for of in (self.scale, self.bias))
        return centred * inverse * scale + bias
