"""What the machine can do, measured in the process that asks: how fast it copies, and how much memory is in use."""

import time
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax import lax

_COPIED_BYTES = 2**27  # an array beyond any cache, small beside the models
_AT_ONCE = 32
_LOWERING, _COMPILING = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"


def copy_bandwidth(repeats: int = 10) -> float:
    """Bytes per second, read and written, of the best of some copies in the memory of jax's default device.

    Args:
        repeats: copies, after one that is not counted.
    """
    return _host_copies(repeats) if jax.default_backend() == "cpu" else _device_copies(repeats)


def _host_copies(repeats: int) -> float:
    source = np.ones(_COPIED_BYTES // 4, np.float32)
    target = np.empty_like(source)
    times = []
    for _ in range(1 + repeats):  # the first one also maps the target's pages
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times[1:])


def _device_copies(repeats: int) -> float:
    values = jnp.ones(_COPIED_BYTES // 4, jnp.float32)
    # Additions, as a plain copy might be left out; many of them, as starting a program takes its time.
    add = jax.jit(lambda values: lax.fori_loop(0, _AT_ONCE, lambda _, last: last + 1, values))
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        add(values).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * values.nbytes * _AT_ONCE / min(times[1:])


def device_peak_gib() -> float | None:
    """The most memory of the device that was in use so far; None on a CPU, where it is that of the process."""
    statistics = jax.devices()[0].memory_stats()
    return None if statistics is None else statistics["peak_bytes_in_use"] / 2**30


class Compilations:
    """Counts what XLA compiles in this process from now on.

    Attributes:
        count: programs.
        seconds: of lowering and compiling them.
    """

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, seconds: float, **_: Any) -> None:
        if event in (_LOWERING, _COMPILING):
            self.seconds += seconds
            self.count += event == _COMPILING
