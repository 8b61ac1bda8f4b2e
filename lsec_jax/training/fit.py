"""The whole job of `python -m lsec_jax.train`: prepare, train or resume, evaluate, report."""

from pathlib import Path

from absl import logging

from lsec_jax.config import RunConfig
from lsec_jax.parallel import processes
from lsec_jax.training import loop, plots, reports
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.run import Run, await_claim, check_workdir, claim_workdir, describe_data, prepare
from lsec_jax.training.state import TrainState
from lsec_jax.training.writers import open_writer


def run(config: RunConfig, workdir: Path, audit: bool = False) -> str:
    """Trains (or resumes) and writes everything into the workdir.

    Args:
        config: of the run.
        workdir: new, empty, or of this run.
        audit: look for leaks between training and evaluation first.

    Returns:
        The leaderboard as Markdown, in the first process.

    Raises:
        ConfigError, DataError: before anything is written.
        ProcessError: if another process of the run failed before training, or has other data.
        NonFiniteError: if training diverged; the last good checkpoint stays.
    """
    with processes.agreed("preparing the run"):
        config = check_workdir(workdir, config)
        prepared = prepare(config)
        if audit:
            prepared.audit()
            logging.info("audit: nothing leaks from validation and test into training")
        for text in config.model.warnings(prepared.inputs, config.training.batch_size):
            logging.warning(text)
    _claim(workdir, prepared)
    state, progress, last_step = _train(prepared, workdir)
    logging.info("evaluating the checkpoint of step %d and the baselines", int(state.step))
    scorers = {reports.model_name(config): prepared.scorer_function()(state)}
    rows = reports.rows(prepared, scorers, prepared.held_out(), config.evaluation.protocols, progress.train_seconds)
    rows += reports.baseline_rows(prepared, prepared.held_out(), config.evaluation.protocols)
    report = ""
    with processes.agreed("writing the report"):
        if processes.is_first():
            report = reports.write(workdir, prepared, rows, int(state.step), last_step, progress)
            plots.draw(workdir, rows)
    return report


def _claim(workdir: Path, run: Run) -> None:
    """Makes the workdir this run's own. All processes must have the same data, and see what the first one wrote."""
    if processes.count() > 1:
        processes.require_same({"data": describe_data(run.data)}, "Give every process the same files")
    with processes.agreed("claiming the workdir"):
        if processes.is_first():
            claim_workdir(workdir, run)
    with processes.agreed("looking at the workdir"):
        if not processes.is_first():
            await_claim(workdir)


def _train(run: Run, workdir: Path) -> tuple[TrainState, Progress, int]:
    """Returns the best state, and the last step."""
    config = run.config
    validate = _validator(run)
    state, progress = run.initial_state(), Progress()
    with Checkpoints(workdir / "checkpoints", config.checkpoint.keep_last) as checkpoints:
        latest = checkpoints.latest_step()
        if latest is not None:
            state, progress = checkpoints.restore(state, latest)
            is_finished = loop.is_finished(config.training, latest, progress)
            logging.info("training ended at step %d" if is_finished else "resuming from step %d", latest)
        with open_writer(workdir, int(state.step), config.training.num_steps) as writer:
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
    return best, progress, last_step


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
