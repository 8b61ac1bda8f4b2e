"""What docs/results.md says of eLiveRec's training step."""

import statistics

from benchmarks import markdown
from benchmarks.markdown import Result

_TITLES = {
    "adaptive": "adaptive weights",
    "fixed": "fixed weights",
    "adaptive_bfloat16": "adaptive weights, bfloat16",
}


def core_seconds(of: Result) -> float:
    """Median of the time that the process had its core."""
    return statistics.median(of["cpu_seconds"])


def table(result: Result) -> str:
    """The step of each variant."""
    fixed = core_seconds(result["variants"]["fixed"])
    rows = []
    for name, title in _TITLES.items():
        of = result["variants"][name]
        wall, core = statistics.median(of["seconds"]), core_seconds(of)
        rows.append(
            [
                title,
                f"{1e3 * wall:,.0f}",
                f"{1e3 * core:,.0f}",
                f"{result['batch_size'] / wall:,.0f}",
                f"{result['batch_size'] / core:,.0f}",
                f"{core / fixed:.2f}",
                f"{of['compile_seconds']:.0f}",
            ]
        )
    header = ["step with", "ms by the clock", "ms of the core", "examples/s by the clock", "examples/s of the core"]
    return markdown.table([*header, "of the core's time with fixed weights", "s to compile and run first"], rows)


def section(result: Result) -> str:
    """All about it."""
    step, product, encoded = (
        core_seconds(of) for of in (result["variants"]["adaptive"], result["product"], result["encoding"])
    )
    ratio = step / core_seconds(result["variants"]["fixed"])
    verdict = "reached" if ratio <= result["target_ratio"] else "NOT REACHED"
    rate, peak = result["operations"] / step, result["product"]["operations"] / product
    waiting, model = result["waiting"], result["model"]
    feed_forward = model["feed_forward_width"] or 4 * model["embedding_dim"]
    return "\n".join(
        [
            f"eLiveRec, {model['embedding_dim']} wide, {model['num_heads']} heads, feed-forward nets of "
            f"{feed_forward}, two sequences of {result['length']} behaviours with 3 ids each, 3 tasks, batches of "
            f"{result['batch_size']:,}, Adagrad; simulated columns. Medians of {len(result['product']['seconds'])} "
            "repetitions, one kind of work after the other. Of the core: the time that the process had one, which "
            "other work on the machine changes less.\n",
            table(result),
            f"- Adaptive over fixed weights, at most {result['target_ratio']:g}: {verdict}, {ratio:.2f}.",
            f"- A step with adaptive weights has {result['operations'] / 1e9:,.1f} G operations (counted by XLA; what "
            f"blocks of rows compute again is not counted): {rate / 1e9:,.0f} G a second of the core, "
            f"{rate / peak:.0%} of the {peak / 1e9:,.0f} G of a product of two matrices in the same turns.",
            f"- The encoder makes {result['batch_size'] / encoded:,.0f} records a second of the core, "
            f"{step / encoded:,.0f} times as many as a step trains on.",
            f"- Of {waiting['steps']} steps whose inputs a thread makes ahead, {waiting['input_wait_share']:.2%} of "
            "the time is spent waiting for them.",
            "- On a GPU: not measured.",
            "",
            markdown.circumstances(result),
        ]
    )
