"""How long LightGCN trains on Gowalla to a Recall@20 of .1800, beside PyTorch at its authors' batch.

Example:
  LSEC_JAX_DATA=/data python -m benchmarks.throughput.gowalla_time --peer_python=PEER/bin/python --seeds=0,1,2

Ours trains configs/lightgcn_gowalla.py on one core, a fresh process per seed; the test split is measured on the way,
out of the training time (the authors' split has no validation part; the level is where the clock is read, it selects
nothing). At each measurement the peer, on the same core, trains some steps of LightGCN in PyTorch with batches of
2,048. Its time is extrapolated: its step, times the steps of an epoch, times the 1,000 epochs of LightGCN's authors.
Finished seeds are not run again: give the same --workdir.
"""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import runs
from benchmarks.throughput import time_to_level
from benchmarks.throughput.contestants import Contestant, NoResultError, Worker, parse_peers
from benchmarks.throughput.time_to_level import first_at
from lsec_jax import cli
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.training.run import prepare

PEER = "pytorch_csr"
ROW = "step/lightgcn_gowalla"
LEVEL = 0.18  # Recall@20
EPOCHS = 1000  # of LightGCN's authors, for .1830
TARGET = 50.0  # times faster
PEER_STEPS = 5  # at each measurement
FIRST_MEASURED, MEASURE_EVERY, NUM_STEPS = 200, 25, 300


def train(config: RunConfig, peer: Contestant, log: Path, measured_steps: Sequence[int]) -> dict[str, Any]:
    """Trains ours in this process, with the peer's steps between.

    Args:
        config: of ours.
        peer: its worker.
        log: for what the peer prints.
        measured_steps: ascending; the last one ends training.

    Returns:
        What `train_measured` does, and "peer": what it says of its step, and its "seconds" and "core_seconds".

    Raises:
        ConfigError: if the peer cannot do it.
    """
    run = prepare(config)
    steps: list[dict[str, float]] = []
    with Worker(peer, ROW, log.parent, False, log) as worker:  # this row reads Gowalla itself, and no workload
        try:
            ready = worker.ask()["ready"]

            def peer_steps() -> None:
                steps.extend(worker.ask("run") for _ in range(PEER_STEPS))

            measured = set(measured_steps)
            outcome = time_to_level.train_measured(run, measured_steps[-1], measured.__contains__, peer_steps)
        except NoResultError as error:
            raise ConfigError(f"the peer {peer.name}, {ROW}: {error}") from None
    times = {"seconds": [step["seconds"] for step in steps], "core_seconds": [step["cpu_seconds"] for step in steps]}
    return {**outcome, "peer": {**ready, **times}}


def collect(seeds: Sequence[int], outcomes: Sequence[Any]) -> dict[str, Any]:
    """Puts the seeds together.

    Returns:
        "ours" by seed: "reached" (the point, or None), "compilation" and "points"; "peer": the step's medians over all
        seeds, steps of an epoch and hours extrapolated; and for both clocks, where all seeds got there, the "ratios"
        without and with compilation and "epochs_at_target": at how many epochs of the peer the target is just met.
    """
    ours = [
        {
            "seed": seed,
            "reached": first_at(of["points"], LEVEL),
            "compilation": of["compilation"],
            "points": of["points"],
        }
        for seed, of in zip(seeds, outcomes, strict=True)
    ]
    facts = outcomes[0]["peer"]
    epoch = -(-facts["edges"] // facts["examples"])
    result: dict[str, Any] = {"ours": ours, "ratios": None}
    result["peer"] = {"notes": facts["notes"], "steps_per_epoch": epoch, "epochs": EPOCHS}
    result["peer"] |= {
        name: [second for of in outcomes for second in of["peer"][name]] for name in ("seconds", "core_seconds")
    }
    if any(of["reached"] is None for of in ours):
        return result
    result["ratios"] = {}
    for name in ("seconds", "core_seconds"):
        per_epoch = epoch * statistics.median(result["peer"][name])
        without = statistics.median(of["reached"][name] for of in ours)
        whole = statistics.median(of["reached"][name] + of["compilation"][name] for of in ours)
        result["ratios"][name] = {
            "without_compilation": EPOCHS * per_epoch / without,
            "with_compilation": EPOCHS * per_epoch / whole,
            "epochs_at_target": TARGET * whole / per_epoch,
        }
    return result


def main() -> None:
    """Runs the command."""
    given, output, workdir = flags.FLAGS, Path(flags.FLAGS.output), Path(flags.FLAGS.workdir)
    seeds, (peer,) = runs.parse_seeds(given.seeds), parse_peers([f"{PEER}={Path(given.peer_python).expanduser()}"])
    runs.check_output(output)
    time_to_level.pin(given.core)
    config = runs.load_config("lightgcn_gowalla", given.variant)
    steps = list(range(FIRST_MEASURED, NUM_STEPS + 1, MEASURE_EVERY))
    if given.variant:
        steps = list(range(1, config.training.num_steps + 1))
    outcomes = []
    for seed in seeds:
        config.seed = seed
        log = workdir.absolute() / f"seed{seed}_peer.txt"
        work = functools.partial(time_to_level.apart, train, config, peer, log, steps)
        key = {"config": runs.as_json(config), "steps": steps, "peer_steps": PEER_STEPS}
        outcomes.append(runs.finished_or(workdir / f"seed{seed}.json", key, work))
        logging.info("seed %d: %s", seed, outcomes[-1]["points"][-1])
    content = {
        "seeds": seeds,
        "level": LEVEL,
        "target": TARGET,
        **collect(seeds, outcomes),
        "config": runs.as_json(config),
    }
    runs.write_result(output, output.stem, content, outcomes[0]["environment"])


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_string("peer_python", None, "Python of the peer's environment, with PyTorch.", required=True)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of ours, one run each.")
    flags.DEFINE_integer("core", 0, "Core for both.", lower_bound=0)
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "gowalla_time.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/gowalla_time", "Where finished seeds are; reused.")
    flags.DEFINE_string("variant", "", "Variant of the config; 'tiny' to try the command.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
