"""Attention over a short list of vectors."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

_MASKED = -1e30  # not -inf: a row without any key has equal weights, which the mask then removes, instead of NaN


class AdditiveAttention(nnx.Module):
    """sum_r a_r v_r with a = softmax_r(q . tanh(W v_r + b)).

    Bahdanau et al. 2015, Sec. 3.1, with a learnt constant query.
    """

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        init = jax.nn.initializers.glorot_uniform()
        self.weights = nnx.Param(init(rngs.params(), (width, hidden), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(hidden))
        self.query = nnx.Param(init(rngs.params(), (hidden, 1), jnp.float32)[:, 0])

    def __call__(self, vectors: Float[Array, "r n d"]) -> Float[Array, "n d"]:
        """Combines r vectors of each of n nodes."""
        projected = vectors @ self.weights[...]
        hidden = jnp.tanh(projected + jnp.broadcast_to(self.bias[...], projected.shape))
        return jnp.einsum("rn,rnd->nd", jax.nn.softmax(hidden @ self.query[...], axis=0), vectors)


def target_attention(
    target: Float[Array, "b d"],
    keys: Float[Array, "b t d"],
    values: Float[Array, "b t f"],
    mask: Bool[Array, "b t"],
    scale: float = 1.0,
) -> Float[Array, "b f"]:
    """sum_i a_i v_i with a = softmax_i(scale * target . k_i) over the elements that the mask keeps (eLiveRec Eq. 6-7).

    A row without any element gives zeros, and gradients of zero.

    Args:
        target: one query per row.
        keys: what the query is compared with.
        values: what is summed.
        mask: True = an element.
        scale: of the inner products; Eq. 6 has none.
    """
    # As products of matrices: sums of elementwise products take 1.5 to 6 times as long on a CPU.
    logits = scale * jnp.einsum("btd,bd->bt", keys, target, preferred_element_type=jnp.float32)
    return jnp.einsum("bt,btf->bf", masked_softmax(logits, mask), values)


def masked_softmax(logits: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t"]:
    """Softmax over the elements that the mask keeps, 0 elsewhere; all 0, with gradients of zero, if it keeps none."""
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, logits, _MASKED), axis=-1), 0.0)


def masked_mean(values: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
    """Mean of the elements that the mask keeps, in float32; 0 if it keeps none."""
    count = jnp.maximum(mask.sum(axis=1, dtype=jnp.float32), 1.0)
    return jnp.where(mask[:, :, None], values, 0.0).sum(axis=1, dtype=jnp.float32) / count[:, None]
