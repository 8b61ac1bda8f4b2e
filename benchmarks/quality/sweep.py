"""One table over several configs and seeds, on any data source.

Example:
  python -m benchmarks.quality.sweep --sweep=relations --config=configs/lsec_gcn_synthetic.py --seeds=0,1,2,3,4

Sweeps: models (Tables 5 and 6 of LSEC-GNN's paper), relations (Table 7), layers, alpha, quantile (of sampled training),
exclusion; sweep_rows.py says what their rows are and what a base needs. On a base of eLiveRec: ladder, sequences (Table
II of its paper), disentangling (Table III), multi_task (Table IV), task_weights (Table V), encoders (Figure 5), lengths
(Figure 6), regularisers, precision; impression_rows.py says the same of these. A seed is that of the model, and of the
data source where it has one, so that differences between rows are paired. With several --rate_factors, each row's
learning rate is the base's times the factor that is best on validation with the first seed (an aggregator on all
relations has that of its one-relation row, so that the two differ in relations and tasks alone). Finished cells are not
run again. The result goes to results/sweep_<sweep>_<config>.json.
"""

import contextlib
import copy
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from benchmarks import runs, statistics
from benchmarks.quality import impression_rows, sweep_rows
from lsec_jax import cli
from lsec_jax.config import ConfigError, RunConfig, require_choice
from lsec_jax.data.files import write_json
from lsec_jax.schema import DataError
from lsec_jax.training import fit, reports
from lsec_jax.training.loop import NonFiniteError
from lsec_jax.training.run import prepare
from lsec_jax.training.writers import make_directory

TRAINING = ("best_step", "last_step", "train_seconds")


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """Returns a copy with the seed of the run, and of the data source where it has one (a world, held-out pairs)."""
    config = copy.deepcopy(config)
    config.seed = seed
    if hasattr(config.data, "seed"):
        config.data.seed = seed
    return config


def check(rows: dict[str, RunConfig], seeds: Sequence[int]) -> dict[int, str]:
    """Refuses rows that cannot work, before the first one trains; returns the data's fingerprint by seed.

    Raises:
        ConfigError, DataError: naming the row.
    """
    for name, row in rows.items():
        with _named(f"row '{name}'"):
            prepare(with_seed(row, seeds[0]))
    first = next(iter(rows.values()))
    # Version 1, so that the cells of earlier sweeps are still known; config and seed determine what it leaves out.
    return {seed: with_seed(first, seed).data.load().fingerprint(version=1) for seed in seeds}


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Says in which row (and seed) something failed."""
    try:
        yield
    except (ConfigError, DataError, NonFiniteError) as error:
        raise type(error)(f"{place}: {error}") from error


def measure(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Trains (or resumes) one cell.

    Returns:
        The test "rows" of its report, its TRAINING, the "validation" metric of its checkpoint (None without
        validation edges), and where scenarios are measured, their "groups": metrics and counts by model and group.
    """
    fit.run(config, workdir)
    report = reports.read(workdir)
    protocol, metric = config.evaluation.protocols[0], config.training.metric
    validation = [row for row in report["rows"] if (row["split"], row["protocol"]) == ("validation", protocol)]
    examined = {model: of["scenarios"] for model, of in report.get("examined", {}).items() if "scenarios" in of}
    groups = {
        model: {group: {key: part[key] for key in ("metrics", "counts")} for group, part in of["groups"].items()}
        for model, of in examined.items()
    }
    return {
        "rows": [row for row in report["rows"] if row["split"] == "test"],
        "validation": validation[0]["metrics"][metric] if validation else None,
        **({"groups": groups} if groups else {}),
        **{key: report[key] for key in TRAINING},
    }


