import numpy as np
import pytest

from lsec_jax.models.item_knn import ItemKnnScorer
from lsec_jax.models.oracle import OracleScorer
from lsec_jax.models.popularity import PopularityScorer


def naive_item_knn(dense, num_neighbors, shrinkage):
    """Loops over users, items and their kept neighbours."""
    count = dense.sum(axis=0)
    num_items = dense.shape[1]
    scores = np.zeros(dense.shape)
    for item in range(num_items):
        similarity = np.zeros(num_items)
        for other in range(num_items):
            denominator = np.sqrt(count[item] * count[other]) + shrinkage
            if other != item and denominator > 0:
                similarity[other] = dense[:, item] @ dense[:, other] / denominator
        for other in np.argsort(-similarity.astype(np.float32), kind="stable")[:num_neighbors]:
            scores[:, item] += dense[:, other] * similarity[other]
    return scores


def test_popularity_counts_training_edges():
    scorer = PopularityScorer.fit(np.array([1, 1, 3]), 5)
    assert scorer.score_all(np.array([0, 7])).tolist() == [[0, 2, 0, 1, 0]] * 2
    assert scorer.score_pairs(np.array([0, 1]), np.array([[1, 2], [3, 1]])).tolist() == [[2, 0], [1, 2]]


def test_item_knn_of_a_hand_computed_example():
    # Users: {0, 1}, {0, 1}, {1, 2}. cos(0,1) = 2/sqrt(6), cos(1,2) = 1/sqrt(3), cos(0,2) = 0.
    edges = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 1, 2])
    every = ItemKnnScorer.fit(*edges, 3, 3, 2).score_all(np.array([0, 2]))
    strong, weak = 2 / np.sqrt(6), 1 / np.sqrt(3)
    np.testing.assert_allclose(every, [[strong, strong, weak], [strong, weak, weak]], rtol=1e-6)
    # The one neighbour of item 1 is item 0, which the user of {1, 2} does not have.
    nearest = ItemKnnScorer.fit(*edges, 3, 3, 1).score_all(np.array([0, 2]))
    np.testing.assert_allclose(nearest, [[strong, strong, weak], [strong, 0, weak]], rtol=1e-6)
    shrunk = ItemKnnScorer.fit(*edges, 3, 3, 2, shrinkage=1.0).score_all(np.array([2]))
    np.testing.assert_allclose(shrunk, [[2 / (np.sqrt(6) + 1), 1 / (np.sqrt(3) + 1), 1 / (np.sqrt(3) + 1)]], rtol=1e-6)


@pytest.mark.parametrize(("num_neighbors", "shrinkage"), [(1, 0.0), (5, 0.0), (50, 0.0), (100, 3.0), (5, 3.0)])
def test_item_knn_agrees_with_loops(monkeypatch, num_neighbors, shrinkage):
    monkeypatch.setattr("lsec_jax.models.item_knn._BLOCK_ITEMS", 16)
    dense = (np.random.default_rng(0).random((60, 50)) < 0.15).astype(np.float64)
    dense[:, 7] = 0  # an item that nobody has
    scorer = ItemKnnScorer.fit(*np.nonzero(dense), 60, 50, num_neighbors, shrinkage)
    expected = naive_item_knn(dense, num_neighbors, shrinkage)
    np.testing.assert_allclose(scorer.score_all(np.arange(60)), expected, rtol=1e-5, atol=1e-6)
    assert (np.diff(scorer.neighbors.indptr) <= num_neighbors).all()


def test_item_knn_pair_scores_are_the_entries_of_the_full_scores():
    dense = np.random.default_rng(1).random((20, 30)) < 0.2
    scorer = ItemKnnScorer.fit(*np.nonzero(dense), 20, 30, 5)
    users, targets = np.array([4, 0, 19]), np.array([[0, 29], [3, 3], [7, 1]])
    expected = np.take_along_axis(scorer.score_all(users), targets, axis=1)
    np.testing.assert_allclose(scorer.score_pairs(users, targets), expected, rtol=1e-6)


def test_the_oracle_asks_the_truth_for_its_window():
    class Truth:
        def probabilities(self, relation, source_ids, start, end):
            assert (relation, start, end) == ("buy", 2.0, 3.0)
            return (source_ids[:, None] * 10 + np.arange(4)[None, :]).astype(np.float32)

    scorer = OracleScorer(Truth(), "buy", 2.0, 3.0)
    assert scorer.score_all(np.array([1, 2])).tolist() == [[10, 11, 12, 13], [20, 21, 22, 23]]
    assert scorer.score_pairs(np.array([1, 2]), np.array([[3], [0]])).tolist() == [[13], [20]]
