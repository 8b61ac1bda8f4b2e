"""Evaluation of impressions: what is ranked, who is left out, and what is refused."""

import dataclasses

import numpy as np
import pytest

from lsec_jax import ranking
from lsec_jax.config import LIVE_BASELINES, ConfigError
from lsec_jax.data.splits import live_event_rows
from lsec_jax.declaration import Label
from lsec_jax.event_metrics import metric_names
from lsec_jax.schema import SPLITS, TEST, DataError, EventNodes
from lsec_jax.training import event_evaluation
from tests.impressions import measured, slow_metrics
from tests.training.live_impressions import CONFIG, LABELS, Answers, evaluator_of, scores_of, split_world, with_column


@pytest.fixture(scope="module")
def data():
    return split_world()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_metrics_are_those_of_the_splits_rows(data, split):
    events = data.events["impression"]
    rows = np.flatnonzero(events.split == SPLITS[split])
    row = evaluator_of(data).evaluate(scores_of, split)
    requests = np.unique(events.group[rows], return_inverse=True)[1]
    of_rows = scores_of(rows), Answers(data).answers(rows), events.ids("user")[rows], requests
    whole = measured(*of_rows, labels=LABELS)
    assert row.metrics.keys() == whole.metrics.keys() == set(metric_names(LABELS, CONFIG.cutoffs))
    for name, value in {**whole.metrics, **slow_metrics(*of_rows)}.items():
        assert row.metrics[name] == pytest.approx(value, rel=1e-9), name
    assert row.split == split and row.protocol == "impressions"
    assert row.description == f"impressions: {len(rows)} as shown, ranked per request and per user"
    assert row.num_users + row.num_left_out == len(row.user_ids) == len(np.unique(events.ids("user")[rows]))
    assert row.counts["impressions"] == len(rows) and row.counts["requests"] == len(np.unique(events.group[rows]))
    for name, values in row.per_user.items():
        weights = row.weights[name]
        assert row.metrics[name] == pytest.approx(np.sum(np.nan_to_num(values) * weights) / weights.sum()), name


def test_a_scorer_that_knows_the_answers_is_perfect(data):
    watched = data.events["impression"].value("watched")
    row = evaluator_of(data).evaluate(lambda rows: {"watched": watched[rows].astype(np.float32)}, "test")
    for name in ("auc", "gauc", "gauc_request", "ndcg@1", "ndcg@10"):
        assert row.metrics[name] == 1


