"""Requests at full length: whose they are, what the user did before, and what is ranked first."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.schema import SPLITS
from lsec_jax.training import event_cases, run
from tests import event_runs

NUM_BEFORE = 4  # the length of the sequences


@pytest.fixture(scope="module")
def prepared():
    return run.prepare(event_runs.event_config())


@pytest.fixture(scope="module")
def impressions(prepared):
    return prepared.data.events["impression"]


def by_room(data):
    """Scores that the room alone decides."""
    return lambda rows: {"watched": np.sin(data.events["impression"].ids("room")[rows].astype(float))}


@pytest.fixture(scope="module")
def cases(prepared):
    scorers = {"by room": by_room(prepared.data), "all the same": lambda rows: {"watched": np.zeros(len(rows))}}
    return event_cases.find(prepared.evaluator, prepared.encoder, scorers, "test")


def request_of(prepared, impressions, case):
    """The rows of the case's request: the user's first one in the split with a hit and the same behaviours."""
    users = [f"user {of}" for of in prepared.data.nodes["user"].ids[impressions.ids("user")]]
    own = np.flatnonzero((np.array(users) == case.user) & (impressions.split == SPLITS["test"]))
    for row in own[impressions.value("watched")[own]]:
        if watches_before(prepared, impressions, row) == case.behaviours["watches: streamer_id"]:
            return np.flatnonzero(impressions.group == impressions.group[row])
    raise AssertionError(f"no request of {case.user} has these behaviours")


def watches_before(prepared, impressions, row):
    """Streamers whom the user of a row watched before it, newest first, by going through them."""
    users, times = impressions.ids("user"), impressions.time
    watched = np.flatnonzero((users == users[row]) & impressions.value("watched") & (times < times[row]))
    newest = watched[np.argsort(times[watched], kind="stable")][::-1][:NUM_BEFORE]
    return [str(of) for of in prepared.data.nodes["streamer"].ids[impressions.ids("streamer")[newest]]]


def test_cases_are_of_different_users_with_full_sequences(cases):
    assert len({case.user for case in cases}) == event_cases.NUM_CASES
    for case in cases:
        assert [*case.behaviours] == ["watches: streamer_id", "clicks: item_id"]
        assert all(len(found) == NUM_BEFORE for found in case.behaviours.values())


def test_a_ranking_has_the_rooms_of_the_request_in_the_scorers_order_and_says_which_were_entered(
    prepared, impressions, cases
):
    streamers = prepared.data.nodes["streamer"].ids
    for case in cases:
        rows = request_of(prepared, impressions, case)
        scores = np.sin(impressions.ids("room")[rows].astype(float))
        best = rows[np.argsort(-scores)][: event_cases.NUM_RANKED]
        found = [(text.split()[0], chosen) for text, chosen in case.rankings["by room"]]
        watched = impressions.value("watched")[best]
        owners = [str(of) for of in streamers[impressions.ids("streamer")[best]]]
        assert found == list(zip(owners, watched, strict=True))
        same = [text.split()[0] for text, _ in case.rankings["all the same"]]
        assert same == [str(of) for of in streamers[impressions.ids("streamer")[rows[: event_cases.NUM_RANKED]]]]


def test_what_was_entered_is_bold_and_texts_do_not_break_the_table():
    case = event_cases.Case("user a|b", "streamer", {"watches: streamer": []}, {"din": [("s|1", True), ("s2", False)]})
    assert event_cases.markdown([case]).splitlines() == [
        r"| user a\|b | newest or best first |",
        "|---|---|",
        "| watches: streamer | - |",
        r"| streamer, ranked by din | **s\|1**; s2 |",
    ]


def test_there_are_none_where_requests_are_not_known(prepared, impressions):
    def without(**changes):
        events = {**prepared.data.events, "impression": dataclasses.replace(impressions, **changes)}
        config = event_runs.event_config()
        evaluator = type(prepared.evaluator)(prepared.data.replace(events=events), prepared.encoder, config.evaluation)
        return event_cases.find(evaluator, prepared.encoder, {}, "test")

    assert len(without()) == event_cases.NUM_CASES
    assert without(group=None) == []
