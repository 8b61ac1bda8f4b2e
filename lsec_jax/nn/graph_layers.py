"""Message-passing layers on bipartite graphs: (graph, source vectors, target vectors) -> the next vectors of both."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.nn.propagation import Backend, BipartiteGraph, add_self, propagate


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
        activation: str = "relu",
        backend: Backend = "auto",
    ):
        """Draws the weights.

        Args:
            in_dim: width of the input.
            out_dim: width of the output.
            rngs: stream "params".
            self_loop: whether nodes send to themselves; the graph must have been made with self_loops.
            weights_per_direction: one matrix for what sources send and one for what targets send, instead of one.
            activation: "relu" or "none".
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
        self, graph: BipartiteGraph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "m f"], Float[Array, "n f"]]:
        """Returns the next layer's vectors. The sum runs on the narrower side of the weights."""
        from_sources = self.source_weights[...]
        from_targets = from_sources if self.target_weights is None else self.target_weights[...]
        if self.narrows:
            sources, targets = sources @ from_sources, targets @ from_targets
        to_sources, to_targets = propagate(graph, sources, targets, self.backend)
        if not self.narrows:  # what arrives at a source was sent by targets
            to_sources, to_targets = to_sources @ from_targets, to_targets @ from_sources
            sources, targets = sources @ from_sources, targets @ from_targets
        if self.self_loop:
            to_sources = add_self(to_sources, sources, graph.source_self)
            to_targets = add_self(to_targets, targets, graph.target_self)
        if self.activation == "relu":
            return jax.nn.relu(to_sources), jax.nn.relu(to_targets)
        return to_sources, to_targets


class LightGcnLayer(nnx.Module):
    """The normalised neighbour sum and nothing else (LightGCN Eq. 3, Eq. 7)."""

    def __init__(self, backend: Backend):
        self.backend = backend

    def __call__(
        self, graph: BipartiteGraph, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "m d"], Float[Array, "n d"]]:
        """Returns the next layer's vectors."""
        return propagate(graph, sources, targets, self.backend)
