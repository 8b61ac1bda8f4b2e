"""Pictures of a run: how training went, and the leaderboard."""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lsec_jax.training.reports import leaderboard_metrics

matplotlib.use("Agg")
_PANELS = 8


def draw(workdir: Path, rows: list[dict[str, Any]]) -> None:
    """Writes plots/training.png, plots/leaderboard_<protocol>.png and, of several tasks, plots/task_weights.png."""
    folder = workdir / "plots"
    folder.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    _training(lines, rows[0]["protocol"]).savefig(folder / "training.png", dpi=120)
    weights = _task_weights(lines)
    if weights is not None:
        weights.savefig(folder / "task_weights.png", dpi=120)
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        members = [row for row in rows if row["protocol"] == protocol and row["split"] == "test"]
        if members:
            _leaderboard(members, protocol).savefig(folder / f"leaderboard_{protocol}.png", dpi=120)


def _training(lines: list[dict[str, Any]], protocol: str) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    train = [line for line in lines if line["kind"] == "train"]
    names = [name for name in train[0] if name == "loss" or name.endswith("/loss")] if train else []
    for name in names:
        left.plot([line["step"] for line in train], [line[name] for line in train], label=name, marker=".")
    left.set(xlabel="step", ylabel="loss", title="Training loss")
    if names:
        left.legend()
    kind, measured = _measured(lines)
    if not measured:
        right.set_visible(False)
        return figure
    unit, scale = ("minutes", 60) if measured[-1]["train_seconds"] > 120 else ("seconds", 1)
    times = [line["train_seconds"] / scale for line in measured]
    for name in leaderboard_metrics(protocol, measured[0].keys() - {"step", "kind", "train_seconds"}):
        right.plot(times, [line[name] for line in measured], label=name, marker=".")
    right.set(xlabel=f"training time, {unit}", ylabel="metric", title=f"{kind.capitalize()}, {protocol}")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves: six of them leave no room inside
    return figure


def _task_weights(lines: list[dict[str, Any]]) -> Figure | None:
    """Each task's weight, and the cosine of its gradient with the primary one's; None where there are no weights.

    Points are means over `config.training.log_every` steps.
    """
    train = [line for line in lines if line["kind"] == "train"]
    kinds = {"weight": "weight in the loss", "cosine": "cosine of gradients"}
    names = {kind: [name for name in (train[0] if train else []) if name.endswith(f"/{kind}")] for kind in kinds}
    shown = [kind for kind in kinds if names[kind]]
    if "weight" not in shown:
        return None
    figure = Figure(figsize=(5.5 * len(shown), 4), layout="constrained")
    for panel, kind in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for name in names[kind]:
            values = [line[name] for line in train]
            panel.plot([line["step"] for line in train], values, label=name.rpartition("/")[0], marker=".")
        panel.set(xlabel="step", ylabel=kinds[kind], title=f"Tasks: {kinds[kind]}")
        panel.legend()
    return figure


def _measured(lines: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The validation's lines, or those of a tracked test split where there is no validation."""
    of_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in ("validation", "test")}
    return next(((kind, found) for kind, found in of_kind.items() if found), ("validation", []))


def _leaderboard(rows: list[dict[str, Any]], protocol: str) -> Figure:
    names = [name for name in leaderboard_metrics(protocol, rows[0]["metrics"]) if _is_of_all(name, rows)][:_PANELS]
    models = sorted(rows, key=lambda row: row["metrics"][names[0]])
    figure = Figure(figsize=(2.2 * len(names) + 1.5, 0.45 * len(models) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        values = [row["metrics"][name] for row in models]
        bars = panel.barh([row["model"] for row in models], values, color="#4878a8")
        panel.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
        panel.set(title=name, xlim=(0, max(values) * 1.3 or 1))
    figure.suptitle(f"Test, {protocol}")
    return figure


def _is_of_all(name: str, rows: list[dict[str, Any]]) -> bool:
    return all(name in row["metrics"] for row in rows)
