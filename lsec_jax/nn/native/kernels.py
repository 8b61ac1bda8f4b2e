"""Kernels in C++ for neighbour sums and graph attention on CPU, called through jax.ffi. All are optional.

Vectors are float32 or bfloat16 (those of other types are converted to float32) and sums float32. Rows are compressed:
the edges of row r are those from indptr[r] to indptr[r + 1]. Positions are not checked: they come from
`bipartite_graph`, which does.
"""

import ctypes
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.nn.native.build import NativeError, ensure_library
from lsec_jax.nn.replicas import vary_as

_KERNELS = ("lsec_sum", "lsec_dot", "lsec_attend", "lsec_attend_backward", "lsec_slot_sum", "lsec_slot_scatter")
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
    wanted: Bool[Array, " m"] | None = None,
) -> Float[Array, "m d"]:
    """Each row's sum of weight * vectors[sender] over its edges; zeros for rows that are not wanted.

    Where most vectors are zero, as cotangents of a batch's few nodes are, edges from these are passed over.
    """
    wide = _padded(vectors)
    result = jax.ShapeDtypeStruct((indptr.shape[0] - 1, wide.shape[1]), wide.dtype)
    mask = jnp.zeros(0, bool) if wanted is None else wanted
    made = _call("lsec_sum", result, indptr, senders, weights.astype(jnp.float32), mask, wide)
    return made[:, : vectors.shape[1]].astype(vectors.dtype)


def edge_dots(
    indptr: Int[Array, " rows_plus_1"],
    senders: Int[Array, " e"],
    receivers: Float[Array, "m d"],
    vectors: Float[Array, "n d"],
) -> Float[Array, " e"]:
    """The inner product of the two ends of each edge."""
    result = jax.ShapeDtypeStruct(senders.shape, jnp.float32)
    dtype = jnp.promote_types(receivers.dtype, vectors.dtype)
    both = (_padded(of.astype(dtype)) for of in (receivers, vectors))
    return _call("lsec_dot", result, indptr, senders, *both)


def slot_sum(
    senders: Int[Array, "r f"], weights: Float[Array, "r f"], vectors: Float[Array, "n d"]
) -> Float[Array, "r d"]:
    """Each receiver's sum of weight * vectors[sender] over its slots; slots of weight 0 are not read."""
    wide = _padded(vectors)
    result = jax.ShapeDtypeStruct((senders.shape[0], wide.shape[1]), wide.dtype)
    made = _call("lsec_slot_sum", result, senders, weights.astype(jnp.float32), wide)
    return made[:, : vectors.shape[1]].astype(vectors.dtype)


def slot_scatter(
    senders: Int[Array, "r f"], weights: Float[Array, "r f"], vectors: Float[Array, "r d"], num_senders: int
) -> Float[Array, "n d"]:
    """Each sender's sum of weight * vectors[receiver] over the slots that name it."""
    wide = _padded(vectors)
    result = jax.ShapeDtypeStruct((num_senders, wide.shape[1]), jnp.float32)
    made = _call("lsec_slot_scatter", result, senders, weights.astype(jnp.float32), wide)
    return made[:, : vectors.shape[1]].astype(vectors.dtype)


def slot_dots(
    senders: Int[Array, "r f"], receivers: Float[Array, "r d"], vectors: Float[Array, "n d"]
) -> Float[Array, "r f"]:
    """The inner product of the two ends of each slot."""
    indptr = senders.shape[1] * jnp.arange(senders.shape[0] + 1, dtype=jnp.int32)
    return edge_dots(indptr, senders.ravel(), receivers, vectors).reshape(senders.shape)


