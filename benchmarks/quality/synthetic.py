"""popularity < one-relation GCN < LSEC-GCN < oracle, on simulated worlds at LSEC-Small's proportions.

Example:
  python -m benchmarks.quality.synthetic --seeds=0,1,2,3,4

For each seed a world (its seed) and both models on it (the same seed), so that the spread over seeds covers worlds and
initialisations. Both models have the same optimizer, steps, early stopping and purchases per step; they differ in
relations and tasks alone. Finished seeds are not run again.
"""

import functools
import itertools
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import runs, statistics
from lsec_jax import cli
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.training import fit, reports
from lsec_jax.training.evaluation import EvaluationRow, baseline_scorers, oracle_scorer
from lsec_jax.training.run import prepare
from lsec_jax.training.workdirs import restore_best

CONFIGS = {"gcn": "gcn_synthetic", "lsec-gcn": "lsec_gcn_synthetic"}
ORDER = ("popularity", "gcn", "lsec-gcn", "oracle")
PAIRS = (*itertools.pairwise(ORDER), ("item_knn", "gcn"), ("item_knn", "lsec-gcn"))  # (lower, higher) if all is well
COMPARED = {"candidates": ("auc", "mrr", "ndcg@10", "recall@10"), "full_ranking": ("recall@20", "ndcg@20")}


def seeded_configs(seed: int, variant: str) -> dict[str, RunConfig]:
    """Returns both configs with a seed.

    Raises:
        ConfigError: if they differ in more than the model's relations and tasks.
    """
    configs = {model: runs.load_config(name, variant) for model, name in CONFIGS.items()}
    for config in configs.values():
        config.seed = config.data.seed = seed
    settings = {model: runs.as_json(config) for model, config in configs.items()}
    for value in settings.values():
        del value["model"]["relations"], value["model"]["tasks"]
    if settings["gcn"] != settings["lsec-gcn"]:
        raise ConfigError(f"{' and '.join(CONFIGS.values())} may differ in config.model.relations and .tasks only")
    return configs


def measure(configs: dict[str, RunConfig], workdir: Path) -> dict[str, Any]:
    """Trains both models on one world and evaluates all on test.

    Returns:
        "metrics" by protocol and model, "users" (paired bootstrap of PAIRS) by protocol, and
        "training" by model.
    """
    rows: dict[str, dict[str, EvaluationRow]] = {}
    training = {}
    for model, config in configs.items():
        fit.run(config, workdir / model)
        report = reports.read(workdir / model)
        training[model] = {name: report[name] for name in ("best_step", "train_seconds")}
        run = prepare(config)
        state, _ = restore_best(run, workdir / model)
        scorers = {model: run.scorer_function()(state)}
        if not rows:  # the world is the same for both
            scorers |= baseline_scorers(run.data, run.task, config.evaluation)
            scorers["oracle"] = oracle_scorer(run.data, run.task, "test")
        for protocol in config.evaluation.protocols:
            for name, scorer in scorers.items():
                rows.setdefault(protocol, {})[name] = run.evaluator.evaluate(scorer, "test", protocol)
    return {
        "metrics": {protocol: {name: row.metrics for name, row in of.items()} for protocol, of in rows.items()},
        "users": {protocol: _over_users(of, COMPARED[protocol]) for protocol, of in rows.items()},
        "protocols": {
            protocol: {"description": row.description, "users": row.num_users, "users_left_out": row.num_left_out}
            for protocol, row in ((protocol, of["oracle"]) for protocol, of in rows.items())
        },
        "training": training,
    }


def _over_users(rows: dict[str, EvaluationRow], metrics: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for lower, higher in PAIRS:
        assert (rows[lower].user_ids == rows[higher].user_ids).all(), "one world, one protocol: the same users"
        result[f"{higher} - {lower}"] = {
            metric: statistics.bootstrap_difference(rows[higher].per_user[metric], rows[lower].per_user[metric])
            for metric in metrics
        }
    return result


def collect(configs: dict[str, Any], seeds: list[int], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over seeds, and paired differences of PAIRS."""
    protocols = {}
    for protocol, by_model in outcomes[0]["metrics"].items():
        metrics = {
            model: {
                metric: statistics.summary([outcome["metrics"][protocol][model][metric] for outcome in outcomes])
                for metric in values
            }
            for model, values in by_model.items()
        }
        differences = {}
        for lower, higher in PAIRS:
            name = f"{higher} - {lower}"
            differences[name] = {
                metric: {
                    **statistics.paired_difference(metrics[higher][metric]["values"], metrics[lower][metric]["values"]),
                    "users_of_each_seed": [outcome["users"][protocol][name][metric] for outcome in outcomes],
                }
                for metric in COMPARED[protocol]
            }
        protocols[protocol] = {
            "of_each_seed": [outcome["protocols"][protocol] for outcome in outcomes],
            "models": metrics,
            "differences": differences,
        }
    training = {
        model: {
            name: statistics.summary([outcome["training"][model][name] for outcome in outcomes])
            for name in ("best_step", "train_seconds")
        }
        for model in CONFIGS
    }
    return {
        "benchmark": "synthetic",
        "seeds": seeds,
        "seed_of": "the world and both models",
        "protocols": protocols,
        "training": training,
        "configs": configs,
        "environments": runs.distinct([outcome["environment"] for outcome in outcomes]),
        "command": runs.command(),
    }


def main() -> None:
    """Runs the command."""
    output, workdir, seeds = Path(flags.FLAGS.output), Path(flags.FLAGS.workdir), runs.parse_seeds(flags.FLAGS.seeds)
    runs.check_output(output)
    outcomes, settings = [], {}
    for seed in seeds:
        configs = seeded_configs(seed, flags.FLAGS.variant)
        settings = {model: runs.as_json(config) for model, config in configs.items()}
        work = functools.partial(measure, configs, workdir / f"seed{seed}")
        outcomes.append(runs.finished_or(workdir / f"seed{seed}.json", settings, work))
        logging.info("seed %d: %s", seed, outcomes[-1]["training"])
    configs = {model: runs.as_json(runs.load_config(name, flags.FLAGS.variant)) for model, name in CONFIGS.items()}
    write_json(output, collect(configs, seeds, outcomes))
    logging.info("wrote %s", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds of the world and of the models.")
    flags.DEFINE_string("output", str(runs.QUALITY / "synthetic.json"), "JSON file to write.")
    flags.DEFINE_string("workdir", "workdirs/benchmarks/synthetic", "Where the runs are; reused.")
    flags.DEFINE_string("variant", "", "Variant of the configs; 'tiny' to try the command.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
