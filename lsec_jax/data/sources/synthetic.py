"""A simulated live-commerce world with planted structure, which knows its own true probabilities. No jax here.

Topics tie the world together. Every item has a main topic and a Zipf-like popularity within it; users spread their
taste over few topics, streamers their goods. Users follow streamers by taste or by popularity alone; streamers go
live in the evening and show goods of their catalogue, some much more prominently than others; users buy on their own by
taste (organic), or in a session of a streamer whom they followed before it began (influenced). Each relation keeps a
pair's first occurrence.

Every relation is drawn event by event until exactly the wanted number of distinct pairs is reached, so edge counts are
met exactly, and the number of draws gives the Poisson means that the truth uses (`synthetic_truth`).

Independent of each other by design: how much a user buys and how much she follows; what a streamer sells and how well
it sells by itself (unless `catalogue_popularity` > 0). With `influence=0` and `taste_follow=0`, therefore, that a
followed streamer sells an item says nothing about its purchase.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from lsec_jax.data.sources.live_world import tables as live_tables
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.sources.simulated import Knobs, numbered_nodes, sparse_dirichlet
from lsec_jax.data.sources.synthetic_sampling import (
    Distinct,
    draw_distinct,
    draw_index,
    draw_row,
    draw_sources,
    exclusive_sum,
    sample_segments,
)
from lsec_jax.data.sources.synthetic_schedule import (
    Catalogues,
    Schedule,
    Sessions,
    draw_sessions,
    draw_showings,
    first_shown,
)
from lsec_jax.data.sources.synthetic_truth import FollowedSessions, SyntheticTruth, influence_mass
from lsec_jax.schema import LiveCommerceData, Relation

EARLY_DAYS_SHARE = 0.1


@dataclasses.dataclass
class Config:
    """The world's size and structure.

    Attributes:
        num_users, num_items, num_streamers: nodes.
        num_buy, num_follow, num_sell: distinct pairs of each relation, met exactly.
        num_days: length of the period; all times are days in [0, num_days).
        num_topics: topics, of equal numbers of items.
        sessions_per_streamer: mean sessions of a streamer in the period, at most one a day.
        items_per_session: mean showings in a session (a good shown twice in a session counts once afterwards).
        popularity_exponent: Zipf exponent of organic item popularity within a topic; 0 = all equal.
        streamer_exponent: Zipf exponent of how often streamers are followed.
        taste_concentration: Dirichlet parameter of users' tastes; smaller = fewer topics per user.
        streamer_concentration: Dirichlet parameter of streamers' topics.
        topic_leak: share of organic purchases, and of catalogues, that ignore the topic.
        catalogue_popularity: 0 = within a topic, streamers pick goods evenly; 1 = by the goods' own popularity. Above
            0, goods that streamers sell are bought more for that reason alone, whatever the follows.
        influence: share of purchases made in a followed streamer's session, in [0, 1]; users without such a
            session buy organically instead.
        taste_follow: share of follows that go by taste, in [0, 1]; the others go by streamer popularity alone.
        session_taste: weight of the user's taste in what she buys in a session, in [0, 1).
        display_spread: log-normal sigma of how prominently a streamer shows her goods (a trait of the pair).
        attention_spread: log-normal sigma of how much the streamers sell (a trait of the streamer).
        activity_spread: log-normal sigma of users' numbers of purchases, and (separately drawn) of follows.
        early_follows: share of follows made in the first tenth of the period; the others come evenly over all of it.
        seed: of everything.
        live: rooms, the feed and what happens inside, new items, or None. Leaves all other tables as they are, but for
            `buy` and `sell` where there are new items.
    """

    num_users: int = 3000
    num_items: int = 3000
    num_streamers: int = 450
    num_buy: int = 45_000
    num_follow: int = 165_000
    num_sell: int = 115_000
    num_days: int = 50
    num_topics: int = 20
    sessions_per_streamer: float = 20.0
    items_per_session: float = 40.0
    popularity_exponent: float = 0.9
    streamer_exponent: float = 0.6
    taste_concentration: float = 0.08
    streamer_concentration: float = 0.05
    topic_leak: float = 0.1
    catalogue_popularity: float = 0.0
    influence: float = 0.5
    taste_follow: float = 0.8
    session_taste: float = 0.9
    display_spread: float = 1.8
    attention_spread: float = 0.7
    activity_spread: float = 0.8
    early_follows: float = 0.6
    seed: int = 0
    live: LiveConfig | None = None

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable knob, its value and the remedy."""
        knobs = Knobs(self)
        for name in ("users", "items", "streamers", "buy", "follow", "sell", "days", "topics"):
            knobs.require(getattr(self, f"num_{name}") >= 1, f"num_{name}", "give a whole number of at least 1")
        for left, right, name in (
            ("user", "item", "buy"),
            ("user", "streamer", "follow"),
            ("streamer", "item", "sell"),
        ):
            pairs = getattr(self, f"num_{left}s") * getattr(self, f"num_{right}s")
            remedy = f"there are only {pairs} {left}-{right} pairs; ask for fewer edges or more nodes"
            knobs.require(getattr(self, f"num_{name}") <= pairs, f"num_{name}", remedy)
        knobs.require(self.num_topics <= self.num_items, "num_topics", f"at most num_items={self.num_items}")
        for name in ("topic_leak", "catalogue_popularity", "influence", "taste_follow", "early_follows"):
            knobs.require(0 <= getattr(self, name) <= 1, name, "give a share in [0, 1]")
        knobs.require(0 <= self.session_taste < 1, "session_taste", "give a number in [0, 1)")
        for name in (
            "popularity_exponent",
            "streamer_exponent",
            "display_spread",
            "attention_spread",
            "activity_spread",
        ):
            knobs.require(0 <= getattr(self, name) <= 10, name, "give a number in [0, 10]")
        for name in ("taste_concentration", "streamer_concentration"):
            knobs.require(1e-3 <= getattr(self, name) < math.inf, name, "give a number of at least 0.001")
        remedy = f"at most one session a day: give a number in (0, num_days={self.num_days}]"
        knobs.require(0 < self.sessions_per_streamer <= self.num_days, "sessions_per_streamer", remedy)
        needed = self.num_sell / (self.num_streamers * self.sessions_per_streamer)
        remedy = f"num_sell={self.num_sell} goods need at least {needed:.1f} a session; raise it or lower num_sell"
        knobs.require(needed <= self.items_per_session < math.inf, "items_per_session", remedy)
        knobs.require(self.seed >= 0, "seed", "give a whole number of at least 0")
        if self.live is not None:
            self.live.validate()

    def load(self) -> LiveCommerceData:
        """Simulates the world.

        Returns:
            The data set, with nodes user, item and streamer, relations buy, follow and sell (with times in days; edges
            sorted by source, then target) and the truth; with `live`, what `live_world` adds.

        Raises:
            ConfigError: for a knob that cannot be used.
        """
        self.validate()
        # One stream per part, so that e.g. another `influence` leaves tastes, follows and schedule as they were.
        streams = [np.random.default_rng(part) for part in np.random.SeedSequence(self.seed).spawn(5)]
        traits = _draw_traits(self, streams[0])
        follow, follow_draws, follow_merged = _draw_follows(self, traits, streams[1])
        sessions = draw_sessions(self.num_streamers, self.num_days, self.sessions_per_streamer, streams[3])
        sell, _, sell_merged = _draw_catalogues(self, traits, sessions, streams[2])
        catalogues = Catalogues(sell[0], sell[1], sell[2], traits.item_release)
        schedule = draw_showings(sessions, catalogues, traits.attention, self.items_per_session, streams[3])
        truth = _prepare_truth(self, traits, follow, follow_draws, schedule)
        buy, buy_draws, buy_merged = _draw_purchases(self, traits, truth, streams[4])
        activity = traits.purchase_activity * buy_draws
        # Users whom no session can influence buy organically; see `_draw_purchases`.
        influenced = np.where(truth.influence_mass > 0, self.influence, 0.0)
        truth = dataclasses.replace(
            truth,
            organic_events=activity * (1.0 - influenced),
            influenced_events=activity * influenced,
            purchase_sessions=buy[3],
        )
        tables = {name: numbered_nodes(name, getattr(self, f"num_{name}s")) for name in ("user", "item", "streamer")}
        relations = {
            "buy": Relation("buy", "user", "item", buy[0], buy[1], time=buy[2]),
            "follow": Relation("follow", "user", "streamer", follow[0], follow[1], time=follow[2]),
            "sell": Relation("sell", "streamer", "item", sell[0], sell[1], time=first_shown(schedule)),
        }
        counts = {
            "buy: repeated purchases merged into the first": buy_merged,
            "follow: repeated follows merged into the first": follow_merged,
            "sell: repeated listings merged": sell_merged,
        }
        name = f"synthetic-{self.num_users}x{self.num_items}x{self.num_streamers}-seed{self.seed}"
        data = LiveCommerceData(name, tables, relations, end_time=float(self.num_days), truth=truth, counts=counts)
        return data if self.live is None else live_tables.extend(data, truth, self.live, self.seed)


