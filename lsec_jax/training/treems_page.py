"""The page of Figures 5 to 9 of TREEMS as Markdown, from the content of figures.json alone."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "figure5": "Figure 5: head scenarios",
    "figure6": "Figure 6: long-tail scenarios",
    "figure7_8": "Figures 7 and 8: use of the experts",
    "figure9": "Figure 9: representations of scenarios",
}


def page(content: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Returns the page.

    Args:
        content: of figures.json.
        pictures: names of the files beside the page, without their endings.
    """
    models = [f"- {label}: step {of['step']} of {of['workdir']}" for label, of in content["models"].items()]
    lines = ["# Scenarios of TREEMS", "", *models, "", *_groups(content["scenarios"])]
    bodies = {
        "figure5": _bars(content["figure5"], content["settings"]),
        "figure6": _bars(content["figure6"], content["settings"]),
        "figure7_8": _experts(content["figure7_8"]),
        "figure9": _representations(content["figure9"], content["models"]),
    }
    for name, title in TITLES.items():
        picture = [f"![{title}]({name}.png)", ""] if name in pictures else []
        lines += ["", f"## {title}", "", *picture, *bodies[name]]
    return "\n".join([*lines, ""])


def _groups(measured: Mapping[str, Any]) -> list[str]:
    """A table of the groups of scenarios."""
    samples = (
        f" In brackets: 95% of {measured['samples']} samples of the {measured['resampled']}, where nearly all of them "
        "define the metric."
    )
    parts = [part for of in measured["groups"].values() for part in of.values()]
    names = list(dict.fromkeys(name for part in parts for name in part["metrics"]))
    lines = [
        f"Scenarios are the nodes of the role '{measured['role']}'; rows are those of {measured['split']}."
        + (samples if measured["samples"] else ""),
        "",
    ]
    lines += _header("model", "scenarios of", "scenarios", "impressions", *names)
    for label, of in measured["groups"].items():
        for group, part in of.items():
            counts = [str(part["counts"][name]) for name in ("scenarios", "impressions")]
            lines.append(_row(label, group, *counts, *(_value(part["metrics"].get(name)) for name in names)))
    return lines


def _bars(section: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Which scenarios they are, and the metrics."""
    lines = [f"These are the {section['rule']}."]
    if not section["scenarios"]:
        return [*lines, f"There are none; a smaller --min_requests than {settings['min_requests']} may find some."]
    lines += ["", *_header("", "scenario", "in training", section["unit"], "model", *section["metrics"])]
    for of in section["scenarios"]:
        for label, metrics in of["models"].items():
            start = (of["label"], of["name"], str(of["training_impressions"]), str(of[section["unit"]]), label)
            lines.append(_row(*start, *(_value(metrics.get(name)) for name in section["metrics"])))
    return lines


def _experts(section: Mapping[str, Any]) -> list[str]:
    """Of each layer, how evenly the mean gate is spread, and its largest weight."""
    lines = [
        "Percent of each expert in the gate of each layer: of one scenario, and mean over groups of scenarios, head "
        "and tail ones weighted by their training impressions, cold ones alike. Below, of each layer: entropy of the "
        "mean gate as a share of an even one's; in brackets the mean over the scenarios of each one's own entropy.",
        "",
    ]
    layers = max(len(part["entropy"]) for of in section["runs"].values() for part in of["parts"])
    lines += _header("model", "inconsistency weight", "scenarios", *(f"layer {i + 1}" for i in range(layers)))
    for label, of in section["runs"].items():
        for part in of["parts"]:
            pairs = zip(part["entropy"], part["own_entropy"], strict=True)
            cells = [f"{mean:.3f} ({own:.3f})" for mean, own in pairs]
            cells += ["-"] * (layers - len(cells))
            lines.append(_row(label, f"{of['inconsistency_weight']:g}", part["name"], *cells))
    return lines


def _representations(section: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    """How clustered scenarios are."""
    drawn = "" if len(section["scenarios"]) == section["of"] else f", {len(section['scenarios'])} of {section['of']}"
    lines = [
        f"Vectors of scenarios{drawn}, projected on {section['projection']}; colours are ancestors at the second level "
        "of the tree. Numbers are of the vectors themselves, of trained scenarios: the silhouette by that ancestor, "
        "and how many have a sibling (of the same parent) nearest. A state of the path's reader is made of the "
        "ancestors' embeddings, so that siblings are alike in part by construction. Scenarios that a rival was not "
        "trained on share one vector there.",
        "",
        *_header("model", "vectors", "silhouette", "sibling nearest", "by chance"),
    ]
    for panel in section["panels"]:
        numbers = (
            _number(panel["silhouette"], "+.3f"),
            *(_number(panel[name], ".1%") for name in ("nearest", "chance")),
        )
        lines.append(_row(panel["title"], panel["vectors"], *numbers))
    left_out = [f"- {label} {of['figure9']}" for label, of in models.items() if "figure9" in of]
    return [*lines, *(["", "Left out:", "", *left_out] if left_out else [])]


def _value(of: Mapping[str, float] | None) -> str:
    if of is None:
        return "-"
    return f"{of['value']:.4f}" + (f" [{of['low']:.4f}, {of['high']:.4f}]" if "low" in of else "")


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _header(*names: str) -> list[str]:
    return [_row(*names), "|---" * len(names) + "|"]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
