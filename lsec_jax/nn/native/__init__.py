"""Kernels in C++ for neighbour sums and graph attention on CPU, called through jax.ffi. All are optional.

Vectors are float32 or bfloat16 and sums float32. Rows are compressed: the edges of row r are those from indptr[r] to
indptr[r + 1]. Positions are not checked: they come from `bipartite_graph`, which does.
"""

import ctypes
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int

from lsec_jax.nn.native.build import NativeError, ensure_library

_KERNELS = ("lsec_sum", "lsec_dot", "lsec_attend", "lsec_attend_backward")
_LANES = 16  # the kernels' vectors are no longer than this, and their widths no shorter


@functools.cache
def load() -> None:
    """Compiles the kernels if need be and registers them, once per process.

    Raises:
        NativeError: if that cannot be done.
    """
    path = ensure_library()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"cannot load {path}: {error}") from None
    for name in _KERNELS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


@functools.cache
def is_available() -> bool:
    """Whether the kernels can be used here; says why not, once."""
    try:
        load()
    except NativeError as error:
        logging.info("neighbour sums run without the compiled kernels: %s", error)
        return False
    return True


def neighbor_sum(
    indptr: Int[Array, " rows_plus_1"],
    senders: Int[Array, " e"],
    weights: Float[Array, " e"],
    vectors: Float[Array, "n d"],
) -> Float[Array, "m d"]:
    """Each row's sum of weight * vectors[sender] over its edges."""
    wide = _padded(vectors)
    result = jax.ShapeDtypeStruct((indptr.shape[0] - 1, wide.shape[1]), vectors.dtype)
    return _call("lsec_sum", result, indptr, senders, weights, wide)[:, : vectors.shape[1]]


def edge_dots(
    indptr: Int[Array, " rows_plus_1"],
    senders: Int[Array, " e"],
    receivers: Float[Array, "m d"],
    vectors: Float[Array, "n d"],
) -> Float[Array, " e"]:
    """The inner product of the two ends of each edge."""
    result = jax.ShapeDtypeStruct(senders.shape, jnp.float32)
    return _call("lsec_dot", result, indptr, senders, _padded(receivers), _padded(vectors))


def attend(
    edges: tuple[Int[Array, " rows_plus_1"], Int[Array, " e"], Float[Array, " e"]],
    slope: float,
    own_logits: Float[Array, "h m"],
    sender_logits: Float[Array, "h n"],
    loop_logits: Float[Array, "h m"] | None,
    own: Float[Array, "m h d"],
    senders: Float[Array, "n h d"],
) -> tuple[Float[Array, "m h d"], Float[Array, "h m"]]:
    """Graph attention: the softmax's means of the senders' vectors, and the logarithms of the softmax's sums.

    Args:
        edges: indptr, senders and values of the receivers' rows; edges of value 0 are not there.
        slope: of the leaky ReLU that the sum of an edge's two logits goes through.
        own_logits: of the receivers.
        sender_logits: of the senders.
        loop_logits: of the receivers' messages to themselves, as they are; None for no such messages.
        own: their vectors, read if there are such messages.
        senders: vectors of the senders.
    """
    loops = jnp.zeros((own_logits.shape[0], 0)) if loop_logits is None else loop_logits
    own, wide = _flat(_padded(own)), _padded(senders)
    shapes = (
        jax.ShapeDtypeStruct((own_logits.shape[1], own.shape[1]), senders.dtype),
        jax.ShapeDtypeStruct(own_logits.shape, jnp.float32),
    )
    operands = (*edges, own_logits, sender_logits, loops, own, _flat(wide))
    arrived, log_totals = _call("lsec_attend", shapes, *operands, slope=np.float32(slope))
    return arrived.reshape(-1, *wide.shape[1:])[:, :, : senders.shape[2]], log_totals


def attend_backward(
    edges: tuple[Int[Array, " rows_plus_1"], Int[Array, " e"], Float[Array, " e"]],
    slope: float,
    own_logits: Float[Array, "h m"],
    sender_logits: Float[Array, "h n"],
    log_totals: Float[Array, "h m"],
    means: Float[Array, "h m"],
    cotangents: Float[Array, "m h d"],
    senders: Float[Array, "n h d"],
) -> tuple[Float[Array, "h m"], Float[Array, "h n"], Float[Array, "n h d"]]:
    """The gradients of `attend` through its edges, of the two logits and of the senders' vectors.

    Args:
        edges: indptr, receivers and values of the senders' rows: the other direction's.
        slope: as in `attend`.
        own_logits: as in `attend`.
        sender_logits: as in `attend`.
        log_totals: what it returned.
        means: of a receiver: the inner product of its result and its cotangent.
        cotangents: of the result.
        senders: as in `attend`.
    """
    wide = _padded(senders)
    shapes = (
        jax.ShapeDtypeStruct(own_logits.shape, jnp.float32),
        jax.ShapeDtypeStruct(sender_logits.shape, jnp.float32),
        jax.ShapeDtypeStruct(_flat(wide).shape, senders.dtype),
    )
    operands = (*edges, own_logits, sender_logits, log_totals, means, _flat(_padded(cotangents)), _flat(wide))
    to_own, to_sender, to_vectors = _call("lsec_attend_backward", shapes, *operands, slope=np.float32(slope))
    return to_own, to_sender, to_vectors.reshape(wide.shape)[:, :, : senders.shape[2]]


def _padded(vectors: Float[Array, "*n d"]) -> Float[Array, "*n f"]:
    """With zeros up to the kernels' least width."""
    missing = max(0, _LANES - vectors.shape[-1])
    return jnp.pad(vectors, [(0, 0)] * (vectors.ndim - 1) + [(0, missing)]) if missing else vectors


def _flat(vectors: Float[Array, "n h d"]) -> Float[Array, "n f"]:
    return vectors.reshape(vectors.shape[0], -1)


def _call(name: str, results: Any, *operands: Array, **attributes: Any) -> Any:
    load()
    return jax.ffi.ffi_call(name, results, vmap_method="sequential")(*operands, **attributes)
