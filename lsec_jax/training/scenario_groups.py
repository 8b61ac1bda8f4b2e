"""Impressions by scenario: of each one, and of the head, tail and cold ones together, with bootstrap intervals.

Scenarios are the nodes of one role of the impressions (`config.evaluation.scenario`). The metrics of a scenario or
group are those of its rows alone: a request's ranking is then that of its rows there. Requests are resampled with all
their rows, or users where requests are not known; all scorers are measured in the very same samples, so that their
differences have intervals of their own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lsec_jax.config import EVENT_PROTOCOLS, ConfigError
from lsec_jax.data.splits import live_event_rows
from lsec_jax.event_metrics import resampled
from lsec_jax.schema import TRAIN, Events
from lsec_jax.schema.blocks import blocks
from lsec_jax.training.event_evaluation import ImpressionEvaluator, RowScorer, ScoredBlock

GROUPS = ("head", "tail", "cold")
NUM_LISTED = 10  # of the largest scenarios, and of the smallest ones, in Markdown


@dataclasses.dataclass(frozen=True)
class Scenarios:
    """The scenarios of a table of impressions, c of them.

    Attributes:
        role: whose nodes they are.
        ids: the user's own, [c].
        of_rows: of all rows of the table, [n] int32; -1 = of none.
        training_impressions: [c] int64.
        groups: position in GROUPS, [c] int8.
    """

    role: str
    ids: np.ndarray
    of_rows: np.ndarray
    training_impressions: np.ndarray
    groups: np.ndarray


@dataclasses.dataclass(frozen=True)
class Measured:
    """One scorer on the impressions of a scenario, or of a group of them.

    Attributes:
        name: "all", one of GROUPS, or the scenario's own id.
        group: of a scenario; "" of a group.
        counts: scenarios (with impressions here), training_impressions, impressions, positives and, where they are
            known, requests.
        metrics: by name; those that the rows do not define are not there.
        intervals: 95%, low and high, of the metrics that nearly all samples define.
        differences: of groups, to the first scorer: value, low and high by metric.
    """

    name: str
    group: str
    counts: dict[str, int]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    differences: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Returns it for JSON, without its name."""
        content = {key: value for key, value in dataclasses.asdict(self).items() if key != "name" and value != ""}
        return {**content, "intervals": {name: list(of) for name, of in self.intervals.items()}}


@dataclasses.dataclass(frozen=True)
class ByScenario:
    """One scorer on a split.

    Attributes:
        role: whose nodes the scenarios are.
        split: "validation" or "test".
        resampled: "requests", or "users" where requests are not known.
        num_samples: of each interval.
        compared_to: name of the first scorer; "" of that one itself.
        groups: all impressions, then GROUPS.
        scenarios: those with impressions in the split, the largest first.
    """

    role: str
    split: str
    resampled: str
    num_samples: int
    compared_to: str
    groups: tuple[Measured, ...]
    scenarios: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns all of it for JSON, groups and scenarios by name."""
        content = {name: getattr(self, name) for name in ("role", "split", "resampled", "num_samples", "compared_to")}
        parts = {"groups": self.groups, "scenarios": self.scenarios}
        return {**content, **{name: {of.name: of.to_json() for of in found} for name, found in parts.items()}}


class Collector:
    """Keeps of one scorer's blocks what resampling needs: about 25 bytes a row."""

    def __init__(self, evaluator: ImpressionEvaluator) -> None:
        self._task = evaluator.labels[0].name
        self._blocks: list[tuple[np.ndarray, ...]] = []
        self._has_requests = evaluator.events.group is not None

    def add(self, block: ScoredBlock) -> None:
        """Takes a block of `ImpressionEvaluator.scored`; rows without an answer of the primary task are left out."""
        kept = np.flatnonzero(~np.isnan(block.answers[:, 0]))
        requests = () if block.requests is None else (block.requests[kept],)
        is_positive, scores = block.answers[kept, 0] > 0.5, block.scores[self._task][kept].astype(np.float32)
        self._blocks.append((block.rows[kept], scores, is_positive, block.users[kept], *requests))

    def rows(self) -> tuple[np.ndarray, resampled.ScoredRows]:
        """Returns the positions in the table, [n] int64, and what was kept of these rows."""
        positions, scores, is_positive, users, *requests = (
            np.concatenate(of) for of in zip(*self._blocks, strict=True)
        )
        return positions, resampled.ScoredRows(scores, is_positive, users, requests[0] if requests else None)


