"""What benchmarks of one model's training step share: steps, work in turns, operations, and what steps wait for."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from lsec_jax.config import TrainingConfig
from lsec_jax.nn import row_blocks
from lsec_jax.nn.sequence import self_attention
from lsec_jax.training.base_run import Run
from lsec_jax.training.step_inputs import StepInput, StepInputs

Times = dict[str, list[float]]


class Step:
    """One variant's step, which goes on with the state of the one before."""

    def __init__(self, run: Run) -> None:
        """Compiles it, and runs it once."""
        self.run, self.function, self.state = run, run.step_function(), run.initial_state()
        self.batch = jax.tree.map(jnp.asarray, run.batch_at()(0))
        started = time.perf_counter()
        self()
        self.compile_seconds = time.perf_counter() - started

    def __call__(self) -> None:
        """One step."""
        self.state, metrics = jax.block_until_ready(self.function(self.state, self.run.inputs, self.batch))
        if not np.isfinite(float(metrics["loss"])):
            raise ValueError(f"the loss is not finite: {metrics}")


def operations(run: Run) -> float:
    """Floating-point operations of a step, as XLA counts those of a program without loops."""
    state, batch = run.unplaced_state(), jax.tree.map(jnp.asarray, run.batch_at()(0))
    with _whole():
        function = run.step_function()
        return float(function.lower(state, run.inputs, batch).cost_analysis()["flops"])


@contextmanager
def _whole() -> Iterator[None]:
    """Rows are not divided into blocks: XLA counts what is in a loop once."""
    kept = row_blocks.BLOCK_VALUES, self_attention._BLOCK_WEIGHTS
    row_blocks.BLOCK_VALUES = self_attention._BLOCK_WEIGHTS = 2**62
    try:
        yield
    finally:
        row_blocks.BLOCK_VALUES, self_attention._BLOCK_WEIGHTS = kept


def product(size: int) -> tuple[Callable[[], object], float]:
    """A product of two square matrices, and its operations."""
    first, second = (jnp.asarray(np.random.default_rng(i).random((size, size), np.float32)) for i in (0, 1))
    multiply = jax.jit(jnp.matmul)
    multiply(first, second).block_until_ready()
    return lambda: multiply(first, second).block_until_ready(), 2.0 * size**3


def in_turns(works: Mapping[str, Callable[[], object]], repetitions: int, num_warm_ups: int = 0) -> dict[str, Times]:
    """Each work's "seconds" and "cpu_seconds" of its repetitions, one work after the other, over and over.

    Args:
        works: by name.
        repetitions: of each that count.
        num_warm_ups: turns before them that do not.
    """
    found: dict[str, Times] = {name: {"seconds": [], "cpu_seconds": []} for name in works}
    for turn, (name, work) in itertools.product(range(-num_warm_ups, repetitions), works.items()):
        wall, core = time.perf_counter(), time.process_time()
        work()
        if turn >= 0:
            found[name]["seconds"].append(time.perf_counter() - wall)
            found[name]["cpu_seconds"].append(time.process_time() - core)
    return found


def waiting(step: Step, num_steps: int, input_core: int | None = None) -> dict[str, float]:
    """Steps that read their inputs as a run does, made ahead by a thread: what they wait for them, and their rate.

    Args:
        step: is run.
        num_steps: how often.
        input_core: number of the core that the thread is bound to; None = those of the process.
    """
    at = step.run.batch_at()

    def make(number: int) -> StepInput:
        if input_core is not None:
            os.sched_setaffinity(0, {input_core})  # of this thread alone
        return StepInput(jax.tree.map(jnp.asarray, at(number)))

    waited, started = 0.0, time.perf_counter()
    with StepInputs(make, 0, num_steps, TrainingConfig().prefetch) as stream:
        for _ in range(num_steps):
            step.batch = stream.next().batch
            waited += stream.seconds_waited
            step()
    seconds = time.perf_counter() - started
    return {"steps": num_steps, "seconds": seconds, "input_wait_share": waited / seconds}
