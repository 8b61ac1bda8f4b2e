"""Item-kNN: users get the nearest neighbours of what they have.

Sources: Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001 (Sec. 3.1.1, cosine);
Deshpande & Karypis, "Item-Based Top-N Recommendation Algorithms", TOIS 2004 (Sec. 4.1, Alg. 4.1 and 4.2: each item
keeps its k most similar items, a basket adds up their similarities).

Departures:
- Binary training matrix without the users' row normalisation, and similarities are not scaled to sum to one per item
  (both options in Deshpande & Karypis): the plain form is what most comparisons call item-kNN.
- Items of the basket keep their scores; leaving out what was seen is the evaluation's business.
"""

import dataclasses

import numpy as np
import scipy.sparse

_BLOCK_ITEMS = 1024  # rows of the similarity matrix computed at once


@dataclasses.dataclass(frozen=True)
class ItemKnnScorer:
    """score(u, i) = sum over the history j of u of sim(j, i), where i is among the neighbours of j.

    Attributes:
        history: training matrix, [m, n] CSR float32 of ones.
        similarity: row j holds the kept neighbours of item j, [n, n] CSR float32.
    """

    history: scipy.sparse.csr_array
    similarity: scipy.sparse.csr_array

    @classmethod
    def fit(
        cls, source_ids: np.ndarray, target_ids: np.ndarray, num_sources: int, num_targets: int, num_neighbors: int
    ) -> "ItemKnnScorer":
        """Cosines of the columns of the training matrix; ties among neighbours go to the lower id.

        Args:
            source_ids: users of the training edges, [e] ints; each pair occurs once.
            target_ids: items of the training edges, [e] ints.
            num_sources: number of users, m.
            num_targets: number of items, n.
            num_neighbors: neighbours kept per item.
        """
        if num_neighbors < 1:
            raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}")
        ones = np.ones(len(source_ids), np.float32)
        history = scipy.sparse.csr_array((ones, (source_ids, target_ids)), shape=(num_sources, num_targets))
        norms = np.sqrt(np.maximum(np.bincount(target_ids, minlength=num_targets), 1))
        columns = scipy.sparse.csr_array(history @ scipy.sparse.diags_array((1 / norms).astype(np.float32)))
        items = scipy.sparse.csr_array(columns.T)
        blocks = [
            _nearest(scipy.sparse.csr_array(items[start : start + _BLOCK_ITEMS] @ columns), start, num_neighbors)
            for start in range(0, num_targets, _BLOCK_ITEMS)
        ]
        return cls(history, scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr")))

    def score_all(self, source_ids: np.ndarray) -> np.ndarray:
        """[b] -> [b, n] float32."""
        return (self.history[source_ids] @ self.similarity).toarray()

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
        """[b], [b, k] -> [b, k] float32."""
        return np.take_along_axis(self.score_all(source_ids), target_ids, axis=1)


def _nearest(cosines: scipy.sparse.csr_array, first_item: int, num_neighbors: int) -> scipy.sparse.csr_array:
    """Keeps the largest entries of each row, without the item itself; the rows [r, n] start at first_item."""
    entries = cosines.tocoo()
    rows, columns = entries.coords
    other = columns != rows + first_item
    rows, columns, values = rows[other], columns[other], entries.data[other]
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    starts = np.searchsorted(rows, np.arange(cosines.shape[0]))
    keep = np.arange(len(rows)) - starts[rows] < num_neighbors
    return scipy.sparse.csr_array((values[keep], (rows[keep], columns[keep])), shape=cosines.shape)
