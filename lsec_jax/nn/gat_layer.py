"""Graph attention layers with many heads, and stacks of them over a whole graph.

The vectors of all heads side by side are wide: 8 times 128 in LSEC-GAT, against 200 of the tables. Over a whole graph
heads therefore come one after the other: each is projected, attended with and, where another layer follows, multiplied
by that layer's weights. The backward pass projects again, and of all heads only their outputs are kept.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from lsec_jax.nn.graph_attention import ACTIVATIONS, ATTENDED, ATTENTION_SLOPE, Activation, Logits, Side, attend
from lsec_jax.nn.graph_layers import Graph
from lsec_jax.nn.propagation import BipartiteGraph, senders_of
from lsec_jax.nn.replicas import vary_as
from lsec_jax.nn.rows import Backend
from lsec_jax.nn.slots import gather_sum
from lsec_jax.nn.subgraphs import Neighbors, receivers


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
        if isinstance(graph, BipartiteGraph):
            return attention_stack([self], graph, sources, targets)
        of_sources, of_targets = self.to_source_heads.project(sources), self.to_source_heads.project(targets)
        own = _receivers(graph, of_sources, of_targets)[0]
        to_sources = self._attend_to_sample(graph.to_source, own, of_targets)
        if self.to_target_heads is not None:
            of_sources, of_targets = self.to_target_heads.project(sources), self.to_target_heads.project(targets)
        own = _receivers(graph, of_sources, of_targets)[1]
        return to_sources, self._attend_to_sample(graph.to_target, own, of_sources)

    @property
    def heads(self) -> "list[_AttentionHeads]":
        """Those of messages to sources, and those of messages to targets if they are others."""
        return [self.to_source_heads] if self.to_target_heads is None else [self.to_source_heads, self.to_target_heads]

    def _attend_to_sample(self, neighbors: Neighbors, own: Projected, senders: Projected) -> Float[Array, "r f"]:
        loop_logits = None
        if self.self_loop:
            loop_logits = jax.nn.leaky_relu(own.receiver_logits + own.sender_logits, ATTENTION_SLOPE)
        weights, loop_weights = _slot_attention(neighbors, own.receiver_logits, senders.sender_logits, loop_logits)

        def one_head(head: tuple[Array, Array]) -> Array:
            return gather_sum(neighbors.senders, *head, True, self.backend)

        by_head = jnp.moveaxis(weights, 2, 0), senders.vectors.swapaxes(0, 1)
        arrived = lax.map(one_head, by_head).swapaxes(0, 1)  # [r, h, d]
        if loop_weights is not None:
            arrived += loop_weights[:, :, None] * own.vectors
        output = ACTIVATIONS[self.activation](arrived)
        return output.reshape(len(output), -1)


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

    @property
    def logit_vectors(self) -> Float[Array, "h d 2"]:
        """What a head's vectors are multiplied by for a receiver's and for a sender's part of logits."""
        return jnp.stack([self.receiver_vectors[...], self.sender_vectors[...]], axis=2)

    def by_head(self, rows: Float[Array, "n f"]) -> Float[Array, "h n d"]:
        """Cuts rows of all heads, such as the weights, into those of each."""
        return rows.reshape(len(rows), *self.receiver_vectors.shape).swapaxes(0, 1)

    def project(self, vectors: Float[Array, "n d"]) -> Projected:
        """W h for every head, and its inner products with the attention vectors.

        The attention vectors are the blocks of one sparse matrix: products by head would first copy W h into another
        order, and two products would have two gradients as large as W h.
        """
        projected, both = vectors @ self.weights[...], self.logit_vectors
        num_heads, width, _ = both.shape
        blocks = (both[:, :, :, None] * jnp.eye(num_heads)[:, None, None, :]).reshape(num_heads * width, 2 * num_heads)
        logits = (projected @ blocks).reshape(len(vectors), 2, num_heads)
        return Projected(projected.reshape(len(vectors), num_heads, width), logits[:, 0], logits[:, 1])


def _receivers(graph: Graph, of_sources: Projected, of_targets: Projected) -> tuple[Projected, Projected]:
    """`receivers` of everything that is projected."""
    both = [receivers(graph, *of_both) for of_both in zip(of_sources, of_targets, strict=True)]
    return Projected(*(of[0] for of in both)), Projected(*(of[1] for of in both))


