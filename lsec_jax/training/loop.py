"""The training loop: steps, validations, early stopping, checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lsec_jax.config import TrainingConfig
from lsec_jax.parallel import processes
from lsec_jax.schema import DataError
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.compilation import RecompilationGuard, log
from lsec_jax.training.state import TrainState
from lsec_jax.training.step_inputs import StepInput, StepInputs
from lsec_jax.training.termination import Terminated, Termination
from lsec_jax.training.writers import Writer

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
    writer: Writer,
    save_every: int = 0,
) -> Progress:
    """Trains until the steps, the patience or the time are used up. Every validation also saves a checkpoint.

    Args:
        config: length and rhythm.
        state: where to start; its buffers are donated.
        progress: the record that belongs to it.
        step_function: (state, inputs, batch, draws if there are any) -> (state, metrics).
        input_at: step -> its batch and draws, a pure function; called ahead, by another thread.
        inputs: the model's big arrays.
        validate: state -> metrics by kind; those of kind "validation" hold `config.metric` and drive early stopping.
        checkpoints: where to save.
        writer: where to write metrics.
        save_every: steps between checkpoints besides those of validations; 0 = none.

    Returns:
        The final record; the best parameters are in the checkpoint of `best_step`.

    Raises:
        NonFiniteError: if a loss or gradient is not finite and may not be skipped; nothing of that step is saved.
        Terminated: after SIGTERM, with everything saved.
    """
    step = int(state.step)
    session = _Session(config, progress, validate, checkpoints, writer)
    with StepInputs(input_at, step, config.num_steps, config.prefetch) as stream, Termination() as termination:
        if progress.owes_validation:
            session.make_up(state, step, termination)
        if not is_finished(config, step, progress):
            writer.announce("compiling the training step")
        while not is_finished(config, step, progress):
            state = session.advance(state, step_function, inputs, stream, step + 1)
            step += 1
            termination.begin()
            is_validation = step % config.evaluate_every == 0 or step == config.num_steps
            if is_logged := step % config.log_every == 0 or is_validation:
                session.log(step)
            # The limit is looked at where the loop waits for the device anyway.
            out_of_time = is_logged and 0 < config.max_seconds <= progress.train_seconds
            if is_validation or out_of_time:
                session.validate(state, step, termination)
                session.save(state, step, is_validated=True)
            elif save_every and step % save_every == 0:
                session.save(state, step)
            if is_logged:
                session.show(step)
            if termination.is_due(step):
                session.save(state, step)
                raise Terminated(f"saved step {step}; the same command resumes")
    return progress


class _Session:
    """What this process keeps of a run besides its state: clocks, and metrics that are not written yet."""

    def __init__(
        self,
        config: TrainingConfig,
        progress: Progress,
        validate: Validate,
        checkpoints: Checkpoints,
        writer: Writer,
    ):
        self._config, self._progress, self._validate = config, progress, validate
        self._checkpoints, self._writer = checkpoints, writer
        self._clock, self._guard = _Clock(progress.train_seconds, progress.compile_seconds), RecompilationGuard()
        self._seconds_of_others = progress.compile_seconds
        self._on_device: list[dict[str, Any]] = []
        self._num_unwritten = 0
        self._shown: dict[str, float] = {}
        self._saved: int | None = None

    def advance(
        self, state: TrainState, step_function: Callable[..., Any], inputs: Any, stream: StepInputs, step: int
    ) -> TrainState:
        """Makes a step, the `step`-th, and waits where too many are queued."""
        with self._guard.phase("the training step", step):
            own_input = self._clock.next_input(stream, self._on_device)
            drawn = () if own_input.drawn is None else (own_input.drawn,)
            state, metrics = step_function(state, inputs, own_input.batch, *drawn)
            del own_input, drawn  # or they would stay in memory until the next ones are there
        self._on_device.append(metrics)
        self._num_unwritten += 1
        if self._clock.after_step(self._on_device):
            own_seconds = self._clock.compile_seconds() - self._seconds_of_others
            self._writer.announce(f"compiled the training step in {own_seconds:.1f} s")
        return state

    def log(self, step: int) -> None:
        """Writes the means over the steps since the last line; skipped steps have no part in them."""
        self._fetch(step)
        means = _means(self._progress.pending) | self._clock.rates(self._num_unwritten)
        if self._config.on_nonfinite == "skip":
            means["skipped"] = len(self._progress.skipped)
        self._progress.pending, self._num_unwritten = [], 0
        self._shown |= {name: means[name] for name in _SHOWN if name in means}
        self._writer.write(step, "train", means, self._progress.train_seconds)

    def show(self, step: int) -> None:
        """Shows how far the run is."""
        seconds_left = self._clock.seconds_left(self._config, step)
        self._writer.progress(step, self._clock.seconds_per_step, seconds_left, self._shown)

    def validate(self, state: TrainState, step: int, termination: Termination) -> None:
        """Validates and takes the result into the record.

        Raises:
            Terminated: when the run is asked to end meanwhile; the state is saved, and the validation is still to make.
        """
        with self._clock.validating(), self._guard.phase("validation", step):
            try:
                with termination.interrupting():
                    found = processes.of_first(self._validate(state))
            except Terminated:
                self._progress.owes_validation = True
                self.save(state, step)
                raise Terminated(f"saved step {step}, whose validation comes first when it is resumed") from None
            self._progress.owes_validation = False
            for kind, values in found.items():
                self._writer.write(step, kind, values, self._progress.train_seconds)
                if kind == "validation":
                    if self._config.metric not in values:
                        raise DataError(
                            f"config.training.metric = '{self._config.metric}': the validation rows do not define it "
                            "(all answers of one class?); choose another metric, or hold out more rows (config.split, "
                            "config.evaluation.validation_users)"
                        )
                    value = values[self._config.metric]
                    self._progress.record(step, value)
                    assert self._progress.best_value is not None
                    self._shown |= {self._config.metric: value, "best": self._progress.best_value}

    def make_up(self, state: TrainState, step: int, termination: Termination) -> None:
        """Makes the validation that the checkpoint of this step owes, and stores its result there."""
        self.validate(state, step, termination)
        with self._clock.saving():
            self._writer.flush()
            self._checkpoints.complete(step, self._progress, self._progress.last_value)

    def save(self, state: TrainState, step: int, is_validated: bool = False) -> None:
        """Saves what is not saved yet, after a look at the numbers of all steps so far."""
        if self._saved == step:
            return
        self._fetch(step)
        with self._clock.saving(), self._guard.phase("saving", step):
            self._writer.flush()  # no line may be lost of steps that are not trained again
            self._checkpoints.save(state, self._progress, self._progress.last_value if is_validated else None)
        self._saved = step

    def _fetch(self, step: int) -> None:
        """Waits for the device and takes every step's numbers into the record.

        Raises:
            NonFiniteError: if one of them is not finite and may not be skipped.
        """
        if not self._on_device:
            return
        with self._clock.waiting():
            fetched = jax.device_get(self._on_device)
        self._on_device = []
        for number, metrics in enumerate(fetched, step - len(fetched) + 1):
            if metrics.pop("skipped", 0):
                self._progress.skipped.append(number)
                continue
            if bad := [name for name, value in metrics.items() if not np.isfinite(value)]:
                raise NonFiniteError(f"step {number}: {', '.join(sorted(bad))} is not finite; {self._what_is_left()}")
            self._progress.pending.append({name: float(value) for name, value in metrics.items()})
        if len(skipped := self._progress.skipped) > self._config.max_skipped:
            raise NonFiniteError(
                f"steps {', '.join(map(str, skipped))}: loss or gradient is not finite; more were skipped than "
                f"config.training.max_skipped = {self._config.max_skipped}; {self._what_is_left()}"
            )
        seconds = processes.of_first([self._clock.seconds(), self._clock.compile_seconds()])
        self._progress.train_seconds, self._progress.compile_seconds = seconds

    def _what_is_left(self) -> str:
        last = self._checkpoints.finished_step()
        kept = f"the checkpoint of step {last} is intact" if last is not None else "no checkpoint had been saved yet"
        return (
            f"training stopped and {kept}. Lower config.optimizer.learning_rate, or look at the data of that step; "
            "config.training.on_nonfinite and max_skipped, which a resumed run may change, say whether to skip it"
        )


def is_finished(config: TrainingConfig, step: int, progress: Progress) -> bool:
    """Whether the steps, the patience or the time are used up."""
    out_of_patience = 0 < config.patience <= progress.misses
    out_of_time = 0 < config.max_seconds <= progress.train_seconds
    return step >= config.num_steps or out_of_patience or out_of_time


def _means(pending: list[dict[str, float]]) -> dict[str, float]:
    """Of each metric, over the steps that have it: a resumed run may have others."""
    names = dict.fromkeys(name for metrics in pending for name in metrics)
    return {name: float(np.mean([of[name] for of in pending if name in of])) for name in names}


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
        """Leaves the time inside out of training time and rates; the time left counts it for each validation."""
        started = time.perf_counter()
        with self.saving():
            yield
        self._seconds_per_validation = time.perf_counter() - started

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Leaves the time inside out of training time and rates."""
        started, compiled = time.perf_counter(), log().now().seconds
        yield
        self._compiled_elsewhere += log().now().seconds - compiled
        elapsed = time.perf_counter() - started
        self._started += elapsed
        self._marked += elapsed

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
