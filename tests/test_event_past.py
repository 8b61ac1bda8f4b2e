"""What was known before a moment: against loops over all earlier events."""

import numpy as np
import pytest

from lsec_jax.event_past import Exposure, ImpressionPast, Past, pair_keys
from lsec_jax.schema import DataError, EventNodes, Events
from tests.data.live_world.live_worlds import loaded


def impressions(num_rows=300, seed=0):
    """Random impressions with many equal times, and some without a user or a streamer."""
    generator = np.random.default_rng(seed)
    nodes = {
        role: EventNodes(role, generator.integers(-1, size, num_rows).astype(np.int32))
        for role, size in (("user", 8), ("streamer", 6), ("room", 20))
    }
    times = np.sort(generator.integers(0, 40, num_rows)).astype(np.float64) + 0.5
    watched = np.where(generator.random(num_rows) < 0.1, np.nan, generator.random(num_rows) < 0.4).astype(np.float32)
    return Events("impression", nodes, times, {"watched": watched})


def earlier(events, row, delay, roles):
    """Rows strictly before a row that have the same known ids as it."""
    is_one = events.time + delay < events.time[row]
    for ids in map(events.ids, roles):
        is_one &= (ids == ids[row]) & (ids >= 0)
    return np.flatnonzero(is_one)


@pytest.mark.parametrize("delay", [0.0, 2.0, 2.25])
def test_what_was_known_is_what_a_loop_over_earlier_rows_finds(delay):
    events = impressions()
    past = ImpressionPast(events, "user", "streamer", events.value("watched") > 0, 6, delay)
    rows = np.random.default_rng(1).permutation(len(events))[:200]
    known = past.known(rows)
    is_watch = events.value("watched") > 0
    for at, row in enumerate(rows):
        pair, owner, user = (
            earlier(events, row, delay, roles) for roles in (["user", "streamer"], ["streamer"], ["user"])
        )
        assert known.pair_watches[at] == is_watch[pair].sum()
        assert known.pair_last_watch[at] == events.time[pair[is_watch[pair]]].max(initial=-np.inf)
        assert known.owner_watches[at] == is_watch[owner].sum()
        assert known.owner_impressions[at] == len(owner)
        assert known.owner_first_shown[at] == events.time[owner].min(initial=np.inf)
        assert known.user_impressions[at] == len(user)
        assert known.user_watches[at] == is_watch[user].sum()
    assert known.pair_watches.max() > 1


@pytest.mark.parametrize("window", [0.5, 3.0, 100.0])
@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_counts_within_a_window_are_those_of_a_loop(window, delay):
    generator = np.random.default_rng(0)
    keys, times = generator.integers(-1, 5, 80), generator.integers(0, 30, 80).astype(np.float64)
    wanted, moments = generator.integers(-1, 7, 60), generator.integers(-2, 35, 60) / 2
    found = Past(keys, times, delay).count_within(wanted, moments, window)
    slow = [
        np.sum((keys == key) & (key >= 0) & (times >= moment - window) & (times + delay < moment))
        for key, moment in zip(wanted, moments, strict=True)
    ]
    np.testing.assert_array_equal(found, slow)


def test_events_of_the_very_moment_do_not_count():
    past = Past(np.array([3, 3, 3]), np.array([1.0, 2.0, 2.0]))
    keys, moments = np.array([3, 3, 3]), np.array([1.0, 2.0, 2.5])
    np.testing.assert_array_equal(past.count(keys, moments), [0, 1, 3])
    np.testing.assert_array_equal(past.last(keys, moments), [-np.inf, 1.0, 2.0])
    np.testing.assert_array_equal(past.first(keys, moments), [np.inf, 1.0, 1.0])
    np.testing.assert_array_equal(past.count_within(keys, moments, 1.0), [0, 1, 2])


def test_later_rows_change_nothing_that_was_known_before():
    events = impressions()
    known = ImpressionPast(events, "user", "streamer", events.value("watched") > 0, 6).known(np.arange(200))
    first = events.take(np.arange(200))
    fewer = ImpressionPast(first, "user", "streamer", first.value("watched") > 0, 6).known(np.arange(200))
    for name, values in vars(known).items():
        np.testing.assert_array_equal(values, getattr(fewer, name), err_msg=name)


@pytest.mark.parametrize("window", [1.0, 7.0])
def test_exposure_is_that_of_a_loop_and_not_told_where_the_log_is_too_short(window):
    events = impressions()
    rows = np.arange(len(events))
    unexposed, observed = Exposure(events, "room").is_unexposed(rows, window)
    for row in rows:
        shown = earlier(events, row, 0.0, ["room"])
        is_observed = events.time[row] - window >= events.time[0] and events.ids("room")[row] >= 0
        assert observed[row] == is_observed
        assert unexposed[row] == (is_observed and not (events.time[shown] >= events.time[row] - window).any())
    assert unexposed.any() and not observed[:3].any()


def test_a_past_without_events_knows_nothing():
    past = Past(np.array([-1]), np.array([1.0]))
    keys, moments = np.array([0, -1]), np.array([5.0, 5.0])
    assert len(past) == 0
    np.testing.assert_array_equal(past.count(keys, moments), [0, 0])
    np.testing.assert_array_equal(past.last(keys, moments), [-np.inf, -np.inf])
    np.testing.assert_array_equal(past.first(keys, moments), [np.inf, np.inf])
    unexposed, observed = Exposure(impressions(0), "room").is_unexposed(np.zeros(0, np.int64), 1.0)
    assert len(unexposed) == len(observed) == 0


def test_pairs_have_keys_of_their_own_and_nobody_has_none():
    first, second = np.array([0, 0, 1, -1, 2], np.int32), np.array([0, 2, 0, 1, -1], np.int32)
    np.testing.assert_array_equal(pair_keys(first, second, 3), [0, 2, 3, -1, -1])


def test_a_negative_delay_is_refused():
    with pytest.raises(DataError, match=r"delay = -1.0: events would be known before"):
        Past(np.array([0]), np.array([1.0]), -1.0)


def test_repeats_on_the_live_world_are_those_that_its_statistics_count():
    events = loaded().events["impression"]
    num_streamers = len(loaded().nodes["streamer"])
    past = ImpressionPast(events, "user", "streamer", events.value("watched") > 0, num_streamers)
    known = past.known(np.arange(len(events)))
    watched = np.flatnonzero(events.value("watched"))
    pairs = pair_keys(events.ids("user")[watched], events.ids("streamer")[watched], num_streamers)
    _, first = np.unique(pairs, return_index=True)
    is_repeat = np.ones(len(watched), bool)
    is_repeat[first] = False
    # Two watches of one streamer in one request are the only difference: neither is before the other.
    differs = (known.pair_watches[watched] > 0) != is_repeat
    assert is_repeat[differs].all() and differs.mean() < 0.02
