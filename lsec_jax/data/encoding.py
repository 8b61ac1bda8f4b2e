"""Records as models read them: rows of a table of events -> ids, numbers, masks and labels of static shapes. No jax."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data import encoder_fitting as fitting
from lsec_jax.data.declared_columns import (
    Columns,
    Declared,
    RecordColumns,
    SequenceColumns,
    id_sources,
    number_sources,
)
from lsec_jax.data.declared_sources import IdSource, NumberSource
from lsec_jax.data.event_columns import Batch
from lsec_jax.data.graph_fields import graph_fields, path_rows
from lsec_jax.data.labels import Answers
from lsec_jax.data.neighbours import NO_STEP, Draw
from lsec_jax.data.normalisation import Scale
from lsec_jax.data.scenario_paths import ScenarioPaths
from lsec_jax.data.vocabularies import rows_by_hash, rows_by_vocabulary
from lsec_jax.declaration import Declaration, Table
from lsec_jax.declaration.layout import FieldLayout, LabelLayout, Layout, SequenceLayout, TableLayout
from lsec_jax.schema import DataError, LiveCommerceData

_LARGEST_ROW = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A field, where its columns lie in the packed arrays, and how its column becomes them."""

    layout: FieldLayout
    start: int
    write: Callable[[Batch], np.ndarray]


