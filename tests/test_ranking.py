import dataclasses
import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax import ranking, scorers
from lsec_jax.data.csr import csr_from_pairs
from lsec_jax.models.popularity import PopularityScorer
from tests import runs

NUM_SOURCES, NUM_TARGETS = 37, 60


def random_dot_scorer(width=8):
    generator = np.random.default_rng(0)
    return scorers.DotScorer(
        jnp.asarray(generator.normal(size=(NUM_SOURCES, width)), jnp.float32),
        jnp.asarray(generator.normal(size=(NUM_TARGETS, width)), jnp.float32),
    )


def random_mlp_scorer(num_hidden=16):
    generator = np.random.default_rng(1)
    halves = (generator.normal(size=(n, num_hidden)) for n in (NUM_SOURCES, NUM_TARGETS))
    return scorers.MlpScorer(
        *(jnp.asarray(half, jnp.float32) for half in halves),
        jnp.asarray(generator.normal(size=num_hidden), jnp.float32),
        jnp.float32(0.3),
    )


def random_split():
    """(seen, positives) as CSR pairs, without common pairs; user 3 has no positive."""
    where = np.random.default_rng(2).random((NUM_SOURCES, NUM_TARGETS))
    where[3] += 0.3 * (where[3] < 0.3)
    return csr_from_pairs(*np.nonzero(where > 0.8), NUM_SOURCES), csr_from_pairs(*np.nonzero(where < 0.1), NUM_SOURCES)


class MatrixScorer:
    """Scores from a given matrix, in numpy."""

    def __init__(self, matrix):
        self.matrix = np.asarray(matrix, np.float32)

    def score_all(self, source_ids):
        return self.matrix[source_ids]

    def score_pairs(self, source_ids, target_ids):
        return np.take_along_axis(self.matrix[source_ids], target_ids, axis=1)


def test_full_ranking_agrees_with_sorting_every_user():
    scorer, (seen, positives) = random_dot_scorer(), random_split()
    users = np.flatnonzero(np.diff(positives[0]))
    got = ranking.full_ranking(scorer, users, seen, positives, (5,), 8)
    scores = np.asarray(scorer.score_all(np.arange(NUM_SOURCES)))
    for row, user in enumerate(users):
        left = scores[user].copy()
        left[seen[1][seen[0][user] : seen[0][user + 1]]] = -np.inf
        best = np.argsort(-left)[:5]
        wanted = positives[1][positives[0][user] : positives[0][user + 1]]
        np.testing.assert_allclose(got["recall@5"][row], np.isin(wanted, best).mean(), rtol=1e-6)
        np.testing.assert_allclose(got["hit_rate@5"][row], np.isin(wanted, best).any(), rtol=1e-6)


@pytest.mark.parametrize("scorer", [random_dot_scorer(), random_mlp_scorer()], ids=["dot", "mlp"])
def test_block_size_does_not_change_results(scorer):
    seen, positives = random_split()
    users = np.arange(NUM_SOURCES)
    generator = np.random.default_rng(0)
    targets = np.argsort(generator.random((NUM_SOURCES, NUM_TARGETS)), axis=1)[:, :20]  # distinct: no ties
    labels = generator.random((NUM_SOURCES, 20)) < 0.3
    for run in (
        lambda size: ranking.full_ranking(scorer, users, seen, positives, (3, 10), size),
        lambda size: ranking.rank_candidates(scorer, users, targets, labels, (3, 10), size),
        lambda size: dict(enumerate(ranking.top_k(scorer, users, seen, 7, size))),
    ):
        whole = run(1000)
        for size in (5, 36):
            for name, values in run(size).items():
                np.testing.assert_allclose(values, whole[name], rtol=1e-5, err_msg=str(name))


def test_pair_scores_are_the_entries_of_the_full_scores():
    targets = np.random.default_rng(0).integers(0, NUM_TARGETS, (NUM_SOURCES, 9)).astype(np.int32)
    users = np.arange(NUM_SOURCES, dtype=np.int32)
    for scorer in (random_dot_scorer(), random_mlp_scorer()):
        expected = np.take_along_axis(np.asarray(scorer.score_all(users)), targets, axis=1)
        np.testing.assert_allclose(scorer.score_pairs(users, targets), expected, rtol=1e-5, atol=1e-5)


