"""Runs the workers of one row in turns: ours, the peers', ours as of an earlier revision, and one that copies."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks import runs
from lsec_jax.config import ConfigError

OURS, BEFORE, COPIES = "lsec_jax", "before", "copies"
PEERS = ("pytorch_csr", "rechub", "recbole", "torch_rechub", "deepctr_torch")
_DRIVERS = runs.ROOT / "benchmarks" / "throughput" / "peers"


class NoResultError(Exception):
    """A contestant has no result for a row; the message says why.

    Attributes:
        is_fault: whether something went wrong, or the row cannot be had here.
    """

    def __init__(self, reason: str, is_fault: bool) -> None:
        self.is_fault = is_fault
        super().__init__(reason)


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long a row is repeated.

    Attributes:
        least, most: repetitions of each contestant.
        seconds: of all of them; when they are over, only `least` repetitions are still made.
        is_quick: whether workers may take less work.
    """

    least: int = 5
    most: int = 20
    seconds: float = 60.0
    is_quick: bool = False


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Who does a row.

    Attributes:
        name: OURS, BEFORE, COPIES or one of PEERS.
        command: of its worker, up to the row's name.
        directory: that it runs in.
        is_package: whether `directory` has to be on its import path, alone.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    is_package: bool = False

    def environment(self) -> dict[str, str]:
        """Variables of its process."""
        threads = str(len(os.sched_getaffinity(0)))
        limits = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        own = {"PYTHONPATH": str(self.directory)} if self.is_package else {}
        # Several processes share a device.
        return {**limits, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **kept, **own}


def ours(directory: Path = runs.ROOT, name: str = OURS) -> Contestant:
    """Our own worker, with the lsec_jax of a directory."""
    return Contestant(name, (sys.executable, "-m", "benchmarks.throughput.worker"), directory, is_package=True)


def copies() -> Contestant:
    """The worker that shows how fast the machine copies meanwhile."""
    return Contestant(COPIES, (sys.executable, "-m", "benchmarks.throughput.copies"), runs.ROOT, is_package=True)


def parse_peers(values: Sequence[str]) -> list[Contestant]:
    """Peers of a list flag, NAME=PYTHON.

    Raises:
        ConfigError: for an unknown or repeated name, or a program that is not there.
    """
    found: dict[str, Contestant] = {}
    for value in values:
        name, _, python = value.partition("=")
        if name not in PEERS or name in found or not python:
            raise ConfigError(
                f"--peers: '{value}'; give NAME=PYTHON once for each of: {', '.join(PEERS)}, for example "
                f"{PEERS[0]}=/peers/{PEERS[0]}/bin/python"
            )
        if not os.access(python, os.X_OK) or Path(python).is_dir():
            raise ConfigError(f"--peers: '{value}': there is no program {python}; give the peer's Python")
        command = (str(Path(python).absolute()), str(_DRIVERS / f"{name}.py"))
        found[name] = Contestant(name, command, _DRIVERS)
    return list(found.values())


def revision(name: str) -> str:
    """The commit of a revision; raises ConfigError if git knows none with a package lsec_jax."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    found = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    commit = found.stdout.strip()
    tree = ["git", "cat-file", "-e", f"{commit}:lsec_jax/__init__.py"]
    if found.returncode or subprocess.run(tree, cwd=runs.ROOT, capture_output=True).returncode:
        raise ConfigError(
            f"--before={name}: no revision of this repository with lsec_jax; give a commit, tag or branch"
        )
    return commit


def check_out(commit: str, workdir: Path) -> Contestant:
    """Our worker as of now with the lsec_jax of a commit, written below the workdir."""
    directory = workdir / "before" / commit
    if not (directory / "benchmarks").exists():
        directory.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["git", "archive", commit, "lsec_jax"], cwd=runs.ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "--extract", "--directory", directory], input=archive.stdout, check=True)
        (directory / "benchmarks").symlink_to(runs.ROOT / "benchmarks")  # last: now it is whole
    return ours(directory, BEFORE)


class Worker:
    """One contestant's process for one row. A context manager: leaving it ends the process.

    The first question starts it, so that one sets up while the others wait: its set-up and compilation are its own.
    """

    def __init__(self, contestant: Contestant, row: str, workload: Path, quick: bool, log: Path) -> None:
        """Starts nothing yet.

        Args:
            contestant: whose.
            row: as the contestant calls it.
            workload: folder of its data.
            quick: whether a small measurement is enough.
            log: file that its standard error is appended to.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self.name, self._contestant, self._log = contestant.name, contestant, log.open("a")
        self._arguments = [row, str(workload.absolute()), *(["--quick"] if quick else [])]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._contestant.command, *self._arguments],
            cwd=self._contestant.directory,
            env=self._contestant.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, line: str = "") -> dict[str, Any]:
        """Says a line, or nothing, and returns the answer; nothing is said first, to hear that it is ready.

        Raises:
            NoResultError: it cannot do the row, or has ended.
        """
        self._process = self._process or self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            if line:
                print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self._process.wait()
            why = "was killed, most likely for its memory" if code == -9 else f"ended with exit code {code}"
            raise NoResultError(f"its process {why}; see {self._log.name}", is_fault=True)
        said = json.loads(answer)
        for kind in ("unavailable", "error"):
            if kind in said:
                raise NoResultError(said[kind], is_fault=kind == "error")
        return said


def measure(workers: Sequence[Worker], effort: Effort) -> tuple[dict[str, dict[str, Any]], dict[str, NoResultError]]:
    """Lets workers repeat their row in turns.

    Args:
        workers: not started yet; each is ready before the next one starts.
        effort: how often.

    Returns:
        (by name what each said when it was ready and at the end, "seconds" and "cpu_seconds" of each repetition; by
        name why others have no result).
    """
    found: dict[str, dict[str, Any]] = {}
    reasons: dict[str, NoResultError] = {}

    def ask(worker: Worker, line: str = "") -> dict[str, Any]:
        try:
            return worker.ask(line)
        except NoResultError as reason:
            found.pop(worker.name, None)
            reasons[worker.name] = reason
            return {}

    for worker in workers:
        if answer := ask(worker):
            found[worker.name] = {**answer["ready"], "seconds": [], "cpu_seconds": []}
        elif worker.name == OURS:  # there is nothing to compare others with
            return {}, reasons
    start = time.perf_counter()
    for done in range(effort.most):
        if done >= effort.least and time.perf_counter() - start > effort.seconds:
            break
        for worker in workers:
            if worker.name in found and (answer := ask(worker, "run")):
                for name in ("seconds", "cpu_seconds"):
                    found[worker.name][name].append(answer[name])
    for worker in workers:
        if worker.name in found and (answer := ask(worker, "stop")):
            found[worker.name].update(answer)
    return found, reasons


def taking_part(row_peers: Sequence[str], contestants: Sequence[Contestant]) -> list[Contestant]:
    """Those contestants that know a row: ours and copies always, of the peers those that it names."""
    return [of for of in contestants if of.name in (OURS, BEFORE, COPIES, *row_peers)]


def sides(values: Mapping[str, Any]) -> list[str]:
    """Names of contestants in the order of tables: ours, ours before, peers."""
    return sorted(values, key=lambda name: (OURS, BEFORE, *PEERS).index(name))
