"""Compressed sparse rows of pairs (the targets of a source node as one slice), ranges and sorted keys; numpy only."""

import numpy as np


def csr_from_pairs(source_ids: np.ndarray, target_ids: np.ndarray, num_sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups pairs by source.

    Args:
        source_ids: [e] ints in 0..num_sources - 1, any order.
        target_ids: [e] ints.
        num_sources: number of rows; sources without a pair get an empty row.

    Returns:
        (indptr [num_sources + 1] int64, indices [e] int32): the targets of source s are
        `indices[indptr[s]:indptr[s + 1]]`, ascending.

    Raises:
        ValueError: a source outside 0..num_sources - 1.
    """
    source_ids, target_ids = np.asarray(source_ids), np.asarray(target_ids)
    bad = np.flatnonzero((source_ids < 0) | (source_ids >= num_sources))
    if len(bad):
        raise ValueError(f"pair {bad[0]}: source {source_ids[bad[0]]} outside 0..{num_sources - 1}")
    order = np.lexsort((target_ids, source_ids))
    return row_starts(source_ids, num_sources), target_ids[order].astype(np.int32)


def row_starts(source_ids: np.ndarray, num_sources: int) -> np.ndarray:
    """Where each source's rows begin once they are sorted by source, and their number, [num_sources + 1] int64."""
    starts = np.zeros(num_sources + 1, np.int64)
    np.cumsum(np.bincount(source_ids, minlength=num_sources), out=starts[1:])
    return starts


def expand_ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenates the ranges first[j] .. first[j] + counts[j] - 1, [sum(counts)] int64."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(counts.sum(), dtype=np.int64) - np.repeat(ends - counts - first, counts)


def contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns which of the keys [n] are among `sorted_keys` (ascending, may repeat), [n] bool."""
    if len(sorted_keys) == 0:
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[at] == keys


def count_recent(places: np.ndarray, times: np.ndarray, window: float) -> np.ndarray:
    """Events at the same place in [time - window, time) of each event, [n] int64.

    Args:
        places: of the events, [n] int64, at least 0.
        times: never falling and at least 0, [n] float64.
        window: in the unit of the times.
    """
    order = np.argsort(places, kind="stable")
    span = (times[-1] if len(times) else 0.0) + window + 1.0
    keys = places[order] * span + times[order]
    out = np.empty(len(places), np.int64)
    out[order] = np.searchsorted(keys, keys) - np.searchsorted(keys, keys - window)
    return out
