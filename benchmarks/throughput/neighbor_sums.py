"""How long `propagate` takes, forward and backward, by backend, against the time to move its bytes."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsec_jax.nn.propagation import BipartiteGraph, propagate
from lsec_jax.nn.rows import Backend

_COPIED_BYTES = 2**28  # beyond any cache


def copy_bandwidth(repeats: int = 5) -> float:
    """Bytes per second that one thread reads and writes when it copies: the best of some copies."""
    source = np.ones(_COPIED_BYTES // 4, np.float32)
    target = np.empty_like(source)
    times = []
    for _ in range(1 + repeats):  # the first one also maps the target's pages
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times[1:])


def moved_bytes(graph: BipartiteGraph, width: int, item_bytes: int) -> int:
    """Bytes of vectors that one forward and backward pass reads (one per edge) and writes (one per node)."""
    num_edges = 2 * graph.to_source.senders.shape[0]
    num_nodes = graph.source_degrees.shape[0] + graph.target_degrees.shape[0]
    return 2 * (num_edges + num_nodes) * width * item_bytes


def measure(
    graph: BipartiteGraph, width: int, backends: Sequence[Backend], dtype: Any = jnp.float32, repeats: int = 10
) -> dict[str, list[float]]:
    """Seconds of each forward and backward pass of each backend, taken in turns, after one that is not counted.

    Args:
        graph: to propagate over.
        width: of the vectors.
        backends: to compare.
        dtype: of the vectors.
        repeats: passes per backend.
    """
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = (graph.source_degrees.shape[0], width), (graph.target_degrees.shape[0], width)
    vectors = [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)]
    passes = {backend: jax.jit(_forward_and_backward(backend)) for backend in backends}
    times: dict[str, list[float]] = {backend: [] for backend in backends}
    for _ in range(1 + repeats):
        for backend, run in passes.items():
            start = time.perf_counter()
            jax.block_until_ready(run(graph, *vectors))
            times[backend].append(time.perf_counter() - start)
    return {backend: of[1:] for backend, of in times.items()}


def _forward_and_backward(backend: Backend) -> Any:
    def run(graph: BipartiteGraph, sources: jax.Array, targets: jax.Array) -> Any:
        arrived, backward = jax.vjp(lambda *vectors: propagate(graph, *vectors, backend), sources, targets)
        return arrived, backward(arrived)

    return run
