"""Impressions in parts: who belongs to which, and how much of what is ranked first had not been shown lately."""

import json

import numpy as np
import pytest

from lsec_jax.schema import SPLITS
from lsec_jax.training import event_parts
from tests.impressions import measured
from tests.training.live_impressions import LABELS, Answers, evaluator_of, scores_of, split_world, with_column

DAYS = (0.5, 2.0, 500.0)


@pytest.fixture(scope="module")
def data():
    return split_world()


@pytest.fixture(scope="module")
def found(data):
    return event_parts.examine(evaluator_of(data), scores_of, "test", DAYS)


def slow_parts(data):
    """Rows of the test split by part, by going through what was before each row."""
    events = data.events["impression"]
    users, streamers, times = events.ids("user"), events.ids("streamer"), events.time
    watched, train = events.value("watched"), events.split == 0
    rows = np.flatnonzero(events.split == SPLITS["test"])
    parts = {name: [] for name in ("repeat", "new", "unseen", "streamer", "room")}
    for row in rows:
        before = watched & (times < times[row]) & (streamers == streamers[row])
        parts["repeat" if (before & (users == users[row])).any() else "new"].append(row)
        if not before.any():
            parts["unseen"].append(row)
        for role in ("streamer", "room"):
            if events.ids(role)[row] not in events.ids(role)[train]:
                parts[role].append(row)
    before = np.bincount(users[watched & (times < times[rows[0]])], minlength=len(data.nodes["user"]))
    return parts, rows, before[users[rows]]


def metrics_of(data, rows):
    events = data.events["impression"]
    requests = np.unique(events.group[rows], return_inverse=True)[1]
    return measured(scores_of(rows), Answers(data).answers(rows), events.ids("user")[rows], requests, labels=LABELS)


def test_parts_have_the_metrics_of_their_rows(data, found):
    parts, rows, activity = slow_parts(data)
    names = {
        "streamers that the user watched before": parts["repeat"],
        "streamers new to the user": parts["new"],
        "streamers that nobody watched before": parts["unseen"],
        "streamers not in training": parts["streamer"],
        "rooms not in training": parts["room"],
    }
    of_users = np.sort(
        np.array(list(dict(zip(data.events["impression"].ids("user")[rows], activity, strict=True)).values()))
    )
    low, high = of_users[-(-len(of_users) // 3) - 1], of_users[-(-2 * len(of_users) // 3) - 1]
    names[f"users of up to {low} watches before"] = rows[activity <= low]
    names[f"users of {low + 1} to {high} watches before"] = rows[(activity > low) & (activity <= high)]
    names[f"users of more than {high} watches before"] = rows[activity > high]
    assert [part.name for part in found.parts] == list(names)
    for part, of_part in zip(found.parts, names.values(), strict=True):
        assert part.counts["impressions"] == len(of_part), part.name
        if len(of_part):
            expected = metrics_of(data, np.array(of_part))
            assert part.metrics == pytest.approx(expected.metrics), part.name
    assert len(parts["repeat"]) > 100 and len(parts["new"]) > 100


def test_all_impressions_together_have_the_metrics_of_an_evaluation(data, found):
    row = evaluator_of(data).evaluate(scores_of, "test")
    assert found.row.metrics == row.metrics and found.row.counts == row.counts
    assert found.unknown == evaluator_of(data).unknown("test")


def test_discoverability_is_that_of_a_loop_over_requests(data, found):
    events = data.events["impression"]
    rows = np.flatnonzero(events.split == SPLITS["test"])
    scores = dict(zip(rows, scores_of(rows)["watched"], strict=True))
    assert [(of.role, of.days) for of in found.discoverability] == [
        (role, days) for role in ("room", "streamer") for days in DAYS
    ]
    for of in found.discoverability:
        ids, shares, num_new, num_rows = events.ids(of.role), [], 0, 0
        for request in np.unique(events.group[rows]):
            shown = rows[events.group[rows] == request]
            if events.time[shown[0]] - of.days < events.time[0]:
                continue
            lately = (events.time >= events.time[shown[0]] - of.days) & (events.time < events.time[shown[0]])
            is_new = {row: ids[row] not in ids[lately] for row in shown}
            first = sorted(shown, key=lambda row: (-scores[row], is_new[row]))[:3]
            shares.append(np.mean([is_new[row] for row in first]))
            num_new, num_rows = num_new + sum(is_new.values()), num_rows + len(shown)
        assert of.num_requests == len(shares)
        if shares:
            assert of.top_shares[3] == pytest.approx(np.mean(shares), rel=1e-12)
            assert of.share == pytest.approx(num_new / num_rows, rel=1e-12)
        else:
            assert of.days == 500 and np.isnan(of.share)
    assert found.discoverability[0].share > 0.01


def test_the_report_shows_every_part_that_has_impressions_and_what_is_not_known_as_a_dash(found):
    text = event_parts.markdown({"random": found}, ("auc", "ndcg@3"))
    for part in found.parts:
        size = part.counts["impressions"]
        assert (f"| random | {part.name} | {size} |" in text) == (size > 0)
    assert {part.counts["impressions"] > 0 for part in found.parts} == {True, False}
    assert (
        f"| random | all | 3616 | {found.row.counts['positives'] / 3616:.1%} | {found.row.metrics['auc']:.4f}" in text
    )
    assert "| random | room | 500 | 0 | - | - | - | - |" in text and "nan" not in text
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["parts"][0]["metrics"]["auc"] == found.parts[0].metrics["auc"]
    assert content["discoverability"][2]["share"] is None and content["discoverability"][0]["top_shares"]["3"] > 0


def test_without_requests_there_are_parts_but_no_discoverability(data):
    found = event_parts.examine(evaluator_of(with_column(data, group=None)), scores_of, "test", DAYS)
    assert found.discoverability == () and len(found.parts) == 8
    assert "top 1" not in event_parts.markdown({"random": found}, ("auc",))


def test_an_oracle_is_better_than_chance_in_every_part(data):
    evaluator = evaluator_of(data)
    found = event_parts.examine(evaluator, evaluator.baseline_scorers()["oracle"], "test")
    assert all(part.metrics["auc"] > 0.55 for part in found.parts if part.counts["impressions"] > 200)
