"""Attention over sampled neighbours in several views of a user-user graph (TREEMS, WSDM 2021, Eq. 8-13).

A view's neighbourhood comes as hops (`nn/hops.py`): the users themselves, their sampled neighbours, the neighbours of
these.

Attention "published" is Eq. 10: LeakyReLU(a . [u_i; u_j; c]). LeakyReLU is monotone and u_i and c are the same for all
neighbours of a user, so that they cannot change which of them weighs more, only how unequally where the sum changes its
sign. "dynamic" is a . LeakyReLU(W [u_i; u_j; c]) (Brody et al. 2022), a departure, in which they can.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax.nn.dense import dense, glorot
from lsec_jax.nn.hops import read_hops

AttentionKind = Literal["published", "dynamic"]
SLOPE = 0.2  # of LeakyReLU below 0; the paper does not say, graph attention networks have it
_MASKED = -1e30  # not -inf: a user without neighbours has equal weights instead of NaN


class ViewLayer(nnx.Module):
    """One layer of one view: attention over the neighbours (Eq. 10-11) and the update (Eq. 12)."""

    def __init__(self, width: int, context_width: int, rngs: nnx.Rngs, attention: AttentionKind = "published"):
        """Draws the weights (Glorot uniform); there are no biases, as in the equations.

        Args:
            width: d, of the users' vectors; the update keeps it.
            context_width: of c; 0 = there is none.
            rngs: stream "params".
            attention: see the module.
        """
        columns = 1 if attention == "published" else width
        self.own = nnx.Param(glorot(rngs.params(), width, columns))
        self.neighbour = nnx.Param(glorot(rngs.params(), width, columns))
        self.context = nnx.Param(glorot(rngs.params(), context_width, columns))
        self.scores = nnx.Param(glorot(rngs.params(), width, 1)) if attention == "dynamic" else None
        self.update = nnx.Param(glorot(rngs.params(), 2 * width, width))

    def __call__(
        self,
        own: Float[Array, "*b d"],
        neighbours: Float[Array, "*b k d"],
        mask: Bool[Array, "*b k"],
        context: Float[Array, "*b e"],
    ) -> Float[Array, "*b d"]:
        """Returns the users' vectors after the layer; of a user without neighbours, the one before it.

        Args:
            own: u_i of the layer before.
            neighbours: u_j of the layer before; those that are masked may hold anything.
            mask: True = a neighbour.
            context: c, of the user's scenario.
        """
        neighbours = jnp.where(mask[..., None], neighbours, 0.0)
        of_user = dense(own, self.own[...]) + dense(context, self.context[...])
        found = jax.nn.leaky_relu(of_user[..., None, :] + dense(neighbours, self.neighbour[...]), SLOPE)
        logits = (found if self.scores is None else dense(found, self.scores[...]))[..., 0]
        weights = jax.nn.softmax(jnp.where(mask, logits, _MASKED), axis=-1)
        together = jnp.einsum("...k,...kd->...d", weights, neighbours)
        new = jax.nn.leaky_relu(dense(jnp.concatenate([own, together], axis=-1), self.update[...]), SLOPE)
        return jnp.where(mask.any(axis=-1, keepdims=True), new, own)


class MultiViewAttention(nnx.Module):
    """L layers in each view, and the views' vectors side by side (Eq. 13)."""

    def __init__(
        self,
        width: int,
        context_width: int,
        num_views: int,
        num_layers: int,
        rngs: nnx.Rngs,
        attention: AttentionKind = "published",
    ):
        """Draws the weights of each view and layer.

        Args:
            width: d.
            context_width: of c.
            num_views: R.
            num_layers: L.
            rngs: stream "params".
            attention: see the module.
        """
        self.layers = nnx.List(
            [
                nnx.List([ViewLayer(width, context_width, rngs, attention) for _ in range(num_layers)])
                for _ in range(num_views)
            ]
        )

    def __call__(
        self, views: Sequence[tuple[Sequence[Array], Sequence[Array]]], context: Float[Array, "b e"]
    ) -> Float[Array, "b v"]:
        """Returns the users' vectors, [b, R d].

        Args:
            views: of each view (hops, masks): vectors of the users [b, d], of their neighbours [b, k, d], of the
                neighbours' neighbours [b, k, k', d] and so on, L + 1 of them; True = a neighbour, [b, k], [b, k, k'].
            context: c.

        Raises:
            ValueError: for other numbers of views or hops.
        """
        if len(views) != len(self.layers):
            raise ValueError(f"{len(views)} views for {len(self.layers)} with weights")
        found = []
        for layers, (hops, masks) in zip(self.layers, views, strict=True):
            with_context = [functools.partial(_in_context, layer, context) for layer in layers]
            found.append(read_hops(with_context, hops, masks))
        return jnp.concatenate(found, axis=-1)


def _in_context(layer: ViewLayer, context: Array, own: Array, neighbours: Array, mask: Array) -> Array:
    """The layer, with the context of each user for all that were sampled for her."""
    spread = context.reshape(len(context), *[1] * (own.ndim - 2), context.shape[-1])
    return layer(own, neighbours, mask, jnp.broadcast_to(spread, (*own.shape[:-1], context.shape[-1])))
