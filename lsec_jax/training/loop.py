"""The training loop: steps, validations, early stopping, checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lsec_jax.config import TrainingConfig
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.state import TrainState
from lsec_jax.training.writers import MetricWriter

Validate = Callable[[TrainState], Mapping[str, Mapping[str, float]]]


class NonFiniteError(RuntimeError):
    """The loss or the gradient stopped being a number; the message names the step and the last good checkpoint."""


def train(
    config: TrainingConfig,
    state: TrainState,
    progress: Progress,
    step_function: Callable[..., Any],
    batch_at: Callable[[int], Mapping[str, np.ndarray]],
    inputs: Any,
    validate: Validate,
    checkpoints: Checkpoints,
    writer: MetricWriter,
) -> Progress:
    """Trains until the steps, the patience or the time are used up. Every validation also saves a checkpoint.

    Args:
        config: length and rhythm.
        state: where to start; its buffers are donated.
        progress: early-stopping record that belongs to it.
        step_function: (state, inputs, batch) -> (state, metrics).
        batch_at: step -> batch of numpy arrays, a pure function.
        inputs: the model's big arrays.
        validate: state -> metrics by kind; those of kind "validation" hold `config.metric` and drive early stopping.
        checkpoints: where to save.
        writer: where to write metrics.

    Returns:
        The final record; the best parameters are in the checkpoint of `best_step`.

    Raises:
        NonFiniteError: if a loss or gradient norm is NaN or infinite; nothing of that step is saved.
    """
    step = int(state.step)
    clock = _Clock(progress.train_seconds)
    pending: list[dict[str, jax.Array]] = []
    shown: dict[str, float] = {}
    if not is_finished(config, step, progress):
        writer.announce("compiling the training step")
    while not is_finished(config, step, progress):
        state, metrics = step_function(state, inputs, batch_at(step))
        pending.append(metrics)
        step += 1
        clock.after_step(metrics)
        is_validation = step % config.evaluate_every == 0 or step == config.num_steps
        if step % config.log_every == 0 or is_validation:
            with clock.waiting():
                means = _fetch(pending, step, checkpoints)
            progress.train_seconds = clock.seconds()
            means |= clock.rates(len(pending))
            pending = []
            shown["loss"] = means["loss"]
            writer.write(step, "train", means, progress.train_seconds)
        # The limit is looked at where the loop waits for the device anyway.
        out_of_time = not pending and 0 < config.max_seconds <= progress.train_seconds
        if is_validation or out_of_time:
            with clock.validating():
                for kind, values in validate(state).items():
                    writer.write(step, kind, values, progress.train_seconds)
                    if kind == "validation":
                        progress.record(step, values[config.metric])
                        assert progress.best_value is not None
                        shown |= {config.metric: values[config.metric], "best": progress.best_value}
                checkpoints.save(state, progress)
        if not pending:
            writer.progress(step, clock.seconds_per_step, clock.seconds_left(config, step), shown)
    return progress


def is_finished(config: TrainingConfig, step: int, progress: Progress) -> bool:
    """Whether the steps, the patience or the time are used up."""
    out_of_patience = 0 < config.patience <= progress.misses
    out_of_time = 0 < config.max_seconds <= progress.train_seconds
    return step >= config.num_steps or out_of_patience or out_of_time


def _fetch(pending: list[dict[str, jax.Array]], step: int, checkpoints: Checkpoints) -> dict[str, float]:
    """Waits for the device, checks every step's numbers and returns their means."""
    fetched = jax.device_get(pending)
    first = step - len(fetched) + 1
    for i, metrics in enumerate(fetched):
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if bad:
            last = checkpoints.finished_step()
            kept = (
                f"the checkpoint of step {last} is intact" if last is not None else "no checkpoint had been saved yet"
            )
            raise NonFiniteError(
                f"step {first + i}: {', '.join(sorted(bad))} is not finite; training stopped and {kept}. "
                "Lower config.optimizer.learning_rate, or look at the data of that step"
            )
    return {name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]}


class _Clock:
    """Training time without evaluation, and how much of it the host spent waiting for the device.

    Rates leave out the first step, which compiles; training time does not.
    """

    def __init__(self, seconds_before: float):
        self._before = seconds_before
        self.seconds_per_step = 0.0
        self._seconds_per_validation = 0.0
        self._is_warm = False
        self._uncounted = 0
        self._started = self._marked = time.perf_counter()
        self._waited = 0.0

    def after_step(self, metrics: dict[str, jax.Array]) -> None:
        """Waits for the first step, so that the rates start after it."""
        if not self._is_warm:
            jax.block_until_ready(metrics)
            self._is_warm, self._uncounted, self._marked = True, 1, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for the device."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Leaves the time inside out of training time and rates."""
        started = time.perf_counter()
        yield
        self._started = self._marked = time.perf_counter()
        self._seconds_per_validation = self._started - started

    def seconds(self) -> float:
        """Training time so far."""
        now = time.perf_counter()
        self._before += now - self._started
        self._started = now
        return self._before

    def rates(self, num_steps: int) -> dict[str, float]:
        """Seconds per step and the waiting share of the last `num_steps` steps."""
        now = time.perf_counter()
        counted, self._uncounted = num_steps - self._uncounted, 0
        elapsed, waited = max(now - self._marked, 1e-9), self._waited
        self._marked, self._waited = now, 0.0
        if counted:
            self.seconds_per_step = elapsed / counted
        elif not self.seconds_per_step:  # only the step that compiled: all there is to go by
            self.seconds_per_step = self._before / num_steps
        return {"seconds_per_step": self.seconds_per_step, "device_wait_share": min(waited / elapsed, 1.0)}

    def seconds_left(self, config: TrainingConfig, step: int) -> float:
        """Until the last step at the present pace, with as many validations as are due."""
        num_validations = -(-config.num_steps // config.evaluate_every) - step // config.evaluate_every
        steps = (config.num_steps - step) * self.seconds_per_step
        return steps + (num_validations * self._seconds_per_validation if step < config.num_steps else 0.0)
