"""A simulated world of sharing: to whom does a user want to send something, in one of many scenarios? No jax here.

A source user, in a scenario, is shown a slate of destination users; she accepts each of them or not, by log-odds that
are the sum of

- a constant, and a bias of the scenario;
- the destination's taste times the scenario's weights of the topics;
- how alike the tastes of both are, times a coefficient of the scenario, of either sign: the same pair suits one
  scenario and not another;
- the ties of both (friends and how close, whether the source paid the destination or shared with her before), times
  the scenario's coefficients.

What a scenario adds to all of these is the sum of what the nodes above it in the tree of scenarios add, most of it near
the root, so a scenario with little past, or none, is known by its siblings and ancestors. Few scenarios have most
requests, and some open only after the first 80% of them; of these, some lie under an inner node that is new as well.

Tastes are in no table. Users of one favourite topic are a circle, and friends are mostly of one circle, so who appears
rarely is known by her friends. Users who ask much are shown much, so many appear rarely. Friendships, payments and
shares (`friend`, `pay`, `share_view`) are all from before the first suggestion: no view holds a label.

A plain network that reads ids of users and scenarios has to learn every scenario from its own rows, and every user from
hers. Ancestors in the tree tell more of rare scenarios, neighbours in the graph of rare users.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from lsec_jax.data.sources.live_world.features import categorical, numeric, taste_features
from lsec_jax.data.sources.live_world.social import Scenarios, draw_friends, draw_payments, grow_tree
from lsec_jax.data.sources.sharing_world_draws import (
    LAST_PART,
    TIES,
    Ties,
    choose_new_leaves,
    draw_shares,
    draw_slates,
    mean_log_odds,
    open_scenarios,
    sigmoid,
)
from lsec_jax.data.sources.simulated import Knobs, make_relation, numbered_nodes, sparse_dirichlet
from lsec_jax.data.sources.synthetic_sampling import draw_index
from lsec_jax.schema import (
    Availability,
    DataError,
    EventNodes,
    Events,
    Feature,
    LiveCommerceData,
    NodeTable,
    Relation,
    Tree,
)

EVENTS, LABEL = "suggestion", "accepted"
NUM_CITIES = 8
# One stream of random numbers per part, so that a knob of one part leaves the others' draws as they were. New parts are
# added at the end.
PARTS = ("users", "friends", "views", "tree", "openings", "requests", "slates", "accept", "features")


@dataclasses.dataclass
class Config:
    """The world's size and structure. Effects are added to log-odds.

    Attributes:
        num_users: nodes.
        num_requests: moments at which a user wants to share, spread evenly over the time of the suggestions.
        slate_size: candidates in a request; at most a quarter of the users.
        num_days: length of the period; all times are days in [0, num_days).
        view_share: share of the period, from its start, whose payments and shares are known; then come the suggestions.
        num_topics: topics of taste, and so circles.
        taste_concentration: Dirichlet parameter of users' tastes; smaller = fewer topics per user.
        activity_spread: log-normal sigma of how often users ask, and of how often they are shown.
        num_friends: mean friends of a user; friendship is mutual. 0 = none, and no views.
        circle_strength: share of friendships inside a circle, the users of one favourite topic, in [0, 1].
        pay_share: share of friends whom a user paid in the time of the views, in [0, 1]; close ones more often.
        share_rate: shares with a friend of middle closeness and the same taste in that time; in proportion to both.
        friend_slots, near_slots: shares of the candidates who are friends, and friends of friends; the others are
            anybody.
        scenario_branching: children of the tree's nodes, by level below the root; the product is the number of leaves.
        scenario_exponent, scenario_offset: the k-th scenario's popularity is (k + offset) ** -exponent, k = 1, 2, ...
        new_scenarios: share of the scenarios that open only after the first 80% of the suggestions' time, and all of
            them before its last tenth, in [0, 1).
        new_branches: share of those that come as whole branches: all leaves of a lowest inner node; in [0, 1].
        new_traffic: share of the requests, once all are open, in new scenarios, in [0, 1); each has at least one.
        accept_rate: mean probability of being accepted, in (0, 1).
        similarity: effect of 2 * (cosine of tastes) - 1, on average over scenarios.
        closeness, paid, shared: effects of the ties, likewise; closeness is from 0 to 1.
        bias_spread, similarity_spread, tie_spread: standard deviations of the scenarios' bias, and of their effects of
            similarity and of each tie.
        topic_spread: that of the scenarios' weight of each topic in the destination's taste (of length 1).
        level_shares: how the variance of all these is shared among the tree's levels below the root.
        seed: of everything.
    """

    num_users: int = 6_000
    num_requests: int = 50_000
    slate_size: int = 12
    num_days: int = 40
    view_share: float = 0.75
    num_topics: int = 12
    taste_concentration: float = 0.15
    activity_spread: float = 1.2
    num_friends: float = 16.0
    circle_strength: float = 0.8
    pay_share: float = 0.3
    share_rate: float = 1.0
    friend_slots: float = 0.4
    near_slots: float = 0.3
    scenario_branching: tuple[int, ...] = (3, 3, 4, 6)
    scenario_exponent: float = 1.8
    scenario_offset: float = 5.0
    new_scenarios: float = 0.125
    new_branches: float = 0.4
    new_traffic: float = 0.2
    accept_rate: float = 0.2
    similarity: float = 0.5
    closeness: float = 1.0
    paid: float = 0.4
    shared: float = 0.4
    bias_spread: float = 0.7
    similarity_spread: float = 1.2
    tie_spread: float = 0.5
    topic_spread: float = 1.2
    level_shares: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
    seed: int = 0

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable knob, its value and the remedy."""
        knobs = Knobs(self)
        knobs.counts(1, "num_users", "num_requests", "slate_size", "num_days", "num_topics")
        remedy = f"at most a quarter of num_users={self.num_users}"
        knobs.require(4 * self.slate_size <= self.num_users, "slate_size", remedy)
        knobs.rates("view_share", "accept_rate")
        knobs.rates("new_traffic", "new_scenarios", allows_zero=True)
        knobs.between(0, 1, "circle_strength", "pay_share", "friend_slots", "near_slots", "new_branches")
        remedy = f"together with friend_slots={self.friend_slots} at most 1"
        knobs.require(self.friend_slots + self.near_slots <= 1, "near_slots", remedy)
        knobs.counts(0, "num_friends", "share_rate", "scenario_offset", "seed")
        ok = 1e-3 <= self.taste_concentration < math.inf
        knobs.require(ok, "taste_concentration", "give a number of at least 0.001")
        knobs.between(0, 5, "activity_spread", "scenario_exponent")
        knobs.between(0, 10, "bias_spread", "similarity_spread", "tie_spread", "topic_spread")
        knobs.between(-10, 10, "similarity", *TIES)
        knobs.branching("scenario_branching")
        levels = len(self.scenario_branching)
        ok = len(self.level_shares) == levels and min(self.level_shares) >= 0 and 0 < sum(self.level_shares) < math.inf
        knobs.require(ok, "level_shares", f"give {levels} numbers of at least 0, not all 0, one for each level")
        self._validate_new_scenarios(knobs)

    def _validate_new_scenarios(self, knobs: Knobs) -> None:
        num_new, num_branches = self.num_new()
        siblings = self.scenario_branching[-1]
        num_parents = math.prod(self.scenario_branching[:-1])
        most = num_branches * siblings + (num_parents - num_branches) * (siblings - 1)
        remedy = f"every branch that is not new keeps an old scenario, so at most {most} can be new; lower it"
        knobs.require(num_new <= most and num_branches < num_parents, "new_scenarios", remedy)
        knobs.require(self.new_traffic > 0 or not num_new, "new_traffic", "above 0, as there are new scenarios")
        last = self.num_requests - math.ceil(LAST_PART * self.num_requests)
        remedy = f"give at least {10 * num_new + 10}: each of {num_new} new scenarios is in the last tenth"
        knobs.require(last >= num_new, "num_requests", remedy)

    def num_new(self) -> tuple[int, int]:
        """How many scenarios are new, and how many lowest inner nodes with all their leaves."""
        num_new = round(self.new_scenarios * math.prod(self.scenario_branching))
        siblings = self.scenario_branching[-1]
        return num_new, min(round(self.new_branches * num_new / siblings), num_new // siblings)

    def load(self) -> LiveCommerceData:
        """Simulates the world.

        Returns:
            The data set, with nodes `user` and `scenario`, the tree and the availability of scenarios, the relations
            `friend`, `pay` and `share_view`, the events `suggestion` (one row per candidate, in the order of time,
            `group` = request) and the truth, a `SharingTruth`. Relations that would be empty are left out.

        Raises:
            ConfigError: for a knob that cannot be used.
        """
        self.validate()
        parts = np.random.SeedSequence(self.seed).spawn(len(PARTS))
        streams = {name: np.random.default_rng(part) for name, part in zip(PARTS, parts, strict=True)}
        tastes = sparse_dirichlet(streams["users"], self.taste_concentration, self.num_users, self.num_topics)
        activity = streams["users"].lognormal(0.0, self.activity_spread, self.num_users)
        directions = tastes / np.linalg.norm(tastes, axis=1, keepdims=True)
        ties, views = _draw_ties(self, tastes, directions, streams)
        scenarios = _draw_scenarios(self, streams)
        requests = _draw_requests(self, scenarios, activity, streams["requests"])
        slots = self.friend_slots, self.near_slots
        slates = draw_slates(requests[0], self.slate_size, slots, ties.friends, activity, streams["slates"])
        users, nodes, times, group = (
            np.repeat(column, self.slate_size) for column in (*requests, np.arange(self.num_requests))
        )
        targets = slates.ravel()
        between = ties.between(users, targets)
        effects = _effects(self, directions, scenarios.tree.effects, users, targets, nodes, between)
        expected = sigmoid(mean_log_odds(effects, self.accept_rate) + effects).astype(np.float32)
        roles = {"user": users, "target_user": targets, "scenario": nodes}
        events = Events(
            EVENTS,
            {role: EventNodes(role.removeprefix("target_"), ids.astype(np.int32)) for role, ids in roles.items()},
            times,
            {LABEL: streams["accept"].random(len(times)) < expected},
            {name: numeric(between[:, at]) for at, name in enumerate(TIES)},
            group=group,
        )
        return LiveCommerceData(
            f"sharing-{self.num_users}x{len(scenarios.opening) - scenarios.tree.first_leaf}-seed{self.seed}",
            {
                "user": numbered_nodes("user", self.num_users, _user_features(tastes, activity, streams["features"])),
                "scenario": NodeTable("scenario", scenarios.tree.names),
            },
            {relation.name: relation for relation in views if len(relation)},
            end_time=float(self.num_days),
            availability={"scenario": Availability(scenarios.opening, np.full(len(scenarios.opening), np.inf))},
            events={EVENTS: events},
            trees={"scenario": Tree(scenarios.tree.parents)},
            truth=SharingTruth(tastes, scenarios.tree.effects, expected),
        )


def tiny(**changes: Any) -> Config:
    """A world of 300 users and 12,000 suggestions in 48 scenarios, generated in well under a second."""
    sizes = {"num_users": 300, "num_requests": 1_500, "slate_size": 8, "num_topics": 6, "num_friends": 8.0}
    return Config(**{**sizes, "scenario_branching": (2, 2, 3, 4), **changes})


@dataclasses.dataclass(frozen=True)
class SharingTruth:
    """What is true of the world of sharing and in none of its tables.

    Attributes:
        tastes: of the users, [u, topics] float64, rows sum to 1.
        effects: what the scenarios add, of all nodes of the tree: to the log-odds, to the effect of similarity and of
            the three ties, and to that of each topic, [n, 5 + topics] float64.
        accepted: P(accepted) of each suggestion, [rows] float32.
    """

    relations: ClassVar[tuple[str, ...]] = ()

    tastes: np.ndarray
    effects: np.ndarray
    accepted: np.ndarray

    def probabilities(self, relation: str, source_ids: np.ndarray, start: float, end: float) -> np.ndarray:
        """Raises DataError: no relation here is drawn from probabilities that are kept."""
        raise DataError(f"the world of sharing keeps no probabilities of relation '{relation}'; leave the oracle out")

    def expected(self, events: str, column: str) -> np.ndarray:
        """P(accepted) of each suggestion, [rows] float32; raises DataError for any other column."""
        if (events, column) != (EVENTS, LABEL):
            raise DataError(f"the world of sharing keeps no truth of {events}.{column}; it has: {EVENTS}.{LABEL}")
        return self.accepted


def _draw_ties(
    config: Config, tastes: np.ndarray, directions: np.ndarray, streams: dict[str, np.random.Generator]
) -> tuple[Ties, tuple[Relation, Relation, Relation]]:
    """Who is friends, who paid and who shared before the suggestions begin."""
    friends = draw_friends(tastes, config.num_friends, config.circle_strength, streams["friends"])
    owners, view_end = friends.owners(), config.view_share * config.num_days
    pay = draw_payments(friends, config.pay_share, view_end, streams["views"])
    alike = np.einsum("fc,fc->f", directions[owners], directions[friends.ids])
    share = draw_shares(friends, 2.0 * config.share_rate * friends.closeness * alike, view_end, streams["views"])
    friend = make_relation("friend", ("user", "user"), owners, friends.ids, weight=friends.closeness)
    return Ties.build(config.num_users, friends, pay, share), (friend, pay, share)


def _draw_scenarios(config: Config, streams: dict[str, np.random.Generator]) -> Scenarios:
    branching, rng = config.scenario_branching, streams["openings"]
    shares = np.array(config.level_shares) / sum(config.level_shares)
    ties, topics = [config.tie_spread] * len(TIES), [config.topic_spread] * config.num_topics
    spreads = np.array([config.bias_spread, config.similarity_spread, *ties, *topics])
    tree = grow_tree(branching, np.sqrt(shares)[:, None] * spreads, streams["tree"])
    ranks = 1.0 + rng.permutation(math.prod(branching))
    popularity = (ranks + config.scenario_offset) ** -config.scenario_exponent
    new = choose_new_leaves(branching, *config.num_new(), rng)
    window = config.view_share * config.num_days, float(config.num_days)
    return open_scenarios(tree, popularity, new, config.new_traffic, window)


def _draw_requests(
    config: Config, scenarios: Scenarios, activity: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, scenarios (nodes) and times of requests, [r] each, in the order of time.

    One request falls into each of r equal parts of the time, so that shares of the requests are shares of the time.
    """
    count, start = config.num_requests, config.view_share * config.num_days
    at = (np.arange(count) + rng.random(count)) / count
    times = np.minimum(start + at * (config.num_days - start), np.nextafter(float(config.num_days), 0.0))
    nodes = scenarios.draw(rng, np.zeros(count, np.int64), times)
    leaves = scenarios.tree.first_leaf + np.flatnonzero(np.isfinite(scenarios.opening[scenarios.tree.first_leaf :]))
    last = math.ceil(LAST_PART * count) + rng.permutation(count - math.ceil(LAST_PART * count))[: len(leaves)]
    nodes[last] = leaves
    return draw_index(rng, activity, count), nodes, times


def _effects(
    config: Config,
    directions: np.ndarray,
    effects: np.ndarray,
    users: np.ndarray,
    targets: np.ndarray,
    nodes: np.ndarray,
    ties: np.ndarray,
) -> np.ndarray:
    """What speaks for each candidate [m], in log-odds but for a constant, [m] float64."""
    means = np.array([0.0, config.similarity, config.closeness, config.paid, config.shared])
    means = np.append(means, np.zeros(config.num_topics))
    of = directions[targets]
    alike = 2.0 * np.einsum("mc,mc->m", directions[users], of) - 1.0
    inputs = np.column_stack([np.ones(len(of)), alike, ties, of])
    return np.einsum("mk,mk->m", inputs, (means + effects)[nodes])


def _user_features(tastes: np.ndarray, activity: np.ndarray, rng: np.random.Generator) -> dict[str, Feature]:
    """Noisy views of taste and activity; users of one taste live in some cities rather than in others."""
    appeal = tastes @ rng.normal(0.0, 1.5, (tastes.shape[1], NUM_CITIES))
    cities = (appeal + rng.gumbel(size=appeal.shape)).argmax(axis=1)
    return {
        **taste_features(tastes, rng),
        "city": categorical(cities, tuple(f"city_{city}" for city in range(NUM_CITIES))),
        "log_activity": numeric(np.log(activity) + rng.normal(0.0, 0.3, len(activity))),
    }
