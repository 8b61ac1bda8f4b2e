"""What docs/results.md says of the throughput suite."""

from benchmarks import markdown
from benchmarks.markdown import Result
from benchmarks.throughput import summary, targets
from benchmarks.throughput.contestants import BEFORE, OURS, sides

LIMIT_GIB = 16.0
_KINDS = {
    "propagate": "Neighbour sums, forward and backward",
    "step": "Training steps",
    "auc": "AUC from given scores",
    "evaluation": "Evaluation",
    "ranking": "Ranking of all items for all users",
    "pipeline": "Batches of events",
    "checkpoint": "Checkpoints",
    "ranker": "Training steps of rankers of impressions",
    "sharing": "Training steps of sharing recommendation, without a graph",
}


def targets_table(result: Result) -> str:
    """Each target with what was measured."""
    rows = [[of.work, of.against, of.wanted, of.measured or "-", of.text] for of in targets.verdicts(result)]
    return markdown.table(["work", "against", "target", "measured", ""], rows)


def tables(result: Result) -> str:
    """Our numbers by kind of row, then those of the earlier revision and of peers beside ours."""
    parts = []
    for kind, title in _KINDS.items():
        rows = [_own(row) for row in result["rows"] if row["row"].split("/")[0] == kind and OURS in row["results"]]
        if rows:
            header = ["row", "size", "ms, p50 / p90 / p99", "k/s", "times the floor", "peak GiB"]
            parts += [f"### {title}\n", markdown.table([*header, "set-up, s", "compilation, s"], rows)]
    if changes := [_change(row) for row in result["rows"] if BEFORE in row["ratios"]]:
        header = ["row", "size", "ms before, p50 / p90", "now, p50 / p90", "times faster", "of processor time"]
        header += ["peak GiB before", "now", "times less"]
        parts += [f"### Before and after: {result['before'][:12]} and now, in turns\n", markdown.table(header, changes)]
    if others := [line for row in result["rows"] for line in _others(row)]:
        header = ["row", "size", "beside", "its ms, p50 / p90", "ours, p50 / p90"]
        header += ["its time / ours", "of processor time", "its memory / ours", "its set-up, s"]
        parts += ["### Beside peers, in turns\n", markdown.table(header, others)]
    return "\n".join(parts)


def section(result: Result) -> str:
    """All about the suite."""
    return "\n".join(
        [
            "LSEC-Small's proportions, simulated: `small` has its nodes and edges, `quarter` and `double` a quarter "
            "and twice as many, `large` those of LSEC-Large; events: 1 M impressions at `small`. A process each for "
            "ours, for each peer and for the earlier revision; all repeat a row in turns, after one run each that does "
            "not count. k/s: thousand examples, or edges of `propagate`, a second. Times are by the clock, of 5 to 20 "
            'repetitions; "of processor time": the ratio of the time that the processes had a core, which other work '
            "on the machine changes less. Floor: the time to move a row's bytes as fast as the machine copied in the "
            "same minutes.\n",
            "### Targets\n",
            targets_table(result),
            "![Times the floor, ratios and growth](../benchmarks/throughput/results/"
            f"{'suite' if targets.is_on_cpu(result) else 'suite_gpu'}.png)\n",
            tables(result),
            *_remarks(result),
            "",
            markdown.circumstances(result),
        ]
    )


def ranker_section(result: Result) -> str:
    """All about steps of rankers of impressions."""
    return "\n".join(
        [
            "One training step of 2,048 records in memory: forward, backward, and Adam on all parameters, tables "
            "included as a whole on both sides. Four context fields, a target and a history of 50 that shares its "
            "table, 10,000 ids each. DIN: activation unit of 36 (PReLU), tower of 256 and 128. MMoE: 8 experts of 256 "
            "and 128, two tasks with towers of 64. BST: one layer, 4 heads, feed-forward nets of 2,048, tower of 256 "
            "and 128. The number in a row's name is the width of embeddings. Processes in turns, as in the suite. Not "
            "the same: torch-rechub has batch normalisation in every layer of towers and activation units; ours "
            "projects targets and elements first, and hands all of BST's outputs to the tower, not one.\n",
            targets_table(result),
            tables(result),
            *_remarks(result),
            "",
            markdown.circumstances(result),
        ]
    )


