"""Metrics of impressions: by hand, against scikit-learn and loops, and the same in memory and on disk."""

import numpy as np
import pytest
import sklearn.metrics

from lsec_jax import event_metrics
from lsec_jax.event_metrics import ranked
from lsec_jax.event_metrics.streaming import EventMetrics, NanScoreError
from tests.impressions import CUTOFFS, LABELS, measured, random_rows, slow_metrics


def test_metrics_of_two_requests_by_hand():
    # Request 0 of user 0, best first: -, +, (+ and - tied); request 1 of user 1: +; request 2 of user 0: -.
    scores = {"watched": np.array([0.9, 0.5, 0.1, 0.1, 0.3, 0.2])}
    answers = np.array([[0], [1], [1], [0], [1], [0]], np.float32)
    users, requests = np.array([0, 0, 0, 0, 1, 0]), np.array([0, 0, 0, 0, 1, 2])
    found = measured(scores, answers, users, requests, LABELS[:1], output="scores")
    # All rows: + .5, .3, .1 and - .9, .2, .1: wins 2, 2, 1/2 of 9 pairs.
    expected = {"auc": 4.5 / 9}
    expected["gauc"] = 2.5 / 6  # user 0: .5 beats .2 and .1, .1 ties with .1; user 1 has one class
    expected["gauc_request"] = (1 + 0.5) / 4
    # Ranks of the positives of request 0: 2 and 4, of request 1: 1; request 2 has none and does not count.
    expected |= {"mrr": (1 / 2 + 1) / 2, "hr@1": (0 + 1) / 2, "hr@3": 1.0, "hr@10": 1.0}
    expected |= {"precision@1": (0 + 1) / 2, "precision@3": (1 / 3 + 1) / 2, "precision@10": (2 / 4 + 1) / 2}
    ideal, gain = 1 + 1 / np.log2(3), 1 / np.log2(3)
    expected |= {"ndcg@1": (0 + 1) / 2, "ndcg@3": (gain / ideal + 1) / 2}
    expected["ndcg@10"] = ((gain + 1 / np.log2(5)) / ideal + 1) / 2
    assert found.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-12), name
    assert found.counts == {
        "impressions": 6,
        "positives": 3,
        "impressions without a label, left out": 0,
        "users of one class, left out of gauc": 1,
        "requests": 3,
        "requests without a positive, left out of metrics of ranks": 1,
        "requests of one class, left out of gauc_request": 2,
    }
    np.testing.assert_array_equal(found.user_ids, [0, 1])
    np.testing.assert_allclose(found.per_user["gauc"], [2.5 / 6, np.nan])
    np.testing.assert_allclose(found.weights["gauc"], [5, 0])
    np.testing.assert_allclose(found.per_user["precision@3"], [1 / 3, 1])
    np.testing.assert_allclose(found.weights["precision@3"], [1, 1])
    np.testing.assert_allclose(found.per_user["mrr"], [1 / 2, 1])
    np.testing.assert_allclose(found.per_user["hr@1"], [0, 1])
    np.testing.assert_allclose(found.weights["hr@1"], [1, 1])


@pytest.mark.parametrize("num_levels", [0, 1, 4])
def test_metrics_are_those_of_their_definitions_one_group_at_a_time(num_levels):
    rows = random_rows(1000, 30, 150, num_levels)
    found = measured(*rows)
    for name, value in slow_metrics(*rows).items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("num_levels", [0, 2])
