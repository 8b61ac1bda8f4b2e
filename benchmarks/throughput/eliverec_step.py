"""How fast eLiveRec's training step is: its parts in turns, its share of the core's matrix products, its inputs.

Example:
  taskset -c 0 python -m benchmarks.throughput.eliverec_step

Steps with adaptive and with fixed task weights, and in bfloat16, and a product of two matrices take turns in one
process, so that what else the machine does touches all alike; each reads records that the encoder makes from columns on
disk, those of `benchmarks/throughput/encoding.py`. Rates are also given per second of the process's own processor time.

Operations of a step are XLA's count of the unoptimised program without blocks, so that nothing is counted twice that a
blocked step computes again; their share is of what the matrix product reaches in the same turns. Then a real run of
some steps says how much of its time the steps waited for inputs.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging

from benchmarks import runs
from benchmarks.throughput import encoding
from lsec_jax import cli
from lsec_jax.config import ConfigError, EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data import store
from lsec_jax.data.sources import prepared
from lsec_jax.models import eliverec
from lsec_jax.nn import row_blocks
from lsec_jax.nn.sequence import self_attention
from lsec_jax.training.base_run import Run
from lsec_jax.training.run import prepare
from lsec_jax.training.step_inputs import StepInput, StepInputs

TARGET_RATIO = 1.5  # of a step with adaptive weights to one with fixed ones
NUM_ROWS, PRODUCT = 200_000, 2048
FIXED = {"task_weighting": "fixed", "task_weights": (0.3, 0.1)}
VARIANTS: dict[str, dict[str, Any]] = {
    "adaptive": {},
    "fixed": FIXED,
    "adaptive_bfloat16": {"dtype": "bfloat16"},
}


def config_of(folder: Path, width: int, batch_size: int, changes: dict[str, Any]) -> RunConfig:
    """The run: eLiveRec with the paper's 8 heads on two sequences of 50, two auxiliary tasks, and its optimizer."""
    sizes = {"embedding_dim": width, "num_heads": 8, "task_weighting": "adaptive"}
    tasks = {"channel": "watches", "product": "purchases", "tasks": ("stay", "purchased")}
    return RunConfig(
        data=prepared.Config(str(folder)),
        model=eliverec.Config(features=encoding.declaration(), **{**sizes, **tasks, **changes}),
        split=SplitConfig(method="time", fractions=(0.98, 0.01, 0.01)),
        optimizer=OptimizerConfig(name="adagrad", learning_rate=0.05),
        training=TrainingConfig(batch_size=batch_size, metric="auc", patience=0),
        evaluation=EvaluationConfig(protocols=("impressions",), baselines=()),
    )


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


def product() -> tuple[Callable[[], object], float]:
    """A product of two square matrices, and its operations."""
    first, second = (jnp.asarray(np.random.default_rng(i).random((PRODUCT, PRODUCT), np.float32)) for i in (0, 1))
    multiply = jax.jit(jnp.matmul)
    multiply(first, second).block_until_ready()
    return lambda: multiply(first, second).block_until_ready(), 2.0 * PRODUCT**3


def in_turns(works: dict[str, Callable[[], object]], repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Each work's "seconds" and "cpu_seconds" of its repetitions, one work after the other, over and over."""
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu_seconds": []} for name in works}
    for _, (name, work) in itertools.product(range(repetitions), works.items()):
        wall, core = time.perf_counter(), time.process_time()
        work()
        found[name]["seconds"].append(time.perf_counter() - wall)
        found[name]["cpu_seconds"].append(time.process_time() - core)
    return found


def waiting(step: Step, num_steps: int) -> dict[str, float]:
    """Steps that read their inputs as a run does, made ahead by a thread: what they wait for them, and their rate."""
    at = step.run.batch_at()

    def make(number: int) -> StepInput:
        return StepInput(jax.tree.map(jnp.asarray, at(number)))

    waited, started = 0.0, time.perf_counter()
    with StepInputs(make, 0, num_steps, TrainingConfig().prefetch) as stream:
        for _ in range(num_steps):
            step.batch = stream.next().batch
            waited += stream.seconds_waited
            step()
    seconds = time.perf_counter() - started
    return {"steps": num_steps, "seconds": seconds, "input_wait_share": waited / seconds}


def measure(width: int, batch_size: int, repetitions: int, num_steps: int, workdir: Path) -> dict[str, Any]:
    """All of it.

    Returns:
        JSON: "variants" with their times, "product", "encoding" (of a batch), "operations", "ratio" of adaptive to
        fixed weights, "waiting".
    """
    with tempfile.TemporaryDirectory(dir=workdir, prefix="eliverec_") as directory:
        folder = Path(directory) / "world"
        encoding.write_world(folder, NUM_ROWS)
        data = store.read(folder)
        steps = {
            name: Step(prepare(config_of(folder, width, batch_size, changes), data))
            for name, changes in VARIANTS.items()
        }
        multiply, num_operations = product()
        batch_at, numbers = steps["adaptive"].run.batch_at(), itertools.count()
        works = {**steps, "product": multiply, "encoding": lambda: batch_at(next(numbers))}
        times = in_turns(works, repetitions)
        result = {
            "variants": {name: times[name] | {"compile_seconds": step.compile_seconds} for name, step in steps.items()},
            "product": times["product"] | {"operations": num_operations},
            "encoding": times["encoding"],
            "operations": operations(steps["adaptive"].run),
            "waiting": waiting(steps["adaptive"], num_steps),
        }
        model = dataclasses.asdict(steps["adaptive"].run.config.model)
    kept = ("embedding_dim", "num_heads", "feed_forward_width", "tower_widths", "num_experts", "expert_widths")
    return {**result, "model": {key: model[key] for key in kept}, "length": encoding.LENGTH, "rows": NUM_ROWS}


def main() -> None:
    """Runs the command."""
    of = flags.FLAGS
    output, workdir = Path(of.output), Path(of.workdir)
    if not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir} is not a folder; give one with room for the columns")
    runs.check_output(output)
    started_in = runs.environment()
    found = measure(of.width, of.batch_size, of.repetitions, of.steps, workdir)
    found |= {"batch_size": of.batch_size, "target_ratio": TARGET_RATIO}
    logging.info("a step takes %s s", {name: np.median(one["seconds"]) for name, one in found["variants"].items()})
    runs.write_result(output, "eliverec_step", found, started_in)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_integer("width", 128, "Of embeddings; 8 heads share it.", lower_bound=8)
    flags.DEFINE_integer("batch_size", 2048, "A multiple of 256.", lower_bound=256)
    flags.DEFINE_integer("repetitions", 10, "Of each kind of work.", lower_bound=1)
    flags.DEFINE_integer("steps", 20, "Of the run whose steps read inputs made ahead.", lower_bound=1)
    flags.DEFINE_string("workdir", tempfile.gettempdir(), "Folder for the columns: 150 bytes of disk a row.")
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "eliverec_step.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