def check_role(events: Events, role: str) -> None:
    """Raises ConfigError unless a table of impressions has a role ("" = none asked for)."""
    if role and role not in events.nodes:
        raise ConfigError(
            f"config.evaluation.scenario = '{role}': events '{events.name}' have no such role; choose one of: "
            f"{', '.join(events.nodes)}"
        )


def group_of(training_impressions: Int[np.ndarray, " c"], head_share: float) -> Int[np.ndarray, " c"]:
    """Positions in GROUPS of scenarios with so many training impressions, int8.

    Head: the most frequent ones, as few as have together at least `head_share` of all; of equal ones the first ones.
    """
    order = np.argsort(-training_impressions, kind="stable")
    together = np.cumsum(training_impressions[order])
    wanted = head_share * int(training_impressions.sum()) * (1 - 1e-12)  # 0.55 x 100 is above 55
    groups = np.ones(len(order), np.int8)
    groups[order[: np.searchsorted(together, wanted) + 1]] = 0
    groups[training_impressions == 0] = 2
    return groups


def scenarios_of(evaluator: ImpressionEvaluator) -> Scenarios:
    """Finds the scenarios of an evaluator's table and counts their training impressions; errors as `check_role`."""
    events, config, data = evaluator.events, evaluator.config, evaluator.data
    check_role(events, config.scenario)
    ids = data.nodes[events.nodes[config.scenario].node_type].ids
    of_rows = events.ids(config.scenario)
    train = live_event_rows(data, events, TRAIN, evaluator.declaration.target)
    counts = np.zeros(len(ids) + 1, np.int64)  # the last one is nobody's
    start, stop = (train.start, train.stop) if isinstance(train, slice) else (0, len(train))
    for block in blocks(stop - start):
        shown = of_rows[block.start + start : block.stop + start] if isinstance(train, slice) else of_rows[train[block]]
        counts += np.bincount(np.where(shown >= 0, shown, len(ids)), minlength=len(counts))
    return Scenarios(config.scenario, ids, of_rows, counts[:-1], group_of(counts[:-1], config.head_share))


def evaluate(evaluator: ImpressionEvaluator, scorers: Mapping[str, RowScorer], split: str) -> dict[str, ByScenario]:
    """Scores the impressions of a split and measures them by scenario.

    Args:
        evaluator: as `measure`.
        scorers: by name, the one that others are compared to first.
        split: "validation" or "test".

    Raises:
        ConfigError, DataError, ranking.NanScoreError: as `measure` and `ImpressionEvaluator.evaluate`.
    """
    check_role(evaluator.events, evaluator.config.scenario)
    evaluator.check(split, EVENT_PROTOCOLS[0])
    collected = {}
    for name, scorer in scorers.items():
        collected[name] = Collector(evaluator)
        for block in evaluator.scored(scorer, split):
            collected[name].add(block)
    return measure(evaluator, collected, split)


