"""Evaluation of any scorer under both protocols, on lists and masks that are built once per data set."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lsec_jax import config as config_lib
from lsec_jax import ranking, schema
from lsec_jax.data import candidates as candidates_lib
from lsec_jax.data import csr
from lsec_jax.models.item_knn import ItemKnnScorer
from lsec_jax.models.oracle import OracleScorer
from lsec_jax.models.popularity import PopularityScorer
from lsec_jax.scorers import Scorer

_Ranked = tuple[np.ndarray, dict[str, np.ndarray], str]  # user ids, metrics per user, the protocol in words


@dataclasses.dataclass(frozen=True)
class EvaluationRow:
    """One line of a leaderboard.

    Attributes:
        metrics: means over the evaluated users; of impressions as `event_metrics` says.
        split, protocol: as asked for.
        description: the protocol in words, with N and the origin of the candidates, or what is masked.
        num_users: users in the means, the same for every metric; of impressions, those that have an AUC.
        num_left_out: users asked for (all nodes, or `users`) without a positive, or without a negative candidate; of
            impressions, those who have some of one class only.
        seconds: wall time of scoring and ranking, compilation included.
        user_ids: internal indices of the users in the means, [u] int32, ascending; of impressions, all who have any.
        per_user: each metric, [u] floats aligned with `user_ids`: paired tests compare two rows of one evaluator. Of
            impressions, each metric that is a mean over users, requests or rows; NaN where the user has no part in it.
        weights: by metric, the users' weights in its mean, [u] float64; metrics that are not here weigh users equally.
        counts: of impressions, requests and what was left out, in words.
    """

    metrics: dict[str, float]
    split: str
    protocol: str
    description: str
    num_users: int
    num_left_out: int
    seconds: float
    user_ids: np.ndarray = dataclasses.field(repr=False)
    per_user: dict[str, np.ndarray] = dataclasses.field(repr=False)
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


class Evaluator:
    """Evaluates scorers on one relation. Lists and masks are made at first use and kept.

    Under `full_ranking` the split `validation` ranks all targets that the user has not in training, and `test` all that
    the user has neither in training nor in validation. Without validation edges the latter is LightGCN's protocol.
    Under `candidates` a published list of the data set wins over a generated one. Where targets have an availability
    and the split is chronological, those that are not available at any time of the evaluated period are no negatives,
    neither under `full_ranking` nor in generated lists; positives count whatever their window.
    """

    def __init__(self, data: schema.LiveCommerceData, relation: str, config: config_lib.EvaluationConfig) -> None:
        """Takes a data set with splits assigned.

        Raises:
            DataError: the relation is missing or not split.
        """
        self._data, self._config = data, config
        self._relation = data.relation(relation)
        if self._relation.split is None:
            raise schema.DataError(f"relation '{relation}' has no splits yet; run splits.assign_splits first")
        self._num_sources = len(data.nodes[self._relation.source])
        self._made: dict[tuple[str, int], Any] = {}

    def validation_users(self, split: str = "validation") -> np.ndarray | None:
        """The fixed random subset to evaluate during training, [u] int32 ascending; None = all users."""
        code = split_code(split)
        published = self._data.candidates.get((self._relation.name, code))
        sources = self._relation.edges(code)[0] if published is None else published.source_ids
        users = np.unique(sources).astype(np.int32)
        wanted = self._config.validation_users
        if wanted == 0 or wanted >= len(users):
            return None
        generator = np.random.default_rng(self._config.candidates_seed)
        return np.sort(generator.choice(users, wanted, replace=False))

    def evaluate(
        self, scorer: ranking.Rankable, split: str, protocol: str, users: np.ndarray | None = None
    ) -> EvaluationRow:
        """Scores, ranks and averages.

        Args:
            scorer: of the relation's source and target nodes.
            split: "validation" or "test".
            protocol: "candidates" or "full_ranking".
            users: internal indices to evaluate, [u]; None = all.

        Raises:
            ConfigError: an unknown protocol or split.
            DataError: nobody to evaluate.
            ranking.NanScoreError: a NaN score, with the user's own id.
        """
        code = split_code(split)
        config_lib.require_choice("protocol", protocol, config_lib.PROTOCOLS)
        wanted = np.arange(self._num_sources) if users is None else np.unique(users)
        assert len(wanted) == 0 or 0 <= wanted[0] <= wanted[-1] < self._num_sources, "users are internal indices"
        started = time.perf_counter()
        try:
            rank = self._rank_candidates if protocol == "candidates" else self._rank_all
            user_ids, per_user, description = rank(scorer, code, wanted)
        except ranking.NanScoreError as error:
            external = self._data.nodes[self._relation.source].ids[error.source_id]
            raise ranking.NanScoreError(error.source_id, f"{self._relation.source} {external}") from error
        seconds = time.perf_counter() - started
        defined = ~np.isnan(np.stack(list(per_user.values()))).any(axis=0)
        if not defined.any():
            raise self._nobody(split)
        per_user = {name: values[defined] for name, values in per_user.items()}
        return EvaluationRow(
            metrics={name: float(values.mean(dtype=np.float64)) for name, values in per_user.items()},
            split=split,
            protocol=protocol,
            description=description,
            num_users=int(defined.sum()),
            num_left_out=len(wanted) - int(defined.sum()),
            seconds=seconds,
            user_ids=user_ids[defined],
            per_user=per_user,
        )

    def check(self, split: str, protocol: str) -> None:
        """Refuses a split and protocol under which nobody can be ranked, before any scoring.

        Raises:
            ConfigError: other settings than those of candidate lists that are kept with prepared data.
            DataError: with the remedy.
        """
        code = split_code(split)
        if protocol == "candidates":
            labels = self._candidates(code).labels
            rankable = labels.any(axis=1) & ~labels.all(axis=1)
        else:
            self._offered(code)  # refuses a period in which nothing is available
            rankable = np.diff(self._pairs(code)[0]) > 0
        if not rankable.any():
            raise schema.DataError(
                f"relation '{self._relation.name}', split '{split}', protocol '{protocol}': no "
                f"{self._relation.source} has both a positive and something to rank it against; give more data, hold "
                "other edges out (config.split), or leave the protocol out of config.evaluation.protocols"
            )

    def candidate_lists(self, split: str) -> schema.Candidates:
        """The lists that `candidates` ranks: published ones if the data set has them, else generated ones."""
        return self._candidates(split_code(split))

    def _rank_candidates(self, scorer: ranking.Rankable, code: int, wanted: np.ndarray) -> _Ranked:
        lists = self._candidates(code)
        rows = np.flatnonzero(np.isin(lists.source_ids, wanted))
        rows = rows[np.argsort(lists.source_ids[rows], kind="stable")]
        if len(rows) == 0:
            raise self._nobody(schema.split_name(code))
        source_ids, target_ids, labels = lists.source_ids, lists.target_ids, lists.labels
        if not np.array_equal(rows, np.arange(len(source_ids))):  # big arrays: only a selection is copied
            source_ids, target_ids, labels = source_ids[rows], target_ids[rows], labels[rows]
        per_user = ranking.rank_candidates(
            scorer, source_ids, target_ids, labels, tuple(self._config.cutoffs), self._config.block_size
        )
        description = f"candidates: {lists.target_ids.shape[1]} per {self._relation.source}, {lists.origin}"
        return source_ids, per_user, description

    def _rank_all(self, scorer: ranking.Rankable, code: int, wanted: np.ndarray) -> _Ranked:
        positives = self._pairs(code)
        user_ids = wanted[np.diff(positives[0])[wanted] > 0].astype(np.int32)
        if len(user_ids) == 0:
            raise self._nobody(schema.split_name(code))
        cutoffs = tuple(self._config.cutoffs)
        offered = self._offered(code)
        per_user = ranking.full_ranking(
            scorer, user_ids, self._seen(code), positives, cutoffs, self._config.block_size, offered
        )
        masked = "training" if code == schema.VALIDATION else "training and validation"
        num_targets = len(self._data.nodes[self._relation.target])
        description = f"full ranking: all {num_targets} of {self._relation.target}, those of {masked} left out"
        if offered is not None:
            description += f", and {int((~offered).sum())} that are not available in the period"
        return user_ids, per_user, description

    def _offered(self, code: int) -> np.ndarray | None:
        return self._data.offered(self._relation.target, code)

    def _candidates(self, code: int) -> schema.Candidates:
        published = self._data.candidates.get((self._relation.name, code))
        if published is not None:
            candidates_lib.check_frozen(self._data, published, self._config)
            return published
        config, name = self._config, self._relation.name
        return self._once(
            ("candidates", code),
            lambda: candidates_lib.generate_candidates(
                self._data, name, code, config.num_candidates, config.candidates_seed
            ),
        )

    def _pairs(self, code: int) -> ranking.Csr:
        edges = self._relation.edges
        return self._once(("pairs", code), lambda: csr.csr_from_pairs(*edges(code), self._num_sources))

    def _seen(self, code: int) -> ranking.Csr:
        if code == schema.VALIDATION:
            return self._pairs(schema.TRAIN)
        relation = self._relation
        before = relation.split != schema.TEST
        return self._once(
            ("seen", code),
            lambda: csr.csr_from_pairs(relation.source_ids[before], relation.target_ids[before], self._num_sources),
        )

    def _once(self, key: tuple[str, int], make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _nobody(self, split: str) -> schema.DataError:
        return schema.DataError(
            f"relation '{self._relation.name}', split '{split}': none of the users asked for has both a positive and "
            "something to rank it against; evaluate another split or more users"
        )


def baseline_scorers(
    data: schema.LiveCommerceData, relation: str, config: config_lib.EvaluationConfig
) -> dict[str, Scorer]:
    """Fits the baselines named in the config on the training edges of a relation."""
    edges = data.relation(relation)
    num_sources, num_targets = len(data.nodes[edges.source]), len(data.nodes[edges.target])
    source_ids, target_ids = edges.edges(schema.TRAIN)
    scorers: dict[str, Scorer] = {}
    for name in config.baselines:
        if name == "popularity":
            scorers[name] = PopularityScorer.fit(target_ids, num_targets)
        else:
            scorers[name] = ItemKnnScorer.fit(
                source_ids, target_ids, num_sources, num_targets, config.knn_neighbors, config.knn_shrinkage
            )
    return scorers


def oracle_scorer(data: schema.LiveCommerceData, relation: str, split: str) -> OracleScorer | None:
    """The oracle over a split's own time window, or None where truth, cut times or the end of time are not known."""
    code = split_code(split)
    window = data.split_window(code)
    if data.truth is None or window is None or relation not in data.truth.relations:
        return None
    return OracleScorer(data.truth, relation, *window)


def split_code(split: str) -> int:
    """The code of a split that can be evaluated; raises ConfigError for others."""
    if split not in ("validation", "test"):
        raise config_lib.ConfigError(f"cannot evaluate split '{split}'; choose from: validation, test")
    return schema.SPLITS[split]
