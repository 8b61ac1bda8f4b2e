"""What docs/results.md says of TREEMS's training step, its experts and its sampler."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import markdown
from benchmarks.markdown import Result
from benchmarks.throughput import suite_section
from benchmarks.throughput.contestants import OURS

_GROWTH = {"experts": "experts", "views": "views", "fanouts": "fan-outs"}
_WAYS = {
    "sampler": "our sampler, whole batches",
    "gather": "plain reads at random places",
    "loop": "numpy's `choice` for one node after the other",
}


def core_seconds(of: Result) -> float:
    """Median of the time that the process had its core."""
    return statistics.median(of["cpu_seconds"])


def ratio(of: Result, to: Result) -> str:
    """Of the core's time of two works that took turns: the median over turns, and where 80% of them lie."""
    by_turn = np.asarray(of["cpu_seconds"]) / np.asarray(to["cpu_seconds"])
    low, middle, high = np.percentile(by_turn, (10, 50, 90))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def table(result: Result) -> str:
    """The step at each batch size."""
    steps = result["steps"]
    rows = []
    for size, name in steps["default"].items():
        of = steps["variants"][name]
        waits = {one["inputs_on"]: one for one in steps["waiting"] if one["batch_size"] == int(size)}
        rows.append(
            [
                f"{int(size):,}",
                _milliseconds(of),
                _short(1e3 * core_seconds(of)),
                f"{int(size) / statistics.median(of['seconds']):,.0f}",
                f"{int(size) / core_seconds(of):,.0f}",
                *(_waiting(waits.get(where), int(size)) for where in ("the same core", "another core")),
                f"{of['compile_seconds']:.0f}",
            ]
        )
    header = ["batch", "ms by the clock, p50 / p90", "ms of the core", "examples/s by the clock", "of the core"]
    header += ["with inputs made on the same core: examples/s (waiting)", "on another core"]
    return markdown.table([*header, "s to compile and run first"], rows)


def section(result: Result) -> str:
    """All about it."""
    steps, world = result["steps"], result["steps"]["world"]
    model, neighbours = steps["config"]["model"], list(world["neighbours"].values())
    return "\n".join(
        [
            f"One core; medians of {result['protocol']['repetitions']} turns after {result['protocol']['warm_ups']} "
            "that do not count. Ratios are of the core's time, turn by turn: median [10th, 90th percentile]. Simulated "
            "columns and graphs, of which nothing is to be learnt.\n",
            "### The step\n",
            f"{world['users']:,} users, {len(neighbours)} views of {neighbours[0]:,} neighbours and the like, "
            f"{world['scenarios']} scenarios in a tree of {world['levels']} levels; embeddings "
            f"{model['embedding_dim']} wide, {model['num_experts']} experts of "
            f"{markdown.joined(model['expert_widths'])}, a tower of {markdown.joined(model['tower_widths'])}, "
            f"neighbours of both users drawn {markdown.joined(_default(steps)['fanouts'])} by hop, Adagrad, lazy "
            "updates of tables.\n",
            table(result),
            *_shares(steps),
            "",
            "### What makes it longer\n",
            f"Batches of {_default(steps)['batch_size']:,}; all else as above.\n",
            *(_growth(steps, key) for key in steps["growth"]),
            "### Experts together and one after the other\n",
            experts_text(result["experts"]),
            "### Neighbours drawn\n",
            sampling_text(result["sampling"]),
            "### Beside torch-rechub's MMoE\n",
            peers_text(result["peers"]),
            "- On a GPU: not measured.",
            f"- All of it took {result['protocol']['seconds'] / 60:.0f} minutes.",
            "",
            markdown.circumstances(result),
        ]
    )


def experts_text(of: Result) -> str:
    """The model's experts against a loop."""
    sizes, rows = of["sizes"], []
    for row in of["rows"]:
        both = [row["batched"], row["loop"]]
        rows.append(
            [
                str(row["experts"]),
                *map(_milliseconds, both),
                ratio(row["loop"], row["batched"]),
                *(f"{one['compile_seconds']:.1f}" for one in both),
            ]
        )
    header = ["experts", "together: ms, p50 / p90", "loop: ms, p50 / p90", "loop / together"]
    return "\n".join(
        [
            f"Forward and backward, {sizes['batch_size']:,} rows {sizes['in_width']} wide through experts of "
            f"{markdown.joined(sizes['widths'])}, all layers mixed by gates that read the path. The loop has the same "
            "weights apart for each expert, in one compiled program.\n",
            markdown.table([*header, "together: s to compile", "loop: s to compile"], rows),
        ]
    )


