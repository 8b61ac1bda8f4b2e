"""A training step of NCF's GMF with dense and with lazy updates of its tables, by the size of the tables.

Example:
  taskset -c 0 python -m benchmarks.throughput.embedding_tables --sizes=20000,40000,80000,1000000 --steps=20

Random purchases, 200 wide, batch 4096, 4 negatives, Adam. For each size groups of steps of the modes alternate, on one
state (which is the same with either), so that what else the machine does touches both alike; compilation is left out,
and so is the first step of each group, which finds the other mode's data in the caches.
"lazy" updates both tables lazily, "lazy_items" the table of the items alone: there a step looks 20,480 rows up, and the
size at which it costs what "dense" does says which tables are worth it.
"""

import functools
import resource
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import flags, logging
from flax import nnx

from benchmarks import runs
from lsec_jax import cli
from lsec_jax.config import ConfigError, OptimizerConfig
from lsec_jax.models import ncf
from lsec_jax.models.graph_inputs import Inputs
from lsec_jax.nn.sampling import positive_edges
from lsec_jax.training import optimizers
from lsec_jax.training.state import Keys, TrainableModel, init_state, make_train_step

MODES = {"dense": (), "lazy": ("user", "item"), "lazy_items": ("item",)}
GROUP = 5  # timed steps of a mode before it is the next one's turn


def measure(
    num_users: int,
    num_items: int,
    modes: tuple[str, ...] = ("dense", "lazy"),
    num_steps: int = 20,
    batch_size: int = 4096,
    width: int = 200,
) -> dict[str, Any]:
    """Compiles and times steps in this process.

    Args:
        num_users: rows of their table.
        num_items: rows of theirs.
        modes: of MODES.
        num_steps: timed steps of each mode.
        batch_size: positives of a step.
        width: of the tables.

    Returns:
        JSON: the arguments, "lookups" of a step by table, and by mode "compile_seconds", "step_seconds" and
        "cpu_seconds" (of this process) of each timed step, "temporary_bytes" of the step, and "losses".
    """
    model = TrainableModel(
        ncf.Ncf(
            ncf.Config("gmf", embedding_dim=width),
            {"user": num_users, "item": num_items},
            ("user", "item"),
            nnx.Rngs(0),
        )
    )
    optimizer, keys = optimizers.build(OptimizerConfig(), 1), Keys.from_seed(0)
    inputs = Inputs({}, {"buy": _random_edges(num_users, num_items, 50 * batch_size)}, {})
    generator = np.random.default_rng(1)
    num_edges = len(inputs.positives["buy"].source_ids)
    batches = [{"buy": generator.choice(num_edges, batch_size, replace=False).astype(np.int32)} for _ in range(10)]
    state = jax.device_put(init_state(model, optimizer, keys), jax.devices()[0])
    steps, result = {}, {name: {"step_seconds": [], "cpu_seconds": [], "losses": []} for name in modes}
    for name in modes:
        start = time.perf_counter()
        steps[name] = _compile(model, optimizer, keys, MODES[name], (state, inputs, batches[0]))
        result[name]["compile_seconds"] = time.perf_counter() - start
        result[name]["temporary_bytes"] = steps[name].memory_analysis().temp_size_in_bytes
    for group in range(1 + -(-num_steps // GROUP)):
        for name in modes:
            for i in range(1 + GROUP):
                batch = batches[(group * GROUP + i) % len(batches)]
                wall, cpu = time.perf_counter(), time.process_time()
                state, metrics = jax.block_until_ready(steps[name](state, inputs, batch))
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if group and i and len(result[name]["losses"]) < num_steps:  # the first group warms up
                    result[name]["step_seconds"].append(wall)
                    result[name]["cpu_seconds"].append(cpu)
                    result[name]["losses"].append(float(metrics["loss"]))
    return {
        "rows": {"user": num_users, "item": num_items},
        "lookups": model.num_lookups(inputs, batches[0]),
        "batch_size": batch_size,
        "width": width,
        "modes": result,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _compile(
    model: TrainableModel, optimizer: optax.GradientTransformation, keys: Keys, lazy: tuple[str, ...], arguments: Any
) -> Any:
    step = jax.jit(make_train_step(model, optimizer, keys.negatives, lazy), donate_argnums=0)
    return step.lower(*arguments).compile()


def _random_edges(num_users: int, num_items: int, num_edges: int) -> Any:
    pairs = np.unique(np.random.default_rng(0).integers(0, num_users * num_items, num_edges))
    return positive_edges(pairs // num_items, pairs % num_items, num_users, num_items)


def summary(row: dict[str, Any]) -> str:
    """One line for the log: medians by mode."""
    medians = {
        name: f"{1e3 * np.median(of['step_seconds']):.1f} ms ({1e3 * np.median(of['cpu_seconds']):.1f} ms CPU)"
        for name, of in row["modes"].items()
    }
    return f"{row['rows']}: " + ", ".join(f"{name} {text}" for name, text in medians.items())


def main() -> None:
    """Runs the command."""
    output, num_steps = Path(flags.FLAGS.output), flags.FLAGS.steps
    if not all(size.isdecimal() and int(size) > 0 for size in flags.FLAGS.sizes):
        raise ConfigError(f"--sizes={','.join(flags.FLAGS.sizes)}: give whole numbers above 0, for example 20000,80000")
    runs.check_output(output)
    environment = runs.environment()
    rows = []
    for size in map(int, flags.FLAGS.sizes):
        for work in (
            functools.partial(measure, size, size),
            functools.partial(measure, 5000, size, ("dense", "lazy_items")),
        ):
            rows.append(work(num_steps=num_steps))
            logging.info("%s", summary(rows[-1]))
    runs.write_result(output, "embedding_tables", {"rows": rows}, environment)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("sizes", ["20000", "40000", "80000", "1000000"], "Rows of the tables.")
    flags.DEFINE_integer("steps", 20, "Timed steps of each mode.", lower_bound=1)
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "embedding_tables.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
