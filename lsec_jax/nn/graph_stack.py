"""A stack of message-passing layers over one bipartite graph, by the name of its aggregator."""

from typing import Any, cast

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax.nn.gat_layer import GatLayer, attention_stack
from lsec_jax.nn.graph_attention import Activation
from lsec_jax.nn.graph_layers import GcnLayer, Graph, LightGcnLayer, NgcfLayer
from lsec_jax.nn.propagation import BipartiteGraph, with_wanted
from lsec_jax.nn.rows import Backend
from lsec_jax.nn.subgraphs import Sample, SampledGraph, receivers, rows_of

AGGREGATORS = ("gcn", "lightgcn", "ngcf", "gat")
LAYER_COMBINATIONS = ("last", "mean", "concat")
_ACTIVATIONS: dict[str, Activation] = {"gcn": "relu", "lightgcn": "none", "ngcf": "leaky_relu", "gat": "elu"}


class GraphStack(nnx.Module):
    """Layers of one aggregator, and how their outputs become one vector per node.

    Attributes:
        width: of the result.
    """

    def __init__(
        self,
        aggregator: str,
        in_dim: int,
        layer_dims: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        num_heads: int = 8,
        self_loop: bool = True,
        weights_per_direction: bool = False,
        activate_last: bool = True,
        layer_combination: str = "last",
        backend: Backend = "auto",
    ):
        """Draws the weights.

        Args:
            aggregator: one of AGGREGATORS.
            in_dim: width of the input.
            layer_dims: output width of each layer, of each head for "gat"; "lightgcn" keeps in_dim.
            rngs: stream "params".
            num_heads: of "gat".
            self_loop: of "gcn" and "gat".
            weights_per_direction: of "gcn" and "gat".
            activate_last: whether the last layer has the aggregator's activation too.
            layer_combination: "last" layer's output, or the "mean" or "concat" of the input and all outputs.
            backend: of the neighbour sums.
        """
        layers: list[nnx.Module] = []
        widths = [in_dim]
        for i, out_dim in enumerate(layer_dims):
            is_active = activate_last or i < len(layer_dims) - 1
            activation = _ACTIVATIONS[aggregator] if is_active else "none"
            common: dict[str, Any] = {"rngs": rngs, "activation": activation, "backend": backend}
            directed: dict[str, Any] = {"self_loop": self_loop, "weights_per_direction": weights_per_direction}
            match aggregator:
                case "lightgcn":
                    layers.append(LightGcnLayer(backend))
                case "gcn":
                    layers.append(GcnLayer(widths[-1], out_dim, **common, **directed))
                case "ngcf":
                    layers.append(NgcfLayer(widths[-1], out_dim, **common))
                case "gat":
                    layers.append(GatLayer(widths[-1], out_dim, num_heads, **common, **directed))
            widths.append(num_heads * out_dim if aggregator == "gat" else out_dim)
        self.layers = nnx.List(layers)
        self.is_attention = aggregator == "gat"
        self.layer_combination = layer_combination
        self.width = sum(widths) if layer_combination == "concat" else widths[-1]

    def __call__(
        self,
        graphs: Graph | list[SampledGraph],
        sources: Float[Array, "m d"],
        targets: Float[Array, "n d"],
        wanted: tuple[Bool[Array, " m"], Bool[Array, " n"]] | None = None,
    ) -> tuple[Float[Array, "r f"], Float[Array, "q f"]]:
        """Returns the vectors of the graph's source and target nodes.

        Args:
            graphs: one whole graph for all layers, or a SampledGraph for each.
            sources: input vectors of all source nodes, or of those that the first layer needs.
            targets: likewise.
            wanted: over a whole graph, the source and target nodes whose vectors are needed; None = all. Those of the
                others may be anything: the last layer can leave their sums out.
        """
        if self.is_attention and isinstance(graphs, BipartiteGraph) and self.layer_combination == "last":
            return attention_stack(cast(list[GatLayer], list(self.layers)), graphs, sources, targets)
        per_layer: list[Any] = graphs if isinstance(graphs, list) else [graphs] * len(self.layers)
        if wanted is not None:
            per_layer[-1] = with_wanted(per_layer[-1], *wanted)
        outputs: list[Any] = [(sources, targets)]
        for layer, graph in zip(self.layers, per_layer, strict=True):
            arrived = layer(graph, *outputs[-1])
            outputs = [*(receivers(graph, *output) for output in outputs), arrived]
        match self.layer_combination:
            case "mean":
                source_vectors, target_vectors = (sum(side) / len(outputs) for side in zip(*outputs, strict=True))
            case "concat":
                source_vectors, target_vectors = (jnp.concatenate(side, axis=1) for side in zip(*outputs, strict=True))
            case _:
                source_vectors, target_vectors = outputs[-1]
        return source_vectors, target_vectors

    def of_sample(
        self, sample: Sample, sources: Float[Array, "m d"], targets: Float[Array, "n d"]
    ) -> tuple[Float[Array, "r f"], Float[Array, "q f"]]:
        """Returns the vectors of some nodes only, from sampled neighbours.

        Args:
            sample: the messages of all layers.
            sources: input vectors of all source nodes.
            targets: input vectors of all target nodes.
        """
        return self(sample.layers, rows_of(sources, sample.sources), rows_of(targets, sample.targets))
