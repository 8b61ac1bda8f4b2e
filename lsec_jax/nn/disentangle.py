"""Two intentions of one sequence: one that other domains share, and one that is the domain's own (eLiveRec Eq. 5-7)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax.nn.attention import masked_mean, target_attention

EMPTY_STD = 0.02  # of learned prototypes and of the vectors of empty sequences; not specified


class DisentangledVectors(NamedTuple):
    """The intention vectors of one domain.

    Attributes:
        consistent: z_c, [b, d].
        specific: z_s, [b, d].
    """

    consistent: Float[Array, "b d"]
    specific: Float[Array, "b d"]


class Disentangler(nnx.Module):
    """Divides each state between two prototypes, element by element, and reads both parts for the target."""

    def __init__(self, width: int, rngs: nnx.Rngs, prototypes: str = "pooled", scale: str = "none"):
        """Draws what is learned.

        Args:
            width: d.
            rngs: stream "params".
            prototypes: "pooled": mean and maximum of the sequence's embeddings; "learned": two vectors for all
                sequences, as in the work that the paper compares with, and the ablation of its Table III.
            scale: of the retrieval's inner products; "none" as in Eq. 6, "sqrt": 1 / sqrt(d), a departure.

        Raises:
            ValueError: for unknown prototypes or an unknown scale.
        """
        if prototypes not in ("pooled", "learned"):
            raise ValueError(f"prototypes '{prototypes}': valid are 'pooled' and 'learned'")
        if scale not in ("none", "sqrt"):
            raise ValueError(f"scale '{scale}': valid are 'none' and 'sqrt'")
        draw = jax.nn.initializers.normal(EMPTY_STD)
        self.prototypes = nnx.Param(draw(rngs.params(), (2, width), jnp.float32)) if prototypes == "learned" else None
        self.empty = nnx.Param(draw(rngs.params(), (2, width), jnp.float32))
        self.scale = 1.0 if scale == "none" else width**-0.5

    def __call__(
        self,
        embeddings: Float[Array, "b t d"],
        states: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        target: Float[Array, "b d"],
    ) -> DisentangledVectors:
        """Returns z_c and z_s; of an empty sequence, two learned vectors.

        Args:
            embeddings: E, of which the prototypes are pooled; the padding may hold anything.
            states: H, of the basic sequence encoder, 0 where masked.
            mask: True = an element.
            target: e_vt, what the intentions are read for.
        """
        # Of two prototypes, the softmax of Eq. 5 is a sigmoid of the difference.
        share = jax.nn.sigmoid(states * self._prototype_difference(embeddings, mask)[:, None, :])
        consistent = share * states
        parts = (consistent, states - consistent)
        found = (target_attention(target, part, part, mask, self.scale) for part in parts)
        has_any = mask.any(axis=1)[:, None]
        return DisentangledVectors(
            *(jnp.where(has_any, of, empty[None]) for of, empty in zip(found, self.empty[...], strict=True))
        )

    def _prototype_difference(self, embeddings: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
        """o_c - o_s; of an empty sequence 0."""
        if self.prototypes is not None:
            learned = self.prototypes[...]
            return jnp.broadcast_to((learned[0] - learned[1])[None], (len(mask), learned.shape[1]))
        lowest = jnp.finfo(jnp.float32).min
        largest = jnp.where(mask[:, :, None], embeddings.astype(jnp.float32), lowest).max(axis=1)
        return jnp.where(mask.any(axis=1)[:, None], masked_mean(embeddings, mask) - largest, 0.0)
