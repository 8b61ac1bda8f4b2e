"""Batches of training positives: a pure function of seed and step, so that a resumed run sees the same ones."""

import numpy as np


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
