"""What docs/results.md says about the intentions that eLiveRec's vectors hold."""

from typing import Any

from benchmarks import markdown
from benchmarks.markdown import Result
from benchmarks.quality import intentions


def table(result: Result) -> str:
    """Explained variance of the planted tastes, by vector of the trained model, for each pair of weights."""
    return "\n".join(_titled(setting, "trained") for setting in result["settings"])


def section(result: Result) -> str:
    """All about it."""
    users = " / ".join(str(count) for count in result["settings"][0]["users"])
    return "\n".join(
        [
            f"Linear probes of the planted tastes, from the mean vectors of each user's test impressions ({users} "
            f"users; {markdown.seeds(result)}, worlds and models): explained variance on users that no probe was "
            "fitted on. Mean embeddings are those of the sequence's elements, which no intention has shaped; category "
            "shares say which part of the sequence is of which category, which is what it can tell at all.\n",
            table(result),
            "The same of the untrained model:\n",
            _table(result["settings"][0], "untrained"),
            "![Explained variance](../benchmarks/quality/results/intentions.png)\n",
            markdown.circumstances(result),
        ]
    )


def _titled(setting: dict[str, Any], state: str) -> str:
    gauc = markdown.spread(setting["gauc"], 4)
    return f"{intentions.label(setting)} (test gauc {gauc}):\n\n{_table(setting, state)}"


def _table(setting: dict[str, Any], state: str) -> str:
    probes = setting["probes"][state]
    factors = list(next(iter(probes.values())))
    rows = [[vector, *(markdown.spread(of[factor], 3) for factor in factors)] for vector, of in probes.items()]
    return markdown.table([f"vector ({state})", *(f"taste {factor}" for factor in factors)], rows)
