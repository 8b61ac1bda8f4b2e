"""Paths of scenarios that training knows, and of others."""

import numpy as np
import pytest

from lsec_jax.data.scenario_paths import PADDING, hide_children, scenario_paths
from lsec_jax.schema import DataError, Tree

#      0
#   1     2
#  3 4   5
#  6
TREE = Tree(np.array([-1, 0, 0, 1, 1, 2, 3], np.int32))


def slow_paths(tree, trained):
    """By going up from each node."""
    num_nodes = len(tree.parents)

    def above(node):
        return [] if node < 0 else [*above(tree.parents[node]), node]

    known = {node for scenario in trained if scenario >= 0 for node in above(scenario)}
    roots = [node for node in range(num_nodes) if tree.parents[node] < 0]
    known |= {*roots} if len(roots) == 1 else set()
    depth = max(len(above(node)) for node in range(num_nodes))
    found = np.full((num_nodes, depth), PADDING)
    for node in range(num_nodes):
        for level, of in enumerate(above(node)):
            found[node, level] = 1 + of if of in known else 1 + num_nodes + level
            if of not in known:
                break
    return found


@pytest.mark.parametrize("trained", [[6, 4, 5], [4], [6, -1, 6], [2], [], [-1]])
def test_paths_end_with_an_unknown_child_after_the_deepest_known_ancestor(trained):
    found = scenario_paths(TREE, np.array(trained, np.int64))
    np.testing.assert_array_equal(found.rows, slow_paths(TREE, trained))
    assert found.depth == 4 and found.num_rows == 12 and found.unknown.tolist() == [8, 9, 10, 11]


def test_random_ragged_trees():
    rng = np.random.default_rng(0)
    for _ in range(30):
        size = rng.integers(1, 40)
        parents = np.array([rng.integers(-1, node) if node else -1 for node in range(size)], np.int32)
        trained = rng.integers(-1, size, rng.integers(0, 10))
        found = scenario_paths(Tree(parents), trained)
        np.testing.assert_array_equal(found.rows, slow_paths(Tree(parents), trained))
        assert found.has_roots == ((parents < 0).sum() > 1)


def test_no_scenario_has_an_empty_path():
    found = scenario_paths(TREE, np.array([6]))
    np.testing.assert_array_equal(found.of(np.array([-1, 6])), [[PADDING] * 4, found.rows[6]])


@pytest.mark.parametrize("trained", [[7], [-2]])
def test_scenarios_that_are_not_in_the_tree_are_refused(trained):
    with pytest.raises(DataError, match=f"scenario {trained[0]} is none of the tree's 7 nodes"):
        scenario_paths(TREE, np.array(trained))
    with pytest.raises(DataError, match="without nodes"):
        scenario_paths(Tree(np.zeros(0, np.int32)), np.zeros(0, np.int64))


def test_hidden_children_cut_the_path_where_they_are():
    rng, rows = np.random.default_rng(0), np.tile(np.array([[1, 3, 5, 0]], np.int32), (4000, 1))
    unknown = np.array([10, 11, 12, 13], np.int32)
    is_drawn = rng.random(rows.shape) < 0.1
    is_drawn[:, 0] = False
    found = hide_children(rows, unknown, is_drawn)
    assert found.dtype == np.int32
    for path, row, drawn in zip(found, rows, is_drawn, strict=True):
        cut = next((level for level in range(4) if drawn[level] and row[level]), None)
        wanted = row if cut is None else [*row[:cut], unknown[cut], *[PADDING] * (3 - cut)]
        assert path.tolist() == list(wanted)
    np.testing.assert_array_equal(hide_children(rows, unknown, np.zeros_like(is_drawn)), rows)
