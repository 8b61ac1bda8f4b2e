"""Gifts that trigger gifts, and responses that shrink in bursts."""

import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.data.csr import count_recent
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import GiftConfig, LiveConfig, SocialConfig
from tests.data.live_world.live_worlds import assert_inside_watches, assert_same_tables, live_world


@pytest.fixture(scope="module")
def giving():
    """A world with many gifts and long watches, so that several users watch a room at a time."""
    return giving_world()


def giving_world(seed=0, **gifts):
    knobs = GiftConfig(**{"rate": 1.0, **gifts})
    return live_world(seed, 30_000, stay_seconds=600.0, social=SocialConfig(num_friends=40.0), gifts=knobs)


def test_gifts_are_made_inside_watches_and_cost_prices_of_the_list(giving):
    gift = giving.events["gift"]
    assert len(gift) > 1000
    assert_inside_watches(giving, gift.parent[1], gift.time)
    assert set(gift.value("amount")) <= set(np.float32(GiftConfig().prices))
    cheap = gift.value("amount") == np.float32(1.0)
    chances = np.arange(1, 8.0) ** -1.5
    assert cheap.mean() == pytest.approx(chances[0] / chances.sum(), abs=0.05)


def test_a_triggered_gift_comes_after_its_trigger_in_the_same_room(giving):
    gift, triggers = giving.events["gift"], giving.truth.triggers
    rows = np.flatnonzero(triggers >= 0)
    assert 0.3 < len(rows) / len(gift) < 0.8
    assert (gift.time[rows] >= gift.time[triggers[rows]]).all()
    np.testing.assert_array_equal(gift.ids("room")[rows], gift.ids("room")[triggers[rows]])
    delays = (gift.time[rows] - gift.time[triggers[rows]]) * 86_400
    assert 20 < delays.mean() < 46  # below decay_seconds: late ones fall when nobody watches any more


def test_friends_follow_a_gift_rather_than_others():
    def share_of_friends(pull):
        data = giving_world(friend_pull=pull)
        gift, triggers, friend = data.events["gift"], data.truth.triggers, data.relations["friend"]
        friends = set(zip(friend.source_ids, friend.target_ids, strict=True))
        rows = np.flatnonzero(triggers >= 0)
        pairs = zip(gift.ids("user")[triggers[rows]], gift.ids("user")[rows], strict=True)
        return np.mean([pair in friends for pair in pairs])

    assert share_of_friends(3.0) > 2 * share_of_friends(0.0) > 0


def test_excitation_makes_gifts_come_in_bursts():
    def share_within_a_minute(excitation):
        gift = giving_world(excitation=excitation).events["gift"]
        rooms = gift.ids("room").astype(np.int64)
        return (count_recent(rooms, gift.time, 60 / 86_400) > 0).mean()

    assert share_within_a_minute(0.8) > share_within_a_minute(0.0) + 0.3


def test_every_gift_has_a_response_after_it_while_the_room_is_live(giving):
    gift, response = giving.events["gift"], giving.events["response"]
    name, rows = response.parent
    assert name == "gift" and len(np.unique(rows)) == len(response) == len(gift)
    assert (response.time >= gift.time[rows]).all()
    np.testing.assert_array_equal(response.ids("user"), gift.ids("user")[rows])
    assert giving.availability["room"].at(response.time, response.ids("room")).all()
    assert (response.value("response") >= 0).all() and (response.value("response") <= 1).all()


def test_responses_have_the_expected_value_of_the_truth(giving):
    response, expected = giving.events["response"], giving.truth.expected("response", "response").astype(np.float64)
    scale = np.sqrt(expected * (1 - expected) / (1 + 8.0))  # of the Beta distribution
    scores = (response.value("response") - expected) / scale
    assert abs(scores.mean()) < 4 / np.sqrt(len(scores)) and scores.std() == pytest.approx(1.0, abs=0.1)


def test_responses_shrink_in_bursts_only_where_that_is_planted():
    def loss(saturation):
        data = giving_world(response_saturation=saturation)
        gift, response = data.events["gift"], data.events["response"]
        recent = count_recent(gift.ids("room").astype(np.int64), gift.time, 120 / 86_400)[response.parent[1]]
        values = response.value("response")
        return values[recent == 0].mean() - values[recent >= 3].mean()

    assert loss(0.8) > 0.15 > 0.05 > abs(loss(0.0))


def test_messages_tell_their_warmth(giving):
    """A linear map of message, category's mean taken out, finds what raises the response."""
    gift, response, truth = giving.events["gift"], giving.events["response"], giving.truth
    message = gift.features["message"].values.astype(np.float64)
    assert message.shape == (len(gift), 8) and gift.features["message"].kind == "vector"
    topics = np.eye(8)[truth.world.category[gift.ids("room")]]
    rest = message - topics @ np.linalg.lstsq(topics, message, rcond=None)[0]
    direction = np.linalg.svd(rest, full_matrices=False)[2][0]
    expected = np.empty(len(gift))
    expected[response.parent[1]] = truth.expected("response", "response")
    logits = np.log(expected / (1 - expected))
    assert abs(np.corrcoef(rest @ direction, logits)[0, 1]) > 0.2


def test_gift_knobs_leave_all_other_tables_as_they_were(giving):
    other = giving_world(rate=3.0, wealth_spread=0.0)
    assert_same_tables(giving, other, ("impression", "product_click", "purchase", "share"))
    assert len(other.events["gift"]) > 1.5 * len(giving.events["gift"])
    silent = giving_world(rate=0.0)
    silent.validate()
    assert not {"gift", "response"} & set(silent.events)
    assert_same_tables(giving, silent, ("impression", "share"))


def test_users_who_follow_a_rival_give_less():
    faithful, fickle = (len(giving_world(rival_loss=loss).events["gift"]) for loss in (0.0, 5.0))
    assert fickle < 0.8 * faithful


@pytest.mark.parametrize(
    ("knobs", "place", "remedy"),
    [
        ({"excitation": 1.0}, "data.live.gifts.excitation=1.0", r"\[0, 1\)"),
        ({"prices": ()}, r"data.live.gifts.prices=\(\)", "at least one price"),
        ({"window_seconds": 0.0}, "data.live.gifts.window_seconds=0.0", "above 0"),
        ({"rate": float("nan")}, "data.live.gifts.rate=nan", "at least 0"),
    ],
)
def test_bad_gift_knobs_are_refused_with_key_value_and_remedy(knobs, place, remedy):
    with pytest.raises(ConfigError, match=f"{place}.*{remedy}"):
        synthetic.live_tiny(LiveConfig(gifts=GiftConfig(**knobs))).load()
