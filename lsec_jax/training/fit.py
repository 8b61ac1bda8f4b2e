"""The whole job of `python -m lsec_jax.train`: prepare, train or resume, evaluate, report."""

from pathlib import Path
from typing import NamedTuple

from absl import logging

from lsec_jax.config import RunConfig
from lsec_jax.schema import LiveCommerceData
from lsec_jax.training import initialisation, loop, plots, reports
from lsec_jax.training.checkpoints import Checkpoints, Progress, has_checkpoints
from lsec_jax.training.initialisation import Origin
from lsec_jax.training.run import Run, check_workdir, claim_workdir, prepare
from lsec_jax.training.state import TrainState
from lsec_jax.training.writers import MetricWriter


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


def run(config: RunConfig, workdir: Path, audit: bool = False, origin: Origin | None = None) -> str:
    """Trains (or resumes) and writes everything into the workdir.

    Args:
        config: of the run.
        workdir: new, empty, or of this run.
        audit: look for leaks between training and evaluation first.
        origin: an earlier run to start from; a run that was begun keeps the one that it has.

    Returns:
        The leaderboard as Markdown.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
        NonFiniteError: if training diverged; the last good checkpoint stays.
    """
    prepared, state, progress, last_step = train(config, workdir, audit, origin)
    config = prepared.config
    logging.info("evaluating the checkpoint of step %d and the baselines", int(state.step))
    scorers = {reports.model_name(config): prepared.scorer_function()(state)}
    rows = reports.rows(prepared, scorers, prepared.held_out(), config.evaluation.protocols, progress.train_seconds)
    rows += reports.baseline_rows(prepared, prepared.held_out(), config.evaluation.protocols)
    report = reports.write(workdir, prepared, rows, int(state.step), last_step, progress)
    plots.draw(workdir, rows)
    return report


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
        ConfigError, DataError, CheckpointError, NonFiniteError: as `run`.
    """
    config = check_workdir(workdir, config)
    origin = initialisation.settle(workdir, config, origin)
    prepared = prepare(config, data)
    if audit:
        prepared.audit()
        logging.info("audit: nothing leaks from validation and test into training")
    for text in config.model.warnings(prepared.inputs, config.training.batch_size):
        logging.warning(text)
    begun = None
    if origin is not None and not has_checkpoints(workdir / "checkpoints"):
        begun = initialisation.start(prepared, origin)
        initialisation.check_unchanged(workdir, begun)
    claim_workdir(workdir, prepared, None if begun is None else begun.record)
    return _train(prepared, workdir, None if begun is None else begun.state)


def _train(run: Run, workdir: Path, initial: TrainState | None) -> Trained:
    """Trains to the end, from another run's parameters if `initial` is given."""
    config = run.config
    validate = _validator(run)
    state, progress = run.initial_state() if initial is None else initial, Progress()
    with Checkpoints(workdir / "checkpoints", config.checkpoint.keep_last) as checkpoints:
        latest = checkpoints.latest_step()
        if latest is not None:
            state, progress = checkpoints.restore(state, latest)
            is_finished = loop.is_finished(config.training, latest, progress)
            logging.info("training ended at step %d" if is_finished else "resuming from step %d", latest)
        elif initial is not None:
            checkpoints.save(state, progress)  # from now on the earlier run is not needed
        with MetricWriter(workdir, int(state.step), config.training.num_steps) as writer:
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
            )
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        best, _ = checkpoints.restore(run.initial_state(), checkpoints.best_step())
        last_step = checkpoints.latest_step()
    assert last_step is not None
    return Trained(run, best, progress, last_step)


def _validator(run: Run) -> loop.Validate:
    """Returns state -> metrics of the first protocol by split, on the config's share of users."""
    protocol = run.config.evaluation.protocols[0]
    users = {split: run.evaluator.validation_users(split) for split in _tracked_splits(run)}
    scorer_of = run.scorer_function()

    def validate(state: TrainState) -> dict[str, dict[str, float]]:
        scorer = scorer_of(state)
        return {
            split: run.evaluator.evaluate(scorer, split, protocol, users=ids).metrics for split, ids in users.items()
        }

    return validate


def _tracked_splits(run: Run) -> list[str]:
    splits = ["validation"] if run.has_edges("validation") else []
    return [*splits, "test"] if run.config.training.track_test else splits