def tiny(**changes: Any) -> Config:
    """A world of a few hundred nodes, generated in well under a second."""
    sizes = {"num_users": 200, "num_items": 150, "num_streamers": 30, "num_topics": 8, "items_per_session": 20.0}
    edges = {"num_buy": 2_400, "num_follow": 1_800, "num_sell": 1_200}
    return Config(**{**sizes, **edges, **changes})


def live_tiny(live: LiveConfig | None = None, **changes: Any) -> Config:
    """`tiny` with 30,000 impressions, or with the given live world; generated in about a second."""
    return tiny(**{"live": live or LiveConfig(num_impressions=30_000), **changes})


def lsec_small(**changes: Any) -> Config:
    """The size of the published LSEC-Small."""
    sizes = {"num_users": 29_422, "num_items": 31_630, "num_streamers": 4_633}
    edges = {"num_buy": 451_441, "num_follow": 1_659_943, "num_sell": 1_168_165}
    return Config(**{**sizes, **edges, **changes})


def lsec_large(**changes: Any) -> Config:
    """The size of the published LSEC-Large."""
    sizes = {"num_users": 202_850, "num_items": 109_502, "num_streamers": 7_395}
    edges = {"num_buy": 3_062_463, "num_follow": 5_439_288, "num_sell": 1_953_881}
    return Config(**{**sizes, **edges, **changes})


