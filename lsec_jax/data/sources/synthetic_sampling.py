"""Vectorised draws from weighted segments, and until enough distinct pairs have come. No jax here."""

import collections.abc
from typing import NamedTuple

import numpy as np

from lsec_jax.config import ConfigError

MAX_EVENTS_PER_PAIR = 30  # then the wanted number of distinct pairs counts as out of reach


class Distinct(NamedTuple):
    """Distinct pairs, and the events that they took.

    Attributes:
        columns: (source_ids, target_ids, time, ...), [count] each, sorted by pair, ids as int32.
        num_events: drawn, those that do not happen included.
        num_merged: events that happen, but repeat a pair.
    """

    columns: tuple[np.ndarray, ...]
    num_events: int
    num_merged: int


def sample_segments(
    rng: np.random.Generator, cumulative: np.ndarray, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Draws one position from each [first, last) with probability proportional to its weight.

    Args:
        rng: source of randomness.
        cumulative: [n + 1] float64, exclusive running sum of non-negative weights (cumulative[0] = 0).
        first: starts of the segments, [m] int64.
        last: ends (exclusive) of the segments, [m] int64; each segment has a positive sum of weights.

    Returns:
        Positions, [m] int64. Positions of weight zero are never drawn.
    """
    low, high = cumulative[first], cumulative[last]
    # The nextafter keeps rounding in low + u * (high - low) from reaching the next segment.
    at = np.minimum(low + rng.random(len(first)) * (high - low), np.nextafter(high, low))
    return np.searchsorted(cumulative, at, side="right") - 1


def exclusive_sum(weights: np.ndarray) -> np.ndarray:
    """Returns the running sum of weights [n, ...] with a leading zero, [n + 1, ...] float64."""
    total = np.zeros((len(weights) + 1, *weights.shape[1:]), np.float64)
    np.cumsum(weights, axis=0, dtype=np.float64, out=total[1:])
    return total


def draw_row(rng: np.random.Generator, cumulative: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    """Draws a column for each row of a weight table, given the exclusive sum of its flattened weights."""
    return sample_segments(rng, cumulative, rows * width, (rows + 1) * width) - rows * width


def draw_index(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` positions with probability proportional to weights [n], in random order, [count] int64."""
    ends = np.full(count, len(weights))
    return sample_segments(rng, exclusive_sum(weights), np.zeros(count, np.int64), ends)


def draw_sources(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` source nodes in ascending order, which keeps all later table look-ups close together in memory."""
    return np.minimum(np.searchsorted(np.cumsum(weights), np.sort(rng.random(count)), side="right"), len(weights) - 1)


def draw_distinct(
    rng: np.random.Generator,
    draw: collections.abc.Callable[[int], tuple[np.ndarray, ...]],
    count: int,
    key: str,
    num_targets: int,
    can_happen: collections.abc.Callable[[tuple[np.ndarray, ...]], np.ndarray] | None = None,
) -> Distinct:
    """Draws events until `count` distinct pairs have been seen, and keeps each pair's first event in time.

    Args:
        rng: source of randomness.
        draw: number of events -> independent events (source_ids, target_ids, time, ...), arrays of that length; in any
            order, as they are shuffled here.
        count: distinct pairs wanted.
        key: name of the knob, for the error message.
        num_targets: number of target nodes.
        can_happen: columns of `draw` [n] -> which of the events happen, [n] bool; the others are drawn in vain. None =
            all.

    Raises:
        ConfigError: if so many distinct pairs are out of reach.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    size = int(1.1 * count) + 64
    seen = num_events = 0
    happens = np.zeros(0, bool)
    while num_events < MAX_EVENTS_PER_PAIR * count:
        shuffle = rng.permutation(size)
        parts.append(tuple(column[shuffle] for column in draw(size)))
        more = np.ones(size, bool) if can_happen is None else can_happen(parts[-1])
        happens = np.concatenate([happens, more])
        columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        parts, num_events = [columns], len(columns[0])
        pairs = columns[0].astype(np.int64) * num_targets + columns[1]
        events = np.flatnonzero(happens)
        first = events[np.unique(pairs[events], return_index=True)[1]]
        if len(first) >= count:
            break
        new_per_event = max(len(first) - seen, 1) / size
        seen = len(first)
        size = int(min(1.1 * (count - seen) / new_per_event, num_events)) + 64
    else:
        raise ConfigError(
            f"data.{key}={count} is out of reach: {num_events} events gave only {seen} distinct pairs; ask for fewer "
            "edges, or flatten the world (larger concentrations and topic_leak, smaller exponents and spreads)"
        )
    num_events = int(np.partition(first, count - 1)[count - 1]) + 1
    events = events[events < num_events]
    order = events[np.lexsort((columns[2][events], pairs[events]))]
    ordered = pairs[order]
    order = order[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    source_ids, target_ids, *others = (column[order] for column in columns)
    edges = (source_ids.astype(np.int32), target_ids.astype(np.int32), *others)
    return Distinct(edges, num_events, len(events) - count)
