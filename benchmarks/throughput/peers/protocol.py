"""What a worker of the throughput suite hears and says: one row of work in a process of its own, in lines of JSON.

Standard library alone: peers read this file in environments without lsec_jax.

  PYTHON WORKER.py ROW WORKLOAD_DIR [--quick]

The worker sets the row up, compiles it, runs it once and says {"ready": {"setup_seconds", "compile_seconds", ...}}.
For each line "run" it does one repetition and says {"seconds", "cpu_seconds"}; for "stop", or when its input ends, it
says {"peak_gib", ...} and exits. What it cannot do ends it with {"unavailable": WHY} or {"error": WHY}.
"""

import argparse
import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Unavailable(Exception):  # noqa: N818, it is no fault
    """This row cannot be had here; the message says why, in one line."""


@dataclasses.dataclass
class Work:
    """A row that is set up and compiled.

    Attributes:
        run: does one repetition, and returns when all of it is done.
        facts: "examples", "edges" and "bytes" of one repetition, where they mean something; "fraction" of the work that
            one repetition does, where it is not all of it; "notes".
        compile_seconds: how long compilation took.
        finish: called at the end; says more, JSON.
    """

    run: Callable[[], Any]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0
    finish: Callable[[], Mapping[str, Any]] = dict


Make = Callable[[Path, bool], Work]  # (folder of the workload, whether a quick trial is enough)


def serve(rows: Mapping[str, Make]) -> None:
    """Is a worker of one of these rows, as the command line says, and ends the process.

    Args:
        rows: by name. Making one may raise `Unavailable`.
    """
    say = _Answers()
    parser = argparse.ArgumentParser(description="A worker of the throughput suite.")
    parser.add_argument("row")
    parser.add_argument("workload", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    try:
        if options.row not in rows:
            raise Unavailable(f"no row '{options.row}'; valid: {', '.join(rows)}")
        start = time.perf_counter()
        work = rows[options.row](options.workload, options.quick)
        work.run()
        setup_seconds = time.perf_counter() - start - work.compile_seconds
        say({"ready": {"setup_seconds": setup_seconds, "compile_seconds": work.compile_seconds, **work.facts}})
        for line in sys.stdin:
            if line.strip() == "stop":
                break
            say(_repetition(work))
        say({"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, **work.finish()})
    except Unavailable as reason:
        say({"unavailable": str(reason)})
        sys.exit(0)
    except Exception as error:  # whatever it is, the driver has to hear of it
        say({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"})
        raise


def _repetition(work: Work) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work.run()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


class _Answers:
    """Writes JSON lines to what was standard output; from now on that is standard error, for libraries that print."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __call__(self, answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=self._file, flush=True)
