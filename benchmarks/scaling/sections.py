"""What the pages of documentation say of the scaling benchmark: tables by name."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import markdown
from benchmarks.markdown import Result
from benchmarks.scaling.formulas import TERMS

_SHOWN = 3  # terms of a step, the largest first


def counts_table(result: Result) -> str:
    """Bytes of compiled steps beside those of the formula."""
    rows = [
        [
            of["model"],
            mesh(of),
            f"{of['counted']:,.0f}",
            f"{of['formula']:,.0f}",
            f"{of['formula'] / of['counted'] - 1:+.3%}",
            *(f"{of['memory_bytes'][side] / 1e6:.2f}" for side in ("counted", "formula")),
            largest_terms(of["terms"]),
        ]
        for of in result["counts"]
    ]
    header = ["model", "devices", "bytes counted", "formula", "difference", "MB held", "formula", "largest terms"]
    return markdown.table(header, rows)


def operations_table(result: Result) -> str:
    """The same by operation and group, on eight devices."""
    rows = []
    for of in result["counts"]:
        if of["data"] * of["model_axis"] == 8:
            counted, wanted = (of["by_operation"][side] for side in ("counted", "formula"))
            for name in sorted({*counted, *wanted}):
                numbers = [f"{side.get(name, 0.0):,.0f}" for side in (counted, wanted)]
                rows.append([of["model"], mesh(of), name, *numbers])
    return markdown.table(["model", "devices", "operation", "bytes counted", "formula"], rows)


def predictions_table(result: Result, size: str) -> str:
    """Bytes, memory and time at a size."""
    rows = [
        [
            of["model"],
            of["accelerator"],
            mesh(of),
            f"{of['received_bytes'] / 1e6:,.0f}",
            f"{of['memory_bytes'] / 1e9:.1f}{'' if of['fits'] else ' (does not fit)'}",
            f"{1e3 * of['memory_seconds']:.2f}",
            f"{1e3 * of['wire_seconds']:.2f}",
            f"{of['data'] * of['model_axis'] * of['efficiency']:.2f}",
            f"{of['efficiency']:.2f}",
            largest_terms(of["terms"]),
        ]
        for of in result["predictions"]
        if of["size"] == size
    ]
    header = ["model", "accelerator", "devices", "MB received", "GB held", "own memory, ms", "wire, ms"]
    return markdown.table([*header, "times one device", "efficiency", "largest terms"], rows)


def smoke_table(result: Result) -> str:
    """Seconds per step on virtual devices."""
    rows = []
    for of in result["smoke"]:
        one = next(
            other["step_seconds"]["mean"]
            for other in result["smoke"]
            if (other["model"], other["strategy"], other["devices"]) == (of["model"], of["strategy"], 1)
        )
        milliseconds = markdown.spread(markdown.scaled(of["step_seconds"], 1e3), 1)
        rows.append(
            [of["model"], of["strategy"], str(of["devices"]), milliseconds, f"{of['step_seconds']['mean'] / one:.2f}"]
        )
    return markdown.table(["model", "strategy", "virtual devices", "ms a step", "times one device's"], rows)


def assumptions_table(result: Result) -> str:
    """Nodes and edges of the sizes, and the accelerators' published numbers."""
    sizes = [
        [name, *(markdown.joined([f"{of[kind][key]:,} {key}" for key in of[kind]]) for kind in ("nodes", "edges"))]
        for name, of in result["sizes"].items()
    ]
    devices = [
        [
            name,
            *(f"{of[key] / 1e9:,.0f} GB" for key in ("memory_bytes", "memory_bandwidth", "link_bandwidth")),
            "not measured",
            of["source"],
        ]
        for name, of in result["accelerators"].items()
    ]
    header = ["accelerator", "memory", "its bandwidth, a second", "links, a second, each way", "measured", "published"]
    return f"{markdown.table(['size', 'nodes', 'training edges'], sizes)}\n{markdown.table(header, devices)}"


def terms_table(_: Result) -> str:
    """What the terms are."""
    return markdown.table(["term", "what is sent"], [[name, text] for name, text in TERMS.items()])


def section(result: Result) -> str:
    """All about compiled steps; predictions are on their own page."""
    return "\n".join(
        [
            "Training steps on virtual devices of a CPU, compiled and not timed, but for the smoke test: bytes that a "
            "device receives, counted from the HLO, beside closed formulas. [scaling.md](scaling.md) says what they "
            "are, and predicts larger runs.\n",
            counts_table(result),
            operations_table(result),
            markdown.circumstances(result),
        ]
    )


def mesh(of: Mapping[str, Any]) -> str:
    """A mesh in words."""
    if of["strategy"] == "pmap":
        return f"pmap, {of['data']}"
    return f"sharded, {of['data']} x {of['model_axis']}"


def largest_terms(terms: Mapping[str, float]) -> str:
    """The largest terms with their shares."""
    total = sum(terms.values())
    ordered = sorted(terms, key=lambda name: -terms[name])[:_SHOWN]
    return markdown.joined([f"{name} {terms[name] / total:.0%}" for name in ordered if terms[name] >= 0.01 * total])


# By the name of a marker in docs/scaling.md.
TABLES: dict[str, Callable[[Result], str]] = {
    "scaling": counts_table,
    "scaling_terms": terms_table,
    "scaling_assumptions": assumptions_table,
    "scaling_lsec_large": lambda result: predictions_table(result, "LSEC-Large"),
    "scaling_billion": lambda result: predictions_table(result, "1e9 impressions"),
    "scaling_smoke": smoke_table,
    "scaling_circumstances": markdown.circumstances,
}
