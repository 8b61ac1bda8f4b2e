"""Boolean matrices as packed bits, and their product in blocks of rows: who is joined to whom through a third node."""

from collections.abc import Iterator

import numpy as np

from lsec_jax.data.csr import csr_from_pairs

BLOCK_PAIRS = 1 << 22  # pairs of one dense block; its users hold a few numbers per pair
CHUNK_BYTES = 1 << 24  # packed rows gathered at once
KEPT_BYTES = 1 << 28  # a product that is no larger, packed, is computed once


def pack(row_ids: np.ndarray, column_ids: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """Packs pairs [e] as bits, [num_rows, words] uint64; the columns beyond num_columns are 0."""
    num_bytes = 8 * -(-num_columns // 64)
    packed = np.zeros(num_rows * num_bytes, np.uint8)
    places = row_ids.astype(np.int64) * num_bytes + (column_ids >> 3)
    np.bitwise_or.at(packed, places, np.left_shift(1, column_ids & 7).astype(np.uint8))
    return packed.view(np.uint64).reshape(num_rows, -1)


def unpack(packed: np.ndarray, num_columns: int) -> np.ndarray:
    """Returns packed rows [b, words] as [b, num_columns] bool."""
    return np.unpackbits(packed.view(np.uint8), axis=1, count=num_columns, bitorder="little").view(bool)


class BooleanProduct:
    """Which rows and columns have a middle node in common: left [n, k] times right [k, m], never held as a whole.

    A row is the union of the packed right rows of its middle nodes, 64 columns an operation, which beats counting the
    common nodes of all pairs by a sparse product.
    """

    def __init__(
        self, left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], shape: tuple[int, int, int]
    ):
        """Takes the pairs of both matrices.

        Args:
            left: (row, middle), [e] ints each.
            right: (middle, column), [f] ints each.
            shape: (n, k, m), the numbers of rows, middle nodes and columns.
        """
        self.num_rows, num_middle, self.num_columns = shape
        self._indptr, self._middle_ids = csr_from_pairs(*left, self.num_rows)
        self._row_ids = np.repeat(np.arange(self.num_rows), np.diff(self._indptr))
        self._right = pack(*right, num_middle, self.num_columns)
        self._is_kept = 8 * self._right.shape[1] * self.num_rows <= KEPT_BYTES
        self._kept: dict[int, np.ndarray] = {}

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first row, joined [b, m] bool) for blocks of neighbouring rows, in order."""
        size = max(1, BLOCK_PAIRS // self.num_columns)
        for first in range(0, self.num_rows, size):
            packed = self._kept.get(first)
            if packed is None:
                packed = self._unions(first, min(first + size, self.num_rows))
            if self._is_kept:
                self._kept[first] = packed
            yield first, unpack(packed, self.num_columns)

    def _unions(self, first: int, last: int) -> np.ndarray:
        """Rows first .. last - 1 of the product, packed."""
        unions = np.zeros((last - first, self._right.shape[1]), np.uint64)
        step = max(1, CHUNK_BYTES // (8 * self._right.shape[1]))
        for start in range(int(self._indptr[first]), int(self._indptr[last]), step):
            edges = slice(start, min(start + step, int(self._indptr[last])))
            row_ids = self._row_ids[edges]
            starts = np.flatnonzero(np.diff(row_ids, prepend=-1))
            # A row whose edges reach over several chunks is one segment in each of them.
            unions[row_ids[starts] - first] |= np.bitwise_or.reduceat(
                self._right[self._middle_ids[edges]], starts, axis=0
            )
        return unions
