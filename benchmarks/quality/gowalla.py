"""LightGCN on Gowalla: final scores, the curve over training time, and the popularity row that must be exact.

Example:
  LSEC_JAX_DATA=/data python -m benchmarks.quality.gowalla --seeds=0,1,2

Trains configs/lightgcn_gowalla.py once per seed. A finished seed is not run again, a killed one goes on from its last
checkpoint: give the same --workdir. The picture lies beside the JSON as <name>_curve.png.
"""

import functools
import json
from pathlib import Path
from typing import Any

import matplotlib
from absl import flags, logging
from matplotlib.figure import Figure

from benchmarks import runs, statistics
from lsec_jax import cli
from lsec_jax.config import RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.training import fit, reports

matplotlib.use("Agg")

METRICS = ("recall@20", "ndcg@20")
PAPER = {"recall@20": 0.1830, "ndcg@20": 0.1554}
TARGET = {"recall@20": 0.1820, "ndcg@20": 0.1550}
POPULARITY = {"recall@20": 0.0416, "ndcg@20": 0.0317}


class PopularityError(AssertionError):
    """The popularity row is not what the split and the protocol must give."""


def train(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Trains (or resumes) one seed.

    Returns:
        "rows" (test rows of the model and the baselines), "curve" (test, over training time), "train_seconds".
    """
    fit.run(config, workdir)
    report = reports.read(workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    keys = ("train_seconds", "step", *METRICS)
    return {
        "rows": [row for row in report["rows"] if row["split"] == "test"],
        "curve": [{key: line[key] for key in keys} for line in lines if line["kind"] == "test"],
        "train_seconds": report["train_seconds"],
    }


def seconds_to_target(curve: list[dict[str, Any]]) -> float | None:
    """Training time of the first measurement with both metrics at the target, or None."""
    reached = (point["train_seconds"] for point in curve if all(point[name] >= TARGET[name] for name in METRICS))
    return next(reached, None)


def collect(config: dict[str, Any], seeds: list[int], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Puts the seeds' outcomes together; rows of the baselines are the first seed's (they do not depend on it)."""
    name, *baselines = dict.fromkeys(row["model"] for row in outcomes[0]["rows"])
    models = [next(row for row in outcome["rows"] if row["model"] == name) for outcome in outcomes]
    first = {row["model"]: row for row in outcomes[0]["rows"]}
    measured = {metric: round(first["popularity"]["metrics"][metric], 4) for metric in METRICS}
    reached = [seconds_to_target(outcome["curve"]) for outcome in outcomes]
    return {
        "benchmark": "gowalla",
        "model": name,
        "protocol": models[0]["candidates"],
        "users": models[0]["users"],
        "paper": PAPER,
        "seeds": [
            {"seed": seed, "metrics": row["metrics"], "seconds_to_target": seconds, "curve": outcome["curve"]}
            for seed, row, seconds, outcome in zip(seeds, models, reached, outcomes, strict=True)
        ],
        "metrics": {metric: statistics.summary([row["metrics"][metric] for row in models]) for metric in METRICS},
        "train_seconds": statistics.summary([outcome["train_seconds"] for outcome in outcomes]),
        "evaluation_seconds": statistics.summary([row["evaluation_seconds"] for row in models]),
        "target": {**TARGET, "seconds": reached},
        "baselines": {baseline: first[baseline]["metrics"] for baseline in baselines},
        "popularity_check": {"expected": POPULARITY, "measured": measured, "agrees": measured == POPULARITY},
        "config": config,
        "environments": runs.distinct([outcome["environment"] for outcome in outcomes]),
        "command": runs.command(),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws both metrics over training time, a line per seed, with the paper's level."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for panel, metric in zip(figure.subplots(1, 2), METRICS, strict=True):
        for seed in result["seeds"]:
            minutes = [point["train_seconds"] / 60 for point in seed["curve"]]
            panel.plot(minutes, [point[metric] for point in seed["curve"]], marker=".", label=f"seed {seed['seed']}")
        panel.axhline(PAPER[metric], color="black", linestyle="--", label=f"LightGCN's paper, {PAPER[metric]:.4f}")
        panel.set(xlabel="training time, minutes", ylabel=metric, title=f"Gowalla, test {metric}")
        panel.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the command."""
    output, workdir, seeds = Path(flags.FLAGS.output), Path(flags.FLAGS.workdir), runs.parse_seeds(flags.FLAGS.seeds)
    runs.check_output(output)
    outcomes = []
    for seed in seeds:
        config = runs.load_config("lightgcn_gowalla", flags.FLAGS.variant)
        config.seed = seed
        work = functools.partial(train, config, workdir / f"seed{seed}")
        outcomes.append(runs.finished_or(workdir / f"seed{seed}.json", runs.as_json(config), work))
        logging.info("seed %d: %s", seed, outcomes[-1]["curve"][-1])
    result = collect(runs.as_json(runs.load_config("lightgcn_gowalla", flags.FLAGS.variant)), seeds, outcomes)
    write_json(output, result)
    draw(result, output.with_name(f"{output.stem}_curve.png"))
    logging.info("wrote %s", output)
    if not result["popularity_check"]["agrees"]:
        raise PopularityError(f"popularity: {result['popularity_check']}")


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, one run each.")
    flags.DEFINE_string("output", str(runs.QUALITY / "gowalla.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/gowalla", "Where the runs are; reused.")
    flags.DEFINE_string("variant", "", "Variant of the config; 'tiny' to try the command.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
