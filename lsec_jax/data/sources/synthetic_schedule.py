"""Who is live when in the synthetic world, and what is shown. No jax here."""

import dataclasses

import numpy as np
import scipy.sparse

from lsec_jax.data.sources.synthetic_sampling import exclusive_sum, sample_segments


@dataclasses.dataclass(frozen=True)
class Sessions:
    """Who is live when.

    Attributes:
        offsets: sessions of streamer s are offsets[s]:offsets[s+1], in order of time, [n_streamers + 1] int64.
        start, end: of each session, half-open, in days, [n_sessions] float64; one streamer's sessions never overlap.
        num_days: length of the period; starts are in [0, num_days).
    """

    offsets: np.ndarray
    start: np.ndarray
    end: np.ndarray
    num_days: float

    def streamer_of(self) -> np.ndarray:
        """Returns the streamer of every session, [n_sessions] int64."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def first_after(self, streamer_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Returns each streamer's first session that starts at or after a time, [m] int64 (its end offset if none)."""
        # Session keys rise strictly: by streamer, then by start within [0, num_days).
        keys = self.streamer_of() * self.num_days + self.start
        at = np.searchsorted(keys, streamer_ids * self.num_days + times, side="left")
        return np.clip(at, self.offsets[streamer_ids], self.offsets[streamer_ids + 1])

    def overlap(self, start: float, end: float) -> np.ndarray:
        """Returns the share of every session that lies in [start, end), [n_sessions] float64."""
        shared = np.minimum(self.end, end) - np.maximum(self.start, start)
        return np.maximum(shared, 0.0) / (self.end - self.start)


@dataclasses.dataclass(frozen=True)
class Schedule(Sessions):
    """Who is live when, and what is shown.

    Attributes:
        attention: relative weight of a session for those who follow its streamer, [n_sessions] float64, 0 where nothing
            is shown.
        display: share of a session's attention that an item gets, CSR [n_sessions, n_items] float64, rows sum to 1.
    """

    attention: np.ndarray
    display: scipy.sparse.csr_matrix


@dataclasses.dataclass(frozen=True)
class Catalogues:
    """What streamers sell.

    Attributes:
        streamer_ids, item_ids: distinct pairs in order, [e] int32; each item is released before the streamer's last
            session.
        prominence: of the item in the streamer's sessions, [e] float64.
        item_release: day from which on an item can be shown, -inf = before the period, [n_items] float64.
    """

    streamer_ids: np.ndarray
    item_ids: np.ndarray
    prominence: np.ndarray
    item_release: np.ndarray


def draw_sessions(
    num_streamers: int, num_days: int, sessions_per_streamer: float, rng: np.random.Generator
) -> Sessions:
    """Draws sessions, at least one of each streamer, at most one a day, mostly in the evening."""
    live = rng.random((num_streamers, num_days)) < sessions_per_streamer / num_days
    live[np.arange(num_streamers), rng.integers(num_days, size=num_streamers)] |= ~live.any(axis=1)
    day = np.nonzero(live)[1]
    start_hour = np.clip(rng.normal(19.5, 3.0, len(day)), 6.0, 22.0)
    hours = np.clip(rng.lognormal(np.log(2.5), 0.4, len(day)), 0.5, 24.0 - start_hour)
    start = day + start_hour / 24.0
    return Sessions(exclusive_sum(live.sum(axis=1)).astype(np.int64), start, start + hours / 24.0, float(num_days))


def draw_showings(
    sessions: Sessions,
    catalogues: Catalogues,
    attention: np.ndarray,
    items_per_session: float,
    rng: np.random.Generator,
) -> Schedule:
    """Draws what the sessions show: released goods of the catalogue, each of them at least once.

    Args:
        sessions: of the streamers.
        catalogues: their goods.
        attention: how much each streamer sells, [n_streamers] float64.
        items_per_session: mean showings in a session, those of goods that are not released yet included.
        rng: source of randomness.
    """
    streamers, items, release = catalogues.streamer_ids, catalogues.item_ids, catalogues.item_release
    streamer_of, num_sessions, num_streamers = sessions.streamer_of(), len(sessions.start), len(attention)
    # Each good of each catalogue in one session at random; the other showings go by prominence.
    offsets = exclusive_sum(np.bincount(streamers, minlength=num_streamers)).astype(np.int64)
    first, end = sessions.first_after(streamers, release[items]), sessions.offsets[streamers + 1]
    once = first + (rng.random(len(streamers)) * (end - first)).astype(np.int64)
    with_goods = np.flatnonzero(np.diff(offsets)[streamer_of] > 0)
    num_more = max(int(num_sessions * items_per_session) - len(once), 0)
    # Streamers without goods have no showings. Each session of the others draws one more good at least, from the whole
    # catalogue: what is not released yet is not shown, so that a session may show nothing though a good is released.
    more = np.concatenate([with_goods, with_goods[np.sort(rng.integers(len(with_goods), size=num_more))]])
    good_of = streamer_of[more]
    goods = sample_segments(rng, exclusive_sum(catalogues.prominence), offsets[good_of], offsets[good_of + 1])
    released = release[items[goods]] <= sessions.start[more]
    more, goods = more[released], goods[released]
    rows, edges = np.concatenate([once, more]), np.concatenate([np.arange(len(once)), goods])
    shown = np.unique(rows * len(release) + items[edges], return_index=True)[1]
    rows, edges = rows[shown], edges[shown]
    prominence = catalogues.prominence[edges]
    weights = prominence / np.bincount(rows, prominence, num_sessions)[rows]
    display = scipy.sparse.csr_matrix((weights, (rows, items[edges])), shape=(num_sessions, len(release)))
    attention = np.where(np.diff(display.indptr) > 0, attention[streamer_of], 0.0)
    return Schedule(sessions.offsets, sessions.start, sessions.end, sessions.num_days, attention, display)


def first_shown(schedule: Schedule) -> np.ndarray:
    """Start of the first session that shows each good of each catalogue, in the catalogues' order, [e] float64."""
    shown = schedule.display.tocoo()
    keys = schedule.streamer_of()[shown.row] * shown.shape[1] + shown.col
    # Sessions are in order of time within a streamer, so the first showing in a stable order is the earliest.
    return schedule.start[shown.row[np.unique(keys, return_index=True)[1]]]
