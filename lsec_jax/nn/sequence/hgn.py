"""Hierarchical gating (Ma et al., "Hierarchical Gating Networks for Sequential Recommendation", KDD 2019).

Implemented: feature gating f_i = e_i * sigmoid(W1 e_i + W2 u + b), instance gating g_i = sigmoid(w3 . f_i + w4_i . u)
with w4 by position, their weighted mean sum_i g_i f_i / sum_i g_i, and the item-item sum, sum_i e_i.

Departures:
- The target's vector stands where the user's embedding u does: encoders that stand in for each other know no user,
  whose features go into the tower beside the sequence.
- Positions count from the newest element. In the paper every sequence is equally long. Without positions, for
  sequences that are in no order, all elements have the gate of one position.
- The model's score adds the inner products of a candidate with the weighted mean and with every element; here
  the two vectors are added, which gives the same inner product. The user's own term is left to the tower.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.nn.dense import dense


class HgnEncoder(nnx.Module):
    """States g_i f_i / sum_j g_j + e_i: what each element adds to the vector that their sum is."""

    def __init__(
        self,
        width: int,
        rngs: nnx.Rngs,
        *,
        max_length: int = 50,
        has_positions: bool = True,
        dtype: DTypeLike | None = None,
    ):
        """Draws the weights.

        Args:
            width: d, of the elements and of the target.
            rngs: stream "params".
            max_length: of any sequence, for the instance gates' positions.
            has_positions: whether each position has an instance gate of its own.
            dtype: of the feature gates' product; parameters, instance gates and states are float32.
        """
        init = jax.nn.initializers.glorot_uniform()
        self.element_weights = nnx.Param(init(rngs.params(), (width, width), jnp.float32))
        self.target_weights = nnx.Param(init(rngs.params(), (width, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width))
        self.instance_weights = nnx.Param(init(rngs.params(), (width, 1), jnp.float32)[:, 0])
        positions = (width, max_length if has_positions else 1)
        self.position_weights = nnx.Param(init(rngs.params(), positions, jnp.float32))
        self.max_length = max_length
        self.dtype = dtype

    def __call__(
        self,
        elements: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        target: Float[Array, "b d"],
        key: Array | None = None,
        row_ids: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the states, [b, t, d] float32, 0 where masked; nothing is drawn from the key.

        Args:
            elements: newest last; the padding in front may hold anything.
            mask: True = an element.
            target: what the gates open for.
            key: as of every encoder; there is no dropout here.
            row_ids: likewise.

        Raises:
            ValueError: for sequences longer than max_length.
        """
        length = elements.shape[1]
        if length > self.max_length:
            raise ValueError(f"sequences of {length} elements; the encoder has instance gates for {self.max_length}")
        elements = jnp.where(mask[:, :, None], elements, 0.0)
        e, t = (of if self.dtype is None else of.astype(self.dtype) for of in (elements, target))
        of_target = dense(t, self.target_weights[...], self.bias[...])
        features = elements * jax.nn.sigmoid(dense(e, self.element_weights[...]) + of_target[:, None, :])
        of_position = (target @ self.position_weights[...])[:, :length][:, ::-1]
        gates = jax.nn.sigmoid(features @ self.instance_weights[...] + of_position)
        gates = jnp.where(mask, gates, 0.0)
        # Gates may be tiny, but a row without elements has none at all: its sum must not divide.
        total = jnp.where(mask.any(axis=1), gates.sum(axis=1), 1.0)
        shares = gates / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)[:, None]
        return shares[:, :, None] * features.astype(jnp.float32) + elements

    def pool(
        self, states: Float[Array, "b t d"], mask: Bool[Array, "b t"], target: Float[Array, "b d"]
    ) -> Float[Array, "b d"]:
        """The weighted mean and the item-item sum together; mask and target are in the states already."""
        return states.sum(axis=1)
