"""Which process of a run this one is: from flags, SLURM, Kubernetes or a TPU's metadata."""

import dataclasses
import os
import re
from collections.abc import Mapping

# What jax.distributed.initialize() itself detects clusters with; its public function tells neither address nor number.
from jax._src import clusters as jax_clusters

from lsec_jax.config import ConfigError, require_choice

CLUSTERS = ("auto", "none", "explicit", "slurm", "kubernetes", "tpu")
_KUBERNETES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX")
_TPU_CLUSTERS = (jax_clusters.GkeTpuCluster, jax_clusters.GceTpuCluster)
# One task on each node: "1", or "1(x4)" on four of them.
_ONE_TASK_A_NODE = re.compile(r"1(\(x\d+\))?")


@dataclasses.dataclass(frozen=True)
class Member:
    """One process among those of a run.

    Attributes:
        coordinator: HOST:PORT on the machine of process 0, as the others reach it.
        num_processes: of the run.
        process_id: of this process, counted from 0.
        local_device_ids: which GPUs of its machine are its own; None = all that it sees.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None


def find(
    cluster: str, coordinator: str | None, num_processes: int | None, process_id: int | None, timeout_seconds: int
) -> Member | None:
    """Returns which process this is, or None where a run is one process.

    Args:
        cluster: one of CLUSTERS. "auto" takes the flags where they are given, else the first environment that says
            that there are several processes.
        coordinator: flag of "explicit", as are the next two; None = not given.
        num_processes: see there.
        process_id: see there.
        timeout_seconds: how long the name of a TPU's coordinator may take to be known.

    Raises:
        ConfigError: if flags contradict each other or the environment lacks what the cluster needs.
    """
    require_choice("--cluster", cluster, CLUSTERS)
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    has_flags = any(value is not None for value in given.values())
    if has_flags and cluster not in ("auto", "explicit"):
        names = ", ".join(name for name, value in given.items() if value is not None)
        raise ConfigError(f"{names}: only for --cluster=explicit, but --cluster={cluster}; leave one of them out")
    if cluster == "explicit" or has_flags:
        return _explicit(coordinator, num_processes, process_id)
    if cluster in ("auto", "tpu") and (found := _tpu(timeout_seconds)) is not None:
        return found
    if cluster == "slurm" or (cluster == "auto" and jax_clusters.SlurmCluster.is_env_present()):
        return _slurm()
    if cluster == "kubernetes" or (cluster == "auto" and all(name in os.environ for name in _KUBERNETES)):
        return _kubernetes(os.environ)
    if cluster == "tpu":
        raise ConfigError("--cluster=tpu: this is no TPU machine, or libtpu is not installed; leave the flag out")
    return None


def split_address(key: str, address: str) -> tuple[str, int]:
    """Returns host and port; raises ConfigError naming `key` unless the address is HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ConfigError(f"{key}={address}: give HOST:PORT with a port from 1 to 65535, e.g. 10.0.0.1:8476")
    return host.strip("[]"), int(port)


def _explicit(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Member:
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            "give --coordinator=HOST:PORT, --num_processes=N and --process_id=I together, or none of them"
        )
    return _checked(Member(coordinator, num_processes, process_id), "--coordinator", "--num_processes", "--process_id")


def _checked(member: Member, coordinator: str, num_processes: str, process_id: str) -> Member:
    """Returns the member if its values make sense; the other arguments name where they come from."""
    split_address(coordinator, member.coordinator)
    if member.num_processes < 1:
        raise ConfigError(f"{num_processes}={member.num_processes} must be at least 1")
    if not 0 <= member.process_id < member.num_processes:
        raise ConfigError(
            f"{process_id}={member.process_id}: processes are numbered from 0 to {member.num_processes - 1} "
            f"({num_processes}={member.num_processes})"
        )
    return member


def _slurm() -> Member:
    found = jax_clusters.SlurmCluster
    if not found.is_env_present():
        raise ConfigError("--cluster=slurm: this is no task of a SLURM step; start the command with srun")
    return _checked(
        Member(
            os.environ.get("JAX_COORDINATOR_ADDRESS") or found.get_coordinator_address(None, _port()),
            found.get_process_count(),
            found.get_process_id(),
            _slurm_devices(os.environ),
        ),
        "the coordinator of the SLURM step",
        "SLURM_NTASKS",
        "SLURM_PROCID",
    )


def _slurm_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """The GPUs of one task: its own if the step shows it one or is its node's only one, else the one of its number."""
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None  # jax reads it
    if _ONE_TASK_A_NODE.fullmatch(environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        return None
    if len([name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]) == 1:
        return (0,)  # devices are numbered among the visible ones
    return (int(environment["SLURM_LOCALID"]),)


def _kubernetes(environment: Mapping[str, str]) -> Member:
    if absent := [name for name in _KUBERNETES if name not in environment]:
        raise ConfigError(
            f"--cluster=kubernetes: {', '.join(absent)} not set; use an indexed job whose manifest sets "
            "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES (python -m launch.kubernetes writes one)"
        )
    numbers = {}
    for name in _KUBERNETES[1:]:
        if not re.fullmatch(r"[0-9]+", environment[name]):
            raise ConfigError(f"{name}={environment[name]} is not a number")
        numbers[name] = int(environment[name])
    address, count, index = _KUBERNETES
    return _checked(Member(environment[address], numbers[count], numbers[index]), address, count, index)


def _tpu(timeout_seconds: int) -> Member | None:
    found = next((kind for kind in _TPU_CLUSTERS if kind.is_env_present()), None)
    if found is None:
        return None
    try:
        count, index = found.get_process_count(), found.get_process_id()
        coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS") or found.get_coordinator_address(
            timeout_seconds, _port()
        )
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the TPU's metadata do not say which process this is ({error}); give --cluster=none for one process, or "
            "--coordinator, --num_processes and --process_id"
        ) from error
    return Member(coordinator, count, index)


def _port() -> str | None:
    return os.environ.get("JAX_COORDINATOR_PORT")
