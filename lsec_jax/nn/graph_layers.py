"""Message-passing layers on bipartite graphs: (graph, source vectors, target vectors) -> the next vectors of both.

On a whole graph (BipartiteGraph) the result has all nodes again; on a SampledGraph only those that were asked for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from lsec_jax.nn.graph_attention import ACTIVATIONS, ATTENTION_SLOPE, Activation, Logits, Side, attend
from lsec_jax.nn.propagation import BipartiteGraph, add_self
from lsec_jax.nn.rows import Backend
from lsec_jax.nn.slots import gather_sum
from lsec_jax.nn.subgraphs import Neighbors, SampledGraph, neighbor_sums, receivers

Graph = BipartiteGraph | SampledGraph


class GcnLayer(nnx.Module):
    """act(D^-1/2 (A + I) D^-1/2 H W) on both sides of a bipartite graph (Kipf and Welling 2017; LSEC-GNN Eq. 5)."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        rngs: nnx.Rngs,
        self_loop: bool = True,
        weights_per_direction: bool = False,
        activation: Activation = "relu",
        backend: Backend = "auto",
    ):
        """Draws the weights.

        Args:
            in_dim: width of the input.
            out_dim: width of the output.
            rngs: stream "params".
            self_loop: whether nodes send to themselves; the graph must have been made with self_loops.
            weights_per_direction: one matrix for what sources send and one for what targets send, instead of one.
            activation: of the output.
            backend: of `propagate`.
        """
        init = jax.nn.initializers.glorot_uniform()
        self.source_weights = nnx.Param(init(rngs.params(), (in_dim, out_dim), jnp.float32))
        self.target_weights = (
            nnx.Param(init(rngs.params(), (in_dim, out_dim), jnp.float32)) if weights_per_direction else None
        )
        self.narrows = out_dim <= in_dim
        self.self_loop, self.activation, self.backend = self_loop, activation, backend

    def __call__(
        self, graph: Graph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "r f"], Float[Array, "q f"]]:
        """Returns the next layer's vectors. The sum runs on the narrower side of the weights."""
        from_sources = self.source_weights[...]
        from_targets = from_sources if self.target_weights is None else self.target_weights[...]
        if self.narrows:
            sources, targets = sources @ from_sources, targets @ from_targets
        to_sources, to_targets = neighbor_sums(graph, sources, targets, self.backend)
        sources, targets = receivers(graph, sources, targets)
        if not self.narrows:  # what arrives at a source was sent by targets
            to_sources, to_targets = to_sources @ from_targets, to_targets @ from_sources
            sources, targets = sources @ from_sources, targets @ from_targets
        if self.self_loop:
            to_sources = add_self(to_sources, sources, graph.source_self)
            to_targets = add_self(to_targets, targets, graph.target_self)
        activate = ACTIVATIONS[self.activation]
        return activate(to_sources), activate(to_targets)


class LightGcnLayer(nnx.Module):
    """The normalised neighbour sum and nothing else (LightGCN Eq. 3, Eq. 7)."""

    def __init__(self, backend: Backend):
        self.backend = backend

    def __call__(
        self, graph: Graph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "r d"], Float[Array, "q d"]]:
        """Returns the next layer's vectors."""
        return neighbor_sums(graph, sources, targets, self.backend)


class NgcfLayer(nnx.Module):
    """LeakyReLU((L + I) E W1 + L E * E W2), with L E the normalised neighbour sum (Wang et al. 2019, Eq. 7)."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        rngs: nnx.Rngs,
        activation: Activation = "leaky_relu",
        backend: Backend = "auto",
    ):
        """Draws the weights.

        Args:
            in_dim: width of the input.
            out_dim: width of the output.
            rngs: stream "params".
            activation: of the output.
            backend: of `propagate`.
        """
        init = jax.nn.initializers.glorot_uniform()
        self.sum_weights = nnx.Param(init(rngs.params(), (in_dim, out_dim), jnp.float32))
        self.product_weights = nnx.Param(init(rngs.params(), (in_dim, out_dim), jnp.float32))
        self.activation, self.backend = activation, backend

    def __call__(
        self, graph: Graph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "r f"], Float[Array, "q f"]]:
        """Returns the next layer's vectors; the graph must have been made without self_loops."""
        to_sources, to_targets = neighbor_sums(graph, sources, targets, self.backend)
        sources, targets = receivers(graph, sources, targets)
        return self._combine(to_sources, sources), self._combine(to_targets, targets)

    def _combine(self, arrived: Float[Array, "n d"], own: Float[Array, "n d"]) -> Float[Array, "n f"]:
        total = (arrived + own) @ self.sum_weights[...] + (arrived * own) @ self.product_weights[...]
        return ACTIVATIONS[self.activation](total)


