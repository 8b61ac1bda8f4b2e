"""Candidates at a moment: what is live then, and records that know nothing of it or later."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.data import declared_columns
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.requests import CANDIDATES, CandidateEvents, live_candidates
from lsec_jax.data.sequences import add_histories
from lsec_jax.declaration import Field, SequenceFields
from lsec_jax.schema import Availability, DataError, Feature
from tests.data.encoded_worlds import FIELDS, HISTORIES, declaration, world

ROWS = np.r_[5:15, 700:710, 1_490:1_500]


def of_impressions(data, rows):
    """Users, rooms and moments of impressions."""
    shown = data.events["impression"]
    return shown.ids("user")[rows], shown.ids("room")[rows], shown.time[rows]


def test_a_room_is_live_from_its_start_on_and_at_its_end_no_more():
    data = world()
    windows = Availability(np.array([1.0, 2.0, -np.inf]), np.array([2.0, 3.0, np.inf]))
    rooms = dataclasses.replace(data.nodes["room"], ids=np.arange(3), features={})
    data = data.replace(nodes={**data.nodes, "room": rooms}, availability={"room": windows})
    for at, live in ((0.999, [2]), (1.0, [0, 2]), (1.999, [0, 2]), (2.0, [1, 2]), (3.0, [2])):
        found = live_candidates(data, "room", at)
        assert found.tolist() == live and found.dtype == np.int32


def test_live_candidates_never_hold_an_ended_or_a_future_room():
    data = world()
    windows = data.availability["room"]
    for at in np.r_[data.events["impression"].time[::100], windows.start[::50], windows.end[::50]]:
        found = live_candidates(data, "room", float(at))
        wanted = [room for room in range(len(windows.start)) if windows.start[room] <= at < windows.end[room]]
        assert found.tolist() == wanted


@pytest.mark.parametrize("is_materialized", [False, True])
def test_a_candidate_that_was_shown_is_encoded_as_its_impression(is_materialized):
    """Given the impression's own features; in any order of the pairs."""
    data, declared = world(), declaration()
    if is_materialized:
        histories = [dataclasses.replace(HISTORIES[0], is_materialized=True)]
        data = add_histories(data.replace(histories={}), histories)
        items = SequenceFields("channels", "watches", 6, (Field("room", "item", table="room"),))
        declared = declaration(sequences=(items,))
    encoder = EventEncoder(data, declared)
    rows = np.random.default_rng(0).permutation(ROWS)
    shown = data.events["impression"]
    given = {name: feature.values[rows] for name, feature in shown.features.items()}
    given["position"] = shown.value("position")[rows]
    found = CandidateEvents(data, declared)(*of_impressions(data, rows), given)
    reader = encoder.reading(found.data, CANDIDATES)
    assert reader.layout == encoder.layout and reader.num_rows == len(rows)
    for other in (reader, EventEncoder(found.data, dataclasses.replace(declared, events=CANDIDATES), encoder.fitted)):
        batch, wanted = other.encode(found.rows), encoder.encode(rows)
        for name, ids in wanted["ids"].items():
            np.testing.assert_array_equal(batch["ids"][name], ids)
        for name, mask in wanted["masks"].items():
            np.testing.assert_array_equal(batch["masks"][name], mask)
        for name in ("numbers", "users"):
            np.testing.assert_array_equal(batch[name], wanted[name])
        assert np.isnan(batch["labels"]).all()
    assert wanted["masks"]["channels"].any()
    np.testing.assert_array_equal(encoder.encode(rows)["labels"], encoder.answers(rows))  # it still reads its own


def test_candidates_see_the_histories_of_impressions_at_their_moment():
    """Of every impression, with the delay after which behaviours are known."""
    data, rows = world(), np.arange(1_500)
    found = CandidateEvents(data, declaration())(*of_impressions(data, rows))
    for histories in found.data.histories.values():
        np.testing.assert_array_equal(histories.ends[CANDIDATES][found.rows], histories.ends["impression"])
    assert data.histories["clicks"].delay > 0


