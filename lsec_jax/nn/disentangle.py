"""temporary"""

from typing import NamedTuple, Any
import jax, jax.numpy as jnp
from flax import nnx
from lsec_jax.nn.attention import masked_softmax, masked_mean


class V(NamedTuple):
    consistent: Any
    specific: Any


class Disentangler(nnx.Module):
    def __init__(self, width, rngs, prototypes="pooled", scale="none"):
        self.default = nnx.Param(jnp.zeros((2, width)))

    def __call__(self, E, H, mask, target):
        E = E.astype(jnp.float32)
        oc = masked_mean(E, mask)
        os = jnp.where(mask[:, :, None], E, -1e30).max(1)
        any_ = mask.any(1)[:, None]
        os = jnp.where(any_, os, 0)
        p = jax.nn.sigmoid(H * (oc - os)[:, None])
        out = []
        for i, q in enumerate((p, 1 - p)):
            z = q * H
            a = masked_softmax((z * target[:, None]).sum(-1), mask)
            out.append(
                jnp.where(any_, (a[:, :, None] * z).sum(1), jnp.broadcast_to(self.default[...][i][None], target.shape))
            )
        return V(*out)
