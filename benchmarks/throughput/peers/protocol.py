"""What a worker of the throughput suite says and hears: JSON lines on its standard output and input.

A worker is a process of its own that does one row of the suite, on request, one repetition at a time:

  PYTHON worker.py ROW WORKLOAD_DIR [--quick]

  says   {"ready": {"setup_seconds", "compile_seconds", "examples", "edges", "bytes", "fraction", "notes", "versions"}}
  hears  run   says {"seconds": wall time, "cpu_seconds": processor time of the process}
  hears  stop  says {"peak_gib": largest resident size, ...}, and exits
  says   {"unavailable": "one line"}, and exits, if this row cannot be had here
  says   {"error": "one line"}, and exits with status 1, whenever it cannot go on

This module needs the standard library only: peers run it in environments that have nothing of ours.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "scikit-learn",
    "torch",
    "dgl",
    "rechub",
    "recbole",
    "torch-rechub",
    "deepctr-torch",
)


class Unavailable(Exception):
    """A row cannot be had here, for example without a compiler; the message says why."""


@dataclasses.dataclass
class Work:
    """One row, set up and ready to be repeated.

    Attributes:
        run: does one repetition, and returns when it is really done.
        examples: how many a repetition processes (positives of a training step, users of an evaluation), or None.
        edges: that a repetition propagates over, each counted once, or None.
        bytes: that it has to move at least, or None.
        fraction: of the whole work that a repetition does, in (0, 1].
        compile_seconds: spent compiling, no part of "setup_seconds"; may be set by the first run.
        notes: what a reader of the numbers has to know.
        finish: called after the last repetition, and after the peak of memory was read; adds to what "stop" says.
    """

    run: Callable[[], object]
    examples: int | None = None
    edges: int | None = None
    bytes: int | None = None
    fraction: float = 1.0
    compile_seconds: float = 0.0
    notes: str = ""
    finish: Callable[[], Mapping[str, Any]] = dict

    def facts(self) -> dict[str, Any]:
        """All that is JSON."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in ("run", "finish")}


Make = Callable[[Path, bool], Work]  # the workload's directory, and whether a quick, smaller measurement is enough


def serve(rows: Mapping[str, Make]) -> None:
    """Runs this process as a worker, to its end.

    Args:
        rows: by name.
    """
    parser = argparse.ArgumentParser(description=f"One worker of the throughput suite; rows: {', '.join(rows)}.")
    parser.add_argument("row")
    parser.add_argument("workload", type=Path, help="directory that lsec_jax.prepare wrote")
    parser.add_argument("--quick", action="store_true", help="less work where that makes a row short")
    options = parser.parse_args()
    say = _own_output()
    try:
        if options.row not in rows:
            raise Unavailable(f"no row {options.row!r}; there are {', '.join(rows)}")
        start = time.perf_counter()
        work = rows[options.row](options.workload, options.quick)
        work.run()  # what is slow only the first time is no part of the repetitions
        setup_seconds = time.perf_counter() - start - work.compile_seconds
        say({"ready": {"setup_seconds": setup_seconds, **work.facts(), "versions": versions()}})
        _obey(work, say)
    except Unavailable as reason:
        say({"unavailable": " ".join(str(reason).split())})
    except Exception as error:
        traceback.print_exc()
        say({"error": " ".join(f"{type(error).__name__}: {error}".split())})
        sys.exit(1)


def versions() -> dict[str, str]:
    """Of those packages that this process's environment has and that decide how fast it is."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _obey(work: Work, say: Callable[[dict[str, Any]], None]) -> None:
    for line in sys.stdin:
        command = line.strip()
        if command == "stop":
            peak = peak_gib()
            say({"peak_gib": peak, **work.finish()})
            return
        if command != "run":
            raise ValueError(f"command {command!r}: say 'run' or 'stop'")
        gc.collect()  # garbage of the last repetition is not this one's
        start, cpu_start = time.perf_counter(), time.process_time()
        work.run()
        say({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start})


def peak_gib() -> float:
    """The largest resident size of this process so far; unlike getrusage's, never that of the process it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def _own_output() -> Callable[[dict[str, Any]], None]:
    """Keeps the standard output for the protocol alone: what libraries print goes to the standard error."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda message: print(json.dumps(message), file=channel, flush=True)
