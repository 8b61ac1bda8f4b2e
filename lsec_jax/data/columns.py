"""Columns that may be larger than memory: where new ones come from, and how they are gone through."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lsec_jax.schema.blocks import BLOCK_ROWS, blocks

__all__ = ["BLOCK_ROWS", "NewColumn", "Workspace", "blocks", "in_memory"]

# (path of the column in the store, shape, dtype) -> an array to fill.
NewColumn = Callable[[str, tuple[int, ...], Any], np.ndarray]


def in_memory(path: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns a new array in memory, for which the path does not count."""
    del path
    return np.empty(shape, dtype)


def _ignore(what: str, share: float) -> None:
    del what, share


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Where a source that reads in blocks puts what it reads; by default everything is in memory.

    Attributes:
        new_column: gives the arrays of large tables.
        scratch: an empty folder for files that nobody needs later, or None.
        memory_bytes: what sorting may take before it uses the folder.
        is_quarantining: leave out and count rows that cannot be used instead of refusing them.
        on_progress: called with what is being done, and which share of it has been done since the last call.
    """

    new_column: NewColumn = in_memory
    scratch: Path | None = None
    memory_bytes: int = 2**30
    is_quarantining: bool = False
    on_progress: Callable[[str, float], None] = _ignore
