"""Columns that may be larger than memory: where new ones come from, and how they are gone through."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BLOCK_ROWS = 2**20

# (path of the column in the store, shape, dtype) -> an array to fill.
NewColumn = Callable[[str, tuple[int, ...], Any], np.ndarray]


def in_memory(path: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns a new array in memory, for which the path does not count."""
    del path
    return np.empty(shape, dtype)


def blocks(num_rows: int, block_rows: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cover the rows in order, each of at most `block_rows`."""
    for start in range(0, num_rows, block_rows):
        yield slice(start, min(start + block_rows, num_rows))
