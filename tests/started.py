"""Processes of one run on this machine, started by tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# A hang must not outlast the tests.
_SECONDS = 300


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(num_devices=1):
    """A clean one of so many CPU devices, which compiles as quickly as the tests' own process does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "SLURM_"))}
    devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(num_devices)}
    return {**kept, **devices, "XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": str(ROOT)}


def start(command, num_devices=1, folder=ROOT):
    """Starts Python with some arguments in a folder."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment(num_devices),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes):
    """Waits for processes; kills all of them if one takes too long."""
    try:
        return [
            Ended(process.returncode, *texts)
            for process in processes
            for texts in [process.communicate(timeout=_SECONDS)]
        ]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def together(commands, num_devices=1):
    """Starts one process for each command, waits for all and returns how they ended."""
    return ended([start(command, num_devices) for command in commands])


def places(num_processes=2):
    """The flags of processes that meet on a free port."""
    shared = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={num_processes}"]
    return [[*shared, f"--process_id={i}"] for i in range(num_processes)]
