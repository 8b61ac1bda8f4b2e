"""How long ours and the LSEC-GNN authors' code train until LSEC-GCN's validation AUC reaches a level.

Example:
  python -m benchmarks.throughput.time_to_auc --peer_python=PEER/bin/python --peer_runs=0:0.0005 --seeds=0,1,2

Both train on one core on the same files, a simulated world of LSEC-Small's size in the LSEC format, and are validated
on the same candidates of the same users; loading and validations are no part of the times. The peer has the core for a
given time; the level is the best AUC that any of its runs then had. Ours is the paper's LSEC-GCN over the whole graph;
of --learning_rates it takes the one that is first at the level with --tuning_seed. --variant=small_world is the world
of benchmarks.quality.rechub_agreement, in which the peer learns more than popularity in that time.
benchmarks/quality/peers/README.md says how to install the peer. Finished runs are not run again. The picture lies
beside the JSON as <name>_curve.png.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from absl import flags, logging
from matplotlib.figure import Figure

from benchmarks import runs
from benchmarks.quality import rechub_agreement
from benchmarks.throughput import time_to_level
from benchmarks.throughput.time_to_level import first_at
from lsec_jax import cli
from lsec_jax.config import ConfigError, EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.files import write_json
from lsec_jax.data.sources import lsec, synthetic
from lsec_jax.models import lsec_gnn
from lsec_jax.training.evaluation import baseline_scorers
from lsec_jax.training.run import prepare

matplotlib.use("Agg")

TARGET = 4.0  # times faster
NUM_CANDIDATES = 100
NOTES = (
    "Both have one core of the same machine, at different times; other work shared it, more or less of it, so that the "
    "time for which a process had the core says more than the clock.",
    "Theirs: their trainer as published (batch 4,096, sampled neighbours, their epoch of one edge per source node). "
    "Their time starts with the first epoch, after loading.",
    "Ours: the paper's model over the whole graph, step by step; known positives masked among the negatives.",
)


@dataclasses.dataclass(frozen=True)
class Size:
    """What a variant measures.

    Attributes:
        world: simulated.
        num_users: validated.
        eval_every: the peer's epochs between validations.
        batch_size: ours, per task.
        num_steps: ours.
        tuning_steps: of the runs that choose the learning rate.
        measure_every: our steps between validations.
    """

    world: synthetic.Config
    num_users: int
    eval_every: int
    batch_size: int
    num_steps: int
    tuning_steps: int
    measure_every: int


SIZES = {
    "": Size(synthetic.lsec_small(), 5000, 5, 4096, 100, 100, 5),
    "small_world": Size(rechub_agreement.world(""), 2000, 50, 982, 4000, 2400, 20),
    "tiny": Size(synthetic.tiny(), 50, 2, 64, 8, 8, 2),
}


def our_config(directory: Path, size: Size, num_steps: int, learning_rate: float, seed: int) -> RunConfig:
    """The paper's LSEC-GCN over the whole graph."""
    return RunConfig(
        data=lsec.Config(path=str(directory)),
        model=lsec_gnn.Config(),
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        training=TrainingConfig(num_steps=num_steps, batch_size=size.batch_size, patience=0, metric="auc"),
        evaluation=EvaluationConfig(
            protocols=("candidates",), cutoffs=rechub_agreement.CUTOFFS, baselines=("popularity",)
        ),
        seed=seed,
    )


def train_ours(config: RunConfig, measure_every: int) -> dict[str, Any]:
    """Trains ours in this process; returns what `train_measured` does, and the AUC of "popularity"."""
    run = prepare(config)
    outcome = time_to_level.train_measured(run, config.training.num_steps, lambda step: step % measure_every == 0)
    scorer = baseline_scorers(run.data, run.task, config.evaluation)["popularity"]
    popularity = run.evaluator.evaluate(scorer, "validation", "candidates").metrics["auc"]
    return {**outcome, "popularity": popularity}


def train_theirs(
    directory: Path, size: Size, prefix: Path, seed: int, rate: str, core_seconds: float
) -> dict[str, Any]:
    """Trains the peer for as long as it may have the core; returns its "points", as ours are."""
    options = ("--core-seconds", core_seconds, "--learning-rate", rate)
    found = rechub_agreement.train_theirs(directory, prefix, seed, size.eval_every, *options)
    return {"points": [as_ours(point) for point in found["points"]]}


