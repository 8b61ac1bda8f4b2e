"""Day after day: the feed, what visitors do inside and share, and what the next days' feed knows of it. No jax here."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lsec_jax.data.sources.live_world import feed, inside, social
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.sources.live_world.feed import Impressions, Requests
from lsec_jax.data.sources.live_world.inside import Inside
from lsec_jax.data.sources.live_world.rooms import Known, Visits, World
from lsec_jax.data.sources.live_world.social import Friends, Scenarios, Shares


@dataclasses.dataclass(frozen=True)
class Days:
    """Some days of the feed, with what came of it; rooms and thus watches end at midnight.

    Attributes:
        shown: the impressions.
        visited: what happened in the visits.
        shares: what was shared.
    """

    shown: Impressions
    visited: Inside
    shares: Shares


def simulate(
    world: World,
    live: LiveConfig,
    requests: Requests,
    friends: Friends,
    scenarios: Scenarios,
    streams: dict[str, np.random.Generator],
) -> Days:
    """Simulates all days.

    Args:
        world: the world.
        live: the knobs.
        requests: whose slates are drawn.
        friends: of users.
        scenarios: in which they share.
        streams: of random numbers: "slates", "enter", "inside" and "shares".
    """
    parts: list[Days] = []
    for day in np.unique(requests.times.astype(np.int64)):
        before = known(world, parts)
        shown = feed.simulate(world, live, requests, before, int(day), streams["slates"], streams["enter"])
        visited = inside.simulate(world, live, shown, streams["inside"])
        shares = social.simulate(world, live.social, friends, scenarios, shown, visited, streams["shares"])
        parts.append(Days(shown, visited, shares))
    return _concatenate(parts)


def known(world: World, parts: Sequence[Days]) -> Known:
    """Whose rooms users entered, and shares of whose rooms they accepted, in some days."""
    users, rooms, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    targets, shared, moments = [users[0]], [rooms[0]], [times[0]]
    for part in parts:
        shown, shares = part.shown, part.shares
        rows, accepted = shown.watched, shares.accepted
        users, rooms, times = [*users, shown.users[rows]], [*rooms, shown.rooms[rows]], [*times, shown.times[rows]]
        targets, moments = [*targets, shares.targets[accepted]], [*moments, shares.times[accepted]]
        shared = [*shared, shown.rooms[shares.impressions[accepted]]]
    num_days = int(world.base.schedule.num_days)

    def visits(users: list[np.ndarray], rooms: list[np.ndarray], times: list[np.ndarray]) -> Visits:
        streamers, days = world.streamer_of[np.concatenate(rooms)], np.concatenate(times).astype(np.int64)
        return Visits.build(np.concatenate(users), streamers, days, num_days)

    return Known(visits(users, rooms, times), visits(targets, shared, moments))


def _concatenate(parts: Sequence[Days]) -> Days:
    """Puts days together, in order; positions in one table become those in the table of all days."""
    impressions = np.cumsum([0, *(len(part.shown) for part in parts)])
    clicks = np.cumsum([0, *(len(part.visited.clicks) for part in parts)])
    visited, shares = [], []
    for part, first, first_click in zip(parts, impressions, clicks, strict=False):
        of = part.visited
        visited.append(dataclasses.replace(of, clicks=of.clicks + first, purchases=of.purchases + first_click))
        shares.append(dataclasses.replace(part.shares, impressions=part.shares.impressions + first))
    shown = feed.concatenate([part.shown for part in parts])
    return Days(shown, feed.concatenate(visited), feed.concatenate(shares))
