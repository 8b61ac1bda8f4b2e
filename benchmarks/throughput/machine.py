"""What the machine can do and did: copies, the peak of a device's memory, compilations."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax import lax

_COPIED_BYTES = 2**27  # an array beyond any cache, small beside the models
_HOST_COPIES, _DEVICE_COPIES = 8, 32  # at once: long enough for other load to meet them as it meets a row
_LOWERING, _COMPILING = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"


def copies() -> tuple[Callable[[], object], int]:
    """What copies an array several times in the memory of jax's default device, and the bytes it reads and writes."""
    return _host_copies() if jax.default_backend() == "cpu" else _device_copies()


def _host_copies() -> tuple[Callable[[], object], int]:
    source = np.ones(_COPIED_BYTES // 4, np.float32)
    target = np.empty_like(source)

    def run() -> None:
        for _ in range(_HOST_COPIES):
            np.copyto(target, source)

    return run, 2 * source.nbytes * _HOST_COPIES


def _device_copies() -> tuple[Callable[[], object], int]:
    values = jnp.ones(_COPIED_BYTES // 4, jnp.float32)
    # Additions, as a plain copy might be left out; many of them, as starting a program takes its time.
    add = jax.jit(lambda values: lax.fori_loop(0, _DEVICE_COPIES, lambda _, last: last + 1, values))
    return lambda: add(values).block_until_ready(), 2 * values.nbytes * _DEVICE_COPIES


def copy_bandwidth(repeats: int = 5) -> float:
    """Bytes per second, read and written, of the best repetition of `copies`, after one that is not counted."""
    run, num_bytes = copies()
    times = []
    for _ in range(1 + repeats):  # the first one also maps the target's pages
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return num_bytes / min(times[1:])


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
