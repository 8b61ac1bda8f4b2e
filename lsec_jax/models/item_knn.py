"""Item-kNN: users get the items whose nearest neighbours they already have.

Sources: Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001 (Sec. 3.1.1, cosine;
Sec. 3.2.1, weighted sum over the candidate's nearest items); Bell & Koren, "Scalable Collaborative Filtering with
Jointly Derived Neighborhood Interpolation Weights", ICDM 2007 (shrinking similarities that rest on few users).

Departures:
- Binary training matrix, and the weighted sum is not divided by the sum of the weights: with binary histories the
  quotient would forget how much of the history is near.
- The shrinkage is added to the denominator of the cosine, the form that comparisons of baselines use.
- Items of the history keep their scores; leaving out what was seen is the evaluation's business.
"""

import dataclasses

import numpy as np
import scipy.sparse

_BLOCK_ITEMS = 1024  # rows of the similarity matrix computed at once


@dataclasses.dataclass(frozen=True)
class ItemKnnScorer:
    """score(u, i) = sum of sim(i, j) over the items j in the history of u that are among the neighbours of i.

    Attributes:
        history: training matrix, [m, n] CSR float32 of ones.
        neighbors: row i holds the similarities of the kept neighbours of item i, [n, n] CSR float32.
        neighbor_of: its transpose, [n, n] CSR float32.
    """

    history: scipy.sparse.csr_array
    neighbors: scipy.sparse.csr_array
    neighbor_of: scipy.sparse.csr_array

    @classmethod
    def fit(
        cls,
        source_ids: np.ndarray,
        target_ids: np.ndarray,
        num_sources: int,
        num_targets: int,
        num_neighbors: int,
        shrinkage: float = 0.0,
    ) -> "ItemKnnScorer":
        """sim(i, j) = |users of both| / (sqrt(|users of i| |users of j|) + shrinkage); ties go to the lower id.

        Args:
            source_ids: users of the training edges, [e] ints; each pair occurs once.
            target_ids: items of the training edges, [e] ints.
            num_sources: number of users, m.
            num_targets: number of items, n.
            num_neighbors: neighbours kept per item.
            shrinkage: at least 0; large values prefer neighbours that many users support.
        """
        if num_neighbors < 1:
            raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}")
        if shrinkage < 0:
            raise ValueError(f"shrinkage must be at least 0, got {shrinkage}")
        ones = np.ones(len(source_ids), np.float32)
        history = scipy.sparse.csr_array((ones, (source_ids, target_ids)), shape=(num_sources, num_targets))
        items = scipy.sparse.csr_array(history.T)
        norms = np.sqrt(np.bincount(target_ids, minlength=num_targets))
        blocks = []
        for start in range(0, num_targets, _BLOCK_ITEMS):
            common = scipy.sparse.coo_array(items[start : start + _BLOCK_ITEMS] @ history)
            blocks.append(_nearest(common, start, norms, num_neighbors, shrinkage))
        neighbors = scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))
        return cls(history, neighbors, scipy.sparse.csr_array(neighbors.T))

    def score_all(self, source_ids: np.ndarray) -> np.ndarray:
        """[b] -> [b, n] float32."""
        return (self.history[source_ids] @ self.neighbor_of).toarray()

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
        """[b], [b, k] -> [b, k] float32; only the pairs are scored."""
        histories = self.history[np.repeat(source_ids, target_ids.shape[1])]
        scores = histories.multiply(self.neighbors[target_ids.ravel()]).sum(axis=1)
        return np.asarray(scores, np.float32).reshape(target_ids.shape)


def _nearest(
    common: scipy.sparse.coo_array, first_item: int, norms: np.ndarray, num_neighbors: int, shrinkage: float
) -> scipy.sparse.csr_array:
    """Keeps the most similar items of each row, never the item itself; the rows [r, n] start at first_item."""
    rows, columns = common.coords
    other = columns != rows + first_item
    rows, columns = rows[other], columns[other]
    similarity = (common.data[other] / (norms[rows + first_item] * norms[columns] + shrinkage)).astype(np.float32)
    order = np.lexsort((columns, -similarity, rows))
    rows, columns, similarity = rows[order], columns[order], similarity[order]
    starts = np.searchsorted(rows, np.arange(common.shape[0]))
    keep = np.arange(len(rows)) - starts[rows] < num_neighbors
    return scipy.sparse.csr_array((similarity[keep], (rows[keep], columns[keep])), shape=common.shape)
