"""Orbax checkpoints of a run: the newest few and the best one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from lsec_jax.training.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint that is missing or cannot be read; the message names it and the remedy."""


@dataclasses.dataclass
class Progress:
    """The early-stopping record, stored with each checkpoint.

    Attributes:
        best_value: best validation metric so far; None before the first validation, and where there is no validation.
        best_step: its step, the first one of equals.
        misses: validations since then without improvement.
        train_seconds: training time so far, evaluation left out.
        last_value: the newest validation metric.
        compile_seconds: how much of the training time went into compilation, in all processes that trained the run;
            of those before a checkpoint that lacks it, nothing.
    """

    best_value: float | None = None
    best_step: int = 0
    misses: int = 0
    train_seconds: float = 0.0
    last_value: float | None = None
    compile_seconds: float = 0.0

    def record(self, step: int, value: float) -> None:
        """Takes the metric of a validation at `step` into the record."""
        self.last_value = value
        if self.best_value is None or value > self.best_value:
            self.best_value, self.best_step, self.misses = value, step, 0
        else:
            self.misses += 1


class Checkpoints:
    """Saves and restores (state, progress) under `directory`. Use as a context manager: leaving it waits for writes."""

    def __init__(self, directory: Path, keep_last: int = 1, read_only: bool = False):
        """Opens the directory.

        Args:
            directory: created unless read_only.
            keep_last: newest checkpoints kept besides the best one.
            read_only: for evaluation.

        Raises:
            CheckpointError: if read_only and the directory has no checkpoint, or one is damaged.
        """
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise CheckpointError(f"{self.directory}: no checkpoints here; train first, or check --workdir")
        kept = policies.AnyPreservationPolicy(
            [policies.LatestN(keep_last), policies.BestN(get_metric_fn=lambda metrics: metrics["value"], n=1)]
        )
        # Orbax's own read_only only adds warnings: opening writes nothing unless it creates the directory.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept, create=not read_only, best_fn=lambda metrics: metrics["value"]
        )
        for folder in self.directory.glob("[0-9]*"):
            if folder.name.isdigit():
                _check_metrics(folder)
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        if read_only and self._manager.latest_step() is None:
            raise CheckpointError(f"{self.directory}: no finished checkpoint here; train first, or check --workdir")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step, or None."""
        return self._manager.latest_step()

    def finished_step(self) -> int | None:
        """The newest checkpoint's step once all writes are done, or None."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves asynchronously. The best checkpoint is the one of `progress.best_step`, without validation the last."""
        step = int(state.step)
        is_best = progress.best_value is None or progress.best_step == step
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
            # Later bests are better, so steps rank them; the metric itself would leave ties to Orbax.
            metrics={"value": float(step if is_best else 0)},
        )

    def restore(self, template: TrainState, step: int) -> tuple[TrainState, Progress]:
        """Restores one checkpoint.

        Args:
            template: a state of the same shapes (its values are not used).
            step: which one.

        Raises:
            CheckpointError: if it cannot be read or does not fit the template.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template._asdict())
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()),
            )
        except Exception as error:  # Orbax raises many types for damaged files; each is the same to the user
            raise CheckpointError(
                f"{self.directory}/{step}: cannot be restored ({_brief(error)}). If a file is damaged, remove that "
                "folder to fall back on the checkpoint before it"
            ) from error
        return TrainState(**restored.state), Progress(**restored.progress)

    def restore_on_host(self, template: dict[str, Any], step: int) -> dict[str, Any]:
        """Reads parts of a state as numpy arrays, in the shapes that were stored.

        Args:
            template: parts of `TrainState` by name, of the same structure (its values and shapes are not used).
            step: which one.

        Raises:
            CheckpointError: if it cannot be read or has another structure.
        """
        as_stored = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(template, restore_args=as_stored, partial_restore=True)
                ),
            )
        except Exception as error:  # as in `restore`
            raise CheckpointError(f"{self.directory}/{step}: cannot be read ({_brief(error)})") from error
        return restored.state

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int:
        """The step of the best kept checkpoint by its stored metric."""
        step = self._manager.best_step()
        assert step is not None, "checkpoints are always saved with a metric"
        return step


def has_checkpoints(directory: Path) -> bool:
    """Whether there is a finished checkpoint in a directory, which need not exist."""
    return any(folder.name.isdigit() for folder in directory.glob("[0-9]*"))


def _check_metrics(folder: Path) -> None:
    """Raises CheckpointError where Orbax would fail without a name, or take the checkpoint for one without metrics."""
    try:
        json.loads((folder / "metrics" / "metrics").read_text())["value"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: damaged ({_brief(error)}); remove that folder to fall back on the other checkpoints"
        ) from error


def _brief(error: Exception) -> str:
    """Orbax's messages run over pages; the first line says what happened."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
