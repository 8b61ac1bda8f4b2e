"""Sums over the edges of each receiver, in compressed rows: one meaning, several backends.

"segment" sums messages by receiver (jraph: the reference), "bcsr" multiplies by a sparse matrix (fast on CPU),
"chunked" gathers and adds a fixed number of messages at a time (no atomics, the same result in every run), "compiled"
is a kernel in C++ (CPU; `lsec_jax.nn.native`). Vectors may be float32 or bfloat16; all sums are in float32.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import lax
from jax.experimental import sparse
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.config import ConfigError, require_choice
from lsec_jax.nn.native import kernels
from lsec_jax.nn.native.build import NativeError

Backend = Literal["auto", "segment", "bcsr", "chunked", "compiled"]
BACKENDS: tuple[str, ...] = get_args(Backend)

CHUNK = 16  # items that one sum of the chunked backend adds
_EDGES_AT_ONCE = 8192  # in the gradient of edge weights: their vectors stay in a core's cache
_SUMS_AT_ONCE = 256  # of the chunked backend on CPU


class Level(NamedTuple):
    """Sums of up to CHUNK consecutive items: edges on the first level, sums of the level before on the others.

    Attributes:
        starts: [c] int32, the first item of each sum.
        lengths: [c] int32, how many there are.
        position: [m] int32, where the sum of a whole row stands, -1 for rows that finish on another level or are empty.
    """

    starts: Int[Array, " c"]
    lengths: Int[Array, " c"]
    position: Int[Array, " m"]


class Rows(NamedTuple):
    """One direction of messages in compressed-row order.

    Attributes:
        indptr: [rows + 1] int32, where each receiver's edges start.
        senders: [e] int32.
        receivers: [e] int32, sorted.
        values: [e] float32, the normalised edge weights.
        twins: [e] int32, where the same edges stand in the other direction; None where nothing asks for it.
        levels: how the rows are cut into sums of few items; it depends on `indptr` alone, so values may change.
        wanted: [m] bool, the rows whose sums are wanted; None = all. Those of the others may be anything: the compiled
            backend leaves them out, for which the others would need shapes that depend on values.
    """

    indptr: Int[Array, " rows_plus_1"]
    senders: Int[Array, " e"]
    receivers: Int[Array, " e"]
    values: Float[Array, " e"]
    twins: Int[Array, " e"] | None
    levels: tuple[Level, ...]
    wanted: Bool[Array, " m"] | None = None


def compressed_rows(
    receivers: np.ndarray, senders: np.ndarray, values: np.ndarray, twins: np.ndarray, num_rows: int
) -> Rows:
    """Builds rows from edges that are sorted by receiver."""
    indptr = np.concatenate([[0], np.cumsum(np.bincount(receivers, minlength=num_rows))])
    return Rows(
        jnp.asarray(indptr, jnp.int32),
        jnp.asarray(senders, jnp.int32),
        jnp.asarray(receivers, jnp.int32),
        jnp.asarray(values, jnp.float32),
        jnp.asarray(twins, jnp.int32),
        _levels(indptr),
    )


def _levels(indptr: np.ndarray) -> tuple[Level, ...]:
    """Cuts rows into sums, and their sums into sums, until each row has one."""
    levels: list[Level] = []
    starts, counts = indptr[:-1], np.diff(indptr)
    rows = np.flatnonzero(counts)
    while len(rows):
        starts, counts = starts[rows], counts[rows]
        num_sums = -(-counts // CHUNK)
        first = np.cumsum(num_sums) - num_sums
        within = CHUNK * (np.arange(num_sums.sum()) - np.repeat(first, num_sums))
        position = np.full(len(indptr) - 1, -1)
        position[rows[num_sums == 1]] = first[num_sums == 1]
        lengths = np.minimum(np.repeat(counts, num_sums) - within, CHUNK)
        arrays = (np.repeat(starts, num_sums) + within, lengths, position)
        levels.append(Level(*(jnp.asarray(array, jnp.int32) for array in arrays)))
        # The rows that go on, with their sums as items, spread over all rows again.
        starts, counts = _spread(rows, first, len(position)), _spread(rows, num_sums, len(position))
        rows = rows[num_sums > 1]
    return tuple(levels)


def _spread(rows: np.ndarray, values: np.ndarray, num_rows: int) -> np.ndarray:
    result = np.zeros(num_rows, np.int64)
    result[rows] = values
    return result


def default_backend() -> Backend:
    """What "auto" stands for: on CPU "compiled", or "bcsr" where it cannot be had; elsewhere "chunked"."""
    if jax.default_backend() != "cpu":
        return "chunked"
    return "compiled" if kernels.is_available() else "bcsr"


def check_backend(name: str, backend: str) -> None:
    """Checks a setting, and that a compiled backend that was asked for can be had.

    Raises:
        ConfigError: names the setting, what is wrong and what to do.
    """
    require_choice(name, backend, BACKENDS)
    if backend != "compiled":
        return
    if jax.default_backend() != "cpu":
        raise ConfigError(f"{name} = 'compiled' runs on CPU only, not on {jax.default_backend()}; set it to 'auto'")
    try:
        kernels.load()
    except NativeError as error:
        raise ConfigError(f"{name} = 'compiled': {error}; or set it to 'auto'") from None


def resolve(backend: Backend) -> Backend:
    """The backend that a setting stands for; raises as `check_backend`."""
    if backend == "auto":
        return default_backend()
    check_backend("backend", backend)
    return backend


def neighbor_sum(rows: Rows, vectors: Float[Array, "n d"], backend: Backend = "auto") -> Float[Array, "m d"]:
    """Each row's sum of value * vectors[sender] over its edges."""
    functions: dict[str, Callable[[Rows, Array], Array]] = {
        "segment": _segment,
        "bcsr": _bcsr,
        "chunked": _chunked,
        "compiled": _compiled,
    }
    return functions[resolve(backend)](rows, vectors)