def test_mlp_scorer_equals_an_mlp_on_concatenated_vectors():
    generator = np.random.default_rng(5)
    users, items = generator.normal(size=(5, 6)), generator.normal(size=(7, 4))
    weights, bias = generator.normal(size=(10, 8)), generator.normal(size=8)
    output = generator.normal(size=8)
    scorer = scorers.MlpScorer(
        jnp.asarray(users @ weights[:6] + bias, jnp.float32),
        jnp.asarray(items @ weights[6:], jnp.float32),
        jnp.asarray(output, jnp.float32),
        -0.7,
    )
    pairs = np.concatenate([np.repeat(users, 7, axis=0), np.tile(items, (5, 1))], axis=1)
    expected = (np.maximum(pairs @ weights + bias, 0) @ output - 0.7).reshape(5, 7)
    np.testing.assert_allclose(scorer.score_all(np.arange(5)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scorer", "score_all", "score_pairs"),
    [
        (random_dot_scorer(width=11), scorers._dot_all, scorers._dot_pairs),
        (random_mlp_scorer(num_hidden=11), scorers._mlp_all, scorers._mlp_pairs),
    ],
    ids=["dot", "mlp"],
)
def test_scoring_does_not_compile_again_for_other_weights_or_another_number_of_users(scorer, score_all, score_pairs):
    seen, positives = random_split()
    users = np.arange(NUM_SOURCES)
    targets = np.random.default_rng(0).integers(0, NUM_TARGETS, (NUM_SOURCES, 17))
    labels = targets < 20
    other = jax.tree.map(lambda values: values + 1, scorer)

    def full(scorer, at):
        ranking.full_ranking(scorer, at, seen, positives, (4,), 7)

    def candidates(scorer, at):
        ranking.rank_candidates(scorer, users[at], targets[at], labels[at], (4,), 7)

    def lists(scorer, at):
        ranking.top_k(scorer, at, seen, 4, 7)

    slices = [users[:1], users[5:7], users[::-1], np.array([36, 2, 2, 2, 2, 2, 2, 2, 9])]
    for rank, jitted, others in (
        (full, (score_all, ranking._full_ranking_block), [users]),  # its mask has the width of the evaluated users'
        (candidates, (score_pairs, ranking._candidates_block), slices),
        (lists, (score_all, ranking._top_k_block), slices),
    ):
        for function in jitted:
            function.clear_cache()
        with runs.compiled_names() as compiled:
            rank(scorer, users)
            for at in others:
                rank(other, at)
        assert [compiled.count(function.__name__) for function in jitted] == [1, 1]


def test_one_user_gets_the_list_that_it_gets_among_all():
    seen, _ = random_split()
    for scorer in (random_dot_scorer(), random_mlp_scorer()):
        all_ids, all_scores = ranking.top_k(scorer, np.arange(NUM_SOURCES), seen, 7, 8)
        for user in (0, 20, 36):
            ids, scores = ranking.top_k(scorer, np.array([user]), seen, 7, 8)
            assert ids[0].tolist() == all_ids[user].tolist()
            assert scores[0].tolist() == all_scores[user].tolist()


def test_one_call_compiles_each_function_once():
    scorer, (seen, positives) = random_dot_scorer(width=13), random_split()
    with runs.compiled_names() as compiled:
        ranking.full_ranking(scorer, np.arange(NUM_SOURCES), seen, positives, (6,), 4)
    assert [compiled.count(name) for name in ("_dot_all", "_full_ranking_block")] == [1, 1]


def test_a_constant_scorer_gets_no_hits():
    seen, positives = random_split()
    got = ranking.full_ranking(
        MatrixScorer(np.ones((NUM_SOURCES, NUM_TARGETS))), np.arange(NUM_SOURCES), seen, positives, (5,), 10
    )
    assert all(np.nanmax(values) == 0 for values in got.values())


def test_users_without_positives_come_back_as_nan():
    seen, positives = random_split()
    got = ranking.full_ranking(random_dot_scorer(), np.array([2, 3, 4]), seen, positives, (5,), 10)
    assert np.isnan(got["recall@5"]).tolist() == [False, True, False]


def test_top_k_leaves_out_what_was_seen_and_pads_short_lists():
    scorer = MatrixScorer([[1, 2, 3, 4], [4, 4, 4, 4], [0, 1, 0, 2]])
    seen = csr_from_pairs(np.array([0, 2, 2, 2]), np.array([3, 0, 1, 2]), 3)
    targets, scores = ranking.top_k(scorer, np.arange(3), seen, 5, 2)
    assert targets.tolist() == [[2, 1, 0, -1, -1], [0, 1, 2, 3, -1], [3, -1, -1, -1, -1]]
    assert scores[0].tolist() == [3, 2, 1, -np.inf, -np.inf]
    assert ranking.top_k(scorer, np.array([0]), None, 1, 2)[0].tolist() == [[3]]


def test_top_k_of_no_users_is_empty():
    assert ranking.top_k(random_dot_scorer(), np.array([], int), None, 3, 4)[0].shape == (0, 3)


def test_nan_scores_raise_with_the_user():
    matrix = np.zeros((NUM_SOURCES, NUM_TARGETS))
    matrix[30, 7] = np.nan
    scorer, (seen, positives), users = MatrixScorer(matrix), random_split(), np.arange(NUM_SOURCES)
    targets = np.tile(np.arange(10), (NUM_SOURCES, 1))
    for run in (
        lambda: ranking.full_ranking(scorer, users, seen, positives, (5,), 4),
        lambda: ranking.rank_candidates(scorer, users, targets, targets < 2, (5,), 4),
        lambda: ranking.top_k(scorer, users, seen, 5, 4),
    ):
        with pytest.raises(ranking.NanScoreError, match="source node 30 contain NaN") as caught:
            run()
        assert caught.value.source_id == 30


def test_a_positive_that_is_also_seen_is_refused():
    _, positives = random_split()
    with pytest.raises(ValueError, match="positives are also masked as seen"):
        ranking.full_ranking(random_dot_scorer(), np.arange(NUM_SOURCES), positives, positives, (5,), 4)


def test_candidates_of_a_hand_computed_user():
    scorer = MatrixScorer([[0.9, 0.1, 0.5, 0.7]])
    got = ranking.rank_candidates(
        scorer, np.array([0]), np.array([[3, 1, 0]]), np.array([[True, False, False]]), (1, 2), 8
    )
    assert (got["auc"][0], got["mrr"][0], got["recall@1"][0], got["recall@2"][0]) == (0.5, 0.5, 0.0, 1.0)


def read_gowalla(path):
    sources, targets = [], []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            user, *items = map(int, line.split())
            sources += [user] * len(items)
            targets += items
    return np.array(sources), np.array(targets)


def test_popularity_on_gowalla_gives_the_published_recall_and_ndcg(data_dir):
    train, test = (read_gowalla(data_dir / "gowalla" / f"{name}.txt.gz") for name in ("train", "test"))
    seen, positives = csr_from_pairs(*train, 29_858), csr_from_pairs(*test, 29_858)
    scorer = PopularityScorer.fit(train[1], 40_981)
    users = np.flatnonzero(np.diff(positives[0]))
    got = ranking.full_ranking(scorer, users, seen, positives, (20,), 64)
    assert round(float(got["recall@20"].mean(dtype=np.float64)), 4) == 0.0416
    assert round(float(got["ndcg@20"].mean(dtype=np.float64)), 4) == 0.0317


def test_only_what_is_offered_is_ranked_and_listed():
    scorer, (seen, positives) = random_dot_scorer(), random_split()
    offered = np.arange(NUM_TARGETS) % 3 > 0
    scores = np.asarray(scorer.score_all(np.arange(NUM_SOURCES)))
    ids, _ = ranking.top_k(scorer, np.arange(NUM_SOURCES), None, NUM_TARGETS, 8, offered)
    for row, values in zip(ids, scores, strict=True):
        best = np.flatnonzero(offered)[np.argsort(-values[offered], kind="stable")]
        np.testing.assert_array_equal(row, np.append(best, np.full(NUM_TARGETS - len(best), -1)))
    users = np.flatnonzero(np.diff(positives[0]))
    got = ranking.full_ranking(scorer, users, seen, positives, (5,), 8, offered)
    # The same as if everything else had been seen, except for the positives.
    pairs = np.zeros((NUM_SOURCES, NUM_TARGETS), bool)
    pairs[np.repeat(np.arange(NUM_SOURCES), np.diff(seen[0])), seen[1]] = True
    pairs |= ~offered
    pairs[np.repeat(np.arange(NUM_SOURCES), np.diff(positives[0])), positives[1]] = False
    expected = ranking.full_ranking(scorer, users, csr_from_pairs(*np.nonzero(pairs), NUM_SOURCES), positives, (5,), 8)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)


