"""The training loop: steps, validations, early stopping, checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lsec_jax.config import TrainingConfig
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.compilation import RecompilationGuard, log
from lsec_jax.training.state import TrainState
from lsec_jax.training.step_inputs import StepInput, StepInputs
from lsec_jax.training.writers import MetricWriter

# Steps that may wait for the device before the host waits for them.
_MAX_QUEUED = 2
_SHOWN = ("loss", "draw_seconds", "input_wait_share")

Validate = Callable[[TrainState], Mapping[str, Mapping[str, float]]]


class NonFiniteError(RuntimeError):
    """The loss or the gradient stopped being a number; the message names the step and the last good checkpoint."""


def train(
    config: TrainingConfig,
    state: TrainState,
    progress: Progress,
    step_function: Callable[..., Any],
    input_at: Callable[[int], StepInput],
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
        step_function: (state, inputs, batch, draws if there are any) -> (state, metrics).
        input_at: step -> its batch and draws, a pure function; called ahead, by another thread.
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
    clock, guard = _Clock(progress.train_seconds, progress.compile_seconds), RecompilationGuard()
    pending: list[dict[str, Any]] = []
    shown: dict[str, float] = {}
    if not is_finished(config, step, progress):
        writer.announce("compiling the training step")
    with StepInputs(input_at, step, config.num_steps, config.prefetch) as stream:
        while not is_finished(config, step, progress):
            with guard.phase("the training step", step + 1):
                own_input = clock.next_input(stream, pending)
                drawn = () if own_input.drawn is None else (own_input.drawn,)
                state, metrics = step_function(state, inputs, own_input.batch, *drawn)
                del own_input, drawn  # or they would stay in memory until the next ones are there
            pending.append(metrics)
            step += 1
            if clock.after_step(pending):
                own_seconds = clock.compile_seconds() - progress.compile_seconds  # without those of earlier processes
                writer.announce(f"compiled the training step in {own_seconds:.1f} s")
            is_validation = step % config.evaluate_every == 0 or step == config.num_steps
            if step % config.log_every == 0 or is_validation:
                with clock.waiting():
                    means = _fetch(pending, step, checkpoints)
                progress.train_seconds, progress.compile_seconds = clock.seconds(), clock.compile_seconds()
                means |= clock.rates(len(pending))
                pending = []
                shown |= {name: means[name] for name in _SHOWN if name in means}
                writer.write(step, "train", means, progress.train_seconds)
            # The limit is looked at where the loop waits for the device anyway.
            out_of_time = not pending and 0 < config.max_seconds <= progress.train_seconds
            if is_validation or out_of_time:
                with clock.validating(), guard.phase("validation", step):
                    shown |= _validate(validate, state, step, config.metric, progress, writer)
                    checkpoints.save(state, progress)
            if not pending:
                writer.progress(step, clock.seconds_per_step, clock.seconds_left(config, step), shown)
    return progress


def _validate(
    validate: Validate, state: TrainState, step: int, metric: str, progress: Progress, writer: MetricWriter
) -> dict[str, float]:
    """Validates, takes the result into the record and returns what to show of it."""
    shown: dict[str, float] = {}
    for kind, values in validate(state).items():
        writer.write(step, kind, values, progress.train_seconds)
        if kind == "validation":
            progress.record(step, values[metric])
            assert progress.best_value is not None
            shown = {metric: values[metric], "best": progress.best_value}
    return shown


def is_finished(config: TrainingConfig, step: int, progress: Progress) -> bool:
    """Whether the steps, the patience or the time are used up."""
    out_of_patience = 0 < config.patience <= progress.misses
    out_of_time = 0 < config.max_seconds <= progress.train_seconds
    return step >= config.num_steps or out_of_patience or out_of_time


def _fetch(pending: list[dict[str, Any]], step: int, checkpoints: Checkpoints) -> dict[str, float]:
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
    """Training time without evaluation, and what the host and the device spent waiting for each other.

    Rates leave out the first step, which compiles; training time does not.
    """

    def __init__(self, seconds_before: float, compile_seconds_before: float = 0.0):
        self._before = seconds_before
        self.seconds_per_step = 0.0
        self._seconds_per_validation = 0.0
        self._is_warm = False
        self._uncounted = 0
        self._started = self._marked = time.perf_counter()
        self._waited = self._starved = self._draw_seconds = 0.0
        self._compiled_elsewhere = log().now().seconds - compile_seconds_before

    def next_input(self, stream: StepInputs, pending: list[dict[str, Any]]) -> StepInput:
        """Takes the next input; the wait for it counts if the device had nothing left to do at its end."""
        found = stream.next()
        self._draw_seconds += found.draw_seconds
        if not pending or all(value.is_ready() for value in pending[-1].values()):
            self._starved += stream.seconds_waited
        return found

    def after_step(self, pending: list[dict[str, Any]]) -> bool:
        """Waits for the first step, so that the rates start after it, and later for all but the newest ones.

        Without that, inputs of steps that were not begun would fill the memory.

        Returns:
            Whether it was the first.
        """
        if self._is_warm:
            if len(pending) > _MAX_QUEUED:
                with self.waiting():
                    jax.block_until_ready(pending[-1 - _MAX_QUEUED])
            return False
        jax.block_until_ready(pending[-1])
        self._is_warm, self._uncounted, self._marked = True, 1, time.perf_counter()
        self._waited = self._starved = self._draw_seconds = 0.0
        return True

    def compile_seconds(self) -> float:
        """How much of the training time so far went into compilation."""
        return log().now().seconds - self._compiled_elsewhere

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for the device."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Leaves the time inside out of training time and rates."""
        started, compiled = time.perf_counter(), log().now().seconds
        yield
        self._compiled_elsewhere += log().now().seconds - compiled
        self._started = self._marked = time.perf_counter()
        self._seconds_per_validation = self._started - started

    def seconds(self) -> float:
        """Training time so far."""
        now = time.perf_counter()
        self._before += now - self._started
        self._started = now
        return self._before

    def rates(self, num_steps: int) -> dict[str, float]:
        """Costs of the last `num_steps` steps.

        Returns:
            "seconds_per_step"; "device_wait_share" and "input_wait_share" of that time, in which the host waited for
            the device and the device for its input (at most: a wait counts whole where the device ended during it);
            "draw_seconds" per step, where there is something to draw; "compile_seconds" of the run so far.
        """
        now = time.perf_counter()
        counted, self._uncounted = num_steps - self._uncounted, 0
        elapsed = max(now - self._marked, 1e-9)
        if counted:
            self.seconds_per_step = elapsed / counted
        elif not self.seconds_per_step:  # only the step that compiled: all there is to go by
            self.seconds_per_step = self._before / num_steps
        costs = {"seconds_per_step": self.seconds_per_step}
        costs |= {"device_wait_share": self._waited / elapsed, "input_wait_share": self._starved / elapsed}
        costs = {name: min(value, 1.0) if name.endswith("share") else value for name, value in costs.items()}
        if self._draw_seconds:
            costs["draw_seconds"] = self._draw_seconds / counted
        self._marked, self._waited, self._starved, self._draw_seconds = now, 0.0, 0.0, 0.0
        return {**costs, "compile_seconds": self.compile_seconds()}

    def seconds_left(self, config: TrainingConfig, step: int) -> float:
        """Until the last step at the present pace, with as many validations as are due."""
        num_validations = -(-config.num_steps // config.evaluate_every) - step // config.evaluate_every
        steps = (config.num_steps - step) * self.seconds_per_step
        return steps + (num_validations * self._seconds_per_validation if step < config.num_steps else 0.0)
