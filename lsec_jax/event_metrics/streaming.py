"""Metrics of any number of scored impressions, exact and in bounded memory, from blocks of rows in any order."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from lsec_jax.event_metrics import ranked
from lsec_jax.event_metrics.sorted_keys import GROUP_SHIFT, MAX_GROUPS, ROWS_IN_MEMORY, SortedKeys, pack
from lsec_jax.event_metrics.user_parts import UserParts

OUTPUTS = ("logits", "probabilities", "scores")


@runtime_checkable
class Label(Protocol):
    """What a task is; the first one of a sequence is the primary task.

    Attributes:
        name: of the task, e.g. "watched".
        kind: "binary" or "regression".
        transform: of a regression's answers and predictions: "" or "log1p".
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def kind(self) -> str:
        """See the class."""
        ...

    @property
    def transform(self) -> str:
        """See the class."""
        ...


class NanScoreError(ValueError):
    """A score is NaN.

    Attributes:
        task: whose.
        position: of the first such row in its block.
    """

    def __init__(self, task: str, position: int) -> None:
        self.task, self.position = task, position
        super().__init__(f"the scores of task '{task}' contain NaN (row {position} of the block)")


@dataclasses.dataclass(frozen=True)
class EventResult:
    """Metrics of impressions; those that the rows do not define are not there.

    Attributes:
        metrics: by name (`metric_names`).
        counts: rows, and what was left out, in words.
        user_ids: users with any row, [u] int64, ascending.
        per_user: metrics that are means over users, requests or rows: the user's part, [u] float64; NaN where the user
            has none. Paired tests compare two models on the same rows: who has a part depends on the answers alone.
        weights: of the users' parts, so that a metric is the mean of its parts, [u] float64; 0 where there is none.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    user_ids: np.ndarray = dataclasses.field(repr=False)
    per_user: dict[str, np.ndarray] = dataclasses.field(repr=False)
    weights: dict[str, np.ndarray] = dataclasses.field(repr=False)


def metric_names(
    labels: Sequence[Label], cutoffs: Sequence[int], has_requests: bool = True, output: str = "logits"
) -> tuple[str, ...]:
    """Names of everything that `EventMetrics` gives where rows have both classes of every binary task.

    Args:
        labels: the tasks, the primary one first.
        cutoffs: K of the @K metrics.
        has_requests: whether it is known which rows were shown together.
        output: what the scores are, of OUTPUTS.
    """
    names = ["auc", "gauc"]
    if has_requests:
        names += ["gauc_request", "mrr", *(f"{name}@{k}" for k in cutoffs for name in ("hr", "precision", "ndcg"))]
    if output != "scores":
        names += ["logloss", "calibration_error", "calibration_ratio"]
    for label in labels[1:]:
        if label.kind == "binary":
            names.append(f"auc_{label.name}")
        elif output != "scores":
            names.append(f"rmse_{label.name}")
            names += [f"rmse_{label.transform}_{label.name}"] if label.transform else []
    return tuple(names)


def is_higher_better(name: str) -> bool:
    """Whether a metric is one to pick the best model by; a calibration ratio is best at 1, so it is none."""
    return not name.startswith(("logloss", "calibration_", "rmse_"))


class EventMetrics:
    """Collects scored rows; `result` measures them.

    Of the primary task:
    - `auc` of all rows, ties counting 1/2;
    - `gauc` and `gauc_request`: AUC of each user, and of each request, weighted by its rows. Groups of one class have
      no AUC: they are left out and counted;
    - `mrr` = 1 / rank of the first positive, `hr@K` = 1 where a positive is among the first K, `precision@K` = hits /
      min(K, rows shown), and `ndcg@K`: means over the requests with a positive. Requests without one cannot be ranked
      well or badly: they are left out and counted. Where requests have at most K rows, `hr@K` is 1 and `precision@K`
      the same for every ranking;
    - `logloss`, `calibration_error` and `calibration_ratio` (`ranked.Whole`), where scores are logits or probabilities;
      a label of probability 0 costs as much as one of 1e-38.
    Of each other task, over the rows that define it: `auc_TASK`; or `rmse_TASK` in the unit of the label, and with a
    transform also `rmse_TRANSFORM_TASK` of the transformed values, which a few long stays do not decide.

    All are exact, whatever the number of rows: scores are compared in float32, everything else is float64 or integer.
    Memory: for each binary task and two more 8 bytes of each row, at most of `rows_in_memory` (beyond, 8 bytes a row
    and task on disk, `SortedKeys`); while measuring about ten times this for one of them; 4 bytes for each request,
    and 100 for each user.
    """

    def __init__(
        self,
        labels: Sequence[Label],
        cutoffs: Sequence[int],
        num_users: int,
        num_requests: int = 0,
        output: str = "logits",
        rows_in_memory: int = ROWS_IN_MEMORY,
    ) -> None:
        """Takes what the rows to come have.

        Args:
            labels: the tasks, the primary one, which is binary, first.
            cutoffs: K of the @K metrics.
            num_users: users are 0 to num_users - 1.
            num_requests: requests are 0 to num_requests - 1; 0 = it is not known what was shown together, and there
                are no metrics of requests.
            output: what the scores of binary tasks are: "logits", "probabilities", or "scores" of any scale. Those of
                regressions are predictions of the (transformed) answer, which "scores" do not give.
            rows_in_memory: of each sorted column; more rows go to disk.

        Raises:
            ValueError: no binary primary task, a cutoff below 1, an unknown output, or too many groups.
        """
        if not labels or labels[0].kind != "binary":
            raise ValueError(f"the first of the labels is the primary task and has to be binary, got {list(labels)}")
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(f"cutoffs must be positive and at least one, got {tuple(cutoffs)}")
        if output not in OUTPUTS:
            raise ValueError(f"output = {output!r} is not known; choose one of: {', '.join(OUTPUTS)}")
        for name, number in (("users", num_users), ("requests", num_requests)):
            if number > MAX_GROUPS:
                raise ValueError(f"{number} {name}: at most {MAX_GROUPS} groups can be told apart; evaluate fewer rows")
        self._labels, self._cutoffs, self._output = tuple(labels), tuple(cutoffs), output
        self._num_users = num_users
        self._by_user, self._by_request = (SortedKeys(rows_in_memory) for _ in range(2))
        self._by_score = {label.name: SortedKeys(rows_in_memory) for label in labels if label.kind == "binary"}
        self._errors = {label.name: np.zeros(3) for label in labels if label.kind == "regression"}
        self._user_of_request = np.full(num_requests, -1, np.int32)
        self._losses, self._rows = np.zeros(num_users), np.zeros(num_users, np.int64)
        self._given: set[str] = set()
        self._num_undefined = 0

    def add(
        self,
        scores: Mapping[str, Float[np.ndarray, " _"]],
        answers: Float[np.ndarray, "b m"],
        users: Int[np.ndarray, " b"],
        requests: Int[np.ndarray, " b"] | None = None,
    ) -> None:
        """Adds b rows.

        Args:
            scores: of the primary task, and of others (the same ones in every call), [b] each.
            answers: of all m tasks, NaN = not defined; binary ones are positive above 1/2, regressions transformed.
            users: whose rows these are.
            requests: of which request, where there are any.

        Raises:
            NanScoreError: a score is NaN.
            ValueError: a probability, user or request out of range, a request of two users, or scores of other tasks
                than before.
        """
        self._check(scores, users, requests)
        for column, label in enumerate(self._labels):
            if label.name not in scores:
                continue
            defined = np.flatnonzero(~np.isnan(answers[:, column]))
            values, truth = scores[label.name][defined], answers[defined, column]
            if label.kind == "regression":
                self._add_errors(label, values, truth)
                continue
            is_positive = truth > 0.5
            nobody = np.zeros(len(defined), np.int64)
            self._by_score[label.name].add(pack(nobody, values, is_positive))
            if column == 0:
                self._num_undefined += len(answers) - len(defined)
                self._add_primary(values, is_positive, users[defined], None if requests is None else requests[defined])

    def result(self) -> EventResult:
        """Measures all rows that were added; more may be added afterwards."""
        primary = self._labels[0].name
        parts = UserParts(self._num_users)
        found = ranked.whole(self._by_score[primary].blocks(), len(self._by_score[primary]), self._probability())
        counts = {"impressions": found.num_rows, "positives": found.num_positives}
        counts["impressions without a label, left out"] = self._num_undefined
        counts["users of one class, left out of gauc"] = self._measure_users(parts)
        if len(self._user_of_request):
            counts |= self._measure_requests(parts)
        metrics = {"auc": found.auc, **parts.means()}
        if self._output != "scores":
            parts.add("logloss", np.arange(self._num_users), self._losses, self._rows)
            metrics["logloss"] = parts.mean("logloss")
            metrics["calibration_error"] = found.calibration_error
            metrics["calibration_ratio"] = found.calibration_ratio
        metrics |= self._others()
        user_ids = np.flatnonzero(self._rows)
        per_user, weights = parts.of(user_ids)
        names = metric_names(self._labels, self._cutoffs, len(self._user_of_request) > 0, self._output)
        return EventResult(
            metrics={name: float(metrics[name]) for name in names if not np.isnan(metrics.get(name, np.nan))},
            counts=counts,
            user_ids=user_ids,
            per_user=per_user,
            weights=weights,
        )

    def _check(self, scores: Mapping[str, np.ndarray], users: np.ndarray, requests: np.ndarray | None) -> None:
        names = {label.name for label in self._labels}
        if self._labels[0].name not in scores or not scores.keys() <= names:
            raise ValueError(
                f"scores of {sorted(scores)}; give those of '{self._labels[0].name}', and of others of {sorted(names)}"
            )
        if self._given and self._given != scores.keys():
            raise ValueError(f"scores of {sorted(scores)}, but before of {sorted(self._given)}; give the same tasks")
        self._given = set(scores)
        for task, values in scores.items():
            bad = np.flatnonzero(np.isnan(values))
            if len(bad):
                raise NanScoreError(task, int(bad[0]))
            if self._output == "probabilities" and task in self._by_score:
                bad = np.flatnonzero((values < 0) | (values > 1))
                if len(bad):
                    raise ValueError(f"task '{task}': {values[bad[0]]} is no probability; say what the scores are")
        _check_range("user", users, self._num_users)
        if (requests is None) != (len(self._user_of_request) == 0):
            raise ValueError("give the rows' requests if and only if num_requests is above 0")
        if requests is not None:
            _check_range("request", requests, len(self._user_of_request))

    def _add_primary(
        self, values: np.ndarray, is_positive: np.ndarray, users: np.ndarray, requests: np.ndarray | None
    ) -> None:
        np.add.at(self._rows, users, 1)  # not bincount, which would go over all users for each block
        self._by_user.add(pack(users, values, is_positive))
        if self._output != "scores":
            np.add.at(self._losses, users, self._log_losses(values, is_positive))
        if requests is None:
            return
        self._by_request.add(pack(requests, values, is_positive))
        known = self._user_of_request[requests]
        self._user_of_request[requests] = users
        two = np.flatnonzero(((known >= 0) & (known != users)) | (self._user_of_request[requests] != users))
        if len(two):
            raise ValueError(f"request {requests[two[0]]} has rows of two users; a request is one user's")

    def _log_losses(self, values: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        if self._output == "logits":
            return np.logaddexp(0, np.where(is_positive, -values, values))
        of_label = np.where(is_positive, values, 1 - values)
        return -np.log(np.maximum(of_label, np.finfo(np.float32).tiny))

    def _probability(self) -> Callable[[np.ndarray], np.ndarray] | None:
        if self._output == "scores":
            return None
        return _sigmoid if self._output == "logits" else lambda values: values.astype(np.float64)

    def _add_errors(self, label: Label, values: np.ndarray, truth: np.ndarray) -> None:
        values, truth = values.astype(np.float64), truth.astype(np.float64)
        transformed = np.square(values - truth).sum()
        in_units = transformed
        if label.transform == "log1p":
            with np.errstate(over="ignore"):  # a wild prediction has an infinite error
                in_units = np.square(np.expm1(values) - np.expm1(truth)).sum()
        self._errors[label.name] += (len(truth), in_units, transformed)

    def _measure_users(self, parts: UserParts) -> int:
        left_out = 0
        for keys in self._by_user.blocks(GROUP_SHIFT):
            groups = ranked.group(keys)
            left_out += parts.add_groups("gauc", groups.ids, groups.auc(), groups.sizes)
        return left_out

    def _measure_requests(self, parts: UserParts) -> dict[str, int]:
        requests = one_class = without = 0
        for keys in self._by_request.blocks(GROUP_SHIFT):
            groups = ranked.group(keys)
            users, is_ranked = self._user_of_request[groups.ids], groups.num_positives > 0
            requests += len(users)
            without += int((~is_ranked).sum())
            one_class += parts.add_groups("gauc_request", users, groups.auc(), groups.sizes)
            first = groups.first_ranks()
            of_ranks = {"mrr": 1 / first}
            for k in self._cutoffs:
                of_ranks |= {f"hr@{k}": (first <= k).astype(np.float64)}
                of_ranks |= {f"precision@{k}": groups.precision(k), f"ndcg@{k}": groups.ndcg(k)}
            for name, values in of_ranks.items():
                parts.add_groups(name, users, np.where(is_ranked, values, np.nan), np.ones(len(users)))
        return {
            "requests": requests,
            "requests without a positive, left out of metrics of ranks": without,
            "requests of one class, left out of gauc_request": one_class,
        }

    def _others(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for label in self._labels[1:]:
            if label.kind == "binary":
                keys = self._by_score[label.name]
                found[f"auc_{label.name}"] = ranked.whole(keys.blocks(), len(keys)).auc
            elif self._errors[label.name][0]:
                count, in_units, transformed = self._errors[label.name]
                found[f"rmse_{label.name}"] = np.sqrt(in_units / count)
                found[f"rmse_{label.transform}_{label.name}"] = np.sqrt(transformed / count)
        return found


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    below = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, below) / (1 + below)


def _check_range(what: str, ids: np.ndarray, count: int) -> None:
    bad = np.flatnonzero((ids < 0) | (ids >= count))
    if len(bad):
        raise ValueError(f"row {bad[0]} of the block: {what} {ids[bad[0]]} outside 0..{count - 1}")
