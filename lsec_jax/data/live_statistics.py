"""What a log of live rooms looks like: impressions, visits, repeats, shares by scenario, bursts of gifts, responses."""

import dataclasses
import math

import numpy as np

from lsec_jax.data.csr import count_recent
from lsec_jax.schema import Events, LiveCommerceData

BURST_SECONDS = 60.0
RESPONSE_BINS = (0, 1, 2, 4, 8, 16)  # gifts in the minute before, lower bounds
SECONDS = {"days": 86_400.0, "seconds": 1.0, "milliseconds": 1e-3}  # by unit of the data's times


@dataclasses.dataclass(frozen=True)
class FeedStatistics:
    """Of the events `impression`; nan = the log lacks the column, or nothing of the kind happened.

    Attributes:
        num_impressions, num_requests, num_users, num_rooms: of the log; requests are groups, 0 = not known.
        watch_rate: share of impressions that are watched.
        watches_per_request: mean.
        repeat_share: share of watches whose streamer the user watched before in the log.
        repeat_share_by_tenth: the same in each tenth of the watches, in order of time, [10] float64.
        mean_stay_seconds, median_stay_seconds: of watches.
        rates: of watches with a goods bag click, a product click, a share, by column.
        watch_rate_by_position: in the slate, [p] float64.
        watches_of_rooms: sorted, largest first, [rooms with impressions] int64.
    """

    num_impressions: int
    num_requests: int
    num_users: int
    num_rooms: int
    watch_rate: float
    watches_per_request: float
    repeat_share: float
    repeat_share_by_tenth: np.ndarray
    mean_stay_seconds: float
    median_stay_seconds: float
    rates: dict[str, float]
    watch_rate_by_position: np.ndarray
    watches_of_rooms: np.ndarray


@dataclasses.dataclass(frozen=True)
class ShareStatistics:
    """Of the events `share`.

    Attributes:
        num_shares: rows.
        accepted: share of them that is accepted.
        of_scenarios: shares of each scenario that has some, largest first, [s] int64.
        head_share: share of shares in the largest tenth of these scenarios.
    """

    num_shares: int
    accepted: float
    of_scenarios: np.ndarray
    head_share: float


@dataclasses.dataclass(frozen=True)
class GiftStatistics:
    """Of the events `gift` and `response`.

    Attributes:
        num_gifts: rows.
        mean_amount: of a gift.
        within_a_minute: share of gifts that come within a minute after another in the room.
        fano_factor: variance / mean of the gifts of a room in a minute, over all minutes of all rooms; 1 for gifts
            that come independently and everywhere alike; nan where it is not known when rooms are live.
        gifts_of_rooms: sorted, largest first, of rooms with gifts, [r] int64.
        responses: mean response by the gifts in the minute before (RESPONSE_BINS), nan = none, [bins] float64.
        num_responses: by bin, [bins] int64.
    """

    num_gifts: int
    mean_amount: float
    within_a_minute: float
    fano_factor: float
    gifts_of_rooms: np.ndarray
    responses: np.ndarray
    num_responses: np.ndarray


@dataclasses.dataclass(frozen=True)
class LiveStatistics:
    """All of a log; None for events that the data set lacks."""

    feed: FeedStatistics
    shares: ShareStatistics | None
    gifts: GiftStatistics | None


def live_statistics(data: LiveCommerceData, time_unit: str = "days") -> LiveStatistics:
    """Computes the statistics of a data set with impressions, in O(rows log rows).

    Args:
        data: with events `impression`; `share`, `gift` and `response` are used where there are any.
        time_unit: of the data's times, "days", "seconds" or "milliseconds".

    Raises:
        DataError: if there are no impressions, or they lack users, streamers, rooms or `watched`.
    """
    feed = _feed(data.events_of("impression"))
    shares = _shares(data.events["share"]) if "share" in data.events else None
    gifts = _gifts(data, SECONDS[time_unit]) if "gift" in data.events else None
    return LiveStatistics(feed, shares, gifts)