@dataclasses.dataclass(frozen=True)
class PackedRecords:
    """Reads an encoder's packed batches: what `EventBatches` takes where batches go to a device.

    Attributes:
        encoder: of the records.
    """

    encoder: "EventEncoder"

    @property
    def events(self) -> str:
        """Name of the table."""
        return self.encoder.events

    @property
    def num_rows(self) -> int:
        """Of the table."""
        return self.encoder.num_rows

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `EventEncoder.encode_packed` of rows [b]."""
        return self.encoder.encode_packed(rows)


class EventEncoder:
    """Turns rows of a table of events into batches, as a declaration says. Nothing is read before it is asked for.

    A batch of b rows is, in numpy arrays,

        {"ids": {TABLE: [b, slots] int32, 0 = missing, unknown or masked},
         "numbers": [b, n] float32, all finite,
         "masks": {SEQUENCE: [b, length] bool, True = there is a behaviour},
         "labels": [b, m] float32, NaN = not defined,
         "users": [b] int32, -1 = nobody,
         "rows": [b] int32, the number of the row in the table, modulo 2**31}

    Sequences have the newest behaviour last and are filled in front. Ids that training does not show, or too seldom,
    have row 0. Neighbours and paths are ids like those of fields; what is drawn of them depends on the `Draw` that
    `encode` takes. Where things lie: `layout`.

    Attributes:
        declaration: what batches show.
        layout: what models are built from.
        events: name of the table.
        num_rows: of the table.
    """

    def __init__(
        self,
        data: LiveCommerceData,
        declaration: Declaration,
        fitted: Mapping[str, Any] | None = None,
        key: str = "config.model.features",
        seed: int = 0,
    ):
        """Finds the columns, and learns from the training rows unless that is given.

        Args:
            data: split, with its histories.
            declaration: what to show.
            fitted: of an earlier encoder with an equal declaration; None = learn it.
            key: of the declaration, for messages.
            seed: of neighbours and of paths that end early.

        Raises:
            ConfigError: a declaration that the data cannot fill, or another one's `fitted`.
            DataError: a table, role, column, feature or history that is not there; no training rows.
        """
        declaration.validate(key)
        self.declaration, self._key, self._seed = declaration, key, seed
        self._read(data, declaration)
        fields = [declared for of in self._readers for declared in of.fields]
        tables = _tables(declaration, fields, key)
        with_vocabulary = {name: table for name, table in tables.items() if not table.buckets}
        if fitted is None:
            learned = fitting.fit(data, declaration, self._records, self._sequences, with_vocabulary, self._answers)
            learned = dataclasses.replace(learned, paths={of.declared.name: of.learned() for of in self._paths})
        else:
            numbers = [declared for declared, _ in number_sources(fields)]
            names = [path.name for path in declaration.paths]
            learned = fitting.from_json(fitted, list(with_vocabulary), numbers, names)
        self._learned = learned
        self._lookups = {
            declared.name: rows_by_hash(source.external, tables[declared.table].buckets)
            if declared.table not in with_vocabulary
            else rows_by_vocabulary(source.external, learned.vocabularies[declared.table])
            for declared, source in id_sources(fields)
        }
        self._use_graphs()
        self._place(declaration, tables, learned)

    def _read(self, data: LiveCommerceData, declaration: Declaration, earlier: "EventEncoder | None" = None) -> None:
        """Finds the columns; what `earlier`, an encoder with the same nodes, has checked is not checked again."""
        events = data.events_of(declaration.events)
        events.ids(declaration.target)
        self.events, self.num_rows = events.name, len(events)
        self._users = np.ascontiguousarray(events.ids(declaration.user))
        self._answers = Answers(events, declaration, self._key)
        known = [None] * len(declaration.sequences) if earlier is None else earlier._sequences
        self._records = RecordColumns(data, declaration, self._key, has_known_nodes=earlier is not None)
        self._sequences: list[SequenceColumns] = [
            SequenceColumns(data, declaration, i, self._key, of) for i, of in enumerate(known)
        ]
        self._readers: list[Columns] = [self._records, *self._sequences]
        self._neighbours, self._paths = graph_fields(data, declaration, self._key, self._records)
        self._nodes = data.nodes

    def _use_graphs(self, earlier: "EventEncoder | None" = None) -> None:
        """Gives neighbours and paths what was learned."""
        for neighbours in self._neighbours:
            neighbours.use(self._lookups[neighbours.field], self._seed)
        known = [None] * len(self._paths) if earlier is None else earlier._paths
        for path, of in zip(self._paths, known, strict=True):
            path.use(self._learned.paths[path.declared.name], self._seed, of)

    def reading(self, data: LiveCommerceData, events: str) -> "EventEncoder":
        """Returns an encoder of another table of events with the same columns, that has learned the same.

        Cheaper than a new one with `fitted`, as no id is looked up again.

        Args:
            data: with the nodes of this encoder's, the very same ones; others may have other internal indices.
            events: name of the table, e.g. that of `CandidateEvents`.

        Raises:
            DataError, ConfigError: as of a new encoder, or other nodes.
        """
        if any(data.nodes.get(name) is not table for name, table in self._nodes.items()):
            raise DataError("these data have other nodes than the encoder's; make a new encoder with its `fitted`")
        other = copy.copy(self)
        other._read(data, dataclasses.replace(self.declaration, events=events), earlier=self)
        other._use_graphs(earlier=self)
        return other

    def __call__(self, rows: np.ndarray) -> Batch:
        """Returns the batch of rows [b] int64."""
        return self.encode(rows)

    @property
    def packed(self) -> PackedRecords:
        """What reads packed batches of the same records."""
        return PackedRecords(self)

    def encode(self, rows: np.ndarray, draw: Draw | None = None) -> Batch:
        """Returns the batch of rows [b] int64, in their order; rows may repeat.

        Args:
            rows: numbers in the table.
            draw: of a training step; None = of rows that are only scored.
        """
        return self.unpack(self.encode_packed(rows, draw))

    def encode_packed(self, rows: np.ndarray, draw: Draw | None = None) -> dict[str, np.ndarray]:
        """Returns the batch in one array per dtype, [b, columns], which is cheaper to put on a device; see `unpack`."""
        draw = Draw(NO_STEP, rows) if draw is None else draw
        ints = np.empty((len(rows), self._num_ints), np.int32)
        floats = np.empty((len(rows), self._num_floats), np.float32)
        masks = np.empty((len(rows), self._num_masks), bool)
        batch = self._records(rows)
        for placed in self._record_fields:
            _write(placed, placed.write(batch), ints, floats)
        start = 0
        for sequence, fields in zip(self._sequences, self._sequence_fields, strict=True):
            batch = sequence(rows)
            is_there = batch["histories"]["items"] >= 0
            stop = start + is_there.shape[1]
            masks[:, start:stop] = is_there
            start = stop
            for placed in fields:
                found = placed.write(batch)
                if placed.layout.kind == "numbers":
                    found[~is_there.reshape(-1)] = 0.0
                _write(placed, found, ints, floats)
        for neighbours, (start, stop) in zip(self._neighbours, self._neighbour_columns, strict=True):
            ints[:, start:stop] = neighbours(rows, draw)
        for path in self._paths:
            start, stop = self._slots[path.declared.name]
            ints[:, start:stop] = path(rows, draw)
        ints[:, -2] = self._users.take(rows)
        ints[:, -1] = rows & _LARGEST_ROW
        floats[:, self.layout.num_numbers :] = self._answers(rows)
        return {"int32": ints, "float32": floats, "bool": masks}

    def unpack(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the batch of packed arrays; for numpy and jax arrays, also in a jitted function."""
        ints, floats, bools = packed["int32"], packed["float32"], packed["bool"]
        masks, start = {}, 0
        for sequence in self.layout.sequences:
            masks[sequence.name] = bools[:, start : start + sequence.length]
            start += sequence.length
        return {
            "ids": {name: ints[:, start:stop] for name, (start, stop) in self._slots.items()},
            "numbers": floats[:, : self.layout.num_numbers],
            "masks": masks,
            "labels": floats[:, self.layout.num_numbers :],
            "users": ints[:, -2],
            "rows": ints[:, -1],
        }

    @property
    def fitted(self) -> dict[str, Any]:
        """What was learned of the training rows, for JSON; another encoder takes it, for other data too."""
        return self._learned.to_json()

    def answers(self, rows: np.ndarray) -> np.ndarray:
        """Returns the labels of rows [b], [b, labels] float32 with NaN, without reading anything else."""
        return self._answers(rows)

    def table_ids(self) -> dict[str, np.ndarray]:
        """Returns the external ids behind the rows from 1 on of each table; of hashed ids, the numbers of the rows."""
        known = self._learned.vocabularies
        known = {**known, **path_rows(self._paths)}
        return {of.name: known[of.name] if of.name in known else np.arange(1, of.num_rows) for of in self.layout.tables}

    def rows_of_nodes(self, field: str) -> np.ndarray:
        """The row of its table for each node that an id field of the records may name, by index, [n] int32."""
        source = next(source for declared, source in id_sources(self._records.fields) if declared.name == field)
        return source.rows_of_column(self._lookups[field])[:-1]

    @property
    def scenario_paths(self) -> dict[str, ScenarioPaths]:
        """All paths by name of the declared path: of every node of its type, by index."""
        return {of.declared.name: of.paths for of in self._paths}

    def unknown(self, rows: np.ndarray) -> dict[str, int]:
        """Counts the ids of rows [b] that have row 0 though they are there, by field (of sequences SEQUENCE.FIELD)."""
        found = {}
        for of in self._readers:
            batch = of(rows)
            for declared, source in id_sources(of.fields):
                codes = source.codes_of(batch)
                found[declared.name] = int(((codes >= 0) & (self._lookups[declared.name].take(codes) == 0)).sum())
        return found

    def _place(self, declaration: Declaration, tables: Mapping[str, Table], learned: fitting.Fitted) -> None:
        """Decides where everything lies."""
        slots = dict.fromkeys(tables, 0)
        numbers = 0

        def layout_of(declared: Declared, elements: int) -> FieldLayout:
            nonlocal numbers
            field, source = declared.field, declared.source
            if isinstance(source, IdSource):
                start = slots[declared.table]
                slots[declared.table] += elements
                return FieldLayout(field.name, field.part, "ids", declared.table, start, start + elements)
            start = numbers
            numbers += elements * (1 if source.is_flag else source.size + 1)
            return FieldLayout(field.name, field.part, "numbers", "", start, numbers)

        records = [layout_of(declared, 1) for declared in self._records.fields]
        inside = [[layout_of(field, of.declared.length) for field in of.fields] for of in self._sequences]
        neighbourhoods = []
        for neighbours in self._neighbours:
            placed = neighbours.place(records, slots[neighbours.declared.table])
            slots[placed.table] = placed.stop
            neighbourhoods.append(placed)
        rows = {name: 1 + (table.buckets or len(learned.vocabularies[name])) for name, table in tables.items()}
        self.layout = Layout(
            (
                *(TableLayout(name, rows[name], table.width) for name, table in tables.items()),
                *(TableLayout(of.declared.name, of.paths.num_rows, of.declared.width) for of in self._paths),
            ),
            tuple(records),
            tuple(
                SequenceLayout(of.declared.name, of.declared.length, of.declared.is_ordered, tuple(fields))
                for of, fields in zip(self._sequences, inside, strict=True)
            ),
            tuple(
                LabelLayout(of.name, of.kind, of.transform, learned.label_means[of.name]) for of in declaration.labels
            ),
            numbers,
            tuple(neighbourhoods),
            tuple(path.layout() for path in self._paths),
        )
        slots |= {path.name: path.depth for path in self.layout.paths}
        stops = np.cumsum([*slots.values()], dtype=int).tolist()
        self._slots = {name: (stop - slots[name], stop) for name, stop in zip(slots, stops, strict=True)}
        self._neighbour_columns = [
            (self._slots[of.table][0] + of.start, self._slots[of.table][0] + of.stop) for of in neighbourhoods
        ]
        self._num_ints = sum(slots.values()) + 2  # and users and rows
        self._num_floats = numbers + len(declaration.labels)
        self._num_masks = sum(of.declared.length for of in self._sequences)
        self._record_fields = [
            self._placed(*pair, learned, is_record=True) for pair in zip(self._records.fields, records, strict=True)
        ]
        self._sequence_fields = [
            [self._placed(*pair, learned, is_record=False) for pair in zip(of.fields, fields, strict=True)]
            for of, fields in zip(self._sequences, inside, strict=True)
        ]

    def _placed(self, declared: Declared, layout: FieldLayout, learned: fitting.Fitted, is_record: bool) -> _Placed:
        source = declared.source
        kind, name = source.place
        if isinstance(source, IdSource):
            start = self._slots[declared.table][0] + layout.start
            rows = source.rows_of_column(self._lookups[declared.name])
            return _Placed(layout, start, lambda batch: rows.take(batch[kind][name]))
        if source.is_flag:
            return _Placed(layout, layout.start, lambda batch: batch[kind][name].reshape(-1, 1).astype(np.float32))
        scale = learned.scales[declared.name]
        if source.of_nodes is None:
            return _Placed(layout, layout.start, lambda batch: scale(source.values_of(batch)))
        of_nodes = _with_missing(scale, source)
        return _Placed(layout, layout.start, lambda batch: of_nodes.take(batch[kind][name].reshape(-1), axis=0))


