"""Fully connected layers on top of each other."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lsec_jax.nn.dense import dense
from lsec_jax.nn.graph_attention import ACTIVATIONS, Activation


class Tower(nnx.Module):
    """h_l = act(h_{l-1} W_l + b_l), and a last layer without activation if it has an output width."""

    def __init__(
        self,
        in_width: int,
        layer_widths: tuple[int, ...],
        rngs: nnx.Rngs,
        out_width: int | None = None,
        activation: Activation = "relu",
        dtype: DTypeLike | None = None,
    ):
        """Draws the weights (Glorot uniform); biases are 0.

        Args:
            in_width: of the input.
            layer_widths: of the layers with an activation; may be empty.
            rngs: stream "params".
            out_width: of a last layer without activation, for example 1 for a logit; None = no such layer.
            activation: after every other layer.
            dtype: of products and activations, for example bfloat16; parameters and output are float32.
        """
        widths = (in_width, *layer_widths, *(() if out_width is None else (out_width,)))
        init = jax.nn.initializers.glorot_uniform()
        self.weights = nnx.List(
            [nnx.Param(init(rngs.params(), shape, jnp.float32)) for shape in itertools.pairwise(widths)]
        )
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in widths[1:]])
        self.num_active, self.activation, self.dtype = len(layer_widths), activation, dtype

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b o"]:
        """Returns the last layer's output, float32."""
        if self.dtype is not None:
            x = x.astype(self.dtype)
        for i, (weights, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = dense(x, weights[...], bias[...])
            if i < self.num_active:
                x = ACTIVATIONS[self.activation](x)
        return x.astype(jnp.float32)
