"""What records show of graphs and trees: neighbours drawn from views, and paths from the root. No jax."""

import zlib
from collections.abc import Mapping

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.declared_columns import RecordColumns, id_sources
from lsec_jax.data.encoder_fitting import LearnedPath
from lsec_jax.data.neighbours import NO_STEP, Draw, NeighbourSampler, uniforms
from lsec_jax.data.scenario_paths import ScenarioPaths, TableForm, hide_children, scenario_paths
from lsec_jax.data.splits import event_rows
from lsec_jax.declaration import Declaration, Neighbourhood, Path
from lsec_jax.declaration.layout import FieldLayout, NeighbourhoodLayout, PathLayout
from lsec_jax.schema import TRAIN, LiveCommerceData, NodeTable
from lsec_jax.schema.blocks import blocks

UNKNOWN_CHILD = "unknown child"


class NeighbourColumns:
    """Draws the neighbours of one of the records' roles, as rows of a table."""

    def __init__(
        self, data: LiveCommerceData, declaration: Declaration, of: Neighbourhood, key: str, records: RecordColumns
    ):
        """Finds the view; raises ConfigError or DataError naming what is not there or not of the view's type."""
        events = data.events_of(declaration.events)
        self.declared, self._view = of, data.view_of(of.view)
        self._nodes = events.ids(of.role)
        node_type = events.nodes[of.role].node_type
        if node_type != self._view.node_type:
            raise ConfigError(
                f"{key}.role = '{of.role}' is of type {node_type}, but the view '{of.view}' is of "
                f"{self._view.node_type}; name a role of that type"
            )
        sources = {declared.name: source for declared, source in id_sources(records.fields)}
        self.field = next(
            field.name
            for field in declaration.fields
            if field.source == of.role and (field.table or field.name) == of.table
        )
        self._own = sources[self.field]
        self._key = zlib.crc32(of.view.encode())

    def place(self, records: list[FieldLayout], start: int) -> NeighbourhoodLayout:
        """Returns where the neighbours lie from a column of the table on."""
        of = self.declared
        own = next(field.start for field in records if field.name == self.field)
        size = sum(int(np.prod(of.fanouts[: i + 1])) for i in range(len(of.fanouts)))
        return NeighbourhoodLayout(of.name, of.view, of.role, of.table, tuple(of.fanouts), own, start, start + size)

    def use(self, lookups: np.ndarray, seed: int) -> None:
        """Takes the table's row of each id of the own field, with a last one for -1, and the seed of all draws."""
        self._rows = self._own.rows_of_column(lookups)
        self._sampler = NeighbourSampler(self._view, tuple(self.declared.fanouts), (seed, self._key))

    def __call__(self, rows: np.ndarray, draw: Draw) -> np.ndarray:
        """Returns the neighbours' rows of the table for rows [b], [b, all hops] int32."""
        nodes = np.asarray(self._nodes.take(rows))
        if draw.step == NO_STEP:  # of a node always the same, whatever the row and the role
            draw = Draw(NO_STEP, nodes)
        return self._rows[np.concatenate(self._sampler(nodes, draw), axis=1)]


class PathColumns:
    """Reads the paths of one of the records' roles."""

    def __init__(self, data: LiveCommerceData, declaration: Declaration, of: Path):
        """Finds the tree; raises DataError naming a role or tree that is not there."""
        events = data.events_of(declaration.events)
        self.declared, self._events, self._nodes = of, events, events.ids(of.role)
        node_type = events.nodes[of.role].node_type
        self._tree, self._table, self._data = data.tree_of(node_type), data.nodes[node_type], data

    def learned(self) -> LearnedPath:
        """The tree's nodes, and those that training shows."""
        return LearnedPath(self._table.ids, self._trained(), self._tree.paths().shape[1])

    def _trained(self) -> np.ndarray:
        rows = event_rows(self._data, self._events, TRAIN)
        is_shown = np.zeros(len(self._table) + 1, bool)  # the last one is nobody's
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self._events))
            for block in blocks(stop - start):
                is_shown[self._nodes[start + block.start : start + block.stop]] = True
        else:
            for block in blocks(len(rows)):
                is_shown[self._nodes[rows[block]]] = True
        return self._table.ids[is_shown[:-1]]

    def use(self, learned: LearnedPath, seed: int, earlier: "PathColumns | None" = None) -> None:
        """Takes what was learned, the seed of all draws, and who has the paths of the same tree already."""
        self._learned = learned
        if earlier is not None and earlier._tree is self._tree:
            self.paths: ScenarioPaths = earlier.paths
        else:
            trained = self._table.index_of(learned.trained)
            rows = NodeTable("", learned.nodes).index_of(self._table.ids) + 1
            form = TableForm(rows.astype(np.int32), len(learned.nodes), learned.depth)
            self.paths = scenario_paths(self._tree, trained[trained >= 0], form)
        self._key = seed, zlib.crc32(self.declared.name.encode())
        # Nothing stands above the roots: where there is one only, it is never unknown.
        self._can_hide = np.arange(self.paths.depth) >= (0 if self.paths.has_roots else 1)

    def row_ids(self) -> np.ndarray:
        """What the rows of the table from 1 on stand for, text."""
        unknown = [f"{UNKNOWN_CHILD} of level {level}" for level in range(self.paths.depth)]
        return np.concatenate([self._learned.nodes.astype(np.str_), np.array(unknown, np.str_)])

    def layout(self) -> PathLayout:
        """Returns what models are built from."""
        return PathLayout(self.declared.name, self.declared.role, self.paths.depth)

    def __call__(self, rows: np.ndarray, draw: Draw) -> np.ndarray:
        """Returns the paths of rows [b] as rows of the table, [b, depth] int32; some end early in training."""
        found = self.paths.of(np.asarray(self._nodes.take(rows)))
        if draw.step == NO_STEP or not self.declared.hide_rate:
            return found
        numbers = uniforms((*self._key, draw.step), draw.places, found.shape[1])
        return hide_children(found, self.paths.unknown, (numbers < self.declared.hide_rate) & self._can_hide)


def graph_fields(
    data: LiveCommerceData, declaration: Declaration, key: str, records: RecordColumns
) -> tuple[list[NeighbourColumns], list[PathColumns]]:
    """Finds what a declaration shows of graphs and trees; arguments and errors as those of `EventEncoder`."""
    neighbours = [
        NeighbourColumns(data, declaration, of, f"{key}.neighbourhoods[{i}]", records)
        for i, of in enumerate(declaration.neighbourhoods)
    ]
    return neighbours, [PathColumns(data, declaration, of) for of in declaration.paths]


def path_rows(paths: list[PathColumns]) -> Mapping[str, np.ndarray]:
    """What the rows from 1 on of each path's table stand for."""
    return {of.declared.name: of.row_ids() for of in paths}
