"""Training with its quality measured on the way, timed without the measurements."""

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax

from lsec_jax.config import ConfigError
from lsec_jax.training.run import Run

Point = Mapping[str, float]


class Stopwatch:
    """Wall seconds, and seconds that this process had a core, of what runs between `start` and `stop`."""

    def __init__(self) -> None:
        self._seconds = self._core_seconds = 0.0
        self._started = 0.0, 0.0

    def start(self) -> None:
        """Goes on."""
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Stands still."""
        self._seconds += time.perf_counter() - self._started[0]
        self._core_seconds += time.process_time() - self._started[1]

    def read(self) -> dict[str, float]:
        """Both, while it stands still."""
        return {"seconds": self._seconds, "core_seconds": self._core_seconds}


def train_measured(
    run: Run, num_steps: int, is_measured: Callable[[int], bool], between: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Trains and measures `config.training.metric` under the first protocol.

    The split is "validation", or "test" where the data has no validation split.

    Args:
        run: prepared.
        num_steps: to train, at most `config.training.num_steps`.
        is_measured: step -> whether to measure after it.
        between: called at each measurement; it is not timed either.

    Returns:
        "compilation" and "points", each with "seconds" and "core_seconds" (points: of the steps up to there, without
        compilation and measurements), points also with "step" and "value".
    """
    config, split = run.config, run.held_out()[0]
    state, batch_at, scorer_of = run.initial_state(), run.batch_at(), run.scorer_function()
    compilation, training = Stopwatch(), Stopwatch()
    compilation.start()
    step_function = run.step_function().lower(state, run.inputs, batch_at(0)).compile()
    compilation.stop()
    points = []
    for step in range(1, num_steps + 1):
        training.start()
        state, metrics = step_function(state, run.inputs, batch_at(step - 1))
        jax.block_until_ready((state, metrics))
        training.stop()
        if is_measured(step):
            row = run.evaluator.evaluate(scorer_of(state), split, config.evaluation.protocols[0])
            points.append({"step": step, **training.read(), "value": row.metrics[config.training.metric]})
            between()
    return {"compilation": compilation.read(), "points": points}


def first_at(points: Sequence[Point], level: float) -> Point | None:
    """The first point whose value is at the level, or None."""
    return next((point for point in points if point["value"] >= level), None)


def pin(core: int) -> None:
    """Keeps this process, and those that it starts, on one core.

    Raises:
        ConfigError: if the core is not ours.
    """
    allowed = os.sched_getaffinity(0)
    if core not in allowed:
        raise ConfigError(f"--core={core}: this process may use {', '.join(map(str, sorted(allowed)))}")
    os.sched_setaffinity(0, {core})


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Calls a function of a module in a fresh process, so that nothing is compiled or warm yet.

    Raises:
        ConfigError: if that process was killed, most likely for its memory.
    """
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool:
            raise ConfigError(f"{work.__name__}: the process was killed, most likely for its memory") from None
