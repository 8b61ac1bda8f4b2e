"""The picture of the throughput suite: times over the floor, targets, and growth with the size."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.markdown import Result
from benchmarks.throughput import targets
from benchmarks.throughput.contestants import OURS

_COLORS = {"segment": "#b0b0b0", "bcsr": "#7aa6d6", "chunked": "#e0a458", "compiled": "#2f6b3a"}
_SCALES = {"quarter": 0.25, "small": 1.0, "double": 2.0}


def draw(result: Result, path: Path) -> None:
    """Writes the picture."""
    figure = Figure(figsize=(17, 6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _floors(left, result)
    _targets(middle, result)
    _growth(right, result)
    figure.savefig(path, dpi=110)


def _floors(axes: Axes, result: Result) -> None:
    rows = targets.by_name(result)
    size = targets.SIZE if any(of == targets.SIZE for _, of in rows) else next((of for _, of in rows), targets.SIZE)
    found = targets.times_floor(rows, size=size)
    for i, (backend, color) in enumerate(_COLORS.items()):
        places = [(j + 0.2 * (i - 1.5), of[backend]) for j, of in enumerate(found.values()) if backend in of]
        if places:
            axes.bar(*zip(*places, strict=True), width=0.2, color=color, label=backend)
    if not found:
        _nothing(axes)
    else:
        axes.set_yscale("log")
        axes.axhline(1, color="black", linewidth=0.8)
        for most in (targets.TIMES_FLOOR, targets.TIMES_FLOOR_WITHOUT):
            axes.axhline(most, color="#c03028", linewidth=0.8, linestyle=":")
        axes.set_ylim(top=2 * axes.get_ylim()[1])
        axes.legend(fontsize=8, ncols=4, loc="upper center")
    axes.set_xticks(range(len(found)), list(found), rotation=60, fontsize=8)
    axes.set(title=f"propagate, {size}: time over the floor\n(dotted: targets)", ylabel="times the floor")


def _targets(axes: Axes, result: Result) -> None:
    measured = [of for of in targets.verdicts(result) if of.share is not None][::-1]
    labels = [f"{of.work}\n{of.against}, {of.wanted}" for of in measured]
    shares = [of.share or 0.0 for of in measured]
    colors = ["#2f6b3a" if of.is_reached else "#c03028" for of in measured]
    if measured:
        bars = axes.barh(range(len(measured)), shares, color=colors)
        axes.bar_label(bars, [(of.measured or "").partition(" (")[0] for of in measured], padding=3, fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(min(0.3, *shares) / 1.2, max(2.0, *shares) * 4)
        axes.axvline(1, color="black", linewidth=0.8)
    else:
        _nothing(axes)
    axes.set_yticks(range(len(measured)), labels, fontsize=7)
    axes.set(title="Targets: measured over wanted", xlabel="1 = the target")


def _growth(axes: Axes, result: Result) -> None:
    """Lines of the rows that were measured at several sizes; of `propagate`, the fastest backend alone."""
    lines: dict[str, dict[float, float]] = {}
    for row in result["rows"]:
        if row["size"] in _SCALES and OURS in row["results"]:
            lines.setdefault(_line_name(row["row"]), {}).setdefault(_SCALES[row["size"]], float("inf"))
            seconds = lines[_line_name(row["row"])]
            seconds[_SCALES[row["size"]]] = min(seconds[_SCALES[row["size"]]], row["results"][OURS]["p50"])
    lines = {name: of for name, of in lines.items() if len(of) > 1 and not name.endswith("_bcsr")}
    for i, (name, of) in enumerate(lines.items()):
        scales = sorted(of)
        style: dict[str, Any] = {"marker": "os^vD"[i // 10 % 5], "markersize": 4, "linewidth": 1}
        axes.plot(scales, [of[scale] for scale in scales], label=name, **style)
    if lines:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        _nothing(axes)
    axes.set_xticks(list(_SCALES.values()), ["1/4", "1", "2"])
    axes.set(title="Growth", xlabel="size, LSEC-Small = 1", ylabel="median seconds")


def _line_name(row: str) -> str:
    kind, *path = row.split("/")
    return f"{kind}/{path[0]}/{path[1]}" if kind == "propagate" else row


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