class Attention(NamedTuple):
    """What the kernels of graph attention read, of one head: logits in float32, vectors all of one type.

    Attributes:
        own_logits: of the receivers, [m].
        sender_logits: of the senders, [n].
        loop_logits: of the receivers' messages to themselves, as they are, [m]; None for no such messages.
        own: vectors of the receivers, read if there are such messages, [m, d].
        senders: vectors of the senders, [n, d].
        slope: of the leaky ReLU that the sum of an edge's two logits goes through.
        is_elu: whether the activation is ELU.
        below: if not, its slope below 0.
    """

    own_logits: Float[Array, " m"]
    sender_logits: Float[Array, " n"]
    loop_logits: Float[Array, " m"] | None
    own: Float[Array, "m d"]
    senders: Float[Array, "n d"]
    slope: float
    is_elu: bool
    below: float

    def operands(self) -> tuple[Array, ...]:
        """All arrays as the kernels take them."""
        loops = jnp.zeros(0, jnp.float32) if self.loop_logits is None else self.loop_logits
        return (self.own_logits, self.sender_logits, loops, _whole(self.own), _whole(self.senders))

    def attributes(self) -> dict[str, Any]:
        """All settings likewise."""
        return {"slope": np.float32(self.slope), "is_elu": self.is_elu, "below": np.float32(self.below)}


def attend(
    indptr: Int[Array, " rows_plus_1"], senders: Int[Array, " e"], values: Float[Array, " e"], attention: Attention
) -> tuple[Float[Array, "m d"], Float[Array, " m"]]:
    """Graph attention over the receivers' rows; edges of value 0 are not there.

    Returns:
        (the output, the logarithms of the softmax's sums).
    """
    operands = attention.operands()
    shapes = (
        jax.ShapeDtypeStruct((len(attention.own), operands[-1].shape[1]), operands[-1].dtype),
        jax.ShapeDtypeStruct(attention.own_logits.shape, jnp.float32),
    )
    output, log_totals = _call("lsec_attend", shapes, indptr, senders, values, *operands, **attention.attributes())
    return output[:, : attention.senders.shape[1]].astype(attention.senders.dtype), log_totals


def attend_backward(
    indptr: Int[Array, " rows_plus_1"],
    receivers: Int[Array, " e"],
    values: Float[Array, " e"],
    attention: Attention,
    log_totals: Float[Array, " m"],
    output: Float[Array, "m d"],
    cotangent: Float[Array, "m d"],
) -> tuple[Float[Array, " m"], Float[Array, " n"], Float[Array, " m"] | None, Float[Array, "m d"], Float[Array, "n d"]]:
    """The gradients of `attend`, over the senders' rows.

    Returns:
        Those of own_logits, sender_logits, loop_logits, own and senders.
    """
    operands, width = attention.operands(), attention.senders.shape[1]
    own_logits, sender_logits, loops, own, senders = operands
    logits = (jax.ShapeDtypeStruct(of.shape, jnp.float32) for of in (own_logits, sender_logits, loops))
    shapes = (*logits, *(jax.ShapeDtypeStruct(of.shape, senders.dtype) for of in (own, senders)))
    operands = (indptr, receivers, values, *operands, log_totals, _whole(output), _whole(cotangent))
    *to_logits, to_own, to_senders = _call("lsec_attend_backward", shapes, *operands, **attention.attributes())
    to_own_logits, to_sender_logits, to_loop_logits = to_logits
    to_senders = to_senders[:, :width].astype(attention.senders.dtype)
    if attention.loop_logits is None:  # then the kernel writes neither of the two
        return to_own_logits, to_sender_logits, None, jnp.zeros_like(attention.own), to_senders
    return to_own_logits, to_sender_logits, to_loop_logits, to_own[:, :width].astype(attention.own.dtype), to_senders


def _padded(vectors: Float[Array, "n d"], width: int = _LANES) -> Float[Array, "n f"]:
    """With zeros up to the kernels' least width, or another; in a type that they read."""
    if vectors.dtype != jnp.bfloat16:
        vectors = vectors.astype(jnp.float32)
    missing = max(0, width - vectors.shape[1])
    return jnp.pad(vectors, [(0, 0), (0, missing)]) if missing else vectors


def _whole(vectors: Float[Array, "n d"]) -> Float[Array, "n f"]:
    """With zeros up to a multiple of the kernels' least width."""
    return _padded(vectors, -(-vectors.shape[1] // _LANES) * _LANES)


def _call(name: str, results: Any, *operands: Array, **attributes: Any) -> Any:
    load()
    made = jax.ffi.ffi_call(name, results, vmap_method="sequential")(*operands, **attributes)
    return vary_as(made, operands)
