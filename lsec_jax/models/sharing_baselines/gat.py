"""GAT: graph attention over sampled neighbours (Velickovic et al., ICLR 2018).

Implemented: as many layers h' = ELU(sum_j alpha_j W h_j), over the node itself and its neighbours (Eq. 1-4), as the
neighbourhoods have hops. Both ends of a share have such a vector where neighbourhoods are declared for them, with the
same weights if their views are the same; the vectors stand in x.

Departures:
- All views are merged into one graph, as it knows no views (TREEMS, WSDM 2021, Sec. 4.1.2: "homogeneous neighbors");
  who is linked in two of them counts twice.
- Neighbours are sampled. GAT reads all of them.
- One head; GAT has several. No dropout inside: `dropout` is of what the towers read, as in all rankers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.fields import Fields, Hops
from lsec_jax.models.sharing import GraphConfig, GraphRanker, RoleGraph
from lsec_jax.nn.hops import merge_views, read_hops
from lsec_jax.nn.sampled_layers import GatLayer


@dataclasses.dataclass
class Config(GraphConfig):
    """GAT; it has the keys of all rankers of impressions and no others."""

    @property
    def name(self) -> str:
        """For reports."""
        return "gat"

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "Gat":
        """Builds the ranker; raises ConfigError as `role_graphs`."""
        return Gat(self, layout, rngs)


class Gat(GraphRanker):
    """Towers on x with the ends' vectors of graph attention."""

    def make_graph(self, of: RoleGraph, rngs: nnx.Rngs) -> nnx.Module:
        """A layer for each hop."""
        return nnx.List([GatLayer(of.width, rngs) for _ in range(of.num_hops)])

    def read_graph(self, graph: Any, views: Sequence[Hops], fields: Fields) -> Float[Array, "b v"]:
        """The node after all layers."""
        return read_hops(graph, *merge_views([(of.vectors, of.masks) for of in views]))
