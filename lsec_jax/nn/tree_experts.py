"""Experts whose every layer is mixed as the path to a scenario says (TREEMS, WSDM 2021, Eq. 4-7 and 15)."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lsec_jax.nn.experts import Experts

Reader = Literal["lstm", "sum", "leaf"]


class GuidedExperts(NamedTuple):
    """What tree-guided experts return.

    Attributes:
        mixed: z_1 to z_H side by side, [b, sum of the layers' widths] float32.
        gates: g_i of each layer, [b, H, n] float32; each sums to 1.
        states: h_i of each level, [b, H, d] float32.
    """

    mixed: Float[Array, "b z"]
    gates: Float[Array, "b h n"]
    states: Float[Array, "b h d"]


class PathReader(nnx.Module):
    """Reads the embeddings of a path from the root on: h_i = LSTM(o_1 ... o_i) (Eq. 4)."""

    def __init__(self, width: int, rngs: nnx.Rngs, reader: Reader = "lstm"):
        """Draws the weights.

        Args:
            width: d, of the embeddings and of the states.
            rngs: stream "params".
            reader: "lstm"; or, as ablations, "sum": the sum of the embeddings so far, without order; "leaf": the last
                node's embedding at every level, without a tree.
        """
        self.reader = reader
        self.cell = nnx.OptimizedLSTMCell(width, width, rngs=rngs) if reader == "lstm" else None

    def __call__(self, path: Float[Array, "b h d"], mask: Bool[Array, "b h"]) -> Float[Array, "b h d"]:
        """Returns the state after each level; at levels past the end of a path, the last one.

        Args:
            path: embeddings of the nodes, root first; the padding may hold anything.
            mask: True = a node; the padding stands at the end.
        """
        path = jnp.where(mask[:, :, None], path, 0.0)
        if self.reader == "leaf":
            last = jnp.maximum(mask.sum(axis=1) - 1, 0)
            return jnp.broadcast_to(jnp.take_along_axis(path, last[:, None, None], axis=1), path.shape)
        if self.cell is None:
            return jnp.cumsum(path, axis=1)
        carry = (jnp.zeros_like(path[:, 0]), jnp.zeros_like(path[:, 0]))
        states = []
        for level in range(path.shape[1]):
            new, _ = self.cell(carry, path[:, level])
            is_node = mask[:, level, None]
            carry = jax.tree.map(lambda now, before, kept=is_node: jnp.where(kept, now, before), new, carry)
            states.append(carry[1])
        return jnp.stack(states, axis=1)


class TreeGuidedExperts(nnx.Module):
    """n experts of as many layers as the tree has levels; level i's state mixes the outputs of layer i (Eq. 5-6)."""

    def __init__(
        self,
        in_width: int,
        num_experts: int,
        layer_widths: tuple[int, ...],
        path_width: int,
        rngs: nnx.Rngs,
        reader: Reader = "lstm",
        dtype: DTypeLike | None = None,
    ):
        """Draws the weights.

        Args:
            in_width: of x.
            num_experts: n.
            layer_widths: of the H layers of each expert, first layer first.
            path_width: d, of the embeddings of the tree's nodes.
            rngs: stream "params".
            reader: of the path, as `PathReader` takes it.
            dtype: of the experts' products; gates are float32.

        Raises:
            ValueError: as `Experts`.
        """
        self.experts = Experts(in_width, num_experts, layer_widths, rngs, dtype=dtype)
        self.reader = PathReader(path_width, rngs, reader)
        init = jax.nn.initializers.glorot_uniform(batch_axis=(0,))
        self.gates = nnx.Param(init(rngs.params(), (len(layer_widths), path_width, num_experts), jnp.float32))

    @property
    def out_width(self) -> int:
        """Of `mixed`."""
        return sum(bias.shape[1] for bias in self.experts.biases)

    def __call__(self, x: Float[Array, "b i"], path: Float[Array, "b h d"], mask: Bool[Array, "b h"]) -> GuidedExperts:
        """Mixes each layer's outputs.

        Args:
            x: input of the experts (Eq. 3).
            path: embeddings of the nodes from the root on, as many levels as layers; the padding may hold anything.
            mask: True = a node.

        Raises:
            ValueError: where levels and layers differ in number.
        """
        num_layers = len(self.experts.biases)
        if path.shape[1] != num_layers:
            raise ValueError(f"{num_layers} layers, but paths of {path.shape[1]} levels: give each level its layer")
        states = self.reader(path, mask)
        weights = self.gates_of(states)
        mixed = [jnp.einsum("bn,bnf->bf", weights[:, i], of) for i, of in enumerate(self.experts(x))]
        return GuidedExperts(jnp.concatenate(mixed, axis=1), weights, states)

    def gates_of(self, states: Float[Array, "b h d"]) -> Float[Array, "b h n"]:
        """The gate of each layer, softmax(W_i h_i) (Eq. 6), from the states of the levels."""
        return jax.nn.softmax(jnp.einsum("bhd,hdn->bhn", states, self.gates[...]), axis=-1)


def inconsistency(gates: Float[Array, "b h n"]) -> Float[Array, ""]:
    """L_aux = - sum_i sum_{k<k'} g_i^k g_i^k', mean over the rows (Eq. 15); smallest for uniform gates.

    Gates sum to 1, so that the double sum is (1 - sum_k g_k^2) / 2.
    """
    return -((1.0 - jnp.square(gates).sum(axis=-1)) / 2).sum(axis=1).mean()
