"""How much of what is ranked first is of some kind, e.g. had not been shown for weeks (discoverability)."""

import numpy as np
from jaxtyping import Bool, Float, Int

from lsec_jax.event_metrics import ranked
from lsec_jax.event_metrics.sorted_keys import GROUP_SHIFT, ROWS_IN_MEMORY, SortedKeys, pack


class TopShare:
    """Share of the rows of a kind among the first K of each request; in bounded memory, as `EventMetrics`."""

    def __init__(self, rows_in_memory: int = ROWS_IN_MEMORY) -> None:
        self._keys = SortedKeys(rows_in_memory)
        self._num_marked = 0

    def add(
        self, scores: Float[np.ndarray, " b"], is_marked: Bool[np.ndarray, " b"], requests: Int[np.ndarray, " b"]
    ) -> None:
        """Adds rows.

        Args:
            scores: not NaN. Of rows of equal score those of the kind rank last.
            is_marked: True = of the kind.
            requests: at least 0, below MAX_GROUPS.
        """
        self._keys.add(pack(requests, scores, is_marked))
        self._num_marked += int(is_marked.sum())

    @property
    def of_all(self) -> float:
        """Share of the kind among all rows; NaN without rows."""
        return self._num_marked / len(self._keys) if len(self._keys) else np.nan

    def measure(self, cutoffs: tuple[int, ...]) -> tuple[int, dict[int, float]]:
        """Returns (requests, mean over them of rows of the kind among the first K / min(K, rows), by K)."""
        sums, count = np.zeros(len(cutoffs)), 0
        for keys in self._keys.blocks(GROUP_SHIFT):
            groups = ranked.group(keys)
            sums += [groups.precision(k).sum() for k in cutoffs]
            count += len(groups.ids)
        return count, {k: float(total / count) if count else np.nan for k, total in zip(cutoffs, sums, strict=True)}