def test_scorers_get_blocks_of_one_size(data, monkeypatch):
    monkeypatch.setattr(event_evaluation, "SCORED_ROWS", 500)
    sizes = []

    def score(rows):
        sizes.append(len(rows))
        return scores_of(rows)

    row = evaluator_of(data).evaluate(score, "validation")
    monkeypatch.undo()
    assert set(sizes) == {500} and len(sizes) == -(-row.counts["impressions"] // 500)
    whole = evaluator_of(data).evaluate(scores_of, "validation").metrics
    for name, value in row.metrics.items():
        assert value == pytest.approx(whole[name], rel=1e-12), name


def test_a_subset_of_users_gives_those_users_parts(data):
    evaluator = evaluator_of(data, dataclasses.replace(CONFIG, validation_users=20))
    users = evaluator.validation_users()
    assert len(users) == 20 and (np.diff(users) > 0).all()
    np.testing.assert_array_equal(users, evaluator_of(data, evaluator.config).validation_users())
    whole, some = (evaluator.evaluate(scores_of, "validation", users=of) for of in (None, users))
    np.testing.assert_array_equal(some.user_ids, users)
    at = np.searchsorted(whole.user_ids, users)
    for name, values in some.per_user.items():
        np.testing.assert_allclose(values, whole.per_user[name][at], rtol=1e-12)
    assert f"of {len(users)} users" in some.description
    assert evaluator_of(data).validation_users() is None
    assert evaluator_of(data, dataclasses.replace(CONFIG, validation_users=10_000)).validation_users() is None


@pytest.mark.parametrize("step", [1, 10**12])
def test_requests_are_numbered_whatever_their_groups_are_called(data, step):
    group = data.events["impression"].group * step - 5
    plain_row = evaluator_of(data).evaluate(scores_of, "test")
    named = evaluator_of(with_column(data, group=group))
    assert named.requests("test").count <= 2 * plain_row.counts["impressions"]
    for name, value in named.evaluate(scores_of, "test").metrics.items():
        assert value == pytest.approx(plain_row.metrics[name], rel=1e-12), name


def test_without_groups_there_are_no_metrics_of_requests(data):
    row = evaluator_of(with_column(data, group=None)).evaluate(scores_of, "test")
    assert set(row.metrics) == set(metric_names(LABELS, CONFIG.cutoffs, has_requests=False))
    assert row.description.endswith("ranked per user")


def test_impressions_of_nobody_are_left_out_and_counted(data):
    events = data.events["impression"]
    users = events.ids("user").copy()
    rows = np.flatnonzero(events.split == SPLITS["test"])
    request = events.group[rows[0]]
    users[events.group == request] = -1
    nodes = {**events.nodes, "user": EventNodes("user", users)}
    row = evaluator_of(with_column(data, nodes=nodes)).evaluate(scores_of, "test")
    missing = int((events.group[rows] == request).sum())
    assert row.counts["impressions of nobody, left out"] == missing
    assert row.counts["impressions"] == len(rows) - missing


def test_a_split_that_is_scattered_over_the_table_is_evaluated_in_whole(data):
    events = data.events["impression"]
    split = np.where(events.group % 3 == 0, SPLITS["test"], 0).astype(np.int8)
    scattered = with_column(data, split=split)
    rows = np.flatnonzero(split == SPLITS["test"])
    row = evaluator_of(scattered).evaluate(scores_of, "test")
    requests = np.unique(events.group[rows], return_inverse=True)[1]
    whole = measured(scores_of(rows), Answers(data).answers(rows), events.ids("user")[rows], requests, labels=LABELS)
    assert row.metrics == pytest.approx(whole.metrics)


def test_baselines_beat_chance_and_the_oracle_beats_them(data):
    evaluator = evaluator_of(data)
    rows = {name: evaluator.evaluate(of, "test").metrics for name, of in evaluator.baseline_scorers().items()}
    assert list(rows) == [*LIVE_BASELINES, "oracle"]
    assert min(of["auc"] for of in rows.values()) > 0.52
    for metric in ("auc", "gauc", "ndcg@3"):
        assert max(rows, key=lambda name: rows[name][metric]) == "oracle"
    assert rows["oracle"]["auc_bag"] > 0.5
    assert 0.9 < rows["oracle"]["calibration_ratio"] < 1.1
    assert "logloss" in rows["watch_rate"] and "logloss" not in rows["popularity"]


def test_there_is_no_oracle_of_a_label_that_is_more_than_its_column(data):
    labels = (Label("watched", "watched", measured="stay_seconds", minimum=20.0),)
    assert "oracle" not in evaluator_of(data, labels=labels).baseline_scorers()


def test_unknown_ids_are_counted_over_the_split(data):
    events, known = data.events["impression"], Answers(data)
    rows = np.flatnonzero(events.split == SPLITS["test"])
    assert evaluator_of(data).unknown("test") == known.unknown(rows)


def test_nan_scores_name_the_user_by_its_own_id(data):
    events = data.events["impression"]
    bad = np.flatnonzero(events.split == SPLITS["test"])[40]

    def score(rows):
        return {"watched": np.where(rows == bad, np.nan, 0.0)}

    with pytest.raises(ranking.NanScoreError, match=str(data.nodes["user"].ids[events.ids("user")[bad]])):
        evaluator_of(data).evaluate(score, "test")


def test_what_cannot_be_ranked_is_refused_with_the_remedy(data):
    evaluator = evaluator_of(data)
    evaluator.check("test", "impressions")
    with pytest.raises(ConfigError, match="choose one of: impressions"):
        evaluator.check("test", "candidates")
    with pytest.raises(ConfigError, match="cannot evaluate split 'train'"):
        evaluator.evaluate(scores_of, "train")
    events = data.events["impression"]
    nobody = {**events.values, "watched": np.zeros(len(events), bool)}
    for changed in (with_column(data, values=nobody), with_column(data, split=np.zeros(len(events), np.int8))):
        with pytest.raises(DataError, match=r"there are not both positives and negatives of 'watched'"):
            evaluator_of(changed).check("test", "impressions")
        with pytest.raises(DataError, match="hold other events out"):
            evaluator_of(changed).evaluate(scores_of, "test")


def test_a_request_of_two_users_is_refused(data):
    events = data.events["impression"]
    mixed = with_column(data, group=np.zeros(len(events), np.int64))
    with pytest.raises(DataError, match="group 0 has impressions of two users"):
        evaluator_of(mixed).evaluate(scores_of, "test")


def test_impressions_of_rooms_that_are_not_live_are_left_out_and_counted():
    data = split_world()
    impression, rooms = data.events["impression"], data.availability["room"]
    gone = impression.ids("room")[np.flatnonzero(impression.split == TEST)[5]]
    end = rooms.end.copy()
    end[gone] = np.nextafter(rooms.start[gone], np.inf)
    away = data.replace(availability={**data.availability, "room": dataclasses.replace(rooms, end=end)})
    outside = (impression.split == TEST) & (impression.ids("room") == gone) & (impression.time >= end[gone])
    assert outside.sum() > 0
    evaluator = evaluator_of(away)
    row = evaluator.evaluate(scores_of, "test")
    assert row.counts["impressions while the room was not available, left out"] == outside.sum()
    seen = np.concatenate([block.rows for block in evaluator.scored(scores_of, "test")])
    np.testing.assert_array_equal(seen, np.flatnonzero((impression.split == TEST) & ~outside))
    assert (
        "impressions while the room was not available, left out"
        not in evaluator_of(data).evaluate(scores_of, "test").counts
    )


def test_a_room_is_shown_from_its_start_on_and_at_its_end_no_more():
    data = split_world()
    impression, rooms = data.events["impression"], data.availability["room"]
    row = np.flatnonzero(impression.split == TEST)[0]
    room, moment = impression.ids("room")[row], impression.time[row]
    for start, end, is_there in ((moment, moment + 1, True), (moment - 1, moment, False)):
        ends, starts = rooms.end.copy(), rooms.start.copy()
        starts[room], ends[room] = start, end
        moved = data.replace(availability={"room": dataclasses.replace(rooms, start=starts, end=ends)})
        found = live_event_rows(moved, impression, TEST, "room")
        listed = np.arange(found.start, found.stop) if isinstance(found, slice) else found
        assert (row in listed) == is_there
