"""Friends, the tree of scenarios, shares and streamers' relations."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsec_jax.config import ConfigError
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world import rooms as rooms_module
from lsec_jax.data.sources.live_world import social
from lsec_jax.data.sources.live_world.config import GiftConfig, LiveConfig, SocialConfig
from tests.data.live_world.live_worlds import (
    SINGLE,
    assert_inside_watches,
    assert_same_tables,
    binned_z_scores,
    live_world,
    z_score,
)


@pytest.fixture(scope="module")
def sharing():
    """A world with many shares."""
    return live_world(seed=3, num_impressions=30_000, social=SocialConfig(share_rate=0.4))


def test_friendship_is_mutual_and_mostly_inside_circles(sharing):
    friend = sharing.relations["friend"]
    pairs = dict(zip(zip(friend.source_ids, friend.target_ids, strict=True), friend.weight, strict=True))
    assert len(pairs) == len(friend) == 200 * 12
    assert all(pairs[v, u] == closeness and u != v for (u, v), closeness in pairs.items())
    circles = sharing.truth.base.tastes.argmax(axis=1)
    same = (circles[friend.source_ids] == circles[friend.target_ids]).mean()
    scattered = live_world(social=SocialConfig(circle_strength=0.0)).relations["friend"]
    assert same > (circles[scattered.source_ids] == circles[scattered.target_ids]).mean() + 0.3


def test_the_tree_has_the_depth_and_leaves_asked_for(sharing):
    tree, names = sharing.trees["scenario"], sharing.nodes["scenario"].ids
    assert len(names) == 1 + 3 + 9 + 36 + 216 and tree.depths().max() == 4
    paths = tree.paths()
    for node in (0, 2, 40, 264):
        path = [names[at] for at in paths[node] if at >= 0]
        assert all(below.startswith(f"{above}.") for above, below in itertools.pairwise(path))
        assert path[-1] == names[node] and path[0] == "C2C"


def test_shares_go_to_friends_from_inside_a_watch_in_an_open_leaf(sharing):
    share, friend = sharing.events["share"], sharing.relations["friend"]
    friends = set(zip(friend.source_ids, friend.target_ids, strict=True))
    assert set(zip(share.ids("user"), share.ids("target_user"), strict=True)) <= friends
    assert_inside_watches(sharing, share.parent[1], share.time)
    assert (sharing.trees["scenario"].depths()[share.ids("scenario")] == 4).all()
    assert sharing.availability["scenario"].at(share.time, share.ids("scenario")).all()
    np.testing.assert_array_equal(
        np.flatnonzero(sharing.events["impression"].value("share") == 1), np.unique(share.parent[1])
    )


def test_a_shared_product_was_clicked_before_in_the_same_watch(sharing):
    share, click = sharing.events["share"], sharing.events["product_click"]
    rows = np.flatnonzero(share.ids("item") >= 0)
    click_of = np.full(len(sharing.events["impression"]), -1)
    click_of[click.parent[1]] = np.arange(len(click))
    clicks = click_of[share.parent[1][rows]]
    assert len(rows) > 50 and (clicks >= 0).all()
    np.testing.assert_array_equal(click.ids("item")[clicks], share.ids("item")[rows])
    assert (click.time[clicks] <= share.time[rows]).all()


def test_shares_and_acceptance_agree_with_the_truth(sharing):
    impression, share, truth = sharing.events["impression"], sharing.events["share"], sharing.truth
    rows = impression.value("watched")
    assert abs(z_score(impression.value("share")[rows], truth.expected("impression", "share")[rows])) < 4
    accepted, chances = share.value("accepted"), truth.expected("share", "accepted")
    assert len(share) > 1000 and abs(z_score(accepted, chances)) < 4
    assert np.abs(binned_z_scores(accepted, chances)).max() < 4


def test_the_feed_knows_the_accepted_shares_of_the_week_before(sharing):
    share, live = sharing.events["share"], sharing.truth.world
    led = np.flatnonzero(share.value("accepted"))
    days = np.floor(share.time[led]).astype(int)
    targets, streamers = share.ids("target_user")[led], share.ids("streamer")[led]
    seen = 0
    for user in range(0, 200, 4):
        for day in (3, 11, 30):
            rooms = np.flatnonzero(np.floor(live.start) == day)
            found = rooms_module.signals(live, sharing.truth.known, np.array([user]), np.array([day + 0.8]), day, rooms)
            week = (targets == user) & (days < day) & (days >= day - 7)
            expected = [(week & (streamers == streamer)).sum() for streamer in live.streamer_of[rooms]]
            np.testing.assert_allclose(found.accepted[0], np.log1p(expected))
            seen += np.sum(expected)
    assert seen > 20


def test_an_accepted_share_leads_to_the_streamers_next_rooms():
    def rates(**knobs):
        data = live_world(3, 30_000, slate_size=2, social=SocialConfig(share_rate=0.4), **knobs)
        impression, share = data.events["impression"], data.events["share"]
        led = share.value("accepted")
        pairs = share.ids("target_user")[led].astype(np.int64) * 30 + share.ids("streamer")[led]
        shown = impression.ids("user").astype(np.int64) * 30 + impression.ids("streamer")
        days, offsets = np.floor(impression.time), np.arange(1, 8)
        keys = (np.floor(share.time[led])[:, None] + offsets) * 10_000 + pairs[:, None]  # the week after each share
        after = np.isin(days * 10_000 + shown, keys)
        return after.mean(), impression.value("watched")[after].mean()

    without, shown, entered = (
        rates(policy_shares=policy, enter_shares=enter) for policy, enter in [(0, 0), (6, 0), (6, 3)]
    )
    assert shown[0] > 1.3 * without[0] and entered[1] > shown[1] + 0.1


def test_rooms_are_entered_with_the_probability_of_the_truth_where_many_share(sharing):
    impression, truth = sharing.events["impression"], sharing.truth
    watched, chances = impression.value("watched"), truth.expected("impression", "watched")
    assert np.abs(binned_z_scores(watched, chances)).max() < 4
    rows = np.flatnonzero(impression.value("position") == 0)[::40]
    users, rooms, times = impression.ids("user")[rows], impression.ids("room")[rows], impression.time[rows]
    enter, show = truth.enter_probabilities(users, times), truth.show_probabilities(users, times)
    at = np.arange(len(rows)), rooms
    np.testing.assert_allclose(enter[at], chances[rows], rtol=1e-5)
    np.testing.assert_allclose(show[at], impression.value("propensity")[rows], rtol=1e-5)


def test_scenarios_have_a_long_tail_and_some_open_late(sharing):
    counts = np.sort(np.bincount(sharing.events["share"].ids("scenario"), minlength=265))[::-1]
    assert counts[:22].sum() > 0.5 * counts.sum()  # a tenth of the leaves
    opening = sharing.availability["scenario"].start
    late = np.flatnonzero(np.isfinite(opening))
    assert len(late) == 21 and opening[late].min() >= 0.75 * 50 and (late >= 49).all()


def test_siblings_in_the_tree_are_more_alike_than_strangers():
    made = social.draw_scenarios(SocialConfig(scenario_branching=(6, 6, 30)), 50.0, 5, np.random.default_rng(0)).tree
    bias = made.effects[made.first_leaf :, 0].reshape(6, 6, 30)
    assert bias.var(axis=2).mean() < 0.6 * bias.var()


def test_views_hold_only_what_happened_before_their_end(sharing):
    end = 0.4 * 50
    for name in ("pay", "share_view"):
        view = sharing.relations[name]
        assert len(view) > 50 and (view.time >= 0).all() and (view.time < end).all()
    share, view = sharing.events["share"], sharing.relations["share_view"]
    early = share.time < end
    pairs = set(zip(share.ids("user")[early], share.ids("target_user")[early], strict=True))
    assert pairs == set(zip(view.source_ids, view.target_ids, strict=True))
    assert view.weight.sum() == early.sum()
    # An edge is of the pair's first share; the later ones in its weight are counted.
    edge_time = dict(zip(zip(view.source_ids, view.target_ids, strict=True), view.time, strict=True))
    moments = zip(share.ids("user")[early], share.ids("target_user")[early], share.time[early], strict=True)
    later = sum(time > edge_time[user, target] for user, target, time in moments)
    assert later > 0
    assert sharing.counts["share_view: shares in the weights that are later than their edge"] == later


def test_streamers_have_mutual_relations_of_both_signs_and_collaborators_are_alike(sharing):
    relation, world = sharing.relations["streamer_relation"], sharing.truth.world
    pairs = dict(zip(zip(relation.source_ids, relation.target_ids, strict=True), relation.weight, strict=True))
    assert all(pairs[t, s] == sign for (s, t), sign in pairs.items())
    assert set(relation.weight) == {-1.0, 1.0} and len(relation) == 30 * 4
    topics = np.stack([world.mix[world.streamer_of == s].mean(axis=0) for s in range(30)])
    likeness = (topics[relation.source_ids] * topics[relation.target_ids]).sum(axis=1)
    assert likeness[relation.weight > 0].mean() > likeness[relation.weight < 0].mean() + 0.2


def test_social_knobs_leave_the_feed_as_it_was_where_it_does_not_go_by_friends_and_shares():
    apart = {"enter_friends": 0.0, "policy_shares": 0.0, "enter_shares": 0.0}
    plain = live_world(**apart)
    other = live_world(social=SocialConfig(num_friends=3.0, share_rate=0.5, scenario_branching=(4,)), **apart)
    a, b = (data.events["impression"] for data in (plain, other))
    for column in ("watched", "propensity", "stay_seconds", "product_click"):
        np.testing.assert_array_equal(a.value(column), b.value(column))
    assert_same_tables(plain, other, ("product_click", "purchase"))
    assert len(other.events["share"]) > 3 * len(plain.events["share"])


def test_friends_draw_friends_into_rooms():
    seeds = range(3)
    with_friends = [live_world(seed, 20_000, enter_friends=3.0).events["impression"] for seed in seeds]
    without = [live_world(seed, 20_000, enter_friends=0.0).events["impression"] for seed in seeds]
    rates = [[of.value("watched").mean() for of in tables] for tables in (with_friends, without)]
    assert np.mean(rates[0]) > np.mean(rates[1]) + 0.02


def test_a_world_without_friends_has_no_shares_and_no_views():
    data = live_world(social=SocialConfig(num_friends=0.0))
    data.validate()
    assert "share" not in data.events and not {"friend", "pay", "share_view"} & set(data.relations)
    assert (data.truth.expected("impression", "share") == 0).all()
    alone = synthetic.live_tiny(LiveConfig(num_impressions=300), **SINGLE).load()
    alone.validate()
    assert not {"friend", "streamer_relation"} & set(alone.relations)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    branching=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    num_friends=st.sampled_from([0.0, 0.02, 5.0, 1e6]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    new=st.floats(0.0, 1.0),
    excitation=st.sampled_from([0.0, 0.95]),
    rate=st.sampled_from([0.0, 20.0]),
    dim=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
def test_any_social_knobs_give_a_valid_world(branching, num_friends, share, new, excitation, rate, dim, seed):
    knobs = SocialConfig(num_friends=num_friends, scenario_branching=tuple(branching), new_scenarios=new)
    knobs = dataclasses.replace(knobs, view_share=share, pay_share=share, share_rate=0.9 * share, circle_strength=share)
    given_knobs = GiftConfig(rate=rate, excitation=excitation, message_dim=dim)
    data = live_world(seed, 1_000, social=knobs, gifts=given_knobs)
    data.validate()
    for events, column in data.truth.columns:
        assert np.isfinite(data.truth.expected(events, column)).all()


@pytest.mark.parametrize(
    ("knobs", "place", "remedy"),
    [
        ({"num_friends": -1.0}, "data.live.social.num_friends=-1.0", "at least 0"),
        ({"accept_rate": 1.0}, "data.live.social.accept_rate=1.0", r"\(0, 1\)"),
        ({"scenario_branching": (3, 0)}, r"data.live.social.scenario_branching=\(3, 0\)", "at least 1"),
        ({"view_share": 2.0}, "data.live.social.view_share=2.0", r"\[0, 1\]"),
    ],
)
def test_bad_social_knobs_are_refused_with_key_value_and_remedy(knobs, place, remedy):
    with pytest.raises(ConfigError, match=f"{place}.*{remedy}"):
        synthetic.live_tiny(LiveConfig(social=SocialConfig(**knobs))).load()
