"""Message-passing layers on bipartite graphs: (graph, source vectors, target vectors) -> the next vectors of both.

On a whole graph (BipartiteGraph) the result has all nodes again; on a SampledGraph only those that were asked for.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.nn.graph_attention import ACTIVATIONS, Activation
from lsec_jax.nn.propagation import BipartiteGraph, add_self
from lsec_jax.nn.rows import Backend
from lsec_jax.nn.subgraphs import SampledGraph, neighbor_sums, receivers

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
