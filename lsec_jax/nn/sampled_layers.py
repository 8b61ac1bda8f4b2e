"""Layers over sampled neighbours: the aggregators of GraphSAGE (Hamilton et al. 2017) and attention of GAT (2018)."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax.nn.attention import masked_mean
from lsec_jax.nn.dense import dense, glorot

Aggregator = Literal["mean", "max", "lstm"]
SLOPE = 0.2  # of GAT's LeakyReLU below 0
_MASKED = -1e30


class SageLayer(nnx.Module):
    """h' = ReLU(W [h ; agg({h_j})]) at length 1 (GraphSAGE, Algorithm 1, lines 4 to 7); of nobody, agg is 0."""

    def __init__(self, width: int, aggregator: Aggregator, rngs: nnx.Rngs):
        """Draws the weights (Glorot uniform).

        Args:
            width: d, of the vectors before and after.
            aggregator: "mean"; "max": of ReLU(W h_j + b) (Eq. 3); "lstm": its state after the last neighbour, which
                depends on their order.
            rngs: stream "params".
        """
        self.aggregator = aggregator
        self.update = nnx.Param(glorot(rngs.params(), 2 * width, width))
        if aggregator == "max":
            self.pool = nnx.Param(glorot(rngs.params(), width, width))
            self.pool_bias = nnx.Param(jnp.zeros(width))
        elif aggregator == "lstm":
            self.cell = nnx.OptimizedLSTMCell(width, width, rngs=rngs)

    def __call__(
        self, own: Float[Array, "*b d"], neighbours: Float[Array, "*b k d"], mask: Bool[Array, "*b k"]
    ) -> Float[Array, "*b d"]:
        """Returns the nodes' vectors after the layer; masked neighbours may hold anything."""
        flat = own.reshape(-1, own.shape[-1])
        neighbours = neighbours.reshape(len(flat), *neighbours.shape[-2:])
        found = self.aggregate(neighbours, mask.reshape(len(flat), -1))
        new = jax.nn.relu(dense(jnp.concatenate([flat, found], axis=-1), self.update[...]))
        squares = jnp.square(new).sum(axis=-1, keepdims=True)
        lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
        return (new / lengths).reshape(own.shape)

    def aggregate(self, neighbours: Float[Array, "b k d"], mask: Bool[Array, "b k"]) -> Float[Array, "b d"]:
        """One vector of each node's neighbours, 0 of none."""
        if self.aggregator == "mean":
            return masked_mean(neighbours, mask)
        neighbours = jnp.where(mask[:, :, None], neighbours, 0.0)
        if self.aggregator == "max":
            pooled = jax.nn.relu(dense(neighbours, self.pool[...], self.pool_bias[...]))
            return jnp.where(mask[:, :, None], pooled, 0.0).max(axis=1)  # after ReLU nothing is below 0
        return self._last_state(neighbours, mask)

    def _last_state(self, neighbours: Float[Array, "b k d"], mask: Bool[Array, "b k"]) -> Float[Array, "b d"]:
        def step(carry: tuple[Array, Array], read: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            vectors, is_there = read
            new, _ = self.cell(carry, vectors)
            kept = tuple(jnp.where(is_there[:, None], now, before) for now, before in zip(new, carry, strict=True))
            return (kept[0], kept[1]), None

        nothing = jnp.zeros_like(neighbours[:, 0])
        (_, state), _ = jax.lax.scan(step, (nothing, nothing), (jnp.moveaxis(neighbours, 1, 0), mask.T))
        return state


class GatLayer(nnx.Module):
    """h' = ELU(sum_j alpha_j W h_j) over the node itself and its neighbours, one head.

    alpha = softmax of LeakyReLU(a . [W h ; W h_j]) (Velickovic et al. 2018, Eq. 1-4); without biases, as there.
    """

    def __init__(self, width: int, rngs: nnx.Rngs):
        """Draws the weights (Glorot uniform).

        Args:
            width: d, of the vectors before and after.
            rngs: stream "params".
        """
        self.weights = nnx.Param(glorot(rngs.params(), width, width))
        self.own = nnx.Param(glorot(rngs.params(), width, 1))
        self.neighbour = nnx.Param(glorot(rngs.params(), width, 1))

    def __call__(
        self, own: Float[Array, "*b d"], neighbours: Float[Array, "*b k d"], mask: Bool[Array, "*b k"]
    ) -> Float[Array, "*b d"]:
        """Returns the nodes' vectors after the layer; masked neighbours may hold anything."""
        neighbours = jnp.where(mask[..., None], neighbours, 0.0)
        all_of = jnp.concatenate([own[..., None, :], neighbours], axis=-2)
        there = jnp.concatenate([jnp.ones_like(mask[..., :1]), mask], axis=-1)
        vectors = dense(all_of, self.weights[...])
        logits = dense(vectors[..., :1, :], self.own[...]) + dense(vectors, self.neighbour[...])
        logits = jax.nn.leaky_relu(logits[..., 0], SLOPE)
        weights = jax.nn.softmax(jnp.where(there, logits, _MASKED), axis=-1)
        return jax.nn.elu(jnp.einsum("...k,...kd->...d", weights, vectors))
