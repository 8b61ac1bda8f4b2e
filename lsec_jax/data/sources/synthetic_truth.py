"""The true purchase and follow probabilities of the synthetic world, in blocks of users. No jax here.

Both relations are Poisson: pair (u, x) has an expected number of events in every window, and the relation keeps the
pair's first event, so P(first event in [start, end) | none before) = 1 - exp(-expected events in [start, end)).
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
import scipy.sparse

from lsec_jax.data.csr import expand_ranges
from lsec_jax.data.sources.synthetic_sampling import exclusive_sum, sample_segments
from lsec_jax.data.sources.synthetic_schedule import Schedule
from lsec_jax.schema import DataError

MASS_BLOCK = 1 << 18  # follow edges; bounds temporary memory to about this x topics x 24 bytes


@dataclasses.dataclass(frozen=True)
class SyntheticTruth:
    """Exact probabilities of the generator, given the realised tastes, schedule and follows (with their times).

    Two things are exact up to a stated error. (1) The generator draws events one by one until the wanted number e of
    distinct pairs is reached, and the number of draws n stands for the Poisson mean: one factor common to all pairs,
    with a relative standard deviation below 1 / sqrt(distinct pairs, e); rankings do not feel it. (2) n draws of
    probability p miss a pair with (1 - p)^n, not exp(-n p): a relative difference of the rate of at most p / 2.

    Attributes:
        relations: those with true probabilities; for all others there is no oracle.
        tastes: topic shares of the users, [n_users, n_topics] float64, rows sum to 1.
        item_topics: main topic of each item, [n_items] int64.
        item_in_topic: probability of an item given its own topic, without leak, [n_items] float64.
        item_overall: probability of an item whatever the topic, [n_items] float64.
        item_release: day from which on an item can be bought, -inf = before the period, [n_items] float64.
        topic_leak: share of organic purchases that ignore the topic.
        session_taste: 0 = in a session, items go by display weight alone; towards 1 = by the user's taste as well.
        organic_events, influenced_events: expected purchases over the whole period, [n_users] float64; the organic ones
            if all items were there from its start: those of an item before its release do not happen.
        influence_mass: normaliser of a user's influenced purchases, [n_users] float64, 0 where no session counts.
        follow_offsets: follows of user u are follow_offsets[u]:follow_offsets[u+1], [n_users + 1] int64.
        follow_streamers, follow_times: sorted by user, [e_follow].
        schedule: sessions and what they show.
        follow_events: expected follows over the whole period, [n_users] float64.
        follow_by_topic: P(streamer | topic), [n_topics, n_streamers] float64.
        follow_overall: P(streamer), [n_streamers] float64.
        taste_follow: share of follows that go by taste.
        follow_clock: (early share, early days, num_days), see `follow_share`.
        purchase_sessions: session of each `buy` edge, in the relation's order, -1 = organic, [e_buy] int64.
    """

    relations: ClassVar[tuple[str, ...]] = ("buy", "follow")

    tastes: np.ndarray
    item_topics: np.ndarray
    item_in_topic: np.ndarray
    item_overall: np.ndarray
    item_release: np.ndarray
    topic_leak: float
    session_taste: float
    organic_events: np.ndarray
    influenced_events: np.ndarray
    influence_mass: np.ndarray
    follow_offsets: np.ndarray
    follow_streamers: np.ndarray
    follow_times: np.ndarray
    schedule: Schedule
    follow_events: np.ndarray
    follow_by_topic: np.ndarray
    follow_overall: np.ndarray
    taste_follow: float
    follow_clock: tuple[float, float, float]
    purchase_sessions: np.ndarray

    def probabilities(
        self, relation: str, source_ids: np.ndarray, start: float, end: float, block_size: int = 128
    ) -> np.ndarray:
        """P(the pair first occurs in [start, end) | not before).

        Args:
            relation: "buy" (users x items) or "follow" (users x streamers).
            source_ids: users, [b] integer.
            start: start of the window, in days; times outside [0, num_days) add nothing.
            end: end of the window (exclusive), in days.
            block_size: users computed at once; bounds the temporary memory to about block_size x items x 32 bytes.

        Returns:
            [b, n_targets] float32.

        Raises:
            DataError: for another relation, or a user outside the table.
        """
        if relation not in self.relations:
            raise DataError(
                f"the synthetic world has no true probabilities for relation '{relation}'; it has them for: "
                f"{', '.join(self.relations)}. Leave the oracle out, or evaluate one of these."
            )
        users = np.asarray(source_ids, dtype=np.int64)
        bad = np.flatnonzero((users < 0) | (users >= len(self.tastes)))
        if len(bad):
            raise DataError(
                f"source_ids[{bad[0]}]={users[bad[0]]}: no such user; give internal indices 0..{len(self.tastes) - 1}"
            )
        expected = {"buy": self._expected_purchases, "follow": self._expected_follows}[relation]
        width = len(self.item_topics) if relation == "buy" else len(self.follow_overall)
        out = np.empty((len(users), width), np.float32)
        for at in range(0, len(users), block_size):
            out[at : at + block_size] = -np.expm1(-expected(users[at : at + block_size], start, end))
        return out

    def session_appeal(self, users: np.ndarray, topics: np.ndarray | None = None) -> np.ndarray:
        """How much a user takes to topics in a session: 1 for her favourite topic, at least 1 - session_taste.

        Args:
            users: [m] int64.
            topics: [m] int64, or None for all topics.

        Returns:
            [m] float64, or [m, n_topics] without `topics`.
        """
        taste = self.tastes[users] if topics is None else self.tastes[users, topics]
        best = self._strongest_taste[users]
        share = taste / (best[:, None] if topics is None else best)
        return 1.0 - self.session_taste + self.session_taste * share

    @functools.cached_property
    def _strongest_taste(self) -> np.ndarray:
        return self.tastes.max(axis=1)

    def follow_share(self, start: float, end: float) -> float:
        """Share of follows in [start, end): `early share` even over the early days, the rest even over the period."""
        early, early_days, num_days = self.follow_clock
        spans = (early_days, early), (num_days, 1.0 - early)
        return sum(share * max(min(end, days) - max(start, 0.0), 0.0) / days for days, share in spans)

    def _expected_follows(self, users: np.ndarray, start: float, end: float) -> np.ndarray:
        chosen = self.taste_follow * (self.tastes[users] @ self.follow_by_topic)
        chosen += (1.0 - self.taste_follow) * self.follow_overall
        return chosen * (self.follow_events[users] * self.follow_share(start, end))[:, None]

    def _expected_purchases(self, users: np.ndarray, start: float, end: float) -> np.ndarray:
        expected = self.tastes[users][:, self.item_topics] * ((1.0 - self.topic_leak) * self.item_in_topic)
        expected += self.topic_leak * self.item_overall
        num_days = self.schedule.num_days
        begin = np.maximum(max(start, 0.0), self.item_release)
        share = np.maximum(min(end, num_days) - begin, 0.0) / num_days  # of the period, [n_items]
        expected *= self.organic_events[users][:, None] * share
        mass = self.influence_mass[users]
        scale = np.where(mass > 0, self.influenced_events[users] / np.where(mass > 0, mass, 1.0), 0.0)
        if scale.any():
            shown = (self._attended_sessions(users, start, end) @ self.schedule.display).toarray()  # [b, n_items]
            expected += shown * self.session_appeal(users)[:, self.item_topics] * scale[:, None]
        return expected

    def _attended_sessions(self, users: np.ndarray, start: float, end: float) -> scipy.sparse.csr_matrix:
        """Attention x overlap of the sessions in the window that start at or after the follow, [b, n_sessions]."""
        degrees = self.follow_offsets[users + 1] - self.follow_offsets[users]
        edges = expand_ranges(self.follow_offsets[users], degrees)
        streamers = self.follow_streamers[edges].astype(np.int64)
        first = self.schedule.first_after(streamers, self.follow_times[edges])
        counts = self.schedule.offsets[streamers + 1] - first
        sessions = expand_ranges(first, counts)
        rows = np.repeat(np.repeat(np.arange(len(users)), degrees), counts)
        values = (self.schedule.attention * self.schedule.overlap(start, end))[sessions]
        keep = values > 0
        shape = (len(users), len(self.schedule.start))
        return scipy.sparse.csr_matrix((values[keep], (rows[keep], sessions[keep])), shape=shape)


def influence_mass(truth: SyntheticTruth) -> np.ndarray:
    """Sums attention x display x appeal over each user's follows, their later sessions and the items, [n_users]."""
    schedule, num_items = truth.schedule, len(truth.item_topics)
    topic_of_item = scipy.sparse.csr_matrix(
        (np.ones(num_items), (np.arange(num_items), truth.item_topics)), shape=(num_items, truth.tastes.shape[1])
    )
    by_topic = exclusive_sum((schedule.display @ topic_of_item).toarray() * schedule.attention[:, None])
    num_users = len(truth.tastes)
    users = np.repeat(np.arange(num_users), np.diff(truth.follow_offsets))
    first = schedule.first_after(truth.follow_streamers.astype(np.int64), truth.follow_times)
    last = schedule.offsets[truth.follow_streamers + 1]
    mass = np.zeros(len(first))
    for at in range(0, len(first), MASS_BLOCK):
        block = slice(at, at + MASS_BLOCK)
        attended = by_topic[last[block]] - by_topic[first[block]]  # [e, n_topics]
        mass[block] = (attended * truth.session_appeal(users[block])).sum(axis=1)
    return np.bincount(users, np.where(last > first, mass, 0.0), num_users)


