"""Rooms, requests, slates and entering: windows, propensities, probabilities, repeats, streams of random numbers."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsec_jax import config_json
from lsec_jax.config import ConfigError
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world import feed, inside
from lsec_jax.data.sources.live_world import rooms as rooms_module
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.schema import DataError, EventTruth, Truth
from tests.data.live_world.live_worlds import (
    SINGLE,
    assert_inside_watches,
    binned_z_scores,
    live_world,
    loaded,
    z_score,
)

WITHOUT_LIVE = "335d928c76cea55a62d82378e7eef1ff60874e7205555458bb630bea59c90f93"


@pytest.fixture(scope="module")
def world():
    return loaded()


def test_without_the_live_part_the_world_is_what_it_was():
    assert synthetic.tiny().load().fingerprint(version=1) == WITHOUT_LIVE


def test_the_world_validates_and_has_exactly_the_impressions_asked_for(world):
    world.validate()
    assert len(world.events["impression"]) == 30_000
    assert isinstance(world.truth, Truth) and isinstance(world.truth, EventTruth)


def test_rooms_are_the_sessions_of_their_hosts(world):
    hosts, windows, schedule = world.relations["hosts"], world.availability["room"], world.truth.base.schedule
    np.testing.assert_array_equal(hosts.target_ids, np.arange(len(world.nodes["room"])))
    np.testing.assert_array_equal(hosts.source_ids, schedule.streamer_of())
    np.testing.assert_array_equal(windows.start, schedule.start)
    np.testing.assert_array_equal(windows.end, schedule.end)


def test_rooms_are_shown_and_watched_only_while_they_are_live(world):
    impression = world.events["impression"]
    windows, rooms = world.availability["room"], impression.ids("room")
    assert windows.at(impression.time, rooms).all()
    watched, stay = impression.value("watched"), impression.value("stay_seconds").astype(np.float64)
    np.testing.assert_array_equal(np.isnan(stay), ~watched)
    leave = (impression.time + stay / 86_400)[watched]
    assert (leave <= windows.end[rooms[watched]]).all() and (stay[watched] >= 0).all()
    np.testing.assert_array_equal(impression.ids("streamer"), world.relations["hosts"].source_ids[rooms])


def test_a_slate_shows_a_room_once_and_all_of_it_at_one_time_to_one_user(world):
    impression = world.events["impression"]
    group, position = impression.group, impression.value("position")
    assert len(np.unique(group * 10**6 + impression.ids("room"))) == len(group)
    same = group[1:] == group[:-1]
    for column in (impression.time, impression.ids("user")):
        assert (column[1:] == column[:-1])[same].all()
    np.testing.assert_array_equal(position[1:][same], position[:-1][same] + 1)
    assert (position[1:][~same] == 0).all() and (group[1:] >= group[:-1]).all()
    windows = world.availability["room"]
    live = np.array([windows.at(time).sum() for time in impression.time[:2000]])
    sizes = np.bincount(group)[group[:2000]]
    full = group[:2000] < group[1999]
    assert (sizes == np.minimum(live, 8))[full].all()


def test_watches_of_different_requests_of_a_user_never_overlap(world):
    impression = world.events["impression"]
    rows = np.flatnonzero(impression.value("watched"))
    order = rows[np.lexsort((impression.time[rows], impression.ids("user")[rows]))]
    for before, after in itertools.pairwise(order):
        if impression.ids("user")[before] == impression.ids("user")[after] and (
            impression.group[before] != impression.group[after]
        ):
            leave = impression.time[before] + impression.value("stay_seconds")[before] / 86_400
            assert leave <= impression.time[after] + 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rooms_are_entered_with_the_probability_of_the_truth(seed):
    data = loaded(seed)
    watched, truth = data.events["impression"].value("watched"), data.truth.expected("impression", "watched")
    assert abs(z_score(watched, truth)) < 4
    assert np.abs(binned_z_scores(watched, truth)).max() < 4
    assert truth.dtype == np.float32 and len(np.unique(truth)) > 1000


def test_the_calibration_check_fails_for_a_wrong_truth(world):
    watched, truth = world.events["impression"].value("watched"), world.truth.expected("impression", "watched")
    for wrong in (truth * 0.9, np.roll(truth, 8)):
        assert np.abs(binned_z_scores(watched, wrong)).max() > 4 or abs(z_score(watched, wrong)) > 4


def test_clicks_purchases_and_stays_agree_with_the_truth():
    parts = [loaded(seed) for seed in range(3)]
    for column in ("goods_bag_click", "product_click"):
        rows = [data.events["impression"].value("watched") for data in parts]
        outcome = np.concatenate([d.events["impression"].value(column)[r] for d, r in zip(parts, rows, strict=True)])
        truth = np.concatenate([d.truth.expected("impression", column)[r] for d, r in zip(parts, rows, strict=True)])
        assert set(outcome) == {0.0, 1.0} and abs(z_score(outcome, truth)) < 4
    bought = []
    for data in parts:
        after = data.events["purchase"].parent[1]
        bought.append(np.isin(np.arange(len(data.events["product_click"])), after))
        assert len(np.unique(after[after >= 0])) == (after >= 0).sum()
    truth = np.concatenate([data.truth.expected("product_click", "purchase") for data in parts])
    assert abs(z_score(np.concatenate(bought), truth)) < 4
    stays = [data.events["impression"].value("stay_seconds") for data in parts]
    entered = np.concatenate(stays)
    rest = entered - np.concatenate([data.truth.expected("impression", "stay_seconds") for data in parts])
    rest = rest[~np.isnan(entered)].astype(np.float64)
    assert abs(rest.mean()) < 4 * rest.std() / np.sqrt(len(rest))


def test_the_expected_stay_is_that_of_many_draws():
    drawn = np.exp(4.0 + 1.2 * np.random.default_rng(0).normal(size=400_000))
    for limit in (0.0, 20.0, 100.0, 4000.0):
        found = inside.expected_minimum(np.array([4.0]), 1.2, np.array([limit]))[0]
        assert found == pytest.approx(np.minimum(drawn, limit).mean(), rel=0.01)
    np.testing.assert_allclose(inside.expected_minimum(np.log([50.0]), 0.0, np.array([20.0])), 20.0)


def test_the_truth_of_rooms_agrees_with_that_of_the_rows_shown(world):
    impression = world.events["impression"]
    rows = np.flatnonzero(impression.value("position") == 0)[::50]
    users, rooms, times = impression.ids("user")[rows], impression.ids("room")[rows], impression.time[rows]
    enter = world.truth.enter_probabilities(users, times)
    np.testing.assert_allclose(
        enter[np.arange(len(rows)), rooms], world.truth.expected("impression", "watched")[rows], rtol=1e-5
    )
    show = world.truth.show_probabilities(users, times)
    np.testing.assert_allclose(show.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(show[np.arange(len(rows)), rooms], impression.value("propensity")[rows], rtol=1e-5)
    live = np.array([world.availability["room"].at(time) for time in times])
    assert ((enter > 0) == live).all() and ((show > 0) == live).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_weighting_by_propensity_gives_the_watch_rate_of_another_policy(seed):
    """Inverse propensity scoring of the policy that shows an even choice of the live rooms first."""
    data = loaded(seed)
    impression = data.events["impression"]
    rows = np.flatnonzero(impression.value("position") == 0)
    users, times = impression.ids("user")[rows], impression.time[rows]
    enter = data.truth.enter_probabilities(users, times).astype(np.float64)
    num_live = (enter > 0).sum(axis=1)
    true_value = (enter.sum(axis=1) / num_live).mean()
    weights = 1.0 / num_live / impression.value("propensity")[rows]
    terms = weights * impression.value("watched")[rows]
    assert abs(terms.mean() - true_value) < 4 * terms.std() / np.sqrt(len(terms))
    assert weights.mean() == pytest.approx(1.0, abs=4 * weights.std() / np.sqrt(len(weights)))
    logged = impression.value("watched")[rows].mean()
    assert logged > true_value + 4 * terms.std() / np.sqrt(len(terms))  # the logging policy is better


def test_what_speaks_for_rooms_is_counted_from_the_tables_before_the_moment(world):
    """Follows, earlier visits and friends' visits of the day before, against loops over the tables."""
    impression, live = world.events["impression"], world.truth.world
    watched = impression.value("watched")
    days = np.floor(impression.time).astype(int)
    users, streamers = impression.ids("user"), impression.ids("streamer")
    follow, friend = world.relations["follow"], world.relations["friend"]
    seen = np.zeros(3)
    for row in np.random.default_rng(1).permutation(len(impression))[:150]:
        user, time, day = users[row], impression.time[row], days[row]
        rooms = np.flatnonzero(world.availability["room"].at(time))
        found = rooms_module.signals(live, world.truth.known, np.array([user]), np.array([time]), int(day), rooms)
        friends = friend.target_ids[friend.source_ids == user]
        of_user = watched & (users == user) & (days < day)
        of_friends = watched & np.isin(users, friends) & (days == day - 1)
        followed = follow.target_ids[(follow.source_ids == user) & (follow.time < time)]
        for column, streamer in enumerate(live.streamer_of[rooms]):
            expected = [
                float(streamer in followed),
                np.log1p((of_user & (streamers == streamer)).sum()),
                np.log1p((of_friends & (streamers == streamer)).sum()),
            ]
            actual = [of[0, column] for of in (found.follows, found.visits, found.friend_visits)]
            np.testing.assert_allclose(actual, expected, rtol=1e-12)
            seen += np.array(expected) > 0
        same_user, same_time = np.full(len(rooms), user), np.full(len(rooms), time)
        np.testing.assert_allclose(found.taste[0], live.taste_for(same_user, rooms), rtol=1e-12)
        follows = live.follows(same_user, live.streamer_of[rooms], same_time)
        np.testing.assert_array_equal(follows, found.follows[0] > 0)
    assert (seen > 20).all()


