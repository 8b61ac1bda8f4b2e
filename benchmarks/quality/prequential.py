"""How fast does a model age where new items come every day, and what does updating it bring?

Example:
  python -m benchmarks.quality.prequential --seeds=0,1,2 --start_days=30,36 --days=6

The job of `python -m lsec_jax.prequential` on a shipped config, one simulated world for each seed. Training takes a
fixed number of steps: `--num_steps` from scratch, `--warm_steps` a day from the day before. What is finished is not
done again. The picture lies beside the JSON.
"""

import functools
import json
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import runs
from lsec_jax import cli
from lsec_jax.config import RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.training import prequential, prequential_report
from lsec_jax.training.prequential import Settings


def measure(config: RunConfig, settings: Settings, workdir: Path) -> dict[str, Any]:
    """Runs one seed; returns what it measured, each with the config's metric alone."""
    prequential.run(config, settings, workdir)
    content = json.loads((workdir / "prequential.json").read_text())
    metric = content["metric"]
    outcomes = [{**of, "metrics": {metric: of["metrics"][metric]}} for of in content["outcomes"]]
    return {"outcomes": outcomes, "protocol": content["protocol"]}


def collect(config: RunConfig, settings: Settings, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of a prequential run's JSON over all seeds."""
    outcomes = [outcome for of in found for outcome in of["outcomes"]]
    metric = config.training.metric
    return {
        "metric": metric,
        "protocol": found[0]["protocol"],
        "model": config.model.name,
        "data": type(config.data).__module__.rpartition(".")[2],
        "settings": {
            "start_days": list(settings.start_days),
            "days": settings.num_days,
            "warm_steps": settings.warm_steps,
            "num_steps": config.training.num_steps,
        },
        "curves": prequential_report.curves(outcomes, metric),
        "outcomes": outcomes,
    }


def main() -> None:
    """Runs the command."""
    of = flags.FLAGS
    seeds, starts = runs.parse_seeds(of.seeds), runs.parse_seeds(of.start_days)
    output, workdir = Path(of.output), Path(of.workdir)
    runs.check_output(output)
    config = runs.load_config(of.config_name, of.variant)
    config.training.num_steps = of.num_steps or config.training.num_steps
    found = []
    for seed in seeds:
        settings = Settings(tuple(starts), of.days, (seed,), warm_steps=of.warm_steps)
        found.append(
            runs.finished_or(
                workdir / f"{seed}.json",
                {"config": runs.as_json(config), "start_days": starts, "days": of.days, "warm_steps": of.warm_steps},
                functools.partial(measure, config, settings, workdir / str(seed)),
            )
        )
    result = {
        "benchmark": "prequential",
        "config": of.config_name + (f":{of.variant}" if of.variant else ""),
        "seeds": seeds,
        **collect(config, settings, found),
        "environments": runs.distinct([outcome["environment"] for outcome in found]),
        "command": runs.command(),
    }
    write_json(output, result)
    prequential_report.figure(result).savefig(output.with_suffix(".png"), dpi=120)
    logging.info("wrote %s", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the worlds and of the runs.")
    flags.DEFINE_string("config_name", "lsec_gcn_live", "Name of a config in configs/.")
    flags.DEFINE_string("variant", "", "Its variant, e.g. tiny.")
    flags.DEFINE_list("start_days", ["30", "36"], "Days before which first models are trained.")
    flags.DEFINE_integer("days", 6, "How many days each start is evaluated on.", lower_bound=1)
    flags.DEFINE_integer("num_steps", 0, "Steps of a training from scratch; 0 = the config's.", lower_bound=0)
    flags.DEFINE_integer("warm_steps", 100, "Steps of a training from the day before.", lower_bound=1)
    flags.DEFINE_string("output", str(runs.QUALITY / "prequential.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/prequential", "Where the runs are; reused.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
