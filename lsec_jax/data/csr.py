"""Compressed sparse rows of pairs: the targets of every source node as one slice. Numpy only."""

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
    indptr = np.zeros(num_sources + 1, np.int64)
    np.cumsum(np.bincount(source_ids, minlength=num_sources), out=indptr[1:])
    return indptr, target_ids[np.lexsort((target_ids, source_ids))].astype(np.int32)
