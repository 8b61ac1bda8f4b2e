import numpy as np
import pytest

from lsec_jax import ranking, schema
from lsec_jax.config import PROTOCOLS, ConfigError, EvaluationConfig
from lsec_jax.training import evaluation, writers
from tests import runs

CONFIG = EvaluationConfig(num_candidates=40, cutoffs=(5, 10), block_size=16)
NUM_USERS, NUM_ITEMS = 70, 120


class Truth:
    """Probabilities that depend on the window, so that a test sees which one was asked for."""

    relations = ("buy",)

    def probabilities(self, relation, source_ids, start, end):
        return np.full((len(source_ids), NUM_ITEMS), end - start, np.float32)


class MatrixScorer:
    def __init__(self, matrix):
        self.matrix = np.asarray(matrix, np.float32)

    def score_all(self, source_ids):
        return self.matrix[source_ids]

    def score_pairs(self, source_ids, target_ids):
        return np.take_along_axis(self.matrix[source_ids], target_ids, axis=1)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    dense = generator.random((NUM_USERS, NUM_ITEMS)) < np.linspace(0.02, 0.2, NUM_ITEMS)
    sources, targets = (ids.astype(np.int32) for ids in np.nonzero(dense))
    split = generator.choice(3, len(sources), p=[0.6, 0.2, 0.2]).astype(np.int8)
    split[(sources < 4) & (split != schema.TRAIN)] = schema.TRAIN  # four users are in training only
    nodes = {
        "user": schema.NodeTable("user", np.array([f"u{i}" for i in range(NUM_USERS)])),
        "item": schema.NodeTable("item", np.arange(NUM_ITEMS)),
    }
    buy = schema.Relation("buy", "user", "item", sources, targets, split=split)
    return schema.LiveCommerceData("small", nodes, {"buy": buy}, cut_times=(8.0, 9.0), end_time=11.0, truth=Truth())


def code_matrix(data, codes):
    """1 where the pair is an edge of one of the splits."""
    buy, matrix = data.relation("buy"), np.zeros((NUM_USERS, NUM_ITEMS), np.float32)
    keep = np.isin(buy.split, codes)
    matrix[buy.source_ids[keep], buy.target_ids[keep]] = 1
    return matrix


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_scorer_that_knows_the_answers_is_perfect(data, split, protocol):
    scorer = MatrixScorer(code_matrix(data, [schema.SPLITS[split]]))
    row = evaluation.Evaluator(data, "buy", CONFIG).evaluate(scorer, split, protocol)
    assert row.metrics["ndcg@10"] == pytest.approx(1)
    assert row.num_users + row.num_left_out == NUM_USERS
    assert row.num_left_out >= 4
    assert row.user_ids.shape == row.per_user["ndcg@10"].shape == (row.num_users,)
    assert row.metrics["recall@5"] == pytest.approx(row.per_user["recall@5"].mean())


def test_validation_masks_training_and_test_masks_training_and_validation(data):
    evaluator = evaluation.Evaluator(data, "buy", CONFIG)
    truth, train, validation = (code_matrix(data, [code]) for code in (schema.TEST, schema.TRAIN, schema.VALIDATION))
    masked = evaluator.evaluate(MatrixScorer(truth + 2 * train + 2 * validation), "test", "full_ranking")
    assert masked.metrics["ndcg@10"] == pytest.approx(1)
    assert "training and validation left out" in masked.description
    held_out = evaluator.evaluate(MatrixScorer(validation + 2 * train), "validation", "full_ranking")
    assert held_out.metrics["ndcg@10"] == pytest.approx(1)
    # Test items are candidates of the validation ranking: it may not know them.
    crowded = evaluator.evaluate(MatrixScorer(validation + 2 * truth), "validation", "full_ranking")
    assert crowded.metrics["ndcg@10"] < 0.95


