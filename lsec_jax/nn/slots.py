"""Weighted sums over a fixed number of slots per receiver: what sampled neighbours send."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lsec_jax.nn.native import kernels
from lsec_jax.nn.replicas import vary_as
from lsec_jax.nn.rows import Backend, resolve


def gather_sum(
    senders: Int[Array, "r f"],
    values: Float[Array, "r f"],
    vectors: Float[Array, "n d"],
    learnt_values: bool,
    backend: Backend = "auto",
) -> Float[Array, "r d"]:
    """Sums each receiver's weighted messages, slot by slot: no [r, f, d] array in either direction.

    Sums are in float32, of float64 vectors in float64 where XLA adds.

    Args:
        senders: rows of `vectors`.
        values: weights; slots of weight 0 send nothing.
        vectors: of the senders.
        learnt_values: whether the weights get a gradient; it costs a second gather.
        backend: "compiled" kernels, which skip slots that send nothing; any other adds all slots in XLA.
    """
    values, vectors = vary_as((values, vectors), (senders, values, vectors))
    return _gather_sum(senders, values, vectors, learnt_values, backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _gather_sum(
    senders: Int[Array, "r f"],
    values: Float[Array, "r f"],
    vectors: Float[Array, "n d"],
    learnt_values: bool,
    backend: Backend,
) -> Float[Array, "r d"]:
    if resolve(backend) == "compiled":
        return kernels.slot_sum(senders, values, vectors)

    def add_slot(slot: Array, total: Array) -> Array:
        return total + values[:, slot][:, None].astype(total.dtype) * vectors[senders[:, slot]]

    start = jnp.zeros((senders.shape[0], vectors.shape[1]), _sum_type(vectors))
    start = vary_as(start, (senders, values, vectors))
    return jax.lax.fori_loop(0, senders.shape[1], add_slot, start).astype(vectors.dtype)


def _gather_sum_forward(
    senders: Array, values: Array, vectors: Array, learnt_values: bool, backend: Backend
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _gather_sum(senders, values, vectors, learnt_values, backend), (senders, values, vectors)


def _gather_sum_backward(
    learnt_values: bool, backend: Backend, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[None, Array | None, Array]:
    senders, values, vectors = saved
    if resolve(backend) == "compiled":
        to_vectors = kernels.slot_scatter(senders, values, cotangent, len(vectors))
        to_values = kernels.slot_dots(senders, cotangent, vectors) if learnt_values else None
    else:
        to_vectors, to_values = _slot_gradients(senders, values, vectors, cotangent, learnt_values)
    return None, None if to_values is None else to_values.astype(values.dtype), to_vectors


def _slot_gradients(
    senders: Int[Array, "r f"],
    values: Float[Array, "r f"],
    vectors: Float[Array, "n d"],
    cotangent: Array,
    learnt_values: bool,
) -> tuple[Float[Array, "n d"], Float[Array, "r f"] | None]:
    """Of the vectors, and of the values if they are learnt, in XLA."""
    cotangent = cotangent.astype(_sum_type(vectors))

    def add_slot(slot: Array, total: Array) -> Array:
        return total.at[senders[:, slot]].add(values[:, slot][:, None] * cotangent)

    def slot_dots(slot: Array) -> Array:
        return jnp.sum(cotangent * vectors[senders[:, slot]], axis=1)

    start = vary_as(jnp.zeros(vectors.shape, cotangent.dtype), (senders, values, cotangent))
    to_vectors = jax.lax.fori_loop(0, senders.shape[1], add_slot, start).astype(vectors.dtype)
    return to_vectors, jax.lax.map(slot_dots, jnp.arange(senders.shape[1])).T if learnt_values else None


_gather_sum.defvjp(_gather_sum_forward, _gather_sum_backward)


def _sum_type(vectors: Float[Array, "n d"]) -> Any:
    return jnp.promote_types(vectors.dtype, jnp.float32)