def sampling_text(of: Result) -> str:
    """The sampler against plain reads and a loop."""
    rates = {name: of["slots"][name] / np.asarray(times["cpu_seconds"]) for name, times in of["ways"].items()}
    bound = float(np.median(rates["gather"]))
    rows = []
    for name, title in _WAYS.items():
        low, middle, high = np.percentile(rates[name], (10, 50, 90)) / 1e6
        share = f"{1e6 * middle / bound:.1%}" if name != "gather" else "100%"
        rows.append([title, f"{middle:,.2f} [{low:,.2f}, {high:,.2f}]", share])
    degrees = of["degree_percentiles"]
    missing = [f"- {name}: not measured, {why}." for name, why in of["unavailable"].items()]
    return "\n".join(
        [
            f"{of['users']:,} users with {of['neighbours']:,} neighbours in memory-mapped arrays whose pages are in "
            f"memory, degrees by a power law (median {degrees['p50']:,.0f}, 99th percentile {degrees['p99']:,.0f}, "
            f"largest {degrees['p100']:,.0f}); for {of['batch_size']:,} users at a time "
            f"{markdown.joined(of['fanouts'])} neighbours by hop, {of['filled_share']:.0%} of the places filled. The "
            "loop draws for fewer users.\n",
            markdown.table(["way", "million places a second of the core", "of plain reads"], rows),
            *missing,
            "",
        ]
    )


def peers_text(rows: Sequence[Result]) -> str:
    """Steps without a graph beside a peer's."""
    text = (
        "One step of 2,048 records in memory, five ids embedded 32 wide, 8 experts of 128, 96, 64, 32, 16, a tower of "
        "128 and 64, one task, Adam on all parameters; a process each, in turns. Not the same: torch-rechub's MMoE has "
        "batch normalisation in every layer of experts, gates and tower. `sharing/mmoe` is the same model here: one "
        "gate, on x. `sharing/scenario_mmoe` has a gate for each of 240 scenarios (torch-rechub ties a gate and a "
        "tower to each task, and computes all of them for every row). `sharing/treems` also mixes the experts' other "
        "layers, by gates that read the path to the scenario, whose nodes it looks up. The peer has neither, and its "
        "time beside them is that of its MMoE.\n"
    )
    result: Mapping[str, Any] = {"rows": rows, "before": ""}
    missing = [f"- {name} has no {row['row']}: {why}." for row in rows for name, why in row["unavailable"].items()]
    if not missing and all(row["results"].keys() == {OURS} for row in rows):
        missing = ["- torch_rechub: not measured, no environment of peers was given."]
    return "\n".join([text, suite_section.tables(result), *missing])


def _growth(steps: Result, key: str) -> str:
    default = _default(steps)
    rows = []
    for name in steps["growth"][key]:
        of = steps["variants"][name]
        value = markdown.joined(of[key]) if key == "fanouts" else str(of[key])
        numbers = [_milliseconds(of), _short(1e3 * core_seconds(of)), ratio(of, default)]
        rows.append([value, *numbers, f"{of['compile_seconds']:.0f}"])
    header = [_GROWTH[key], "ms by the clock, p50 / p90", "ms of the core", "of the step above", "s to compile"]
    return markdown.table(header, rows)


def _default(steps: Result) -> Result:
    """The default shape at the first batch size, that of the tables of growth."""
    return steps["variants"][next(iter(steps["default"].values()))]


def _shares(steps: Result) -> list[str]:
    """Of each batch size: the operations beside a product of matrices, and the encoder's rate."""
    peak = steps["product"]["operations"] / core_seconds(steps["product"])
    lines = []
    for size, name in steps["default"].items():
        step, encoded = (core_seconds(of) for of in (steps["variants"][name], steps["encoding"][size]))
        rate = steps["operations"][size] / step
        lines.append(
            f"- Batches of {int(size):,}: {steps['operations'][size] / 1e9:,.1f} G operations a step (counted by XLA), "
            f"{rate / 1e9:,.0f} G a second of the core, {rate / peak:.0%} of the {peak / 1e9:,.0f} G of a product of "
            f"two matrices in the same turns. Reading columns, drawing neighbours and encoding take "
            f"{encoded / step:.1%} of a step's time: {int(size) / encoded:,.0f} records a second of the core."
        )
    return lines


def _waiting(of: Result | None, size: int) -> str:
    if of is None:
        return "not measured: the process had one core"
    return f"{of['steps'] * size / of['seconds']:,.0f} ({of['input_wait_share']:.1%})"


def _milliseconds(of: Result) -> str:
    median, high = np.percentile(of["seconds"], (50, 90)) * 1e3
    return f"{_short(median)} / {_short(high)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
