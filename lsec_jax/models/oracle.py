"""The oracle of a simulated world: ranks by the true probabilities. No model can do better, up to chance.

Source: none; it exists because the `synthetic` source knows its own probabilities. Departures: none.
"""

import dataclasses

import numpy as np

from lsec_jax import schema


@dataclasses.dataclass(frozen=True)
class OracleScorer:
    """score(u, i) = P(the pair first occurs in [start, end) | not before).

    Attributes:
        truth: of the simulated world.
        relation: its name.
        start, end: the evaluated window, in the data set's unit of time.
    """

    truth: schema.Truth
    relation: str
    start: float
    end: float

    def score_all(self, source_ids: np.ndarray) -> np.ndarray:
        """[b] -> [b, n] float32."""
        return self.truth.probabilities(self.relation, source_ids, self.start, self.end)

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
        """[b], [b, k] -> [b, k] float32."""
        return np.take_along_axis(self.score_all(source_ids), target_ids, axis=1)
