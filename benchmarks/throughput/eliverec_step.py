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
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import runs
from benchmarks.throughput import encoding
from benchmarks.throughput.step_times import Step, in_turns, operations, product, waiting
from lsec_jax import cli
from lsec_jax.config import ConfigError, EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data import store
from lsec_jax.data.sources import prepared
from lsec_jax.models import eliverec
from lsec_jax.training.run import prepare

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
        multiply, num_operations = product(PRODUCT)
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
