"""Batches of training positives: a pure function of seed and step, so that a resumed run sees the same ones."""

import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.event_columns import Batch, require_whole

BLOCK_ROWS = 64
_NUM_ROUNDS = 4


class EdgeBatches:
    """Slices of an endless row of permutations of edge positions: every edge once per epoch, no remainder dropped."""

    def __init__(self, num_edges: int, batch_size: int, seed: tuple[int, ...]):
        """Takes the stream's shape.

        Args:
            num_edges: positions are drawn from [0, num_edges).
            batch_size: edges per batch; at most num_edges are used.
            seed: entropy of this stream.
        """
        self.num_edges, self.batch_size, self._seed = num_edges, min(batch_size, num_edges), seed
        self._permutations: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        """Returns the positions of batch `step`, [batch_size] int32."""
        start = step * self.batch_size
        first, last = start // self.num_edges, (start + self.batch_size - 1) // self.num_edges
        parts = []
        for epoch in range(first, last + 1):  # one or two: a batch is never longer than an epoch
            begin = start - epoch * self.num_edges
            parts.append(self._permutation(epoch)[max(begin, 0) : begin + self.batch_size])
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            generator = np.random.default_rng((*self._seed, epoch))
            self._permutations[epoch] = generator.permutation(self.num_edges).astype(np.int32)
        return self._permutations[epoch]


@runtime_checkable
class ReadsRows(Protocol):
    """What batches are read by: `EventColumns`, `EventEncoder` or its `packed`."""

    @property
    def events(self) -> str:
        """Name of the table."""
        ...

    @property
    def num_rows(self) -> int:
        """Of the table."""
        ...

    def __call__(self, rows: np.ndarray) -> Any:
        """Returns the batch of some rows, [b] int64, in their order."""
        ...


