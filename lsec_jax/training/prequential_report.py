"""Staleness curves of a prequential run: a metric against the age of the model, as numbers, table and picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

matplotlib.use("Agg")

FLOORS = ("oracle", "popularity")  # and ceilings: they do not age
# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = {
    "oracle": "#000000",
    "cold": "#0072b2",
    "warm": "#009e73",
    "refreshed": "#e69f00",
    "frozen": "#d55e00",
    "popularity": "#999999",
}


def curves(outcomes: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[dict[str, Any]]]:
    """Means over start days, and their spread over seeds, by policy and age.

    Returns:
        By policy, for each age: "age"; "mean", "std" (None for one seed) and "values" (of each seed, the mean over its
        start days); and, but for floors and ceilings, the same of "minus_cold", the differences to the cold model of
        the same day, if there is one.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    cold = {_place(of): of["metrics"][metric] for of in outcomes if of["policy"] == "cold"}
    for policy in COLORS:
        members = [of for of in outcomes if of["policy"] == policy]
        points = []
        for age in sorted({of["age"] for of in members}):
            own = [of for of in members if of["age"] == age]
            point = {"age": age, **_over_seeds(own, [of["metrics"][metric] for of in own])}
            if policy not in ("cold", *FLOORS) and cold:
                differences = [of["metrics"][metric] - cold[_place(of)] for of in own]
                point["minus_cold"] = _over_seeds(own, differences)
            points.append(point)
        if points:
            found[policy] = points
    return found


def _place(outcome: Mapping[str, Any]) -> tuple[int, int]:
    return outcome["seed"], outcome["day"]


def _over_seeds(outcomes: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, Any]:
    seeds = np.array([of["seed"] for of in outcomes])
    means = [float(np.mean(np.array(values)[seeds == seed])) for seed in dict.fromkeys(seeds.tolist())]
    std = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return {"mean": float(np.mean(means)), "std": std, "values": means}


def page(content: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    settings = content["settings"]
    starts, seeds = (", ".join(map(str, settings[name])) for name in ("start_days", "seeds"))
    return "\n".join(
        [
            f"# {content['model']}, day by day",
            "",
            f"Test {content['metric']} on the next day; {content['protocol']} on the first one. Means over the start "
            f"days {starts}, +- standard deviation over seeds ({seeds}). Steps of a training: "
            f"{settings['warm_steps']} under warm, {content['config']['training']['num_steps']} under cold. "
            "Age: days since the start day; only refreshed and frozen models are as old.",
            "",
            table(content["curves"]),
        ]
    )


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Age by age, the metric of each policy; below, the differences to the cold model of the same day."""
    ages = sorted({point["age"] for points in found.values() for point in points})
    lines = [f"| age, days | {' | '.join(found)} |", f"|{'---|' * (1 + len(found))}"]
    for age in ages:
        lines.append(f"| {age} | {' | '.join(_at(points, age, None) for points in found.values())} |")
    others = {name: points for name, points in found.items() if "minus_cold" in points[0]}
    if others:
        lines += [
            "",
            f"| age, days | {' | '.join(f'{name} - cold' for name in others)} |",
            f"|{'---|' * (1 + len(others))}",
        ]
        for age in ages:
            lines.append(f"| {age} | {' | '.join(_at(points, age, 'minus_cold') for points in others.values())} |")
    return "\n".join(lines) + "\n"


def _at(points: Sequence[Mapping[str, Any]], age: int, key: str | None) -> str:
    for point in points:
        if point["age"] == age:
            value = point if key is None else point[key]
            mean = f"{value['mean']:.4f}" if key is None else f"{value['mean']:+.4f}"
            return mean if value["std"] is None else f"{mean} +- {value['std']:.4f}"
    return "-"


def figure(content: Mapping[str, Any]) -> Figure:
    """The metric of each policy against the age of the model, and the differences to the cold model of the day."""
    drawn = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for policy, points in content["curves"].items():
        ages = [point["age"] for point in points]
        for panel, values in ((left, points), (right, [point.get("minus_cold") for point in points])):
            if values[0] is None:
                continue
            errors = None if values[0]["std"] is None else [value["std"] for value in values]
            style = ":" if policy in FLOORS else "-"
            means = [value["mean"] for value in values]
            panel.errorbar(ages, means, errors, label=policy, color=COLORS[policy], marker=".", ls=style, capsize=3)
    right.axhline(0.0, color=COLORS["cold"], lw=1)
    left.set(xlabel="days since the start day", ylabel=content["metric"], title=f"{content['model']} on the next day")
    right.set(
        xlabel="days since the start day", ylabel=f"{content['metric']} - cold", title="Against training from scratch"
    )
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.spines[["top", "right"]].set_visible(False)
    left.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return drawn
