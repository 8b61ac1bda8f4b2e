"""What docs/results.md says about speed."""

import statistics
from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.markdown import Result

_STAGES = ("reading", "sorting", "histories", "writing")
_CORE, _CLOCK = "impressions_per_core_second", "impressions_per_second"


def embedding_tables_table(result: Result) -> str:
    """Milliseconds of a step with dense and with lazy updates by the tables' rows."""
    rows = []
    for row in result["rows"]:
        dense, lazy = row["modes"]["dense"], next(of for name, of in row["modes"].items() if name != "dense")
        medians = [1e3 * statistics.median(of["step_seconds"]) for of in (dense, lazy)]
        rows.append(
            [
                f"{row['rows']['user']:,}",
                f"{row['rows']['item']:,}",
                *(_milliseconds(of["step_seconds"]) for of in (dense, lazy)),
                f"{medians[0] / medians[1]:.2f}",
                *(f"{of['temporary_bytes'] / 2**20:,.0f}" for of in (dense, lazy)),
                "both" if "lazy" in row["modes"] else "items",
            ]
        )
    header = ["rows of users", "rows of items", "dense, ms (smallest to largest)", "lazy, ms", "dense / lazy"]
    return markdown.table([*header, "temporary MiB, dense", "lazy", "lazily updated"], rows)


def embedding_tables_section(result: Result) -> str:
    """All about updates of embedding tables."""
    first = result["rows"][0]
    lookups = " and ".join(f"{number:,} {name}s" for name, number in first["lookups"].items())
    return "\n".join(
        [
            f"A training step of GMF, {first['width']} wide, batch {first['batch_size']:,} with 4 negatives ({lookups} "
            "looked up), Adam, random purchases; medians of steps of both kinds that alternate in groups on one state, "
            "by the clock.\n",
            embedding_tables_table(result),
            markdown.circumstances(result),
        ]
    )


def _milliseconds(seconds: Sequence[float]) -> str:
    values = [1e3 * value for value in seconds]
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def preparation_table(result: Result) -> str:
    """Seconds, rates, memory and bytes by size, format and layout."""
    groups: dict[tuple[int, str, str], list[Result]] = {}
    for row in result["rows"]:
        groups.setdefault((row["impressions"], row["format"], row["layout"]), []).append(row)
    rows = []
    for (size, kind, layout), of in groups.items():
        seconds = [row["seconds"] for row in of]
        median = statistics.median(seconds)
        stages = {name: statistics.median([row["stages"].get(name, 0.0) for row in of]) for name in of[0]["stages"]}
        rows.append(
            [
                f"{size / 1e6:.0f} M",
                kind,
                layout,
                f"{of[0]['source_bytes'] / 1e9:.2f}",
                f"{median:.0f} ({min(seconds):.0f} to {max(seconds):.0f})",
                f"{size / median / 1e6:.2f}",
                " / ".join(f"{stages.get(name, 0.0):.1f}" for name in _STAGES),
                f"{max(row['anonymous_gib'] for row in of):.2f}",
                f"{of[0]['prepared_bytes'] / 1e9:.2f}",
                f"{of[0]['history_bytes'] / 1e9:.2f}",
            ]
        )
    header = ["impressions", "format", "histories", "GB read", "s in all (smallest to largest)", "M rows/s"]
    header += [f"s {', '.join(_STAGES)}", "memory, GiB", "GB written", "of histories"]
    return markdown.table(header, rows)


def preparation_section(result: Result) -> str:
    """All about preparing logs."""
    growth = []
    for kind in dict.fromkeys(row["format"] for row in result["rows"]):
        of = [row for row in result["rows"] if row["format"] == kind and row["layout"] == "ends"]
        sizes = sorted({row["impressions"] for row in of})
        first, last = ([row for row in of if row["impressions"] == size] for size in (sizes[0], sizes[-1]))
        seconds = [statistics.median([row["seconds"] for row in rows]) for rows in (first, last)]
        memory = [max(row["anonymous_gib"] for row in rows) for rows in (first, last)]
        growth.append(
            f"- {kind}: {sizes[-1] / sizes[0]:.0f} times the rows take {seconds[1] / seconds[0]:.1f} times the time "
            f"and {memory[1] / memory[0]:.2f} times the memory."
        )
    return "\n".join(
        [
            "`python -m lsec_jax.prepare` on a log of impressions in no order of time: 3 roles, requests, 2 labels, a "
            "stay time, 12 categorical and 5 numeric features, histories of what users watched; beside 100,000 "
            f"purchases. Sorting may take {result['memory_gib']:g} GiB (`--memory_gib`). Times are by the clock, from "
            "the start of Python to its end; memory is the largest that the process had of its own, without pages of "
            "mapped files.\n",
            preparation_table(result),
            *growth,
            "- Histories: one end offset per impression (ends), or its last 50 items (last).",
            "",
            markdown.circumstances(result),
        ]
    )


def data_pipeline_table(result: Result) -> str:
    """Impressions per second by size and layout."""
    rows = []
    for (size, layout), of in _pipeline_groups(result).items():
        milliseconds = [
            f"{statistics.median([row['batch_milliseconds'][q] for row in of]):.2f}" for q in ("p50", "p90")
        ]
        rows.append(
            [
                f"{size / 1e6:.0f} M",
                layout,
                _millions(of, "later", _CORE),
                _millions(of, "later", _CLOCK),
                " / ".join(milliseconds),
                _millions(of, "slices", _CORE),
                f"{of[0]['bytes_on_disk'] / 1e9:.2f}",
                f"{max(row['anonymous_mib'] for row in of):.0f}",
            ]
        )
    header = ["rows", "layout", "M impressions per second of the core", "by the clock", "ms a batch, p50 / p90"]
    return markdown.table([*header, "limit: slices", "GB on disk", "memory, MiB"], rows)