def test_a_second_call_with_other_users_of_equal_counts_and_a_padded_block_compiles_nothing():
    generator = np.random.default_rng(0)
    users = np.arange(NUM_SOURCES)
    pairs = np.argsort(generator.random((NUM_SOURCES, NUM_TARGETS)), axis=1)[:, :6]  # 4 seen and 2 positives each
    seen, positives = (
        csr_from_pairs(np.repeat(users, own.shape[1]), own.ravel(), NUM_SOURCES) for own in (pairs[:, :4], pairs[:, 4:])
    )
    scorer = random_mlp_scorer(num_hidden=19)

    def rank(at):
        ranking.full_ranking(scorer, at, seen, positives, (4,), 9)
        ranking.rank_candidates(scorer, at, pairs[at], pairs[at] < 20, (4,), 9)
        ranking.top_k(scorer, at, seen, 4, 9)

    with runs.compilations() as compiled:
        rank(users[:18])
        assert compiled
        compiled.clear()
        rank(users[15:])  # with a padded last block
        assert compiled == []


@pytest.mark.parametrize("function", ["score", "top_k", "full_ranking"])
def test_memory_follows_the_block_size_and_not_the_number_of_users(function):
    num_targets, width = 3_000, 128

    def num_bytes(num_sources, block_size):
        shapes = [(num_sources, 40), (num_targets, 40), (40,), ()]
        scorer = scorers.MlpScorer(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
        by_unit, scores = (jax.ShapeDtypeStruct((rows, num_targets), jnp.float32) for rows in (40, block_size))
        flat = jax.ShapeDtypeStruct((width,), jnp.int32)
        wanted = [jax.ShapeDtypeStruct((block_size, 8), dtype) for dtype in (jnp.int32, jnp.bool_)]
        if function == "score":
            lowered = scorers._mlp_all.lower(scorer, by_unit, jax.ShapeDtypeStruct((block_size,), jnp.int32))
        elif function == "top_k":
            lowered = ranking._top_k_block.lower(scores, (flat, flat), None, k=20)
        else:
            lowered = ranking._full_ranking_block.lower(scores, *wanted, (flat, flat), None, cutoffs=(20,))
        memory = lowered.compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    small, large, of_more_users = num_bytes(500, 64), num_bytes(500, 256), num_bytes(5_000, 64)
    assert of_more_users == small
    assert 2 * small < large < 4.5 * small
    assert large < 4 * 256 * num_targets * 4 + 2 * 4 * 48 * num_targets  # scores, and the padded hidden units


def test_scores_of_minus_infinity_and_ties_give_the_lists_and_ranks_of_a_stable_sort():
    generator = np.random.default_rng(7)
    matrix = generator.integers(0, 4, (NUM_SOURCES, NUM_TARGETS)).astype(np.float32)
    matrix[matrix == 0] = -np.inf
    seen, positives = random_split()
    users = np.arange(NUM_SOURCES)
    offered = generator.random(NUM_TARGETS) < 0.7
    ids, scores = ranking.top_k(MatrixScorer(matrix), users, seen, 50, 8, offered)
    got = ranking.full_ranking(MatrixScorer(matrix), users, seen, positives, (5,), 8, offered)
    for user in users:
        left = np.where(offered, matrix[user], -np.inf)
        left[seen[1][seen[0][user] : seen[0][user + 1]]] = -np.inf
        best = np.argsort(-left, kind="stable")[:50]
        np.testing.assert_array_equal(scores[user], left[best])
        np.testing.assert_array_equal(ids[user], np.where(left[best] > -np.inf, best, -1))
        wanted = positives[1][positives[0][user] : positives[0][user + 1]]
        left[wanted] = -np.inf
        negatives = np.sort(left)[::-1][:5]
        ranks = [1 + j + (negatives >= score).sum() for j, score in enumerate(np.sort(matrix[user, wanted])[::-1])]
        expected = np.mean(np.array(ranks) <= 5) if len(wanted) else np.nan
        np.testing.assert_allclose(got["recall@5"][user], expected, rtol=1e-6)


def test_hidden_units_beyond_a_multiple_of_the_unrolled_ones_count_and_nan_stays_nan():
    for num_hidden in (1, 15, 16, 17, 33):
        scorer = random_mlp_scorer(num_hidden)
        hidden = np.asarray(scorer.source_half)[:, None, :] + np.asarray(scorer.target_half)[None]
        expected = np.maximum(hidden, 0) @ np.asarray(scorer.output_weights) + 0.3
        np.testing.assert_allclose(scorer.score_all(np.arange(NUM_SOURCES)), expected, rtol=1e-4, atol=1e-5)
    broken = dataclasses.replace(scorer, source_half=scorer.source_half.at[5, 2].set(jnp.nan))
    assert np.isnan(np.asarray(broken.score_all(np.array([4, 5])))).all(axis=1).tolist() == [False, True]


def test_a_scorer_that_is_first_used_inside_a_traced_function_serves_outside_of_it_too():
    users = np.arange(5, dtype=np.int32)
    expected = np.asarray(random_mlp_scorer().score_all(users))
    scorer = random_mlp_scorer()
    np.testing.assert_allclose(jax.jit(lambda zero: scorer.score_all(users) + zero)(0.0), expected, rtol=1e-6)
    np.testing.assert_allclose(scorer.score_all(users), expected, rtol=1e-6)
    traced = jax.jit(lambda given: given.score_all(users))
    other = dataclasses.replace(scorer, target_half=-scorer.target_half)
    for given in (scorer, other):
        np.testing.assert_allclose(traced(given), given.score_all(users), rtol=1e-6)
    assert not np.allclose(other.score_all(users), expected)


def test_one_user_with_many_positives_changes_no_other_user_and_labels_of_any_number_type_are_truth_values():
    generator = np.random.default_rng(5)
    users, lists = np.arange(NUM_SOURCES), np.tile(np.arange(NUM_TARGETS), (NUM_SOURCES, 1))
    labels = generator.random(lists.shape) < 0.1
    scorer = MatrixScorer(generator.integers(0, 20, lists.shape))
    few = ranking.rank_candidates(scorer, users, lists, labels, (5,), 8)
    labels[20] = np.arange(NUM_TARGETS) % 7 > 0  # more than one group, in a block in the middle
    many = ranking.rank_candidates(scorer, users, lists, labels, (5,), 8)
    alone = ranking.rank_candidates(scorer, users[20:21], lists[20:21], labels[20:21], (5,), 1)
    weights = ranking.rank_candidates(scorer, users, lists, labels * np.float32(0.25), (5,), 8)
    for name, values in many.items():
        np.testing.assert_array_equal(np.delete(values, 20), np.delete(few[name], 20), err_msg=name)
        np.testing.assert_array_equal(values[20], alone[name][0], err_msg=name)
        np.testing.assert_array_equal(weights[name], values, err_msg=name)


def test_memory_of_candidate_lists_does_not_grow_with_the_positives_of_a_user():
    def num_bytes(block_size, max_positives):
        scores, labels = (jax.ShapeDtypeStruct((block_size, 500), dtype) for dtype in (jnp.float32, jnp.bool_))
        memory = ranking._candidates_block.lower(scores, labels, (10,), max_positives).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert num_bytes(32, 256) < 1.5 * num_bytes(32, 16) < num_bytes(64, 16)
