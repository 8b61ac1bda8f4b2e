"""Folders of checkpoints as they lie on disk, without Orbax: which there are, what they say, whether they are whole."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lsec_jax.parallel import processes
from lsec_jax.parallel.processes import LostProcessError
from lsec_jax.training import checkpoint_contents, orbax_errors
from lsec_jax.training.state import TrainState

# Files below a checkpoint's folder.
PROGRESS, METRICS = Path("progress", "metadata"), Path("metrics", "metrics")
_RECORD = Path("record", "metadata")


class CheckpointError(ValueError):
    """A checkpoint that is missing or cannot be used; the message names it and the remedy."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not what was written.

    Attributes:
        step: which one.
        reason: what is wrong.
    """

    def __init__(self, folder: Path, reason: str):
        super().__init__(
            f"{folder}: damaged ({reason}). `train --fall_back` moves that folder aside and goes on from the "
            "checkpoint before it"
        )
        self.step, self.reason = int(folder.name), reason


def steps_in(directory: Path) -> list[int]:
    """Steps of the finished checkpoints of a directory, in order; none if there is no directory."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def read_record(folder: Path) -> dict[str, Any]:
    """`Checkpoints.record` of a checkpoint's folder, without opening it."""
    path = folder / _RECORD
    if not path.parent.exists():
        return {}
    with reading(folder):
        record = json.loads(path.read_text())
        if not isinstance(record["arrays"], dict):
            raise TypeError("'arrays' is no table")
        return record


def verify(folder: Path, state: TrainState) -> None:
    """Compares a restored state with the checksums of its checkpoint; all processes call it, and find the same.

    Raises:
        DamagedCheckpointError: if it is not what was written.
    """
    stored = read_record(folder).get("arrays")
    if stored is not None and (paths := checkpoint_contents.damaged(stored, state)):
        raise DamagedCheckpointError(folder, f"wrong checksum of {', '.join(paths[:4])}")


def set_aside(directory: Path, step: int) -> Path:
    """Moves a damaged checkpoint to `damaged_checkpoints` beside the directory, and returns that folder.

    Of a run of several processes, all call it.

    Raises:
        CheckpointError: if it is the only one: then there is nothing to fall back on.
    """
    folder = directory.parent / "damaged_checkpoints"

    def move() -> None:
        if steps_in(directory) == [step]:
            raise CheckpointError(
                f"{directory}/{step}: damaged, and there is no other checkpoint to fall back on; restore that folder "
                "from a copy, or train into another --workdir"
            )
        folder.mkdir(exist_ok=True)
        taken = {path.name for path in folder.iterdir()}
        name = next(name for i in range(len(taken) + 1) if (name := f"{step}.{i}" if i else str(step)) not in taken)
        os.rename(directory / str(step), folder / name)

    processes.by_first("setting a checkpoint aside", move)
    return folder


def check_metrics(folder: Path) -> None:
    """Raises DamagedCheckpointError where Orbax would fail without a name, or take it for one without metrics."""
    try:
        with reading(folder):
            json.loads((folder / METRICS).read_text())["value"]
    except DamagedCheckpointError:
        if folder.exists():  # else a run that goes on has just removed it
            raise


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Tells damage to a checkpoint that is read inside, by this process alone, from what else may go wrong.

    Raises:
        DamagedCheckpointError: files are missing or make no sense.
        LostProcessError: another process of the run ended meanwhile.
        CheckpointError: it cannot be read for another reason.
    """
    try:
        yield
    except Exception as error:
        if orbax_errors.is_lost_process(error):
            raise LostProcessError(f"{folder}: while it was read, {orbax_errors.brief(error)}") from error
        if orbax_errors.is_damage(error):
            raise DamagedCheckpointError(folder, orbax_errors.brief(error)) from error
        raise CheckpointError(
            f"{folder}: cannot be read ({orbax_errors.brief(error)}), but is not known to be damaged; the same command "
            "tries again"
        ) from error
