"""What a training step sends between devices: formulas against compiled steps, and what they predict at scale.

Example:
  taskset -c 0 python -m benchmarks.scaling

Compiles a step of every model on 2, 4 and 8 virtual devices of the CPU under both strategies and counts what its
collectives receive; compares that with the closed formulas (`formulas.py`); applies these to LSEC-Large and to a
platform of 1e8 users on published accelerators (`predictions.py`); times a few steps on 1 to 8 virtual devices, which
share the cores: a smoke test. What is compiled is kept in --workdir, so a run that was ended goes on. Writes a JSON
file and a picture; `python -m benchmarks.tables` makes the tables of docs/scaling.md of it. The compiler takes most of
the time: half an hour on a busy core.
"""

import os

# Both are read when jax is first imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import functools
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

from benchmarks import runs, statistics
from benchmarks.scaling import compiled, formulas, plots, predictions
from lsec_jax import cli
from lsec_jax.config import ConfigError, ParallelConfig
from lsec_jax.data.files import write_json

SMOKE_DEVICES = (1, 2, 4, 8)
SMOKE_MODELS = ("LSEC-GCN", "NCF, lazy")


def compare(name: str, parallel: ParallelConfig, found: dict[str, Any]) -> dict[str, Any]:
    """Puts the formula's bytes beside those that were counted.

    Args:
        name: of `compiled.models`.
        parallel: the mesh.
        found: from `compiled.measure`.

    Returns:
        JSON: the mesh, bytes of both sides by operation and in all, and the formula's by term.

    Raises:
        ConfigError: if they differ by more than the tolerance.
    """
    model, workload = compiled.models()[name], formulas.Workload(**found["workload"])
    counted, memory = formulas.terms(model, workload, parallel), predictions.memory_bytes(model, workload, parallel)
    wanted = compiled.by_operation(of for term in counted.values() for of in term)
    if lines := compiled.differences(found["by_operation"], wanted):
        raise ConfigError(f"{name}, {parallel}: {lines[0]}")
    return {
        "model": name,
        **predictions.mesh_json(parallel),
        "counted": sum(found["by_operation"].values()),
        "formula": sum(wanted.values()),
        "by_operation": {"counted": found["by_operation"], "formula": wanted},
        "terms": formulas.received_bytes(counted),
        "largest": found["largest"],
        "memory_bytes": {
            "counted": found["state_bytes"] + found["input_bytes"],
            "formula": sum(memory.get(name, 0.0) for name in ("state", "positives", "graphs")),
        },
    }


def main() -> None:
    """Runs the command."""
    output, workdir, repeats = Path(flags.FLAGS.output), Path(flags.FLAGS.workdir), flags.FLAGS.repeats
    runs.check_output(output)
    if len(jax.devices()) < max(SMOKE_DEVICES):
        raise ConfigError(
            f"there are {len(jax.devices())} devices; unset XLA_FLAGS, or give it "
            f"--xla_force_host_platform_device_count={max(SMOKE_DEVICES)}"
        )
    meshes = [compiled.parse_mesh(text) for text in flags.FLAGS.meshes]
    environments, counts, smoke = [], [], []
    for parallel in meshes:
        for name in compiled.models():
            mesh = predictions.mesh_json(parallel)
            path = workdir / f"{name}_{'_'.join(map(str, mesh.values()))}.json".replace(", ", "_")
            work = functools.partial(compiled.measure, name, parallel)
            found = runs.finished_or(path, {"model": name, **mesh}, work)
            environments.append(found["environment"])
            counts.append((name, parallel, found))
            logging.info("%s, %s: %s", name, mesh, found["by_operation"])
    for name in SMOKE_MODELS:
        for strategy in ("pmap", "sharded"):
            for count in SMOKE_DEVICES:
                settings = {"model": name, "strategy": strategy, "devices": count, "repeats": repeats}
                path = workdir / f"smoke_{name}_{strategy}_{count}.json".replace(", ", "_")
                work = functools.partial(_smoke, name, count, strategy, repeats)
                found = runs.finished_or(path, settings, work)
                environments.append(found["environment"])
                smoke.append({**settings, "step_seconds": found["step_seconds"]})
                logging.info("%s", smoke[-1])
    result = {
        "benchmark": "scaling",
        "tolerance": compiled.TOLERANCE,
        "counts": [compare(*of) for of in sorted(counts, key=lambda of: list(compiled.models()).index(of[0]))],
        "smoke": smoke,
        **predictions.predict(),
        "environments": runs.distinct(environments),
        "command": runs.command(),
    }
    write_json(output, result)
    plots.draw(result, output.with_suffix(".png"))
    logging.info("wrote %s", output)


def _smoke(name: str, count: int, strategy: str, repeats: int) -> dict[str, Any]:
    return {"step_seconds": statistics.summary(compiled.step_seconds(name, count, strategy, 5, repeats))}


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("meshes", list(compiled.MESHES), "Strategies and meshes to compile steps for.")
    flags.DEFINE_integer("repeats", 3, "Timed repetitions of the smoke test.", lower_bound=1)
    flags.DEFINE_string("workdir", "workdirs/benchmarks/scaling", "Where the pieces are kept; reused.")
    flags.DEFINE_string("output", str(runs.SCALING / "scaling.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
