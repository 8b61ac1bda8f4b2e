"""What was known before a moment: how often, how lately and since when something happened; numpy only.

Everything is of events strictly before the moment: those of the very moment, e.g. of the same request, do not count.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from lsec_jax.schema import DataError, Events


class Past:
    """Events by key, e.g. the watches of each streamer, to ask what had happened before moments.

    Memory: 24 bytes an event. Each question is two binary searches for each moment.
    """

    def __init__(self, keys: Int[np.ndarray, " e"], times: Float[np.ndarray, " e"], delay: float = 0.0) -> None:
        """Sorts events.

        Args:
            keys: what each event belongs to, at least 0; negative ones (nobody's) are left out.
            times: in any order, float64.
            delay: time until an event is known, >= 0: events with time + delay < moment are before the moment.

        Raises:
            DataError: a negative delay.
        """
        if not delay >= 0:
            raise DataError(f"delay = {delay}: events would be known before they happen; give 0 or more")
        kept = np.flatnonzero(keys >= 0)
        kept = kept[np.lexsort((times[kept], keys[kept]))]
        self._keys, self._starts = np.unique(keys[kept], return_index=True)
        self._starts = np.append(self._starts, len(kept))
        # Key and time as one sorted integer: at most n^2 for n events, where key x time in floats would lose digits.
        self._moments, ranks = np.unique(times[kept].astype(np.float64), return_inverse=True)
        self._known = self._moments + delay if delay else self._moments
        groups = np.repeat(np.arange(len(self._keys)), np.diff(self._starts))
        self._places = groups * (len(self._moments) + 1) + ranks

    def __len__(self) -> int:
        return len(self._places)

    def count(self, keys: Int[np.ndarray, " b"], moments: Float[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        """Events of each key before its moment, int64; 0 of negative keys."""
        groups = self._groups(keys)
        return self._before(groups, moments) - self._starts[groups]

    def count_within(
        self, keys: Int[np.ndarray, " b"], moments: Float[np.ndarray, " b"], window: float
    ) -> Int[np.ndarray, " b"]:
        """Events of each key before its moment, but not before moment - window, int64."""
        groups = self._groups(keys)
        first = np.searchsorted(self._moments, moments - window, side="left")
        return np.maximum(self._before(groups, moments) - self._from(groups, first), 0)

    def last(self, keys: Int[np.ndarray, " b"], moments: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
        """Time of each key's last event before its moment, float64; -inf where there is none."""
        groups = self._groups(keys)
        ends = self._before(groups, moments)
        return np.where(ends > self._starts[groups], self._time(ends - 1), -np.inf)

    def first(self, keys: Int[np.ndarray, " b"], moments: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
        """Time of each key's first event, float64; inf where there is none before its moment."""
        groups = self._groups(keys)
        starts = self._starts[groups]
        return np.where(self._before(groups, moments) > starts, self._time(starts), np.inf)

    def _groups(self, keys: np.ndarray) -> np.ndarray:
        """Position of each key, or one past the last one, which is of no event."""
        at = np.searchsorted(self._keys, keys)
        found = np.append(self._keys, -1)[at] == keys
        return np.where(found & (keys >= 0), at, len(self._keys))

    def _before(self, groups: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Where each key's events before the moment end."""
        return self._from(groups, np.searchsorted(self._known, moments, side="left"))

    def _from(self, groups: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Where each key's events of a rank of time or later begin."""
        return np.searchsorted(self._places, groups * (len(self._moments) + 1) + ranks)

    def _time(self, at: np.ndarray) -> np.ndarray:
        """Times of events; of positions outside those of any, and 0 where there are no events."""
        if len(self) == 0:
            return np.zeros(len(at))
        places = self._places[np.clip(at, 0, len(self) - 1)]
        return self._moments[places % (len(self._moments) + 1)]


def pair_keys(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], num_second: int) -> Int[np.ndarray, " n"]:
    """One key for each pair of ids, int64; -1 where either is -1."""
    keys = first.astype(np.int64) * num_second + second
    return np.where((first >= 0) & (second >= 0), keys, -1)


@dataclasses.dataclass(frozen=True)
class Known:
    """What was known before some rows of a table of impressions, [b] each.

    Attributes:
        pair_watches: how often the user had watched the owner (a streamer, mostly); above 0 = a repeat, int64.
        pair_last_watch: when last, float64; -inf = never.
        owner_watches: how often anybody had watched the owner; 0 = new to all, int64.
        owner_impressions: how often the owner had been shown, int64.
        owner_first_shown: when first, float64; inf = never before.
        user_impressions: how many impressions the user had had, int64.
        user_watches: how many of them she had watched, int64.
    """

    pair_watches: Int[np.ndarray, " b"]
    pair_last_watch: Float[np.ndarray, " b"]
    owner_watches: Int[np.ndarray, " b"]
    owner_impressions: Int[np.ndarray, " b"]
    owner_first_shown: Float[np.ndarray, " b"]
    user_impressions: Int[np.ndarray, " b"]
    user_watches: Int[np.ndarray, " b"]


class ImpressionPast:
    """The past of a whole table of impressions; asked for blocks of its rows.

    The log's begin is the begin of the past: who was there before cannot be told from new ones.
    """

    def __init__(
        self, events: Events, user: str, owner: str, is_watch: np.ndarray, num_owners: int, delay: float = 0.0
    ) -> None:
        """Sorts the impressions and watches by user, owner and pair.

        Args:
            events: the impressions.
            user: role of who they were shown to.
            owner: role of what is new or known: the streamer, or the room or item where there is none.
            is_watch: whether each impression counts as watched, [n] bool.
            num_owners: nodes of the owners' type.
            delay: time until an impression and its watch are known, in the unit of the times.

        Raises:
            DataError: a role or column that is not there, or a negative delay.
        """
        self._times = np.asarray(events.time)
        self._users, self._owners, self._num_owners = events.ids(user), events.ids(owner), num_owners
        rows = np.flatnonzero(is_watch)
        times = self._times[rows]
        users, owners = self._users[rows], self._owners[rows]
        self.pair_watches = Past(pair_keys(users, owners, num_owners), times, delay)
        self.owner_watches = Past(owners, times, delay)
        self.owner_impressions = Past(self._owners, self._times, delay)
        self.user_watches = Past(users, times, delay)
        self.user_impressions = Past(self._users, self._times, delay)

    def known(self, rows: Int[np.ndarray, " b"]) -> Known:
        """What was known before rows of the table."""
        users, owners, times = self._users[rows], self._owners[rows], self._times[rows]
        pairs = pair_keys(users, owners, self._num_owners)
        return Known(
            pair_watches=self.pair_watches.count(pairs, times),
            pair_last_watch=self.pair_watches.last(pairs, times),
            owner_watches=self.owner_watches.count(owners, times),
            owner_impressions=self.owner_impressions.count(owners, times),
            owner_first_shown=self.owner_impressions.first(owners, times),
            user_impressions=self.user_impressions.count(users, times),
            user_watches=self.user_watches.count(users, times),
        )


class Exposure:
    """Whether what an impression shows had been shown to anybody lately (discoverability, Sec. V of eLiveRec)."""

    def __init__(self, events: Events, role: str, delay: float = 0.0) -> None:
        """Sorts the impressions of a table by one of its roles, e.g. "streamer"; raises DataError as `Events.ids`."""
        self._ids, self._times = events.ids(role), np.asarray(events.time)
        self._past = Past(self._ids, self._times, delay)
        self._begin = self._times[0] if len(self._times) else np.inf

    def is_unexposed(
        self, rows: Int[np.ndarray, " b"], window: float
    ) -> tuple[Bool[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
        """Whether there was no impression of a row's node in [moment - window, moment).

        Args:
            rows: of the table.
            window: in the unit of the times.

        Returns:
            (unexposed [b], observed [b]): of rows that are not observed the log does not reach back so far, or the
            node is not known.
        """
        ids, times = self._ids[rows], self._times[rows]
        observed = (times - window >= self._begin) & (ids >= 0)
        return observed & (self._past.count_within(ids, times, window) == 0), observed
