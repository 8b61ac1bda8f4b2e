"""Rooms, the sessions of the synthetic world's streamers, and what users and the platform know of them. No jax here."""

import dataclasses
import functools

import numpy as np
import scipy.sparse

from lsec_jax.data.csr import expand_ranges
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.sources.synthetic_sampling import exclusive_sum
from lsec_jax.data.sources.synthetic_truth import SyntheticTruth

SHARE_DAYS = 7  # for so long an accepted share leads to the streamer's rooms


@dataclasses.dataclass(frozen=True)
class World:
    """What all parts of the live world read; u users, r rooms, s streamers, c topics. Room = session, same index.

    Attributes:
        base: the world without its live part: tastes, follows, schedule, goods shown.
        tastes: of the users for rooms, 1 for the favourite topic, [u, c] float64.
        product_tastes: for products, in rooms and elsewhere, likewise.
        taste_parts: what users like in both domains, in rooms alone, and with products alone; `base.tastes` is the sum
            of the first and the last, [u, c] float64 each.
        believed_tastes: what the platform takes them for, [u, c] float64.
        mix: topics of the goods shown in each room, rows sum to 1, [r, c] float64; even in a room without goods.
        streamer_of: of each room, [r] int64.
        attraction: of each room by itself, in log-odds, [r] float64.
        popularity: log of the streamers' share of the follows that go by popularity, mean 0, [s] float64.
        activity: users' shares of the requests, [u] float64.
        friends: (starts [u + 1], friends of user after user [f]), int64; each friendship stands in both rows.
    """

    base: SyntheticTruth
    tastes: np.ndarray
    product_tastes: np.ndarray
    taste_parts: tuple[np.ndarray, np.ndarray, np.ndarray]
    believed_tastes: np.ndarray
    mix: np.ndarray
    streamer_of: np.ndarray
    attraction: np.ndarray
    popularity: np.ndarray
    activity: np.ndarray
    friends: tuple[np.ndarray, np.ndarray]

    @property
    def start(self) -> np.ndarray:
        """Of each room, in days, [r] float64."""
        return self.base.schedule.start

    @property
    def end(self) -> np.ndarray:
        """Of each room (exclusive), in days, [r] float64."""
        return self.base.schedule.end

    @functools.cached_property
    def category(self) -> np.ndarray:
        """The main topic of each room, [r] int64."""
        return self.mix.argmax(axis=1)

    @functools.cached_property
    def display(self) -> np.ndarray:
        """Running sum of the goods' display weights, for draws, [shown + 1] float64."""
        return exclusive_sum(self.base.schedule.display.data)

    def taste_for(self, users: np.ndarray, rooms: np.ndarray) -> np.ndarray:
        """Taste of each user for her room, in [0, 1], [m] float64."""
        return np.minimum(np.einsum("mc,mc->m", self.tastes[users], self.mix[rooms]), 1.0)

    def product_taste_for(self, users: np.ndarray, rooms: np.ndarray) -> np.ndarray:
        """Taste of each user for the products of her room, in [0, 1], [m] float64."""
        return np.minimum(np.einsum("mc,mc->m", self.product_tastes[users], self.mix[rooms]), 1.0)

    def follows(self, users: np.ndarray, streamers: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Whether each user follows her streamer before a time, [m] bool."""
        base, num_streamers = self.base, len(self.popularity)
        keys = self._follow_keys
        wanted = users.astype(np.int64) * num_streamers + streamers
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return (keys[at] == wanted) & (base.follow_times[at] < times)

    @functools.cached_property
    def _follow_keys(self) -> np.ndarray:
        users = np.repeat(np.arange(len(self.tastes)), np.diff(self.base.follow_offsets))
        return users * len(self.popularity) + self.base.follow_streamers


def chance(rate: float | np.ndarray, effect: np.ndarray) -> np.ndarray:
    """The probability whose log-odds are those of `rate`, in [0, 1), plus an effect; 0 for a rate of 0."""
    odds = np.exp(effect) * rate
    return odds / (1.0 - rate + odds)


def build_world(
    base: SyntheticTruth,
    live: LiveConfig,
    friends: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    rng_of_tastes: np.random.Generator,
) -> World:
    """Draws what the live part adds to users and rooms; which tastes are for one domain, from a stream of their own."""
    schedule, num_users, num_topics = base.schedule, len(base.tastes), base.tastes.shape[1]
    num_items, num_rooms = len(base.item_topics), len(schedule.start)
    shape = num_items, num_topics
    topic_of_item = scipy.sparse.csr_matrix((np.ones(num_items), (np.arange(num_items), base.item_topics)), shape)
    mix = (schedule.display @ topic_of_item).toarray()
    mix[schedule.attention == 0] = 1.0 / num_topics
    parts = _taste_parts(base.tastes, live.specific_tastes, rng_of_tastes)
    tastes = parts[0] + parts[1]
    tastes = tastes / tastes.max(axis=1, keepdims=True)
    activity: np.ndarray = rng.lognormal(0.0, live.activity_spread, num_users)
    popularity: np.ndarray = np.log(base.follow_overall)
    return World(
        base=base,
        tastes=tastes,
        product_tastes=base.tastes / base.tastes.max(axis=1, keepdims=True),
        taste_parts=parts,
        believed_tastes=tastes + rng.normal(0.0, 1.0, tastes.shape) * live.policy_noise,
        mix=mix,
        streamer_of=schedule.streamer_of(),
        attraction=rng.normal(0.0, 1.0, num_rooms) * live.room_spread,
        popularity=popularity - popularity.mean(),
        activity=activity / activity.sum(),
        friends=friends,
    )


def _taste_parts(
    tastes: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts of the users' tastes [u, c]: for both domains, for rooms alone, for products alone.

    Each topic of a user is for products alone with the probability `share`. What they weigh goes to topics that another
    user likes, for rooms alone.
    """
    is_specific = rng.random(tastes.shape) < share
    of_products = np.where(is_specific, tastes, 0.0)
    of_rooms = tastes[rng.permutation(len(tastes))] * of_products.sum(axis=1, keepdims=True)
    return tastes - of_products, of_rooms, of_products


@dataclasses.dataclass(frozen=True)
class Visits:
    """Who entered whose rooms on which day.

    Attributes:
        keys: user * num_days + day of each visit, rising, [v] int64.
        streamers: visited, [v] int64.
        num_days: of the period; days are 0..num_days - 1.
    """

    keys: np.ndarray
    streamers: np.ndarray
    num_days: int

    @classmethod
    def build(cls, users: np.ndarray, streamers: np.ndarray, days: np.ndarray, num_days: int) -> "Visits":
        """Sorts visits [v] by user and day."""
        keys = users.astype(np.int64) * num_days + days
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], streamers[order].astype(np.int64), num_days)

    def of(self, users: np.ndarray, first_day: int, end_day: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (position in `users`, streamer) of the visits of users [b] on days [first, end), both [m] int64."""
        first = np.searchsorted(self.keys, users * self.num_days + max(first_day, 0))
        counts = np.searchsorted(self.keys, users * self.num_days + max(end_day, 0)) - first
        return np.repeat(np.arange(len(users)), counts), self.streamers[expand_ranges(first, counts)]


@dataclasses.dataclass(frozen=True)
class Known:
    """What users and platform know of each other's days.

    Attributes:
        visits: whose rooms users entered.
        accepted: whose rooms users were led to by a share that they accepted.
    """

    visits: Visits
    accepted: Visits


@dataclasses.dataclass(frozen=True)
class Signals:
    """What speaks for each of l rooms to each of b users at her moment.

    Attributes:
        live: whether the room is live, [b, l] bool.
        taste: of the user for the room, in [0, 1], [b, l] float64.
        believed_taste: what the platform takes it for, [b, l] float64.
        follows: the user follows the streamer, 0 or 1, [b, l] float64.
        visits: log(1 + the user's visits to the streamer before this day), [b, l] float64.
        friend_visits: log(1 + her friends' visits to the streamer on the day before), [b, l] float64.
        accepted: log(1 + shares of the streamer's rooms that she accepted in the SHARE_DAYS days before), likewise.
        attraction, popularity: of the room, and of its streamer, [1, l] float64.
    """

    live: np.ndarray
    taste: np.ndarray
    believed_taste: np.ndarray
    follows: np.ndarray
    visits: np.ndarray
    friend_visits: np.ndarray
    accepted: np.ndarray
    attraction: np.ndarray
    popularity: np.ndarray

    def enter_effect(self, live: LiveConfig) -> np.ndarray:
        """What is added to the log-odds of `enter_rate` at the first position, [b, l] float64."""
        effect = self.attraction + live.enter_taste * self.taste + live.enter_follow * self.follows
        effect = effect + live.enter_repeat * self.visits + live.enter_friends * self.friend_visits
        return effect + live.enter_shares * self.accepted

    def policy_weights(self, live: LiveConfig) -> np.ndarray:
        """The logging policy's preference, 0 where a room is not live, the best 1, [b, l] float64."""
        logits = live.policy_taste * self.believed_taste + live.policy_follow * self.follows
        logits = logits + live.policy_repeat * self.visits + live.policy_popularity * self.popularity
        logits = np.where(self.live, logits + live.policy_shares * self.accepted, -np.inf)
        best = logits.max(axis=1, keepdims=True, initial=-np.inf)
        return np.exp(logits - np.where(np.isfinite(best), best, 0.0))


def signals(world: World, known: Known, users: np.ndarray, times: np.ndarray, day: int, rooms: np.ndarray) -> Signals:
    """Computes what speaks for rooms, at moments of one day.

    Args:
        world: the world.
        known: of the days before this one; this day and later ones do not count.
        users: who looks, [b] int64.
        times: when, in [day, day + 1), [b] float64.
        day: number of the day.
        rooms: of this day, so that no streamer has two, [l] int64.
    """
    shape = len(users), len(rooms)
    streamers = world.streamer_of[rooms]
    column_of = np.full(len(world.popularity), -1)
    column_of[streamers] = np.arange(len(rooms))

    def count(rows: np.ndarray, of_streamers: np.ndarray) -> np.ndarray:
        columns = column_of[of_streamers]
        inside = columns >= 0
        cells = rows[inside] * shape[1] + columns[inside]
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)

    base = world.base
    degrees = base.follow_offsets[users + 1] - base.follow_offsets[users]
    rows, edges = np.repeat(np.arange(len(users)), degrees), expand_ranges(base.follow_offsets[users], degrees)
    before = base.follow_times[edges] < times[rows]
    follows = count(rows[before], base.follow_streamers[edges[before]])

    starts, friends = world.friends
    degrees = starts[users + 1] - starts[users]
    friend_rows, at = np.repeat(np.arange(len(users)), degrees), expand_ranges(starts[users], degrees)
    visit_rows, of_friends = known.visits.of(friends[at], day - 1, day)
    return Signals(
        live=(world.start[rooms] <= times[:, None]) & (times[:, None] < world.end[rooms]),
        taste=np.minimum(world.tastes[users] @ world.mix[rooms].T, 1.0),
        believed_taste=world.believed_tastes[users] @ world.mix[rooms].T,
        follows=follows,
        visits=np.log1p(count(*known.visits.of(users, 0, day))),
        friend_visits=np.log1p(count(friend_rows[visit_rows], of_friends)),
        accepted=np.log1p(count(*known.accepted.of(users, day - SHARE_DAYS, day))),
        attraction=world.attraction[rooms][None, :],
        popularity=world.popularity[streamers][None, :],
    )