def edge_dots(
    rows: Rows, receivers: Float[Array, "m d"], senders: Float[Array, "n d"], backend: Backend = "auto"
) -> Float[Array, " e"]:
    """The inner product of the two ends of each edge, for a block of edges at a time."""
    if resolve(backend) == "compiled":
        return kernels.edge_dots(rows.indptr, rows.senders, receivers, senders)

    def dot(edge: tuple[Array, Array]) -> Array:
        return jnp.dot(receivers[edge[0]], senders[edge[1]], preferred_element_type=jnp.float32)

    return lax.map(dot, (rows.receivers, rows.senders), batch_size=_EDGES_AT_ONCE)


def reduce_edges(
    rows: Rows, edge_values: Float[Array, " e"], reduce: Callable[..., Array], empty: float
) -> Float[Array, " m"]:
    """Reduces numbers of edges by receiver.

    Args:
        rows: gives the edges.
        edge_values: in their order.
        reduce: jnp.sum or jnp.max.
        empty: its result for nothing.
    """
    result, items = jnp.full(rows.indptr.shape[0] - 1, empty, edge_values.dtype), edge_values
    for level in rows.levels:
        indices, is_there = _items(level)
        items = reduce(jnp.where(is_there, items[indices], empty), axis=1)
        result = jnp.where(level.position >= 0, items[jnp.maximum(level.position, 0)], result)
    return result


def _segment(rows: Rows, vectors: Float[Array, "n d"]) -> Float[Array, "m d"]:
    messages = vectors[rows.senders] * rows.values[:, None]
    num_rows = rows.indptr.shape[0] - 1
    arrived = jraph.segment_sum(messages, rows.receivers, num_rows, indices_are_sorted=True)
    return arrived.astype(vectors.dtype)


def _bcsr(rows: Rows, vectors: Float[Array, "n d"]) -> Float[Array, "m d"]:
    shape = (rows.indptr.shape[0] - 1, vectors.shape[0])
    matrix = sparse.BCSR((rows.values, rows.senders, rows.indptr), shape=shape)
    return (matrix @ vectors.astype(jnp.float32)).astype(vectors.dtype)


def _compiled(rows: Rows, vectors: Float[Array, "n d"]) -> Float[Array, "m d"]:
    return kernels.neighbor_sum(rows.indptr, rows.senders, rows.values, vectors, rows.wanted)


def _chunked(rows: Rows, vectors: Float[Array, "n d"]) -> Float[Array, "m d"]:
    arrived = jnp.zeros((rows.indptr.shape[0] - 1, vectors.shape[1]), jnp.float32)
    sums = vectors
    for i, level in enumerate(rows.levels):
        indices, is_there = _items(level)
        if i == 0:
            sums = _add_slots(vectors, rows.senders[indices], jnp.where(is_there, rows.values[indices], 0.0))
        else:
            sums = _add_slots(sums, indices, is_there.astype(jnp.float32))
        finished = sums[jnp.maximum(level.position, 0)]
        arrived = jnp.where((level.position >= 0)[:, None], finished, arrived)
    return arrived.astype(vectors.dtype)


def _items(level: Level) -> tuple[Int[Array, "c k"], Array]:
    """The items of each sum, padded with item 0, and which of them are there."""
    slots = jnp.arange(CHUNK, dtype=jnp.int32)[None, :]
    is_there = slots < level.lengths[:, None]
    return jnp.where(is_there, level.starts[:, None] + slots, 0), is_there


def _add_slots(vectors: Float[Array, "n d"], indices: Int[Array, "c k"], weights: Float[Array, "c k"]) -> Array:
    """Sums of weighted vectors, unrolled, so that an accelerator adds in registers.

    XLA's CPU backend makes one slow loop of that, unless it is cut into blocks that stay in the cache.
    """

    def add(of: tuple[Array, Array]) -> Array:
        own_indices, own_weights = of
        total = jnp.zeros(vectors.shape[1], jnp.float32)
        for slot in range(CHUNK):
            total += own_weights[slot] * vectors[own_indices[slot]]
        return total

    block = _SUMS_AT_ONCE if jax.default_backend() == "cpu" else indices.shape[0]
    return lax.map(add, (indices, weights), batch_size=block)
