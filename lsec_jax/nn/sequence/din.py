"""Behaviours weighted by how they go with the target (Zhou et al., "Deep Interest Network", KDD 2018).

Implemented: the activation unit (Sec. 4.3, Fig. 2) on an element, the target, their difference (in the authors' code)
and their product; weights without softmax, so that their sum can say how strong an interest is (Eq. 3).

Departures:
- No Dice (Sec. 5.2): its mean and variance are those of the batch, so that a score would depend on the other rows.
  PReLU, which Dice is made from, or the sigmoid of the authors' code.
- The unit's first layer is factored: W [e; t; e - t; e * t] = (We + Wd) e + (Wt - Wd) t + Wp (e * t), so that nothing
  four times as wide as the sequence is ever made.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.nn.dense import dense

_PRELU_SLOPE = 0.25  # He et al. 2015, Sec. 2.1


class DinEncoder(nnx.Module):
    """States a(e_i, t) e_i, and their sum (Eq. 3)."""

    def __init__(
        self,
        width: int,
        rngs: nnx.Rngs,
        *,
        layer_widths: tuple[int, ...] = (80, 40),
        activation: str = "prelu",
        dtype: DTypeLike | None = None,
    ):
        """Draws the weights.

        Args:
            width: d, of the elements and of the target.
            rngs: stream "params".
            layer_widths: hidden layers of the activation unit; those of the authors' code.
            activation: after each of them, "prelu" or "sigmoid".
            dtype: of their products and activations; parameters, weights of behaviours and states are float32.

        Raises:
            ValueError: without hidden layers, or for an unknown activation.
        """
        if not layer_widths or activation not in ("prelu", "sigmoid"):
            raise ValueError(
                f"layer_widths {layer_widths}, activation '{activation}': give at least one layer, and 'prelu' or "
                "'sigmoid'"
            )
        init = jax.nn.initializers.glorot_uniform()
        first = init(rngs.params(), (4 * width, layer_widths[0]), jnp.float32)
        parts = jnp.split(first, 4)
        self.element_weights, self.target_weights, self.difference_weights, self.product_weights = map(nnx.Param, parts)
        shapes = zip(layer_widths, (*layer_widths[1:], 1), strict=True)
        self.weights = nnx.List([nnx.Param(init(rngs.params(), shape, jnp.float32)) for shape in shapes])
        self.biases = nnx.List([nnx.Param(jnp.zeros(of)) for of in (*layer_widths, 1)])
        is_prelu = activation == "prelu"
        # With a dtype: a weak one would become strong in the first step, and the second would compile again.
        slopes = [nnx.Param(jnp.full(of, _PRELU_SLOPE, jnp.float32)) for of in layer_widths]
        self.slopes = nnx.List(slopes) if is_prelu else None
        self.dtype = dtype

    def __call__(
        self,
        elements: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        target: Float[Array, "b d"],
        key: Array | None = None,
        row_ids: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the weighted elements, [b, t, d] float32, 0 where masked; nothing is drawn from the key.

        Args:
            elements: the padding may hold anything.
            mask: True = an element.
            target: what the elements are weighed for.
            key: as of every encoder; there is no dropout here.
            row_ids: likewise.
        """
        elements = jnp.where(mask[:, :, None], elements, 0.0)
        return jnp.where(mask[:, :, None], self.interests(elements, target)[:, :, None] * elements, 0.0)

    def interests(self, elements: Float[Array, "b t d"], target: Float[Array, "b d"]) -> Float[Array, "b t"]:
        """a(e_i, t), float32: any number, not normalised."""
        e, t = (of if self.dtype is None else of.astype(self.dtype) for of in (elements, target))
        difference = self.difference_weights[...]
        of_target = dense(t, self.target_weights[...] - difference, self.biases[0][...])
        hidden = dense(e, self.element_weights[...] + difference)
        hidden = hidden + dense(e * t[:, None, :], self.product_weights[...]) + of_target[:, None, :]
        for i, weights in enumerate(self.weights):
            hidden = dense(self._activate(hidden, i), weights[...], self.biases[i + 1][...])
        return hidden[:, :, 0].astype(jnp.float32)

    def pool(
        self, states: Float[Array, "b t d"], mask: Bool[Array, "b t"], target: Float[Array, "b d"]
    ) -> Float[Array, "b d"]:
        """The sum of the weighted elements (Eq. 3); mask and target are in the states already."""
        return states.sum(axis=1)

    def _activate(self, values: Float[Array, "b t f"], layer: int) -> Float[Array, "b t f"]:
        if self.slopes is None:
            return jax.nn.sigmoid(values)
        slope = jnp.broadcast_to(self.slopes[layer][...].astype(values.dtype), values.shape)
        return jnp.where(values > 0, values, slope * values)
