"""Behaviour sequences: what each user did before a moment, stored once per user. Never looks into the future."""

import dataclasses
from collections.abc import Callable

import numpy as np

from lsec_jax.data.csr import row_starts
from lsec_jax.schema import DataError, Events


@dataclasses.dataclass(frozen=True)
class Histories:
    """Behaviours of n owners (users, mostly) in time order, m in all.

    A history is one slice for all moments: an impression needs its owner and an end offset only (`ends_before`).

    Attributes:
        starts: where each owner's behaviours begin, [n + 1] int64.
        items: what the owner acted on, [m] int32.
        times: when, never falling within an owner, [m] float64.
        rows: the event that each behaviour comes from, [m] int64.
    """

    starts: np.ndarray
    items: np.ndarray
    times: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


def build_histories(
    events: Events, owner: str, item: str, num_owners: int, mask: np.ndarray | None = None
) -> Histories:
    """Sorts events into histories; of equal times, the order of the table stays.

    Args:
        events: in time order.
        owner: role of the nodes whose histories these are, e.g. "user".
        item: role of what they acted on, e.g. "room".
        num_owners: n.
        mask: which events count, e.g. those with a purchase, [events] bool; None = all. Events without an owner or
            an item (-1) never count.

    Raises:
        DataError: if the events lack a role.
    """
    owners, items = events.ids(owner), events.ids(item)
    counts = (owners >= 0) & (items >= 0)
    rows = np.flatnonzero(counts if mask is None else counts & mask)
    rows = rows[np.argsort(owners[rows], kind="stable")]
    return Histories(row_starts(owners[rows], num_owners), items[rows], events.time[rows], rows)


def ends_before(histories: Histories, owners: np.ndarray, times: np.ndarray, delay: float = 0.0) -> np.ndarray:
    """Where each owner's history ends at a moment: behaviours with time + delay < the moment lie before it.

    Behaviours of the very moment do not count: those of the same request, or of the impression itself, would tell its
    label.

    Args:
        histories: of all owners.
        owners: [b], -1 for nobody, whose history is empty.
        times: the moments, [b].
        delay: time until a behaviour is known to the system, >= 0.

    Returns:
        Offsets into `histories.items`, [b] int64; from `starts[owner]` for an empty history.
    """
    if not delay >= 0:
        raise DataError(f"delay = {delay}: behaviours would be known before they happen; give 0 or more")
    num_behaviours = len(histories.items)
    owner_of = np.repeat(np.arange(len(histories)), np.diff(histories.starts))
    is_moment = np.r_[np.zeros(num_behaviours, np.int8), np.ones(len(owners), np.int8)]
    # At equal times a moment comes first, and so before the behaviours that it must not see.
    order = np.lexsort((1 - is_moment, np.r_[histories.times + delay, times], np.r_[owner_of, owners]))
    behaviours_before = np.cumsum(is_moment[order] == 0)
    ends = np.empty(len(order), np.int64)
    ends[order] = behaviours_before
    return np.where(owners >= 0, ends[num_behaviours:], 0)


def last_items(histories: Histories, owners: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """The last items before the ends, oldest first, [b, length] int32; -1 fills the front of short histories."""
    starts = np.where(owners >= 0, histories.starts[np.maximum(owners, 0)], ends)
    at = ends[:, None] + np.arange(-length, 0)
    return np.where(at >= starts[:, None], _at(histories.items, at), np.int32(-1))


def _at(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values at positions; whatever is outside gives some value, or -1 where there are none."""
    if len(values) == 0:
        return np.full(positions.shape, -1, values.dtype)
    return values[np.clip(positions, 0, len(values) - 1)]


def audit_histories(histories: Histories, owners: np.ndarray, times: np.ndarray, ends: np.ndarray) -> None:
    """Checks that no moment sees its own time or later, nor another owner's behaviours; raises DataError.

    So that the last behaviour before a moment says it of all, an owner's times may never fall, and times and moments
    must be numbers.

    Args:
        histories: of all owners.
        owners: [b], -1 for nobody.
        times: the moments, [b].
        ends: where each history ends, [b], as `ends_before` gives it.
    """
    _audit_order(histories)
    _refuse((owners < -1) | (owners >= len(histories)), lambda row: f"owner {owners[row]} of {len(histories)}")
    _refuse(np.isnan(times), lambda row: "its moment is NaN")
    known = owners >= 0
    starts = histories.starts[np.maximum(owners, 0)]
    _refuse(
        known & ((ends < starts) | (ends > histories.starts[np.maximum(owners, 0) + 1])),
        lambda row: f"its history ends at {ends[row]}, outside that of its owner {owners[row]}",
    )
    _refuse(
        known & (ends > starts) & (_at(histories.times, ends - 1) >= times),
        lambda row: (
            f"at {times[row]} its history has a behaviour of {histories.times[ends[row] - 1]}; histories must end "
            "before the moment"
        ),
    )


def _audit_order(histories: Histories) -> None:
    starts, values = histories.starts, histories.times
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(values) or (np.diff(starts) < 0).any():
        raise DataError(f"the owners' starts do not rise from 0 to {len(values)}; build_histories gives such ones")
    is_bad = np.isnan(values)
    is_bad[1:] |= values[1:] < values[:-1]
    is_first = np.zeros(len(values), bool)
    is_first[starts[:-1][starts[:-1] < len(values)]] = True
    bad = np.flatnonzero(is_bad & ~(is_first & ~np.isnan(values)))
    if len(bad):
        owner = np.searchsorted(starts, bad[0], side="right") - 1
        raise DataError(
            f"owner {owner}: behaviour {bad[0]} has time {values[bad[0]]} and comes after one of "
            f"{values[max(bad[0] - 1, 0)]}; times must not fall within an owner: sort the events by time"
        )


def _refuse(is_bad: np.ndarray, text: Callable[[int], str]) -> None:
    bad = np.flatnonzero(is_bad)
    if len(bad):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise DataError(f"row {bad[0]}{more}: {text(int(bad[0]))}")