def measure(evaluator: ImpressionEvaluator, collected: Mapping[str, Collector], split: str) -> dict[str, ByScenario]:
    """Measures scored impressions by scenario.

    While measuring, memory is about 100 bytes an impression, 8 for each scenario, metric and sample, and 300 MB.

    Args:
        evaluator: of the impressions; its config says what scenarios are and how many samples are drawn.
        collected: by scorer, all blocks of the split each; the first one is that to which others are compared.
        split: "validation" or "test".

    Returns:
        By scorer, in their order.

    Raises:
        ConfigError: the impressions have no role `config.evaluation.scenario`.
    """
    scenarios = scenarios_of(evaluator)
    found: dict[str, ByScenario] = {}
    first: dict[str, np.ndarray] = {}
    for name, collector in collected.items():
        positions, rows = collector.rows()
        of_rows = scenarios.of_rows[positions]
        groups = np.where(of_rows >= 0, scenarios.groups[of_rows], -1)
        partitions = (np.zeros(len(positions), np.int64), groups, of_rows)
        sizes = (1, len(GROUPS), len(scenarios.ids))
        values, drawn = _values(rows, partitions, sizes, evaluator)
        of_groups = {key: np.concatenate([of[key] for of in drawn[:2]]) for key in drawn[0]}
        point = {key: np.concatenate([of[key] for of in values[:2]]) for key in values[0]}
        differences = {key: (point[key] - first[key][:, :1], of_groups[key] - first[key][:, 1:]) for key in first}
        counts = _counts(rows, partitions, sizes)
        measured = _measured(["all", *GROUPS], counts[:4], point, of_groups, differences)
        names = [str(of) for of in scenarios.ids]
        each = _measured(names, counts[4:], values[2], drawn[2], {})
        found[name] = ByScenario(
            role=scenarios.role,
            split=split,
            resampled="users" if rows.requests is None else "requests",
            num_samples=evaluator.config.bootstrap_samples,
            compared_to=next(iter(found), ""),
            groups=_with_scenarios(measured, scenarios, of_rows),
            scenarios=_of_scenarios(each, scenarios),
        )
        first = first or {key: np.concatenate([point[key], of_groups[key]], axis=1) for key in point}
    return found


