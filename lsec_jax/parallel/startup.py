"""Start-up of a run of several processes: they find each other, are connected by jax, and prove that they agree.

Must come before anything computes with jax. A run of one process does nothing of this.
"""

import contextlib
import hashlib
import importlib.metadata
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lsec_jax
from lsec_jax import config_json
from lsec_jax.config import RunConfig
from lsec_jax.parallel import platforms, processes, roll_call
from lsec_jax.parallel.members import Member
from lsec_jax.parallel.processes import ProcessError

_PACKAGE = Path(lsec_jax.__file__).parent
_REMEDY = "Give every process the same command line, config file, code and versions"


def start(member: Member, config: RunConfig, arguments: Mapping[str, Any]) -> None:
    """Connects this process with the others of its run, and returns once all are known to be of one run.

    Args:
        member: which process this is.
        config: of the run, the same for all.
        arguments: other arguments that must be the same for all, by name; JSON values.

    Raises:
        ConfigError: JAX_PLATFORMS names devices that are not there.
        ProcessError: if they do not find each other, or differ in config, arguments, code, versions or devices.
    """
    processes.set_own(member.process_id, member.num_processes)
    if member.num_processes == 1:
        return
    roll_call.hold(member, config.parallel.initialization_seconds)
    try:
        jax.distributed.initialize(
            member.coordinator,
            member.num_processes,
            member.process_id,
            local_device_ids=member.local_device_ids,
            cluster_detection_method="deactivate",
            initialization_timeout=config.parallel.initialization_seconds,
            heartbeat_timeout_seconds=config.parallel.heartbeat_seconds,
            coordinator_bind_address=roll_call.bind_address(member),
        )
    except RuntimeError as error:
        raise ProcessError(
            f"jax cannot connect the processes ({str(error).splitlines()[0]}). A config file must not compute with jax"
        ) from error
    platforms.require_devices()
    _check_devices()
    same = {"config": config_json.to_json(config), "arguments": dict(arguments), "code": code_version()}
    processes.require_same(same, _REMEDY)


def code_version() -> dict[str, str | None]:
    """What decides what a process computes: versions, the commit of a checkout, and a hash of the package's sources."""
    return {
        "lsec_jax": lsec_jax.__version__,
        "commit": _commit(),
        "sources": _sources_hash(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": np.__version__,
    }


def describe_devices() -> str:
    """One line for the log, e.g. "16 devices (cpu), 8 in each process"."""
    return f"{jax.device_count()} devices ({jax.default_backend()}), {jax.local_device_count()} in each process"


def _check_devices() -> None:
    """Gathering and meshes need the same number of devices in each process."""
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        processes.leave()
        listed = ", ".join(f"process {i}: {counts[i]}" for i in sorted(counts))
        raise ProcessError(
            f"the processes see different numbers of devices ({listed}); check CUDA_VISIBLE_DEVICES, "
            "JAX_LOCAL_DEVICE_IDS, JAX_PLATFORMS and XLA_FLAGS"
        )


def _commit() -> str | None:
    if not (_PACKAGE.parent / ".git").exists():
        return None
    command = ["git", "-C", str(_PACKAGE.parent), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".cc", ".h"):
            digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
