"""DiffNet: influence that spreads over a social network (Wu et al., SIGIR 2019).

Implemented: h^k = h^(k-1) + mean of the neighbours' h^(k-1), as often as the neighbourhood has hops, the user's vector
p = h^K + the mean of her history, and the prediction <p, q>, q of the target.

Departures:
- One view, the first neighbourhood that is declared for a role; each end of a share that has one is spread to.
- Neighbours are sampled, and theirs. DiffNet spreads over the whole network.
- The sum in the place of a layer W [h ; mean] (DiffNet, Eq. 5).
- A user's h^0 is the vector of the id alone, since neighbours show nothing else. Other declared fields join h^K by a
  linear map, which is DiffNet's fusion layer (Eq. 3) behind the network instead of before it.
- Biases, linear in all fields, the scenario's among them: DiffNet, which knows no scenarios, has none.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.declaration import Declaration
from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.fields import Fields, Hops
from lsec_jax.models.sharing import PairConfig, PairRanker, RoleGraph
from lsec_jax.nn.attention import masked_mean
from lsec_jax.nn.hops import read_hops


@dataclasses.dataclass
class Config(PairConfig):
    """DiffNet; keys of all rankers of impressions, of which those of the primary task's tower have no effect."""

    @property
    def name(self) -> str:
        """For reports."""
        return "diffnet"

    @property
    def declaration(self) -> Declaration:
        """The features, with the first neighbourhood of each role alone."""
        found = super().declaration
        first = {of.role: of for of in reversed(found.neighbourhoods)}
        return dataclasses.replace(
            found, neighbourhoods=tuple(of for of in found.neighbourhoods if first[of.role] is of)
        )

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "DiffNet":
        """Builds the ranker; raises ConfigError as `role_graphs`."""
        return DiffNet(self, layout, rngs)


class DiffNet(PairRanker):
    """An inner product of ends that their neighbours have influenced."""

    def make_graph(self, of: RoleGraph, rngs: nnx.Rngs) -> nnx.Module:
        """Spreading has no weights."""
        return nnx.List([])

    def read_graph(self, graph: Any, views: Sequence[Hops], fields: Fields) -> Float[Array, "b v"]:
        """The node after the last hop of the view."""
        hops, masks = views[0]
        return read_hops([spread] * len(masks), hops, masks)


def spread(own: Float[Array, "*b d"], neighbours: Float[Array, "*b k d"], mask: Array) -> Float[Array, "*b d"]:
    """A node's vector and the mean of its neighbours' together, of whom there may be none."""
    flat = neighbours.reshape(-1, *neighbours.shape[-2:])
    return own + masked_mean(flat, mask.reshape(len(flat), -1)).reshape(own.shape)
