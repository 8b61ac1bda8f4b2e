"""A random graph whose degrees follow a power law, and how fast neighbours are drawn from it. No jax here.

Three ways to draw the neighbours of users take turns, on the same memory-mapped arrays:

- "sampler": `NeighbourSampler`, whole batches at once, as the input pipeline draws them;
- "gather": as many numbers read at random places of the same array, and nothing else: whatever draws neighbours one by
  one from it has to read as much;
- "loop": numpy's `choice` without replacement for one node after the other, of fewer users.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsec_jax.data.columns import NewColumn, in_memory
from lsec_jax.data.neighbours import Draw, NeighbourSampler
from lsec_jax.data.views import view_of
from lsec_jax.schema import View

EXPONENT = 0.6  # of the k-th user's share of the links, k ** -EXPONENT: degrees d occur as d ** -(1 + 1 / EXPONENT)
NUM_BATCHES = 8  # that differ; one repetition draws all of them


class Sizes(NamedTuple):
    """Of the graph and of what is drawn.

    Attributes:
        users: nodes.
        links: drawn; a link that is drawn again does not count, each end is the other's neighbour.
        batch_size: users whose neighbours are drawn together.
        fanouts: of each hop.
        loop_users: whose neighbours the loop draws.
    """

    users: int
    links: int
    batch_size: int
    fanouts: tuple[int, ...]
    loop_users: int

    @property
    def slots(self) -> int:
        """Places for neighbours of one user."""
        return int(np.cumprod(self.fanouts).sum())


def draw_graph(
    name: str, num_users: int, num_links: int, rng: np.random.Generator, new_column: NewColumn = in_memory
) -> View:
    """A view of mutual links; both ends of each are drawn by the power law, apart from each other.

    Args:
        name: of the view.
        num_users: nodes.
        num_links: drawn.
        rng: of the ends.
        new_column: gives the arrays to fill.
    """
    numbers = rng.permutation(num_users)
    ends = [numbers[(num_users * rng.random(num_links) ** (1 / (1 - EXPONENT))).astype(np.int64)] for _ in range(2)]
    return view_of(name, *ends, num_users, new_column=new_column)


def write_graph(folder: Path, sizes: Sizes) -> View:
    """Draws a graph into .npy files of a folder, and opens them memory-mapped."""

    def new_column(path: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{Path(path).name}.npy", mode="w+", dtype=dtype, shape=shape)

    drawn = draw_graph("links", sizes.users, sizes.links, np.random.default_rng(0), new_column)
    for array in (drawn.starts, drawn.neighbours):
        array.flush()
    columns = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("starts", "neighbours")]
    return View("links", "user", *columns)


def works(view: View, sizes: Sizes) -> dict[str, Callable[[], object]]:
    """The three ways to draw; each repetition of one draws the same."""
    rng = np.random.default_rng(1)
    users = rng.integers(0, sizes.users, (NUM_BATCHES, sizes.batch_size))
    rows = rng.integers(0, len(view.neighbours), (NUM_BATCHES, sizes.batch_size * sizes.slots))
    sampler, places = NeighbourSampler(view, sizes.fanouts, (0, 0)), np.arange(sizes.batch_size)

    def sample() -> None:
        for step, own in enumerate(users):
            sampler(own, Draw(step, places))

    def gather() -> None:
        for own in rows:
            view.neighbours[own]

    def loop() -> None:
        of_loop = np.random.default_rng(2)
        for user in users.ravel()[: sizes.loop_users]:
            draw_one_by_one(view, int(user), sizes.fanouts, of_loop)

    return {"sampler": sample, "gather": gather, "loop": loop}


def draw_one_by_one(view: View, user: int, fanouts: tuple[int, ...], rng: np.random.Generator) -> list[list[int]]:
    """Each hop's neighbours of one user, without empty places."""
    hops, at = [], [user]
    for fanout in fanouts:
        found: list[int] = []
        for node in at:
            own = view.neighbours[view.starts[node] : view.starts[node + 1]]
            found += own.tolist() if len(own) <= fanout else rng.choice(own, fanout, replace=False).tolist()
        hops.append(found)
        at = found
    return hops


def facts(view: View, sizes: Sizes) -> dict[str, Any]:
    """Of the graph, and "slots" of a repetition of each way: places for neighbours, whether there is one or not."""
    degrees = np.diff(view.starts)
    batches = NUM_BATCHES * sizes.batch_size * sizes.slots
    users = np.random.default_rng(1).integers(0, sizes.users, sizes.batch_size)
    drawn = NeighbourSampler(view, sizes.fanouts, (0, 0))(users, Draw(0, np.arange(sizes.batch_size)))
    return {
        "users": sizes.users,
        "links": len(view.neighbours) // 2,
        "neighbours": len(view.neighbours),
        "degree_percentiles": {f"p{q}": float(np.percentile(degrees, q)) for q in (50, 90, 99, 100)},
        "batch_size": sizes.batch_size,
        "fanouts": list(sizes.fanouts),
        "batches": NUM_BATCHES,
        "filled_share": float(np.mean(np.concatenate(drawn, axis=1) >= 0)),
        "slots": {"sampler": batches, "gather": batches, "loop": min(sizes.loop_users, users.size) * sizes.slots},
    }
