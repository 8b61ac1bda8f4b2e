"""Pictures of Figures 5 to 9 of TREEMS, from the content of figures.json alone."""

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")

# Okabe and Ito's palette, which colour-blind readers can tell apart; the run itself has the first one.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
OTHERS = "#aaaaaa"
NAMES = {"auc": "AUC", "mrr": "MRR", "hr@5": "HR@5"}
MARKERS = {"head": ("o", 34), "tail": ("o", 16), "cold": ("x", 26)}


def pictures(content: Mapping[str, Any]) -> dict[str, Figure]:
    """All that there is anything to show in, by name of the file without its ending."""
    found = {}
    for number, kind in ((5, "Head scenarios"), (6, "Long-tail scenarios")):
        section = content[f"figure{number}"]
        if section["scenarios"]:
            found[f"figure{number}"] = bars(section, kind, content["scenarios"])
    return {**found, "figure7_8": experts(content["figure7_8"]), "figure9": representations(content["figure9"])}


def bars(section: Mapping[str, Any], kind: str, measured: Mapping[str, Any]) -> Figure:
    """Figures 5 and 6: a panel for each metric, in it the models' bars in each scenario."""
    scenarios, metrics, unit = section["scenarios"], section["metrics"], section["unit"]
    models = list(scenarios[0]["models"])
    figure = Figure(figsize=(max(6.5, 1.6 + 0.36 * len(models) * len(scenarios)), 2.3 * len(metrics) + 1.6))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    width = 0.84 / len(models)
    for panel, metric in zip(panels, metrics, strict=True):
        for k, model in enumerate(models):
            values = [of["models"][model][metric] for of in scenarios]
            heights = np.array([of["value"] for of in values])
            ends = np.array([[of.get(end, np.nan) for of in values] for end in ("low", "high")])
            at = np.arange(len(values)) + (k - (len(models) - 1) / 2) * width
            style = {"color": COLORS[k % len(COLORS)], "hatch": "//" if k >= len(COLORS) else None}
            panel.bar(at, heights, 0.92 * width, label=model, **style)
            # Between its ends, which need not enclose the value; none where they are NaN.
            panel.errorbar(at, ends.mean(axis=0), (ends[1] - ends[0]) / 2, fmt="none", **_ERRORS)
            for x, high, value in zip(at, np.fmax(ends[1], heights), heights, strict=True):
                panel.text(x, high + 0.03, f"{value:.3f}", rotation=90, ha="center", va="bottom", fontsize=7)
        if metric == "auc":
            panel.axhline(0.5, color="#777777", linewidth=0.8, linestyle="--", zorder=3)
        panel.set_ylabel(NAMES.get(metric, metric))
        panel.set(ylim=(0, 1.2), yticks=np.arange(0.0, 1.1, 0.2))  # above 1 there is room for the numbers
        _clean(panel)
    panels[0].set_xlim(-0.6, len(scenarios) - 0.4)
    labels = [f"{of['label']}\n{_wrapped(of['name'])}\n{of[unit]} {unit}" for of in scenarios]
    panels[-1].set_xticks(np.arange(len(scenarios)), labels, fontsize=8)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(models), 4), frameon=False)
    interval = (
        f"; lines: 95% of {measured['samples']} samples of the {measured['resampled']}" if measured["samples"] else ""
    )
    panels[0].set_title(f"{kind}, {measured['split']}{interval}", fontsize=11)
    return figure


def experts(section: Mapping[str, Any]) -> Figure:
    """Figures 7 and 8: a row for each run, in it heat maps of the mean gates of a scenario and of groups."""
    runs = section["runs"]
    num_columns = max(len(of["parts"]) for of in runs.values())
    gates = [np.array(part["gates"]) for of in runs.values() for part in of["parts"]]
    high = max(float(of.max()) for of in gates)
    layers, width = max(len(of) for of in gates), max(of.shape[1] for of in gates)
    size = (1.5 + num_columns * (0.42 * width + 0.5), 0.9 + len(runs) * (0.36 * layers + 1.1))
    figure = Figure(figsize=(max(size[0], 7.0), size[1]), layout="constrained")
    rows = figure.subfigures(len(runs), 1, squeeze=False)[:, 0]
    image, panels = None, []
    for row, (label, of) in zip(rows, runs.items(), strict=True):
        row.suptitle(f"{label}, inconsistency weight {of['inconsistency_weight']:g}", fontsize=11)
        own = row.subplots(1, num_columns, squeeze=False)[0]
        for k, panel in enumerate(own):
            if k >= len(of["parts"]):
                panel.set_axis_off()
                continue
            image = _heat_map(panel, of["parts"][k], high, is_first=k == 0)
            panels.append(panel)
        assert image is not None, "each run has the chosen scenario"
        row.colorbar(image, ax=list(own), label="mean gate", fraction=0.03, pad=0.01)
    return figure


