"""What a model is built from: where each declared field lies in a batch. Hashable, no data, no jax."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class TableLayout:
    """An embedding table.

    Attributes:
        name: key of `batch["ids"]`.
        num_rows: row 0 stands for all that is missing or out of the vocabulary; known ids have rows from 1.
        width: 0 = the model's own.
    """

    name: str
    num_rows: int
    width: int


@dataclasses.dataclass(frozen=True)
class FieldLayout:
    """Where a field lies in a batch.

    Attributes:
        name: of the field.
        part: "context", "target" or "dynamic"; "" for fields of sequences.
        kind: "ids" (columns [start, stop) of `batch["ids"][table]`) or "numbers" (of `batch["numbers"]`).
        table: of ids; "" for numbers.
        start: first column.
        stop: exclusive. One column of ids for each record, or one for each element of a sequence; numbers of a sequence
            are k for each element, all of an element together.
    """

    name: str
    part: str
    kind: str
    table: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Columns."""
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class SequenceLayout:
    """A sequence of behaviours; its mask is `batch["masks"][name]`, newest element last.

    Attributes:
        name: of the sequence.
        length: its elements.
        is_ordered: whether positions mean something.
        fields: of each element.
    """

    name: str
    length: int
    is_ordered: bool
    fields: tuple[FieldLayout, ...]


@dataclasses.dataclass(frozen=True)
class NeighbourhoodLayout:
    """Where a neighbourhood lies in a batch: columns [start, stop) of `batch["ids"][table]`, 0 = nobody.

    Hop after hop, the neighbours of a node together: the first hop has k1 columns, the second k1 k2, and so on.

    Attributes:
        name: of the neighbourhood.
        view: of the graph.
        role: of the node.
        table: of the ids.
        fanouts: k of each hop.
        own: column of the node itself.
        start: first column.
        stop: exclusive.
    """

    name: str
    view: str
    role: str
    table: str
    fanouts: tuple[int, ...]
    own: int
    start: int
    stop: int

    @property
    def hops(self) -> tuple[tuple[int, int], ...]:
        """First column of each hop, and one past its last."""
        sizes = [math.prod(self.fanouts[: i + 1]) for i in range(len(self.fanouts))]
        stops = [self.start + sum(sizes[: i + 1]) for i in range(len(sizes))]
        return tuple((stop - size, stop) for stop, size in zip(stops, sizes, strict=True))


@dataclasses.dataclass(frozen=True)
class PathLayout:
    """A path, `batch["ids"][name]`, [b, depth]: root first, 0 after its end.

    Attributes:
        name: of the path and of its table.
        role: of the node.
        depth: levels of the tree.
    """

    name: str
    role: str
    depth: int


@dataclasses.dataclass(frozen=True)
class LabelLayout:
    """A label, one column of `batch["labels"]` in the order of the layout.

    Attributes:
        name: the task.
        kind: "binary" or "regression".
        transform: that `batch["labels"]` has gone through: "" or "log1p".
        mean: of the training rows' answers, as `batch["labels"]` has them; where predictions begin.
    """

    name: str
    kind: str
    transform: str
    mean: float = 0.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """All that a batch has. The first label is the primary task.

    Attributes:
        tables: in the order in which fields name them first.
        fields: of the record itself.
        sequences: of its histories.
        labels: in the order of `batch["labels"]`.
        num_numbers: columns of `batch["numbers"]`.
        neighbourhoods: of the record's nodes.
        paths: of the record's nodes.
    """

    tables: tuple[TableLayout, ...]
    fields: tuple[FieldLayout, ...]
    sequences: tuple[SequenceLayout, ...]
    labels: tuple[LabelLayout, ...]
    num_numbers: int
    neighbourhoods: tuple[NeighbourhoodLayout, ...] = ()
    paths: tuple[PathLayout, ...] = ()

    def table(self, name: str) -> TableLayout:
        """Returns a table; KeyError for a name that is none."""
        return {table.name: table for table in self.tables}[name]

    def num_slots(self, table: str) -> int:
        """Returns the columns of `batch["ids"][table]`."""
        fields = [*self.fields, *(field for sequence in self.sequences for field in sequence.fields)]
        found = sum(field.size for field in fields if field.kind == "ids" and field.table == table)
        found += sum(of.stop - of.start for of in self.neighbourhoods if of.table == table)
        return found + sum(path.depth for path in self.paths if path.name == table)
