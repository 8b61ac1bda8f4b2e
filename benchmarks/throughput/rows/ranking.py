"""Rows `auc`, `evaluation/candidates` and `ranking/SCORER`: what ranks every user.

Scores and vectors are random: their values change neither how long it takes nor what is compared.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.throughput.peers.protocol import Work
from benchmarks.throughput.rows.row import Row
from lsec_jax import ranking, scorers
from lsec_jax.config import EvaluationConfig
from lsec_jax.data.csr import csr_from_pairs
from lsec_jax.data.sources import prepared
from lsec_jax.schema import TRAIN, LiveCommerceData, Relation
from lsec_jax.training.evaluation import Evaluator

NUM_CANDIDATES, NUM_BEST, HIDDEN, WIDTH = 100, 50, 128, 200
CUTOFFS = (10, 50)
_CONFIG = EvaluationConfig(num_candidates=NUM_CANDIDATES, cutoffs=CUTOFFS)


@dataclasses.dataclass(frozen=True)
class _GivenScores:
    """Looks scores up: `scores` [u, k] of all users and their candidates."""

    scores: np.ndarray

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
        return self.scores[source_ids]

    def score_all(self, source_ids: np.ndarray) -> np.ndarray:
        raise NotImplementedError("only candidates have scores")


def make_auc(folder: Path, quick: bool) -> Work:
    """One repetition gives AUC, MRR, NDCG and recall of every user's 100 candidates from given scores."""
    _, _, num_users, num_items = _opened(folder)
    rng = np.random.default_rng(0)
    scores = rng.random((num_users, NUM_CANDIDATES), np.float32)
    targets = rng.integers(0, num_items, scores.shape, np.int32)
    labels = np.zeros(scores.shape, bool)
    labels[:, 0] = True  # one positive a user
    users = np.arange(num_users, dtype=np.int32)

    def one() -> None:
        result = ranking.rank_candidates(_GivenScores(scores), users, targets, labels, CUTOFFS, _CONFIG.block_size)
        assert result["auc"].shape == users.shape

    notes = f"{num_users} users x {NUM_CANDIDATES} candidates; also MRR, NDCG and recall; bytes: scores and labels"
    return Work(run=one, examples=num_users, bytes=scores.nbytes + labels.nbytes, notes=notes)


def make_evaluation(folder: Path, quick: bool) -> Work:
    """One repetition scores 100 candidates of every test user with the MLP, and ranks them."""
    data, of, num_users, num_items = _opened(folder)
    evaluator = Evaluator(data, of.name, _CONFIG)
    scorer = _mlp(num_users, num_items)
    ranked = evaluator.evaluate(scorer, "test", "candidates").num_users
    notes = f"{ranked} test users x {NUM_CANDIDATES} candidates, MLP of {HIDDEN}"
    return Work(run=lambda: evaluator.evaluate(scorer, "test", "candidates"), examples=ranked, notes=notes)


def make_ranking(folder: Path, quick: bool, scorer: Callable[[int, int], scorers.Scorer]) -> Work:
    """One repetition ranks all items for all users, without those of their training, and keeps the best 50."""
    _, of, num_users, num_items = _opened(folder)
    seen = csr_from_pairs(*of.edges(TRAIN), num_users)
    users, scores = np.arange(num_users, dtype=np.int32), scorer(num_users, num_items)
    best = min(NUM_BEST, num_items)
    notes = f"{num_users} users x {num_items} items, {best} best, blocks of {_CONFIG.block_size} users"
    return Work(
        run=lambda: ranking.top_k(scores, users, seen, best, _CONFIG.block_size), examples=num_users, notes=notes
    )


def _opened(folder: Path) -> tuple[LiveCommerceData, Relation, int, int]:
    data = prepared.Config(str(folder)).load()
    of = data.relation("buy")
    return data, of, len(data.nodes[of.source]), len(data.nodes[of.target])


def _vectors(count: int, width: int, seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (count, width))


def _mlp(num_users: int, num_items: int) -> scorers.Scorer:
    halves = _vectors(num_users, HIDDEN, 0), _vectors(num_items, HIDDEN, 1)
    return scorers.MlpScorer(*halves, _vectors(1, HIDDEN, 2)[0], 0.0)


def _dot(num_users: int, num_items: int) -> scorers.Scorer:
    return scorers.DotScorer(_vectors(num_users, WIDTH, 0), _vectors(num_items, WIDTH, 1))


ROWS = {
    "auc": Row(make_auc, peers=("rechub",), is_quick=True),
    "evaluation/candidates": Row(make_evaluation),
    "ranking/mlp": Row(functools.partial(make_ranking, scorer=_mlp), peers=("rechub", "pytorch_csr")),
    "ranking/dot": Row(functools.partial(make_ranking, scorer=_dot), peers=("recbole", "pytorch_csr"), is_quick=True),
}
