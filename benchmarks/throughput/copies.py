"""The worker of the throughput suite that only copies memory, in turns with a row, so that other load slows both alike.

Example:
  python -m benchmarks.throughput.copies ROW WORKLOAD_DIR
"""

import sys
from pathlib import Path

from benchmarks.throughput import machine
from benchmarks.throughput.peers import protocol
from benchmarks.throughput.peers.protocol import Work


def make(_workload: Path, _quick: bool) -> Work:
    """One repetition is some copies in the memory of jax's default device; bytes are read and written."""
    run, num_bytes = machine.copies()
    return Work(run=run, bytes=num_bytes)


def main() -> None:
    """Runs the worker, beside whatever row the command line names."""
    protocol.serve({name: make for name in sys.argv[1:2]})


if __name__ == "__main__":
    main()
