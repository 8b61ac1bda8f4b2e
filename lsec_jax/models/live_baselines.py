"""Baselines of impressions, which every live recommender must beat: they count, and know the past of each row only.

Source: none in particular; popularity as in He et al., "Neural Collaborative Filtering", WWW 2017, Sec. 4.1, the
others because two thirds of the watches of live platforms are repeats. What is counted are watches of the *owner* of
what is shown: of the streamer, for a room is new at every stream; of the target itself where events have no streamer.

- popularity: watches of the owner in training;
- recent_popularity: watches of the owner by anybody in a window before the moment: what is popular now;
- watch_rate: (watches + s x mean rate) / (impressions + s) of the owner before the moment, s the shrinkage; a
  probability;
- last_watched: when the user last watched the owner, the later the better; never comes last;
- own_counts: how often the user had watched the owner, ties by popularity;
- oracle: the true probabilities of a simulated world.

All but popularity go on counting after training, as a running system would: of validation and test rows everything
before their moment is known.

Departures: none.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lsec_jax.config import LIVE_BASELINES, require_choice
from lsec_jax.event_past import ImpressionPast, pair_keys
from lsec_jax.schema import TRAIN, DataError, Events, EventTruth, LiveCommerceData


@dataclasses.dataclass(frozen=True)
class RowScores:
    """Scores rows of a table of impressions.

    Attributes:
        function: rows [b] int64 -> [b] float32 by task.
        output: what the scores are: "scores" of any scale, or "probabilities".
    """

    function: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    output: str

    def __call__(self, rows: Int[np.ndarray, " b"]) -> Mapping[str, Float[np.ndarray, " b"]]:
        """Returns the scores of the rows, by task."""
        return self.function(rows)


def owner_role(events: Events, target: str) -> str:
    """Role of what users come back to: "streamer" where events have one, else the target's."""
    return "streamer" if "streamer" in events.nodes else target


class LiveBaselines:
    """Counts of one table of impressions, made at first use and kept."""

    def __init__(
        self,
        data: LiveCommerceData,
        events: str,
        user: str,
        target: str,
        task: str,
        is_watch: np.ndarray,
        columns: Mapping[str, str],
        recent_window: float,
        rate_shrinkage: float,
    ) -> None:
        """Takes a data set whose events are split.

        Args:
            data: with the events; its truth is used for the oracle alone.
            events: the table of impressions.
            user: role of who they are shown to.
            target: role of what is shown.
            task: name of the primary task.
            is_watch: its answer: whether each impression counts as watched, [n] bool.
            columns: measured column by binary task whose answer is that column, for the oracle.
            recent_window: of recent_popularity, in the unit of the data's times.
            rate_shrinkage: s of watch_rate.

        Raises:
            DataError: a table, role or column that is not there, or events that are not split.
        """
        table = data.events_of(events)
        if table.split is None and data.cut_times is None:
            raise DataError(f"events '{events}' have no splits yet; run splits.assign_splits first")
        self._data, self._events, self._columns = data, table, dict(columns)
        self._task, self._watched = task, is_watch
        self._window, self._shrinkage = recent_window, rate_shrinkage
        self._users, self._user = table.ids(user), user
        self._owner = owner_role(table, target)
        self._owners = table.ids(self._owner)
        self._num_owners = len(data.nodes[table.nodes[self._owner].node_type])

    def scorer(self, name: str) -> RowScores:
        """Returns one of LIVE_BASELINES; raises ConfigError for another name."""
        require_choice("baseline", name, LIVE_BASELINES)
        function = {
            "popularity": self._popularity,
            "recent_popularity": self._recent_popularity,
            "watch_rate": self._watch_rate,
            "last_watched": self._last_watched,
            "own_counts": self._own_counts,
        }[name]
        output = "probabilities" if name == "watch_rate" else "scores"
        return RowScores(lambda rows: {self._task: function(rows).astype(np.float32)}, output)

    def oracle(self) -> RowScores | None:
        """The true probabilities of the binary tasks, or None where the data set does not know the primary one's."""
        truth: Any = self._data.truth  # one may know relations, events, or both
        if not isinstance(truth, EventTruth):
            return None
        if self._task not in self._columns:  # of another answer than its column, the truth is none
            return None
        known: dict[str, np.ndarray] = {}
        for task, column in self._columns.items():
            try:
                known[task] = truth.expected(self._events.name, column)
            except DataError:  # a column that the world draws nothing of
                if task == self._task:
                    return None
        return RowScores(lambda rows: {task: values[rows] for task, values in known.items()}, "probabilities")

    @functools.cached_property
    def _past(self) -> ImpressionPast:
        return ImpressionPast(self._events, self._user, self._owner, self._watched, self._num_owners)

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        """Watches of each owner in training, and of nobody, [owners + 1] int64."""
        is_watch = self._watched & self._in_training & (self._owners >= 0)
        return np.bincount(self._owners[is_watch], minlength=self._num_owners + 1)

    @property
    def _in_training(self) -> np.ndarray:
        """Which rows are training rows, [n] bool."""
        if self._events.split is not None:
            return self._events.split == TRAIN
        assert self._data.cut_times is not None, "checked at the start"
        return np.asarray(self._events.time) < self._data.cut_times[0]

    def _popularity(self, rows: np.ndarray) -> np.ndarray:
        return self._counts[self._owners[rows]]  # -1 is the last entry, nobody's

    def _recent_popularity(self, rows: np.ndarray) -> np.ndarray:
        return self._past.owner_watches.count_within(self._owners[rows], self._events.time[rows], self._window)

    def _watch_rate(self, rows: np.ndarray) -> np.ndarray:
        owners, times = self._owners[rows], self._events.time[rows]
        watches = self._past.owner_watches.count(owners, times)
        impressions = self._past.owner_impressions.count(owners, times)
        shares = (watches + self._shrinkage * self._mean_rate) / np.maximum(impressions + self._shrinkage, 1e-12)
        return np.where(impressions + self._shrinkage > 0, shares, self._mean_rate)

    @functools.cached_property
    def _mean_rate(self) -> float:
        in_training = self._watched[self._in_training]
        return float(np.mean(in_training)) if len(in_training) else 0.0

    def _last_watched(self, rows: np.ndarray) -> np.ndarray:
        times = self._events.time[rows]
        last = self._past.pair_watches.last(self._pairs(rows), times)
        begin = self._events.time[0] if len(self._events) else 0.0
        return np.where(np.isfinite(last), last, 2 * begin - self._events.time[-1] - 1.0) - times

    def _own_counts(self, rows: np.ndarray) -> np.ndarray:
        counts = self._past.pair_watches.count(self._pairs(rows), self._events.time[rows])
        return counts + self._places[self._owners[rows]]

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Rank of each owner's popularity, in [0, 1): equal for equally popular ones, [owners + 1] float64."""
        ranks = np.unique(self._counts, return_inverse=True)[1]
        return ranks / (ranks.max() + 1)

    def _pairs(self, rows: np.ndarray) -> np.ndarray:
        return pair_keys(self._users[rows], self._owners[rows], self._num_owners)