def _write(placed: _Placed, found: np.ndarray, ints: np.ndarray, floats: np.ndarray) -> None:
    packed = ints if placed.layout.kind == "ids" else floats
    packed[:, placed.start : placed.start + placed.layout.size] = found.reshape(len(packed), placed.layout.size)


def _with_missing(scale: Scale, source: NumberSource) -> np.ndarray:
    """The scaled numbers of nodes, and of no node in the last row, [nodes + 1, d + 1]."""
    assert source.of_nodes is not None
    nobody = np.full((1, source.size), np.nan, np.float32)
    return scale(np.concatenate([source.of_nodes, nobody]))


def _tables(declaration: Declaration, fields: list[Declared], key: str) -> dict[str, Table]:
    """The tables in the order in which fields name them; raises ConfigError for two kinds of ids in one."""
    declared_tables = {table.name: table for table in declaration.tables}
    tables: dict[str, Table] = {}
    first: dict[str, tuple[str, IdSource]] = {}
    for declared, source in id_sources(fields):
        name, other = first.setdefault(declared.table, (declared.name, source))
        if other.what != source.what:
            raise ConfigError(
                f"{key}: table '{declared.table}' would have {other.what} (field '{name}') and {source.what} (field "
                f"'{declared.name}'); give each kind a table of its own"
            )
        tables[declared.table] = declared_tables.get(declared.table, Table(declared.table))
    return tables
