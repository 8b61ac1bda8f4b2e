import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from lsec_jax import metrics

CUTOFFS = (1, 3, 10)
candidate_metrics = jax.jit(metrics.candidate_metrics, static_argnums=2)
full_ranking_metrics = jax.jit(metrics.full_ranking_metrics, static_argnums=3)


def slow_candidate_metrics(scores, labels, cutoffs):
    """Transcription of the definitions, one user at a time."""
    positives, negatives = scores[labels], scores[~labels]
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    ranks = np.array([1 + i + np.sum(negatives >= p) for i, p in enumerate(sorted(positives, reverse=True))])
    result = {"auc": np.mean(wins), "mrr": np.mean(1 / ranks)}
    for k in cutoffs:
        ideal = sum(1 / np.log2(r + 1) for r in range(1, min(k, len(ranks)) + 1))
        result[f"ndcg@{k}"] = np.sum(1 / np.log2(ranks[ranks <= k] + 1)) / ideal
        result[f"recall@{k}"] = np.sum(ranks <= k) / len(ranks)
    return result


def slow_full_metrics(negatives, positives, cutoffs):
    ranks = np.array([1 + i + np.sum(negatives >= p) for i, p in enumerate(sorted(positives, reverse=True))])
    result = {}
    for k in cutoffs:
        hits = ranks[ranks <= k]
        ideal = sum(1 / np.log2(r + 1) for r in range(1, min(k, len(ranks)) + 1))
        result[f"recall@{k}"] = len(hits) / len(ranks)
        result[f"ndcg@{k}"] = np.sum(1 / np.log2(hits + 1)) / ideal
        result[f"hit_rate@{k}"] = float(len(hits) > 0)
        result[f"mrr@{k}"] = 1 / hits[0] if len(hits) else 0.0
        result[f"map@{k}"] = sum((j + 1) / r for j, r in enumerate(hits)) / min(k, len(ranks))
    return result


def run_full(negatives, positives, mask, cutoffs=CUTOFFS):
    top = np.sort(np.asarray(negatives, np.float32), axis=1)[:, ::-1][:, : max(cutoffs)]
    top = np.pad(top, ((0, 0), (0, max(cutoffs) - top.shape[1])), constant_values=-np.inf)
    return full_ranking_metrics(jnp.asarray(top), jnp.asarray(positives), jnp.asarray(mask), cutoffs)


def test_candidate_metrics_of_a_hand_computed_list():
    # Order by score: + (.9), - (.8), + (.7), - (.1); ranks of the positives 1 and 3.
    got = candidate_metrics(jnp.array([[0.7, 0.1, 0.9, 0.8]]), jnp.array([[True, False, True, False]]), (1, 2, 3))
    ideal = 1 + 1 / np.log2(3)
    expected = {
        "auc": 3 / 4,
        "mrr": (1 + 1 / 3) / 2,
        "ndcg@1": 1.0,
        "recall@1": 1 / 2,
        "ndcg@2": 1 / ideal,
        "recall@2": 1 / 2,
        "ndcg@3": (1 + 1 / 2) / ideal,
        "recall@3": 1.0,
    }
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], [value], rtol=1e-6, err_msg=name)


def test_full_ranking_metrics_of_a_hand_computed_user():
    # Negatives .8 and .5 around positives .9, .6, .5 (a tie, which ranks below): ranks 1, 3, 5.
    got = run_full([[0.8, 0.5, 0.2, 0.1]], [[0.5, 0.9, 0.6]], [[True, True, True]], (2, 3, 5))
    expected = {
        "recall@2": 1 / 3,
        "recall@5": 1.0,
        "hit_rate@2": 1.0,
        "mrr@5": 1.0,
        "ndcg@2": 1 / (1 + 1 / np.log2(3)),
        "map@2": 1 / 2,
        "map@3": (1 + 2 / 3) / 3,
        "map@5": (1 + 2 / 3 + 3 / 5) / 3,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], [value], rtol=1e-6, err_msg=name)


