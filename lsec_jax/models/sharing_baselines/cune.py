"""CUNE: matrix factorisation with the friends of a collaborative user network (Zhang et al., IJCAI 2017).

Implemented: the prediction <p, q> + biases, where the vector u of a user becomes u + the mean of her semantic friends',
and the social regulariser, half the squared distance of u to that mean (CUNE-MF).

Departures:
- CUNE links users who consumed the same items, embeds that network by random walks and skip-gram, and keeps the
  `num_friends` whose embeddings are nearest. Here the network is what the declared neighbourhoods draw, the first hop
  alone, all views together, and the friends are those of the drawn whose vectors, as they are learned, have the largest
  cosine with u; who is drawn in two views counts twice. No embedding is trained beforehand.
- In CUNE friends are in the regulariser only. In the score they also tell of users whom training hardly knows.
- Either end of a share that has neighbourhoods has friends. CUNE recommends items.
- Other declared fields join by linear maps, histories by their mean. CUNE has ids alone.
- The log loss of the labels; CUNE has squared errors of ratings, or BPR.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax.config import require_at_least
from lsec_jax.declaration import Declaration
from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.config import require_finite
from lsec_jax.models.impressions.fields import Fields, Hops
from lsec_jax.models.sharing import PairConfig, PairRanker, RoleGraph
from lsec_jax.nn.attention import masked_mean
from lsec_jax.nn.hops import merge_views


@dataclasses.dataclass
class Config(PairConfig):
    """CUNE; keys of all rankers of impressions, of which those of the primary task's tower have no effect.

    Attributes:
        num_friends: k, semantic friends of a user at most.
        friend_weight: of the social regulariser, mean over the rows.
    """

    num_friends: int = 8
    friend_weight: float = 0.01

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        super().validate()
        require_at_least("config.model.num_friends", self.num_friends, 1)
        require_finite("config.model.friend_weight", self.friend_weight)

    @property
    def declaration(self) -> Declaration:
        """The features, with the first hops alone."""
        found = super().declaration
        near = tuple(dataclasses.replace(of, fanouts=tuple(of.fanouts[:1])) for of in found.neighbourhoods)
        return dataclasses.replace(found, neighbourhoods=near)

    @property
    def name(self) -> str:
        """For reports."""
        return "cune"

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Keys that change neither shapes nor meanings."""
        return (*super().training_keys, "friend_weight")

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "Cune":
        """Builds the ranker; raises ConfigError as `role_graphs`."""
        return Cune(self, layout, rngs)


class Cune(PairRanker):
    """An inner product of ends that are drawn to their friends."""

    config: Config

    def make_graph(self, of: RoleGraph, rngs: nnx.Rngs) -> nnx.Module:
        """Means have no weights."""
        return nnx.List([])

    def read_graph(self, graph: Any, views: Sequence[Hops], fields: Fields) -> Float[Array, "b v"]:
        """The user's vector and the mean of her friends' together."""
        own, mean, _ = self._friends(views)
        return own + mean

    def pair_penalty(self, fields: Fields) -> Float[Array, ""] | float:
        """The social regulariser, sum over the ends and mean over the rows; 0 of who has no friends."""
        total = jnp.zeros(())
        for of in self.roles:
            own, mean, has_any = self._friends([fields.neighbours[near.name] for near in of.neighbourhoods])
            total += 0.5 * jnp.where(has_any, jnp.square(own - mean).sum(axis=1), 0.0).mean()
        return self.config.friend_weight * total

    def _friends(self, views: Sequence[Hops]) -> tuple[Float[Array, "b d"], Float[Array, "b d"], Bool[Array, " b"]]:
        """(u, the mean of the friends, whether there are any)."""
        hops, masks = merge_views([(of.vectors, of.masks) for of in views])
        kept = nearest(hops[0], hops[1], masks[0], self.config.num_friends)
        return hops[0], masked_mean(hops[1], kept), kept.any(axis=1)


def nearest(
    own: Float[Array, "b d"], others: Float[Array, "b k d"], mask: Bool[Array, "b k"], count: int
) -> Bool[Array, "b k"]:
    """Which of the others, where the mask is True, are the `count` of the largest cosine; of equals the first."""
    own, others = jax.lax.stop_gradient((own, jnp.where(mask[:, :, None], others, 0.0)))
    squares = jnp.square(others).sum(axis=2)
    cosines = jnp.einsum("bd,bkd->bk", own, others) * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))
    found = jnp.where(mask, cosines, -jnp.inf)
    _, places = jax.lax.top_k(found, min(count, found.shape[1]))
    return mask & (jnp.arange(found.shape[1])[None, None] == places[:, :, None]).any(axis=1)
