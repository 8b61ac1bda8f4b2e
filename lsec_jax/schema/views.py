"""Views of a graph among nodes of one type, in compressed rows; the arrays may be memory-mapped. No jax here."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class View:
    """Who is linked to whom in one view.

    Attributes:
        name: of the view.
        node_type: of both ends.
        starts: where each node's neighbours start, [n + 1] int64.
        neighbours: of node after node, ascending, each once, [e] int32.
    """

    name: str
    node_type: str
    starts: np.ndarray
    neighbours: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1
