"""PinSage: GraphSAGE over sampled neighbours (Ying et al., KDD 2018; Hamilton et al., NeurIPS 2017).

Implemented: as many layers h' = ReLU(W [h ; agg({h_j})]), at length 1, as the neighbourhoods have hops (GraphSAGE,
Algorithm 1), agg the mean, the maximum of ReLU(W h_j + b), or the last state of an LSTM: PinSage_A, _M and _L of TREEMS
(WSDM 2021, Sec. 4.1.2). Both ends of a share have such a vector where neighbourhoods are declared for them, with the
same weights if their views are the same; the vectors stand in x.

Departures:
- All views are merged into one graph, as it knows no views; who is linked in two of them counts twice.
- Neighbours are drawn evenly from the views. PinSage takes those that random walks visit most, and weighs them so.
- The LSTM reads neighbours in the order of the view's rows. GraphSAGE permutes them at random in each step.
- Of PinSage's own: no curriculum of negatives, and no layers behind the last one; the towers are.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.config import require_choice
from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.fields import Fields, Hops
from lsec_jax.models.sharing import GraphConfig, GraphRanker, RoleGraph
from lsec_jax.nn.hops import merge_views, read_hops
from lsec_jax.nn.sampled_layers import Aggregator, SageLayer

AGGREGATORS = ("mean", "max", "lstm")


@dataclasses.dataclass
class Config(GraphConfig):
    """PinSage; keys of all rankers of impressions are inherited.

    Attributes:
        aggregator: "mean", "max" or "lstm".
    """

    aggregator: str = "mean"

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        super().validate()
        require_choice("config.model.aggregator", self.aggregator, AGGREGATORS)

    @property
    def name(self) -> str:
        """For reports."""
        return f"pinsage_{self.aggregator}"

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "PinSage":
        """Builds the ranker; raises ConfigError as `role_graphs`."""
        return PinSage(self, layout, rngs)


class PinSage(GraphRanker):
    """Towers on x with the ends' vectors of GraphSAGE."""

    config: Config

    def make_graph(self, of: RoleGraph, rngs: nnx.Rngs) -> nnx.Module:
        """A layer for each hop."""
        kind: Aggregator = self.config.aggregator  # type: ignore[assignment]
        return nnx.List([SageLayer(of.width, kind, rngs) for _ in range(of.num_hops)])

    def read_graph(self, graph: Any, views: Sequence[Hops], fields: Fields) -> Float[Array, "b v"]:
        """The node after all layers."""
        return read_hops(graph, *merge_views([(of.vectors, of.masks) for of in views]))
