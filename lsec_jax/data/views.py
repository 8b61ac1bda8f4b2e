"""Views of a user-user graph in compressed rows, and neighbours drawn from them for batches. No jax.

The arrays may be memory-mapped: drawing reads two numbers and as many neighbours as are drawn for each node. What is
drawn for a row of a batch depends on the seed, the step, the hop and the row's place in the whole batch alone, so that
processes draw for their own rows and the result does not depend on how many there are.
"""

import dataclasses

import numpy as np

from lsec_jax.schema import DataError

NOBODY = -1  # in places without a neighbour


@dataclasses.dataclass(frozen=True)
class View:
    """Who is linked to whom in one view.

    Attributes:
        name: of the view.
        starts: where each node's neighbours start, [n + 1] int64.
        neighbours: of node after node, ascending, each once, [e] int32.
    """

    name: str
    starts: np.ndarray
    neighbours: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


def view_of(name: str, source_ids: np.ndarray, target_ids: np.ndarray, num_nodes: int, both_ways: bool = True) -> View:
    """Builds a view from its links.

    Args:
        name: of the view.
        source_ids: indices, [e].
        target_ids: indices, [e]; repeated links count once, links of a node to itself not at all.
        num_nodes: n.
        both_ways: whether a link makes each end the other's neighbour; else the targets are the sources'.

    Raises:
        DataError: an index out of range.
    """
    for ids in (source_ids, target_ids):
        bad = np.flatnonzero((ids < 0) | (ids >= num_nodes))
        if len(bad):
            raise DataError(f"view '{name}', link {bad[0]}: node {ids[bad[0]]} is none of the {num_nodes} nodes")
    source_ids, target_ids = source_ids.astype(np.int64), target_ids.astype(np.int64)
    if both_ways:
        source_ids, target_ids = np.concatenate([source_ids, target_ids]), np.concatenate([target_ids, source_ids])
    linked = source_ids != target_ids
    keys = np.unique(source_ids[linked] * num_nodes + target_ids[linked])
    counts = np.bincount(keys // max(num_nodes, 1), minlength=num_nodes)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return View(name, starts, (keys % max(num_nodes, 1)).astype(np.int32))


def draw_neighbours(view: View, nodes: np.ndarray, fanout: int, uniforms: np.ndarray) -> np.ndarray:
    """Draws neighbours of nodes without replacement; all of those with at most `fanout`.

    Of d > k neighbours in k equal parts of their row, one is drawn from each part, all at the same place of it
    (systematic sampling): each neighbour is as likely, no two are the same, and one number is enough for a node.

    Args:
        view: of the graph.
        nodes: indices, [b]; NOBODY has no neighbours.
        fanout: k, at most so many.
        uniforms: one number in [0, 1) for each node, [b].

    Returns:
        [b, k] int32, NOBODY after the last one.
    """
    there = nodes >= 0
    own = np.where(there, nodes, 0)
    starts = view.starts[own]
    degrees = np.where(there, view.starts[own + 1] - starts, 0)
    places = np.broadcast_to(np.arange(fanout), (len(nodes), fanout))
    spread = np.floor((places + uniforms[:, None]) * (degrees[:, None] / fanout)).astype(np.int64)
    offsets = np.where(degrees[:, None] > fanout, np.minimum(spread, degrees[:, None] - 1), places)
    is_there = places < degrees[:, None]
    if not len(view.neighbours):
        return np.full((len(nodes), fanout), NOBODY, np.int32)
    rows = np.where(is_there, starts[:, None] + offsets, 0)
    return np.where(is_there, view.neighbours[rows], np.int32(NOBODY))


@dataclasses.dataclass(frozen=True)
class NeighbourSampler:
    """Draws the hops of all views for rows of a batch.

    Attributes:
        views: of one graph.
        fanouts: k of each hop, nearest first.
        seed: of all draws.
    """

    views: tuple[View, ...]
    fanouts: tuple[int, ...]
    seed: int

    def __call__(
        self, nodes: np.ndarray, step: int, places: np.ndarray, batch_size: int
    ) -> list[tuple[np.ndarray, ...]]:
        """Returns for each view the hops' nodes, [b, k1], [b, k1, k2] and so on, NOBODY where there is none.

        Args:
            nodes: of the rows, [b].
            step: of training.
            places: where in the whole batch each row is, [b].
            batch_size: rows of the whole batch.
        """
        found = []
        for number, view in enumerate(self.views):
            hops: list[np.ndarray] = []
            shape: tuple[int, ...] = ()
            at = nodes
            for hop, fanout in enumerate(self.fanouts):
                rng = np.random.default_rng([self.seed, step, number, hop])
                uniforms = rng.random((batch_size, *shape))[places]
                drawn = draw_neighbours(view, at.ravel(), fanout, uniforms.ravel())
                shape = (*shape, fanout)
                at = drawn.reshape(len(nodes), *shape)
                hops.append(at)
            found.append(tuple(hops))
        return found


def require_earlier(view: str, times: np.ndarray, before: float) -> None:
    """Refuses a view with links that are not from before the training window: they may be what is to be predicted.

    Args:
        view: its name.
        times: of its links, [e].
        before: when the training window begins.

    Raises:
        DataError: a link at that time or later.
    """
    late = np.flatnonzero(~(times < before))
    if len(late):
        raise DataError(
            f"view '{view}': {len(late)} of {len(times)} links are not from before the training window ({before:g}), "
            f"link {late[0]} is of {times[late[0]]:g}; leave them out"
        )


def check_no_labels(view: View, source_ids: np.ndarray, target_ids: np.ndarray) -> None:
    """Refuses a view that holds what is to be predicted.

    Args:
        view: of the graph.
        source_ids: of the pairs with a positive label, [m].
        target_ids: likewise.

    Raises:
        DataError: the first of these pairs that is a link of the view, in either direction.
    """
    size = len(view)
    owners = np.repeat(np.arange(size), np.diff(view.starts))
    links = owners * size + view.neighbours
    sources, targets = np.asarray(source_ids, np.int64), np.asarray(target_ids, np.int64)
    for first, second in ((sources, targets), (targets, sources)):
        hits = np.flatnonzero(np.isin(first * size + second, links))
        if len(hits):
            pair = f"({sources[hits[0]]}, {targets[hits[0]]})"
            raise DataError(
                f"view '{view.name}' holds {len(hits)} pairs that are labels, such as {pair}: build views from links "
                "before the training window, without those that labels are made of"
            )