def _heat_map(panel: Axes, part: Mapping[str, Any], high: float, is_first: bool) -> Any:
    gates = np.array(part["gates"])
    image = panel.imshow(gates, cmap="cividis", vmin=0, vmax=high, aspect="auto")
    panel.set_xticks(range(gates.shape[1]), [str(i + 1) for i in range(gates.shape[1])], fontsize=8)
    panel.set_yticks(range(len(gates)), [str(i + 1) for i in range(len(gates))], fontsize=8)
    panel.tick_params(length=0)
    panel.set_xlabel("expert", fontsize=9)
    if is_first:
        panel.set_ylabel("layer", fontsize=9)
    count = f" ({part['scenarios']} scenarios)" if not is_first else ""
    panel.set_title(f"{_wrapped(part['name'], 24)}{count}", fontsize=9)
    for layer, expert in np.ndindex(*gates.shape):
        value = gates[layer, expert]
        color = "white" if value < 0.55 * high else "black"
        panel.text(expert, layer, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
    return image


def representations(section: Mapping[str, Any]) -> Figure:
    """Figure 9: a panel for each model, scenarios coloured by their ancestor; cold ones are crosses."""
    panels, ancestors = section["panels"], np.array([str(of) for of in section["ancestors"]])
    groups = np.array(section["groups"])
    names, counts = np.unique(ancestors, return_counts=True)
    ordered = [str(name) for name in names[np.argsort(-counts, kind="stable")]]
    named = ordered if len(ordered) <= len(COLORS) else ordered[: len(COLORS) - 1]
    colors = {name: COLORS[k] for k, name in enumerate(sorted(named))}
    columns = len(panels) if len(panels) <= 3 else 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(4.3 * columns, 6.0), 4.3 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        x, y = np.array(panel["x"]), np.array(panel["y"])
        for group, (marker, size) in MARKERS.items():
            kept = np.flatnonzero(groups == group)
            of_points = [colors.get(ancestors[i], OTHERS) for i in kept]
            edge = {"linewidths": 1.2} if marker == "x" else {"linewidths": 0.4, "edgecolors": "white"}
            axis.scatter(x[kept], y[kept], s=size, marker=marker, c=of_points, alpha=0.85, **edge)
        axis.set_title(
            f"{panel['title']}: {panel['vectors']}\nsilhouette {_number(panel['silhouette'], '+.3f')}", **_SMALL
        )
        shares = (
            f"{_number(panel['nearest'], '.0%')} have a sibling nearest, {_number(panel['chance'], '.0%')} by chance"
        )
        explained = " and ".join(f"{share:.0%}" for share in panel["explained"])
        axis.set_xlabel(f"{shares}\naxes: {explained} of the variance", fontsize=9)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_color("#bbbbbb")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    _legend(figure, axes[0], colors, len(ordered) - len(colors), set(section["groups"]))
    return figure


def _legend(figure: Figure, axis: Axes, colors: Mapping[str, str], num_others: int, groups: set[str]) -> None:
    """One legend for all panels: colours of ancestors, and markers of groups."""
    handles = [axis.scatter([], [], s=30, color=color, label=_wrapped(name, 30)) for name, color in colors.items()]
    if num_others:
        handles.append(axis.scatter([], [], s=30, color=OTHERS, label=f"{num_others} others"))
    for group, (marker, size) in MARKERS.items():
        if group in groups:
            handles.append(axis.scatter([], [], s=size, marker=marker, color="#444444", label=f"{group} scenarios"))
    longest = max(len(line) for handle in handles for line in str(handle.get_label()).splitlines())
    columns = int(figure.get_figwidth() / (0.6 + 0.085 * longest))  # inches that a column of the legend takes
    columns = max(min(columns, len(handles)), 1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _wrapped(name: str, width: int = 18) -> str:
    """A long name on several lines, at most three."""
    return "\n".join(textwrap.wrap(name, width, max_lines=3, placeholder=" ...") or [""])


def _clean(panel: Axes) -> None:
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


_ERRORS: dict[str, Any] = {"capsize": 2, "elinewidth": 0.9, "ecolor": "#222222"}
_SMALL: dict[str, Any] = {"fontsize": 10}
