"""One kind of work that the suite measures."""

import dataclasses

from benchmarks.throughput.peers.protocol import Make


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the suite.

    Attributes:
        make: sets it up in the worker's process.
        workload: which data it reads, of `workloads.KINDS`.
        sizes: of those that are measured unless others are asked for.
        peers: names of those that know this work.
        peer_row: its name there, where that differs.
        is_quick: whether a quick trial of the suite has it.
    """

    make: Make
    workload: str = "graph"
    sizes: tuple[str, ...] = ("quarter", "small", "double")
    peers: tuple[str, ...] = ()
    peer_row: str = ""
    is_quick: bool = False
