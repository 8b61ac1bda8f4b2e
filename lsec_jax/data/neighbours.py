"""Neighbours drawn from views for rows of a batch, a fixed number for each hop. No jax.

The views' arrays may be memory-mapped: drawing reads two numbers and as many neighbours as are drawn for each node.
What is drawn for a row depends on the seed, the step, the view, the hop and the row's place in the whole batch alone,
so that processes draw for their own rows and the result does not depend on how many there are.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from lsec_jax.schema import View

NOBODY = -1  # in places without a neighbour
NO_STEP = -1  # of rows that no training step reads


class Draw(NamedTuple):
    """What decides the random numbers of rows.

    Attributes:
        step: of training, or NO_STEP.
        places: of each row: its place in the whole batch in training, and else its number in its table, [b] ints.
    """

    step: int
    places: np.ndarray


def uniforms(key: tuple[int, ...], places: np.ndarray, num_each: int) -> np.ndarray:
    """Returns random numbers in [0, 1) that depend on the key, the place and the column alone, [b, num_each] float64.

    Hashes by the finalizer of SplitMix64, of a counter for each number.

    Args:
        key: seed, step and whatever tells uses apart.
        places: [b] ints.
        num_each: numbers for each place.
    """
    state = np.array([0x9E3779B97F4A7C15], np.uint64)
    for part in key:
        state = _mix(state ^ _mix(np.array([part], np.int64).view(np.uint64)))
    rows = _mix(state ^ _mix(np.asarray(places, np.int64).view(np.uint64)))
    found = _mix(rows[:, None] + np.arange(1, num_each + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (found >> np.uint64(11)) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def draw_neighbours(view: View, nodes: np.ndarray, fanout: int, numbers: np.ndarray) -> np.ndarray:
    """Draws neighbours of nodes without replacement; all of those with at most `fanout`.

    Of d > k neighbours in k equal parts of their row, one is drawn from each part, all at the same place of it
    (systematic sampling): each neighbour is as likely, no two are the same, and one number is enough for a node. Which
    are drawn together depends on the order of the row: of neighbouring places, mostly one.

    Args:
        view: of the graph.
        nodes: indices, [b]; NOBODY has no neighbours.
        fanout: k, at most so many.
        numbers: one in [0, 1) for each node, [b].

    Returns:
        [b, k] int32, NOBODY after the last one.
    """
    there = nodes >= 0
    own = np.where(there, nodes, 0)
    starts = view.starts[own]
    degrees = np.where(there, view.starts[own + 1] - starts, 0)
    places = np.broadcast_to(np.arange(fanout), (len(nodes), fanout))
    spread = np.floor((places + numbers[:, None]) * (degrees[:, None] / fanout)).astype(np.int64)
    offsets = np.where(degrees[:, None] > fanout, np.minimum(spread, degrees[:, None] - 1), places)
    is_there = places < degrees[:, None]
    if not len(view.neighbours):
        return np.full((len(nodes), fanout), NOBODY, np.int32)
    rows = np.where(is_there, starts[:, None] + offsets, 0)
    return np.where(is_there, view.neighbours[rows], np.int32(NOBODY))


@dataclasses.dataclass(frozen=True)
class NeighbourSampler:
    """Draws the hops of one view for rows.

    Attributes:
        view: of the graph.
        fanouts: k of each hop, nearest first.
        key: seed, and what tells this sampler from others of the run.
    """

    view: View
    fanouts: tuple[int, ...]
    key: tuple[int, ...]

    def __call__(self, nodes: np.ndarray, draw: Draw) -> list[np.ndarray]:
        """Returns each hop's nodes, [b, k1], [b, k1 k2] and so on, NOBODY where there is none.

        Args:
            nodes: of the rows, [b].
            draw: what decides the random numbers.
        """
        hops: list[np.ndarray] = []
        at = nodes[:, None]
        for hop, fanout in enumerate(self.fanouts):
            numbers = uniforms((*self.key, draw.step, hop), draw.places, at.shape[1])
            at = draw_neighbours(self.view, at.ravel(), fanout, numbers.ravel()).reshape(len(nodes), -1)
            hops.append(at)
        return hops
