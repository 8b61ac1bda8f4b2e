"""Orbax checkpoints of a run: the newest few and the best ones.

A checkpoint is a folder named by its step, which appears whole or not at all. It holds:
- `state`: parameters, optimizer state and step, each array once, whatever the mesh that it lay on.
- `progress`: the early-stopping record and what else the loop must know to go on bit for bit.
- `record`: the resolved config, counts and fingerprint of the data (with its ids), shapes and checksums of the arrays.
- `metrics`: what ranks it.
Only a validation that it owes changes it later: its result takes the place of `metrics` and `progress`, file by file.
Random keys and the order of the data are functions of the config's seed and the step, so they need no state of their
own.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lsec_jax.config import ConfigError
from lsec_jax.data.files import write_json
from lsec_jax.parallel import platforms, processes
from lsec_jax.parallel.processes import LostProcessError
from lsec_jax.training import checkpoint_contents, orbax_errors, preservation
from lsec_jax.training.checkpoint_folders import (
    METRICS,
    PROGRESS,
    CheckpointError,
    check_metrics,
    read_record,
    reading,
    steps_in,
    verify,
)
from lsec_jax.training.state import TrainState
from lsec_jax.training.termination import Terminated

T = TypeVar("T")

# Where checkpoints wait for their deletion, below their directory.
_DELETED = "deleted"


@dataclasses.dataclass
class Progress:
    """What a run must know besides its state to go on, stored with each checkpoint.

    Attributes:
        best_value: best validation metric so far; None before the first validation, and where there is no validation.
        best_step: its step, the first one of equals.
        misses: validations since then without improvement.
        train_seconds: training time so far, evaluation left out.
        last_value: the newest validation metric.
        compile_seconds: how much of the training time went into compilation, in all processes that trained the run;
            of those before a checkpoint that lacks it, nothing.
        skipped: steps that were skipped because they were not finite.
        pending: metrics of the steps since the last line of metrics, one dict a step.
        owes_validation: the run was ended during the validation of this step, which is still to be made.
    """

    best_value: float | None = None
    best_step: int = 0
    misses: int = 0
    train_seconds: float = 0.0
    last_value: float | None = None
    compile_seconds: float = 0.0
    skipped: list[int] = dataclasses.field(default_factory=list)
    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)
    owes_validation: bool = False

    def record(self, step: int, value: float) -> None:
        """Takes the metric of a validation at `step` into the record."""
        self.last_value = value
        if self.best_value is None or value > self.best_value:
            self.best_value, self.best_step, self.misses = value, step, 0
        else:
            self.misses += 1


class Checkpoints:
    """Saves and restores (state, progress) under `directory`. Use as a context manager: leaving it waits for writes.

    Where a run has several processes, each of them makes the same calls. Writing waits for the others: to open a
    directory that is not read only, `save`, `complete` and to leave. Reading does not, but to compare checksums of
    arrays that lie in several processes.
    """

    def __init__(
        self,
        directory: Path,
        keep_last: int = 1,
        *,
        read_only: bool = False,
        keep_best: int = 1,
        record: Mapping[str, Any] | None = None,
        save_seconds: int = 1200,
    ):
        """Opens the directory, and clears away what a killed process left half written, unless read_only.

        Args:
            directory: created unless read_only.
            keep_last: newest checkpoints kept.
            keep_best: checkpoints of the best validations kept besides.
            read_only: for evaluation.
            record: what each checkpoint is to say of its run, as JSON.
            save_seconds: how long writing a checkpoint may take, in all processes.

        Raises:
            CheckpointError: if read_only and the directory has no checkpoint, or one is damaged.
        """
        self.directory = Path(directory).absolute()
        self._record, self._save_seconds = dict(record or {}), save_seconds
        if read_only and not self.directory.is_dir():
            raise CheckpointError(f"{self.directory}: no checkpoints here; train first, or check --workdir")
        self._kept, own = preservation.Kept(keep_last, keep_best), processes.index()
        # Orbax's own read_only only adds warnings: opening writes nothing unless it creates the directory.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            # Deleting in place, which a kill can cut short, would leave what looks like a damaged checkpoint.
            todelete_subdir=None if read_only else _DELETED,
            best_fn=preservation.rank,
            # What fails in one process must not leave the others waiting for it.
            multiprocessing_options=ocp.options.MultiprocessingOptions(own, {own})
            if read_only
            else ocp.options.MultiprocessingOptions(),
            async_options=ocp.options.AsyncOptions(save_seconds, orbax_errors.barrier()),
        )
        self._manager = self._opened(options, read_only)
        if read_only and self._manager.latest_step() is None:
            raise CheckpointError(f"{self.directory}: no finished checkpoint here; train first, or check --workdir")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        try:
            with self._writing():
                self._manager.wait_until_finished()
            self._purge()
        except (CheckpointError, LostProcessError) as error:
            if kind is None or issubclass(kind, Terminated):  # which says that all is saved
                raise
            logging.error("%s", error)
        finally:
            with contextlib.suppress(Exception):  # it raises what waiting raised, again
                self._manager.close()

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None; it may be in the making."""
        return self._manager.latest_step()

    def finished_step(self) -> int | None:
        """The newest checkpoint's step once all writes are done, those that failed left out, or None."""
        with contextlib.suppress(Exception):  # leaving the context raises it
            self._manager.wait_until_finished()
        return max(steps_in(self.directory), default=None)

    def save(self, state: TrainState, progress: Progress, value: float | None = None) -> None:
        """Saves asynchronously. The best checkpoint is the one of `progress.best_step`, without validation the last.

        Args:
            state: to save; its buffers may be donated afterwards.
            progress: that belongs to it.
            value: of the validation of this very step, if there was one.

        Raises:
            CheckpointError: if this or the checkpoint before it cannot be written.
            LostProcessError: if another process of the run has ended.
        """
        step = int(state.step)
        assert step not in self._manager.all_steps(), "nothing would be saved"
        record = {"version": 1, **self._record, "arrays": checkpoint_contents.describe(state)}
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()),
                    progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                    record=ocp.args.JsonSave(record),
                ),
                metrics=_metrics(step, progress, value),
            )
        self._purge()

    def complete(self, step: int, progress: Progress, value: float | None) -> None:
        """Adds what the validation that a checkpoint owes has found; one that is killed meanwhile owes it still.

        Args:
            step: of a finished checkpoint.
            progress: after the validation.
            value: of the validation.

        Raises:
            CheckpointError: if it cannot be written.
        """
        folder = self.directory / str(step)

        def store() -> None:
            with self._writing():
                write_json(folder / METRICS, _metrics(step, progress, value))
                write_json(folder / PROGRESS, dataclasses.asdict(progress))  # last: until then it is owed

        processes.by_first("storing a validation", store)
        self._manager.reload()
        infos = [preservation.Info(of, self._manager.metrics(of)) for of in self._manager.all_steps()]
        stay = processes.of_first(self._kept.should_preserve(infos))
        with self._writing():
            for info, stays in zip(infos, stay, strict=True):
                if not stays:
                    self._manager.delete(info.step)
        self._purge()

    def record(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of its run; raises DamagedCheckpointError if it cannot be read.

        Empty for checkpoints of versions that stored none.
        """
        return read_record(self.directory / str(step))

    def restore(self, template: TrainState, step: int, verifies: bool = True) -> tuple[TrainState, Progress]:
        """Restores one checkpoint, on any mesh.

        Args:
            template: a state of the same shapes, whose values are not used; each array is restored with the sharding
                of the template's. Embedding tables and their moments may have more rows than stored, which will be
                zeros, or fewer, if those left out are zeros.
            step: which one.
            verifies: whether to look at the checksums, for which processes wait for each other; else `verify` comes
                later.

        Raises:
            DamagedCheckpointError: if its files are missing, or not what was written.
            CheckpointError: if it does not fit the template, or cannot be read for another reason.
        """
        folder = self.directory / str(step)
        stored = self.record(step).get("arrays")
        if stored is not None and (lines := checkpoint_contents.misfits(stored, template)):
            raise CheckpointError(
                f"{folder}: is of another model (stored -> now):\n  "
                + "\n  ".join(lines)
                + "\nGive the config that it was trained with, or use another --workdir."
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template._asdict())
        with reading(folder):
            progress = Progress(**json.loads((folder / PROGRESS).read_text()))
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract, strict=stored is None))
            )
            state = TrainState(**restored.state)
        if verifies:
            verify(folder, state)
        return state, progress

    def restore_on_host(self, template: dict[str, Any], step: int) -> dict[str, Any]:
        """Reads parts of a state as numpy arrays, in the shapes that were stored.

        Args:
            template: parts of `TrainState` by name, of the same structure (its values and shapes are not used).
            step: which one.

        Raises:
            CheckpointError: if it cannot be read, has another structure, or is not what was written.
        """
        folder = self.directory / str(step)
        as_stored = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(template, restore_args=as_stored, partial_restore=True)
                ),
            )
        except Exception as error:  # Orbax raises many types for damaged files; each is the same to the user
            raise CheckpointError(f"{folder}: cannot be read ({orbax_errors.brief(error)})") from error
        stored = self.record(step).get("arrays")
        if stored is not None and (paths := _damaged_on_host(stored, restored.state)):
            raise CheckpointError(f"{folder}: wrong checksum of {', '.join(paths[:4])}; give another --init_step")
        return restored.state

    def best_step(self) -> int:
        """The step of the best kept checkpoint by its stored metric."""
        step = self._manager.best_step()
        assert step is not None, "checkpoints are always saved with a metric"
        return step

    def _opened(self, options: ocp.CheckpointManagerOptions, read_only: bool) -> ocp.CheckpointManager:
        """Opens the directory; anew where a run that goes on has removed a checkpoint after it was listed."""
        while True:
            listed = steps_in(self.directory)
            try:
                for step in listed:
                    check_metrics(self.directory / str(step))
                if not read_only:
                    self._purge()
                return ocp.CheckpointManager(self.directory, options=options)
            except FileNotFoundError:
                if set(listed) <= set(steps_in(self.directory)):
                    raise

    def _purge(self) -> None:
        """Removes what Orbax has put away to be deleted."""
        folder = self.directory / _DELETED
        if processes.is_first() and folder.is_dir():
            for path in folder.iterdir():
                shutil.rmtree(path, ignore_errors=True)  # what is left goes with the next call

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What cannot be written inside becomes one message that says what is left."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore have many types for a disk that is full
            if orbax_errors.is_lost_process(error):
                text = f"{self.directory}: while a checkpoint was written, {orbax_errors.brief(error)}"
                raise LostProcessError(text) from error
            last = max(steps_in(self.directory), default=None)
            kept = "no checkpoint had been saved yet" if last is None else f"the checkpoint of step {last} is intact"
            if orbax_errors.is_out_of_time(error):
                raise CheckpointError(
                    f"{self.directory}: a checkpoint was not written within config.checkpoint.save_seconds = "
                    f"{self._save_seconds}; {kept}. Raise that key, which a resumed run may change, or use a faster "
                    "disk; then the same command resumes"
                ) from error
            if orbax_errors.is_of_runtime(error):
                raise
            raise CheckpointError(
                f"{self.directory}: a checkpoint could not be written ({orbax_errors.brief(error)}); {kept}. Make room "
                "on that disk, or let it be written to; then the same command resumes"
            ) from error


def _metrics(step: int, progress: Progress, value: float | None) -> dict[str, float]:
    return preservation.metrics_of(step, progress.best_value is None or progress.best_step == step, value)


def _damaged_on_host(stored: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    """`checkpoint_contents.damaged` of parts of a state in numpy arrays, which no device need have room for."""
    try:
        host = platforms.host_device()
    except ConfigError:  # jax has been told to leave the CPU out
        host = None
    fields: dict[str, Any] = {name: parts.get(name) for name in TrainState._fields}  # None has no leaves
    with jax.default_device(host):
        return checkpoint_contents.damaged(stored, TrainState(**fields))


def read_chosen(
    directory: Path, choose: Callable[[Checkpoints], int], read: Callable[[Checkpoints, int], T]
) -> tuple[int, T]:
    """Reads a checkpoint of a directory where training may go on; where it is gone by then, the one now chosen.

    Of a run of several processes all call it, and the first one chooses for all.

    Args:
        directory: of checkpoints.
        choose: which step.
        read: reads it.

    Returns:
        The step, and what `read` returned.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        ProcessError: that is so in another process.
    """

    def chosen() -> int:
        with Checkpoints(directory, read_only=True) as checkpoints:
            return choose(checkpoints)

    while True:
        step = processes.of_first(processes.by_first("choosing a checkpoint", chosen))
        found: list[T] = []
        with processes.agreed("reading a checkpoint"), Checkpoints(directory, read_only=True) as checkpoints:
            try:
                found.append(read(checkpoints, step))
            except CheckpointError:
                if step in steps_in(directory):
                    raise
        if all(processes.gather(bool(found))):
            return step, found[0]
        logging.info("another checkpoint has replaced that of step %d", step)
