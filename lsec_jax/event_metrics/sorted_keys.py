"""Scored rows as one integer each, sorted in bounded memory: whole in memory if they fit, else in runs on disk.

A key holds group, score and label of a row so that rising keys are the ranking of each group, best first. Sorting
keys is all that the exact metrics of any number of rows need, and numpy sorts such integers many times faster than it
sorts rows by several columns.
"""

import tempfile
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

ROWS_IN_MEMORY = 2**22
GROUP_SHIFT = 33  # bits of the score and of the label
MAX_GROUPS = 2 ** (64 - GROUP_SHIFT)
_SIGN = np.uint32(2**31)


def pack(
    groups: Int[np.ndarray, " b"], scores: Float[np.ndarray, " b"], labels: Bool[np.ndarray, " b"]
) -> UInt64[np.ndarray, " b"]:
    """Makes the keys of rows: group, then falling score, then negatives before positives.

    Args:
        groups: in [0, MAX_GROUPS).
        scores: not NaN; compared in float32, in which -0 is 0.
        labels: True = positive. Of rows of equal score a positive ranks below all negatives.
    """
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0 + 0 = 0
    # IEEE floats of one sign are ordered as their bits are; negative ones fall, which is what is wanted here.
    falling = np.where(bits >= _SIGN, bits, bits ^ ~_SIGN)
    return (groups.astype(np.uint64) << GROUP_SHIFT) | (falling.astype(np.uint64) << np.uint64(1)) | labels


def scores_of(keys: UInt64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns the scores that keys were made of, float32."""
    falling = (keys >> np.uint64(1)).astype(np.uint32)  # the cast drops the group
    return np.where(falling >= _SIGN, falling, falling ^ ~_SIGN).view(np.float32)


class SortedKeys:
    """Takes keys in any order and gives them back sorted, in blocks.

    Up to `rows_in_memory` keys stay in memory (8 bytes each). Beyond that, sorted runs of as many go to files without
    a name in the temporary folder (TMPDIR), which the system frees with this object; blocks are merged from pieces of
    the runs and have about `rows_in_memory` keys again. The runs are mapped, so their pages in memory are the system's
    to drop. Both ways give the very same keys.
    """

    def __init__(self, rows_in_memory: int = ROWS_IN_MEMORY) -> None:
        """Raises ValueError for no memory at all."""
        if rows_in_memory < 1:
            raise ValueError(f"rows_in_memory = {rows_in_memory}; at least one row has to fit")
        self._buffer = np.empty(rows_in_memory, np.uint64)  # pages count once they are written
        self._size = 0
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return self._size + sum(len(run) for run in self._runs)

    def add(self, keys: UInt64[np.ndarray, " b"]) -> None:
        """Adds keys."""
        while len(keys):
            room = len(self._buffer) - self._size
            part, keys = keys[:room], keys[room:]
            self._buffer[self._size : self._size + len(part)] = part
            self._size += len(part)
            if len(keys):  # an exactly full buffer may be all there is
                self._write_run()

    def blocks(self, shift: int = 0) -> Iterator[UInt64[np.ndarray, " n"]]:
        """Yields all keys in rising order.

        Args:
            shift: keys that are equal without their last `shift` bits come in one block: GROUP_SHIFT for whole groups.
                A block has at most `rows_in_memory` keys, or one group more, as long as a third of `rows_in_memory`
                is above the number of runs.
        """
        last = self._buffer[: self._size]
        last.sort()
        if not self._runs:
            if self._size:
                yield last
            return
        runs = [*self._runs, last]
        for low, high in pairwise([*self._bounds(runs, shift), 2**64]):
            pieces = [run[_position(run, low) : _position(run, high)] for run in runs]
            if shift == 0 and high == low + 1:  # one value, of which there may be any number
                yield from (np.array(piece) for piece in pieces if len(piece))
            elif any(len(piece) for piece in pieces):
                block = np.concatenate(pieces)
                block.sort()
                yield block

    def _bounds(self, runs: list[np.ndarray], shift: int) -> list[int]:
        """Values between which there are few enough keys: each run gives one of `step` of its keys as a sample.

        Between two cuts lie fewer than two times as many samples as there are runs, and of each run less than a step
        beside them.
        """
        step = max(len(self._buffer) // (3 * len(runs)), 1)
        samples = np.sort(np.concatenate([run[step - 1 :: step] for run in runs]))
        cuts = samples[len(runs) - 1 :: len(runs)] >> np.uint64(shift)
        frequent = cuts[1:][cuts[1:] == cuts[:-1]]  # these get a block of their own
        found = np.unique(np.concatenate([cuts, frequent + np.uint64(1)]))
        return [0, *(int(cut) << shift for cut in found if cut)]

    def _write_run(self) -> None:
        self._buffer.sort()
        with tempfile.TemporaryFile() as file:
            self._buffer.tofile(file)
            self._runs.append(np.memmap(file, np.uint64, "r", shape=(len(self._buffer),)))  # outlives the open file
        self._size = 0


def _position(run: np.ndarray, value: int) -> int:
    """How many keys are below the value."""
    return len(run) if value >= 2**64 else int(np.searchsorted(run, np.uint64(value)))