def test_features_are_those_of_the_newest_event_before_the_moment():
    data = world()
    shown = data.events["impression"]
    users, rooms, times = of_impressions(data, ROWS)
    found = CandidateEvents(data, declaration())(users, rooms, times)
    table = found.data.events[CANDIDATES]
    stale = 0
    for row, room, time in zip(found.rows, rooms, times, strict=True):
        before = [i for i in range(1_500) if shown.ids("room")[i] == room and shown.time[i] < time]
        stale += bool(before)
        for name, feature in shown.features.items():
            value = table.feature(name).values[row]
            if before:
                assert value == feature.values[before[-1]]
            else:
                assert np.isnan(value)
    assert 0 < stale < len(ROWS)
    assert all(np.isnan(values).all() for values in table.values.values())


def test_the_owner_comes_from_hosts_or_else_from_earlier_events():
    data = world()
    users, rooms, times = of_impressions(data, ROWS)
    hosts = data.relations["hosts"]
    wanted = dict(zip(hosts.target_ids.tolist(), hosts.source_ids.tolist(), strict=True))
    found = CandidateEvents(data, declaration())(users, rooms, times)
    streamers = found.data.events[CANDIDATES].ids("streamer")[found.rows]
    assert streamers.tolist() == [wanted[room] for room in rooms]
    without = data.replace(relations={name: of for name, of in data.relations.items() if name != "hosts"})
    found = CandidateEvents(without, declaration())(users, rooms, times)
    shown, known = data.events["impression"], 0
    for streamer, room, time in zip(
        found.data.events[CANDIDATES].ids("streamer")[found.rows], rooms, times, strict=True
    ):
        seen = ((shown.ids("room") == room) & (shown.time < time)).any()
        known += seen
        assert streamer == (wanted[room] if seen else -1)
    assert 0 < known < len(ROWS)


def test_what_happens_at_the_moment_or_later_does_not_count():
    """Records of the past stay the same when everything from the moment on is taken out of the log."""
    data, declared = world(), declaration()
    encoder = EventEncoder(data, declared)
    moment = data.events["impression"].time[1_200]
    users = np.unique(data.events["impression"].ids("user")[:1_200])[:12]
    rooms = live_candidates(data, "room", moment)
    pairs = np.repeat(users, len(rooms)), np.tile(rooms, len(users)), np.full(len(users) * len(rooms), moment)
    events = {name: of.take(of.time < moment) for name, of in data.events.items()}
    past = add_histories(data.replace(events=events, histories={}), HISTORIES)
    batches = []
    for log in (data, past):
        found = CandidateEvents(log, declared)(*pairs)
        other = EventEncoder(found.data, dataclasses.replace(declared, events=CANDIDATES), encoder.fitted)
        batches.append(other.encode(found.rows))
    for name in ("numbers", "users"):
        np.testing.assert_array_equal(batches[0][name], batches[1][name])
    for kind in ("ids", "masks"):
        for name, values in batches[0][kind].items():
            np.testing.assert_array_equal(values, batches[1][kind][name])
    assert batches[0]["masks"]["channels"].any() and np.isfinite(batches[0]["numbers"]).all()
    groups = found.data.events[CANDIDATES].group[found.rows].reshape(len(users), -1)
    assert (groups == groups[:, :1]).all() and len(np.unique(groups)) == len(users)


def test_flags_that_fields_show_are_false_and_others_unknown():
    data = world()
    shown = data.events["impression"]
    flags = {"is_friday": shown.ids("user") % 2 == 0, "other": shown.ids("user") % 3 == 0}
    data = data.replace(events={**data.events, "impression": dataclasses.replace(shown, values=shown.values | flags)})
    declared = declaration(fields=(*FIELDS, Field("friday", ".is_friday", "context")))
    encoder = EventEncoder(data, declared)
    found = CandidateEvents(data, declared)(*of_impressions(data, ROWS))
    table = found.data.events[CANDIDATES]
    assert not table.value("is_friday").any() and table.value("is_friday").dtype == bool
    assert np.isnan(table.value("other")).all()
    assert encoder.reading(found.data, CANDIDATES).layout == encoder.layout


