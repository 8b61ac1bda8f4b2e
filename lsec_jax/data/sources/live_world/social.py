"""Friends in circles of taste, the tree of scenarios, and what users share with whom. No jax here.

A share happens inside a watch: of the product, if the user clicked one, else of the room. It goes to a friend who is
close and has a taste for the room, in a scenario of the room's topic; whether it is accepted depends on that friend's
taste, on closeness and on the scenario. What a scenario adds is the sum of what the nodes above it add, so scenarios
that are close in the tree are alike. An accepted share leads the friend to the streamer's rooms of the next days: the
feed shows them rather, and she enters rather.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse

from lsec_jax.data.csr import expand_ranges, row_starts
from lsec_jax.data.sources.live_world.config import SocialConfig
from lsec_jax.data.sources.live_world.feed import Impressions
from lsec_jax.data.sources.live_world.inside import SECONDS_PER_DAY, Inside, between
from lsec_jax.data.sources.live_world.rooms import World, chance
from lsec_jax.data.sources.simulated import make_relation
from lsec_jax.data.sources.synthetic_sampling import draw_row, exclusive_sum, sample_segments
from lsec_jax.schema import Relation

OPENING_WAVES = 5  # moments of the last quarter at which new scenarios open


@dataclasses.dataclass(frozen=True)
class Friends:
    """Friendships; each stands in both users' rows, f in all.

    Attributes:
        starts: where each user's friends begin, [u + 1] int64.
        ids: friends, rising within a user, [f] int64.
        closeness: in (0, 1), equal in both directions, [f] float64.
    """

    starts: np.ndarray
    ids: np.ndarray
    closeness: np.ndarray

    def owners(self) -> np.ndarray:
        """The user in whose row each friendship stands, [f] int64."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def draw_friends(tastes: np.ndarray, num_friends: float, circle_strength: float, rng: np.random.Generator) -> Friends:
    """Draws friendships, mostly inside circles; fewer than wanted where a circle is too small for them.

    Args:
        tastes: of the users, [u, c] float64; a circle is the users of one favourite topic.
        num_friends: wanted mean friends of a user.
        circle_strength: share of friendships inside a circle.
        rng: of the draws.
    """
    num_users = len(tastes)
    wanted = min(round(num_users * num_friends / 2), num_users * (num_users - 1) // 2)
    count = 2 * wanted
    circles = tastes.argmax(axis=1)
    order, starts = np.argsort(circles, kind="stable"), row_starts(circles, tastes.shape[1])
    users = rng.integers(num_users, size=count)
    sizes = np.diff(starts)[circles[users]]
    inside = order[starts[circles[users]] + (rng.random(count) * sizes).astype(np.int64)]
    others = np.where(rng.random(count) < circle_strength, inside, rng.integers(num_users, size=count))
    low, high = np.minimum(users, others), np.maximum(users, others)
    pairs = np.unique((low * num_users + high)[low != high])
    pairs = np.sort(rng.permutation(pairs)[:wanted])
    return _both_ways(pairs // num_users, pairs % num_users, rng.random(len(pairs)), num_users)


def _both_ways(low: np.ndarray, high: np.ndarray, values: np.ndarray, num_nodes: int) -> Friends:
    sources, targets = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((targets, sources))
    return Friends(row_starts(sources, num_nodes), targets[order], np.concatenate([values, values])[order])


def draw_payments(friends: Friends, pay_share: float, view_end: float, rng: np.random.Generator) -> Relation:
    """The view `pay`: which friends paid each other before a time, close ones more often, with the sums as weights."""
    owners = friends.owners()
    paid = rng.random(len(owners)) < 2.0 * pay_share * friends.closeness
    times, sums = rng.random(len(owners)) * view_end, rng.lognormal(0.0, 1.0, len(owners))
    return make_relation("pay", ("user", "user"), owners[paid], friends.ids[paid], times[paid], sums[paid])


def draw_streamer_relations(world: World, social: SocialConfig, rng: np.random.Generator) -> Friends:
    """Signed relations of streamers, as `Friends` with -1 or +1 for closeness; collaborators are mostly alike."""
    num_streamers, num_rooms = len(world.popularity), len(world.start)
    wanted = min(round(num_streamers * social.num_streamer_relations / 2), num_streamers * (num_streamers - 1) // 2)
    shape = num_streamers, num_rooms
    hosts = scipy.sparse.csr_matrix((np.ones(num_rooms), (world.streamer_of, np.arange(num_rooms))), shape)
    topics = hosts @ world.mix
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    # Half of the candidates share the main topic, so that both signs are common whatever the number of topics.
    circles = topics.argmax(axis=1)
    order, starts = np.argsort(circles, kind="stable"), row_starts(circles, topics.shape[1])
    streamers = rng.integers(num_streamers, size=3 * wanted)
    sizes = np.diff(starts)[circles[streamers]]
    alike = order[starts[circles[streamers]] + (rng.random(len(streamers)) * sizes).astype(np.int64)]
    others = rng.integers(num_streamers, size=len(streamers))
    others = np.where(rng.random(len(streamers)) < 0.5, alike, others)
    low, high = np.minimum(streamers, others), np.maximum(streamers, others)
    pairs = np.unique((low * num_streamers + high)[low != high])
    pairs = np.sort(rng.permutation(pairs)[:wanted])
    low, high = pairs // num_streamers, pairs % num_streamers
    likeness = np.einsum("ec,ec->e", topics[low], topics[high])
    signs = np.where(rng.random(len(pairs)) < chance(0.5, 8.0 * (likeness - 0.5)), 1.0, -1.0)
    return _both_ways(low, high, signs, num_streamers)


@dataclasses.dataclass(frozen=True)
class ScenarioTree:
    """A tree whose leaves are the scenarios; n nodes, root first, level by level.

    Attributes:
        parents: [n] int32, -1 for the root.
        names: of the nodes: the path of child numbers from the root, [n] str.
        first_leaf: index of the first leaf; all later nodes are leaves.
        effects: what the nodes from the root to each one add, in sum, [n, k] float64.
    """

    parents: np.ndarray
    names: np.ndarray
    first_leaf: int
    effects: np.ndarray


def grow_tree(branching: Sequence[int], spreads: np.ndarray, rng: np.random.Generator) -> ScenarioTree:
    """Draws a tree, each node of which adds normal effects to those of its parent; the root's are 0.

    Args:
        branching: children of the nodes, by level below the root.
        spreads: standard deviations of what a node adds, by level below the root, [levels, k] float64.
        rng: of the draws.
    """
    parents, names, level = [np.array([-1])], [np.array(["C2C"])], np.array([0])
    effects = [np.zeros((1, spreads.shape[1]))]
    for children, spread in zip(branching, spreads, strict=True):
        above = np.repeat(level, children)
        child = np.tile(np.arange(children), len(level)).astype(np.str_)
        names.append(np.char.add(np.char.add(np.repeat(names[-1], children), "."), child))
        added = rng.normal(0.0, 1.0, (len(above), spreads.shape[1])) * spread
        effects.append(np.repeat(effects[-1], children, axis=0) + added)
        level = level[-1] + 1 + np.arange(len(above))
        parents.append(above)
    return ScenarioTree(
        parents=np.concatenate(parents).astype(np.int32),
        names=np.concatenate(names),
        first_leaf=int(level[0]),
        effects=np.concatenate(effects),
    )


@dataclasses.dataclass(frozen=True)
class Scenarios:
    """Scenarios, which open one after the other.

    Attributes:
        tree: over them, n nodes.
        opening: when a node opens, in days, -inf = before the period, [n] float64.
        chances: of leaves by wave of openings and topic of the room, [waves + 1, topics, leaves] float64, unnormalised.
        waves: moments at which scenarios open, rising, [waves] float64.
    """

    tree: ScenarioTree
    opening: np.ndarray
    chances: np.ndarray
    waves: np.ndarray

    def draw(self, rng: np.random.Generator, topics: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Draws a scenario (node) that is open, for each topic and time [m], [m] int64."""
        table = exclusive_sum(self.chances.ravel())
        rows = np.searchsorted(self.waves, times, side="right") * self.chances.shape[1] + topics
        return self.tree.first_leaf + draw_row(rng, table, rows, self.chances.shape[2])


def draw_scenarios(social: SocialConfig, num_days: float, num_topics: int, rng: np.random.Generator) -> Scenarios:
    """Draws the tree, whose effects are on the log-odds of accepting, and on the effects of taste and of closeness.

    Then the leaves' popularity, topics and openings.
    """
    spreads = np.full((len(social.scenario_branching), 3), social.scenario_spread)
    tree = grow_tree(social.scenario_branching, spreads, rng)
    num_leaves = len(tree.parents) - tree.first_leaf
    leaves = tree.first_leaf + np.arange(num_leaves)
    popularity = (rng.permutation(num_leaves) + 1.0) ** -social.scenario_exponent
    likes = rng.integers(num_topics, size=num_leaves)[None, :] == np.arange(num_topics)[:, None]  # [topics, leaves]
    num_new = min(int(social.new_scenarios * num_leaves), num_leaves - 1)
    waves = num_days * (0.75 + 0.25 * np.arange(OPENING_WAVES) / OPENING_WAVES)
    opening = np.full(len(tree.parents), -np.inf)
    opening[rng.permutation(leaves)[:num_new]] = waves[rng.integers(OPENING_WAVES, size=num_new)]
    is_open = opening[leaves][None, :] <= np.append(-np.inf, waves)[:, None]  # [waves + 1, leaves]
    chances = is_open[:, None, :] * (popularity * np.exp(social.scenario_topic * likes))
    return Scenarios(tree, opening, chances, waves)


@dataclasses.dataclass(frozen=True)
class Shares:
    """What was shared; n impressions, m shares in order of time.

    Attributes:
        share: 0 or 1, NaN where the room was not entered, [n] float32.
        chance: of sharing given that the room is entered, [n] float32.
        impressions: of each share, [m] int64.
        times: in days, [m] float64.
        targets, scenarios: user and node of the tree, [m] int64.
        items: product, -1 = the room is shared, [m] int64.
        accept: P(accepted), [m] float32.
        accepted: [m] bool.
    """

    share: np.ndarray
    chance: np.ndarray
    impressions: np.ndarray
    times: np.ndarray
    targets: np.ndarray
    scenarios: np.ndarray
    items: np.ndarray
    accept: np.ndarray
    accepted: np.ndarray


def simulate(
    world: World,
    social: SocialConfig,
    friends: Friends,
    scenarios: Scenarios,
    shown: Impressions,
    visited: Inside,
    rng: np.random.Generator,
) -> Shares:
    """Lets visitors share, and their friends accept."""
    has_friends = np.diff(friends.starts)[shown.users] > 0
    chances = np.where(has_friends, chance(social.share_rate, social.share_taste * shown.signals["taste"]), 0.0)
    shares = shown.watched & (rng.random(len(shown)) < chances)
    rows = np.flatnonzero(shares)
    click_of = np.full(len(shown), -1)
    click_of[visited.clicks] = np.arange(len(visited.clicks))
    click = click_of[rows]
    items = np.where(click >= 0, np.append(visited.click_items, -1)[click], -1)
    begin = np.where(click >= 0, np.append(visited.click_times, np.nan)[click], shown.times[rows])
    times = between(begin, shown.times[rows] + visited.stay_seconds[rows] / SECONDS_PER_DAY, rng)
    order = np.argsort(times, kind="stable")
    rows, times, items = rows[order], times[order], items[order]

    rooms = shown.rooms[rows]
    edges = _draw_targets(world, friends, shown.users[rows], rooms, rng)
    targets, closeness = friends.ids[edges], friends.closeness[edges]
    nodes = scenarios.draw(rng, world.category[rooms], times)
    bias, taste_effect, closeness_effect = scenarios.tree.effects[nodes].T
    effect = bias + (social.accept_taste + taste_effect) * world.taste_for(targets, rooms)
    accept = chance(social.accept_rate, effect + (social.accept_closeness + closeness_effect) * closeness)
    return Shares(
        share=np.where(shown.watched, shares, np.float32(np.nan)).astype(np.float32),
        chance=chances.astype(np.float32),
        impressions=rows,
        times=times,
        targets=targets,
        scenarios=nodes,
        items=items,
        accept=accept.astype(np.float32),
        accepted=rng.random(len(rows)) < accept,
    )


def _draw_targets(
    world: World, friends: Friends, users: np.ndarray, rooms: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draws a friendship of each user [m] by closeness and the friend's taste for the room, [m] int64."""
    degrees = friends.starts[users + 1] - friends.starts[users]
    edges, rows = expand_ranges(friends.starts[users], degrees), np.repeat(np.arange(len(users)), degrees)
    weights = friends.closeness[edges] * (0.2 + world.taste_for(friends.ids[edges], rooms[rows]))
    ends = np.cumsum(degrees)
    return edges[sample_segments(rng, exclusive_sum(weights), ends - degrees, ends)]
