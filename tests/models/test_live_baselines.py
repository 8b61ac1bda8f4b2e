"""Baselines of impressions against loops over the past of each row."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import LIVE_BASELINES, ConfigError, SplitConfig
from lsec_jax.data.splits import assign_splits
from lsec_jax.models.live_baselines import LiveBaselines, owner_role
from lsec_jax.schema import TEST, TRAIN, DataError, EventNodes, Events, LiveCommerceData, NodeTable
from tests.data.live_world.live_worlds import loaded

WINDOW, SHRINKAGE = 6.0, 5.0
COLUMNS = {"watched": "watched"}


def log(num_rows=400):
    """Random impressions of 7 streamers in 30 rooms with equal times; the last 150 are the test's."""
    generator = np.random.default_rng(0)
    rooms = generator.integers(30, size=num_rows)
    nodes = {"user": generator.integers(9, size=num_rows), "room": rooms, "streamer": rooms % 7}
    events = Events(
        "impression",
        {role: EventNodes(role, ids.astype(np.int32)) for role, ids in nodes.items()},
        np.sort(generator.integers(0, 50, num_rows)).astype(np.float64),
        {"watched": generator.random(num_rows) < 0.3},
        split=np.where(np.arange(num_rows) < num_rows - 150, TRAIN, TEST).astype(np.int8),
    )
    tables = {name: NodeTable(name, np.arange(size)) for name, size in (("user", 9), ("room", 30), ("streamer", 7))}
    return LiveCommerceData("log", tables, {}, events={"impression": events})


def baselines(data, columns=COLUMNS):
    task = next(iter(columns))
    is_watch = data.events["impression"].value(columns[task]) > 0
    return LiveBaselines(data, "impression", "user", "room", task, is_watch, columns, WINDOW, SHRINKAGE)


def slow_scores(events, row):
    """Transcription of the definitions, of one row."""
    users, owners, times, watched = events.ids("user"), events.ids("streamer"), events.time, events.value("watched")
    train, before = events.split == TRAIN, times < times[row]
    of_owner, of_user = owners == owners[row], users == users[row]
    popularity = np.array([np.sum(watched & train & (owners == owner)) for owner in range(7)] + [0])
    places = np.searchsorted(np.unique(popularity), popularity)
    own = np.flatnonzero(watched & before & of_owner & of_user)
    return {
        "popularity": popularity[owners[row]],
        "recent_popularity": np.sum(watched & of_owner & before & (times >= times[row] - WINDOW)),
        "watch_rate": (np.sum(watched & before & of_owner) + SHRINKAGE * np.mean(watched[train]))
        / (np.sum(before & of_owner) + SHRINKAGE),
        "last_watched": times[own].max() - times[row] if len(own) else None,
        "own_counts": len(own) + places[owners[row]] / (places.max() + 1),
    }


def test_scores_are_those_of_a_loop_over_the_past_of_each_row():
    data = log()
    events, rows = data.events["impression"], np.flatnonzero(data.events["impression"].split == TEST)
    found = {name: baselines(data).scorer(name)(rows)["watched"] for name in LIVE_BASELINES}
    never = []
    for at, row in enumerate(rows):
        for name, value in slow_scores(events, row).items():
            if value is None:
                never.append(found[name][at])
            else:
                assert found[name][at] == pytest.approx(value, rel=1e-6), name
    known = np.setdiff1d(found["last_watched"], never)
    assert len(never) > 5 and len(known) > 5 and max(never) < known.min()


def test_only_the_past_of_a_row_counts():
    data = log()
    events = data.events["impression"]
    watched = events.value("watched").copy()
    last = np.flatnonzero(events.time == events.time[-10])
    watched[last[0] :] = ~watched[last[0] :]
    other = data.replace(events={"impression": dataclasses.replace(events, values={"watched": watched})})
    for name in LIVE_BASELINES:
        rows = np.arange(last[-1] + 1)
        np.testing.assert_array_equal(
            baselines(data).scorer(name)(rows)["watched"], baselines(other).scorer(name)(rows)["watched"], err_msg=name
        )


def test_blocks_of_rows_have_the_scores_of_all_rows_at_once():
    data = log()
    for name in LIVE_BASELINES:
        scorer = baselines(data).scorer(name)
        rows = np.random.default_rng(0).permutation(400)
        parts = np.concatenate([scorer(part)["watched"] for part in np.array_split(rows, 7)])
        np.testing.assert_array_equal(parts, scorer(np.arange(400))["watched"][rows])


def test_without_streamers_the_target_itself_is_counted():
    data = log()
    events = data.events["impression"]
    rooms_only = dataclasses.replace(events, nodes={role: events.nodes[role] for role in ("user", "room")})
    found = baselines(data.replace(events={"impression": rooms_only})).scorer("popularity")(np.arange(400))["watched"]
    train = (events.split == TRAIN) & events.value("watched")
    np.testing.assert_array_equal(found, np.bincount(events.ids("room")[train], minlength=30)[events.ids("room")])
    assert owner_role(rooms_only, "room") == "room" and owner_role(events, "room") == "streamer"


def test_the_oracle_gives_the_worlds_probabilities_of_the_tasks_that_it_knows():
    data = assign_splits(loaded(), SplitConfig(method="time"), ["buy"])
    found = baselines(data, {"watched": "watched", "bag": "goods_bag_click", "place": "position"}).oracle()
    rows = np.array([5, 3, 100])
    assert found is not None and found.output == "probabilities"
    scores = found(rows)
    assert scores.keys() == {"watched", "bag"}
    np.testing.assert_array_equal(scores["bag"], data.truth.expected("impression", "goods_bag_click")[rows])
    assert baselines(log()).oracle() is None
    assert baselines(data, {"place": "position"}).oracle() is None


def test_rows_without_a_split_are_training_rows_before_the_first_cut():
    data = log()
    events = data.events["impression"]
    cut = events.time[250] + 0.5
    unsplit = dataclasses.replace(events, split=None)
    by_time = baselines(data.replace(events={"impression": unsplit}, cut_times=(cut, cut + 1)))
    train = (events.time < cut) & events.value("watched")
    found = by_time.scorer("popularity")(np.arange(400))["watched"]
    np.testing.assert_array_equal(found, np.bincount(events.ids("streamer")[train])[events.ids("streamer")])


def test_unknown_names_and_missing_splits_are_refused():
    data = log()
    with pytest.raises(ConfigError, match="choose one of: popularity, recent_popularity"):
        baselines(data).scorer("oracle")
    with pytest.raises(DataError, match="have no 'item'"):
        LiveBaselines(data, "impression", "item", "room", "watched", np.zeros(400, bool), COLUMNS, WINDOW, SHRINKAGE)
    unsplit = dataclasses.replace(data.events["impression"], split=None)
    with pytest.raises(DataError, match="no splits yet"):
        baselines(data.replace(events={"impression": unsplit}))
