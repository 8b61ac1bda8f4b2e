"""Popularity: every user gets the targets with the most training edges. The floor under every honest table.

Source: the ItemPop rows of the collaborative filtering literature, e.g. He et al., "Neural Collaborative Filtering",
WWW 2017, Sec. 4.1. Departures: none.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PopularityScorer:
    """score(u, i) = training edges of i.

    Attributes:
        counts: [n] float32.
    """

    counts: np.ndarray

    @classmethod
    def fit(cls, target_ids: np.ndarray, num_targets: int) -> "PopularityScorer":
        """Counts the targets of the training edges, [e] ints in 0..num_targets - 1."""
        return cls(np.bincount(target_ids, minlength=num_targets).astype(np.float32))

    def score_all(self, source_ids: np.ndarray) -> np.ndarray:
        """The same row for everyone, [b, n]."""
        return np.broadcast_to(self.counts, (len(source_ids), len(self.counts)))

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
        """[b, k] of target_ids [b, k]."""
        return self.counts[target_ids]
