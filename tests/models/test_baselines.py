import numpy as np

from lsec_jax.models.item_knn import ItemKnnScorer
from lsec_jax.models.oracle import OracleScorer
from lsec_jax.models.popularity import PopularityScorer


def naive_item_knn(dense, num_neighbors):
    """Transcription of Deshpande & Karypis, Alg. 4.1 and 4.2, with dense matrices."""
    norms = np.sqrt(np.maximum(dense.sum(axis=0), 1))
    cosine = (dense.T @ dense) / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    kept = np.zeros_like(cosine)
    for item, row in enumerate(cosine):
        best = np.argsort(-row.astype(np.float32), kind="stable")[:num_neighbors]
        kept[item, best] = row[best]
    return dense @ kept


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
    nearest = ItemKnnScorer.fit(*edges, 3, 3, 1).score_all(np.array([0]))
    np.testing.assert_allclose(nearest, [[strong, strong, 0]], rtol=1e-6)


def test_item_knn_agrees_with_dense_matrices(monkeypatch):
    monkeypatch.setattr("lsec_jax.models.item_knn._BLOCK_ITEMS", 16)
    dense = (np.random.default_rng(0).random((60, 50)) < 0.15).astype(np.float64)
    dense[:, 7] = 0  # an item that nobody has
    # Columns of different lengths make equal cosines rare; those left differ in rounding, so keep all neighbours too.
    for num_neighbors in (50, 100):
        scorer = ItemKnnScorer.fit(*np.nonzero(dense), 60, 50, num_neighbors)
        np.testing.assert_allclose(
            scorer.score_all(np.arange(60)), naive_item_knn(dense, num_neighbors), rtol=1e-5, atol=1e-6
        )
    assert (np.diff(ItemKnnScorer.fit(*np.nonzero(dense), 60, 50, 5).similarity.indptr) <= 5).all()


def test_item_knn_pair_scores_are_the_entries_of_the_full_scores():
    dense = np.random.default_rng(1).random((20, 30)) < 0.2
    scorer = ItemKnnScorer.fit(*np.nonzero(dense), 20, 30, 5)
    users, targets = np.array([4, 0, 19]), np.array([[0, 29], [3, 3], [7, 1]])
    expected = np.take_along_axis(scorer.score_all(users), targets, axis=1)
    np.testing.assert_array_equal(scorer.score_pairs(users, targets), expected)


def test_the_oracle_asks_the_truth_for_its_window():
    class Truth:
        def probabilities(self, relation, source_ids, start, end):
            assert (relation, start, end) == ("buy", 2.0, 3.0)
            return (source_ids[:, None] * 10 + np.arange(4)[None, :]).astype(np.float32)

    scorer = OracleScorer(Truth(), "buy", 2.0, 3.0)
    assert scorer.score_all(np.array([1, 2])).tolist() == [[10, 11, 12, 13], [20, 21, 22, 23]]
    assert scorer.score_pairs(np.array([1, 2]), np.array([[3], [0]])).tolist() == [[13], [20]]
