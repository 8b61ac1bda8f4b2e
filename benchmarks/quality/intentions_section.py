"""What docs/results.md says about the intentions that eLiveRec's vectors hold."""

from benchmarks import markdown
from benchmarks.markdown import Result


def table(result: Result) -> str:
    """Explained variance of the planted tastes, by vector of the trained model."""
    return _table(result, "trained")


def section(result: Result) -> str:
    """All about it."""
    users = " / ".join(str(count) for count in result["users"])
    return "\n".join(
        [
            f"Linear probes of the planted tastes, from the mean vectors of each user's test impressions ({users} "
            f"users; {markdown.seeds(result)}, worlds and models): explained variance on users that no probe was "
            "fitted on. Mean embeddings are those of the sequence's elements, which no intention has shaped; category "
            "shares say which part of the sequence is of which category, which is what it can tell at all.\n",
            table(result),
            "The same of the untrained model:\n",
            _table(result, "untrained"),
            "![Explained variance](../benchmarks/quality/results/intentions.png)\n",
            markdown.circumstances(result),
        ]
    )


def _table(result: Result, state: str) -> str:
    probes = result["probes"][state]
    factors = list(next(iter(probes.values())))
    rows = [[vector, *(markdown.spread(of[factor], 3) for factor in factors)] for vector, of in probes.items()]
    return markdown.table([f"vector ({state})", *(f"taste {factor}" for factor in factors)], rows)
