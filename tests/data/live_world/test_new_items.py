"""New products all the time: nothing happens to an item before its release, in the tables and in the truth."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import ConfigError, SplitConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, TRAIN
from tests.data.live_world.live_worlds import binned_z_scores, live_world, loaded, z_score


@pytest.fixture(scope="module")
def world():
    """Half of the items are new."""
    return live_world(1, 20_000, new_items=0.5)


def test_without_new_items_the_live_part_leaves_the_other_tables_as_they_are():
    plain, world = synthetic.tiny().load(), live_world(new_items=0.0)
    for name, relation in plain.relations.items():
        for column in ("source_ids", "target_ids", "time"):
            np.testing.assert_array_equal(getattr(relation, column), getattr(world.relations[name], column))
    users = np.arange(5)
    for name in plain.truth.relations:
        expected = plain.truth.probabilities(name, users, 10.0, 20.0)
        np.testing.assert_array_equal(world.truth.probabilities(name, users, 10.0, 20.0), expected)
    assert "item" not in world.availability and "item" not in plain.availability


def test_new_items_leave_follows_sessions_and_traits_as_they_were(world):
    plain = synthetic.tiny(seed=1).load()
    for column in ("source_ids", "target_ids", "time"):
        of_both = (getattr(data.relations["follow"], column) for data in (plain, world))
        np.testing.assert_array_equal(*of_both)
    for name in ("tastes", "item_topics", "item_overall", "follow_by_topic"):
        np.testing.assert_array_equal(getattr(plain.truth, name), getattr(world.truth.base, name))
    np.testing.assert_array_equal(plain.truth.schedule.start, world.truth.base.schedule.start)


def test_the_wanted_share_of_items_is_released_evenly_over_the_period():
    data = synthetic.tiny(live=LiveConfig(num_impressions=100, new_items=0.4), num_items=2_000).load()
    release = data.availability["item"].start
    new = np.isfinite(release)
    assert new.sum() == 800 and (release[~new] == -np.inf).all() and (data.availability["item"].end == np.inf).all()
    assert (release[new] == np.floor(release[new])).all()
    counts = np.bincount(release[new].astype(int), minlength=50)
    assert counts.min() >= 3 and counts.max() <= 35  # 16 expected
    np.testing.assert_array_equal(release, data.truth.base.item_release)


def test_no_edge_and_no_event_of_an_item_comes_before_its_release(world):
    available = world.availability["item"]
    for name in ("buy", "sell"):
        relation = world.relations[name]
        assert available.at(relation.time, relation.target_ids).all()
        assert np.isfinite(available.start[relation.target_ids]).sum() > 100
    for name, table in world.events.items():
        if "item" in table.nodes:
            rows = np.flatnonzero(table.ids("item") >= 0)
            assert len(rows) > 10 and available.at(table.time[rows], table.ids("item")[rows]).all(), name
    schedule = world.truth.base.schedule
    shown = schedule.display.tocoo()
    assert (schedule.start[shown.row] >= available.start[shown.col]).all()


def test_all_edges_asked_for_are_there_and_every_good_of_a_catalogue_is_shown(world):
    assert {name: len(world.relations[name]) for name in ("buy", "follow", "sell")} == {
        "buy": 2_400,
        "follow": 1_800,
        "sell": 1_200,
    }
    schedule, sell = world.truth.base.schedule, world.relations["sell"]
    shown = schedule.display.tocoo()
    keys = np.unique(schedule.streamer_of()[shown.row] * shown.shape[1] + shown.col)
    np.testing.assert_array_equal(keys, sell.source_ids.astype(np.int64) * shown.shape[1] + sell.target_ids)


def test_purchases_of_the_test_period_go_to_items_unseen_in_training_too(world):
    buy = assign_splits(world, SplitConfig(method="time"), ("buy",)).relations["buy"]
    unseen = ~np.isin(buy.target_ids[buy.split == TEST], buy.target_ids[buy.split == TRAIN])
    assert 0.02 < unseen.mean() < 0.5


def first_purchases(data, start, end):
    """(outcome, probability) of the pairs that did not occur before `start`, [pairs] each."""
    buy, shape = data.relations["buy"], (len(data.nodes["user"]), len(data.nodes["item"]))
    time = np.full(shape, np.inf)
    time[buy.source_ids, buy.target_ids] = buy.time
    possible = time >= start
    chances = data.truth.probabilities("buy", np.arange(shape[0]), start, end)
    return (time < end)[possible], chances[possible]


@pytest.mark.parametrize("window", [(0.0, 50.0), (0.0, 10.0), (20.0, 30.5), (45.0, 50.0)])
def test_purchases_agree_with_the_truth_and_not_with_one_without_releases(window):
    worlds = [live_world(seed, 500, new_items=0.6) for seed in range(3)]
    outcomes, chances = (np.concatenate(of) for of in zip(*(first_purchases(d, *window) for d in worlds), strict=True))
    assert abs(z_score(outcomes, chances)) < 4 and np.abs(binned_z_scores(outcomes, chances)).max() < 4
    always = [dataclasses.replace(d.truth.base, item_release=np.full(150, -np.inf)) for d in worlds]
    wrong = [d.replace(truth=truth) for d, truth in zip(worlds, always, strict=True)]
    outcomes, chances = (np.concatenate(of) for of in zip(*(first_purchases(d, *window) for d in wrong), strict=True))
    assert window[0] > 40 or abs(z_score(outcomes, chances)) > 5


def test_an_item_cannot_be_bought_in_a_window_before_its_release(world):
    release = world.availability["item"].start
    chances = world.truth.probabilities("buy", np.arange(200), 0.0, 25.0)
    assert (chances[:, release >= 25.0] == 0).all() and (chances[:, release < 25.0] > 0).any(axis=0).all()


def test_the_default_world_has_new_items():
    assert np.isfinite(loaded().availability["item"].start).sum() == round(0.3 * 150)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_bad_share_is_refused(share):
    with pytest.raises(ConfigError, match=rf"data.live.new_items={share}.*\[0, 1\]"):
        synthetic.live_tiny(LiveConfig(new_items=share)).load()


def test_a_world_of_new_items_only_is_valid():
    data = live_world(2, 1_000, new_items=1.0)
    data.validate()
    buy = data.relations["buy"]
    assert data.availability["item"].at(buy.time, buy.target_ids).all()
