"""The next item on Amazon Beauty, ranking all items: the sequence encoders' Transformer with a plain head.

Example:
  LSEC_JAX_DATA=/data python -m benchmarks.quality.next_item --seeds=0,1,2 --workdir=DIR

Leave-one-out, as ICLRec and SASRec's other descendants: the last item tests, the one before it validates and chooses
the epoch; what the user had before is no candidate. A finished seed is not run again: give the same --workdir.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import runs, statistics
from benchmarks.quality import next_item_training
from benchmarks.quality.next_item_training import METRICS, Settings
from lsec_jax import cli
from lsec_jax.data.files import write_json
from lsec_jax.data.sources import sequences

PUBLISHED = {
    "ICLRec, its repository": {"hit_rate@10": 0.0744, "ndcg@10": 0.0403},
    "SASRec, a third party's table": {"hit_rate@10": 0.0736, "ndcg@10": 0.0391},
}
TARGET = {"hit_rate@10": 0.070, "ndcg@10": 0.037}


def measure(path: str, settings: Settings) -> dict[str, Any]:
    """Trains and tests one seed on a file of sequences."""
    data = sequences.Config(path=path).load()
    counts = len(data.nodes["user"]), len(data.nodes["item"])
    found = next_item_training.sequences_of(data.events_of(sequences.EVENTS), *counts)
    return {"data": data.name, "items": counts[1], **next_item_training.train(found, settings)}


def collect(settings: dict[str, Any], seeds: list[int], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Puts the seeds' outcomes together."""
    kept = ("metrics", "validation", "best_epoch", "train_seconds", "curve")
    by_metric = {name: statistics.summary([of["metrics"][name] for of in outcomes]) for name in METRICS}
    return {
        "benchmark": "next_item",
        "data": outcomes[0]["data"],
        "users": outcomes[0]["users"],
        "items": outcomes[0]["items"],
        "published": PUBLISHED,
        "target": {**TARGET, "reached": all(by_metric[name]["mean"] >= TARGET[name] for name in METRICS)},
        "seeds": [{"seed": seed, **{key: of[key] for key in kept}} for seed, of in zip(seeds, outcomes, strict=True)],
        "metrics": by_metric,
        "validation": {name: statistics.summary([of["validation"][name] for of in outcomes]) for name in METRICS},
        "train_seconds": statistics.summary([of["train_seconds"] for of in outcomes]),
        "settings": settings,
        "environments": runs.distinct([of["environment"] for of in outcomes]),
        "command": runs.command(),
    }


def main() -> None:
    """Runs the command."""
    of = flags.FLAGS
    output, workdir, seeds = Path(of.output), Path(of.workdir), runs.parse_seeds(of.seeds)
    runs.check_output(output)
    limits = {"max_epochs": of.max_epochs} if of.max_epochs else {}
    outcomes = []
    for seed in seeds:
        settings = Settings(seed=seed, **limits)
        described = {"path": of.path, **dataclasses.asdict(settings)}
        work = functools.partial(measure, of.path, settings)
        outcomes.append(runs.finished_or(workdir / f"seed{seed}.json", described, work))
        logging.info("seed %d: test %s", seed, outcomes[-1]["metrics"])
    shared = {key: value for key, value in dataclasses.asdict(Settings(**limits)).items() if key != "seed"}
    write_json(output, collect(shared, seeds, outcomes))
    logging.info("wrote %s", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, one run each.")
    flags.DEFINE_string("path", "${LSEC_JAX_DATA}/seq_amazon/Beauty.txt", "File of sequences.")
    flags.DEFINE_integer("max_epochs", 0, "Epochs at most; 0 = the default.", lower_bound=0)
    flags.DEFINE_string("output", str(runs.QUALITY / "next_item.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/next_item", "Where finished seeds are; reused.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
