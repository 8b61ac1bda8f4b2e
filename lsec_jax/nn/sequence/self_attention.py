"""Attention of the elements of a sequence to each other, several heads at once.

On a CPU the rows are worked off in blocks whose attention weights fit into the cache, and the backward pass computes
the weights again from the logarithms of their sums (Dao et al., "FlashAttention", NeurIPS 2022, App. B.2). Forward and
backward, 2,048 rows of 50 elements with 8 heads, two cores: width 16 in 69 ms (jax.nn.dot_product_attention: 413 ms),
64 in 151 ms, 128 in 263 ms; blocks under jax.checkpoint take 106, 170 and 257 ms.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Implementation = Literal["auto", "blocks", "xla", "cudnn"]

# Attention weights of one block: 2.5 MB in float32, less than a core's share of the last cache.
_BLOCK_WEIGHTS = 32 * 8 * 50 * 50
_MASKED = -1e30  # not -inf: a row without any key has equal weights instead of NaN


def self_attention(
    queries: Float[Array, "b t h e"],
    keys: Float[Array, "b t h e"],
    values: Float[Array, "b t h e"],
    mask: Bool[Array, "b t"],
    *,
    scale: float,
    is_causal: bool = False,
    implementation: Implementation = "auto",
) -> Float[Array, "b t h e"]:
    """softmax(scale * Q K^T) V per head, over the keys that the mask keeps (eLiveRec Eq. 4).

    What a query without any key gets is finite and means nothing; its gradients are finite, too.

    Args:
        queries: e wide per head.
        keys: likewise.
        values: likewise.
        mask: True = a key.
        scale: of the inner products.
        is_causal: whether a query sees only itself and what stands before it.
        implementation: "blocks" (the fastest on a CPU), "xla" or "cudnn" of jax.nn.dot_product_attention; "auto"
            takes cuDNN's on an NVIDIA GPU where it can (16-bit floats, e a multiple of 8 up to 128, t even).
    """
    chosen = _choose(queries) if implementation == "auto" else implementation
    if chosen == "blocks":
        penalty = jnp.where(mask, 0.0, _MASKED)
        return _attend(is_causal, queries * jnp.asarray(scale, queries.dtype), keys, values, penalty)
    seen = mask[:, None, None, :]
    if chosen == "cudnn":  # which takes the mask as a bias of every query
        seen = jnp.broadcast_to(seen, (len(mask), 1, mask.shape[1], mask.shape[1]))
    return jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        mask=seen,
        scale=scale,
        is_causal=is_causal,
        implementation="cudnn" if chosen == "cudnn" else "xla",
    )


def _choose(queries: Array) -> Implementation:
    backend = jax.default_backend()
    if backend == "cpu":
        return "blocks"
    _, length, _, width = queries.shape
    is_half = queries.dtype in (jnp.bfloat16, jnp.float16)
    fits = is_half and width % 8 == 0 and width <= 128 and length % 2 == 0
    return "cudnn" if fits and "cuda" in jax.devices()[0].client.platform_version.lower() else "xla"


def _in_blocks(
    function: Callable[..., tuple[Array, ...]], arrays: tuple[Array, ...], num_heads: int
) -> tuple[Array, ...]:
    """Applies a function of rows to blocks of them, one after the other, and puts its results together."""
    num_rows, length = arrays[0].shape[:2]
    num_blocks = math.ceil(num_rows * num_heads * length**2 / _BLOCK_WEIGHTS)
    if num_blocks <= 1:
        return function(*arrays)
    size = math.ceil(num_rows / num_blocks)
    padding = num_blocks * size - num_rows

    def divide(array: Array) -> Array:
        if padding:
            array = jnp.pad(array, ((0, padding), *[(0, 0)] * (array.ndim - 1)))
        return array.reshape(num_blocks, size, *array.shape[1:])

    found = lax.map(lambda block: function(*block), tuple(map(divide, arrays)))
    return tuple(of.reshape(-1, *of.shape[2:])[:num_rows] for of in found)


def _logits(is_causal: bool, queries: Array, keys: Array, penalty: Array) -> Array:
    """[c, h, t, t] float32."""
    products = jnp.einsum("cqhe,ckhe->chqk", queries, keys, preferred_element_type=jnp.float32)
    if is_causal:
        earlier = jnp.tri(penalty.shape[1], dtype=bool)
        penalty = penalty[:, None, :] + jnp.where(earlier, 0.0, _MASKED)[None]
        return products + penalty[:, None]
    return products + penalty[:, None, None, :]


def _attend_block(is_causal: bool, queries: Array, keys: Array, values: Array, penalty: Array) -> tuple[Array, Array]:
    """Returns (what arrives, [c, t, h, e]; logarithms of the sums of exp(logit), [c, t, h])."""
    logits = _logits(is_causal, queries, keys, penalty)
    largest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    totals = weights.sum(axis=-1)
    arrived = jnp.einsum("chqk,ckhe->cqhe", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    arrived = arrived / totals.swapaxes(1, 2)[..., None]
    log_totals = (largest[..., 0] + jnp.log(totals)).swapaxes(1, 2)
    return arrived.astype(queries.dtype), log_totals


def _attend_block_backward(
    is_causal: bool,
    queries: Array,
    keys: Array,
    values: Array,
    penalty: Array,
    arrived: Array,
    log_totals: Array,
    cotangent: Array,
) -> tuple[Array, Array, Array]:
    """Cotangents of queries, keys and values."""
    logits = _logits(is_causal, queries, keys, penalty)
    weights = jnp.exp(logits - log_totals.swapaxes(1, 2)[..., None])
    of_weights = jnp.einsum("cqhe,ckhe->chqk", cotangent, values, preferred_element_type=jnp.float32)
    mean = (cotangent.astype(jnp.float32) * arrived.astype(jnp.float32)).sum(axis=-1).swapaxes(1, 2)[..., None]
    of_logits = (weights * (of_weights - mean)).astype(queries.dtype)
    weights = weights.astype(queries.dtype)
    return (
        jnp.einsum("chqk,ckhe->cqhe", of_logits, keys),
        jnp.einsum("chqk,cqhe->ckhe", of_logits, queries),
        jnp.einsum("chqk,cqhe->ckhe", weights, cotangent),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(is_causal: bool, queries: Array, keys: Array, values: Array, penalty: Array) -> Array:
    return _attend_forward(is_causal, queries, keys, values, penalty)[0]


def _attend_forward(
    is_causal: bool, queries: Array, keys: Array, values: Array, penalty: Array
) -> tuple[Array, tuple[Array, ...]]:
    arrays = queries, keys, values, penalty
    arrived, log_totals = _in_blocks(functools.partial(_attend_block, is_causal), arrays, queries.shape[2])
    return arrived, (*arrays, arrived, log_totals)


def _attend_backward(is_causal: bool, saved: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array, None]:
    backward = functools.partial(_attend_block_backward, is_causal)
    queries, keys, values = _in_blocks(backward, (*saved, cotangent), cotangent.shape[2])
    return queries, keys, values, None


_attend.defvjp(_attend_forward, _attend_backward)
