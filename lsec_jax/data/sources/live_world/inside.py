"""What visitors do inside a room: how long they stay, what they click and buy. No jax here.

A stay is log-normal and ends at the latest with the room or with the user's next request, so watches of different
requests never overlap (rooms of one slate are watched side by side). Clicks form a funnel: a product is clicked in an
opened goods bag, and a purchase follows a clicked product; all of it happens inside the watch.
"""

import dataclasses

import numpy as np
import scipy.special

from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.sources.live_world.feed import Impressions
from lsec_jax.data.sources.live_world.rooms import World, chance
from lsec_jax.data.sources.synthetic_sampling import sample_segments

SECONDS_PER_DAY = 86_400.0


@dataclasses.dataclass(frozen=True)
class Inside:
    """What happened in the visits; n impressions, m product clicks, p purchases, each in order of time.

    Attributes:
        stay_seconds: [n] float32, NaN where the room was not entered; so are bag_click and product_click.
        bag_click, product_click: 0 or 1, [n] float32.
        clicks: impression of each product click, [m] int64.
        click_times, click_items: in days, [m] float64; [m] int64.
        purchases: product click of each purchase, [p] int64.
        purchase_times: in days, [p] float64.
        expected: of each column given that the room is entered, and of "purchase" given the click, float32.
    """

    stay_seconds: np.ndarray
    bag_click: np.ndarray
    product_click: np.ndarray
    clicks: np.ndarray
    click_times: np.ndarray
    click_items: np.ndarray
    purchases: np.ndarray
    purchase_times: np.ndarray
    expected: dict[str, np.ndarray]


def simulate(world: World, live: LiveConfig, shown: Impressions, rng: np.random.Generator) -> Inside:
    """Draws stays, clicks and purchases."""
    expected: dict[str, np.ndarray] = {}
    stay, expected["stay_seconds"] = _draw_stays(world, live, shown, rng)
    effect = live.click_taste * world.product_taste_for(shown.users, shown.rooms)
    opens = np.where(world.base.schedule.attention[shown.rooms] > 0, chance(live.bag_rate, effect), 0.0)
    clicks_one = chance(live.product_rate, effect)
    bag = shown.watched & (rng.random(len(shown)) < opens)
    product = bag & (rng.random(len(shown)) < clicks_one)
    expected |= {"goods_bag_click": opens, "product_click": opens * clicks_one}

    rows = np.flatnonzero(product)
    items = draw_goods(world, shown.users[rows], shown.rooms[rows], rng)
    leave = shown.times[rows] + stay[rows] / SECONDS_PER_DAY
    times = between(shown.times[rows], leave, rng)
    taste = world.product_tastes[shown.users[rows], world.base.item_topics[items]]
    buys = chance(live.purchase_rate, live.click_taste * taste)
    bought = rng.random(len(rows)) < buys
    purchase_times = between(times, leave, rng)
    order = np.argsort(times, kind="stable")
    purchases = np.flatnonzero(bought[order])
    purchase_times = purchase_times[order][purchases]
    later = np.argsort(purchase_times, kind="stable")
    expected["purchase"] = buys[order]
    return Inside(
        stay_seconds=stay,
        bag_click=where_watched(bag, shown.watched),
        product_click=where_watched(product, shown.watched),
        clicks=rows[order],
        click_times=times[order],
        click_items=items[order],
        purchases=purchases[later],
        purchase_times=purchase_times[later],
        expected={name: values.astype(np.float32) for name, values in expected.items()},
    )


def where_watched(values: np.ndarray, watched: np.ndarray) -> np.ndarray:
    """Returns values [n] as float32, NaN where the room was not entered."""
    return np.where(watched, values, np.float32(np.nan)).astype(np.float32)


def between(start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws an even moment of each [start, end], [m] float64."""
    return np.minimum(start + rng.random(len(start)) * (end - start), end)


def draw_goods(world: World, users: np.ndarray, rooms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws one good shown in each user's room, by prominence and by her taste, [m] int64; all rooms have goods."""
    base, display = world.base, world.base.schedule.display
    items, waiting = np.zeros(len(users), np.int64), np.arange(len(users))
    # Rejection by appeal: each try is accepted with probability at least 1 - session_taste.
    while len(waiting):
        room = rooms[waiting]
        at = sample_segments(rng, world.display, display.indptr[room], display.indptr[room + 1])
        found = display.indices[at]
        accepted = rng.random(len(waiting)) < base.session_appeal(users[waiting], base.item_topics[found])
        items[waiting[accepted]] = found[accepted]
        waiting = waiting[~accepted]
    return items


def _draw_stays(
    world: World, live: LiveConfig, shown: Impressions, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Stays, NaN where not entered, and their expected values given that the room is entered; [n] float32 each."""
    limit = (np.minimum(world.end[shown.rooms], _next_request(shown)) - shown.times) * SECONDS_PER_DAY
    log_median = np.log(live.stay_seconds) + live.stay_taste * shown.signals["taste"]
    log_median = log_median + live.stay_repeat * shown.signals["visits"]
    drawn = np.exp(log_median + live.stay_spread * rng.normal(0.0, 1.0, len(shown)))
    stay = np.minimum(drawn, limit).astype(np.float32)
    # Rounding to single precision must not carry a stay beyond the room's end.
    stay = np.where(stay > limit, np.nextafter(stay, np.float32(0.0)), stay)
    return where_watched(stay, shown.watched), expected_minimum(log_median, live.stay_spread, limit)


def _next_request(shown: Impressions) -> np.ndarray:
    """Time of the user's next request after each impression's own, inf after the last, [n] float64."""
    order = np.lexsort((shown.requests, shown.users))
    users, requests, times = shown.users[order], shown.requests[order], shown.times[order]
    is_last = np.append((users[1:] != users[:-1]) | (requests[1:] != requests[:-1]), True)
    ends = np.flatnonzero(is_last)  # last row of each request of each user
    following = np.append(times[ends[:-1] + 1], np.inf)
    following[np.append(users[ends[:-1] + 1] != users[ends[:-1]], True)] = np.inf
    out = np.empty(len(shown))
    out[order] = np.repeat(following, np.diff(ends, prepend=-1))
    return out


def expected_minimum(log_median: np.ndarray, spread: float, limit: np.ndarray) -> np.ndarray:
    """E[min(X, limit)] of log-normal X, [n] float64; log_median, limit: [n]."""
    spread = max(spread, 1e-9)  # as good as none
    at = (np.log(np.maximum(limit, 1e-300)) - log_median) / spread
    below = np.exp(log_median + spread**2 / 2) * scipy.special.ndtr(at - spread)
    return below + limit * scipy.special.ndtr(-at)
