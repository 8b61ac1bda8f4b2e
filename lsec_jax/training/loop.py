"""The training loop: steps, validations, early stopping, checkpoints."""

import time
from collections.abc import Callable, Mapping
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
    while not _is_finished(config, step, progress):
        state, metrics = step_function(state, inputs, batch_at(step))
        pending.append(metrics)
        step += 1
        is_validation = step % config.evaluate_every == 0 or step == config.num_steps
        if step % config.log_every == 0 or is_validation:
            with clock.waiting():
                means = _fetch(pending, step, checkpoints)
            progress.train_seconds = clock.seconds()
            means |= clock.rates(len(pending))
            pending = []
            shown["loss"] = means["loss"]
            writer.write(step, "train", means, progress.train_seconds)
            writer.progress(step, means["seconds_per_step"], shown)
        out_of_time = 0 < config.max_seconds <= progress.train_seconds
        if is_validation or (out_of_time and not pending):
            for kind, values in validate(state).items():
                writer.write(step, kind, values, progress.train_seconds)
                if kind == "validation":
                    progress.record(step, values[config.metric])
                    shown |= {config.metric: values[config.metric], "best": max(progress.best_value or 0.0, 0.0)}
            writer.progress(step, clock.last_seconds_per_step, shown)
            checkpoints.save(state, progress)
            clock.restart()
    return progress


def _is_finished(config: TrainingConfig, step: int, progress: Progress) -> bool:
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
            last = checkpoints.latest_step()
            kept = (
                f"the checkpoint of step {last} is intact" if last is not None else "no checkpoint had been saved yet"
            )
            raise NonFiniteError(
                f"step {first + i}: {', '.join(sorted(bad))} is not finite; training stopped and {kept}. "
                "Lower config.optimizer.learning_rate, or look at the data of that step"
            )
    return {name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]}


class _Clock:
    """Training time without evaluation, and how much of it the host spent waiting for the device."""

    def __init__(self, seconds_before: float):
        self._before = seconds_before
        self.last_seconds_per_step = 0.0
        self.restart()

    def restart(self) -> None:
        self._started = self._marked = time.perf_counter()
        self._waited = 0.0

    def waiting(self) -> "_Clock":
        return self

    def __enter__(self) -> None:
        self._wait_started = time.perf_counter()

    def __exit__(self, *exception: Any) -> None:
        self._waited += time.perf_counter() - self._wait_started

    def seconds(self) -> float:
        now = time.perf_counter()
        self._before += now - self._started
        self._started = now
        return self._before

    def rates(self, num_steps: int) -> dict[str, float]:
        now = time.perf_counter()
        elapsed, self._marked = max(now - self._marked, 1e-9), now
        self.last_seconds_per_step = elapsed / num_steps
        waited, self._waited = self._waited, 0.0
        return {"seconds_per_step": self.last_seconds_per_step, "device_wait_share": min(waited / elapsed, 1.0)}
