"""Puts the live world together: simulates its parts and adds their tables to the data set. No jax here."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lsec_jax.data.sources.live_world import days, features, feed, gifts, social
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.sources.live_world.days import Days
from lsec_jax.data.sources.live_world.feed import Impressions
from lsec_jax.data.sources.live_world.gifts import Gifts
from lsec_jax.data.sources.live_world.inside import Inside
from lsec_jax.data.sources.live_world.rooms import World, build_world
from lsec_jax.data.sources.live_world.social import Friends, Scenarios, Shares
from lsec_jax.data.sources.live_world.truth import LiveTruth
from lsec_jax.data.sources.simulated import make_relation, numbered_nodes
from lsec_jax.data.sources.synthetic_truth import SyntheticTruth
from lsec_jax.schema import Availability, EventNodes, Events, Feature, LiveCommerceData, NodeTable, Relation, Tree

# One stream of random numbers per part, so that a knob of one part leaves the others' draws as they were. New parts
# are added at the end.
PARTS: tuple[str, ...] = (
    *("traits", "requests", "slates", "enter", "inside", "friends", "scenarios", "shares", "pay", "rivals"),
    *("wealth", "gifts", "responses", "features", "releases", "specific"),
)
_SPAWN_KEY = 1000  # apart from the streams of the world's other tables, which are children 0, 1, 2, ... of the seed


@dataclasses.dataclass(frozen=True)
class Simulated:
    """All parts of one live world; see their modules. `wealth`: of users, [u] float64."""

    world: World
    friends: Friends
    rivals: Friends
    scenarios: Scenarios
    happened: Days
    gifts: Gifts
    wealth: np.ndarray

    @property
    def shown(self) -> Impressions:
        """All impressions."""
        return self.happened.shown

    @property
    def visited(self) -> Inside:
        """What happened in the visits."""
        return self.happened.visited

    @property
    def shares(self) -> Shares:
        """What was shared."""
        return self.happened.shares


def extend(data: LiveCommerceData, base: SyntheticTruth, live: LiveConfig, seed: int) -> LiveCommerceData:
    """Adds the live world to a synthetic world with items released by `draw_releases`, whose tables stay as they are.

    Args:
        data: the world with users, items, streamers, and the relations buy, follow and sell.
        base: its truth.
        live: valid knobs.
        seed: of the world.

    Returns:
        The data set with features, rooms, the tree of scenarios, the availability of rooms, scenarios and items, the
        relations hosts, friend, pay, share_view and streamer_relation, and the events; tables that would be empty are
        left out, and so is the availability of items that are all there from the start.
    """
    streams = _streams(seed)
    made = _simulate(base, live, streams)
    world, scenarios = made.world, made.scenarios
    events = {table.name: table for table in _events(data, made) if len(table)}
    relations = {relation.name: relation for relation in _relations(made, live, streams["pay"]) if len(relation)}
    counts = dict(data.counts)
    if "share_view" in relations:
        view = relations["share_view"]
        assert view.weight is not None
        # Known at the first share of the pair, as far as its edge says: a later cut may lie between them.
        counts["share_view: shares in the weights that are later than their edge"] = int(view.weight.sum()) - len(view)
    releases = {"item": Availability(base.item_release, np.full(len(base.item_release), np.inf))}
    open_ended = np.full(len(scenarios.opening), np.inf)
    return data.replace(
        name=f"{data.name}-live",
        nodes=_node_tables(data, made, streams["features"]),
        relations={**data.relations, **relations},
        availability={
            **data.availability,
            **(releases if np.isfinite(base.item_release).any() else {}),
            "room": Availability(world.start, world.end),
            "scenario": Availability(scenarios.opening, open_ended),
        },
        events=events,
        trees={"scenario": Tree(scenarios.tree.parents)},
        truth=_truth(base, live, made),
        counts=counts,
    )


def draw_releases(num_items: int, num_days: int, live: LiveConfig, seed: int) -> np.ndarray:
    """Draws the day from which on each item is shown, sold and bought, -inf = before the period, [items] float64."""
    rng = _streams(seed)["releases"]
    releases = np.full(num_items, -np.inf)
    new = rng.permutation(num_items)[: round(live.new_items * num_items)]
    releases[new] = rng.integers(num_days, size=len(new))
    return releases


def _streams(seed: int) -> dict[str, np.random.Generator]:
    parts = np.random.SeedSequence(seed, spawn_key=(_SPAWN_KEY,)).spawn(len(PARTS))
    return {name: np.random.default_rng(part) for name, part in zip(PARTS, parts, strict=True)}


def _simulate(base: SyntheticTruth, live: LiveConfig, streams: dict[str, np.random.Generator]) -> Simulated:
    friends = social.draw_friends(base.tastes, live.social.num_friends, live.social.circle_strength, streams["friends"])
    world = build_world(base, live, (friends.starts, friends.ids), streams["traits"], streams["specific"])
    requests = feed.draw_requests(world, live, streams["requests"])
    num_days, num_topics = base.schedule.num_days, base.tastes.shape[1]
    scenarios = social.draw_scenarios(live.social, num_days, num_topics, streams["scenarios"])
    happened = days.simulate(world, live, requests, friends, scenarios, streams)
    rivals = social.draw_streamer_relations(world, live.social, streams["rivals"])
    wealth = gifts.draw_wealth(world, live.gifts, streams["wealth"])
    given = gifts.simulate(
        world,
        live.gifts,
        happened.shown,
        happened.visited.stay_seconds,
        friends,
        rivals,
        wealth,
        (streams["gifts"], streams["responses"]),
    )
    return Simulated(world, friends, rivals, scenarios, happened, given, wealth)


def _truth(base: SyntheticTruth, live: LiveConfig, made: Simulated) -> LiveTruth:
    columns = {
        ("impression", "watched"): made.shown.enter.astype(np.float32),
        ("impression", "share"): made.shares.chance,
    }
    for name, values in made.visited.expected.items():
        columns["product_click" if name == "purchase" else "impression", name] = values
    columns["share", "accepted"] = made.shares.accept
    columns["response", "response"] = made.gifts.expected[_response_order(made.gifts)]
    known = days.known(made.world, [made.happened])
    there = {key: of for key, of in columns.items() if len(of)}
    return LiveTruth(base, made.world, live, known, made.gifts.triggers, there)


def _node_tables(data: LiveCommerceData, made: Simulated, rng: np.random.Generator) -> dict[str, NodeTable]:
    columns = features.node_features(made.world, made.wealth, rng)
    tables = {**data.nodes, "room": numbered_nodes("room", len(made.world.start))}
    tables = {name: dataclasses.replace(table, features=columns[name]) for name, table in tables.items()}
    return {**tables, "scenario": NodeTable("scenario", made.scenarios.tree.names)}


def _relations(made: Simulated, live: LiveConfig, rng: np.random.Generator) -> Iterator[Relation]:
    """Who hosts, who is friends, who paid and shared with whom in the time of the views, who works with whom."""
    world, friends, rivals = made.world, made.friends, made.rivals
    rooms = np.arange(len(world.start))
    yield make_relation("hosts", ("streamer", "room"), world.streamer_of, rooms, time=world.start)
    owners = friends.owners()
    yield make_relation("friend", ("user", "user"), owners, friends.ids, weight=friends.closeness)
    view_end = live.social.view_share * world.base.schedule.num_days
    yield social.draw_payments(friends, live.social.pay_share, view_end, rng)
    rows = np.flatnonzero(made.shares.times < view_end)
    sources, targets = made.shown.users[made.shares.impressions[rows]], made.shares.targets[rows]
    first, counts = np.unique(sources * len(world.tastes) + targets, return_index=True, return_counts=True)[1:]
    times = made.shares.times[rows][first]
    yield make_relation("share_view", ("user", "user"), sources[first], targets[first], times, counts)
    signs = rivals.closeness
    yield make_relation("streamer_relation", ("streamer", "streamer"), rivals.owners(), rivals.ids, weight=signs)


def _nodes(**ids: np.ndarray) -> dict[str, EventNodes]:
    """Roles named after their node types."""
    return {name: EventNodes(name, of.astype(np.int32)) for name, of in ids.items()}


def _who_where(made: Simulated, rows: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
    """User, room and streamer of impressions."""
    rooms = made.shown.rooms[rows]
    return {"user": made.shown.users[rows], "room": rooms, "streamer": made.world.streamer_of[rooms]}


def _events(data: LiveCommerceData, made: Simulated) -> Iterator[Events]:
    """All tables of events."""
    shown, visited, shares, given = made.shown, made.visited, made.shares, made.gifts
    values = {
        "watched": shown.watched,
        "stay_seconds": visited.stay_seconds,
        "goods_bag_click": visited.bag_click,
        "product_click": visited.product_click,
        "share": shares.share,
        "propensity": shown.propensity.astype(np.float32),
        "position": shown.positions.astype(np.float32),
    }
    state = features.impression_features(made.world, shown, visited, given)
    yield Events("impression", _nodes(**_who_where(made)), shown.times, values, state, group=shown.requests)
    nodes = _nodes(**_who_where(made, visited.clicks), item=visited.click_items)
    yield Events("product_click", nodes, visited.click_times, parent=("impression", visited.clicks))
    yield _purchases(data, made)
    nodes = _nodes(**_who_where(made, shares.impressions), item=shares.items, scenario=shares.scenarios)
    nodes["target_user"] = EventNodes("user", shares.targets.astype(np.int32))
    parent = "impression", shares.impressions
    yield Events("share", nodes, shares.times, {"accepted": shares.accepted}, parent=parent)
    messages = {"message": Feature("vector", given.messages)} if given.messages.shape[1] else {}
    nodes, parent = _nodes(**_who_where(made, given.impressions)), ("impression", given.impressions)
    yield Events("gift", nodes, given.times, {"amount": given.amounts}, messages, parent=parent)
    order = _response_order(given)
    nodes = _nodes(**_who_where(made, given.impressions[order]))
    values = {"response": given.responses[order]}
    yield Events("response", nodes, given.response_times[order], values, parent=("gift", order))


def _response_order(given: Gifts) -> np.ndarray:
    """Gifts in the order of their responses' times, [g] int64."""
    return np.argsort(given.response_times, kind="stable")


def _purchases(data: LiveCommerceData, made: Simulated) -> Events:
    """Purchases in rooms: after a product click, and those of the relation `buy` that were made in a session.

    The latter came to the room by other ways than the feed (parent -1). What is bought after a click is not in `buy`.
    """
    buy, sessions, visited = data.relations["buy"], made.world.base.purchase_sessions, made.visited
    rows, after = np.flatnonzero(sessions >= 0), visited.purchases
    clicked = {**_who_where(made, visited.clicks[after]), "item": visited.click_items[after]}
    others = {"user": buy.source_ids[rows], "room": sessions[rows], "item": buy.target_ids[rows]}
    others["streamer"] = made.world.streamer_of[sessions[rows]]
    assert buy.time is not None
    times = np.concatenate([visited.purchase_times, buy.time[rows]])
    order = np.argsort(times, kind="stable")
    nodes = _nodes(**{role: np.concatenate([clicked[role], others[role]])[order] for role in clicked})
    parents = np.concatenate([after, np.full(len(rows), -1)])[order]
    return Events("purchase", nodes, times[order], parent=("product_click", parents) if len(visited.clicks) else None)
