"""The leaderboard of a run: the model beside its floors and, on a simulated world, its ceiling."""

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

import lsec_jax
from lsec_jax.config import EVENT_PROTOCOLS, RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.training.base_run import Run
from lsec_jax.training.checkpoints import Progress

_LEADERBOARD_METRICS = {
    "candidates": ("auc", "mrr", "ndcg@10", "ndcg@50", "recall@10", "recall@50"),
    "full_ranking": ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr@20", "hit_rate@20"),
}
Row = dict[str, Any]


def model_name(config: RunConfig) -> str:
    """A short name from the model's config, e.g. "lsec-gcn" or "lightgcn"."""
    return config.model.name


def leaderboard_metrics(protocol: str, metrics: Iterable[str]) -> list[str]:
    """Which of the measured metrics a leaderboard shows, the one that it is sorted by first."""
    measured = list(metrics)
    if protocol in EVENT_PROTOCOLS:
        return _of_impressions(measured)
    return [name for name in _LEADERBOARD_METRICS[protocol] if name in measured] or sorted(measured)


def _of_impressions(measured: Iterable[str]) -> list[str]:
    """Those of the primary task by kind and K, then those of the others; without calibration and transformed errors."""
    kinds = ("auc", "gauc", "gauc_request", "mrr", "hr", "ndcg", "precision", "logloss")
    ranked = []
    for name in measured:
        kind, _, cutoff = name.partition("@")
        if kind in kinds:
            ranked.append((kinds.index(kind), int(cutoff or 0), name))
        elif name.startswith(("auc_", "rmse_")) and not name.startswith("rmse_log1p_"):
            ranked.append((len(kinds), 0, name))
    return [name for _, _, name in sorted(ranked)]


def rows(
    run: Run,
    scorers: Mapping[str, Any],
    splits: Iterable[str],
    protocols: Iterable[str],
    train_seconds: float,
) -> list[Row]:
    """Evaluates scorers; one row per scorer, split and protocol."""
    result = []
    for split in splits:
        for protocol in protocols:
            for name, scorer in scorers.items():
                evaluated = run.evaluator.evaluate(scorer, split, protocol)
                logging.info("evaluated %s on %s, %s: %.1f s", name, split, protocol, evaluated.seconds)
                result.append(
                    {
                        "model": name,
                        "split": split,
                        "protocol": protocol,
                        "candidates": evaluated.description,
                        "seed": run.config.seed,
                        "metrics": evaluated.metrics,
                        "users": evaluated.num_users,
                        "users_left_out": evaluated.num_left_out,
                        **({"counts": evaluated.counts} if evaluated.counts else {}),
                        "train_seconds": train_seconds,
                        "evaluation_seconds": evaluated.seconds,
                    }
                )
    return result


def baseline_rows(run: Run, splits: Iterable[str], protocols: Iterable[str]) -> list[Row]:
    """One row per baseline of the config (and the oracle of a simulated world), split and protocol."""
    result: list[Row] = []
    for split in splits:
        result += rows(run, run.baseline_scorers(split), [split], protocols, train_seconds=0.0)
    return result


def table(report_rows: list[Row]) -> str:
    """Returns Markdown: one table per split and protocol, best first by the first metric."""
    parts = []
    groups = dict.fromkeys((row["split"], row["protocol"]) for row in report_rows)
    for split, protocol in groups:
        members = [row for row in report_rows if (row["split"], row["protocol"]) == (split, protocol)]
        names = leaderboard_metrics(protocol, dict.fromkeys(name for row in members for name in row["metrics"]))
        members.sort(key=lambda row: -row["metrics"][names[0]])
        parts.append(f"### {split}, {members[0]['candidates']}, {members[0]['users']} users\n")
        parts.append("| model | " + " | ".join(names) + " |")
        parts.append("|---|" + "---|" * len(names))
        for row in members:
            # Baselines of impressions have no scores of the other tasks, and most of them no probabilities.
            values = " | ".join(f"{row['metrics'][name]:.4f}" if name in row["metrics"] else "-" for name in names)
            parts.append(f"| {row['model']} | {values} |")
        parts.append("")
    return "\n".join(parts)


def write(
    workdir: Path,
    run: Run,
    report_rows: list[Row],
    best_step: int,
    last_step: int,
    progress: Progress,
    examined: tuple[str, dict[str, Any]] = ("", {}),
) -> str:
    """Writes report.json and report.md; returns the latter. `examined` is what `Run.examined` says."""
    content: dict[str, Any] = {
        "rows": report_rows,
        "best_step": best_step,
        "last_step": last_step,
        "train_seconds": progress.train_seconds,
        "compile_seconds": progress.compile_seconds,
        "data": run.describe(),
        "environment": environment(),
        **({"examined": examined[1]} if examined[1] else {}),
    }
    write_json(workdir / "report.json", content)
    data = content["data"]
    nodes = ", ".join(f"{count} {name}s" for name, count in data["nodes"].items())
    edges = ", ".join(f"{count} {name}" for name, count in data["edges"].items())
    text = "\n".join(
        [
            f"# {model_name(run.config)} on {run.data.name}",
            "",
            f"{nodes}; edges: {edges}. Seed {run.config.seed}; checkpoint of step {best_step}; "
            f"{progress.train_seconds:.0f} s of training in all, {progress.compile_seconds:.0f} s of them compilation.",
            "",
            table(report_rows),
            examined[0],
            *(f"- {text}: {count}" for text, count in sorted(data["counts"].items())),
            "",
        ]
    )
    (workdir / "report.md").write_text(text)
    return text


def environment() -> dict[str, Any]:
    """Versions and device, for every stored result."""
    return {
        "lsec_jax": lsec_jax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": str(jax.devices()[0].device_kind),
        "visible_devices": jax.device_count(),
        "processor": platform.processor() or platform.machine(),
    }


def read(workdir: Path) -> dict[str, Any]:
    """Returns the content of report.json."""
    return json.loads((workdir / "report.json").read_text())
