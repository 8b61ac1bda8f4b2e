"""Where a run's numbers go while it trains: a progress bar, JSON lines and TensorBoard events."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from lsec_jax.config import ConfigError
from lsec_jax.data.files import replacing
from lsec_jax.parallel import processes

_FLUSH_SECONDS = 10.0
_COMMON = ("step", "kind", "train_seconds")  # of each line; the rest are metrics


def require_writable(directory: Path, argument: str) -> None:
    """Checks, before any work, that a directory can be written to or made.

    Args:
        directory: need not exist.
        argument: the command line's, for the message, for example "--output=DIR".

    Raises:
        ConfigError: naming the nearest directory that exists.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"{argument}: cannot write into {existing}; choose another place")


def check_folder(output: Path, name: str, mark: str, kind: str) -> None:
    """Checks, before anything is loaded, that --output is new, empty or an earlier result's, and can be written to.

    Args:
        output: the directory.
        name: of the JSON file by which an earlier result is known.
        mark: its "written_by".
        kind: of result, for the message.

    Raises:
        ConfigError: if it is not.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output={output}: this is a file; give a new or empty directory")
    if output.is_dir() and any(output.iterdir()) and not _is_written_by(output / name, mark):
        raise ConfigError(f"--output={output}: not empty, and holds no earlier {kind}; give a new or empty directory")
    require_writable(output, f"--output={output}")


def _is_written_by(path: Path, mark: str) -> bool:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("written_by") == mark


def make_directory(directory: Path, argument: str) -> None:
    """Makes a directory and its parents; raises ConfigError naming the command line's `argument`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{argument}: cannot be created ({error.strerror}); choose another place") from None


class MetricWriter:
    """Writes metrics of one run. Use as a context manager."""

    def __init__(self, workdir: Path, first_step: int, num_steps: int, owes_validation: bool = False):
        """Opens the files for appending.

        Args:
            workdir: gets metrics.jsonl and tensorboard/.
            first_step: steps done already; lines of metrics.jsonl beyond it (written after the checkpoint that the run
                resumes from) are dropped, and TensorBoard is told to drop theirs.
            num_steps: for the progress display.
            owes_validation: the validation of `first_step` is still to come; what it wrote before is dropped, too.
        """
        path = workdir / "metrics.jsonl"
        lines = _keep_lines(path, first_step, owes_validation) if path.exists() else []
        self._file = path.open("a")
        purge_step = first_step if owes_validation else first_step + 1
        self._events = _Events(workdir / "tensorboard", purge_step)
        for line in lines:
            if line["step"] >= purge_step:  # TensorBoard drops the whole step
                metrics = {name: value for name, value in line.items() if name not in _COMMON}
                self._events.add(line["step"], line["kind"], metrics)
        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            initial=first_step,
            total=num_steps,
            disable=not interactive,
            dynamic_ncols=True,
            # tqdm's own rate would count compilation and evaluations as slow steps.
            bar_format="{percentage:3.0f}%|{bar:20}| step {n_fmt}/{total_fmt}{postfix}",
        )
        self._log = not interactive
        self._num_steps = num_steps

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.close()
        try:
            self._file.close()  # which writes what is left, and fails where the disk is full
        finally:
            self._events.close()

    def write(self, step: int, kind: str, metrics: Mapping[str, float], seconds: float) -> None:
        """Records metrics.

        Args:
            step: optimizer steps done.
            kind: "train" or "validation".
            metrics: finite numbers by name.
            seconds: training time so far.
        """
        line = {"step": step, "kind": kind, "train_seconds": round(seconds, 3), **metrics}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._events.add(step, kind, metrics)

    def flush(self) -> None:
        """What was recorded so far is in the files, even if the process is killed now."""
        self._file.flush()
        self._events.flush()

    def announce(self, text: str) -> None:
        """Shows what is going on before the first numbers are there."""
        self._bar.set_postfix_str(text)
        if self._log:
            logging.info("%s", text)

    def progress(self, step: int, seconds_per_step: float, seconds_left: float, metrics: Mapping[str, float]) -> None:
        """Shows rate, time left and the latest metrics: a bar on a terminal, log lines elsewhere.

        Args:
            step: optimizer steps done.
            seconds_per_step: without compilation and evaluations.
            seconds_left: until `num_steps`, with evaluations.
            metrics: to show.
        """
        rate = 1.0 / max(seconds_per_step, 1e-9)
        parts = [f"{rate:.3g} steps/s" if rate < 100 else f"{rate:.0f} steps/s"]
        parts += [f"{tqdm.format_interval(seconds_left)} left"]
        parts += [f"{name} {value:.4g}" for name, value in metrics.items()]
        self._bar.n = step
        self._bar.set_postfix_str("  ".join(parts))
        if self._log:
            logging.info("step %d/%d  %s", step, self._num_steps, "  ".join(parts))


class SilentWriter:
    """Writes and shows nothing: what all processes of a run measure alike, the first one writes."""

    def __enter__(self) -> "SilentWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def write(self, step: int, kind: str, metrics: Mapping[str, float], seconds: float) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def announce(self, text: str) -> None:
        """Does nothing."""

    def progress(self, step: int, seconds_per_step: float, seconds_left: float, metrics: Mapping[str, float]) -> None:
        """Does nothing."""


Writer = MetricWriter | SilentWriter


def open_writer(workdir: Path, first_step: int, num_steps: int, owes_validation: bool = False) -> Writer:
    """The writer of this process: `MetricWriter` in the first one, a silent one in the others."""
    return MetricWriter(workdir, first_step, num_steps, owes_validation) if processes.is_first() else SilentWriter()


class _Events:
    """TensorBoard's events, written by the caller's thread: a full disk is an error, and `flush` leaves nothing behind.

    tensorboardX's own SummaryWriter hands them to a thread, which a full disk ends without a word.
    """

    def __init__(self, directory: Path, purge_step: int):
        """Opens a new file. TensorBoard drops what older ones have from `purge_step` on, also if that is step 1."""
        directory.mkdir(exist_ok=True)
        # tensorboardX names files by the second, and would replace that of a run that was ended within it.
        number = len(list(directory.iterdir()))
        self._writer = EventsWriter(str(directory / "events"), f".{number:06d}")
        self._write(purge_step, file_version="brain.Event:2")
        self._write(purge_step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def add(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        """Records one value per metric."""
        for name, value in metrics.items():
            # TensorBoard allows no '@' in names.
            self._write(step, summary=scalar(f"{kind}/{name.replace('@', '_at_')}", value))
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:  # for those who watch
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(Event(step=step, wall_time=time.time(), **content))


def _keep_lines(path: Path, last_step: int, owes_validation: bool) -> list[dict[str, Any]]:
    """Drops the lines of later steps, and of a validation that is still to come; returns the others."""
    kept = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
            is_owed = owes_validation and line["step"] == last_step and line["kind"] != "train"
            if line["step"] <= last_step and not is_owed:
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # a line cut by a kill: its step is trained again
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return kept
