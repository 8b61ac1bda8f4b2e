"""The synthetic world: its counts, its rules, and that its truth is the truth."""

import dataclasses
import functools

import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.synthetic_sampling import exclusive_sum, sample_segments
from lsec_jax.schema import DataError


def mid_world(**changes):
    """A world where about half of the items are sold by someone whom a user follows."""
    sizes = {"num_users": 800, "num_items": 800, "num_streamers": 200, "num_topics": 10}
    edges = {"num_buy": 10_000, "num_follow": 8_000, "num_sell": 8_000}
    return synthetic.Config(**{**sizes, **edges, **changes})


@functools.cache
def loaded(seed):
    return mid_world(seed=seed).load()


@pytest.fixture(scope="module")
def world():
    return loaded(0)


def occurred_before(relation, num_sources, num_targets, start):
    """[n_sources, n_targets] bool: the pair's first occurrence is earlier than `start`."""
    out = np.zeros((num_sources, num_targets), bool)
    early = relation.time < start
    out[relation.source_ids[early], relation.target_ids[early]] = True
    return out


def expected_and_realised(data, name, start, end):
    """Probabilities and outcomes of the pairs still possible at `start`, both [pairs]."""
    relation = data.relations[name]
    shape = len(data.nodes[relation.source]), len(data.nodes[relation.target])
    possible = ~occurred_before(relation, *shape, start)
    outcome = occurred_before(relation, *shape, end) & possible
    probabilities = data.truth.probabilities(name, np.arange(shape[0]), start, end)
    return probabilities[possible].astype(np.float64), outcome[possible]


def z_scores(expected, outcome, num_bins):
    """Standardised (realised - expected) of bins of equal expected counts, in order of probability, [num_bins]."""
    order = np.argsort(expected, kind="stable")
    expected, outcome = expected[order], outcome[order]
    running = np.cumsum(expected)
    bins = np.minimum((running / running[-1] * num_bins).astype(int), num_bins - 1)
    mean = np.bincount(bins, expected, num_bins)
    variance = np.bincount(bins, expected * (1 - expected), num_bins)
    return (np.bincount(bins, outcome, num_bins) - mean) / np.sqrt(variance)


def mean_auc(scores, labels, allowed):
    """Mean of the users' AUC over allowed pairs, for users with a positive; ties in random order."""
    scores = np.where(allowed, scores, -np.inf)
    noise = np.random.default_rng(0).random(scores.shape)
    ranks = np.empty(scores.shape)
    order = np.lexsort((noise, scores), axis=1)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None, :].astype(float), axis=1)
    ranks -= (~allowed).sum(axis=1, keepdims=True)
    positives = labels.sum(axis=1)
    users = positives > 0
    negatives = allowed.sum(axis=1) - positives
    wins = (ranks * labels).sum(axis=1) - positives * (positives - 1) / 2
    return np.mean(wins[users] / (positives * negatives)[users])


def sold_by_followed(data):
    """[n_users, n_items] bool: a streamer whom the user follows sells the item."""
    follow, sell = data.relations["follow"], data.relations["sell"]
    follows = np.zeros((len(data.nodes["user"]), len(data.nodes["streamer"])), np.float32)
    sells = np.zeros((len(data.nodes["streamer"]), len(data.nodes["item"])), np.float32)
    follows[follow.source_ids, follow.target_ids] = 1
    sells[sell.source_ids, sell.target_ids] = 1
    return follows @ sells > 0


def purchase_ratio(config):
    """True P(buy | sold by a followed streamer) / P(buy | not), over all pairs."""
    data = config.load()
    sold = sold_by_followed(data)
    bought = data.truth.probabilities("buy", np.arange(len(sold)), 0.0, data.end_time)
    return bought[sold].mean() / bought[~sold].mean()