class EventBatches:
    """Batches of events: consecutive rows stay together in blocks, and each epoch orders the blocks in its own way.

    A batch is a pure function of its step, whatever was asked before, and no order of rows is kept in memory. Every row
    comes once per epoch, and no remainder is dropped: a batch at the end of an epoch goes on with the next one. Rows
    that fill no block come last in every epoch. Processes take slices of the same batches, so that what all of them
    see together does not depend on their number.

    Attributes:
        columns: what a batch shows.
        num_rows: of an epoch.
        batch_size: of all processes together.
    """

    def __init__(
        self,
        columns: ReadsRows,
        rows: slice | np.ndarray,
        batch_size: int,
        seed: tuple[int, ...],
        process_index: int = 0,
        process_count: int = 1,
        block_rows: int = BLOCK_ROWS,
    ):
        """Takes the stream's shape.

        Args:
            columns: what a batch shows.
            rows: of the table: a range, or positions [n] (`splits.event_rows`).
            batch_size: rows per batch of all processes together.
            seed: entropy of this stream, numbers in [0, 2**32); (1,) and (1, 0) are two streams.
            process_index: of this process.
            process_count: processes that share each batch.
            block_rows: rows that stay together.

        Raises:
            ConfigError: sizes that do not fit together, fewer rows than a batch, or what is no size, seed or position.
        """
        sizes = {"batch_size": batch_size, "block_rows": block_rows, "process_count": process_count}
        for name, size in sizes.items():
            require_whole(name, size, 1)
        require_whole("process_index", process_index, 0)
        if not isinstance(seed, tuple):
            raise ConfigError(f"seed = {seed!r}; give a tuple of whole numbers, e.g. (0,)")
        for entry in seed:
            require_whole(f"an entry of seed = {seed}", entry, 0)
            if entry >= 2**32:
                raise ConfigError(f"an entry of seed = {seed} is 2**32 or more; give numbers below")
        if not 0 <= process_index < process_count:
            raise ConfigError(f"process_index = {process_index} is not one of {process_count} processes")
        if batch_size % (block_rows * process_count):
            raise ConfigError(
                f"batch_size = {batch_size}; batches of events are made of blocks of {block_rows} rows for each of "
                f"{process_count} processes: give a multiple of {block_rows * process_count}"
            )
        positions = _positions_of(rows, columns)
        if len(positions) < batch_size:
            raise ConfigError(
                f"batch_size = {batch_size}, but there are only {len(positions)} rows of events '{columns.events}' to "
                "take; give a smaller one"
            )
        self.num_rows, self.batch_size, self.columns = len(positions), batch_size, columns
        self._positions, self._seed, self._block_rows = positions, seed, block_rows
        self._share = (batch_size // process_count * process_index, batch_size // process_count)

    def __call__(self, step: int) -> Any:
        """Returns this process's share of batch `step`, [batch_size / process_count] rows."""
        return self.columns(self.rows(step))

    def rows(self, step: int) -> np.ndarray:
        """Returns the share's rows of the table, int64."""
        start = step * self.batch_size + self._share[0]
        stop = start + self._share[1]
        parts = []
        for epoch in range(start // self.num_rows, (stop - 1) // self.num_rows + 1):  # one or two
            begin = epoch * self.num_rows
            parts.append(self._epoch(epoch, max(start - begin, 0), min(stop - begin, self.num_rows)))
        at = np.concatenate(parts)
        if isinstance(self._positions, range):
            return self._positions.start + self._positions.step * at
        return self._positions[at]

    def _epoch(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Positions from `start` to `stop` of an epoch's order."""
        size = self._block_rows
        num_blocks = self.num_rows // size
        first, last = min(start // size, num_blocks), min(-(-stop // size), num_blocks)
        # numpy fills entropy up with zeros: without its length, seeds that differ in zeros at their end would be one.
        entropy = np.random.SeedSequence((len(self._seed), *self._seed), spawn_key=(epoch,))
        keys = entropy.generate_state(_NUM_ROUNDS, np.uint64)
        blocks = permute(np.arange(first, last), num_blocks, keys)
        in_blocks = (blocks[:, None] * size + np.arange(size)).reshape(-1)
        at = in_blocks[start - first * size : max(stop - first * size, 0)]
        return np.concatenate([at, np.arange(max(start, num_blocks * size), stop)])


def _positions_of(rows: slice | np.ndarray, columns: ReadsRows) -> range | np.ndarray:
    """The rows as positions; raises ConfigError where they are none of the table."""
    place = f"rows of events '{columns.events}'"
    if isinstance(rows, slice):
        return range(*rows.indices(columns.num_rows))
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.kind not in "iu":
        what = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ConfigError(f"{place} are {what}; give a slice, or positions [n] (of a mask: np.flatnonzero)")
    if len(rows) and not (rows.min() >= 0 and rows.max() < columns.num_rows):
        raise ConfigError(f"{place} go from {rows.min()} to {rows.max()}; the table has {columns.num_rows} rows from 0")
    return rows


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of range(size) takes positions, without a table of it.

    A Feistel network on the next power of four, entered again until the result is below the size.

    Args:
        positions: [k], in [0, size).
        size: 1 to 2**62.
        keys: [rounds] uint64.

    Returns:
        [k] int64.
    """
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    found = positions.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        found[outside] = left << half | right
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """A hash of 64 bits: the finalizer of SplitMix64."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


class BatchStream:
    """Batches in the order of steps, made ahead by a thread of its own. Use as a context manager: leaving it ends that.

    Attributes:
        iterator: Grain's, with `get_state` and `set_state`; `grain.checkpoint.CheckpointSave(stream.iterator)` saves
            it. Its state is the next step alone, which is the same in every process: any number of them can go on from
            it, with `first_step`. None once the stream is closed.
        seconds_waited: time so far that the caller of `next` waited for a batch.
    """

    def __init__(
        self,
        batches: EventBatches,
        first_step: int = 0,
        place: Callable[[Batch], Any] | None = None,
        num_ahead: int = 2,
    ):
        """Makes nothing before the first batch is asked for.

        Args:
            batches: what to read.
            first_step: where to start.
            place: puts a batch where the step wants it, e.g. `lambda batch: jax.device_put(columns.pack(batch),
                sharding)`; that of the batches ahead begins while the step before runs. None = numpy arrays.
            num_ahead: batches that are kept ready; 0 = each is made when it is asked for.

        Raises:
            ConfigError: a step or a number that is none.
        """
        require_whole("first_step", first_step, 0)
        require_whole("num_ahead", num_ahead, 0)
        # Grain imports jax, which reading data does not need.
        import grain
        from grain.experimental import set_next_index

        steps = grain.MapDataset.range(2**62).map(batches)
        if place is not None:
            steps = steps.map(place)
        options = grain.ReadOptions(num_threads=1 if num_ahead else 0, prefetch_buffer_size=num_ahead)
        self.iterator: Any = iter(steps.to_iter_dataset(options))
        set_next_index(self.iterator, first_step)
        self.seconds_waited = 0.0

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Any:
        if self.iterator is None:
            raise ValueError("this stream of batches is closed; make another one, with first_step to go on")
        start = time.perf_counter()
        batch = next(self.iterator)
        self.seconds_waited += time.perf_counter() - start
        return batch

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread; there are no more batches. A stream that is closed stays so."""
        if self.iterator is not None:
            self.iterator.close()
        # Grain's iterator would complain if it were still there when Python ends.
        self.iterator = None
