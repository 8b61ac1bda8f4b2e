"""The feed: who opens the app when, which rooms are shown with which chance, which are entered. No jax here.

A request is made at an even moment of a session drawn by its length, so that the number of requests follows the number
of live rooms. Its slate is filled slot by slot, without repeats. Each slot is, given the slots before it, one draw
from the rooms live at that moment and not shown yet: with probability `exploration` evenly, else in proportion to the
logging policy's preference. `propensity` is exactly that conditional probability,

    (1 - exploration) * weight / sum of weights left + exploration / rooms left,

so sum(target probability / propensity * outcome) over slots is unbiased for a target policy that chooses among the
rooms left. What users and platform know of visits and accepted shares is as of midnight: within a day, requests do not
depend on each other, and days are simulated one after the other.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.sources.live_world.rooms import Known, Signals, World, chance, signals
from lsec_jax.data.sources.synthetic_sampling import draw_index

Table = TypeVar("Table")  # a dataclass
BLOCK_CELLS = 1 << 19  # requests x rooms of the day at once; bounds temporary memory to about this x 150 bytes


@dataclasses.dataclass(frozen=True)
class Requests:
    """When whom the app is opened by, in order of time.

    Attributes:
        users: [q] int64.
        times: in days, [q] float64.
        sizes: rooms to show, at most the number that is live, [q] int64.
    """

    users: np.ndarray
    times: np.ndarray
    sizes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Impressions:
    """The rooms shown, in order of time and position; n rows.

    Attributes:
        users, rooms: [n] int64.
        times: [n] float64, in days.
        positions: in the slate, from 0, [n] int64.
        requests: number of the request, [n] int64.
        propensity: of the room in its slot, given the slots before, [n] float64.
        signals: taste, follows, visits and friend_visits as in `rooms.Signals`, [n] float32 each, by name.
        enter: P(watched), [n] float64.
        watched: [n] bool.
    """

    users: np.ndarray
    rooms: np.ndarray
    times: np.ndarray
    positions: np.ndarray
    requests: np.ndarray
    propensity: np.ndarray
    signals: dict[str, np.ndarray]
    enter: np.ndarray
    watched: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


def draw_requests(world: World, live: LiveConfig, rng: np.random.Generator) -> Requests:
    """Draws requests until their slates have `num_impressions` slots; the last one drawn is cut short to fit."""
    starts, ends = np.sort(world.start), np.sort(world.end)
    lengths = world.end - world.start
    users, times, sizes = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
    while sizes.sum() < live.num_impressions:
        count = -(-(live.num_impressions - int(sizes.sum())) // live.slate_size) + 16
        rooms = draw_index(rng, lengths, count)
        more = world.start[rooms] + rng.random(count) * lengths[rooms]
        more = np.minimum(more, np.nextafter(world.end[rooms], 0.0))
        num_live = np.searchsorted(starts, more, side="right") - np.searchsorted(ends, more, side="right")
        users = np.concatenate([users, draw_index(rng, world.activity, count)])
        times, sizes = np.concatenate([times, more]), np.concatenate([sizes, np.minimum(num_live, live.slate_size)])
    total = np.cumsum(sizes)
    num_requests = int(np.searchsorted(total, live.num_impressions)) + 1
    sizes = sizes[:num_requests].copy()
    sizes[-1] -= total[num_requests - 1] - live.num_impressions
    order = np.argsort(times[:num_requests], kind="stable")
    return Requests(users[order], times[order], sizes[order])


def draw_slates(
    uniforms: np.ndarray, weights: np.ndarray, live: np.ndarray, sizes: np.ndarray, exploration: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fills slates slot by slot, without repeats.

    Args:
        uniforms: random numbers, one per slot, in [0, 1), [b, k] float64.
        weights: the policy's preferences, 0 for rooms that are not live and above it for the others, [b, l] float64.
        live: [b, l] bool.
        sizes: slots of each slate, [b] int64, at most k and its live rooms.
        exploration: share of slots filled evenly.

    Returns:
        (rooms [b, k] int64, -1 beyond the slate's size; their propensities, float64).
    """
    weights, even = weights.copy(), live.astype(np.float64)
    rooms = np.full(uniforms.shape, -1)
    propensities = np.ones(rooms.shape)
    for slot in range(int(sizes.max(initial=0))):
        chance = slot_chances(weights, even, exploration)
        cumulative = np.cumsum(chance, axis=1)
        total = cumulative[:, -1]
        # The nextafter keeps rounding from reaching the end of the last room.
        at = np.minimum(uniforms[:, slot] * total, np.nextafter(total, 0.0))
        chosen = (cumulative <= at[:, None]).sum(axis=1)
        open_rows = np.flatnonzero(slot < sizes)
        picked = chosen[open_rows]
        rooms[open_rows, slot], propensities[open_rows, slot] = picked, chance[open_rows, picked]
        weights[open_rows, picked] = even[open_rows, picked] = 0.0
    return rooms, propensities