class _Heads(NamedTuple):
    """What all heads of one layer and direction read over a whole graph, stacked by head; inside a loop, of one head.

    Attributes:
        sources: projected vectors, [h, m, d], or the weights that project, [h, in, d].
        targets: likewise, [h, n, d] or [h, in, d].
        logit_vectors: [h, d, 2], as in `_AttentionHeads`.
    """

    sources: Array
    targets: Array
    logit_vectors: Array


def attention_stack(
    layers: list[GatLayer], graph: BipartiteGraph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
) -> tuple[Float[Array, "m f"], Float[Array, "n f"]]:
    """Returns the last of several attention layers' vectors, over a whole graph."""
    weights = [of.by_head(of.weights[...]) for of in layers[0].heads]
    inputs = [_Heads(own, own, of.logit_vectors) for own, of in zip(weights, layers[0].heads, strict=True)]
    tables: tuple[Array, Array] | None = (sources, targets)
    for layer, following in itertools.pairwise(layers):
        inputs, tables = _project_for(following, layer, graph, inputs, tables), None

    # A loop would put the heads of input, output and gradients behind each other, and then copy all side by side.
    num_heads = len(inputs[0].logit_vectors)
    of_heads = [jax.tree.map(lambda of, head=head: of[head], inputs) for head in range(num_heads)]
    outputs = [_attend_both_ways(layers[-1], graph, of_head, tables) for of_head in of_heads]
    to_sources, to_targets = (jnp.concatenate(side, axis=1) for side in zip(*outputs, strict=True))
    return to_sources, to_targets


def _project_for(
    following: GatLayer,
    layer: GatLayer,
    graph: BipartiteGraph,
    inputs: list[_Heads],
    tables: tuple[Array, Array] | None,
) -> list[_Heads]:
    """What the heads of the following layer read: its weights times a layer's output, never more of it than a head."""
    weights = jnp.concatenate([of.weights[...] for of in following.heads], axis=1)
    num_heads, width, _ = inputs[0].logit_vectors.shape

    def one_head(totals: tuple[Array, Array], of: tuple[list[_Heads], Array]) -> tuple[tuple[Array, Array], None]:
        inputs, own_weights = of
        outputs = _attend_both_ways(layer, graph, inputs, tables)
        return (totals[0] + outputs[0] @ own_weights, totals[1] + outputs[1] @ own_weights), None

    num_nodes = len(graph.source_degrees), len(graph.target_degrees)
    dtype = jnp.result_type(weights, *jax.tree.leaves((inputs, tables)))
    start = tuple(jnp.zeros((count, weights.shape[1]), dtype) for count in num_nodes)
    start = vary_as(start, (graph, inputs, tables, weights))
    by_head = inputs, weights.reshape(num_heads, width, -1)
    keep = jax.checkpoint_policies.save_only_these_names(ATTENDED)
    totals, _ = lax.scan(jax.checkpoint(one_head, prevent_cse=False, policy=keep), start, by_head)
    parts = [jnp.split(side, len(following.heads), axis=1) for side in totals]
    return [
        _Heads(of.by_head(of_sources), of.by_head(of_targets), of.logit_vectors)
        for of, of_sources, of_targets in zip(following.heads, *parts, strict=True)
    ]


def _attend_both_ways(
    layer: GatLayer, graph: BipartiteGraph, inputs: list[_Heads], tables: tuple[Array, Array] | None
) -> tuple[Float[Array, "m d"], Float[Array, "n d"]]:
    """What one head of a layer gives to sources and to targets; `tables` are what is still to be projected."""
    projected = []
    for of in inputs:
        sides = (of.sources, of.targets)
        if tables is not None:
            sides = tables[0] @ of.sources, tables[1] @ of.targets
        projected.append([(side, side @ of.logit_vectors) for side in sides])

    def attend_to(receiver: Side, own: tuple[Array, Array], senders: tuple[Array, Array]) -> Array:
        loop = jax.nn.leaky_relu(own[1][:, 0] + own[1][:, 1], ATTENTION_SLOPE) if layer.self_loop else None
        vectors, logits = senders_of(graph, senders[0]), Logits(own[1][:, 0], senders_of(graph, senders[1][:, 1]), loop)
        return attend(graph, logits, own[0], vectors, receiver, layer.activation, layer.backend)

    (own, others), (other_senders, own_targets) = projected[0], projected[-1]
    return attend_to("source", own, others), attend_to("target", own_targets, other_senders)