@pytest.mark.parametrize("config", [synthetic.tiny(), mid_world(), synthetic.Config()], ids=["tiny", "mid", "default"])
def test_edge_counts_are_met_and_the_data_validates(config):
    data = config.load()
    data.validate()
    for name in ("buy", "follow", "sell"):
        relation, wanted = data.relations[name], getattr(config, f"num_{name}")
        assert abs(len(relation) - wanted) <= 0.02 * wanted
        pairs = relation.source_ids.astype(np.int64) * 10**6 + relation.target_ids
        assert len(np.unique(pairs)) == len(pairs)
        assert relation.source_ids.dtype == np.int32 and relation.time.dtype == np.float64
        assert relation.time.min() >= 0 and relation.time.max() < config.num_days
    for name in ("user", "item", "streamer"):
        assert len(data.nodes[name]) == getattr(config, f"num_{name}s")
        assert data.nodes[name].ids[17] == f"{name}_00017"


def test_the_presets_ask_for_the_published_sizes():
    small, large = synthetic.lsec_small(), synthetic.lsec_large(seed=3)
    assert (small.num_users, small.num_items, small.num_streamers) == (29_422, 31_630, 4_633)
    assert (large.num_buy, large.num_follow, large.num_sell) == (3_062_463, 5_439_288, 1_953_881)
    assert large.seed == 3
    small.validate()
    large.validate()


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first, again, other = (synthetic.tiny(seed=seed).load() for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    users = np.arange(20)
    same = first.truth.probabilities("buy", users, 10.0, 20.0)
    np.testing.assert_array_equal(same, again.truth.probabilities("buy", users, 10.0, 20.0))
    for name in ("buy", "follow", "sell"):
        np.testing.assert_array_equal(first.relations[name].time, again.relations[name].time)


def test_another_influence_leaves_follows_and_catalogues_as_they_were():
    strong, none = synthetic.tiny(influence=0.9).load(), synthetic.tiny(influence=0.0).load()
    for name in ("follow", "sell"):
        np.testing.assert_array_equal(strong.relations[name].target_ids, none.relations[name].target_ids)
    assert not np.array_equal(strong.relations["buy"].target_ids, none.relations["buy"].target_ids)


def test_internal_order_says_nothing_about_popularity(world):
    for name, table in (("buy", "item"), ("follow", "streamer")):
        counts = np.bincount(world.relations[name].target_ids, minlength=len(world.nodes[table]))
        assert abs(np.corrcoef(np.arange(len(counts)), counts)[0, 1]) < 0.2


def test_influenced_purchases_happen_in_sessions_of_streamers_followed_before(world):
    truth, buy, schedule = world.truth, world.relations["buy"], world.truth.schedule
    assert len(truth.purchase_sessions) == len(buy)
    influenced = np.flatnonzero(truth.purchase_sessions >= 0)
    assert 0.4 < len(influenced) / len(buy) < 0.6
    session, users = truth.purchase_sessions[influenced], buy.source_ids[influenced]
    streamer = schedule.streamer_of()[session]
    follow = world.relations["follow"]
    followed_at = np.full((len(world.nodes["user"]), len(world.nodes["streamer"])), np.inf)
    followed_at[follow.source_ids, follow.target_ids] = follow.time
    assert (followed_at[users, streamer] <= schedule.start[session]).all()
    time = buy.time[influenced]
    assert ((schedule.start[session] <= time) & (time < schedule.end[session])).all()
    assert (np.asarray(schedule.display[session, buy.target_ids[influenced]]) > 0).all()


def test_sessions_of_a_streamer_never_overlap_and_their_goods_are_the_sell_relation(world):
    schedule, sell = world.truth.schedule, world.relations["sell"]
    same = schedule.streamer_of()[1:] == schedule.streamer_of()[:-1]
    assert (schedule.start[1:] >= schedule.end[:-1])[same].all()
    assert (schedule.end > schedule.start).all() and schedule.end.max() <= world.end_time
    shown = schedule.display.tocoo()
    keys = schedule.streamer_of()[shown.row] * shown.shape[1] + shown.col
    np.testing.assert_array_equal(np.unique(keys), sell.source_ids.astype(np.int64) * shown.shape[1] + sell.target_ids)
    first = np.full(keys.max() + 1, np.inf)
    np.minimum.at(first, keys, schedule.start[shown.row])
    np.testing.assert_array_equal(first[np.unique(keys)], sell.time)
    mass = np.asarray(schedule.display.sum(axis=1)).ravel()
    np.testing.assert_allclose(mass[schedule.attention > 0], 1.0)


@pytest.mark.parametrize(
    ("name", "window"),
    [
        *(("buy", window) for window in [(0.0, 50.0), (0.0, 4.0), (40.0, 45.5), (45.8125, 45.9)]),
        *(("follow", window) for window in [(0.0, 50.0), (0.0, 4.0), (40.0, 45.5), (4.9, 5.1)]),
    ],
)
def test_realised_first_events_agree_with_the_truth_overall_and_in_bins(name, window):
    parts = [expected_and_realised(loaded(seed), name, *window) for seed in range(2)]
    expected, outcome = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert outcome.sum() > 30
    assert abs(z_scores(expected, outcome, 1)[0]) < 4
    assert np.abs(z_scores(expected, outcome, 10 if outcome.sum() > 1000 else 3)).max() < 4.5


def test_the_calibration_check_fails_for_a_wrong_truth(world):
    wrong = [
        dataclasses.replace(world.truth, follow_times=np.zeros_like(world.truth.follow_times)),
        dataclasses.replace(world.truth, influenced_events=world.truth.influenced_events * 0.8),
        dataclasses.replace(world.truth, session_taste=0.0),
        dataclasses.replace(world.truth, topic_leak=0.4),
    ]
    for truth in wrong:
        expected, outcome = expected_and_realised(world.replace(truth=truth), "buy", 0.0, 50.0)
        assert np.abs(z_scores(expected, outcome, 10)).max() > 4.5


def test_expected_purchases_of_the_whole_period_add_up_to_the_users_budgets(world):
    truth, users = world.truth, np.arange(len(world.nodes["user"]))
    expected = truth._expected_purchases(users, 0.0, 50.0).sum(axis=1)
    np.testing.assert_allclose(expected, truth.organic_events + truth.influenced_events, rtol=1e-9)
    halves = truth._expected_purchases(users, 0.0, 20.3) + truth._expected_purchases(users, 20.3, 50.0)
    np.testing.assert_allclose(halves, truth._expected_purchases(users, -5.0, 99.0), rtol=1e-9, atol=1e-12)
    assert truth.follow_share(0.0, 50.0) == pytest.approx(1.0)


def test_block_size_and_order_of_users_do_not_change_probabilities(world):
    users = np.array([5, 700, 5, 31])
    whole = world.truth.probabilities("buy", users, 40.0, 50.0)
    assert whole.dtype == np.float32 and whole.shape == (4, 800)
    np.testing.assert_array_equal(whole, world.truth.probabilities("buy", users, 40.0, 50.0, block_size=3))
    np.testing.assert_array_equal(whole[0], whole[2])


def test_followed_streamers_sell_what_users_buy_only_where_that_is_planted():
    off = [purchase_ratio(mid_world(seed=seed, influence=0.0, taste_follow=0.0)) for seed in range(4)]
    assert np.mean(off) == pytest.approx(1.0, abs=0.06)
    assert purchase_ratio(mid_world(taste_follow=0.0)) > 1.4
    assert purchase_ratio(mid_world(influence=0.0)) > 1.4
    assert purchase_ratio(mid_world()) > 2.5
    popular = mid_world(influence=0.0, taste_follow=0.0, catalogue_popularity=1.0)
    assert purchase_ratio(popular) > 1.2  # the documented confounder


def test_the_oracle_beats_follows_with_goods_which_beat_popularity():
    data = synthetic.Config(num_users=1000, num_buy=15_000, num_follow=55_000).load()
    buy, users = data.relations["buy"], np.arange(1000)
    start = np.quantile(buy.time, 0.9)
    allowed = ~occurred_before(buy, 1000, 3000, start)
    labels = occurred_before(buy, 1000, 3000, 50.0) & allowed
    popularity = np.broadcast_to((~allowed).sum(axis=0).astype(float), labels.shape)
    follow, sell = data.relations["follow"], data.relations["sell"]
    follows, sells = np.zeros((1000, 450), np.float32), np.zeros((450, 3000), np.float32)
    early = follow.time < start
    follows[follow.source_ids[early], follow.target_ids[early]] = 1
    early = sell.time < start
    sells[sell.source_ids[early], sell.target_ids[early]] = 1
    by_popularity = mean_auc(popularity, labels, allowed)
    by_follows = mean_auc(follows @ sells, labels, allowed)
    by_oracle = mean_auc(data.truth.probabilities("buy", users, start, 50.0), labels, allowed)
    assert by_popularity + 0.03 < by_follows < by_oracle - 0.03
    assert 0.88 < by_oracle < 0.96


@pytest.mark.parametrize(
    ("changes", "place", "remedy"),
    [
        ({"num_buy": -5}, "data.num_buy=-5", "at least 1"),
        ({"num_users": 0}, "data.num_users=0", "at least 1"),
        ({"influence": 1.5}, "data.influence=1.5", r"\[0, 1\]"),
        ({"taste_follow": float("nan")}, "data.taste_follow=nan", r"\[0, 1\]"),
        ({"session_taste": 1.0}, "data.session_taste=1.0", r"\[0, 1\)"),
        ({"num_follow": 6_001}, "data.num_follow=6001", "only 6000 user-streamer pairs"),
        ({"num_topics": 151}, "data.num_topics=151", "num_items=150"),
        ({"taste_concentration": 0.0}, "data.taste_concentration=0.0", "at least 0.001"),
        ({"popularity_exponent": -1.0}, "data.popularity_exponent=-1.0", r"\[0, 10\]"),
        ({"sessions_per_streamer": 51.0}, "data.sessions_per_streamer=51.0", "num_days=50"),
        ({"items_per_session": 1.0}, "data.items_per_session=1.0", "at least 2.0 a session"),
        ({"seed": -1}, "data.seed=-1", "at least 0"),
        ({"num_follow": 6_000, "streamer_exponent": 10.0, "taste_follow": 0.0}, "data.num_follow=6000", "fewer edges"),
    ],
)
def test_bad_knobs_are_refused_with_key_value_and_remedy(changes, place, remedy):
    with pytest.raises(ConfigError, match=f"{place}.*{remedy}"):
        synthetic.tiny(**changes).load()


@pytest.mark.parametrize(
    "changes",
    [
        {"influence": 1.0, "taste_follow": 1.0},
        {"num_topics": 1, "taste_concentration": 0.001, "streamer_concentration": 0.001},
        {"num_follow": 5_400, "taste_follow": 0.0, "streamer_exponent": 0.0},
        {"num_sell": 20, "num_follow": 20, "num_buy": 20},
        {"sessions_per_streamer": 50.0, "num_days": 50, "early_follows": 0.0},
        {"num_days": 1, "sessions_per_streamer": 1.0, "items_per_session": 60.0},
    ],
)
def test_extreme_knobs_give_valid_worlds_with_finite_truth(changes):
    data = synthetic.tiny(**changes).load()
    data.validate()
    for name in ("buy", "follow"):
        probabilities = data.truth.probabilities(name, np.arange(200), 0.0, data.end_time)
        assert np.isfinite(probabilities).all() and (probabilities >= 0).all() and probabilities.max() <= 1


def test_the_truth_refuses_other_relations_and_unknown_users():
    truth = synthetic.tiny().load().truth
    with pytest.raises(DataError, match=r"relation 'sell'.*buy, follow"):
        truth.probabilities("sell", np.arange(2), 0.0, 1.0)
    assert truth.relations == ("buy", "follow")
    for relation in truth.relations:
        assert (truth.probabilities(relation, np.arange(2), 0.0, 1.0) > 0).any()
    with pytest.raises(DataError, match=r"source_ids\[1\]=200.*0\.\.199"):
        truth.probabilities("buy", np.array([0, 200]), 0.0, 1.0)


def test_segment_sampling_follows_the_weights_and_never_leaves_the_segment():
    weights = np.array([5.0, 0.0, 1.0, 3.0, 0.0, 7.0])
    rng = np.random.default_rng(0)
    at = sample_segments(rng, exclusive_sum(weights), np.full(40_000, 1), np.full(40_000, 5))
    counts = np.bincount(at, minlength=6)
    assert counts[[0, 1, 4, 5]].sum() == 0
    assert counts[3] / counts.sum() == pytest.approx(0.75, abs=0.02)