def test_slates_are_drawn_with_the_stated_probabilities():
    """Against all ordered slates of three from four live rooms, one of five being off air."""
    weights, live = np.array([0.5, 0.0, 1.0, 0.1, 0.3]), np.array([True, False, True, True, True])
    count, exploration = 60_000, 0.2
    rooms, propensities = feed.draw_slates(
        np.random.default_rng(0).random((count, 3)),
        np.tile(weights, (count, 1)),
        np.tile(live, (count, 1)),
        np.full(count, 3),
        exploration,
    )
    expected = {}
    for slate in itertools.permutations(np.flatnonzero(live), 3):
        chances, left = [], set(np.flatnonzero(live))
        for room in slate:
            by_weight = weights[room] / sum(weights[other] for other in left)
            chances.append((1 - exploration) * by_weight + exploration / len(left))
            left.remove(room)
        expected[slate] = chances
    found, counts = np.unique(rooms, axis=0, return_counts=True)
    assert {tuple(row) for row in found} == set(expected)
    for row, number in zip(found, counts, strict=True):
        chance = np.prod(expected[tuple(row)])
        assert abs(number - count * chance) < 4.5 * np.sqrt(count * chance * (1 - chance))
    at = [expected[tuple(row)] for row in rooms[:200]]
    np.testing.assert_allclose(propensities[:200], at, rtol=1e-12)


