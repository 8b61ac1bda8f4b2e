"""Blocks of users for `ranking`, and their rows of CSR pairs in shapes that all blocks share; numpy only."""

from collections.abc import Iterator

import numpy as np

Csr = tuple[np.ndarray, np.ndarray]

_NO_TARGET = np.iinfo(np.int32).max  # out of range for every table: scatters drop it


def split(rows: np.ndarray, block_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (rows of one block, how many of them are real): `block_size` rows, the last repeated."""
    for start in _starts(rows, block_size):
        at = np.minimum(np.arange(start, start + block_size), len(rows) - 1)
        yield rows[at], min(block_size, len(rows) - start)


def lengths(csr: Csr, ids: np.ndarray) -> np.ndarray:
    """Number of targets in each of some rows of a CSR pair."""
    return csr[0][ids + 1] - csr[0][ids]


def round_up(width: int) -> int:
    """To a power of two: data of similar size share a compilation."""
    return 1 << (width - 1).bit_length()


def largest_sum(row_lengths: np.ndarray, block_size: int) -> int:
    """The most targets that any block's rows have together, rounded up; at least 1."""
    if len(row_lengths) == 0:
        return 1
    sums = np.add.reduceat(row_lengths, _starts(row_lengths, block_size), dtype=np.int64)
    return round_up(max(1, int(sums.max())))


def flat_rows(csr: Csr, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat (positions in `ids`, targets) of some rows of a CSR pair."""
    counts = lengths(csr, ids)
    rows = np.repeat(np.arange(len(ids), dtype=np.int32), counts)
    offsets = np.repeat(csr[0][ids] - (np.cumsum(counts) - counts), counts)
    return rows, csr[1][offsets + np.arange(len(rows))].astype(np.int32)


def concatenated_rows(csrs: list[Csr], ids: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat (positions, targets) of some rows of several CSR pairs, [width] int32, padded with targets out of range."""
    rows, targets = np.zeros(width, np.int32), np.full(width, _NO_TARGET, np.int32)
    start = 0
    for csr in csrs:
        own_rows, own_targets = flat_rows(csr, ids)
        end = start + len(own_rows)
        rows[start:end], targets[start:end] = own_rows, own_targets
        start = end
    return rows, targets


def padded_rows(csr: Csr, ids: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a CSR pair as (targets [b, width] int32, mask [b, width])."""
    mask = np.arange(width)[None, :] < lengths(csr, ids)[:, None]
    targets = np.zeros(mask.shape, np.int32)
    targets[mask] = flat_rows(csr, ids)[1]
    return targets, mask


def _starts(rows: np.ndarray, block_size: int) -> range:
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    return range(0, len(rows), block_size)