def _values(
    rows: resampled.ScoredRows,
    partitions: Sequence[np.ndarray],
    sizes: Sequence[int],
    evaluator: ImpressionEvaluator,
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Metrics of each partition's parts [p, 1], and in the samples [p, s]."""
    config, num_units = evaluator.config, rows.units()[0]
    metrics = [
        resampled.PartMetrics(rows, parts, count, tuple(config.cutoffs))
        for parts, count in zip(partitions, sizes, strict=True)
    ]
    values = [of.measure(np.ones((num_units, 1))) for of in metrics]
    drawn: list[dict[str, list[np.ndarray]]] = [{name: [of[:, :0]] for name, of in found.items()} for found in values]
    for weights in resampled.samples(num_units, config.bootstrap_samples, config.candidates_seed, len(rows.users)):
        for of, kept in zip(metrics, drawn, strict=True):
            for name, measured in of.measure(weights).items():
                kept[name].append(measured)
    return values, [{name: np.concatenate(of, axis=1) for name, of in kept.items()} for kept in drawn]


def _counts(rows: resampled.ScoredRows, partitions: Sequence[np.ndarray], sizes: Sequence[int]) -> list[dict[str, int]]:
    """Impressions, positives and requests of every part of every partition."""
    found = []
    for parts, size in zip(partitions, sizes, strict=True):
        kept = np.flatnonzero(parts >= 0)
        of_kept = parts[kept].astype(np.int64)
        counts = {"impressions": of_kept, "positives": of_kept[rows.is_positive[kept]]}
        if rows.requests is not None:
            num_requests = int(rows.requests.max(initial=0)) + 1
            counts["requests"] = np.unique(of_kept * num_requests + rows.requests[kept]) // num_requests
        columns = {name: np.bincount(of, minlength=size) for name, of in counts.items()}
        found += [{name: int(of[part]) for name, of in columns.items()} for part in range(size)]
    return found


def _measured(
    names: Sequence[str],
    counts: Sequence[dict[str, int]],
    values: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    differences: dict[str, tuple[np.ndarray, np.ndarray]],
) -> list[Measured]:
    """One of each part."""
    bounds = {name: resampled.intervals(of) for name, of in drawn.items()}
    between = {name: (of[:, 0], *resampled.intervals(in_samples)) for name, (of, in_samples) in differences.items()}
    found = []
    for part, name in enumerate(names):
        of_part = {key: bound[:, part] for key, bound in bounds.items()}
        compared = {key: dict(zip(("value", "low", "high"), of, strict=True)) for key, of in between.items()}
        compared = {key: {end: float(at[part]) for end, at in of.items()} for key, of in compared.items()}
        found.append(
            Measured(
                name=name,
                group="",
                counts=counts[part],
                metrics={key: float(of[part, 0]) for key, of in values.items() if not np.isnan(of[part, 0])},
                intervals={key: (float(of[0]), float(of[1])) for key, of in of_part.items() if not np.isnan(of[0])},
                differences={
                    key: {end: at for end, at in of.items() if not np.isnan(at)}
                    for key, of in compared.items()
                    if not np.isnan(of["value"])
                },
            )
        )
    return found


def _with_scenarios(found: Sequence[Measured], scenarios: Scenarios, of_rows: np.ndarray) -> tuple[Measured, ...]:
    """Groups with the counts of their scenarios and of their training impressions."""
    is_here = np.zeros(len(scenarios.ids), bool)
    is_here[of_rows[of_rows >= 0]] = True
    members = [np.ones(len(is_here), bool), *(scenarios.groups == number for number in range(len(GROUPS)))]
    result = []
    for of, belongs in zip(found, members, strict=True):
        training = int(scenarios.training_impressions[belongs].sum())
        counts = {"scenarios": int((is_here & belongs).sum()), "training_impressions": training, **of.counts}
        result.append(dataclasses.replace(of, counts=counts))
    return tuple(result)


def _of_scenarios(found: Sequence[Measured], scenarios: Scenarios) -> tuple[Measured, ...]:
    """Those with impressions, the largest first, with their groups and training impressions."""
    result = []
    for of, training, group in zip(found, scenarios.training_impressions, scenarios.groups, strict=True):
        if of.counts["impressions"]:
            counts = {"training_impressions": int(training), **of.counts}
            result.append(dataclasses.replace(of, group=GROUPS[group], counts=counts))
    return tuple(sorted(result, key=lambda of: -of.counts["impressions"]))


def markdown(found: Mapping[str, ByScenario]) -> str:
    """Returns tables by name of the model: groups, their differences, and the largest and smallest scenarios."""
    main = next(iter(found.values()))
    metrics = list(dict.fromkeys(name for of in found.values() for part in of.groups for name in part.metrics))
    lines = [
        f"Scenarios are the {main.role}s. In brackets: 95% of {main.num_samples} samples of the {main.resampled}.",
        "",
        *_header(("model", "scenarios of", "scenarios", "in training", "impressions", "positive", "requests"), metrics),
    ]
    for model, of in found.items():
        for part in of.groups:
            counts = [str(part.counts[name]) for name in ("scenarios", "training_impressions")]
            lines.append(_line([model, part.name, *counts, *_sizes(part)], part, metrics))
    if compared := {model: of for model, of in found.items() if of.compared_to}:
        lines += ["", *_header(("difference", "scenarios of"), metrics)]
        for model, of in compared.items():
            for part in of.groups:
                cells = [_difference(part.differences.get(name)) for name in metrics]
                lines.append("| " + " | ".join([f"{model} - {of.compared_to}", part.name, *cells]) + " |")
    listed = [part.name for part in main.scenarios]
    if len(listed) > 2 * NUM_LISTED:
        listed = listed[:NUM_LISTED] + listed[-NUM_LISTED:]
        lines += ["", f"The {NUM_LISTED} largest and the {NUM_LISTED} smallest of {len(main.scenarios)}:"]
    lines += ["", *_header((main.role, "of", "in training", "model", "impressions", "positive", "requests"), metrics)]
    by_name = {model: {part.name: part for part in of.scenarios} for model, of in found.items()}
    for name in listed:
        for model, parts in by_name.items():
            part = parts[name]
            start = [name, part.group, str(part.counts["training_impressions"]), model, *_sizes(part)]
            lines.append(_line(start, part, metrics))
    return "\n".join([*lines, ""])


def _header(first: Sequence[str], metrics: Sequence[str]) -> list[str]:
    names = [*first, *metrics]
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _sizes(part: Measured) -> list[str]:
    size = part.counts["impressions"]
    share = f"{part.counts['positives'] / size:.1%}" if size else "-"
    return [str(size), share, str(part.counts.get("requests", "-"))]


def _line(start: Sequence[str], part: Measured, metrics: Sequence[str]) -> str:
    cells = []
    for name in metrics:
        value = f"{part.metrics[name]:.4f}" if name in part.metrics else "-"
        low_high = part.intervals.get(name)
        cells.append(f"{value} [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else value)
    return "| " + " | ".join([*start, *cells]) + " |"


def _difference(of: dict[str, float] | None) -> str:
    if of is None:
        return "-"
    return f"{of['value']:+.4f}" + (f" [{of['low']:+.4f}, {of['high']:+.4f}]" if "low" in of else "")
