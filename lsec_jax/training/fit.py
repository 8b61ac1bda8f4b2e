"""The whole job of `python -m lsec_jax.train`: prepare, train or resume, evaluate, report."""

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from absl import logging

from lsec_jax.config import RunConfig
from lsec_jax.parallel import processes
from lsec_jax.schema import LiveCommerceData
from lsec_jax.training import initialisation, loop, plots, reports
from lsec_jax.training.base_run import Run
from lsec_jax.training.checkpoint_folders import DamagedCheckpointError, set_aside, steps_in, verify
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.initialisation import Origin, Start
from lsec_jax.training.locks import WorkdirLock, await_sight
from lsec_jax.training.run import prepare
from lsec_jax.training.state import TrainState
from lsec_jax.training.workdirs import check_workdir, claim_workdir
from lsec_jax.training.writers import make_directory, open_writer

STATE = "state"  # kind of the lines of metrics that need no held-out rows
T = TypeVar("T")


class Trained(NamedTuple):
    """A run that has trained to its end.

    Attributes:
        run: prepared.
        state: of its best checkpoint.
        progress: its early-stopping record.
        last_step: of its last checkpoint.
    """

    run: Run
    state: TrainState
    progress: Progress
    last_step: int


def run(
    config: RunConfig, workdir: Path, audit: bool = False, fall_back: bool = False, origin: Origin | None = None
) -> str:
    """Trains (or resumes) and writes everything into the workdir.

    Args:
        config: of the run.
        workdir: new, empty, or of this run.
        audit: look for leaks between training and evaluation first.
        fall_back: move damaged checkpoints aside and go on from the newest one that is whole.
        origin: an earlier run to start from; a run that was begun keeps the one that it has.

    Returns:
        The leaderboard as Markdown, in the first process.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written, also where another run uses the workdir.
        ProcessError: if another process of the run was refused before training, or has other data.
        RuntimeError: if another process failed otherwise, or ended.
        NonFiniteError: if training diverged; the last good checkpoint stays.
        CheckpointError: if a checkpoint cannot be read or written.
        WorkdirError: if the disk is full.
        Terminated: after SIGTERM, with everything saved.
    """
    with _naming(workdir), WorkdirLock(workdir) as lock:
        return _report(workdir, _train(config, workdir, lock, audit, fall_back, origin))


def train(
    config: RunConfig,
    workdir: Path,
    audit: bool = False,
    origin: Origin | None = None,
    data: LiveCommerceData | None = None,
) -> Trained:
    """Prepares, and trains or resumes: `run` without its report.

    Args:
        config: of the run.
        workdir: new, empty, or of this run.
        audit: look for leaks between training and evaluation first.
        origin: an earlier run to start from.
        data: what the config's source would load, where that is there already.

    Raises:
        ConfigError, DataError, CheckpointError, NonFiniteError, WorkdirError, Terminated: as `run`.
    """
    with _naming(workdir), WorkdirLock(workdir) as lock:
        return _train(config, workdir, lock, audit, False, origin, data)


class WorkdirError(OSError):
    """The workdir cannot be written any more; the message names it and the remedy."""


@contextlib.contextmanager
def _naming(workdir: Path) -> Iterator[None]:
    """The system's message for a full disk names no file; this one does."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise WorkdirError(
            f"workdir {workdir}: cannot be written ({error.strerror}). Make room there; then the same command resumes "
            "from the newest checkpoint, which is intact"
        ) from error


def _report(workdir: Path, trained: Trained) -> str:
    prepared, state, progress, last_step = trained
    config = prepared.config
    logging.info("evaluating the checkpoint of step %d and the baselines", int(state.step))
    scorers = {reports.model_name(config): prepared.scorer_function()(state)}
    rows = reports.rows(prepared, scorers, prepared.held_out(), config.evaluation.protocols, progress.train_seconds)
    rows += reports.baseline_rows(prepared, prepared.held_out(), config.evaluation.protocols)
    examined = prepared.examined(scorers, rows)

    def write() -> str:
        report = reports.write(workdir, prepared, rows, int(state.step), last_step, progress, examined)
        plots.draw(workdir, rows)
        return report

    return processes.by_first("writing the report", write) or ""


def _train(
    config: RunConfig,
    workdir: Path,
    lock: WorkdirLock,
    audit: bool,
    fall_back: bool,
    origin: Origin | None,
    data: LiveCommerceData | None = None,
) -> Trained:
    with processes.agreed("preparing the run"):
        config = check_workdir(workdir, config)
        origin = initialisation.settle(workdir, config, origin)
        prepared = prepare(config, data)
        if audit:
            prepared.audit()
            logging.info("audit: nothing leaks from validation and test into training")
        for text in config.model.warnings(prepared.inputs, config.training.batch_size):
            logging.warning(text)
    start = None
    if origin is not None and not processes.of_first(steps_in(workdir / "checkpoints")):
        start = initialisation.start(prepared, origin)
        with processes.agreed("comparing the start"):
            initialisation.check_unchanged(workdir, start)
    _claim(workdir, prepared, lock, start)
    return _to_the_end(prepared, workdir, fall_back, start)


def _claim(workdir: Path, run: Run, lock: WorkdirLock, start: Start | None) -> None:
    """Makes the workdir this run's own. All processes must have the same data, start and workdir."""
    if processes.count() > 1:
        start_record = {} if start is None else {"init_from": start.record}
        processes.require_same({"data": run.describe(), **start_record}, "Give every process the same files")
    processes.by_first("making the workdir", lambda: make_directory(workdir, f"--workdir={workdir}"))
    lock.take()
    origin = None if start is None else start.record
    processes.by_first("claiming the workdir", lambda: claim_workdir(workdir, run, origin))