def repeat_share(data):
    """Share of visits to a streamer whom the user visited before."""
    impression = data.events["impression"]
    rows = impression.value("watched")
    keys = impression.ids("user")[rows].astype(np.int64) * 10**6 + impression.ids("streamer")[rows]
    return 1 - len(np.unique(keys)) / len(keys)


def test_about_two_thirds_of_visits_are_repeats_and_the_knobs_move_that():
    assert np.mean([repeat_share(loaded(seed)) for seed in range(3)]) == pytest.approx(2 / 3, abs=0.07)
    without = live_world(num_impressions=30_000, enter_repeat=0.0, policy_repeat=0.0)
    assert repeat_share(without) < repeat_share(loaded()) - 0.15


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first, again, other = (live_world(seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_another_knob_leaves_the_draws_of_other_parts_as_they_were():
    plain = live_world().events["impression"]
    eager = live_world(enter_rate=0.2).events["impression"]
    first_day = plain.time < 1.0  # from the second day on, slates depend on visits
    for name in ("user", "room"):
        np.testing.assert_array_equal(plain.ids(name)[first_day], eager.ids(name)[first_day])
    np.testing.assert_array_equal(plain.time, eager.time)
    assert eager.value("watched").mean() > 1.5 * plain.value("watched").mean()
    apart = {"policy_shares": 0.0, "enter_shares": 0.0}  # who accepts a share depends on when it is made
    plain = live_world(**apart).events["impression"]
    lasting = live_world(stay_seconds=500.0, bag_rate=0.0, **apart).events["impression"]
    for column in ("watched", "propensity"):
        np.testing.assert_array_equal(plain.value(column), lasting.value(column))
    assert np.nanmean(lasting.value("stay_seconds")) > 2 * np.nanmean(plain.value("stay_seconds"))


def test_block_sizes_do_not_change_the_world(monkeypatch):
    whole = live_world(num_impressions=2_000).events["impression"]
    monkeypatch.setattr(feed, "BLOCK_CELLS", 40)
    blocked = live_world(num_impressions=2_000).events["impression"]
    np.testing.assert_array_equal(blocked.ids("room"), whole.ids("room"))
    np.testing.assert_array_equal(blocked.value("watched"), whole.value("watched"))
    np.testing.assert_allclose(blocked.value("propensity"), whole.value("propensity"), rtol=1e-5)


def test_purchases_outside_the_feed_are_those_of_the_relation_buy(world):
    purchase, buy, sessions = world.events["purchase"], world.relations["buy"], world.truth.base.purchase_sessions
    outside = np.flatnonzero(purchase.parent[1] < 0)
    assert len(outside) == (sessions >= 0).sum() > 500
    assert world.availability["room"].at(purchase.time, purchase.ids("room")).all()
    pairs = {(u, i) for u, i in zip(buy.source_ids, buy.target_ids, strict=True)}
    assert all((purchase.ids("user")[row], purchase.ids("item")[row]) in pairs for row in outside)


def test_goods_are_clicked_and_bought_where_they_are_shown_and_inside_the_watch(world):
    click, purchase = world.events["product_click"], world.events["purchase"]
    assert_inside_watches(world, click.parent[1], click.time)
    display = world.truth.base.schedule.display
    assert (np.asarray(display[click.ids("room"), click.ids("item")]) > 0).all()
    rows = np.flatnonzero(purchase.parent[1] >= 0)
    clicks = purchase.parent[1][rows]
    assert len(rows) > 5 and (purchase.time[rows] >= click.time[clicks]).all()
    assert_inside_watches(world, click.parent[1][clicks], purchase.time[rows])
    for role in ("user", "room", "item"):
        np.testing.assert_array_equal(purchase.ids(role)[rows], click.ids(role)[clicks])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.integers(1, 2_000),
    slate=st.integers(1, 40),
    exploration=st.sampled_from([0.0, 0.3, 1.0]),
    effect=st.floats(0.0, 10.0),
    rate=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**31),
    single=st.booleans(),
)
def test_any_knobs_give_a_valid_world(size, slate, exploration, effect, rate, seed, single):
    live = LiveConfig(num_impressions=size, slate_size=slate, exploration=exploration, enter_rate=rate)
    live = dataclasses.replace(live, enter_repeat=effect, policy_taste=effect, stay_spread=effect, bag_rate=rate)
    data = synthetic.live_tiny(live, seed=seed, **(SINGLE if single else {})).load()
    data.validate()
    impression = data.events["impression"]
    assert len(impression) == size
    propensity = impression.value("propensity")
    assert ((propensity > 0) & (propensity <= 1 + 1e-6)).all() or exploration == 0.0
    for events, column in data.truth.columns:
        assert np.isfinite(data.truth.expected(events, column)).all()