def test_published_candidates_win_over_generated_ones(data):
    lists = schema.Candidates(
        np.array([9, 7], np.int32),
        np.array([[1, 2], [3, 4]], np.int32),
        np.array([[True, False], [False, True]]),
        "test/user-item-buy.tsv",
    )
    published = data.replace(candidates={("buy", schema.TEST): lists})
    evaluator = evaluation.Evaluator(published, "buy", CONFIG)
    scores = np.zeros((NUM_USERS, NUM_ITEMS))
    scores[9, 1] = 1
    row = evaluator.evaluate(MatrixScorer(scores), "test", "candidates")
    assert row.user_ids.tolist() == [7, 9]
    assert row.per_user["auc"].tolist() == [0.5, 1.0]
    assert "2 per user, test/user-item-buy.tsv" in row.description
    assert evaluator.candidate_lists("validation").target_ids.shape[1] == 40


def test_the_description_tells_n_and_seed(data):
    scorer = MatrixScorer(np.zeros((NUM_USERS, NUM_ITEMS)))
    row = evaluation.Evaluator(data, "buy", CONFIG).evaluate(scorer, "test", "candidates")
    assert row.description == "candidates: 40 per user, generated, N=40, seed 0"
    assert row.metrics["auc"] == 0.5
    assert row.metrics["recall@10"] == 0


def test_a_split_in_which_nobody_can_be_ranked_is_refused_with_the_remedy(data):
    evaluator = evaluation.Evaluator(data, "buy", CONFIG)
    for protocol in PROTOCOLS:
        evaluator.check("test", protocol)
    users = np.arange(2, dtype=np.int32)
    lists = schema.Candidates(users, np.zeros((2, 3), np.int32), np.ones((2, 3), bool), "all positive")
    evaluator = evaluation.Evaluator(data.replace(candidates={("buy", schema.TEST): lists}), "buy", CONFIG)
    with pytest.raises(schema.DataError, match=r"'test', protocol 'candidates': no user has both .*\(config\.split\)"):
        evaluator.check("test", "candidates")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_subset_of_users_gives_those_users_values(data, protocol):
    evaluator = evaluation.Evaluator(data, "buy", CONFIG)
    scorer = MatrixScorer(np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS)))
    whole = evaluator.evaluate(scorer, "test", protocol)
    some = evaluator.evaluate(scorer, "test", protocol, users=np.array([40, 0, 12, 33]))
    assert some.user_ids.tolist() == [12, 33, 40]
    assert some.num_left_out == 1  # user 0 is in training only
    at = np.searchsorted(whole.user_ids, some.user_ids)
    for name, values in some.per_user.items():
        np.testing.assert_allclose(values, whole.per_user[name][at], rtol=1e-6)


def test_the_validation_subset_is_fixed_and_has_positives(data):
    config = EvaluationConfig(validation_users=10)
    one, two = (evaluation.Evaluator(data, "buy", config).validation_users() for _ in range(2))
    assert one.tolist() == two.tolist()
    assert len(np.unique(one)) == 10
    assert one.min() >= 4
    assert evaluation.Evaluator(data, "buy", EvaluationConfig()).validation_users() is None


def test_nan_scores_name_the_user_by_its_own_id(data):
    scores = np.zeros((NUM_USERS, NUM_ITEMS))
    scores[50] = np.nan
    evaluator = evaluation.Evaluator(data, "buy", CONFIG)
    for protocol in PROTOCOLS:
        with pytest.raises(ranking.NanScoreError, match="user u50 contain NaN"):
            evaluator.evaluate(MatrixScorer(scores), "test", protocol)


def test_wrong_names_list_the_valid_ones(data):
    evaluator = evaluation.Evaluator(data, "buy", CONFIG)
    scorer = MatrixScorer(np.zeros((NUM_USERS, NUM_ITEMS)))
    with pytest.raises(ConfigError, match="candidates, full_ranking"):
        evaluator.evaluate(scorer, "test", "leave_one_out")
    with pytest.raises(ConfigError, match="validation, test"):
        evaluator.evaluate(scorer, "train", "candidates")
    with pytest.raises(schema.DataError, match="it has: buy"):
        evaluation.Evaluator(data, "sell", CONFIG)
    with pytest.raises(schema.DataError, match="none of the users"):
        evaluator.evaluate(scorer, "test", "full_ranking", users=np.array([0, 1]))