def _feed(impression: Events) -> FeedStatistics:
    watched = impression.value("watched").astype(bool)
    rows = np.flatnonzero(watched)
    users, streamers = impression.ids("user")[rows].astype(np.int64), impression.ids("streamer")[rows]
    is_repeat = np.ones(len(rows), bool)
    is_repeat[np.unique(users * (streamers.max(initial=0) + 1) + streamers, return_index=True)[1]] = False
    tenths = np.array([_mean(part) for part in np.array_split(is_repeat, 10)])
    stay = impression.values.get("stay_seconds", np.full(len(impression), np.nan))[rows]
    stay = stay[~np.isnan(stay)]
    columns = [name for name in ("goods_bag_click", "product_click", "share") if name in impression.values]
    num_requests = 0 if impression.group is None else len(np.unique(impression.group))
    rooms = impression.ids("room")
    of_rooms = np.bincount(rooms[rows], minlength=rooms.max(initial=0) + 1)[np.unique(rooms)]
    return FeedStatistics(
        num_impressions=len(impression),
        num_requests=num_requests,
        num_users=len(np.unique(impression.ids("user"))),
        num_rooms=len(of_rooms),
        watch_rate=_mean(watched),
        watches_per_request=len(rows) / num_requests if num_requests else math.nan,
        repeat_share=_mean(is_repeat),
        repeat_share_by_tenth=tenths,
        mean_stay_seconds=_mean(stay),
        median_stay_seconds=float(np.median(stay)) if len(stay) else math.nan,
        rates={name: _mean(impression.value(name)[rows]) for name in columns},
        watch_rate_by_position=_by_position(impression, watched),
        watches_of_rooms=np.sort(of_rooms)[::-1],
    )


def _by_position(impression: Events, watched: np.ndarray) -> np.ndarray:
    if "position" not in impression.values:
        return np.zeros(0)
    positions = impression.value("position").astype(np.int64)
    return np.bincount(positions, watched) / np.maximum(np.bincount(positions), 1)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else math.nan


def _shares(share: Events) -> ShareStatistics:
    counts = np.sort(np.bincount(share.ids("scenario")))[::-1]
    counts = counts[counts > 0]
    head = counts[: -(-len(counts) // 10)].sum() / counts.sum()
    accepted = share.values.get("accepted", np.zeros(0))
    return ShareStatistics(len(share), _mean(accepted), counts, float(head))


def _gifts(data: LiveCommerceData, seconds_per_unit: float) -> GiftStatistics:
    gift = data.events["gift"]
    rooms, minutes = gift.ids("room").astype(np.int64), gift.time * (seconds_per_unit / BURST_SECONDS)
    minutes = minutes - minutes[0]
    recent = count_recent(rooms, minutes, 1.0)
    of_rooms = np.sort(np.bincount(rooms))[::-1]
    bins = len(RESPONSE_BINS)
    sums: np.ndarray = np.zeros(bins)
    numbers: np.ndarray = np.zeros(bins, np.int64)
    response = data.events.get("response")
    if response is not None and response.parent is not None and response.parent[0] == "gift":
        rows = response.parent[1]
        answered = np.flatnonzero((rows >= 0) & ~np.isnan(response.value("response")))
        at = np.searchsorted(RESPONSE_BINS, recent[rows[answered]], side="right") - 1
        sums = np.bincount(at, response.value("response")[answered], bins)
        numbers = np.bincount(at, minlength=bins)
    return GiftStatistics(
        num_gifts=len(gift),
        mean_amount=_mean(gift.values.get("amount", np.zeros(0))),
        within_a_minute=_mean(recent > 0),
        fano_factor=_fano_factor(data, rooms, gift.time, seconds_per_unit),
        gifts_of_rooms=of_rooms[of_rooms > 0],
        responses=np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan),
        num_responses=numbers,
    )


def _fano_factor(data: LiveCommerceData, rooms: np.ndarray, times: np.ndarray, seconds_per_unit: float) -> float:
    """Over all (room, minute) cells, most of which are empty."""
    windows = data.availability.get("room")
    if windows is None or not np.isfinite(windows.start).all() or not np.isfinite(windows.end).all():
        return math.nan
    per_minute = seconds_per_unit / BURST_SECONDS
    num_cells = np.ceil((windows.end - windows.start) * per_minute).sum()
    minutes = np.floor((times - windows.start[rooms]) * per_minute).astype(np.int64)
    counts = np.unique(np.stack([rooms, minutes]), axis=1, return_counts=True)[1].astype(np.float64)
    mean = counts.sum() / num_cells
    return float(((counts**2).sum() / num_cells - mean**2) / mean)
