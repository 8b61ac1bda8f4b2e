"""Evaluation of any scorer of impressions: what was shown is ranked, all of it, per request and per user."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from lsec_jax import ranking
from lsec_jax.config import EVENT_PROTOCOLS, EvaluationConfig, require_choice
from lsec_jax.data.splits import event_rows, live_event_rows
from lsec_jax.declaration import Declaration
from lsec_jax.event_metrics import EventMetrics, EventResult, Label
from lsec_jax.event_past import ImpressionPast
from lsec_jax.models.live_baselines import LiveBaselines, owner_role
from lsec_jax.schema import DataError, LiveCommerceData
from lsec_jax.schema.blocks import BLOCK_ROWS, blocks
from lsec_jax.training.evaluation import EvaluationRow, split_code

SCORED_ROWS = 8192

RowScorer = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@runtime_checkable
class Labelled(Protocol):
    """What knows the answers of rows, as `EventEncoder` does.

    Attributes:
        declaration: of the rows.
    """

    declaration: Declaration

    def answers(self, rows: np.ndarray) -> np.ndarray:
        """The labels of rows [b], [b, labels] float32, NaN where they are not defined."""
        ...

    def unknown(self, rows: np.ndarray) -> dict[str, int]:
        """How many ids of rows [b] are in no vocabulary, by field."""
        ...


@dataclasses.dataclass(frozen=True)
class Requests:
    """Numbers of the requests of some rows, from 0 on.

    Attributes:
        group: of all rows of the table, [n] int64.
        count: numbers.
        first: the group that is number 0, where numbers are distances from it.
        ids: the groups in the order of their numbers, [count] int64, where distances would be too many; or None.
    """

    group: np.ndarray
    count: int
    first: int
    ids: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of rows [b], int64."""
        groups = self.group[rows]
        return groups - self.first if self.ids is None else np.searchsorted(self.ids, groups)


@dataclasses.dataclass(frozen=True)
class ScoredBlock:
    """Rows of a table of impressions with what metrics need of them; b rows.

    Attributes:
        rows: positions in the table, [b] int64.
        scores: by task, [b] float32.
        answers: [b, labels] float32.
        users: [b] int32.
        requests: their numbers, [b] int64, or None.
    """

    rows: np.ndarray
    scores: Mapping[str, np.ndarray]
    answers: np.ndarray
    users: np.ndarray
    requests: np.ndarray | None

    def add_to(self, metrics: EventMetrics, kept: np.ndarray | slice = slice(None)) -> None:
        """Adds rows (mask or positions) to metrics."""
        scores = {task: values[kept] for task, values in self.scores.items()}
        requests = None if self.requests is None else self.requests[kept]
        metrics.add(scores, self.answers[kept], self.users[kept], requests)


