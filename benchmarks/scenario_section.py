"""Tables of a sweep's head, tail and cold scenarios, from its JSON."""

from collections.abc import Mapping
from typing import Any

from benchmarks import markdown, statistics

METRICS = ("auc", "mrr")


def tables(result: Mapping[str, Any]) -> list[str]:
    """Metrics by group of scenarios, and the differences that the sweep compares; none of a sweep without groups."""
    groups = result.get("groups", {})
    if not groups:
        return []
    protocol = next(iter(result["protocols"].values()))
    first = next(iter(groups["all"].values()))["counts"]
    sizes = ", ".join(
        f"{name}: {next(iter(of.values()))['counts']['scenarios']} scenarios, "
        f"{next(iter(of.values()))['counts']['impressions']} impressions"
        for name, of in groups.items()
    )
    found = [
        f"By groups of scenarios (seed {result['seeds'][0]}: {sizes}; head ones have "
        f"{result['rows'][next(iter(result['rows']))]['evaluation']['head_share']:.0%} of the "
        f"{first['training_impressions']} training impressions, cold ones none):\n"
    ]
    for metric in METRICS:
        models = list(dict.fromkeys(name for of in groups.values() for name in of))
        rows = [[name, *(_cell(groups[group].get(name), metric) for group in groups)] for name in models]
        found.append(markdown.table([f"row ({metric})", *groups], rows))
        rows = []
        for pair in protocol["differences"]:
            higher, _, lower = pair.partition(" - ")
            rows.append([pair, *(_difference(groups[group], higher, lower, metric) for group in groups)])
        rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
        found.append(markdown.table([f"difference ({metric})", *groups], rows))
    return found


def _cell(of: Mapping[str, Any] | None, metric: str) -> str:
    return markdown.spread(of["metrics"][metric]) if of and metric in of["metrics"] else "-"


def _difference(of: Mapping[str, Any], higher: str, lower: str, metric: str) -> str:
    """The first minus the second, paired by seed; "-" where one of them has none."""
    both = [of[name]["metrics"].get(metric) for name in (higher, lower) if name in of]
    if len(both) < 2 or None in both:
        return "-"
    values = [found["values"] for found in both]
    return markdown.difference(statistics.paired_difference(*values)) if len({*map(len, values)}) == 1 else "-"