def _to_the_end(run: Run, workdir: Path, fall_back: bool, start: Start | None) -> Trained:
    """Trains to the end, from another run's parameters if there is a start."""
    config, directory = run.config, workdir / "checkpoints"
    validate = _validator(run)
    resumed = _restore(run, directory, fall_back, Checkpoints.latest_step)
    state, progress = resumed or (run.initial_state() if start is None else start.state, Progress())
    if resumed is not None:
        is_finished = loop.is_finished(config.training, int(state.step), progress)
        logging.info("training ended at step %d" if is_finished else "resuming from step %d", int(state.step))
    policy = config.checkpoint
    with Checkpoints(
        directory,
        keep_last=policy.keep_last,
        keep_best=policy.keep_best,
        record=run.record(),
        save_seconds=policy.save_seconds,
    ) as checkpoints:
        if resumed is None and start is not None:
            checkpoints.save(state, progress)  # from now on the earlier run is not needed
        num_steps, owes_validation = config.training.num_steps, progress.owes_validation
        with open_writer(workdir, int(state.step), num_steps, owes_validation) as writer:
            progress = loop.train(
                config.training,
                state,
                progress,
                run.step_function(),
                run.input_at(),
                run.inputs,
                validate,
                checkpoints,
                writer,
                policy.save_every,
            )
    last_step = max(steps_in(directory))
    best = _restore(run, directory, fall_back, Checkpoints.best_step)
    assert best is not None
    return Trained(run, best[0], progress, last_step)


def _restore(
    run: Run, directory: Path, fall_back: bool, choose: Callable[[Checkpoints], int | None]
) -> tuple[TrainState, Progress] | None:
    """Restores the checkpoint that is chosen; None where there is none. Damaged ones are moved aside to fall back.

    The first process chooses; all go on from the same one, or none does.
    """

    def chosen() -> int | None:
        if not processes.is_first() or not steps_in(directory):
            return None
        with Checkpoints(directory, read_only=True) as checkpoints:
            return choose(checkpoints)

    def restored() -> tuple[TrainState, Progress]:
        await_sight(directory / str(step))
        with Checkpoints(directory, read_only=True) as checkpoints:
            return run.restore(checkpoints, step, verifies=False)

    while True:
        try:
            step = processes.of_first(_read_by_all(chosen, directory))
            if step is None:
                return None
            state, progress = _read_by_all(restored, directory)
            verify(directory / str(step), state)
        except DamagedCheckpointError as error:
            if not fall_back:
                processes.leave()  # all have found it, and each can end with its message
                raise
            logging.warning("%s. It is in %s now", error, set_aside(directory, error.step))
            continue
        processes.require_same({"progress": dataclasses.asdict(progress)}, f"Give every process the same {directory}")
        return state, progress


def _read_by_all(read: Callable[[], T], directory: Path) -> T:
    """What each process reads of the checkpoints; what is damaged for one of them is damaged for all."""
    found, damage = [], None
    with processes.agreed("reading a checkpoint"):
        try:
            found.append(read())
        except DamagedCheckpointError as error:
            damage = error
    for seen in processes.gather(None if damage is None else [damage.step, damage.reason]):
        if seen is not None:
            raise DamagedCheckpointError(directory / str(seen[0]), seen[1]) from damage
    return found[0]


def _validator(run: Run) -> loop.Validate:
    """Returns state -> metrics of the first protocol by split, on the config's share of users, and of the state."""
    protocol = run.config.evaluation.protocols[0]
    users = {split: run.evaluator.validation_users(split) for split in _tracked_splits(run)}
    scorer_of = run.scorer_function()

    def validate(state: TrainState) -> dict[str, dict[str, float]]:
        scorer = scorer_of(state)
        found = {
            split: run.evaluator.evaluate(scorer, split, protocol, users=ids).metrics for split, ids in users.items()
        }
        of_state = run.state_metrics(state)
        return {**found, STATE: of_state} if of_state else found

    return validate


def _tracked_splits(run: Run) -> list[str]:
    splits = ["validation"] if run.has_rows("validation") else []
    return [*splits, "test"] if run.config.training.track_test else splits
