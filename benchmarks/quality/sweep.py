"""One table over several configs and seeds, on any data source.

Example:
  python -m benchmarks.quality.sweep --sweep=relations --config=configs/lsec_gcn_synthetic.py --seeds=0,1,2,3,4

Sweeps: models (Tables 5 and 6 of LSEC-GNN's paper), relations (Table 7), layers, alpha, quantile (of sampled training),
exclusion; sweep_rows.py says what their rows are and what a base needs. A seed is that of the model, and of the data
source where it has one, so that differences between rows are paired. Finished cells are not run again. The result goes
to results/sweep_<sweep>_<config>.json.
"""

import copy
import functools
from pathlib import Path
from typing import Any

from absl import flags, logging
from flax import nnx
from ml_collections import config_flags

from benchmarks import runs, statistics
from benchmarks.quality import sweep_rows
from lsec_jax import cli
from lsec_jax.config import ConfigError, RunConfig, require_choice, validate
from lsec_jax.schema import DataError
from lsec_jax.training import fit, reports
from lsec_jax.training.writers import make_directory, write_json

MAX_METRICS = 4
TRAINING = ("best_step", "last_step", "train_seconds")


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """Returns a copy with the seed of the run, and of the data source where it has one (a world, held-out pairs)."""
    config = copy.deepcopy(config)
    config.seed = seed
    if hasattr(config.data, "seed"):
        config.data.seed = seed
    return config


def check(rows: dict[str, RunConfig], seed: int) -> str:
    """Refuses rows that cannot work, before the first one trains; returns the fingerprint of the seed's data.

    Raises:
        ConfigError, DataError: naming the row.
    """
    data = None
    for name, row in rows.items():
        config = with_seed(row, seed)
        try:
            validate(config)
            data = data or config.data.load()
            config.model.build(data, nnx.Rngs(0))
        except (ConfigError, DataError) as error:
            raise type(error)(f"row '{name}': {error}") from error
    assert data is not None
    return data.fingerprint()


def measure(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Trains (or resumes) one cell; returns the test "rows" of its report, and its TRAINING."""
    fit.run(config, workdir)
    report = reports.read(workdir)
    rows = [row for row in report["rows"] if row["split"] == "test"]
    return {"rows": rows, **{key: report[key] for key in TRAINING}}


def collect(outcomes: dict[str, list[dict[str, Any]]], protocols: tuple[str, ...]) -> dict[str, Any]:
    """Means and spreads over seeds, and differences of the rows (`_pairs`).

    Args:
        outcomes: of each row, by seed; the first row's also hold those of the baselines.
        protocols: evaluated, the one that picks the checkpoint first.
    """
    result = {}
    for protocol in protocols:
        metrics: dict[str, dict[str, Any]] = {}
        for name, by_seed in outcomes.items():
            of_seeds = [[row for row in outcome["rows"] if row["protocol"] == protocol] for outcome in by_seed]
            for i, model in enumerate(row["model"] for row in of_seeds[0]):
                values = [rows[i]["metrics"] for rows in of_seeds]
                assert all(rows[i]["model"] == model for rows in of_seeds)
                label = name if i == 0 else model
                metrics.setdefault(label, {key: statistics.summary([v[key] for v in values]) for key in values[0]})
        first = outcomes[next(iter(outcomes))][0]["rows"]
        shown = reports.leaderboard_metrics(protocol, next(iter(metrics.values())))[:MAX_METRICS]
        result[protocol] = {
            "description": next(row["candidates"] for row in first if row["protocol"] == protocol),
            "shown": shown,
            "models": metrics,
            "differences": {
                f"{higher} - {lower}": {
                    key: statistics.paired_difference(metrics[higher][key]["values"], metrics[lower][key]["values"])
                    for key in shown
                }
                for lower, higher in _pairs(list(outcomes), list(metrics))
            },
        }
    return result


def _pairs(rows: list[str], labels: list[str]) -> list[tuple[str, str]]:
    """What is compared: rows to the first and the last two; of models, each to what should be below and above it."""
    on_all = [name for name in rows if name.startswith("lsec-")]
    if not on_all:
        return list(dict.fromkeys([*((rows[0], other) for other in rows[1:]), (rows[-2], rows[-1])]))
    pairs = []
    for name in on_all:
        one_relation = name.removeprefix("lsec-")
        floors = [floor for floor in labels if floor.startswith("ncf-")]
        pairs += [(floor, one_relation) for floor in floors] + [(one_relation, name)]
        pairs += [
            (lower, higher) for lower, higher in (("item_knn", name), (name, "oracle")) if {lower, higher} <= {*labels}
        ]
    return pairs


def main() -> None:
    """Runs the command."""
    sweep, seeds = flags.FLAGS.sweep, runs.parse_seeds(flags.FLAGS.seeds)
    require_choice("--sweep", sweep, tuple(sweep_rows.SWEEPS))
    base = cli.check_types(flags.FLAGS.config)
    file, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    label = f"{sweep}_{Path(file).stem}{'_' + variant if variant else ''}"
    output = Path(flags.FLAGS.output or runs.QUALITY / f"sweep_{label}.json")
    workdir = Path(flags.FLAGS.workdir or f"workdirs/benchmarks/sweep_{label}")
    runs.check_output(output)
    rows = sweep_rows.build(sweep, base)
    for name in list(rows)[1:]:  # the floors are the same for all
        rows[name].evaluation.baselines = ()
    fingerprints = {seed: check(rows, seed) for seed in seeds}
    make_directory(workdir, f"--workdir={workdir}")
    outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for seed in seeds:
        for i, (name, row) in enumerate(rows.items()):
            config, cell = with_seed(row, seed), workdir / f"{i}_seed{seed}"
            work = functools.partial(measure, config, cell)
            settings = {"config": runs.as_json(config), "data": fingerprints[seed]}
            outcomes[name].append(runs.finished_or(cell.with_suffix(".json"), settings, work))
            logging.info("seed %d, %s: %s", seed, name, outcomes[name][-1]["rows"][0]["metrics"])
    every = [outcome for of in outcomes.values() for outcome in of]
    write_json(
        output,
        {
            "benchmark": "sweep",
            "sweep": sweep,
            "title": (sweep_rows.SWEEPS[sweep].__doc__ or "").strip(),
            "config": f"{file}:{variant}" if variant else file,
            "seeds": seeds,
            "protocols": collect(outcomes, base.evaluation.protocols),
            "training": {
                name: {key: statistics.summary([o[key] for o in of]) for key in TRAINING}
                for name, of in outcomes.items()
            },
            "rows": {name: runs.as_json(row) for name, row in rows.items()},
            "environments": runs.distinct([outcome["environment"] for outcome in every]),
            "command": runs.command(),
        },
    )
    logging.info("wrote %s", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_string("sweep", None, f"One of: {', '.join(sweep_rows.SWEEPS)}.", required=True)
    config_flags.DEFINE_config_file("config", None, "Base config: FILE.py[:VARIANT] of LSEC-GNN.")
    flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds of the models, and of simulated worlds.")
    flags.DEFINE_string("output", None, "JSON file to write.")
    flags.DEFINE_string("workdir", None, "Where the runs are; reused.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