def as_ours(point: dict[str, Any]) -> dict[str, float]:
    """A point of the peer with the names of ours."""
    names = {"step": "steps", "seconds": "train_seconds", "core_seconds": "core_seconds", "value": "auc"}
    return {name: point[theirs] for name, theirs in names.items()}


def levels_of(theirs: Sequence[Any]) -> list[dict[str, float]]:
    """Every AUC that no run of the peer had earlier, rising, with the peer's time to it."""
    rising: list[dict[str, float]] = []
    for point in sorted((point for run in theirs for point in run["points"]), key=lambda point: point["core_seconds"]):
        if not rising or point["value"] > rising[-1]["value"]:
            rising.append(point)
    return rising


def compare(ours: Sequence[Any], theirs: Sequence[Any]) -> list[dict[str, Any]]:
    """Both sides' times to each level of the peer.

    Returns:
        For each level "value", "theirs" and "ours" (by seed; None where it was not reached; with compilation), both
        with "step", "seconds" and "core_seconds", and "ratios" of theirs to the median of ours, without and with
        compilation (None where a seed did not get there).
    """
    rows = []
    for level in levels_of(theirs):
        reached = [first_at(run["points"], level["value"]) for run in ours]
        row: dict[str, Any] = {"value": level["value"], "theirs": level, "ours": reached, "ratios": None}
        if all(point is not None for point in reached):
            row["ratios"] = {
                name: {
                    "without_compilation": level[name] / statistics.median(point[name] for point in reached if point),
                    "with_compilation": level[name]
                    / statistics.median(
                        point[name] + run["compilation"][name]
                        for point, run in zip(reached, ours, strict=True)
                        if point
                    ),
                }
                for name in ("seconds", "core_seconds")
            }
        rows.append(row)
    return rows


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws AUC over the time of the core in training, ours with compilation, and the levels."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    panel = figure.subplots()
    for run in result["theirs"]:
        points = run["points"]
        label = f"authors' code, seed {run['seed']}, learning rate {run['learning_rate']}"
        times = [point["core_seconds"] for point in points]
        panel.plot(times, [point["value"] for point in points], marker=".", linestyle="--", label=label)
    for run in result["ours"]:
        times = [run["compilation"]["core_seconds"] + point["core_seconds"] for point in run["points"]]
        panel.plot(times, [point["value"] for point in run["points"]], label=f"lsec_jax, seed {run['seed']}")
    panel.axhline(result["level"], color="black", linestyle=":", label=f"their best, {result['level']:.4f}")
    panel.axhline(result["popularity"], color="grey", linestyle=":", label=f"popularity, {result['popularity']:.4f}")
    panel.set(xscale="log", xlabel="seconds of one core in training (ours with compilation)", ylabel="validation AUC")
    panel.set(title=f"LSEC-GCN, {result['data']['name']}")
    panel.grid(alpha=0.3)
    panel.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def parse_peer_runs(values: Sequence[str]) -> list[tuple[int, str]]:
    """Seeds and learning rates of a list flag.

    Raises:
        ConfigError: for anything but SEED:RATE with a rate above 0.
    """
    parsed = []
    for value in values:
        seed, _, rate = value.partition(":")
        try:
            usable = seed.isdecimal() and float(rate) > 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(f"--peer_runs: {value!r} is not SEED:LEARNING_RATE, for example 0:0.0005")
        parsed.append((int(seed), rate))
    if not parsed:
        raise ConfigError("--peer_runs is empty; give SEED:LEARNING_RATE, for example 0:0.0005")
    return parsed


def parse_rates(values: Sequence[str]) -> list[float]:
    """Learning rates of a list flag; raises ConfigError for anything but numbers above 0."""
    try:
        rates = [float(value) for value in values]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise ConfigError(f"--learning_rates={','.join(values)}: give numbers above 0, for example 0.002,0.005")
    return rates


def finished_run(workdir: Path, directory: Path, size: Size, num_steps: int, rate: float, seed: int) -> dict[str, Any]:
    """Our run of a seed and a learning rate, in a process of its own, unless an earlier command made it."""
    config = our_config(directory, size, num_steps, rate, seed)
    work = functools.partial(time_to_level.apart, train_ours, config, size.measure_every)
    key = {"world": dataclasses.asdict(size.world), "num_users": size.num_users, "measure_every": size.measure_every}
    name = f"ours_seed{seed}_rate{rate:g}".replace(".", "_")
    outcome = runs.finished_or(workdir / f"{name}.json", {**key, "config": runs.as_json(config)}, work)
    logging.info("ours, seed %d, rate %g: %s", seed, rate, outcome["points"][-1])
    return {"seed": seed, **outcome}


