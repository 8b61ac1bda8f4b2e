"""What is wrong with node tables, and with the trees and windows of their nodes."""

from collections.abc import Iterator, Mapping

import numpy as np

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
