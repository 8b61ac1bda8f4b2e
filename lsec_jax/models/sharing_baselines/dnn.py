"""DNN: a multi-layer perceptron in the place of TREEMS' experts (Niu et al., WSDM 2021, Sec. 4.1.2).

Implemented: the tower of `tower_widths` on x = concat(u, v, t, c) (Eq. 3).

Departures:
- It reads no neighbours. The paper replaces the experts and does not say whether the graph stays; a DNN that reads it
  is TREEMS with one expert.
"""

import dataclasses

from flax import nnx

from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.sharing import SharingRanker


@dataclasses.dataclass
class Config(ImpressionConfig):
    """DNN; it has the keys of all rankers of impressions and no others."""

    @property
    def name(self) -> str:
        """For reports."""
        return "dnn"

    def build(self, layout: Layout, rngs: nnx.Rngs) -> SharingRanker:
        """Builds the ranker for what an encoder found."""
        return SharingRanker(self, layout, rngs)