def fastest(tuning: Sequence[Any], level: float) -> float:
    """The learning rate whose run is first at the level, by the time of the core; the best in the end if none is."""

    def seconds(run: Any) -> tuple[float, float]:
        point = first_at(run["points"], level)
        return (point["core_seconds"] if point else math.inf), -run["points"][-1]["value"]

    return min(tuning, key=seconds)["learning_rate"]


def main() -> None:
    """Runs the command."""
    given, output, workdir = flags.FLAGS, Path(flags.FLAGS.output), Path(flags.FLAGS.workdir)
    size, seeds, peer_runs = SIZES[given.variant], runs.parse_seeds(given.seeds), parse_peer_runs(given.peer_runs)
    rates = parse_rates(given.learning_rates)
    if given.tuning_seed in seeds:
        raise ConfigError(f"--tuning_seed={given.tuning_seed} is one of --seeds; give another, its run is not reported")
    runs.check_output(output)
    rechub_agreement.check_peer()
    time_to_level.pin(given.core)
    directory, common = workdir / "data", {"world": dataclasses.asdict(size.world), "num_users": size.num_users}
    write = functools.partial(rechub_agreement.write_data, size.world, NUM_CANDIDATES, directory, size.num_users)
    data = runs.finished_or(workdir / "data.json", common, write)
    theirs = []
    for seed, rate in peer_runs:
        prefix = workdir / f"theirs_seed{seed}_rate{rate.replace('.', '_')}"
        work = functools.partial(train_theirs, directory, size, prefix, seed, rate, given.peer_core_seconds)
        key = {**common, "seed": seed, "learning_rate": rate, "core_seconds": given.peer_core_seconds}
        piece = runs.finished_or(prefix.with_suffix(".json"), key, work)
        theirs.append({"seed": seed, "learning_rate": rate, **piece})
        logging.info("authors' code, seed %d, rate %s: %s", seed, rate, piece["points"][-1])
    level = levels_of(theirs)[-1]["value"]
    ours_of = functools.partial(finished_run, workdir, directory, size)
    tuning = [{"learning_rate": rate, **ours_of(size.tuning_steps, rate, given.tuning_seed)} for rate in rates]
    rate = fastest(tuning, level)
    ours = [ours_of(size.num_steps, rate, seed) for seed in seeds]
    result = {
        "benchmark": output.stem,
        "seeds": seeds,
        "data": data,
        "target": TARGET,
        "level": level,
        "levels": compare(ours, theirs),
        "popularity": ours[0]["popularity"],
        "theirs": theirs,
        "ours": ours,
        "learning_rate": rate,
        "tuning": {"seed": given.tuning_seed, "runs": tuning},
        "config": runs.as_json(our_config(directory, size, size.num_steps, rate, seeds[0])),
        "peer": rechub_agreement.peer_versions(workdir / "peer_versions.json"),
        "environments": runs.distinct([piece["environment"] for piece in (*ours, *theirs)]),
        "command": runs.command(),
    }
    write_json(output, result)
    draw(result, output.with_name(f"{output.stem}_curve.png"))
    logging.info("wrote %s", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_string("peer_python", None, "Python of the peer's environment.", required=True)
    flags.DEFINE_integer("peer_threads", 1, "Threads of the peer.", lower_bound=1)
    flags.DEFINE_list("peer_runs", ["0:0.0005"], "SEED:LEARNING_RATE of each run of the peer; 0.0005 is published.")
    flags.DEFINE_float("peer_core_seconds", 2700, "Time of the core for each of them.", lower_bound=1)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of ours.")
    flags.DEFINE_list("learning_rates", ["0.002", "0.005", "0.01"], "Ours, to choose from.")
    flags.DEFINE_integer("tuning_seed", 100, "Seed that chooses among them.", lower_bound=0)
    flags.DEFINE_integer("core", 0, "Core for both.", lower_bound=0)
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "time_to_auc.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/time_to_auc", "Where data and runs are; reused.")
    flags.DEFINE_enum("variant", "", [*SIZES], "'small_world': 2,000 users; 'tiny': a few dozen, to try the command.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
