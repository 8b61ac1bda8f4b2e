"""What an analysis found, as JSON and as Markdown tables."""

import math
from typing import Any

import numpy as np

from lsec_jax.data.analysis import APART, JOINED, Influence, Similarity, Tripartite

MARK = "lsec_jax.analyze"  # "written_by" of analysis.json: by it an earlier analysis is known
KEYS = {APART: "apart", JOINED: "joined"}
MEASURES = ("cosine", "jaccard")


def influence_summary(found: Influence) -> dict[str, Any]:
    """The JSON of Sec. 4.1; numbers that are not defined (a ratio to zero) are null."""
    drawn, ratios = found.drawn_probabilities(), found.drawn_ratios()
    groups = {
        key: {
            "pairs": int(found.pairs[group]),
            "purchases": int(found.purchases[group]),
            "probability": float(found.probabilities()[group]),
            "monte_carlo": _mean_and_std(drawn[:, group]) | {"drawn_pairs": found.drawn_pairs[:, group].tolist()},
        }
        for group, key in KEYS.items()
    }
    result = {**groups, "ratio": _number(found.ratio()), "monte_carlo_ratio": _mean_and_std(ratios)}
    if (truth := found.truth) is not None:
        result["truth"] = {
            "users": truth.num_users,
            **{key: float(truth.expected[group] / truth.pairs[group]) for group, key in KEYS.items()},
            "ratio": _number(truth.ratio()),
            "observed_ratio_of_these_users": _number(truth.observed_ratio()),
            "z_score": _number(truth.z_score()),
        }
    return result


def similarity_summary(found: Similarity) -> dict[str, Any]:
    """The JSON of Sec. 4.2 or 4.3."""
    quantiles, drawn = found.quantiles(), found.drawn_means()
    names = [f"{level:g}" for level in found.levels]
    groups = {}
    for group, key in KEYS.items():
        groups[key] = {
            "pairs": int(found.pairs[group]),
            "share_above_zero": float(found.overlapping[group] / found.pairs[group]),
            **{
                measure: {
                    "mean": float(found.means[group, m]),
                    "drawn_mean": float(drawn[group, m]),
                    "quantiles": dict(zip(names, quantiles[group, m].tolist(), strict=True)),
                }
                for m, measure in enumerate(MEASURES)
            },
        }
    counts = {"nodes": found.num_nodes, "nodes_without_purchase_left_out": found.num_left_out}
    return {"node_type": found.node_type, **counts, "drawn_pairs": found.drawn.shape[2], **groups}


def markdown(name: str, graph: Tripartite, content: dict[str, Any]) -> str:
    """The tables of analysis.md, from the content of analysis.json."""
    buys, follows, sells = graph.purchase, graph.follow, graph.sell
    sizes = (graph.num_users, buys.source), (graph.num_items, buys.target), (graph.num_streamers, follows.target)
    nodes = ", ".join(f"{count} {name}s" for count, name in sizes)
    edges = ", ".join(f"{len(relation)} {relation.name}" for relation in (buys, follows, sells))
    user, item, streamer = buys.source, buys.target, follows.target
    parts = [
        f"# Analysis of {name}",
        "",
        f"{nodes}; edges: {edges}. All edges count, before any split: this is what the data set shows.",
        "",
        f"## Do {user}s buy what a {streamer} sells whom they follow?",
        "",
        *_influence_table(content["influence"], item, streamer),
    ]
    for key, joined in (
        ("users", f"{user}s who follow one {streamer}"),
        ("items", f"{item}s that one {streamer} sells"),
    ):
        parts += ["", f"## Do {joined} have more purchases in common?", "", *_similarity_table(content[key], joined)]
    return "\n".join([*parts, ""])


def _influence_table(found: dict[str, Any], item: str, streamer: str) -> list[str]:
    truth = found.get("truth")
    labels = {JOINED: f"a followed {streamer} sells the {item}", APART: f"no followed {streamer} sells the {item}"}
    heads = ["pairs", "number", "purchases", "probability", "Monte Carlo"] + ["true probability"] * (truth is not None)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for group, label in labels.items():
        row = found[KEYS[group]]
        cells = [label, row["pairs"], row["purchases"], f"{row['probability']:.3e}", _spread(row["monte_carlo"], ".3e")]
        cells += [f"{truth[KEYS[group]]:.3e}"] if truth else []
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    ratios = ["ratio", "", "", _text(found["ratio"]), _spread(found["monte_carlo_ratio"], ".3f")]
    ratios += [_text(truth["ratio"])] if truth else []
    lines.append("| " + " | ".join(ratios) + " |")
    repeats = found["joined"]["monte_carlo"]["repeats"]
    drawn = found["joined"]["monte_carlo"]["drawn_pairs"][0] + found["apart"]["monte_carlo"]["drawn_pairs"][0]
    lines += ["", f"Monte Carlo: mean +- standard deviation of {repeats} repeats of {drawn} drawn pairs each."]
    if truth:
        observed, z_score = _text(truth["observed_ratio_of_these_users"]), _text(truth["z_score"], "+.2f")
        lines[-1] += (
            f" True probabilities: the simulated world's own, over all pairs of {truth['users']} users, whose "
            f"purchases have the ratio {observed}: {z_score} standard deviations from the true one."
        )
    return lines


def _similarity_table(found: dict[str, Any], joined: str) -> list[str]:
    levels = list(found["joined"]["cosine"]["quantiles"])
    heads = ["", "pairs", *(f"{100 * float(level):g}%" for level in levels), "mean, drawn", "mean, all pairs"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for measure in MEASURES:
        for key, label in (("apart", "others"), ("joined", joined)):
            row = found[key][measure]
            cells = [*(f"{row['quantiles'][level]:.4f}" for level in levels), f"{row['drawn_mean']:.3e}"]
            cells = [f"{measure}, {label}", str(found[key]["pairs"]), *cells, f"{row['mean']:.3e}"]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Quantiles are of {found['drawn_pairs']} drawn pairs in each group. Pairs are of the {found['nodes']} "
        f"{found['node_type']}s with a purchase; {found['nodes_without_purchase_left_out']} have none.",
    ]
    return lines


def _mean_and_std(values: np.ndarray) -> dict[str, Any]:
    std = values.std(ddof=1) if len(values) > 1 else math.nan
    return {"mean": _number(values.mean()), "std": _number(std), "repeats": len(values)}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _text(value: float | None, style: str = ".3f") -> str:
    return "-" if value is None else format(value, style)


def _spread(found: dict[str, Any], style: str) -> str:
    return f"{_text(found['mean'], style)} +- {_text(found['std'], style)}"
