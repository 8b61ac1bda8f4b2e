"""What the mean of all impressions hides: repeats and new streamers, active users and others, new rooms, exposure.

Parts are told apart by what was known before each impression (`event_past`) or by the training rows; a user is active
by her watches before the split began. The metrics of a part are those of its rows alone: a request's ranking is then
that of the rows of the part in it.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lsec_jax.data.splits import event_rows
from lsec_jax.event_metrics import EventMetrics, EventResult, TopShare
from lsec_jax.event_past import Exposure, ImpressionPast, Known
from lsec_jax.schema import TRAIN
from lsec_jax.schema.blocks import blocks
from lsec_jax.training.evaluation import EvaluationRow, split_code
from lsec_jax.training.event_evaluation import ImpressionEvaluator, RowScorer, ScoredBlock

EXPOSURE_DAYS = (7.0, 14.0, 30.0)  # Table V's text: rooms without exposure in so many days

# (rows [b] of the table, what was known before them) -> which of them belong to the part, [b] bool.
Membership = Callable[[np.ndarray, Known], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Part:
    """Metrics of some of the impressions.

    Attributes:
        name: which ones, in words.
        metrics: by name, as `EventMetrics` gives them; those that the rows do not define are not there.
        counts: impressions, requests and what was left out, in words.
    """

    name: str
    metrics: dict[str, float]
    counts: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Discoverability:
    """How much of what is ranked first had not been shown to anybody lately.

    Attributes:
        role: of what had not been shown, e.g. "room" or "streamer".
        days: of the window before the impression.
        top_shares: share of it among the first K of a request, mean over requests, by K.
        share: of it among all impressions.
        num_requests: that the log reaches back far enough for; of those before them it is not known.
    """

    role: str
    days: float
    top_shares: dict[int, float]
    share: float
    num_requests: int

    def to_json(self) -> dict[str, Any]:
        """Returns it for JSON; shares of no requests are None."""
        shares = {str(k): share if self.num_requests else None for k, share in self.top_shares.items()}
        return {
            **dataclasses.asdict(self),
            "top_shares": shares,
            "share": self.share if self.num_requests else None,
        }


@dataclasses.dataclass(frozen=True)
class Examination:
    """One scorer's impressions of a split, whole and in parts.

    Attributes:
        row: of all impressions.
        parts: of some of them.
        discoverability: by role and window; none where it is not known what was shown together.
        unknown: ids that are in no vocabulary, by field.
    """

    row: EvaluationRow
    parts: tuple[Part, ...]
    discoverability: tuple[Discoverability, ...]
    unknown: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Returns all of it but the values by user, for JSON; shares of no requests are None."""
        return {
            "split": self.row.split,
            "metrics": self.row.metrics,
            "counts": self.row.counts,
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "discoverability": [of.to_json() for of in self.discoverability],
            "unknown": self.unknown,
        }


def examine(
    evaluator: ImpressionEvaluator,
    scorer: RowScorer,
    split: str,
    exposure_days: Sequence[float] = EXPOSURE_DAYS,
    observe: Callable[[ScoredBlock], None] | None = None,
) -> Examination:
    """Scores the impressions of a split once, and measures them whole and in parts.

    Args:
        evaluator: of the impressions.
        scorer: as `ImpressionEvaluator.evaluate` takes it.
        split: "validation" or "test".
        exposure_days: windows of discoverability.
        observe: called with each block, for what else is to be measured of the same scores.

    Raises:
        ConfigError, DataError, ranking.NanScoreError: as `ImpressionEvaluator.evaluate`.
    """
    started = time.perf_counter()
    owner, past = evaluator.owner, evaluator.past
    members = _members(evaluator, past, owner, split)
    whole, of_parts = evaluator.new_metrics(split, scorer), [evaluator.new_metrics(split, scorer) for _ in members]
    exposures = _exposures(evaluator, owner, exposure_days)
    primary = evaluator.declaration.labels[0].name
    for block in evaluator.scored(scorer, split):
        block.add_to(whole)
        if observe is not None:
            observe(block)
        known = past.known(block.rows)
        for belongs, metrics in zip(members.values(), of_parts, strict=True):
            kept = np.flatnonzero(belongs(block.rows, known))
            if len(kept):
                block.add_to(metrics, kept)
        for exposure, window, share in exposures.values():
            assert block.requests is not None, "exposures are of requests"
            unexposed, observed = exposure.is_unexposed(block.rows, window)
            share.add(block.scores[primary][observed], unexposed[observed], block.requests[observed])
    row = evaluator.row(whole.result(), split, time.perf_counter() - started)
    parts = tuple(_part(name, metrics) for name, metrics in zip(members, of_parts, strict=True))
    found = tuple(_discovered(role, days, of[2], evaluator.config.cutoffs) for (role, days), of in exposures.items())
    return Examination(row, parts, found, evaluator.unknown(split))