class Cells:
    """The runs of a sweep in its workdir; finished ones are not run again, and sweeps may share a workdir.

    A run lies under a digest of everything that determines its outcome, so that a row of two sweeps is run once.
    """

    def __init__(self, rows: dict[str, RunConfig], fingerprints: dict[int, str], workdir: Path):
        """Takes checked rows, the data's fingerprint by seed, and where the runs are."""
        self._rows, self._fingerprints, self._workdir = rows, fingerprints, workdir

    def outcome(self, name: str, seed: int, factor: float) -> dict[str, Any]:
        """Measures a row with a seed and a factor of its learning rate, or reads what was measured."""
        config = with_seed(self._rows[name], seed)
        config.optimizer.learning_rate *= factor
        settings = {"config": runs.as_json(config), "data": self._fingerprints[seed]}
        cell = self._workdir / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        place = f"row '{name}', seed {seed}, learning rate {config.optimizer.learning_rate:g}"
        logging.info("%s: %s", place, cell)
        with _named(place):
            outcome = runs.finished_or(Path(f"{cell}.json"), settings, functools.partial(measure, config, cell))
        logging.info("%s: validation %s, test %s", place, outcome["validation"], outcome["rows"][0]["metrics"])
        return outcome

    def best_factor(self, name: str, seed: int, factors: Sequence[float]) -> tuple[float, dict[str, float]]:
        """The factor with the highest validation metric in one seed, and the metric of each."""
        if len(factors) == 1:
            return factors[0], {}
        found = {factor: self.outcome(name, seed, factor)["validation"] for factor in factors}
        return max(found, key=found.__getitem__), {f"{factor:g}": value for factor, value in found.items()}


def collect(
    outcomes: dict[str, list[dict[str, Any]]], protocols: tuple[str, ...], of_sweep: Any = sweep_rows
) -> dict[str, Any]:
    """Means and spreads over seeds, and differences of the rows.

    Args:
        outcomes: of each row, by seed; the first row's also hold those of the baselines.
        protocols: evaluated, the one that picks the checkpoint first.
        of_sweep: the module of the rows: its `pairs` are compared, by the metrics that its `shown` chooses.
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
                common = [key for key in values[0] if all(key in of for of in values)]  # older cells have fewer
                metrics.setdefault(label, {key: statistics.summary([v[key] for v in values]) for key in common})
        first = outcomes[next(iter(outcomes))][0]["rows"]
        shown = of_sweep.shown(reports.leaderboard_metrics(protocol, {key: 0 for of in metrics.values() for key in of}))
        result[protocol] = {
            "description": next(row["candidates"] for row in first if row["protocol"] == protocol),
            "shown": shown,
            "models": metrics,
            "differences": {
                f"{higher} - {lower}": {
                    key: statistics.paired_difference(metrics[higher][key]["values"], metrics[lower][key]["values"])
                    for key in shown
                    if key in metrics[higher] and key in metrics[lower]
                }
                for lower, higher in of_sweep.pairs(list(outcomes), list(metrics))
            },
        }
    return result


def collect_groups(outcomes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means and spreads over seeds of the groups of scenarios, as `collect` labels models.

    Args:
        outcomes: of each row, by seed.

    Returns:
        By group, then by model: "counts" of the first seed, and "metrics", those that all seeds define; empty where a
        row was measured without groups.
    """
    found: dict[str, Any] = {}
    if not all("groups" in outcome for of in outcomes.values() for outcome in of):
        return found
    for name, by_seed in outcomes.items():
        for i, model in enumerate(by_seed[0]["groups"]):
            of_seeds = [outcome["groups"][model] for outcome in by_seed if model in outcome["groups"]]
            if len(of_seeds) < len(by_seed):  # of the baselines the best one is measured, in each seed
                continue
            for group, first in of_seeds[0].items():
                values = [of[group]["metrics"] for of in of_seeds]
                common = [key for key in values[0] if all(key in of for of in values)]
                metrics = {key: statistics.summary([of[key] for of in values]) for key in common}
                label = name if i == 0 else model
                found.setdefault(group, {}).setdefault(label, {"counts": first["counts"], "metrics": metrics})
    return found


def _rows_of(sweep: str) -> Any:
    """The module of a sweep's rows; raises ConfigError for an unknown one."""
    require_choice("--sweep", sweep, (*sweep_rows.SWEEPS, *impression_rows.SWEEPS))
    return sweep_rows if sweep in sweep_rows.SWEEPS else impression_rows


