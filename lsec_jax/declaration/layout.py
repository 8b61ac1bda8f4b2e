"""What a model is built from: where each declared field lies in a batch. Hashable, no data, no jax."""

import dataclasses


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
    """

    tables: tuple[TableLayout, ...]
    fields: tuple[FieldLayout, ...]
    sequences: tuple[SequenceLayout, ...]
    labels: tuple[LabelLayout, ...]
    num_numbers: int

    def table(self, name: str) -> TableLayout:
        """Returns a table; KeyError for a name that is none."""
        return {table.name: table for table in self.tables}[name]

    def num_slots(self, table: str) -> int:
        """Returns the columns of `batch["ids"][table]`."""
        fields = [*self.fields, *(field for sequence in self.sequences for field in sequence.fields)]
        return sum(field.size for field in fields if field.kind == "ids" and field.table == table)
