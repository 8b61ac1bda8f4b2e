"""What is wrong with node tables, and with the trees and windows of their nodes."""

from collections.abc import Iterator, Mapping

import numpy as np

from lsec_jax.schema.blocks import blocks
from lsec_jax.schema.tables import Availability, NodeTable, Tree
from lsec_jax.schema.validation.problems import (
    INDEX,
    NO_ROWS,
    Problem,
    form_problem,
    place_of,
    repeated,
    size_of,
    wrong_features,
    wrong_names,
    wrong_rows,
)
from lsec_jax.schema.views import View


def node_problems(table: NodeTable) -> Iterator[Problem]:
    """Ids that are none or not unique, and wrong features."""
    place, ids = place_of(table), table.ids
    yield from wrong_names(place, table.features)
    dtypes = [ids.dtype if isinstance(ids, np.ndarray) and ids.dtype.kind == "U" else np.int64]
    if text := form_problem(ids, dtypes, (None,), "ids are one column of int64 or of text"):
        yield Problem(place, "ids", NO_ROWS, text)
    else:
        twice = repeated(ids)
        yield from wrong_rows(
            place, "ids", twice, lambda row: f"the id {ids[row]} is there already; ids must be unique"
        )
    yield from wrong_features(place, table.features, size_of(ids))


def tree_problems(name: str, tree: Tree, nodes: Mapping[str, NodeTable]) -> Iterator[Problem]:
    """Parents that do not stand before their children."""
    place, parents = f"tree of '{name}'", tree.parents
    if name not in nodes:
        yield Problem(place, "", NO_ROWS, f"no such node table (tables: {', '.join(sorted(nodes))})")
        return
    size = size_of(nodes[name].ids)
    if text := form_problem(parents, [INDEX], (size,), f"but there are {size} nodes, with an int32 index each"):
        yield Problem(place, "parents", NO_ROWS, text)
        return
    bad = np.flatnonzero((parents < -1) | (parents >= np.arange(len(parents))))
    rule = "a parent stands before its children, a root has -1"
    yield from wrong_rows(place, "parents", bad, lambda row: f"parent {parents[row]}; {rule}")


def view_problems(of: View, nodes: Mapping[str, NodeTable]) -> Iterator[Problem]:
    """Rows that are none of the nodes', and neighbours that are no nodes or stand in no order."""
    place = f"view '{of.name}'"
    if of.node_type not in nodes:
        yield Problem(place, "", NO_ROWS, f"no such node table (tables: {', '.join(sorted(nodes))})")
        return
    size = size_of(nodes[of.node_type].ids)
    if size is None:  # said of the nodes
        return
    rule = f"give one int64 for each of the {size} nodes, and one more"
    if text := form_problem(of.starts, [np.int64], (size + 1,), rule):
        yield Problem(place, "starts", NO_ROWS, text)
        return
    if of.neighbours.dtype != np.int32 or of.neighbours.ndim != 1:
        yield Problem(place, "neighbours", NO_ROWS, "give one int32 for each link")
        return
    total = len(of.neighbours)
    falls = np.flatnonzero(np.diff(of.starts, prepend=0) < 0)
    yield from wrong_rows(place, "starts", falls, lambda row: f"{of.starts[row]} is below the one before it")
    if of.starts[0] != 0 or of.starts[-1] != total or len(falls):
        yield Problem(place, "starts", NO_ROWS, f"goes from {of.starts[0]} to {of.starts[-1]}, not from 0 to {total}")
        return
    for block in blocks(total):
        start, stop, _ = block.indices(total)
        found = np.asarray(of.neighbours[start:stop]).astype(np.int64)
        outside = np.flatnonzero((found < 0) | (found >= size)) + start
        yield from wrong_rows(
            place, "neighbours", outside, lambda row: f"node {of.neighbours[row]} is none of the {size} nodes"
        )
        is_first = np.zeros(len(found), bool)
        is_first[of.starts[(of.starts >= start) & (of.starts < stop)] - start] = True
        before = np.append(of.neighbours[start - 1] if start else -1, found[:-1])
        falling = np.flatnonzero(~is_first & (found <= before)) + start
        yield from wrong_rows(
            place, "neighbours", falling, lambda row: f"{of.neighbours[row]} is not above the one before it in its row"
        )


def availability_problems(name: str, of: Availability, nodes: Mapping[str, NodeTable]) -> Iterator[Problem]:
    """Windows that are empty or no windows of the nodes."""
    place = f"availability of '{name}'"
    if name not in nodes:
        yield Problem(place, "", NO_ROWS, f"no such node table (tables: {', '.join(sorted(nodes))})")
        return
    size = size_of(nodes[name].ids)
    columns = {"start": of.start, "end": of.end}
    rule = f"give one float64 for each of the {size} nodes"
    problems = {column: form_problem(values, [np.float64], (size,), rule) for column, values in columns.items()}
    yield from (Problem(place, column, NO_ROWS, text) for column, text in problems.items() if text)
    if any(problems.values()):
        return
    yield from wrong_rows(
        place,
        "start",
        np.flatnonzero(~(of.start < of.end)),  # also NaN
        lambda row: (
            f"{name} {nodes[name].ids[row]}: start {of.start[row]}, end {of.end[row]}; "
            "the start must lie before the end"
        ),
    )
