"""What docs/results.md says about the next item on Amazon Beauty."""

from benchmarks import markdown
from benchmarks.markdown import Result


def table(result: Result) -> str:
    """Test scores beside the published ones."""
    names = list(result["metrics"])
    rows = [[model, *(markdown.number(of[name]) for name in names), "-"] for model, of in result["published"].items()]
    minutes = markdown.scaled(result["train_seconds"], 1 / 60)
    ours = [*(markdown.spread(result["metrics"][name]) for name in names), markdown.spread(minutes, 1)]
    rows.append(["Transformer with full softmax, here", *ours])
    return markdown.table(["model", *names, "training, minutes"], rows)


def section(result: Result) -> str:
    """All about it."""
    names, target = list(result["metrics"]), result["target"]
    rows = [
        [
            str(of["seed"]),
            str(of["best_epoch"]),
            *(markdown.number(of["validation"][name]) for name in names),
            *(markdown.number(of["metrics"][name]) for name in names),
        ]
        for of in result["seeds"]
    ]
    header = ["seed", "best epoch", *(f"{name}, validation" for name in names), *(f"{name}, test" for name in names)]
    verdict = "reached" if target["reached"] else "NOT reached"
    return "\n".join(
        [
            f"{result['data']}: {result['users']} users, {result['items']} items; leave-one-out, full ranking without "
            f"what the user had before; {markdown.seeds(result)}. Validation chooses the epoch.\n",
            table(result),
            f"- Target {markdown.pairs(target, names)}: {verdict}.\n",
            markdown.table(header, rows),
            markdown.circumstances(result),
        ]
    )
