"""Do the analyses of LSEC-GNN's Sec. 4 find what a simulated world has planted, and nothing where nothing is?

Example:
  python -m benchmarks.quality.influence --seeds=0,1,2

For each seed two worlds of LSEC-Small's size, the default one, and one where follows go by popularity alone and nobody
buys because of a streamer (`influence` = `taste_follow` = 0), each through the job of `python -m lsec_jax.analyze`.
Finished worlds are not analysed again.
"""

import functools
import json
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import runs, statistics
from lsec_jax import cli
from lsec_jax.config import RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn
from lsec_jax.training import analysis
from lsec_jax.training.writers import make_directory

WORLDS: dict[str, dict[str, float]] = {
    "as planted": {},
    "influence and taste-follow off": {"influence": 0.0, "taste_follow": 0.0},
}
SIZES = {"tiny": synthetic.tiny, "lsec_small": synthetic.lsec_small}


def measure(config: RunConfig, settings: analysis.Settings, output: Path) -> dict[str, Any]:
    """Analyses one world; returns the content of its analysis.json without the circumstances."""
    analysis.run(config, settings, output, {})
    content = json.loads((output / "analysis.json").read_text())
    return {key: content[key] for key in ("influence", "users", "items", "seconds", "settings")}


def collect(outcomes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means and spreads over seeds by world."""
    result = {}
    for world, of in outcomes.items():
        influence = [outcome["influence"] for outcome in of]
        values = {
            "joined": [found["joined"]["probability"] for found in influence],
            "apart": [found["apart"]["probability"] for found in influence],
            "ratio": [found["ratio"] for found in influence],
            "monte_carlo_ratio": [found["monte_carlo_ratio"]["mean"] for found in influence],
            "true_ratio": [found["truth"]["ratio"] for found in influence],
            "z_score": [found["truth"]["z_score"] for found in influence],
            "seconds": [outcome["seconds"] for outcome in of],
        }
        for kind in ("users", "items"):
            for measure_name in ("cosine", "jaccard"):
                for group in ("joined", "apart"):
                    means = [outcome[kind][group][measure_name]["mean"] for outcome in of]
                    values[f"{kind}_{measure_name}_{group}"] = means
        result[world] = {key: statistics.summary(numbers) for key, numbers in values.items()}
    return result


def main() -> None:
    """Runs the command."""
    seeds, size = runs.parse_seeds(flags.FLAGS.seeds), flags.FLAGS.size
    output, workdir = Path(flags.FLAGS.output), Path(flags.FLAGS.workdir)
    runs.check_output(output)
    make_directory(workdir, f"--workdir={workdir}")
    settings = analysis.Settings()
    outcomes: dict[str, list[dict[str, Any]]] = {world: [] for world in WORLDS}
    for seed in seeds:
        for i, (world, changes) in enumerate(WORLDS.items()):
            config = RunConfig(data=SIZES[size](seed=seed, **changes), model=lsec_gnn.Config())
            cell = workdir / f"{i}_seed{seed}"
            outcome = runs.finished_or(
                cell.with_suffix(".json"),
                {"data": runs.as_json(config)["data"]},
                functools.partial(measure, config, settings, cell),
            )
            outcomes[world].append(outcome)
            logging.info("seed %d, %s: ratio %s", seed, world, outcome["influence"]["ratio"])
    every = [outcome for of in outcomes.values() for outcome in of]
    write_json(
        output,
        {
            "benchmark": "influence",
            "size": size,
            "seeds": seeds,
            "worlds": collect(outcomes),
            "environments": runs.distinct([outcome["environment"] for outcome in every]),
            "command": runs.command(),
        },
    )
    logging.info("wrote %s", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the worlds.")
    flags.DEFINE_enum("size", "lsec_small", list(SIZES), "Of the worlds.")
    flags.DEFINE_string("output", str(runs.QUALITY / "influence.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/influence", "Where the analyses are; reused.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
