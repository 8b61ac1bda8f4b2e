"""The statistics of a log of live rooms, by hand on a small log and on simulated worlds."""

import math

import numpy as np
import pytest

from lsec_jax.data.csr import count_recent
from lsec_jax.data.live_statistics import live_statistics
from lsec_jax.data.sources.live_world.config import GiftConfig, SocialConfig
from lsec_jax.schema import Availability, DataError, EventNodes, Events, LiveCommerceData, NodeTable
from lsec_jax.training import live_report
from tests.data.live_world.live_worlds import live_world, loaded

NAN = np.float32(np.nan)


def nodes(**ids):
    return {role: EventNodes(role.removeprefix("target_"), np.array(of, np.int32)) for role, of in ids.items()}


def small_log():
    """Three requests, four watches of which one is a repeat; three gifts in minutes 1, 1 and 4 of room 0."""
    impression = Events(
        "impression",
        nodes(user=[0, 0, 1, 1, 0], room=[0, 1, 0, 2, 0], streamer=[0, 1, 0, 0, 0]),
        np.array([0.0, 0.0, 1.0, 1.0, 2.0]) / 24,
        {
            "watched": np.array([True, False, True, True, True]),
            "stay_seconds": np.array([10, NAN, 20, 30, 60], np.float32),
            "share": np.array([1, NAN, 0, 0, 1], np.float32),
            "position": np.array([0, 1, 0, 1, 0], np.float32),
        },
        group=np.array([5, 5, 6, 6, 7]),
    )
    shares = Events(
        "share",
        nodes(user=[0, 0], target_user=[1, 1], scenario=[1, 1]),
        np.zeros(2),
        {"accepted": np.array([True, False])},
    )
    gift = Events(
        "gift",
        nodes(user=[0, 1, 1], room=[0, 0, 0]),
        np.array([65.0, 100.0, 250.0]) / 86_400,
        {"amount": np.array([1, 2, 6], np.float32)},
    )
    response = Events(
        "response",
        nodes(user=[0, 1, 1]),
        np.array([70.0, 110.0, 260.0]) / 86_400,
        {"response": np.array([0.75, 0.25, 0.5], np.float32)},
        parent=("gift", np.arange(3)),
    )
    tables = {name: NodeTable(name, np.arange(3)) for name in ("user", "room", "streamer", "scenario")}
    events = {table.name: table for table in (impression, shares, gift, response)}
    windows = Availability(np.array([0.0, 0.0, 0.0]), np.array([600.0, 300.0, 60.0]) / 86_400)
    return LiveCommerceData("log", tables, {}, events=events, availability={"room": windows})


def test_statistics_of_a_small_log_are_those_counted_by_hand():
    found = live_statistics(small_log())
    feed = found.feed
    assert (feed.num_impressions, feed.num_requests, feed.num_users, feed.num_rooms) == (5, 3, 2, 3)
    assert feed.watch_rate == 0.8 and feed.watches_per_request == pytest.approx(4 / 3)
    assert feed.repeat_share == 0.5  # user 1 in room 2 and user 0 at the end, both of streamer 0
    assert (feed.mean_stay_seconds, feed.median_stay_seconds) == (30.0, 25.0)
    assert feed.rates == {"share": 0.5}
    np.testing.assert_allclose(feed.watch_rate_by_position, [1.0, 0.5])
    np.testing.assert_array_equal(feed.watches_of_rooms, [3, 1, 0])
    assert found.shares.num_shares == 2 and found.shares.accepted == 0.5 and found.shares.head_share == 1.0
    gifts = found.gifts
    assert gifts.num_gifts == 3 and gifts.mean_amount == 3.0 and gifts.within_a_minute == pytest.approx(1 / 3)
    cells = np.zeros(10 + 5 + 1)  # minutes of the three rooms
    cells[1], cells[4] = 2, 1
    assert gifts.fano_factor == pytest.approx(cells.var() / cells.mean())
    np.testing.assert_allclose(gifts.responses[:2], [(0.75 + 0.5) / 2, 0.25])
    assert np.isnan(gifts.responses[2:]).all() and gifts.num_responses.tolist() == [2, 1, 0, 0, 0, 0]


def test_the_unit_of_times_changes_only_what_is_in_minutes():
    data = small_log()
    seconds = {
        name: Events(name, of.nodes, of.time * 86_400, of.values, group=of.group, parent=of.parent)
        for name, of in data.events.items()
    }
    windows = data.availability["room"]
    windows = Availability(windows.start * 86_400, windows.end * 86_400)
    other = live_statistics(data.replace(events=seconds, availability={"room": windows}), "seconds")
    assert other.gifts.fano_factor == pytest.approx(live_statistics(data).gifts.fano_factor)
    assert live_statistics(data.replace(availability={})).gifts.fano_factor is not None
    assert math.isnan(live_statistics(data.replace(availability={})).gifts.fano_factor)


def test_recent_events_are_those_of_the_place_in_the_window():
    rng = np.random.default_rng(0)
    places, times = rng.integers(0, 4, 300), np.sort(rng.integers(0, 200, 300) / 10)
    expected = [((places == p) & (times < t) & (times >= t - 1.05)).sum() for p, t in zip(places, times, strict=True)]
    np.testing.assert_array_equal(count_recent(places, times, 1.05), expected)


def test_bursts_repeats_and_long_tails_of_the_simulated_world_are_measured():
    found = live_statistics(loaded())
    assert 0.55 < found.feed.repeat_share < 0.75
    assert found.feed.repeat_share_by_tenth[-1] > found.feed.repeat_share_by_tenth[0] + 0.2
    assert (np.diff(found.feed.watch_rate_by_position) < 0.02).all()
    calm = live_statistics(live_world(num_impressions=30_000, gifts=GiftConfig(rate=1.0, excitation=0.0))).gifts
    assert found.gifts.fano_factor > calm.fano_factor + 0.3
    assert found.gifts.responses[0] > np.nanmean(found.gifts.responses[3:])


def test_logs_without_shares_and_gifts_have_statistics_too():
    data = live_world(social=SocialConfig(num_friends=0.0), gifts=GiftConfig(rate=0.0))
    found = live_statistics(data)
    assert found.shares is None and found.gifts is None
    text = "\n".join(live_report.markdown(live_report.summary(found)))
    assert "| impressions | 4000 |" in text and "gifts" not in text
    live_report.figure(found)
    with pytest.raises(DataError, match="has no events 'impression'"):
        live_statistics(data.replace(events={}))


def test_the_report_has_every_statistic_and_the_picture_four_panels():
    found = live_statistics(small_log())
    content = live_report.summary(found)
    text = "\n".join(live_report.markdown(content))
    for part in ("| impressions that are watched | 80.0% |", "| shares, and those accepted | 2, 50.0% |"):
        assert part in text
    assert "| mean response after 1 gifts in the minute before | 0.250 |" in text and "nan" not in text
    assert content["gifts"]["mean_response_by_gifts_in_the_minute_before"]["16+"] is None
    assert len(live_report.figure(found).axes) == 4