@dataclasses.dataclass(frozen=True)
class _Traits:
    """What users, items and streamers are like; probabilities and shares, float64, except the topics.

    `tastes` [n_users, n_topics]; `streamer_topics` [n_streamers, n_topics]; `item_topics` [n_items] int64;
    `item_popularity` [n_items], unnormalised; `item_release` [n_items], day, -inf = before the period; all others sum
    to 1 (`attention` has median 1).
    """

    tastes: np.ndarray
    streamer_topics: np.ndarray
    item_topics: np.ndarray
    item_popularity: np.ndarray
    item_release: np.ndarray
    purchase_activity: np.ndarray
    follow_activity: np.ndarray
    streamer_popularity: np.ndarray
    catalogue_size: np.ndarray
    attention: np.ndarray


def _draw_traits(config: Config, rng: np.random.Generator) -> _Traits:
    def shares(spread: float, count: int) -> np.ndarray:
        values = rng.lognormal(0.0, spread, count)
        return values / values.sum()

    def zipf(exponent: float, ranks: np.ndarray) -> np.ndarray:
        return (ranks + 1.0) ** -exponent

    topics = config.num_topics
    # A random permutation deals out topics (equally) and ranks within the topic, so ids say nothing about either.
    place = rng.permutation(config.num_items)
    release = np.full(config.num_items, -np.inf)
    if config.live is not None:
        release = live_tables.draw_releases(config.num_items, config.num_days, config.live, config.seed)
    popularity = zipf(config.streamer_exponent, rng.permutation(config.num_streamers))
    return _Traits(
        tastes=sparse_dirichlet(rng, config.taste_concentration, config.num_users, topics),
        streamer_topics=sparse_dirichlet(rng, config.streamer_concentration, config.num_streamers, topics),
        item_topics=place % topics,
        item_popularity=zipf(config.popularity_exponent, place // topics),
        item_release=release,
        purchase_activity=shares(config.activity_spread, config.num_users),
        follow_activity=shares(config.activity_spread, config.num_users),
        streamer_popularity=popularity / popularity.sum(),
        catalogue_size=shares(0.5, config.num_streamers),
        attention=rng.lognormal(0.0, config.attention_spread, config.num_streamers),
    )


def _streamers_by_topic(traits: _Traits) -> np.ndarray:
    """P(streamer | topic), [n_topics, n_streamers]: her popularity times her share of the topic."""
    weights = (traits.streamer_topics * traits.streamer_popularity[:, None]).T
    return weights / weights.sum(axis=1, keepdims=True)


def _draw_follows(config: Config, traits: _Traits, rng: np.random.Generator) -> Distinct:
    """Follows (user, streamer, time); P(s | u) = taste_follow sum_c taste_uc P(s | c) + (1 - taste_follow) P(s)."""
    tastes = exclusive_sum(traits.tastes.ravel())
    by_topic = exclusive_sum(_streamers_by_topic(traits).ravel())

    def draw(count: int) -> tuple[np.ndarray, ...]:
        users = draw_sources(rng, traits.follow_activity, count)
        topics = draw_row(rng, tastes, users, config.num_topics)
        by_taste = draw_row(rng, by_topic, topics, config.num_streamers)
        by_popularity = draw_index(rng, traits.streamer_popularity, count)
        streamers = np.where(rng.random(count) < config.taste_follow, by_taste, by_popularity)
        days = np.where(rng.random(count) < config.early_follows, EARLY_DAYS_SHARE * config.num_days, config.num_days)
        return users, streamers, rng.random(count) * days

    return draw_distinct(rng, draw, config.num_follow, "num_follow", config.num_streamers)


class _ItemsOfTopics:
    """Draws items given topics: by weight within the topic, with a leak to all items."""

    def __init__(self, config: Config, traits: _Traits, weights: np.ndarray):
        order = np.argsort(traits.item_topics, kind="stable")
        sizes = np.bincount(traits.item_topics, minlength=config.num_topics)
        self.order, self.weights, self.leak = order, weights, config.topic_leak
        self.offsets = exclusive_sum(sizes).astype(np.int64)
        self.cumulative = exclusive_sum(weights[order])

    def draw(self, rng: np.random.Generator, topics: np.ndarray) -> np.ndarray:
        inside = self.order[sample_segments(rng, self.cumulative, self.offsets[topics], self.offsets[topics + 1])]
        leaked = np.flatnonzero(rng.random(len(topics)) < self.leak)
        inside[leaked] = draw_index(rng, self.weights, len(leaked))
        return inside


def _draw_catalogues(config: Config, traits: _Traits, sessions: Sessions, rng: np.random.Generator) -> Distinct:
    """Catalogues (streamer, item, prominence): topics by streamer, items by topic, released before her last session."""
    last_start = sessions.start[sessions.offsets[1:] - 1]
    topics_of = exclusive_sum(traits.streamer_topics.ravel())
    items_of = _ItemsOfTopics(config, traits, traits.item_popularity**config.catalogue_popularity)

    def draw(count: int) -> tuple[np.ndarray, ...]:
        streamers = draw_sources(rng, traits.catalogue_size, count)
        items = items_of.draw(rng, draw_row(rng, topics_of, streamers, config.num_topics))
        return streamers, items, np.zeros(count)

    def can_happen(columns: tuple[np.ndarray, ...]) -> np.ndarray:
        return traits.item_release[columns[1]] <= last_start[columns[0]]

    found = draw_distinct(rng, draw, config.num_sell, "num_sell", config.num_items, can_happen)
    streamers, items, _ = found.columns
    return found._replace(columns=(streamers, items, rng.lognormal(0.0, config.display_spread, len(items))))


def _prepare_truth(
    config: Config, traits: _Traits, follow: tuple[np.ndarray, ...], follow_draws: int, schedule: Schedule
) -> SyntheticTruth:
    """The truth without the purchases' expected numbers, which depend on how many draws those will take."""
    popularity = traits.item_popularity
    truth = SyntheticTruth(
        tastes=traits.tastes,
        item_topics=traits.item_topics,
        item_in_topic=popularity / np.bincount(traits.item_topics, popularity, config.num_topics)[traits.item_topics],
        item_overall=popularity / popularity.sum(),
        item_release=traits.item_release,
        topic_leak=config.topic_leak,
        session_taste=config.session_taste,
        organic_events=np.zeros(config.num_users),
        influenced_events=np.zeros(config.num_users),
        influence_mass=np.zeros(config.num_users),
        follow_offsets=exclusive_sum(np.bincount(follow[0], minlength=config.num_users)).astype(np.int64),
        follow_streamers=follow[1],
        follow_times=follow[2],
        schedule=schedule,
        follow_events=traits.follow_activity * follow_draws,
        follow_by_topic=_streamers_by_topic(traits),
        follow_overall=traits.streamer_popularity,
        taste_follow=config.taste_follow,
        follow_clock=(config.early_follows, EARLY_DAYS_SHARE * config.num_days, float(config.num_days)),
        purchase_sessions=np.zeros(0, np.int64),
    )
    return dataclasses.replace(truth, influence_mass=influence_mass(truth))


def _draw_purchases(config: Config, traits: _Traits, truth: SyntheticTruth, rng: np.random.Generator) -> Distinct:
    """Purchases (user, item, time, session or -1); an organic one of an item that is not there yet does not happen."""
    tastes = exclusive_sum(traits.tastes.ravel())
    items_of = _ItemsOfTopics(config, traits, traits.item_popularity)
    sessions_of = FollowedSessions(truth)

    def draw(count: int) -> tuple[np.ndarray, ...]:
        users = draw_sources(rng, traits.purchase_activity, count)
        items = items_of.draw(rng, draw_row(rng, tastes, users, config.num_topics))
        time = rng.random(count) * config.num_days
        sessions = np.full(count, -1)
        influenced = (rng.random(count) < config.influence) & (truth.influence_mass[users] > 0)
        chosen, items[influenced] = sessions_of.draw(rng, users[influenced])
        start, end = truth.schedule.start[chosen], truth.schedule.end[chosen]
        sessions[influenced], time[influenced] = chosen, start + rng.random(len(chosen)) * (end - start)
        return users, items, time, sessions

    def can_happen(columns: tuple[np.ndarray, ...]) -> np.ndarray:
        return traits.item_release[columns[1]] <= columns[2]

    return draw_distinct(rng, draw, config.num_buy, "num_buy", config.num_items, can_happen)
