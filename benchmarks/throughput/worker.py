"""Our worker of the throughput suite: one row, in a process of its own; see peers/protocol.py.

Example:
  python -m benchmarks.throughput.worker propagate/buy/64/bcsr WORKLOAD_DIR

The working directory is that of the lsec_jax that is measured, this one or that of an earlier revision.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.throughput.peers import protocol
from benchmarks.throughput.peers.protocol import Make, Work


def measured(name: str) -> Make:
    """Makes a row's work, and adds what it compiled and the peak of a device's memory."""

    def make(folder: Path, quick: bool) -> Work:
        # Imported here: an earlier revision may lack something, and the driver wants to hear of it.
        import lsec_jax
        from benchmarks.throughput import catalogue, machine

        here = Path(lsec_jax.__file__).resolve().parents[1]
        assert here == Path.cwd().resolve(), f"lsec_jax comes from {here}, not from the working directory"
        row = catalogue.row(name)
        compilations = machine.Compilations()
        work = row.make(folder, quick)
        run, finish, warm = work.run, work.finish, 0

        def first_run() -> None:
            nonlocal warm
            run()
            work.run, work.compile_seconds, warm = run, compilations.seconds, compilations.count

        def finish_all() -> Mapping[str, Any]:
            more: dict[str, Any] = {"compilations_after_warm_up": compilations.count - warm}
            if (peak := machine.device_peak_gib()) is not None:
                more["device_peak_gib"] = peak
            return {**finish(), **more}

        work.run, work.finish = first_run, finish_all
        return work

    return make


def main() -> None:
    """Runs the worker of the row that the command line names."""
    protocol.serve({name: measured(name) for name in sys.argv[1:2]})


if __name__ == "__main__":
    main()
