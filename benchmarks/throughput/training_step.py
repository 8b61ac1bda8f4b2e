"""One training step of LSEC-GCN at the published sizes, over the whole graph and over sampled neighbours.

Example:
  python -m benchmarks.throughput.training_step --sizes=lsec_small,lsec_large --steps=10

For each size and mode a process of its own builds the simulated world and the paper's model (200 wide, layers 128 and
64, batch 4096, 4 negatives), compiles one step and times the following ones; modes alternate, so that what else the
machine does touches both alike. "Peak memory" is the largest resident size of that process from its start to its last
step, with the world and the graphs; the limit is 16 GiB.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import resource
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from benchmarks import runs
from lsec_jax import cli
from lsec_jax.config import ConfigError, EvaluationConfig, RunConfig, TrainingConfig, require_choice
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn
from lsec_jax.training.run import prepare

SIZES = {"tiny": synthetic.tiny, "lsec_small": synthetic.lsec_small, "lsec_large": synthetic.lsec_large}
MODES = ("full", "sampled")
LIMIT_GIB = 16.0


def config_of(size: str, mode: str) -> RunConfig:
    """The paper's LSEC-GCN on a world of a size."""
    return RunConfig(
        data=SIZES[size](),
        model=lsec_gnn.Config(training_graph=mode),
        training=TrainingConfig(num_steps=1000, batch_size=4096 if size != "tiny" else 64, metric="ndcg@10"),
        evaluation=EvaluationConfig(protocols=("full_ranking",), baselines=()),
    )


def measure(size: str, mode: str, num_steps: int) -> dict[str, Any]:
    """Compiles and times steps in this process.

    Returns:
        "edges" of the graphs, "sampled_slots" (neighbours of the sampled layers, None for "full"), seconds
        "load_seconds", "compile_seconds", "step_seconds" (of each step after the first), "peak_gib", and "finite".
    """
    start = time.perf_counter()
    config = config_of(size, mode)
    run = prepare(config)
    loaded_gib, load_seconds = peak_gib(), time.perf_counter() - start
    state, batch_at = run.initial_state(), run.batch_at()
    start = time.perf_counter()
    step = run.step_function().lower(state, run.inputs, batch_at(0)).compile()
    compile_seconds = time.perf_counter() - start
    times, losses = [], []
    for i in range(1 + num_steps):
        batch = batch_at(i)
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, run.inputs, batch))
        times.append(time.perf_counter() - start)
        losses.append(float(metrics["loss"]))
    return {
        "size": size,
        "mode": mode,
        "nodes": {name: len(table) for name, table in run.data.nodes.items()},
        "train_edges": {name: int(np.sum(edges.split == 0)) for name, edges in run.data.relations.items()},
        "fanouts": {name: dataclasses.asdict(fanout) for name, fanout in run.inputs.fanouts.items()},
        "batch_size": config.training.batch_size,
        "load_seconds": load_seconds,
        "compile_seconds": compile_seconds,
        "step_seconds": times[1:],
        "losses": losses,
        "peak_gib_before_the_first_step": loaded_gib,
        "peak_gib": peak_gib(),
    }


def peak_gib() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_apart(size: str, mode: str, num_steps: int) -> dict[str, Any]:
    """`measure` in a fresh process.

    Raises:
        ConfigError: if that process was killed, most likely for its memory.
    """
    logging.info("%s, %s", size, mode)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            row = pool.submit(measure, size, mode, num_steps).result()
        except BrokenProcessPool:
            raise ConfigError(f"{size}, {mode}: the process was killed, most likely for its memory") from None
    if not np.isfinite(row["losses"]).all():
        raise ConfigError(f"{size}, {mode}: the loss is not finite: {row['losses']}")
    median = float(np.median(row["step_seconds"]))
    logging.info("%s, %s: %.3f s a step, %.1f GiB", size, mode, median, row["peak_gib"])
    return row


def main() -> None:
    """Runs the command."""
    sizes, num_steps, output = flags.FLAGS.sizes, flags.FLAGS.steps, Path(flags.FLAGS.output)
    for size in sizes:
        require_choice("--sizes", size, tuple(SIZES))
    runs.check_output(output)
    environment = runs.environment()
    rounds = [[measure_apart(size, mode, num_steps) for mode in MODES] for size in sizes for _ in range(2)]
    rows = [row for of in rounds for row in of]
    runs.write_result(output, "training_step", {"limit_gib": LIMIT_GIB, "rows": rows}, environment)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("sizes", ["lsec_small", "lsec_large"], f"Any of: {', '.join(SIZES)}.")
    flags.DEFINE_integer("steps", 10, "Timed steps, after the first.", lower_bound=1)
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "training_step.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