class Projected(NamedTuple):
    """Nodes as the heads of an attention layer see them.

    Attributes:
        vectors: of each head, [n, h, d].
        receiver_logits, sender_logits: what they add to the logits of edges that end or start at them, [n, h].
    """

    vectors: Float[Array, "n h d"]
    receiver_logits: Float[Array, "n h"]
    sender_logits: Float[Array, "n h"]


class GatLayer(nnx.Module):
    """Multi-head attention over the neighbours, heads concatenated (Velickovic et al. 2018, Eq. 1-5).

    On sampled neighbours both sums of the softmax are right on average, but not their ratio, the output: it is
    consistent (its bias vanishes as the fan-out grows), not unbiased.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_heads: int,
        *,
        rngs: nnx.Rngs,
        self_loop: bool = True,
        weights_per_direction: bool = False,
        activation: Activation = "elu",
        backend: Backend = "auto",
    ):
        """Draws the weights.

        Args:
            in_dim: width of the input.
            out_dim: width of each head; the output is num_heads times as wide.
            num_heads: attention heads.
            rngs: stream "params".
            self_loop: whether a node attends to itself too.
            weights_per_direction: a projection and attention vectors for messages to sources and others for messages
                to targets, instead of one set.
            activation: of the output.
            backend: of `attend`.
        """
        heads = [_AttentionHeads(in_dim, out_dim, num_heads, rngs) for _ in range(1 + weights_per_direction)]
        self.to_source_heads = heads[0]
        self.to_target_heads = heads[1] if weights_per_direction else None
        self.self_loop, self.activation, self.backend = self_loop, activation, backend

    def __call__(
        self, graph: Graph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "r f"], Float[Array, "q f"]]:
        """Returns the next layer's vectors. Edges of value 0 (excluded ones) are not attended to."""
        of_sources, of_targets = self.to_source_heads.project(sources), self.to_source_heads.project(targets)
        to_sources = self._attend(graph, "source", _receivers(graph, of_sources, of_targets)[0], of_targets)
        if self.to_target_heads is not None:
            of_sources, of_targets = self.to_target_heads.project(sources), self.to_target_heads.project(targets)
        to_targets = self._attend(graph, "target", _receivers(graph, of_sources, of_targets)[1], of_sources)
        return to_sources, to_targets

    def _attend(self, graph: Graph, side: Side, own: Projected, senders: Projected) -> Float[Array, "r f"]:
        loop_logits = None
        if self.self_loop:
            loop_logits = jax.nn.leaky_relu(own.receiver_logits + own.sender_logits, ATTENTION_SLOPE).T
        logits = Logits(own.receiver_logits.T, senders.sender_logits.T, loop_logits)
        if isinstance(graph, BipartiteGraph):
            output = attend(graph, logits, own.vectors, senders.vectors, side, self.activation, self.backend)
        else:
            output = self._attend_to_sample(graph, logits, own.vectors, senders.vectors, side)
        return output.reshape(len(output), -1)

    def _attend_to_sample(
        self,
        graph: SampledGraph,
        logits: Logits,
        own: Float[Array, "r h d"],
        senders: Float[Array, "n h d"],
        side: Side,
    ) -> Float[Array, "r h d"]:
        neighbors = graph.to_source if side == "source" else graph.to_target
        loop_logits = None if logits.loop is None else logits.loop.T
        weights, loop_weights = _slot_attention(neighbors, logits.own.T, logits.sender.T, loop_logits)

        def one_head(head: tuple[Array, Array]) -> Array:
            return gather_sum(neighbors.senders, *head, True, self.backend)

        arrived = lax.map(one_head, (jnp.moveaxis(weights, 2, 0), senders.swapaxes(0, 1))).swapaxes(0, 1)  # [r, h, d]
        if loop_weights is not None:
            arrived += loop_weights[:, :, None] * own
        return ACTIVATIONS[self.activation](arrived)