def test_baselines_beat_a_constant_and_the_oracle_follows_the_window(data):
    evaluator = evaluation.Evaluator(data, "buy", CONFIG)
    scorers = evaluation.baseline_scorers(data, "buy", CONFIG)
    assert list(scorers) == ["popularity", "item_knn"]
    for scorer in scorers.values():
        assert evaluator.evaluate(scorer, "test", "candidates").metrics["auc"] > 0.52
    assert evaluation.oracle_scorer(data, "buy", "validation").score_all(np.array([0]))[0, 0] == 1
    assert evaluation.oracle_scorer(data, "buy", "test").score_all(np.array([0]))[0, 0] == 2
    assert evaluation.oracle_scorer(data.replace(truth=None), "buy", "test") is None


def test_lines_of_metrics_that_are_no_records_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnull\n{"kind": "train"}\n{"step": 2}\n{"st')
    with writers.MetricWriter(tmp_path, 1, 4):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("resumed_from", [0, 2])
def test_curves_are_not_doubled_when_a_killed_run_starts_again(tmp_path, resumed_from):
    for session, first_step in enumerate((0, resumed_from)):
        with writers.MetricWriter(tmp_path, first_step, 4) as writer:
            for step in range(first_step + 1, 5):
                writer.write(step, "train", {"loss": float(session)}, 1.0)
        for path in (tmp_path / "tensorboard").iterdir():  # a second's sessions would share one file
            if not path.name.startswith("session"):
                path.rename(path.with_name(f"session{session}.{path.name}"))
    expected = [(step, float(step > resumed_from)) for step in range(1, 5)]
    assert [(step, value) for step, _, value in runs.shown_by_tensorboard(tmp_path / "tensorboard")] == expected


def with_windows(data, is_gone):
    """Items that are gone before the validation period."""
    end = np.where(is_gone, 5.0, np.inf)
    return data.replace(availability={"item": schema.Availability(np.full(NUM_ITEMS, -np.inf), end)})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_not_available_in_the_period_is_no_negative_but_may_be_a_positive(data, protocol):
    is_gone = np.arange(NUM_ITEMS) % 2 == 0
    limited = evaluation.Evaluator(with_windows(data, is_gone), "buy", CONFIG)
    answers = code_matrix(data, [schema.TEST])
    # Everything that is gone is scored above every answer.
    row = limited.evaluate(MatrixScorer(answers + 2 * (is_gone * (1 - answers))), "test", protocol)
    assert row.metrics["ndcg@10"] == pytest.approx(1)
    assert "60 that are not available" in row.description or "of the 60 available in the period" in row.description
    every = evaluation.Evaluator(data, "buy", CONFIG).evaluate(MatrixScorer(answers), "test", protocol)
    assert row.num_users == every.num_users
    everything = evaluation.Evaluator(data, "buy", CONFIG)
    assert (
        everything.evaluate(MatrixScorer(answers + 2 * is_gone * (1 - answers)), "test", protocol).metrics["ndcg@10"]
        < 0.9
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_windows_that_are_always_open_change_no_metric(data, protocol):
    scorer = MatrixScorer(np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS)))
    one, other = (
        evaluation.Evaluator(d, "buy", CONFIG).evaluate(scorer, "test", protocol)
        for d in (data, with_windows(data, np.zeros(NUM_ITEMS, bool)))
    )
    for name, values in one.per_user.items():
        np.testing.assert_array_equal(values, other.per_user[name])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_period_in_which_nothing_is_available_is_refused(data, protocol):
    evaluator = evaluation.Evaluator(with_windows(data, np.ones(NUM_ITEMS, bool)), "buy", CONFIG)
    message = r"^no item is available at any time of the test period \(9.0 to 11.0\); check the windows$"
    with pytest.raises(schema.DataError, match=message):
        evaluator.check("test", protocol)


def test_published_lists_stay_as_they_are_whatever_is_available(data):
    lists = schema.Candidates(np.array([5]), np.array([[0, 1, 2]]), np.array([[True, False, False]]), "published")
    gone = with_windows(data, np.ones(NUM_ITEMS, bool)).replace(candidates={("buy", schema.TEST): lists})
    assert evaluation.Evaluator(gone, "buy", CONFIG).candidate_lists("test") is lists
