"""What docs/results.md says about the time to a level of quality."""

import statistics
from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.markdown import Result
from benchmarks.throughput.time_to_auc import NOTES

_CLOCKS = {"core_seconds": "of the core", "seconds": "by the clock"}


def time_to_auc_table(result: Result) -> str:
    """Both sides' time to each level of the authors' code."""
    rows = []
    for level in result["levels"]:
        ratios = ["-"] * 4
        if level["ratios"]:
            ratios = [f"{value:.1f}" for name in _CLOCKS for value in level["ratios"][name].values()]
        found = [point for point in level["ours"] if point]
        ours = "not reached" if len(found) < len(level["ours"]) else _spread([point["core_seconds"] for point in found])
        theirs = f"{level['theirs']['core_seconds']:.0f} ({level['theirs']['step']:.0f})"
        rows.append([markdown.number(level["value"]), theirs, ours, *ratios])
    header = ["validation AUC", "authors' code, s of the core (steps)", "lsec_jax, s of the core"]
    return markdown.table([*header, *_ratio_titles()], rows)


def time_to_auc_section(result: Result) -> str:
    """All about the time to the authors' code's AUC."""
    last, target = result["levels"][-1], result["target"]
    compilation = [run["compilation"]["core_seconds"] for run in result["ours"]]
    runs = [f"seed {run['seed']} with learning rate {run['learning_rate']}" for run in result["theirs"]]
    tuned = [f"{run['learning_rate']:g}" for run in result["tuning"]["runs"]]
    peer = ", ".join(f"{name} {version}" for name, version in result["peer"].items())
    return "\n".join(
        [
            f"LSEC-GCN on {result['data']['name']}, one core; candidates {result['data']['candidates']}. Theirs: "
            f"{'; '.join(runs)}. Ours: {markdown.seeds(result)}. The levels are the best AUCs of theirs so far.\n",
            time_to_auc_table(result),
            f"- To their best AUC, {markdown.number(last['value'])}: {_verdict(last['ratios'], target)}",
            f"- Popularity's AUC on these candidates is {markdown.number(result['popularity'])}: the highest level is "
            f"{'above' if last['value'] > result['popularity'] else 'BELOW'} it.",
            f"- Compilation of ours: {_spread(compilation)} s of the core; ratios are given without and with it.",
            f"- Our learning rate, {result['learning_rate']:g}, was the first of {markdown.joined(tuned)} at that AUC "
            f"with seed {result['tuning']['seed']}, which is not among the reported ones; theirs is as stated.",
            *(f"- {note}" for note in NOTES),
            f"- Peer: {peer}.\n",
            f"![Validation AUC over training time](../benchmarks/throughput/results/{result['benchmark']}_curve.png)\n",
            markdown.circumstances(result),
        ]
    )


def gowalla_time_table(result: Result) -> str:
    """Ours measured, the peer's extrapolated, and the ratios."""
    peer, rows = result["peer"], []
    for clock, title in _CLOCKS.items():
        step = statistics.median(peer[clock])
        hours = step * peer["steps_per_epoch"] * peer["epochs"] / 3600
        ours, ratios = "not reached", ["-"] * 3
        if result["ratios"]:
            ours = _spread([of["reached"][clock] for of in result["ours"]])
            found = result["ratios"][clock]
            ratios = [f"{found[name]:.0f}" for name in ("without_compilation", "with_compilation")]
            ratios.append(f"{found['epochs_at_target']:.1f}")
        compilation = _spread([of["compilation"][clock] for of in result["ours"]])
        rows.append([title, ours, compilation, f"{1e3 * step:.0f}", f"{hours:.1f}", *ratios])
    header = ["time", "lsec_jax, s", "its compilation, s", "PyTorch, ms a step", "its hours, extrapolated"]
    header += ["ratio without compilation", "ratio with it", f"epochs at which it would be {result['target']:.0f}"]
    return markdown.table(header, rows)


def gowalla_time_section(result: Result) -> str:
    """All about the time to Recall@20 on Gowalla."""
    peer = result["peer"]
    return "\n".join(
        [
            f"LightGCN on Gowalla, full ranking of the test split, one core, {markdown.seeds(result)}: training time "
            f"until Recall@20 is {result['level']:.4f}, measurements left out.\n",
            gowalla_time_table(result),
            f"- Target, {result['target']:.0f} times faster: {_verdict(result['ratios'], result['target'])}",
            f"- The peer is not trained to the end: {len(peer['seconds'])} of its steps, timed between ours on the "
            f"same core, times {peer['steps_per_epoch']} steps an epoch, times {peer['epochs']:,} epochs, which "
            f"LightGCN's authors trained for .1830. At which epoch it passes {result['level']:.4f} is not known; the "
            "last column says at how few epochs the target would be just met.",
            f"- The peer's step: {peer['notes']}.",
            "- The authors' split has no validation part: the test split says when the clock is read.\n",
            markdown.circumstances(result),
        ]
    )


def _ratio_titles() -> list[str]:
    return [f"ratio {clock}, {how} compilation" for clock in _CLOCKS.values() for how in ("without", "with")]


def _verdict(ratios: Result | None, target: float) -> str:
    if not ratios:
        return "NOT REACHED by all seeds of ours."
    found = [ratios[clock]["with_compilation"] for clock in _CLOCKS]
    clocks = " and ".join(f"{value:.1f} times {clock}" for value, clock in zip(found, _CLOCKS.values(), strict=True))
    verdict = "reached" if min(found) >= target else "NOT REACHED"
    return f"{clocks} with compilation; the target of {target:.0f} is {verdict}."


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