def data_pipeline_section(result: Result) -> str:
    """All about batches of events."""
    groups = _pipeline_groups(result)
    core, clock = (
        min(statistics.median(_pipeline_rates(of, "later", kind)) for of in groups.values()) for kind in (_CORE, _CLOCK)
    )
    verdict = "reached" if core >= result["target"] else "NOT REACHED"
    rows = [
        [
            f"{size / 1e6:.0f} M",
            layout,
            *(_millions(of, name, _CORE) for name in ("first", "streamed", "placed", "packed")),
            _millions(of, "cold", _CLOCK),
            " / ".join(
                f"{statistics.median([row['wait_milliseconds'][q] for row in of]):.2f}" for q in ("p50", "p90", "p99")
            ),
            _millions(of, "memory", _CLOCK),
        ]
        for (size, layout), of in groups.items()
    ]
    header = ["rows", "layout", "first epoch", "streamed", "placed", "packed", "cold, by the clock"]
    header += ["wait beside a busy accelerator, ms, p50 / p90 / p99"]
    return "\n".join(
        [
            f"Batches of {result['batch_size']:,} impressions with 3 ids, 4 values, 20 features and two histories of "
            f"{result['history_length']} items, from columns on disk on one core; the order of blocks of "
            f"{result['block_rows']} rows is shuffled. Million impressions per second, of the time that the process "
            "had the core or by the clock (other processes shared it): the median of "
            f"{markdown.seeds(result)}, a process each, with their smallest and largest.\n",
            data_pipeline_table(result),
            f"- The target of {result['target'] / 1e6:.0f} M per second of one core is {verdict}: {core / 1e6:.2f} M "
            f"at the least; by the clock {clock / 1e6:.2f} M.",
            "- Layouts: one end offset per row and history (ends), or its last items (last). Both give equal batches.",
            "- First epoch: the process maps the pages, which are in the page cache. Cold: they are not, and are read "
            "from the disk. Slices: unshuffled, of the same bytes. Memory: anonymous, above that before the first "
            "batch.",
            "",
            markdown.table([*header, "limit: copying memory"], rows),
            "- Streamed: through a thread that makes batches ahead; placed: also put on a CPU device, 29 arrays a "
            "batch; packed: the same in 4 arrays. All on the same core, with nothing between two batches. The wait is "
            f"for packed batches beside {result['step_milliseconds']:.0f} ms of sleep a step.",
            "",
            markdown.circumstances(result),
        ]
    )


def _pipeline_groups(result: Result) -> dict[tuple[int, str], list[Result]]:
    groups: dict[tuple[int, str], list[Result]] = {}
    for row in result["rows"]:
        groups.setdefault((row["rows"], row["layout"]), []).append(row)
    return groups


def _pipeline_rates(rows: Sequence[Result], name: str, kind: str) -> list[float]:
    return [row[kind][name] for row in rows]


def _millions(rows: Sequence[Result], name: str, kind: str) -> str:
    rates = [rate / 1e6 for rate in _pipeline_rates(rows, name, kind)]
    return f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"


def encoding_table(result: Result) -> str:
    """Records per second by size."""
    groups: dict[int, list[Result]] = {}
    for row in result["rows"]:
        groups.setdefault(row["rows"], []).append(row)
    rows = []
    for size, of in groups.items():
        milliseconds = [
            f"{statistics.median([row['batch_milliseconds'][q] for row in of]):.2f}" for q in ("p50", "p90")
        ]
        share = statistics.median(
            [row["records_per_core_second"]["encoded"] / row["records_per_core_second"]["copied"] for row in of]
        )
        rows.append(
            [
                f"{size / 1e6:.0f} M",
                *(_millions(of, "encoded", f"records_per_{kind}") for kind in ("core_second", "second")),
                " / ".join(milliseconds),
                _millions(of, "placed", "records_per_core_second"),
                _millions(of, "copied", "records_per_core_second"),
                f"{100 * share:.1f} %",
                f"{statistics.median([row['fit_seconds'] for row in of]):.1f}",
                f"{max(row['anonymous_mib'] for row in of):.0f}",
            ]
        )
    header = ["rows", "M records per second of the core", "by the clock", "ms a batch, p50 / p90", "on a CPU device"]
    header += ["limit: copying a batch", "share of it", "s to fit", "memory, MiB"]
    return markdown.table(header, rows)


def encoding_section(result: Result) -> str:
    """All about encoded records."""
    core = min(
        statistics.median([row["records_per_core_second"]["encoded"] for row in result["rows"] if row["rows"] == size])
        for size in {row["rows"] for row in result["rows"]}
    )
    verdict = "reached" if core >= result["target"] else "NOT REACHED"
    return "\n".join(
        [
            f"Packed batches of {result['batch_size']:,} records of declared features: 6 ids, 6 numbers, 3 labels and "
            f"two sequences of {result['length']} behaviours with 3 ids each, "
            f"{result['rows'][0]['batch_bytes'] / 1e6:.1f} MB a batch, from columns on disk (in the page cache) on one "
            f"core, which shares caches and memory with whatever else ran; the order of blocks of "
            f"{result['block_rows']} rows is shuffled. Medians of {markdown.seeds(result)}, a process each, with their "
            "smallest and largest.\n",
            encoding_table(result),
            f"- The target of {result['target'] / 1e6:.1f} M per second of one core is {verdict}: {core / 1e6:.2f} M.",
            "- On a CPU device: through a thread that makes batches ahead, on the same core. Copying: one batch's "
            "arrays into new ones. Memory: anonymous, above that before the first batch.",
            "",
            markdown.circumstances(result),
        ]
    )
