"""What rankers of sharing recommendation have in common (TREEMS, WSDM 2021, Eq. 3): x = concat(u, v, t, c).

Of the declared features, the part "context" is the source user u, "target" what is ranked, v, "dynamic" the context c
of the scenario, and t the mean of each sequence's behaviours. A model file may add what it makes of the neighbours of
users (`augment`), and says what it makes of x (`mix`).
"""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.declaration.layout import Layout, NeighbourhoodLayout
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.impressions.fields import Batch, Fields, history_products, side_by_side, table_width
from lsec_jax.models.impressions.ranker import Draws, ImpressionRanker, Represented


class SharingRanker(ImpressionRanker):
    """Towers on x; what model files add is in `build_graph` and `augment`, `build_head` and `mix`."""

    def __init__(self, config: ImpressionConfig, layout: Layout, rngs: nnx.Rngs):
        super().__init__(config, layout, rngs)
        parts = self.fields.part_widths
        width = sum(map(sum, parts.values())) + config.embedding_dim * len(layout.sequences)
        width += config.embedding_dim * len(layout.sequences) if config.history_products else 0
        self.in_width = width + self.build_graph(rngs)
        self.build_head(rngs)

    def build_graph(self, rngs: nnx.Rngs) -> int:
        """Builds what `augment` needs; returns the numbers that it adds to x."""
        return 0

    def build_head(self, rngs: nnx.Rngs) -> None:
        """Builds what `mix` needs, and the towers."""
        self.build_towers(self.in_width, rngs)

    def augment(self, fields: Fields) -> Sequence[Float[Array, "b _"]]:
        """What the neighbours of users add to x."""
        return []

    def mix(self, x: Float[Array, "b f"], fields: Fields, batch: Batch) -> Represented:
        """What the towers read."""
        return Represented(x, fields.dynamic)

    def represent(self, fields: Fields, batch: Batch, draws: Draws | None) -> Represented:
        """x, and what the model makes of it."""
        means = [of.mean() for of in fields.sequences.values()]
        means += history_products(fields) if self.config.history_products else []
        parts = [fields.context, fields.target, fields.dynamic, *means, *self.augment(fields)]
        return self.mix(side_by_side(parts), fields, batch)


def roles_of(layout: Layout) -> dict[str, tuple[NeighbourhoodLayout, ...]]:
    """The neighbourhoods of each role, in their order."""
    roles = dict.fromkeys(of.role for of in layout.neighbourhoods)
    return {role: tuple(of for of in layout.neighbourhoods if of.role == role) for role in roles}


def neighbour_width(of: NeighbourhoodLayout, layout: Layout, width: int) -> int:
    """Numbers of a neighbour's vector."""
    return table_width(of.table, layout, width)


def context_width(ranker: ImpressionRanker) -> int:
    """Numbers of c."""
    return sum(ranker.fields.part_widths["dynamic"])
