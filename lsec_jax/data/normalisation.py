"""Standardised numbers: mean and deviation of training rows; what is missing is 0 and says so. No jax."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the numbers of a field become features.

    Attributes:
        mean: [d] float64, after the transform.
        deviation: [d] float64, above 0.
        transform: "" or "log1p".
    """

    mean: np.ndarray
    deviation: np.ndarray
    transform: str = ""

    @property
    def num_columns(self) -> int:
        """Of the result: d numbers, and the one that says what is missing."""
        return len(self.mean) + 1

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Returns [n, d + 1] float32 of values [n, d]: standardised ones, and 1 in the last column of missing rows.

        A row is missing where one of its numbers is NaN.
        """
        scaled = np.empty((len(values), self.num_columns), np.float32)
        changed = transformed(values, self.transform)
        scaled[:, :-1] = (changed - self.mean[None]) / self.deviation[None]
        is_missing = np.isnan(values).any(axis=1)
        scaled[:, -1] = is_missing
        scaled[is_missing, :-1] = 0.0
        return scaled


def transformed(values: np.ndarray, transform: str) -> np.ndarray:
    """Returns the values as float64, after the transform."""
    values = values.astype(np.float64)
    return np.log1p(values) if transform == "log1p" else values


class ScaleFit:
    """Mean and deviation of numbers that come in parts; rows with NaN do not count.

    Two sums in float64 over values less the mean of the first part, so that large means lose no digits.
    """

    def __init__(self, size: int, transform: str):
        """Begins with no rows; `size` is d."""
        self._transform = transform
        self._count, self._shift = 0, np.zeros(size)
        self._sums, self._squares = np.zeros(size), np.zeros(size)

    def add(self, part: np.ndarray) -> None:
        """Takes values [n, d]."""
        values = transformed(part[~np.isnan(part).any(axis=1)], self._transform)
        if not len(values):
            return
        if self._count == 0:
            self._shift = values.mean(axis=0)
        self._count += len(values)
        self._sums += (values - self._shift[None]).sum(axis=0)
        self._squares += np.square(values - self._shift[None]).sum(axis=0)

    def scale(self) -> Scale:
        """Returns the scale; a constant number, or one that never was there, has deviation 1."""
        count = max(self._count, 1)
        mean = self._shift + self._sums / count
        deviation = np.sqrt(np.maximum(self._squares / count - np.square(self._sums / count), 0.0))
        # What rounding leaves of a constant is no deviation.
        is_constant = deviation <= 1e-7 * np.abs(mean)
        return Scale(mean, np.where(is_constant, 1.0, deviation), self._transform)


def from_fitted(stored: Sequence[Sequence[float]], transform: str) -> Scale:
    """Returns the scale that `to_fitted` stored."""
    mean, deviation = (np.array(of, np.float64) for of in stored)
    return Scale(mean, deviation, transform)


def to_fitted(scale: Scale) -> list[list[float]]:
    """Returns mean and deviation for JSON."""
    return [scale.mean.tolist(), scale.deviation.tolist()]
