"""The picture of the scaling benchmark: bytes and predicted speed by the number of devices."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.markdown import Result

# The other graph models lie on LSEC-GCN's lines, or close to them.
_COLORS = {
    "LSEC-GCN": "#2f6b3a",
    "LSEC-GAT": "#c03028",
    "LSEC-GCN, sampled": "#7aa6d6",
    "NCF, dense": "#e0a458",
    "NCF, lazy": "#303030",
}
_STYLES = {"pmap": ("--", "o"), "sharded": ("-", "s")}


def draw(result: Result, path: Path) -> None:
    """Writes the picture."""
    sizes = list(result["sizes"])
    figure = Figure(figsize=(15, 9), layout="constrained")
    for row, size in zip(figure.subplots(len(sizes), 2, squeeze=False), sizes, strict=True):
        _lines(row[0], result, size, "received_bytes", f"{size}: what a device receives in a step", 1e-6, "MB")
        _lines(row[1], result, size, "efficiency", f"{size}: predicted for H200s, nothing measured", 1, "efficiency")
        row[1].set_ylim(0, 1.05)
        row[0].set_yscale("log")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def _lines(axes: Axes, result: Result, size: str, key: str, title: str, factor: float, unit: str) -> None:
    for model, color in _COLORS.items():
        for strategy, (line, marker) in _STYLES.items():
            own = [
                of for of in result["curves"] if (of["size"], of["model"], of["strategy"]) == (size, model, strategy)
            ]
            places = [(of["devices"], factor * of[key]) for of in own]
            axes.plot(
                *zip(*places, strict=True),
                color=color,
                linestyle=line,
                marker=marker,
                markersize=4,
                linewidth=1.2,
                label=f"{model}, {strategy}",
            )
            missing = [place for place, of in zip(places, own, strict=True) if not of["fits"]]
            if missing:
                axes.plot(*zip(*missing, strict=True), color="black", linestyle="", marker="x", markersize=7)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 4, 8], ["2", "4", "8"])
    axes.set(title=f"{title}\n(sharded: 1 x n; a cross: does not fit)", xlabel="devices", ylabel=unit)
