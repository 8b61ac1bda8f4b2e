"""What docs/results.md says about batches of events from disk."""

import statistics
from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.markdown import Result

_CORE, _CLOCK = "impressions_per_core_second", "impressions_per_second"


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