@pytest.mark.parametrize(
    ("knobs", "place", "remedy"),
    [
        ({"num_impressions": 0}, "data.live.num_impressions=0", "at least 1"),
        ({"exploration": 1.5}, "data.live.exploration=1.5", r"\[0, 1\]"),
        ({"enter_rate": 0.0}, "data.live.enter_rate=0.0", r"\(0, 1\)"),
        ({"enter_repeat": float("nan")}, "data.live.enter_repeat=nan", r"\[0, 10\]"),
        ({"stay_seconds": 0.0}, "data.live.stay_seconds=0.0", "above 0"),
        ({"bag_rate": 1.0}, "data.live.bag_rate=1.0", r"\[0, 1\)"),
    ],
)
def test_bad_live_knobs_are_refused_with_key_value_and_remedy(knobs, place, remedy):
    with pytest.raises(ConfigError, match=f"{place}.*{remedy}"):
        synthetic.live_tiny(LiveConfig(**knobs)).load()


def test_unknown_truth_is_refused_with_what_there_is(world):
    with pytest.raises(DataError, match=r"no truth of impression\.shared.*impression\.watched"):
        world.truth.expected("impression", "shared")


def test_a_live_config_survives_json_and_can_be_absent():
    for config in (synthetic.live_tiny(), synthetic.tiny()):
        stored = config_json.to_dict(config)
        assert config_json.from_dict(synthetic.Config, stored) == config
    older = config_json.to_dict(synthetic.tiny())
    del older["live"]
    assert config_json.differences(older, config_json.to_dict(synthetic.tiny())) == []
    with pytest.raises(ConfigError, match=r"unknown config key 'config\.live\.num_impression'"):
        config_json.from_dict(synthetic.Config, {"live": {"num_impression": 3}})