class ImpressionEvaluator:
    """Evaluates scorers on the impressions of a split, whatever their number, in bounded memory.

    A scorer takes rows, [b] int64, and returns scores by task, [b]: of the primary task at least. Its attribute
    `output` says what those of binary tasks are (`event_metrics.OUTPUTS`); without one they are logits. Scorers get
    blocks of `SCORED_ROWS` rows, the last one filled up with its last row, so that a compiled one compiles once.
    """

    def __init__(self, data: LiveCommerceData, encoder: Labelled, config: EvaluationConfig) -> None:
        """Takes a data set whose events are split; raises DataError for a table or role that is not there."""
        declaration = encoder.declaration
        self.data, self.declaration, self.config = data, declaration, config
        self.events = data.events_of(declaration.events)
        self._encoder = encoder
        self._users = self.events.ids(declaration.user)
        self._num_users = len(data.nodes[self.events.nodes[declaration.user].node_type])
        self._requests: dict[str, Requests] = {}

    @property
    def labels(self) -> tuple[Label, ...]:
        """The tasks, the primary one first."""
        return tuple(self.declaration.labels)

    def validation_users(self, split: str = "validation") -> np.ndarray | None:
        """The fixed random subset to evaluate during training, whole users, [u] int32 ascending; None = all users."""
        wanted = self.config.validation_users
        if wanted == 0:
            return None
        is_there = np.zeros(self._num_users, bool)
        for rows in self.row_blocks(split, None):
            is_there[self._users[rows]] = True
        users = np.flatnonzero(is_there).astype(np.int32)
        if wanted >= len(users):
            return None
        generator = np.random.default_rng(self.config.candidates_seed)
        return np.sort(generator.choice(users, wanted, replace=False))

    def check(self, split: str, protocol: str) -> None:
        """Refuses a split in which nothing can be ranked, before any scoring.

        Raises:
            ConfigError: an unknown protocol or split.
            DataError: no impressions, or all of one class, with the remedy.
        """
        _check_names(split, protocol)
        has_positive = has_negative = False
        for rows in self.row_blocks(split, None):
            answers = self._encoder.answers(rows)[:, 0]
            has_positive |= bool((answers > 0.5).any())
            has_negative |= bool((answers <= 0.5).any())
            if has_positive and has_negative:
                return
        raise self._nothing(split)

    def evaluate(
        self, scorer: RowScorer, split: str, protocol: str = "impressions", users: np.ndarray | None = None
    ) -> EvaluationRow:
        """Scores and ranks all impressions of a split.

        Args:
            scorer: of rows of the table.
            split: "validation" or "test".
            protocol: "impressions".
            users: whose impressions, internal indices [u]; None = everybody's.

        Raises:
            ConfigError: an unknown protocol or split.
            DataError: nothing to rank, or a request of two users.
            ranking.NanScoreError: a NaN score, with the user's own id.
        """
        _check_names(split, protocol)
        started = time.perf_counter()
        metrics = self.new_metrics(split, scorer)
        for block in self.scored(scorer, split, users):
            block.add_to(metrics)
        return self.row(metrics.result(), split, time.perf_counter() - started, users is None)

    def row(self, result: EventResult, split: str, seconds: float, is_whole: bool = True) -> EvaluationRow:
        """Puts measured metrics into a line of a leaderboard; raises DataError where nothing could be ranked."""
        if "auc" not in result.metrics:
            raise self._nothing(split)
        one_class = result.counts["users of one class, left out of gauc"]
        grouped = "per user" if self.events.group is None else "per request and per user"
        of = "" if is_whole else f" of {len(result.user_ids)} {self.declaration.user}s"
        left_out = {text: count for text, count in self._counts_left_out(split).items() if count}
        return EvaluationRow(
            metrics=result.metrics,
            split=split,
            protocol=EVENT_PROTOCOLS[0],
            description=f"impressions: {result.counts['impressions']}{of} as shown, ranked {grouped}",
            num_users=len(result.user_ids) - one_class,
            num_left_out=one_class,
            seconds=seconds,
            user_ids=result.user_ids.astype(np.int32),
            per_user=result.per_user,
            weights=result.weights,
            counts={**result.counts, **left_out},
        )

    def unknown(self, split: str) -> dict[str, int]:
        """Counts the ids of a split's rows that are in no vocabulary, by field."""
        found: dict[str, int] = {}
        for rows in self.row_blocks(split, None):
            for field, count in self._encoder.unknown(rows).items():
                found[field] = found.get(field, 0) + count
        return found

    def baseline_scorers(self) -> dict[str, RowScorer]:
        """The config's baselines, which know the past of each row alone, and the oracle where there is one."""
        live = self._live
        scorers: dict[str, RowScorer] = {name: live.scorer(name) for name in self.config.baselines}
        oracle = live.oracle()
        return scorers if oracle is None else {**scorers, "oracle": oracle}

    @functools.cached_property
    def _live(self) -> LiveBaselines:
        declaration = self.declaration
        exact = [of for of in declaration.labels if of.kind == "binary" and not (of.at_least or of.measured)]
        return LiveBaselines(
            self.data,
            declaration.events,
            declaration.user,
            declaration.target,
            declaration.labels[0].name,
            self.is_watch,
            {of.name: of.column for of in exact},
            self.config.recent_days * declaration.day_length,
            self.config.rate_shrinkage,
        )

    @functools.cached_property
    def is_watch(self) -> np.ndarray:
        """Whether the primary label's answer is yes, of each row of the table, [n] bool; read once."""
        found = np.zeros(len(self.events), bool)
        for rows in blocks(len(found)):
            found[rows] = self._encoder.answers(np.arange(rows.start, rows.stop))[:, 0] > 0.5
        return found

    @property
    def owner(self) -> str:
        """Role of what users come back to: the target's owner, such as the streamer, or the target itself."""
        return owner_role(self.events, self.declaration.target)

    @property
    def num_owners(self) -> int:
        """Nodes of the owners' type."""
        return len(self.data.nodes[self.events.nodes[self.owner].node_type])

    @functools.cached_property
    def past(self) -> ImpressionPast:
        """What was known before each row of the table; sorted once."""
        return ImpressionPast(self.events, self.declaration.user, self.owner, self.is_watch, self.num_owners)

    def new_metrics(self, split: str, scorer: RowScorer) -> EventMetrics:
        """Metrics for a scorer's rows of a split."""
        count = 0 if self.events.group is None else self.requests(split).count
        output = getattr(scorer, "output", "logits")
        return EventMetrics(self.labels, tuple(self.config.cutoffs), self._num_users, count, output)

    def scored(self, scorer: RowScorer, split: str, users: np.ndarray | None = None) -> Iterator[ScoredBlock]:
        """Yields all rows of a split that somebody saw, scored; of some users, or None = all.

        Raises:
            DataError: a request of two users.
            ranking.NanScoreError: a NaN score, with the user's own id.
        """
        has_requests = self.events.group is not None
        for rows in self.row_blocks(split, users, SCORED_ROWS):
            padded = np.concatenate([rows, np.full(SCORED_ROWS - len(rows), rows[-1])])
            scores = {task: np.asarray(values)[: len(rows)] for task, values in scorer(padded).items()}
            self._check_scores(scores, rows)
            requests = self.requests(split).of(rows) if has_requests else None
            yield ScoredBlock(rows, scores, self._encoder.answers(rows), self._users[rows], requests)

    def requests(self, split: str) -> Requests:
        """Numbers of a split's requests, made once; the events have groups. Raises DataError as `scored`."""
        if split not in self._requests:
            self._requests[split] = self._number_requests(split)
        return self._requests[split]

    def _number_requests(self, split: str) -> Requests:
        group = self.events.group
        assert group is not None, "asked for where there are groups"
        low, high, size = np.iinfo(np.int64).max, np.iinfo(np.int64).min, 0
        for rows in self.row_blocks(split, None):
            of_rows = group[rows]
            low, high, size = min(low, int(of_rows.min())), max(high, int(of_rows.max())), size + len(rows)
        if high - low < 2 * size or not size:
            found = Requests(group, high - low + 1 if size else 0, low)
        else:
            ids = np.unique(np.concatenate([group[rows] for rows in self.row_blocks(split, None)]))
            found = Requests(group, len(ids), low, ids)
        user_of = np.full(found.count, -1, np.int32)
        for rows in self.row_blocks(split, None):
            numbers, users = found.of(rows), self._users[rows]
            other = (user_of[numbers] >= 0) & (user_of[numbers] != users)
            user_of[numbers] = users
            bad = np.flatnonzero(other | (user_of[numbers] != users))
            if len(bad):
                raise DataError(
                    f"events '{self.events.name}', row {rows[bad[0]]}: group {group[rows[bad[0]]]} has impressions of "
                    f"two {self.declaration.user}s; a group is what one saw together: give each its own"
                )
        return found

    def user_ids(self, rows: np.ndarray) -> np.ndarray:
        """The users' own ids of rows [b] that somebody saw, [b]."""
        return self.data.nodes[self.events.nodes[self.declaration.user].node_type].ids[self._users[rows]]

    def row_blocks(self, split: str, users: np.ndarray | None, size: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
        """Rows of a split that somebody (of some users) saw, [size] int64 and fewer in the last block."""
        of_split = live_event_rows(self.data, self.events, split_code(split), self.declaration.target)
        num_rows = of_split.stop - of_split.start if isinstance(of_split, slice) else len(of_split)
        wanted = None
        if users is not None:
            wanted = np.zeros(self._num_users + 1, bool)  # the last one is nobody's
            wanted[users] = True
        rest = np.zeros(0, np.int64)
        for block in blocks(num_rows):
            positions = np.arange(block.start, block.stop)
            rows = positions + of_split.start if isinstance(of_split, slice) else of_split[positions]
            of_rows = self._users[rows]
            rest = np.concatenate([rest, rows[of_rows >= 0 if wanted is None else wanted[of_rows]]])
            whole = len(rest) // size * size
            yield from rest[:whole].reshape(-1, size)
            rest = rest[whole:]
        if len(rest):
            yield rest

    def _counts_left_out(self, split: str) -> dict[str, int]:
        """How many impressions of a split nobody saw, and how many are of a target that was not available then."""
        code, target = split_code(split), self.declaration.target
        of_split = event_rows(self.data, self.events, code)
        live = live_event_rows(self.data, self.events, code, target)
        sizes = [of.stop - of.start if isinstance(of, slice) else len(of) for of in (of_split, live)]
        return {
            "impressions of nobody, left out": int((self._users[live] < 0).sum()),
            f"impressions while the {target} was not available, left out": sizes[0] - sizes[1],
        }

    def _check_scores(self, scores: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        for values in scores.values():
            bad = np.flatnonzero(np.isnan(values))
            if len(bad):
                row = rows[bad[:1]]
                raise ranking.NanScoreError(
                    int(self._users[row[0]]), f"{self.declaration.user} {self.user_ids(row)[0]}"
                )

    def _nothing(self, split: str) -> DataError:
        label = self.declaration.labels[0]
        return DataError(
            f"events '{self.events.name}', split '{split}': there are not both positives and negatives of "
            f"'{label.name}' to rank; give more data, or hold other events out (config.split)"
        )


def _check_names(split: str, protocol: str) -> None:
    require_choice("protocol", protocol, EVENT_PROTOCOLS)
    split_code(split)
