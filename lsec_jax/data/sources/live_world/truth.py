"""What is true of the live world and in none of its tables: probabilities, and expected values. No jax here."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.sources.live_world.feed import enter_probabilities, slot_chances
from lsec_jax.data.sources.live_world.rooms import Known, Signals, World, signals
from lsec_jax.data.sources.synthetic_truth import SyntheticTruth
from lsec_jax.schema import DataError


@dataclasses.dataclass(frozen=True)
class LiveTruth:
    """Exact probabilities of the live world, given all that happened before; see `SyntheticTruth` for the relations.

    Attributes:
        base: of the relations buy and follow.
        world: traits of users, rooms and streamers.
        live: the knobs.
        known: who entered whose rooms and accepted shares of whose rooms, of the whole period.
        triggers: the earlier gift that triggered each gift, -1 = none, [gifts] int64.
        columns: expected values by (events, column), [n] float32 in the order of the table.
    """

    base: SyntheticTruth
    world: World
    live: LiveConfig
    known: Known
    triggers: np.ndarray
    columns: Mapping[tuple[str, str], np.ndarray]

    @property
    def relations(self) -> tuple[str, ...]:
        """Those that `probabilities` knows."""
        return self.base.relations

    def probabilities(self, relation: str, source_ids: np.ndarray, start: float, end: float) -> np.ndarray:
        """P(the pair first occurs in [start, end) | not before), [b, n_targets] float32; as `SyntheticTruth`."""
        return self.base.probabilities(relation, source_ids, start, end)

    def expected(self, events: str, column: str) -> np.ndarray:
        """Expected value of a measured column given what came before, [n] float32; of bool columns the probability.

        Of ("impression", "watched"): before the decision. Of its other columns: given that the room is entered, also
        in rows where it was not. Of ("product_click", "purchase"): P(the clicked product is bought).

        Raises:
            DataError: for columns whose truth is not kept, naming those that are.
        """
        if (events, column) not in self.columns:
            there = ", ".join(f"{table}.{name}" for table, name in sorted(self.columns))
            raise DataError(f"the live world keeps no truth of {events}.{column}; it has: {there}")
        return self.columns[events, column]

    def enter_probabilities(self, user_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """P(a user enters a room that is shown to her first), [b, n_rooms] float32; 0 for rooms that are not live.

        Args:
            user_ids: [b] integer.
            times: in days, [b] float64; visits and shares before the midnight before count.
        """

        def of(found: Signals) -> np.ndarray:
            chances = enter_probabilities(found.enter_effect(self.live), np.zeros(1), self.live)
            return np.where(found.live, chances, 0.0)

        return self._over_rooms(user_ids, times, of)

    def show_probabilities(self, user_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """P(the logging policy shows a room first), [b, n_rooms] float32; arguments as `enter_probabilities`."""

        def of(found: Signals) -> np.ndarray:
            weights = found.policy_weights(self.live)
            return slot_chances(weights, found.live.astype(np.float64), self.live.exploration)

        return self._over_rooms(user_ids, times, of)

    def _over_rooms(self, user_ids: np.ndarray, times: np.ndarray, of: Callable[[Signals], np.ndarray]) -> np.ndarray:
        users, times = np.asarray(user_ids, np.int64), np.asarray(times, np.float64)
        out = np.zeros((len(users), len(self.world.start)), np.float32)
        days, room_days = np.floor(times).astype(np.int64), np.floor(self.world.start).astype(np.int64)
        for day in np.unique(days):
            rows, rooms = np.flatnonzero(days == day), np.flatnonzero(room_days == day)
            if len(rooms):
                found = signals(self.world, self.known, users[rows], times[rows], int(day), rooms)
                out[np.ix_(rows, rooms)] = of(found)
        return out