def slot_chances(weights: np.ndarray, even: np.ndarray, exploration: float) -> np.ndarray:
    """Probabilities of the next slot, [b, l]; all 0 in rows where no room is left.

    Args:
        weights: preferences, 0 for rooms that are shown already or not live, [b, l] float64.
        even: 1.0 for the rooms left, else 0.0, [b, l].
        exploration: share of slots filled evenly.
    """
    sums, counts = weights.sum(axis=1, keepdims=True), even.sum(axis=1, keepdims=True)
    by_weight = (1.0 - exploration) / np.where(sums > 0, sums, 1.0)
    return weights * by_weight + even * (exploration / np.maximum(counts, 1.0))


def enter_probabilities(effect: np.ndarray, positions: np.ndarray, live: LiveConfig) -> np.ndarray:
    """P(watched), of the shape of the effects at the first position; label noise included."""
    reasoned = chance(live.enter_rate, effect - live.position_decay * np.log1p(positions))
    return (1.0 - live.label_noise) * reasoned + live.label_noise * live.enter_rate


def simulate(
    world: World,
    live: LiveConfig,
    requests: Requests,
    known: Known,
    day: int,
    rng: np.random.Generator,
    labels: np.random.Generator,
) -> Impressions:
    """Shows the slates of one day and lets users enter.

    Args:
        world: the world.
        live: the knobs.
        requests: of all days, at least one of them on this day.
        known: what users and platform know of the days before.
        day: whose slates are drawn.
        rng: of the slates.
        labels: of the decisions to enter.
    """
    parts: list[Impressions] = []
    rooms = np.flatnonzero(world.start.astype(np.int64) == day)
    first, last = np.searchsorted(requests.times.astype(np.int64), (day, day + 1))
    size = max(BLOCK_CELLS // max(len(rooms), 1), 1)
    for at in range(first, last, size):
        block = slice(at, min(at + size, last))
        users, times = requests.users[block], requests.times[block]
        alive = rooms[(world.start[rooms] <= times[-1]) & (times[0] < world.end[rooms])]
        found = signals(world, known, users, times, day, alive)
        uniforms = rng.random((len(users), live.slate_size))  # by request, so that blocks do not matter
        weights, sizes = found.policy_weights(live), requests.sizes[block]
        slates = draw_slates(uniforms, weights, found.live, sizes, live.exploration)
        shown = _enter(found, live, users, times, slates, labels)
        parts.append(dataclasses.replace(shown, rooms=alive[shown.rooms], requests=shown.requests + at))
    return concatenate(parts)


def _enter(
    found: Signals,
    live: LiveConfig,
    users: np.ndarray,
    times: np.ndarray,
    slates: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> Impressions:
    """Rows of the slates of one block; `rooms` are columns of the block, `requests` its rows."""
    rows, positions = np.nonzero(slates[0] >= 0)
    columns, propensity = slates[0][rows, positions], slates[1][rows, positions]
    enter = enter_probabilities(found.enter_effect(live)[rows, columns], positions, live)
    kept = {
        name: getattr(found, name)[rows, columns].astype(np.float32)
        for name in ("taste", "follows", "visits", "friend_visits")
    }
    watched = rng.random(len(rows)) < enter
    return Impressions(users[rows], columns, times[rows], positions, rows, propensity, kept, enter, watched)


def concatenate(parts: Sequence[Table]) -> Table:
    """Puts tables of columns, or of columns by name, together in order; at least one."""

    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: np.concatenate([value[name] for value in values]) for name in values[0]}
        return np.concatenate(values)

    first: Any = parts[0]
    names = [field.name for field in dataclasses.fields(first)]
    joined: Table = dataclasses.replace(
        first, **{name: join([getattr(part, name) for part in parts]) for name in names}
    )
    return joined