def _slot_attention(
    neighbors: Neighbors,
    own_logits: Float[Array, "r h"],
    sender_logits: Float[Array, "n h"],
    loop_logits: Float[Array, "r h"] | None,
) -> tuple[Float[Array, "r f h"], Float[Array, "r h"] | None]:
    """The same over the slots of sampled neighbours, each as often as it counts; a self-loop counts once."""
    is_there = (neighbors.values != 0)[:, :, None]
    logits = jax.nn.leaky_relu(sender_logits[neighbors.senders] + own_logits[:, None, :], ATTENTION_SLOPE)
    logits = jnp.where(is_there, logits, -jnp.inf)
    largest, loop_weights = _with_loops(logits.max(axis=1), loop_logits)
    weights = jnp.where(is_there, jnp.exp(jnp.where(is_there, logits, 0.0) - largest[:, None, :]), 0.0)
    assert neighbors.counts is not None, "attention needs counts"
    weights *= neighbors.counts[:, :, None]
    total = weights.sum(axis=1)
    total = _nonzero(total if loop_weights is None else total + loop_weights)
    return weights / total[:, None, :], None if loop_weights is None else loop_weights / total


def _with_loops(
    largest: Float[Array, "m h"], loop_logits: Float[Array, "m h"] | None
) -> tuple[Float[Array, "m h"], Float[Array, "m h"] | None]:
    """What to subtract from a receiver's logits, and the exponentials of its self-loop's."""
    if loop_logits is not None:
        largest = jnp.maximum(largest, loop_logits)
    # The softmax does not depend on what is subtracted, so neither does its gradient.
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    return largest, None if loop_logits is None else jnp.exp(loop_logits - largest)


def _nonzero(total: Float[Array, "m h"]) -> Float[Array, "m h"]:
    return jnp.where(total > 0, total, 1.0)


class _AttentionHeads(nnx.Module):
    """Projection and attention vectors of all heads for one direction of messages."""

    def __init__(self, in_dim: int, out_dim: int, num_heads: int, rngs: nnx.Rngs):
        init = jax.nn.initializers.glorot_uniform()
        self.weights = nnx.Param(init(rngs.params(), (in_dim, num_heads * out_dim), jnp.float32))
        self.receiver_vectors = nnx.Param(init(rngs.params(), (num_heads, out_dim), jnp.float32))
        self.sender_vectors = nnx.Param(init(rngs.params(), (num_heads, out_dim), jnp.float32))

    def project(self, vectors: Float[Array, "n d"]) -> Projected:
        """W h for every head, and its inner products with the attention vectors.

        The attention vectors are the blocks of one sparse matrix: products by head would first copy W h into another
        order, and two products would have two gradients as large as W h.
        """
        projected = vectors @ self.weights[...]
        both = jnp.stack([self.receiver_vectors[...], self.sender_vectors[...]], axis=2)  # [h, d, 2]
        num_heads, width, _ = both.shape
        blocks = (both[:, :, :, None] * jnp.eye(num_heads)[:, None, None, :]).reshape(num_heads * width, 2 * num_heads)
        logits = (projected @ blocks).reshape(len(vectors), 2, num_heads)
        return Projected(projected.reshape(len(vectors), num_heads, width), logits[:, 0], logits[:, 1])


def _receivers(graph: Graph, of_sources: Projected, of_targets: Projected) -> tuple[Projected, Projected]:
    """`receivers` of everything that is projected."""
    both = [receivers(graph, *of_both) for of_both in zip(of_sources, of_targets, strict=True)]
    return Projected(*(of[0] for of in both)), Projected(*(of[1] for of in both))
