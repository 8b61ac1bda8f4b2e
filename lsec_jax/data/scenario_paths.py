"""Paths through a tree of scenarios as rows of an embedding table, whether training knows them or not. No jax."""

import dataclasses

import numpy as np

from lsec_jax.schema import DataError, Tree

PADDING = 0  # after the end of a path


@dataclasses.dataclass(frozen=True)
class ScenarioPaths:
    """Where each scenario's path lies in the table that all paths share.

    Row 0 is the padding's, rows 1 to n the tree's nodes', row n + 1 + l that of an unknown child at level l.

    Attributes:
        rows: from the root to each node, [n, depth] int32, PADDING after the end of a path.
        unknown: row of the unknown child of each level, [depth] int32.
        has_roots: whether there are several roots, so that one may be unknown.
        num_nodes: n, of the tree that the table was made for.
    """

    rows: np.ndarray
    unknown: np.ndarray
    has_roots: bool
    num_nodes: int

    @property
    def num_rows(self) -> int:
        """Of the embedding table."""
        return 1 + self.num_nodes + len(self.unknown)

    @property
    def depth(self) -> int:
        """Levels."""
        return len(self.unknown)

    def of(self, scenarios: np.ndarray) -> np.ndarray:
        """Paths of scenarios [b], -1 = no scenario at all, whose path is empty: [b, depth] int32."""
        return np.where(scenarios[:, None] >= 0, self.rows[scenarios], np.int32(PADDING))


@dataclasses.dataclass(frozen=True)
class TableForm:
    """The form of a table that was made for an earlier tree.

    Attributes:
        rows: of each node of this tree, [n] int32, 0 = the earlier one did not have it.
        num_nodes: of the earlier tree.
        depth: its levels.
    """

    rows: np.ndarray
    num_nodes: int
    depth: int


def scenario_paths(tree: Tree, trained: np.ndarray, form: TableForm | None = None) -> ScenarioPaths:
    """Finds all paths.

    What training knows are the scenarios that it shows and all above them, and a single root. The path of another one
    ends, after its deepest known ancestor, with the unknown child of the next level.

    Args:
        tree: of the scenarios.
        trained: indices of the scenarios that training shows, in any order, with repetitions; -1 for none.
        form: of the table; None = that of this tree. A path that is longer than the earlier tree was deep ends there.

    Raises:
        DataError: no nodes, or an index that is none of the tree.
    """
    num_nodes = len(tree.parents)
    if num_nodes == 0:
        raise DataError("a tree of scenarios without nodes; give it at least a root")
    trained = np.unique(trained)
    if len(trained) and not (-1 <= trained[0] and trained[-1] < num_nodes):
        bad = trained[0] if trained[0] < -1 else trained[-1]
        raise DataError(f"scenario {bad} is none of the tree's {num_nodes} nodes; list it in the tree")
    paths = tree.paths()
    own = TableForm(np.arange(1, num_nodes + 1, dtype=np.int32), num_nodes, paths.shape[1])
    form = own if form is None else form
    num_spare = max(form.depth - paths.shape[1], 0)
    paths = np.concatenate([paths, np.full((num_nodes, num_spare), -1, paths.dtype)], axis=1)[:, : form.depth]
    is_known = np.zeros(num_nodes + 1, bool)  # the last one stands for the padding
    is_known[paths[trained[trained >= 0]]] = True
    roots = np.flatnonzero(tree.parents < 0)
    is_known[roots] |= len(roots) == 1
    is_known[:-1] &= form.rows > 0
    is_known[-1] = False
    known = is_known[paths]
    unknown = (1 + form.num_nodes + np.arange(form.depth)).astype(np.int32)
    # An ancestor of a known node is known: the first unknown level of a path is as deep as it is known.
    known = np.logical_and.accumulate(known, axis=1)
    first_unknown = known.sum(axis=1)
    ends_early = first_unknown < (paths >= 0).sum(axis=1)
    rows = np.where(known, np.append(form.rows, 0)[paths], PADDING).astype(np.int32)
    early = np.flatnonzero(ends_early)
    rows[early, first_unknown[early]] = unknown[first_unknown[early]]
    return ScenarioPaths(rows, unknown, len(roots) > 1, form.num_nodes)


def hide_children(rows: np.ndarray, unknown: np.ndarray, is_drawn: np.ndarray) -> np.ndarray:
    """Ends some paths early with the unknown child of a level, so that its embedding is learned.

    A path is cut at the first level that is drawn: below an unknown node nothing is known.

    Args:
        rows: of the paths, [b, depth], PADDING at the end.
        unknown: row of the unknown child of each level, [depth].
        is_drawn: where a path is cut, [b, depth] bool; the padding does not count.

    Returns:
        [b, depth] int32.
    """
    is_hidden = is_drawn & (rows != PADDING)
    so_far = np.cumsum(is_hidden, axis=1)
    first = is_hidden & (so_far == 1)
    return np.where(first, unknown[None], np.where(so_far > 0, np.int32(PADDING), rows)).astype(np.int32)
