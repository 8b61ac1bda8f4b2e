"""Metrics that are means over groups of rows, as the sums of each user's part."""

import numpy as np


class UserParts:
    """Sums of metrics by user, and their weights."""

    def __init__(self, num_users: int) -> None:
        """Users are 0 to num_users - 1."""
        self._sums: dict[str, np.ndarray] = {}
        self._weights: dict[str, np.ndarray] = {}
        self._num_users = num_users

    def add_groups(self, name: str, users: np.ndarray, values: np.ndarray, weights: np.ndarray) -> int:
        """Adds values [g] of users with weights, NaN ones left out; returns how many these are."""
        kept = np.flatnonzero(~np.isnan(values))
        self.add(name, users[kept], values[kept] * weights[kept], weights[kept])
        return len(values) - len(kept)

    def add(self, name: str, users: np.ndarray, sums: np.ndarray, weights: np.ndarray) -> None:
        """Adds sums [g] of users, which may repeat, and their weights."""
        for totals, values in ((self._sums, sums), (self._weights, weights)):
            found = np.bincount(users, values, self._num_users).astype(np.float64)  # of nothing it would be int64
            totals[name] = totals[name] + found if name in totals else found

    def mean(self, name: str) -> float:
        """The metric: the weighted mean of its parts; NaN where no user has one."""
        weight = self._weights[name].sum()
        return float(self._sums[name].sum() / weight) if weight else np.nan

    def means(self) -> dict[str, float]:
        """`mean` of every metric that was added."""
        return {name: self.mean(name) for name in self._sums}

    def of(self, user_ids: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The users' parts [u], NaN where there is none, and their weights."""
        weights = {name: of[user_ids] for name, of in self._weights.items()}
        parts = {
            name: np.where(weights[name] > 0, self._sums[name][user_ids] / np.maximum(weights[name], 1), np.nan)
            for name in weights
        }
        return parts, weights