def test_aucs_and_losses_are_those_of_scikit_learn(num_levels):
    scores, answers, users, requests = random_rows(num_levels=num_levels)
    found = measured(scores, answers, users, requests).metrics
    labels, probabilities = answers[:, 0], 1 / (1 + np.exp(-scores["watched"].astype(np.float64)))
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores["watched"]), rel=1e-12)
    assert found["logloss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), rel=1e-6)
    watched = labels > 0.5
    bag = sklearn.metrics.roc_auc_score(answers[watched, 2], scores["bag"][watched])
    assert found["auc_bag"] == pytest.approx(bag, rel=1e-12)
    of_user = [
        (np.sum(users == user), sklearn.metrics.roc_auc_score(labels[users == user], scores["watched"][users == user]))
        for user in np.unique(users)
    ]
    sizes, aucs = np.array(of_user).T
    assert found["gauc"] == pytest.approx(np.sum(sizes * aucs) / np.sum(sizes), rel=1e-12)


def test_ndcg_without_ties_is_that_of_scikit_learn():
    scores, answers, users, requests = random_rows()
    scores["watched"] = np.random.default_rng(1).permutation(len(users)).astype(np.float32)
    found = measured(scores, answers, users, requests).metrics
    for k in CUTOFFS:
        values = []
        for request in np.unique(requests[answers[:, 0] > 0.5]):
            rows = requests == request
            if rows.sum() > 1:
                truth, given = answers[None, rows, 0], scores["watched"][None, rows]
                values.append(sklearn.metrics.ndcg_score(truth, given, k=k))
            else:
                values.append(1.0)
        assert found[f"ndcg@{k}"] == pytest.approx(np.mean(values), rel=1e-6)


def test_errors_of_regressions_are_in_the_labels_units_and_in_transformed_ones():
    scores, answers, users, requests = random_rows()
    found = measured(scores, answers, users, requests).metrics
    kept = ~np.isnan(answers[:, 1])
    stay, given = answers[kept, 1].astype(np.float64), scores["stay"][kept].astype(np.float64)
    assert found["rmse_stay"] == pytest.approx(np.sqrt(np.mean((np.expm1(given) - np.expm1(stay)) ** 2)), rel=1e-9)
    assert found["rmse_log1p_stay"] == pytest.approx(np.sqrt(np.mean((given - stay) ** 2)), rel=1e-9)
    amount = answers[kept, 3].astype(np.float64) - scores["amount"][kept]
    assert found["rmse_amount"] == pytest.approx(np.sqrt(np.mean(amount**2)), rel=1e-9)


@pytest.mark.parametrize("num_levels", [0, 3])
def test_calibration_is_that_of_equal_bins_in_which_ties_stay_together(num_levels):
    scores, answers, users, requests = random_rows(num_levels=num_levels)
    found = measured(scores, answers, users, requests).metrics
    values, labels = scores["watched"], answers[:, 0].astype(np.float64)
    probabilities = 1 / (1 + np.exp(-values.astype(np.float64)))
    bins = np.array([np.sum(values > value) for value in values]) * ranked.CALIBRATION_BINS // len(values)
    gaps = [abs(np.sum((probabilities - labels)[bins == at])) for at in range(ranked.CALIBRATION_BINS)]
    assert found["calibration_error"] == pytest.approx(np.sum(gaps) / len(values), rel=1e-9)
    assert found["calibration_ratio"] == pytest.approx(probabilities.sum() / labels.sum(), rel=1e-9)
    assert found["calibration_error"] < 0.05


def test_probabilities_give_what_their_logits_give():
    scores, answers, users, requests = random_rows(num_levels=3)
    given = {"watched": (1 / (1 + np.exp(-scores["watched"].astype(np.float64)))).astype(np.float32)}
    logits = measured({"watched": scores["watched"]}, answers, users, requests).metrics
    probabilities = measured(given, answers, users, requests, output="probabilities").metrics
    assert logits.keys() == probabilities.keys()
    for name, value in logits.items():
        assert probabilities[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("num_levels", [0, 1])
@pytest.mark.parametrize("rows_in_memory", [100, 700])
def test_rows_on_disk_and_in_any_order_give_the_very_same_metrics(rows_in_memory, num_levels):
    scores, answers, users, requests = random_rows(num_levels=num_levels)
    whole = measured(scores, answers, users, requests)
    order = np.random.default_rng(1).permutation(len(users))
    shuffled = {name: of[order] for name, of in scores.items()}
    found = measured(shuffled, answers[order], users[order], requests[order], rows_in_memory=rows_in_memory, block=90)
    assert found.counts == whole.counts
    assert found.metrics.keys() == whole.metrics.keys()
    for name, value in whole.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-12), name
    for name, values in whole.per_user.items():
        np.testing.assert_allclose(found.per_user[name], values, rtol=1e-12, err_msg=name)


def test_metrics_of_groups_are_the_weighted_means_of_the_users_parts():
    found = measured(*random_rows())
    of_ranks = {"mrr", *(f"{name}@{k}" for k in CUTOFFS for name in ("hr", "ndcg", "precision"))}
    names = {"gauc", "gauc_request", "logloss", *of_ranks}
    assert found.per_user.keys() == found.weights.keys() == names
    for name in names:
        kept = found.weights[name] > 0
        np.testing.assert_array_equal(kept, ~np.isnan(found.per_user[name]))
        mean = np.average(found.per_user[name][kept], weights=found.weights[name][kept])
        assert found.metrics[name] == pytest.approx(mean, rel=1e-12), name


def test_names_are_those_of_what_is_measured():
    scores, answers, users, requests = random_rows()
    for output in event_metrics.OUTPUTS:
        given = scores | {"watched": (scores["watched"] > 0).astype(np.float32)}
        given["bag"] = given["watched"]
        for of in (requests, None):
            found = measured(given, answers, users, of, output=output).metrics
            assert tuple(found) == event_metrics.metric_names(LABELS, CUTOFFS, of is not None, output)
    only_primary = measured({"watched": scores["watched"]}, answers, users, requests).metrics
    assert tuple(only_primary) == event_metrics.metric_names(LABELS[:1], CUTOFFS)
    assert not event_metrics.is_higher_better("rmse_stay") and not event_metrics.is_higher_better("logloss")
    assert event_metrics.is_higher_better("auc_bag") and event_metrics.is_higher_better("ndcg@3")
    assert event_metrics.is_higher_better("mrr") and event_metrics.is_higher_better("hr@3")


def test_rows_without_a_label_count_nowhere_but_in_their_number():
    scores, answers, users, requests = random_rows()
    hidden = answers.copy()
    hidden[::3, 0] = np.nan
    found, kept = measured(scores, hidden, users, requests), ~np.isnan(hidden[:, 0])
    fewer = measured({name: of[kept] for name, of in scores.items()}, answers[kept], users[kept], requests[kept])
    for name in ("auc", "gauc", "gauc_request", "ndcg@3", "logloss", "calibration_error"):
        assert found.metrics[name] == fewer.metrics[name]
    assert found.counts["impressions without a label, left out"] == 1000


def test_constant_scores_have_an_auc_of_one_half_and_find_nothing_above_a_negative():
    _, answers, users, requests = random_rows()
    found = measured({"watched": np.zeros(len(users))}, answers, users, requests, output="scores").metrics
    assert found["auc"] == found["gauc"] == found["gauc_request"] == 0.5
    slow = slow_metrics({"watched": np.zeros(len(users))}, answers, users, requests)
    for name in ("mrr", "hr@1", "ndcg@3"):
        assert found[name] == pytest.approx(slow[name]), name


def test_metrics_that_the_rows_do_not_define_are_left_out():
    rows = {"watched": np.array([1.0, 2.0])}
    found = measured(rows, np.array([[1.0], [1.0]], np.float32), np.zeros(2, int), np.zeros(2, int), LABELS[:1])
    assert not {"auc", "gauc", "gauc_request"} & found.metrics.keys()
    assert found.metrics["ndcg@1"] == found.metrics["mrr"] == found.metrics["hr@1"] == 1
    nothing = EventMetrics(LABELS, CUTOFFS, 3, 2).result()
    assert nothing.metrics == {} and nothing.counts["impressions"] == 0 and len(nothing.user_ids) == 0


def test_infinite_scores_are_ranked_and_wild_predictions_have_an_infinite_error():
    answers = np.array([[1, 3], [0, np.nan]], np.float32)
    scores = {"watched": np.array([np.inf, -np.inf]), "stay": np.array([1e4, 0.0])}
    found = measured(scores, answers, np.zeros(2, int), np.zeros(2, int), LABELS[:2]).metrics
    assert found["auc"] == 1 and found["logloss"] == 0 and found["calibration_error"] == 0
    assert found["rmse_stay"] == np.inf and found["rmse_log1p_stay"] == 9997


def test_wrong_input_is_refused_with_what_is_wrong():
    def add(scores=(0.1, 0.2), users=(0, 1), requests=(0, 1), task="watched", **options):
        found = EventMetrics(LABELS[:1], CUTOFFS, 2, 2, **options)
        for _ in range(2):
            found.add({task: np.array(scores)}, np.zeros((2, 1), np.float32), np.array(users), np.array(requests))

    with pytest.raises(NanScoreError, match=r"task 'watched' contain NaN \(row 1"):
        add(scores=(0.1, np.nan))
    with pytest.raises(ValueError, match=r"user 2 outside 0\.\.1"):
        add(users=(0, 2))
    with pytest.raises(ValueError, match=r"request -1 outside 0\.\.1"):
        add(requests=(0, -1))
    with pytest.raises(ValueError, match="request 0 has rows of two users"):
        add(requests=(0, 0))
    with pytest.raises(ValueError, match="give those of 'watched'"):
        add(task="bag")
    with pytest.raises(ValueError, match=r"1\.2 is no probability"):
        add(scores=(0.1, 1.2), output="probabilities")
    with pytest.raises(ValueError, match="choose one of: logits"):
        add(output="ranks")
    with pytest.raises(ValueError, match="cutoffs"):
        EventMetrics(LABELS, (0,), 1)
    with pytest.raises(ValueError, match="has to be binary"):
        EventMetrics(LABELS[1:], CUTOFFS, 1)
    with pytest.raises(ValueError, match="users: at most"):
        EventMetrics(LABELS, CUTOFFS, 2**40)
    found = EventMetrics(LABELS, CUTOFFS, 2, 2)
    answers, zeros = np.zeros((2, 4), np.float32), np.zeros(2, int)
    with pytest.raises(ValueError, match="if and only if"):
        found.add({"watched": np.zeros(2)}, answers, zeros)
    found.add({"watched": np.zeros(2)}, answers, zeros, zeros)
    with pytest.raises(ValueError, match="but before of"):
        found.add({"watched": np.zeros(2), "bag": np.zeros(2)}, answers, zeros, zeros)


def test_a_first_positive_that_ties_with_negatives_ranks_below_all_of_them():
    answers, nobody = np.array([[1], [0], [0], [1], [0]], np.float32), np.zeros(5, int)
    found = measured({"watched": np.array([0.5, 0.5, 0.5, 0.1, 0.7])}, answers, nobody, nobody, LABELS[:1]).metrics
    assert found["mrr"] == 1 / 4 and found["hr@3"] == 0 and found["hr@10"] == 1
