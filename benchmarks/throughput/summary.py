"""From what workers of a row said to the row of the result: percentiles, rates, shares of the bandwidth, ratios."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.throughput.contestants import OURS

PERCENTILES = (50, 90, 99)
_KEPT = (
    *("setup_seconds", "compile_seconds", "examples", "edges", "bytes", "fraction", "notes", "versions"),
    *("peak_gib", "device_peak_gib", "copy_bytes_per_second", "compilations_after_warm_up", "first_loss", "last_loss"),
)


def summarize(said: Mapping[str, Any]) -> dict[str, Any]:
    """One contestant's numbers.

    Args:
        said: its facts, and "seconds" and "cpu_seconds" of each repetition; "copy_bytes_per_second" of each turn.

    Returns:
        Those, "p50", "p90" and "p99" seconds of the whole work (a repetition may do a "fraction" of it), examples,
        edges and bytes per second of the median, and, where bytes and the copy bandwidth are known, "floor_seconds" (to
        move them at its median) and "bandwidth_share".
    """
    fraction = said.get("fraction") or 1.0
    whole = np.asarray(said["seconds"]) / fraction
    result = {f"p{q}": float(np.percentile(whole, q)) for q in PERCENTILES}
    result |= {name: said[name] for name in _KEPT if said.get(name) not in (None, "")}
    median = result["p50"] * fraction
    for name in ("examples", "edges", "bytes"):
        if name in result:
            result[f"{name}_per_second"] = result[name] / median
    if "bytes" in result and "copy_bytes_per_second" in result:
        result["floor_seconds"] = result["bytes"] / float(np.median(result["copy_bytes_per_second"]))
        result["bandwidth_share"] = result["floor_seconds"] / median
    return {**result, "seconds": list(said["seconds"]), "cpu_seconds": list(said["cpu_seconds"])}


def copy_rates(said: Mapping[str, Any] | None) -> dict[str, list[float]]:
    """Bytes per second of each turn of the worker that copies; nothing where there was none."""
    return {} if said is None else {"copy_bytes_per_second": [said["bytes"] / of for of in said["seconds"]]}


def cpu_median(result: Mapping[str, Any]) -> float:
    """Median seconds of a contestant's processor time for the whole work; others on its core do not count in it."""
    return float(np.median(result["cpu_seconds"])) / result.get("fraction", 1.0)


def cpu_ratio(row: Mapping[str, Any], name: str) -> float:
    """A contestant's median processor time by ours."""
    return cpu_median(row["results"][name]) / cpu_median(row["results"][OURS])


def ratios(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each other contestant to ours: of median seconds, and of peaks of memory; above 1, ours needs less."""
    if OURS not in results:
        return {}
    own = results[OURS]
    return {
        name: {"seconds": of["p50"] / own["p50"], "memory": of["peak_gib"] / own["peak_gib"]}
        for name, of in results.items()
        if name != OURS
    }


def described(row: str, size: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for the log."""
    parts = []
    for name, of in results.items():
        share = f", {of['bandwidth_share']:.0%} of the bandwidth" if "bandwidth_share" in of else ""
        parts.append(f"{name} {of['p50']:.4g} s{share}, {of['peak_gib']:.2f} GiB")
    for name, of in ratios(results).items():
        parts.append(f"{name} / {OURS} {of['seconds']:.2f}")
    return f"{row}, {size}: {'; '.join(parts)}"
