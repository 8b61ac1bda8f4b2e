"""A fully connected layer of which each group of rows has its own weights: x (W + D_g) + b + c_g."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lsec_jax.nn.dense import dense


def dense_by_group(
    x: Float[Array, "b i"], weights: Float[Array, "i o"], changes: Float[Array, "g i o"], groups: Int[Array, " b"]
) -> Float[Array, "b o"]:
    """Returns x (W + D_g) in the type of x; D_g is the change of each row's group, of group 0 always 0."""
    known = jnp.where((groups > 0)[:, None], x, jnp.zeros((), x.dtype))
    return dense(x, weights) + jnp.einsum("bi,bio->bo", known, changes[groups].astype(x.dtype))


class GroupedDense(nnx.Module):
    """x (W + D_g) + b + c_g; D and c begin at 0, and stay there for group 0, of all that is unknown.

    What all groups have in common is learned by W, which is therefore what an unknown group, or a known one that
    training has not shown, gets.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        num_groups: int,
        rngs: nnx.Rngs,
        has_bias: bool = True,
        dtype: DTypeLike | None = None,
    ):
        """Draws W (Glorot uniform); all else is 0.

        Args:
            in_width: i, of the input.
            out_width: o, of the output.
            num_groups: g, the unknown one, 0, counted.
            rngs: stream "params".
            has_bias: whether there are b and c.
            dtype: of products; parameters and output are float32.
        """
        init = jax.nn.initializers.glorot_uniform()
        self.weights = nnx.Param(init(rngs.params(), (in_width, out_width), jnp.float32))
        self.changes = nnx.Param(jnp.zeros((num_groups, in_width, out_width)))
        self.bias = nnx.Param(jnp.zeros(out_width)) if has_bias else None
        self.bias_changes = nnx.Param(jnp.zeros((num_groups, out_width))) if has_bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b i"], groups: Int[Array, " b"]) -> Float[Array, "b o"]:
        """[b, i] -> [b, o] float32; rows of group 0 have W and b alone."""
        if self.dtype is not None:
            x = x.astype(self.dtype)
        found = dense_by_group(x, self.weights[...], self.changes[...], groups).astype(jnp.float32)
        if self.bias is None or self.bias_changes is None:
            return found
        own = jnp.where((groups > 0)[:, None], self.bias_changes[...][groups], 0.0)
        return found + self.bias[...][None] + own
