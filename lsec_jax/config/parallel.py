"""The devices and processes of a run, and their validation."""

import dataclasses
import math

from lsec_jax.config.errors import ConfigError, require_at_least, require_choice

STRATEGIES = ("pmap", "sharded")
LOOKUPS = ("all_gather", "all_to_all")


@dataclasses.dataclass
class ParallelConfig:
    """The devices and processes of a run. What is trained depends on them only in the order of floating-point sums.

    Attributes:
        strategy: "pmap" (every device has a copy of all parameters and graphs and computes its part of each batch) or
            "sharded" (embedding tables with their moments, and graphs that are trained whole, are divided over the
            axis `model` as well).
        data: devices along the mesh axis `data`; 0 = all there are, divided by `model`. Of a CPU, whose devices share
            its cores, 0 takes one where the run has one process.
        model: devices along the axis `model`; 1 for "pmap".
        lookup: how rows of divided tables get to the devices that need them: "all_gather" (every device gets all ids
            and answers all others) or "all_to_all" (each asks the devices that have the rows, for each row once: fewer
            bytes where `lookup_capacity` is below `model`). Results are the same.
        lookup_capacity: of "all_to_all", room for the different ids of a lookup that one device asks of one other, as
            a multiple of an even share of its ids. Bytes grow with it. Where ids do not fit, that lookup goes by
            "all_gather"; the metric "lookup_overflow" counts them, and a larger value helps (docs/performance.md).
        initialization_seconds: how long processes wait for each other at the start.
        heartbeat_seconds: a process that was not heard of for so long counts as dead, and ends the others.
    """

    strategy: str = "pmap"
    data: int = 0
    model: int = 1
    lookup: str = "all_gather"
    lookup_capacity: float = 2.0
    initialization_seconds: int = 300
    heartbeat_seconds: int = 100


def check_parallel(parallel: ParallelConfig) -> None:
    """Checks the devices and processes, which start-up needs before anything else; raises ConfigError."""
    for name in ("initialization_seconds", "heartbeat_seconds"):
        require_at_least(f"config.parallel.{name}", getattr(parallel, name), 1)
    require_choice("config.parallel.strategy", parallel.strategy, STRATEGIES)
    require_at_least("config.parallel.data", parallel.data, 0)
    require_at_least("config.parallel.model", parallel.model, 1)
    if parallel.strategy == "pmap" and parallel.model > 1:
        raise ConfigError(
            f"config.parallel.model = {parallel.model}: strategy 'pmap' divides nothing along that axis; set it to 1, "
            "or config.parallel.strategy to 'sharded'"
        )
    _check_lookup(parallel)


def _check_lookup(parallel: ParallelConfig) -> None:
    require_choice("config.parallel.lookup", parallel.lookup, LOOKUPS)
    if not 0 < parallel.lookup_capacity < math.inf:
        raise ConfigError(f"config.parallel.lookup_capacity = {parallel.lookup_capacity} must be positive and finite")
    if parallel.lookup == "all_to_all" and parallel.model == 1:
        raise ConfigError(
            "config.parallel.lookup = 'all_to_all': with config.parallel.model = 1 every device has whole tables; "
            "leave it at 'all_gather', or divide them (config.parallel.strategy = 'sharded' and model > 1)"
        )
    default = ParallelConfig().lookup_capacity
    if parallel.lookup != "all_to_all" and parallel.lookup_capacity != default:
        raise ConfigError(
            f"config.parallel.lookup_capacity = {parallel.lookup_capacity}: lookup '{parallel.lookup}' has no such "
            f"key; leave it at {default}, or set config.parallel.lookup to 'all_to_all'"
        )