def _own(row: Result) -> list[str]:
    of = row["results"][OURS]
    rate = of.get("edges_per_second" if row["row"].startswith("propagate") else "examples_per_second")
    return [
        row["row"].partition("/")[2] or row["row"],
        row["size"],
        _milliseconds(of, "p50", "p90", "p99"),
        "-" if rate is None else f"{rate / 1e3:,.4g}",
        f"{of['p50'] / of['floor_seconds']:.2f}" if "floor_seconds" in of else "-",
        " / ".join(f"{of[name]:.2f}" for name in ("peak_gib", "device_peak_gib") if name in of),
        f"{of['setup_seconds']:.1f}",
        f"{of['compile_seconds']:.1f}",
    ]


def _change(row: Result) -> list[str]:
    """What the revision before and the one of now take."""
    both = [row["results"][side] for side in (BEFORE, OURS)]
    times, peaks = [_milliseconds(of, "p50", "p90") for of in both], [f"{of['peak_gib']:.2f}" for of in both]
    faster, less = (f"{row['ratios'][BEFORE][measure]:.2f}" for measure in ("seconds", "memory"))
    return [row["row"], row["size"], *times, faster, f"{summary.cpu_ratio(row, BEFORE):.2f}", *peaks, less]


def _others(row: Result) -> list[list[str]]:
    """What each peer takes."""
    found = []
    for name in sides(row["ratios"].keys() - {BEFORE}):
        own = _milliseconds(row["results"][OURS], "p50", "p90")
        of, ratio = row["results"][name], row["ratios"][name]
        part = f" ({of['fraction']:.3g} of it a run)" if of.get("fraction", 1.0) < 1 else ""
        shares = [ratio["seconds"], summary.cpu_ratio(row, name), ratio["memory"]]
        numbers = [_milliseconds(of, "p50", "p90") + part, own, *(f"{share:.2f}" for share in shares)]
        found.append([row["row"], row["size"], name, *numbers, f"{of['setup_seconds'] + of['compile_seconds']:.1f}"])
    return found


def _remarks(result: Result) -> list[str]:
    """What the numbers mean, what there is none of, and what went wrong."""
    own = [(row, row["results"][OURS]) for row in result["rows"] if OURS in row["results"]]
    notes: dict[str, str] = {}
    for row, of in own:
        if "notes" in of:
            notes.setdefault(of["notes"], f"{row['row']}, {row['size']}")
    lines = [
        f"- {place}{' and the like' if place.startswith(('propagate', 'step')) else ''}: {text}."
        for text, place in notes.items()
    ]
    if own:
        row, of = max(own, key=lambda pair: pair[1]["peak_gib"])
        verdict = "below" if of["peak_gib"] < LIMIT_GIB else "ABOVE"
        lines.append(
            f"- The largest peak of ours is {of['peak_gib']:.1f} GiB ({row['row']}, {row['size']}): {verdict} "
            f"{LIMIT_GIB:.0f} GiB."
        )
    lines += _peer_versions(result)
    again = [f"{row['row']}, {row['size']}" for row, of in own if of.get("compilations_after_warm_up")]
    lines.append(f"- Compiled again after the first run: {'; '.join(again).upper() if again else 'nothing'}.")
    for row in result["rows"]:
        lines += [f"- No {name} for {row['row']}, {row['size']}: {why}" for name, why in row["unavailable"].items()]
    return [*lines, *(f"- FAILED: {of['reason']}" for of in result["failed"])]


def _peer_versions(result: Result) -> list[str]:
    """What each peer's environment has."""
    found: dict[str, None] = {}
    for row in result["rows"]:
        for name in sides(row["results"].keys() - {OURS, BEFORE}):
            if versions := row["results"][name].get("versions"):
                found[f"- {name}: {markdown.joined([f'{package} {of}' for package, of in versions.items()])}."] = None
    return list(found)


def _milliseconds(of: Result, *names: str) -> str:
    return " / ".join(_short(1e3 * of[name]) for name in names)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