def test_only_what_is_new_in_candidates_is_checked_again(monkeypatch):
    data, checked, check = world(), [], declared_columns.check_logarithm
    monkeypatch.setattr(
        declared_columns, "check_logarithm", lambda *given: (checked.append(given[2].place[1]), check(*given))
    )
    encoder = EventEncoder(data, declaration())
    assert {"stay_seconds", "viewers"} <= {*checked} and len(checked) > 2
    found = CandidateEvents(data, declaration())(*of_impressions(data, ROWS))
    checked.clear()
    encoder.reading(found.data, CANDIDATES)
    assert checked == ["viewers"]
    table = found.data.events[CANDIDATES]
    viewers = dataclasses.replace(table.features["viewers"], values=np.full(len(table), -1.0, np.float32))
    negative = dataclasses.replace(table, features={**table.features, "viewers": viewers})
    with pytest.raises(ConfigError, match="log1p"):
        encoder.reading(found.data.replace(events={**found.data.events, CANDIDATES: negative}), CANDIDATES)


def test_an_encoder_reads_no_data_with_other_nodes():
    encoder = EventEncoder(world(), declaration())
    with pytest.raises(DataError, match="other nodes than the encoder's; make a new encoder with its `fitted`"):
        encoder.reading(world(1), "impression")


def with_ended(changes):
    """One pair of an impression, changed."""
    users, rooms, times = of_impressions(world(), ROWS[:2])
    return {"user_ids": users, "target_ids": rooms, "times": times} | changes


WRONG = {
    "too late": (
        {"times": np.array([1e3, 1e3])},
        r"candidate 0 \(2 in all\): room room_\d+ is available from .* not at",
    ),
    "too early": ({"times": np.array([-1.0, -1.0])}, r"not at -1.0; `live_candidates` gives those that are"),
    "no time": ({"times": np.array([np.nan, 1.0])}, "a candidate's time is not finite"),
    "no such room": ({"target_ids": np.array([0, 10**6])}, r"candidates' room ids go from 0 to 1000000; there are"),
    "nobody": ({"user_ids": np.array([-1, 0])}, r"candidates' user ids go from -1 to 0; there are"),
    "lengths": ({"user_ids": np.array([0])}, r"differ in length: \{'users': 1, 'targets': 2, 'times': 2\}"),
    "no such streamer": (
        {"given": {"streamer": np.array([-1, 10**6])}},
        "candidates' streamer ids go from -1 to 1000000; there are",
    ),
    "given twice": (
        {"given": {"room": np.zeros(2, int)}},
        "'room' of candidates is given twice; each pair has",
    ),
    "column": ({"given": {"mood": np.zeros(2)}}, r"events 'impression' have no 'mood'; they have: user, room"),
}


@pytest.mark.parametrize("case", WRONG)
def test_candidates_that_cannot_be_are_refused(case):
    changes, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        CandidateEvents(world(), declaration())(**with_ended(changes))


def test_availability_that_is_not_known_is_refused():
    with pytest.raises(DataError, match=r"does not say when streamer nodes are available, only: .*room"):
        live_candidates(world(), "streamer", 1.0)
    with pytest.raises(DataError, match="the time of a request is nan"):
        live_candidates(world(), "room", float("nan"))


def test_vectors_and_categories_of_events_are_taken_over_too():
    data = world()
    shown = data.events["impression"]
    rng = np.random.default_rng(0)
    extra = {
        "scene": Feature("categorical", rng.integers(-1, 2, 1_500).astype(np.int32), ("home", "tab")),
        "message": Feature("vector", rng.random((1_500, 2)).astype(np.float32)),
    }
    shown = dataclasses.replace(shown, features={**shown.features, **extra})
    data = data.replace(events={**data.events, "impression": shown})
    found = CandidateEvents(data, declaration())(*of_impressions(data, ROWS))
    table = found.data.events[CANDIDATES].take(found.rows)
    for at, row in enumerate(ROWS):
        before = np.flatnonzero((shown.ids("room") == shown.ids("room")[row]) & (shown.time < shown.time[row]))
        if len(before):
            assert table.feature("scene").values[at] == extra["scene"].values[before[-1]]
            np.testing.assert_array_equal(table.feature("message").values[at], extra["message"].values[before[-1]])
        else:
            assert table.feature("scene").values[at] == -1 and np.isnan(table.feature("message").values[at]).all()
