"""From external ids to rows of embedding tables: vocabularies fitted on training rows, and stable hashing. No jax."""

from collections.abc import Iterable

import numpy as np

from lsec_jax.schema import NodeTable
from lsec_jax.schema.blocks import blocks

_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def hash_ids(external_ids: np.ndarray) -> np.ndarray:
    """Hashes ids by their text, [n] uint64: the same in every data set, process and width of the text.

    FNV-1a over the characters' code points, and the finalizer of SplitMix64. An integer has the hash of its decimal
    text.

    Args:
        external_ids: integers or text, [n].
    """
    hashes = np.empty(len(external_ids), np.uint64)
    for block in blocks(len(external_ids)):
        texts = np.ascontiguousarray(external_ids[block].astype(np.str_))
        width = texts.dtype.itemsize // 4
        points = texts.view(np.uint32).reshape(len(texts), width).astype(np.uint64)
        found = np.full(len(texts), _FNV_OFFSET)
        for column in points.T:  # numpy fills short texts up with zeros, which are no characters
            found = np.where(column > 0, (found ^ column) * _FNV_PRIME, found)
        hashes[block] = found
    hashes = (hashes ^ hashes >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ hashes >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return hashes ^ hashes >> np.uint64(31)


def fit_vocabulary(seen: Iterable[tuple[np.ndarray, np.ndarray]], min_count: int, max_size: int) -> np.ndarray:
    """Chooses the external ids that get rows of their own, the most frequent first, [k].

    Args:
        seen: of each field that has the table: external ids [n] and how often training shows them, [n] int64.
        min_count: ids shown less often by every field are left out, as are those never shown.
        max_size: ids at most; 0 = any number.
    """
    pairs = list(seen)
    ids, first, inverse = np.unique(np.concatenate([ids for ids, _ in pairs]), return_index=True, return_inverse=True)
    counts = np.zeros(len(ids), np.int64)
    np.maximum.at(counts, inverse, np.concatenate([of for _, of in pairs]))
    order = np.lexsort((first, -counts))
    order = order[counts[order] >= max(min_count, 1)]
    return ids[order[:max_size] if max_size else order]


def rows_by_vocabulary(external_ids: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """The row of each external id, [n + 1] int32: its place in the vocabulary from 1 on, 0 where it is not in it.

    The last entry is 0, so that the index -1 of what is missing finds it.
    """
    found = NodeTable("", vocabulary).index_of(external_ids) + 1
    return np.append(found, 0).astype(np.int32)


def rows_by_hash(external_ids: np.ndarray, buckets: int) -> np.ndarray:
    """The same by hash: rows 1 to `buckets`, and 0 for what is missing, [n + 1] int32."""
    found = hash_ids(external_ids) % np.uint64(buckets) + np.uint64(1)
    return np.append(found.astype(np.int32), np.int32(0))