def test_candidate_metrics_agree_with_scikit_learn_on_tie_free_scores():
    generator = np.random.default_rng(0)
    scores = generator.permuted(np.tile(np.linspace(-1, 1, 200, dtype=np.float32), (20, 1)), axis=1)
    labels = generator.random((20, 200)) < 0.1
    got = candidate_metrics(jnp.asarray(scores), jnp.asarray(labels), CUTOFFS)
    for row in range(20):
        auc = sklearn.metrics.roc_auc_score(labels[row], scores[row])
        np.testing.assert_allclose(got["auc"][row], auc, atol=1e-6)
        for k in CUTOFFS:
            ndcg = sklearn.metrics.ndcg_score(labels[None, row], scores[None, row], k=k)
            np.testing.assert_allclose(got[f"ndcg@{k}"][row], ndcg, atol=1e-6)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_candidate_metrics_agree_with_their_definitions_under_ties(levels):
    generator = np.random.default_rng(levels)
    scores = generator.integers(0, levels, (30, 40)).astype(np.float32)
    labels = generator.random((30, 40)) < 0.3
    got = candidate_metrics(jnp.asarray(scores), jnp.asarray(labels), CUTOFFS)
    for row in range(30):
        for name, value in slow_candidate_metrics(scores[row], labels[row], CUTOFFS).items():
            np.testing.assert_allclose(got[name][row], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_full_ranking_metrics_agree_with_their_definitions_under_ties(levels):
    generator = np.random.default_rng(levels)
    negatives = generator.integers(0, levels, (30, 50)).astype(np.float32)
    positives = generator.integers(0, levels, (30, 15)).astype(np.float32)
    mask = generator.random((30, 15)) < 0.6
    mask[:, 0] = True
    got = run_full(negatives, positives, mask)
    for row in range(30):
        for name, value in slow_full_metrics(negatives[row], positives[row][mask[row]], CUTOFFS).items():
            np.testing.assert_allclose(got[name][row], value, rtol=1e-5, err_msg=name)


def test_constant_scores_find_nothing_and_have_an_auc_of_exactly_one_half():
    labels = np.random.default_rng(0).random((50, 999)) < 0.05
    got = candidate_metrics(jnp.zeros((50, 999)), jnp.asarray(labels), CUTOFFS)
    assert (got["auc"] == 0.5).all()
    for k in CUTOFFS:
        assert (got[f"recall@{k}"] == 0).all()
        assert (got[f"ndcg@{k}"] == 0).all()
    full = run_full(np.zeros((4, 100), np.float32), np.zeros((4, 3), np.float32), np.ones((4, 3), bool))
    assert all((values == 0).all() for values in full.values())


def test_the_order_of_the_candidates_does_not_matter():
    generator = np.random.default_rng(3)
    scores = generator.integers(0, 4, (10, 30)).astype(np.float32)
    labels = generator.random((10, 30)) < 0.3
    order = generator.permutation(30)
    one = candidate_metrics(jnp.asarray(scores), jnp.asarray(labels), CUTOFFS)
    two = candidate_metrics(jnp.asarray(scores[:, order]), jnp.asarray(labels[:, order]), CUTOFFS)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_nan_scores_rank_last():
    labels = jnp.array([[True, False, False]])
    nan = candidate_metrics(jnp.array([[jnp.nan, 0.0, -5.0]]), labels, (2,))
    assert nan["auc"][0] == 0
    assert nan["recall@2"][0] == 0
    full = run_full([[0.0, -5.0]], [[np.nan]], [[True]], (2,))
    assert full["recall@2"][0] == 0


def test_undefined_metrics_are_nan():
    scores = jnp.ones((2, 3))
    got = candidate_metrics(scores, jnp.array([[False] * 3, [True] * 3]), (2,))
    assert all(jnp.isnan(values[0]) for values in got.values())
    assert jnp.isnan(got["auc"][1])
    np.testing.assert_allclose(got["mrr"][1], (1 + 1 / 2 + 1 / 3) / 3, rtol=1e-6)
    full = run_full([[0.0, 1.0]], [[0.0]], [[False]], (1,))
    assert all(jnp.isnan(values[0]) for values in full.values())


def test_a_cutoff_beyond_the_list_counts_everything():
    got = candidate_metrics(jnp.array([[0.1, 0.2]]), jnp.array([[True, False]]), (50,))
    assert got["recall@50"][0] == 1


def test_bad_cutoffs_are_refused():
    with pytest.raises(ValueError, match="cutoffs"):
        metrics.candidate_metrics(jnp.ones((1, 2)), jnp.ones((1, 2), bool), ())
    with pytest.raises(ValueError, match="too few"):
        metrics.full_ranking_metrics(jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 2), bool), (3,))


def test_room_for_the_positives_does_not_change_candidate_metrics():
    generator = np.random.default_rng(8)
    scores = jnp.asarray(generator.integers(0, 5, (30, 40)), jnp.float32).at[:, 3].set(-jnp.inf).at[:, 4].set(jnp.nan)
    labels = jnp.asarray(generator.random((30, 40)) < 0.2).at[7, :35].set(True)  # one row is compared in three groups
    whole = candidate_metrics(scores, labels, CUTOFFS)
    most = int(labels.sum(axis=1).max())
    for room in (most, most + 5, 64):
        for name, values in metrics.candidate_metrics(scores, labels, CUTOFFS, room).items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-6, err_msg=name)
