"""Gifts that trigger gifts, and the streamers' responses, which shrink in bursts. No jax here.

Gifts of a room are a branching process (a Hawkes process): a visitor gives of herself at an even rate while she
watches, and each gift triggers a Poisson number of further ones, after exponential delays, by those who watch at that
moment, the giver among them: by wealth, and rather by friends of the giver. Generation follows generation until none is
left. A response depends on the giver's taste for the room, on the amount, on the message, and on how many gifts the
room got just before.
"""

import dataclasses

import numpy as np

from lsec_jax.data.csr import contains, count_recent, expand_ranges, row_starts
from lsec_jax.data.sources.live_world.config import GiftConfig
from lsec_jax.data.sources.live_world.feed import Impressions
from lsec_jax.data.sources.live_world.inside import SECONDS_PER_DAY, between
from lsec_jax.data.sources.live_world.rooms import World, chance
from lsec_jax.data.sources.live_world.social import Friends
from lsec_jax.data.sources.synthetic_sampling import draw_index, exclusive_sum

BLOCK_PAIRS = 1 << 21  # (gift, possible next giver) pairs at once; bounds temporary memory to about this x 60 bytes


@dataclasses.dataclass(frozen=True)
class Watches:
    """The visits, by room; w in all.

    Attributes:
        impressions: of each visit, [w] int64.
        starts: where each room's visits begin, [r + 1] int64.
        enter, leave: in days, [w] float64.
        wealth: of the visitor, [w] float64.
    """

    impressions: np.ndarray
    starts: np.ndarray
    enter: np.ndarray
    leave: np.ndarray
    wealth: np.ndarray


@dataclasses.dataclass(frozen=True)
class Gifts:
    """Gifts and their responses, g each, in the gifts' order of time.

    Attributes:
        impressions: in whose watch each gift is made, [g] int64.
        times: in days, [g] float64.
        amounts: [g] float32.
        triggers: the earlier gift that triggered each, -1 = none, [g] int64.
        warmth: of the message, standard normal, [g] float64.
        messages: their embeddings, [g, message_dim] float32.
        response_times: in days, [g] float64.
        responses: in [0, 1], [g] float32.
        expected: of the response, [g] float32.
    """

    impressions: np.ndarray
    times: np.ndarray
    amounts: np.ndarray
    triggers: np.ndarray
    warmth: np.ndarray
    messages: np.ndarray
    response_times: np.ndarray
    responses: np.ndarray
    expected: np.ndarray


def draw_wealth(world: World, gifts: GiftConfig, rng: np.random.Generator) -> np.ndarray:
    """Users' wealth, median 1, [u] float64."""
    return np.exp(gifts.wealth_spread * rng.normal(0.0, 1.0, len(world.tastes)))