class FollowedSessions:
    """Draws (session, item) given users, with probability proportional to attention x display x appeal."""

    def __init__(self, truth: SyntheticTruth):
        self.truth, schedule = truth, truth.schedule
        streamers = truth.follow_streamers.astype(np.int64)
        self.first = schedule.first_after(streamers, truth.follow_times)
        self.last = schedule.offsets[streamers + 1]
        self.attention = exclusive_sum(schedule.attention)
        self.follows = exclusive_sum(self.attention[self.last] - self.attention[self.first])
        self.display = exclusive_sum(schedule.display.data)

    def draw(self, rng: np.random.Generator, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns a session and an item, [m] int64 each, per user [m]; all users have a positive influence mass."""
        truth, display = self.truth, self.truth.schedule.display
        sessions, items = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        waiting = np.arange(len(users))
        # Rejection by appeal: each try is accepted with probability at least 1 - session_taste.
        while len(waiting):
            user = users[waiting]
            edges = sample_segments(rng, self.follows, truth.follow_offsets[user], truth.follow_offsets[user + 1])
            session = sample_segments(rng, self.attention, self.first[edges], self.last[edges])
            shown = sample_segments(rng, self.display, display.indptr[session], display.indptr[session + 1])
            item = display.indices[shown]
            accepted = rng.random(len(user)) < truth.session_appeal(user, truth.item_topics[item])
            done = waiting[accepted]
            sessions[done], items[done] = session[accepted], item[accepted]
            waiting = waiting[~accepted]
        return sessions, items