def main() -> None:
    """Runs the command."""
    sweep, seeds = flags.FLAGS.sweep, runs.parse_seeds(flags.FLAGS.seeds)
    factors = _parse_factors(flags.FLAGS.rate_factors)
    of_sweep = _rows_of(sweep)
    base = cli.check_types(flags.FLAGS.config)
    file, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    label = f"{sweep}_{Path(file).stem}{'_' + variant if variant else ''}"
    output = Path(flags.FLAGS.output or runs.QUALITY / f"sweep_{label}.json")
    workdir = Path(flags.FLAGS.workdir or f"workdirs/benchmarks/sweep_{label}")
    runs.check_output(output)
    every_row = of_sweep.build(sweep, base)
    rows = {name: every_row[name] for name in _wanted(flags.FLAGS.row, every_row)}
    for name in list(rows)[1:]:  # the floors are the same for all
        rows[name].evaluation.baselines = ()
    cells = Cells(every_row, check(rows, seeds), workdir)
    if len(factors) > 1 and base.training.patience == 0:
        raise ConfigError(
            "--rate_factors: the best one is chosen on validation, and this config does not validate "
            "(config.training.patience = 0); give one factor"
        )
    make_directory(workdir, f"--workdir={workdir}")
    chosen = {name: cells.best_factor(of_sweep.rate_row(name, rows), seeds[0], factors) for name in rows}
    outcomes = {name: [cells.outcome(name, seed, chosen[name][0]) for seed in seeds] for name in rows}
    every = [outcome for of in outcomes.values() for outcome in of]
    write_json(
        output,
        {
            "benchmark": "sweep",
            "sweep": sweep,
            "title": (of_sweep.SWEEPS[sweep].__doc__ or "").strip(),
            "config": f"{file}:{variant}" if variant else file,
            "seeds": seeds,
            "protocols": collect(outcomes, base.evaluation.protocols, of_sweep),
            **({"groups": groups} if (groups := collect_groups(outcomes)) else {}),
            "training": {
                name: {key: statistics.summary([o[key] for o in of]) for key in TRAINING}
                for name, of in outcomes.items()
            },
            "learning_rates": {
                name: {"rate": rows[name].optimizer.learning_rate * factor, "validation_by_factor": tried}
                for name, (factor, tried) in chosen.items()
            },
            "rows": {name: runs.as_json(row) for name, row in rows.items()},
            "environments": runs.distinct([outcome["environment"] for outcome in every]),
            "command": runs.command(),
        },
    )
    logging.info("wrote %s", output)


def _wanted(names: Sequence[str], rows: sweep_rows.Rows) -> list[str]:
    """The rows asked for, in the sweep's order; all of them if none is named."""
    unknown = [name for name in names if name not in rows]
    if unknown or len(set(names)) < len(names):
        raise ConfigError(f"--row={' --row='.join(names)}: name rows of the sweep, each once: {'; '.join(rows)}")
    return [name for name in rows if name in names or not names]


def _parse_factors(values: Sequence[str]) -> list[float]:
    try:
        factors = [float(value) for value in values]
    except ValueError:
        factors = []
    if not factors or not all(0 < factor < math.inf for factor in factors) or len(set(factors)) < len(factors):
        raise ConfigError(f"--rate_factors={','.join(values)}: give different numbers above 0, for example 1,0.4,0.2")
    return factors


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    names = ", ".join((*sweep_rows.SWEEPS, *impression_rows.SWEEPS))
    flags.DEFINE_string("sweep", None, f"One of: {names}.", required=True)
    config_flags.DEFINE_config_file("config", None, "Base config: FILE.py[:VARIANT] of LSEC-GNN or eLiveRec.")
    flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds of the models, and of simulated worlds.")
    flags.DEFINE_multi_string("row", [], "Only this row of the sweep (repeatable); none = all.")
    flags.DEFINE_list("rate_factors", ["1"], "Factors of the learning rate; each row gets the best of the first seed.")
    flags.DEFINE_string("output", None, "JSON file to write.")
    flags.DEFINE_string("workdir", None, "Where the runs are; reused, also by another sweep that has the same rows.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