def simulate(
    world: World,
    gifts: GiftConfig,
    shown: Impressions,
    stays: np.ndarray,
    friends: Friends,
    rivals: Friends,
    wealth: np.ndarray,
    streams: tuple[np.random.Generator, np.random.Generator],
) -> Gifts:
    """Draws gifts, then responses.

    Args:
        world: the world.
        gifts: the knobs.
        shown: all impressions.
        stays: in seconds, NaN where the room was not entered, [n] float32.
        friends: of users.
        rivals: streamers' signed relations.
        wealth: of users, [u] float64.
        streams: of random numbers, of gifts and of responses.
    """
    rng, rng_responses = streams
    watches = _watches(world, shown, stays, wealth)
    rates = _log_rates(world, gifts, shown, watches, rivals)
    hours = (watches.leave - watches.enter) * 24.0
    counts = rng.poisson(gifts.rate * hours * watches.wealth * np.exp(rates))
    givers = np.repeat(np.arange(len(counts)), counts)
    times = between(watches.enter[givers], watches.leave[givers], rng)
    givers, times, triggers = _branch(world, gifts, shown, watches, friends, (givers, times), rng)
    order = np.argsort(times, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    triggers = np.where(triggers >= 0, place[triggers], -1)[order]
    givers, times = givers[order], times[order]
    chances = np.arange(1, len(gifts.prices) + 1.0) ** -gifts.price_exponent
    amounts = np.asarray(gifts.prices, np.float32)[draw_index(rng, chances, len(givers))]
    impressions = watches.impressions[givers]
    warmth = rng.normal(0.0, 1.0, len(givers))
    messages = _messages(world, gifts, shown.rooms[impressions], warmth, rng)
    answered = _respond(world, gifts, shown, impressions, times, amounts, warmth, rng_responses)
    return Gifts(impressions, times, amounts, triggers, warmth, messages, *answered)


def _watches(world: World, shown: Impressions, stays: np.ndarray, wealth: np.ndarray) -> Watches:
    rows = np.flatnonzero(shown.watched)
    rows = rows[np.argsort(shown.rooms[rows], kind="stable")]
    enter = shown.times[rows]
    leave = enter + stays[rows] / SECONDS_PER_DAY
    return Watches(rows, row_starts(shown.rooms[rows], len(world.start)), enter, leave, wealth[shown.users[rows]])


def _log_rates(world: World, gifts: GiftConfig, shown: Impressions, watches: Watches, rivals: Friends) -> np.ndarray:
    """What speaks for gifts in each visit, on the logarithm of the rate, [w] float64."""
    rows = watches.impressions
    rates = gifts.taste * shown.signals["taste"][rows] + gifts.repeat * shown.signals["visits"][rows]
    streamers = world.streamer_of[shown.rooms[rows]]
    degrees = rivals.starts[streamers + 1] - rivals.starts[streamers]
    edges, visits = expand_ranges(rivals.starts[streamers], degrees), np.repeat(np.arange(len(rows)), degrees)
    is_rival = rivals.closeness[edges] < 0
    edges, visits = edges[is_rival], visits[is_rival]
    follows = world.follows(shown.users[rows[visits]], rivals.ids[edges], watches.enter[visits])
    disloyal = np.bincount(visits[follows], minlength=len(rows)) > 0
    return rates.astype(np.float64) - gifts.rival_loss * disloyal


def _branch(
    world: World,
    gifts: GiftConfig,
    shown: Impressions,
    watches: Watches,
    friends: Friends,
    first: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adds the triggered gifts, generation by generation: (visit, time, position of the trigger or -1), [g] each."""
    givers, times = first
    triggers = np.full(len(givers), -1)
    keys = friends.owners() * len(world.tastes) + friends.ids
    newest = np.arange(len(givers))
    while len(newest):
        counts = rng.poisson(gifts.excitation, len(newest))
        parents = np.repeat(newest, counts)
        delays = rng.exponential(gifts.decay_seconds / SECONDS_PER_DAY, len(parents))
        moments = times[parents] + delays
        next_givers = _draw_givers(world, gifts, shown, watches, keys, (givers[parents], moments), rng)
        found = next_givers >= 0
        newest = len(givers) + np.arange(found.sum())
        givers, times = np.concatenate([givers, next_givers[found]]), np.concatenate([times, moments[found]])
        triggers = np.concatenate([triggers, parents[found]])
    return givers, times, triggers


def _draw_givers(
    world: World,
    gifts: GiftConfig,
    shown: Impressions,
    watches: Watches,
    friend_keys: np.ndarray,
    of: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Who makes each triggered gift: a visit to the room that lasts at the moment, -1 = nobody; [m] int64.

    Args:
        world: the world.
        gifts: the knobs.
        shown: all impressions.
        watches: the visits.
        friend_keys: user * u + friend of all friendships, rising.
        of: (visit of the giver who triggers it, moment in days), [m] each.
        rng: source of randomness.
    """
    givers, moments = of
    rooms = shown.rooms[watches.impressions[givers]]
    sizes = watches.starts[rooms + 1] - watches.starts[rooms]
    uniform, out = rng.random(len(givers)), np.full(len(givers), -1)
    users = shown.users[watches.impressions]
    for block in np.split(np.arange(len(givers)), _block_ends(sizes)):
        visits = expand_ranges(watches.starts[rooms[block]], sizes[block])
        rows = np.repeat(np.arange(len(block)), sizes[block])
        present = (watches.enter[visits] <= moments[block][rows]) & (moments[block][rows] <= watches.leave[visits])
        visits, rows = visits[present], rows[present]
        pairs = users[givers[block]][rows] * len(world.tastes) + users[visits]
        weights = watches.wealth[visits] * np.exp(gifts.friend_pull * contains(friend_keys, pairs))
        total = exclusive_sum(weights)
        ends = np.cumsum(np.bincount(rows, minlength=len(block)))
        starts = np.concatenate([[0], ends[:-1]]) if len(block) else ends
        some = np.flatnonzero(ends > starts)
        at = total[starts[some]] + uniform[block[some]] * (total[ends[some]] - total[starts[some]])
        at = np.minimum(at, np.nextafter(total[ends[some]], 0.0))
        out[block[some]] = visits[np.searchsorted(total, at, side="right") - 1]
    return out


def _block_ends(sizes: np.ndarray) -> np.ndarray:
    """Where to cut so that each block has about BLOCK_PAIRS pairs."""
    return np.flatnonzero(np.diff(np.cumsum(sizes) // BLOCK_PAIRS)) + 1


def _messages(
    world: World, gifts: GiftConfig, rooms: np.ndarray, warmth: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Embeddings: a direction for warmth, one for each topic, and noise; [g, message_dim] float32."""
    directions = rng.normal(0.0, 1.0, (world.mix.shape[1] + 1, gifts.message_dim))
    noise = rng.normal(0.0, 0.5, (len(rooms), gifts.message_dim))
    return (warmth[:, None] * directions[-1] + directions[world.category[rooms]] + noise).astype(np.float32)


def _respond(
    world: World,
    gifts: GiftConfig,
    shown: Impressions,
    impressions: np.ndarray,
    times: np.ndarray,
    amounts: np.ndarray,
    warmth: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(times, responses, expected responses) of the gifts, [g] each."""
    rooms = shown.rooms[impressions]
    scale = np.log(np.asarray(gifts.prices))
    standard = (np.log(amounts) - scale.mean()) / max(scale.std(), 1e-9)
    recent = count_recent(rooms, times, gifts.window_seconds / SECONDS_PER_DAY)
    effect = gifts.response_affinity * shown.signals["taste"][impressions] + gifts.response_amount * standard
    effect = effect + gifts.response_message * warmth - gifts.response_saturation * np.log1p(recent)
    # The Beta distribution needs a mean inside (0, 1).
    expected = np.clip(chance(gifts.response_rate, effect), 1e-6, 1 - 1e-6)
    concentration = gifts.response_concentration
    responses = rng.beta(expected * concentration, (1.0 - expected) * concentration)
    delays = rng.exponential(gifts.response_delay_seconds / SECONDS_PER_DAY, len(times))
    moments = np.minimum(times + delays, times + 0.999 * np.maximum(world.end[rooms] - times, 0.0))
    return moments, responses.astype(np.float32), expected.astype(np.float32)
