"""The mesh of devices that a run's config asks for, and whether its batches can be divided over it."""

from collections.abc import Mapping

import jax
import numpy as np

from lsec_jax.config import ConfigError, ParallelConfig
from lsec_jax.nn.replicas import DATA, MODEL
from lsec_jax.parallel import processes


def make_mesh(config: ParallelConfig) -> jax.sharding.Mesh:
    """Lays devices of all processes out along the axes `data` and `model`; "pmap" has the first one only.

    Args:
        config: how many along each axis.

    Raises:
        ConfigError: if there are too few devices, or a process would have none of them, or if all are to be used and
            cannot be.
    """
    devices = jax.devices()
    is_one_cpu = devices[0].platform == "cpu" and processes.count() == 1
    along_data = config.data or (1 if is_one_cpu else len(devices) // config.model)
    wanted = along_data * config.model
    if not 1 <= wanted <= len(devices):
        asked_for = f"config.parallel.data x config.parallel.model = {config.data or 'all'} x {config.model}"
        raise ConfigError(
            f"{asked_for} needs {max(wanted, config.model)} devices, and there are {len(devices)} "
            f"({devices[0].platform}, {processes.count()} processes); lower one of them, or set config.parallel.data "
            "to 0 for all devices"
        )
    if not config.data and not is_one_cpu and wanted < len(devices):
        divisors = ", ".join(str(i) for i in range(1, len(devices) + 1) if len(devices) % i == 0)
        raise ConfigError(
            f"config.parallel.data = 0 is for all devices, but config.parallel.model = {config.model} leaves "
            f"{len(devices) - wanted} of {len(devices)} without work; set config.parallel.model to a divisor "
            f"({divisors}), or config.parallel.data to {along_data} to leave them"
        )
    used = devices[:wanted]
    if idle := {device.process_index for device in devices} - {device.process_index for device in used}:
        raise ConfigError(
            f"config.parallel.data = {config.data} with config.parallel.model = {config.model} uses {wanted} of "
            f"{len(devices)} devices and none of process {min(idle)}; set config.parallel.data to 0 for all devices"
        )
    if config.strategy == "pmap":
        return jax.sharding.Mesh(np.array(used), (DATA,))
    return jax.sharding.Mesh(np.array(used).reshape(along_data, config.model), (DATA, MODEL))


def check_batches(sizes: Mapping[str, int], rows_together: int, num_replicas: int) -> None:
    """Checks that every device gets as many rows of a batch as the others.

    Args:
        sizes: rows of a batch of all devices together, by stream.
        rows_together: rows that must be on one device, such as those that share their draws.
        num_replicas: devices that share a batch.

    Raises:
        ConfigError: names the stream, and the sizes that would do.
    """
    step = num_replicas * rows_together
    for name, size in sizes.items():
        if num_replicas == 1 or size % step == 0:
            continue
        near = f"{size // step * step or step} or {-(-size // step) * step}"
        together = f", {rows_together} rows together," if rows_together > 1 else ""
        raise ConfigError(
            f"a batch of '{name}' has {size} rows (config.training.batch_size, or all there are), which cannot be "
            f"divided evenly{together} over {num_replicas} devices; set config.training.batch_size to {near}, or "
            "config.parallel to other devices"
        )
