"""Pictures of an analysis: purchase probabilities, similarities, and the vectors of trained models."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lsec_jax.data.analysis import APART, JOINED, Influence, Similarity, Tripartite
from lsec_jax.training.figure4 import Panel

matplotlib.use("Agg")

COLORS = {JOINED: "#c0504d", APART: "#4878a8"}
# Okabe and Ito's palette, which colour-blind readers can tell apart.
STREAMER_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def influence(found: Influence, graph: Tripartite) -> Figure:
    """Bars of both groups: exact, by the Monte Carlo method, and by the true probabilities where there are any."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    panel = figure.subplots()
    drawn = found.drawn_probabilities()
    nothing = np.zeros(2)
    bars = [
        ("all pairs", found.probabilities(), nothing),
        ("Monte Carlo", drawn.mean(axis=0), drawn.std(axis=0, ddof=1)),
    ]
    if found.truth is not None:
        bars.append(("true probabilities", found.truth.expected / found.truth.pairs, nothing))
    width = 0.8 / len(bars)
    for k, (label, values, errors) in enumerate(bars):
        for place, group in enumerate((JOINED, APART)):
            at = place + (k - (len(bars) - 1) / 2) * width
            color = _lighter(COLORS[group], 0.3 * k)
            bar = panel.bar(at, values[group], 0.96 * width, yerr=errors[group] or None, capsize=3, color=color)
            panel.bar_label(bar, [f"{label}\n{values[group]:.2e}"], padding=3, fontsize=8)
    follows, items = graph.follow.target, graph.purchase.target
    labels = [f"a followed {follows} sells the {items}", f"no followed {follows} sells the {items}"]
    panel.set_xticks([0, 1], labels)
    panel.margins(y=0.18)
    panel.ticklabel_format(axis="y", scilimits=(0, 0), useMathText=True)
    title = f"Is a pair of {graph.purchase.source} and {items} a purchase?"
    ratio = f"{found.ratio():.2f}" if np.isfinite(found.ratio()) else "not defined"
    panel.set(ylabel="probability of a purchase", title=f"{title} Ratio {ratio}")
    _clean(panel)
    return figure


def similarity(found: Similarity, joined: str) -> Figure:
    """For both measures, how many pairs of each group are at least so similar."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for m, (panel, name) in enumerate(zip(panels, ("cosine", "Jaccard"), strict=True)):
        for group, label in ((JOINED, joined), (APART, "others")):
            values = np.unique(found.drawn[group, m])
            ordered = np.sort(found.drawn[group, m])
            shares = 1.0 - np.searchsorted(ordered, values) / len(ordered)
            above = values > 0
            text = f"{label}, mean {found.means[group, m]:.2e}"
            panel.step(values[above], shares[above], where="pre", color=COLORS[group], label=text, linewidth=1.8)
        panel.set(xlabel=f"{name} similarity of purchases", yscale="log", xlim=(0, None))
        if not found.drawn[:, m].any():
            panel.text(0.5, 0.5, "no drawn pair has anything in common", transform=panel.transAxes, ha="center")
        panel.legend(frameon=False, fontsize=9)
        _clean(panel)
    panels[0].set_ylabel("share of pairs that are at least so similar")
    panels[0].set_ylim(top=1)  # also of the other panel
    figure.suptitle(f"Pairs of {found.node_type}s")
    return figure


def figure4(panels: Sequence[Panel], streamers: Sequence[str], streamer_type: str) -> Figure:
    """Four scatter plots with the cluster score under each and one legend for all."""
    figure = Figure(figsize=(10, 10.4), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for letter, panel, axis in zip("abcd", panels, axes, strict=True):
        for s in range(len(streamers)):
            chosen = panel.labels == s
            color = STREAMER_COLORS[s % len(STREAMER_COLORS)]
            axis.scatter(
                *panel.points[chosen].T, s=24 if len(panel.labels) < 300 else 11, color=color, alpha=0.75, linewidths=0
            )
        axis.set(xticks=[], yticks=[], title=f"({letter}) {panel.title}")
        axis.set_xlabel(f"silhouette {panel.silhouette:+.3f}, {len(panel.labels)} points")
        for spine in axis.spines.values():
            spine.set_color("#bbbbbb")
    handles = [
        axes[0].scatter([], [], color=STREAMER_COLORS[s % len(STREAMER_COLORS)], label=name)
        for s, name in enumerate(streamers)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, title=streamer_type)
    return figure


def _lighter(color: str, share: float) -> tuple[float, ...]:
    """Mixes a colour with so much white."""
    return tuple(share + (1 - share) * part for part in to_rgb(color))


def _clean(panel: Axes) -> None:
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