def markdown(examinations: Mapping[str, Examination], metrics: Sequence[str] = ("auc", "gauc", "ndcg@10")) -> str:
    """Returns tables of parts and discoverability, by name of the model.

    Metrics that a part lacks are "-", parts without impressions are left out.
    """
    lines = ["| model | impressions of | impressions | positive | " + " | ".join(metrics) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(metrics))
    for model, found in examinations.items():
        whole = Part("all", found.row.metrics, found.row.counts)
        for part in (whole, *found.parts):
            size = part.counts["impressions"]
            if not size:
                continue
            share = f"{part.counts['positives'] / size:.1%}"
            values = [f"{part.metrics[name]:.4f}" if name in part.metrics else "-" for name in metrics]
            lines.append(f"| {model} | {part.name} | {size} | {share} | " + " | ".join(values) + " |")
    if any(found.discoverability for found in examinations.values()):
        lines += ["", *_discoverability_lines(examinations)]
    return "\n".join([*lines, ""])


def _discoverability_lines(examinations: Mapping[str, Examination]) -> list[str]:
    cutoffs = next(tuple(of.top_shares) for found in examinations.values() for of in found.discoverability)
    lines = [
        "| model | not shown before | days | requests | of all | " + " | ".join(f"top {k}" for k in cutoffs) + " |"
    ]
    lines.append("|---|---|---|---|---|" + "---|" * len(cutoffs))
    for model, found in examinations.items():
        for of in found.discoverability:
            shares = [of.share, *of.top_shares.values()]
            values = [f"{share:.1%}" if of.num_requests else "-" for share in shares]
            lines.append(f"| {model} | {of.role} | {of.days:g} | {of.num_requests} | " + " | ".join(values) + " |")
    return lines


def _members(evaluator: ImpressionEvaluator, past: ImpressionPast, owner: str, split: str) -> dict[str, Membership]:
    """The parts by name."""
    user = evaluator.declaration.user
    found: dict[str, Membership] = {
        f"{owner}s that the {user} watched before": lambda rows, known: known.pair_watches > 0,
        f"{owner}s new to the {user}": lambda rows, known: known.pair_watches == 0,
        f"{owner}s that nobody watched before": lambda rows, known: known.owner_watches == 0,
    }
    for role in dict.fromkeys((owner, evaluator.declaration.target)):
        found[f"{role}s not in training"] = _not_in_training(evaluator, role)
    return found | _by_activity(evaluator, past, split)


def _not_in_training(evaluator: ImpressionEvaluator, role: str) -> Membership:
    ids = evaluator.events.ids(role)
    is_known = np.zeros(len(evaluator.data.nodes[evaluator.events.nodes[role].node_type]) + 1, bool)
    train = event_rows(evaluator.data, evaluator.events, TRAIN)
    for block in blocks(train.stop - train.start if isinstance(train, slice) else len(train)):
        start = train.start if isinstance(train, slice) else 0
        is_known[ids[slice(block.start + start, block.stop + start) if isinstance(train, slice) else train[block]]] = (
            True
        )
    is_known[-1] = True  # nobody's is no new one
    return lambda rows, known: ~is_known[ids[rows]]


def _by_activity(evaluator: ImpressionEvaluator, past: ImpressionPast, split: str) -> dict[str, Membership]:
    """Users in thirds by their watches before the split's first impression; equal ones are in one third."""
    users, user = evaluator.events.ids(evaluator.declaration.user), evaluator.declaration.user
    rows = event_rows(evaluator.data, evaluator.events, split_code(split))
    there = np.unique(users[rows])
    there = there[there >= 0].astype(np.int64)
    if len(there) == 0:
        return {}
    first = evaluator.events.time[rows.start if isinstance(rows, slice) else rows[0]]
    counts = past.user_watches.count(there, np.full(len(there), first))
    low, high = np.quantile(counts, [1 / 3, 2 / 3], method="inverted_cdf")
    third = np.zeros(users.max() + 1, np.int8)
    third[there] = (counts > low).astype(np.int8) + (counts > high)
    names = (
        f"{user}s of up to {low:.0f} watches before",
        f"{user}s of {low + 1:.0f} to {high:.0f} watches before",
        f"{user}s of more than {high:.0f} watches before",
    )

    def belongs(number: int) -> Membership:
        return lambda rows, known: third[users[rows]] == number

    return {name: belongs(number) for number, name in enumerate(names) if (third[there] == number).any()}


def _exposures(
    evaluator: ImpressionEvaluator, owner: str, days: Sequence[float]
) -> dict[tuple[str, float], tuple[Exposure, float, TopShare]]:
    if evaluator.events.group is None:
        return {}
    roles = dict.fromkeys((evaluator.declaration.target, owner))
    exposures = {role: Exposure(evaluator.events, role) for role in roles}
    unit = evaluator.declaration.day_length
    return {(role, window): (exposures[role], window * unit, TopShare()) for role in roles for window in days}


def _part(name: str, metrics: EventMetrics) -> Part:
    result: EventResult = metrics.result()
    return Part(name, result.metrics, result.counts)


def _discovered(role: str, days: float, share: TopShare, cutoffs: Sequence[int]) -> Discoverability:
    num_requests, top_shares = share.measure(tuple(cutoffs))
    return Discoverability(role, days, top_shares, share.of_all, num_requests)
