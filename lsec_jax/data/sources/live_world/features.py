"""What the tables say of users, items, streamers and rooms: noisy views of what drives them. No jax here.

A gender, an age and a device tell something of tastes and wealth, as on a platform; the traits themselves are in no
table. All features are known before the period, but for those of impressions, which count what happened before them.
"""

from collections.abc import Mapping

import numpy as np

from lsec_jax.data.sources.live_world.feed import Impressions
from lsec_jax.data.sources.live_world.gifts import Gifts
from lsec_jax.data.sources.live_world.inside import SECONDS_PER_DAY, Inside
from lsec_jax.data.sources.live_world.rooms import World
from lsec_jax.schema import Feature

AGES = ("<18", "18-23", "24-30", "31-40", "41-50", ">50")
GENDERS = ("female", "male")
DEVICES = ("<1000", "1000-2000", "2000-3000", "3000-5000", ">5000")
FANS = ("<100", "100-1000", "1000-10000", "10000-100000", ">100000")
BRANDS_PER_TOPIC = 8
RECENT_MINUTES = 10.0


def ordinal(scores: np.ndarray, vocabulary: tuple[str, ...]) -> Feature:
    """Cuts scores [n] into bands of equal numbers, in rising order."""
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return Feature("ordinal", (ranks * len(vocabulary) // max(len(scores), 1)).astype(np.int32), vocabulary)


def categorical(codes: np.ndarray, vocabulary: tuple[str, ...]) -> Feature:
    """Codes [n] into the vocabulary."""
    return Feature("categorical", codes.astype(np.int32), vocabulary)


def numeric(values: np.ndarray) -> Feature:
    """Numbers [n]."""
    return Feature("numeric", values.astype(np.float32))


def node_features(world: World, wealth: np.ndarray, rng: np.random.Generator) -> dict[str, dict[str, Feature]]:
    """Features by node type and name.

    Args:
        world: the world.
        wealth: of users, [u] float64.
        rng: of the noise.
    """
    base, num_topics = world.base, world.mix.shape[1]
    num_users, num_items, num_streamers = len(world.tastes), len(base.item_topics), len(world.popularity)
    topics = tuple(f"topic_{topic:02d}" for topic in range(num_topics))
    users = {
        **taste_features(base.tastes, rng),
        "device_price_band": ordinal(np.log(wealth) + rng.normal(0.0, 0.7, num_users), DEVICES),
        "log_activity": numeric(np.log(world.activity * num_users) + rng.normal(0.0, 0.3, num_users)),
    }
    brands = base.item_topics * BRANDS_PER_TOPIC + rng.integers(BRANDS_PER_TOPIC, size=num_items)
    level = rng.normal(3.5, 0.8, (num_topics,))
    names = tuple(f"brand_{brand:03d}" for brand in range(num_topics * BRANDS_PER_TOPIC))
    items = {
        "category": categorical(base.item_topics, topics),
        "brand": categorical(brands, names),
        "price": numeric(np.exp(level[base.item_topics] + rng.normal(0.0, 0.5, num_items)).round(2)),
    }
    streamers = {
        "fans_band": ordinal(world.popularity + rng.normal(0.0, 0.3, num_streamers), FANS),
        "gender": categorical(rng.integers(2, size=num_streamers), GENDERS),
    }
    rooms = {
        "category": categorical(world.category, topics),
        "start_hour": numeric((world.start - np.floor(world.start)) * 24.0),
        "num_goods": numeric(np.diff(base.schedule.display.indptr)),
    }
    return {"user": users, "item": items, "streamer": streamers, "room": rooms}


def taste_features(tastes: np.ndarray, rng: np.random.Generator) -> dict[str, Feature]:
    """Gender and age of users with tastes [u, c]: each topic leans to both, and users take after their tastes."""
    leaning = rng.normal(0.0, 1.0, (tastes.shape[1], 2))
    lean = tastes @ leaning
    gender = (rng.random(len(tastes)) < 1.0 / (1.0 + np.exp(-2.0 * lean[:, 0]))).astype(np.int32)
    ages = ordinal(lean[:, 1] + rng.normal(0.0, 0.7, len(tastes)), AGES)
    return {"gender": categorical(gender, GENDERS), "age_band": ages}


def impression_features(world: World, shown: Impressions, visited: Inside, given: Gifts) -> Mapping[str, Feature]:
    """The room's state at each impression: how long it is live, who watches, what came in the minutes before."""
    window = RECENT_MINUTES / 1440.0
    rows = np.flatnonzero(shown.watched)
    leave = shown.times[rows] + visited.stay_seconds[rows] / SECONDS_PER_DAY
    now = shown.rooms, shown.times
    viewers = _count_before(shown.rooms[rows], shown.times[rows], now) - _count_before(shown.rooms[rows], leave, now)
    bought = visited.clicks[visited.purchases]
    purchases = _count_before(shown.rooms[bought], visited.purchase_times, now)
    purchases -= _count_before(shown.rooms[bought], visited.purchase_times + window, now)
    gifts = _count_before(shown.rooms[given.impressions], given.times, now)
    gifts -= _count_before(shown.rooms[given.impressions], given.times + window, now)
    return {
        "minutes_live": numeric((shown.times - world.start[shown.rooms]) * 1440.0),
        "viewers": numeric(viewers),
        "recent_purchases": numeric(purchases),
        "recent_gifts": numeric(gifts),
    }


def _count_before(rooms: np.ndarray, times: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Events of the same room with an earlier time, for each (room, moment) [n], [n] int64."""
    span = max(times.max(initial=0.0), at[1].max(initial=0.0)) + 1.0
    keys = np.sort(rooms * span + times)
    return np.searchsorted(keys, at[0] * span + at[1]) - np.searchsorted(keys, at[0] * span)
