"""Features of nodes, and the state of rooms at the impressions."""

import numpy as np

from lsec_jax.data.sources.live_world import features
from tests.data.live_world.live_worlds import live_world, loaded, watch_windows


def test_every_table_has_features_that_say_something_of_the_traits_behind():
    data = loaded()
    base, users = data.truth.base, data.nodes["user"].features
    gender = users["gender"].values
    means = [base.tastes[gender == code].mean(axis=0) for code in (0, 1)]
    assert np.abs(means[0] - means[1]).sum() > 0.3
    counts = np.bincount(data.events["impression"].ids("user"), minlength=200)
    assert np.corrcoef(users["log_activity"].values, np.log1p(counts))[0, 1] > 0.7
    np.testing.assert_array_equal(data.nodes["item"].features["category"].values, base.item_topics)
    rooms = data.nodes["room"].features
    assert (rooms["start_hour"].values >= 6).all() and (rooms["start_hour"].values <= 22).all()
    assert len(np.unique(rooms["category"].values)) > 3
    follows = np.bincount(data.relations["follow"].target_ids, minlength=30)
    assert np.corrcoef(data.nodes["streamer"].features["fans_band"].values, follows)[0, 1] > 0.3


def test_bands_are_even_and_rise_with_the_score():
    scores = np.random.default_rng(0).normal(size=1003)
    band = features.ordinal(scores, ("low", "mid", "high"))
    assert np.ptp(np.bincount(band.values)) <= 1 and band.kind == "ordinal"
    assert scores[band.values == 0].max() < scores[band.values == 1].min()


def test_the_state_of_a_room_counts_what_happened_before_the_impression():
    data = loaded()
    impression, gift, purchase = (data.events[name] for name in ("impression", "gift", "purchase"))
    enter, leave = watch_windows(data)
    watched = impression.value("watched")
    from_feed = purchase.parent[1] >= 0
    found = {name: feature.values for name, feature in impression.features.items()}
    assert found["viewers"].max() >= 2 and found["recent_gifts"].max() >= 2
    for row in np.random.default_rng(0).permutation(len(impression))[:300]:
        room, time = impression.ids("room")[row], impression.time[row]
        same = (impression.ids("room") == room) & watched
        assert found["viewers"][row] == (same & (enter < time) & (leave >= time)).sum()
        for name, table, counts in (
            ("recent_gifts", gift, np.ones(len(gift), bool)),
            ("recent_purchases", purchase, from_feed),
        ):
            recent = counts & (table.ids("room") == room) & (table.time < time) & (table.time >= time - 10 / 1440)
            assert found[name][row] == recent.sum()


def test_features_are_the_same_whatever_happens_in_the_rooms():
    plain, other = live_world(), live_world(enter_rate=0.3, stay_seconds=10.0)
    for name in ("user", "item", "streamer", "room"):
        for column, feature in plain.nodes[name].features.items():
            np.testing.assert_array_equal(feature.values, other.nodes[name].features[column].values)
