"""Declared features: what a model sees of one record of a table of events. Part of a model's config; no data, no jax.

Annotations here must stay real objects: `from __future__ import annotations` would break every
`--config.x.y=...` override.
"""

import dataclasses
import math
from collections.abc import Iterable

from lsec_jax.config import ConfigError, require_at_least, require_choice

PARTS = ("context", "target", "dynamic")
TRANSFORMS = ("", "log1p")
LABEL_KINDS = ("binary", "regression")
MOST_ROWS = 2**31 - 2  # of a table: their numbers are int32, and row 0 stands for what is unknown
HIDES = ("columns", "behaviours")
CLOCK = {"time.hour": 24, "time.weekday": 7}


@dataclasses.dataclass
class Table:
    """An embedding table that several fields may share: equal external ids have equal rows in all of them.

    Attributes:
        name: that fields name it by.
        width: of its rows; 0 = the model's embedding_dim.
        buckets: external ids are hashed into so many rows, the same ones in every data set; 0 = a vocabulary.
        min_count: of a vocabulary: ids that training shows less often than this share the row of unknown ids, as those
            do that it never shows. A field shows an id once for each training row, a sequence once for each behaviour
            that a training row could see; of several fields, the one that shows it most often counts.
        max_size: of a vocabulary: the most frequent ids only, of equals those that come first in the data; 0 = all.
        has_all: of a vocabulary: every id of the data has a row, whether training shows it or not, such as that of a
            user whom training shows as a neighbour only.
    """

    name: str = ""
    width: int = 0
    buckets: int = 0
    min_count: int = 0
    max_size: int = 0
    has_all: bool = False


@dataclasses.dataclass
class Field:
    """One thing that a record, or a behaviour of a sequence, shows. Its kind follows from the data.

    Ids of nodes, categorical and ordinal features and the clock are embedded. Numbers and vectors are standardised with
    mean and deviation of the training rows; a missing one is 0, and one more number is 1 where it is missing. What is
    true or false is 1 or 0.

    Attributes:
        name: one of its own.
        source: of a record: "ROLE" (the id of the node), "ROLE.FEATURE" (a feature of that node), ".COLUMN" (a feature
            or value of the event itself, which must be known before its outcome), "time.hour" or "time.weekday". Of a
            behaviour: "item" (what the history is of), "item.FEATURE", "ROLE", "ROLE.FEATURE" or "VALUE" of the
            behaviours' table, or "ages" (log1p of how long before the record it was).
        part: of a record: "context" (e_c), "target" (e_vt) or "dynamic" (e_d). Of a behaviour: "".
        table: name of a declared table; "" = one of its own, named as the field (of sequences: SEQUENCE.FIELD).
        transform: of numbers, before they are standardised: "" or "log1p".
    """

    name: str = ""
    source: str = ""
    part: str = ""
    table: str = ""
    transform: str = ""


@dataclasses.dataclass
class SequenceFields:
    """What is shown of the last behaviours before the record. Nothing of its own moment or later.

    Attributes:
        name: one of its own.
        history: name of one of config.histories.
        length: behaviours at most; the newest is last.
        fields: of each behaviour.
        is_ordered: whether positions mean something.
        known_after: value of the behaviours' table: how long after a behaviour its columns are known (`HistoryView`);
            "" = they are known with the behaviour.
        known_after_unit: units of the data set's time in one of `known_after`.
        hides: what is missing of a behaviour until then: its "columns", or the whole "behaviours".
    """

    name: str = ""
    history: str = ""
    length: int = 50
    fields: tuple[Field, ...] = ()
    is_ordered: bool = True
    known_after: str = ""
    known_after_unit: float = 1.0
    hides: str = "columns"


@dataclasses.dataclass
class Neighbourhood:
    """Neighbours of one of a record's nodes in a view, a fixed number drawn for each hop.

    A training step draws anew; rows that are only scored always get the same. Neighbours without a row in the table
    count as if they were not there.

    Attributes:
        name: one of its own.
        view: name of one of config.views.
        role: of the node, of the view's type; one of the fields shows its id in `table`.
        table: of the neighbours' ids.
        fanouts: neighbours drawn of a node, then of each of these, and so on.
    """

    name: str = ""
    view: str = ""
    role: str = "user"
    table: str = "user"
    fanouts: tuple[int, ...] = (8, 4)


@dataclasses.dataclass
class Path:
    """The path from the root of a tree to a record's node. Each node of it has a row in a table of the path's name.

    Below the deepest node that training knows, the path ends with the unknown child of that level.

    Attributes:
        name: one of its own, and of its table.
        role: of the node; the data have a tree over its type.
        hide_rate: chance of each level, below the root, that a training step takes its node for unknown; so that the
            unknown children learn. 0 leaves them as they are drawn.
        width: of the table's rows; 0 = the model's embedding_dim.
    """

    name: str = "path"
    role: str = "scenario"
    hide_rate: float = 0.1
    width: int = 0


@dataclasses.dataclass
class Label:
    """A task and what its answer is. The answer is NaN where it is not defined.

    Attributes:
        name: of the task, e.g. "stay".
        column: value of the events.
        kind: "binary" or "regression".
        transform: of regression: "" or "log1p".
        only_if: value that must be true or above 0 for the answer to be defined; "" = no such condition.
        at_least: a binary answer is positive from this number on; 0 = where the column is true or above 0.
        measured: value that says how far a positive counts, e.g. "stay_seconds"; "" = every positive counts. Of binary.
        minimum: a positive whose `measured` is below this, or missing, is none.
        is_short_left_out: its answer is then not defined, instead of negative.
    """

    name: str = ""
    column: str = ""
    kind: str = "binary"
    transform: str = ""
    only_if: str = ""
    at_least: float = 0.0
    measured: str = ""
    minimum: float = 0.0
    is_short_left_out: bool = False


@dataclasses.dataclass
class Declaration:
    """What a record of a table of events shows, and what it asks.

    Attributes:
        events: the table.
        user: role of the one who answers.
        target: role of what is ranked.
        tables: that several fields share, or that are not as by default.
        fields: of the record.
        sequences: of its histories.
        neighbourhoods: of its nodes.
        paths: of its nodes in trees.
        labels: the first one is the primary task.
        day_length: a day in the data set's unit of time, for the clock: 1 where times are days, 86400 where seconds.
    """

    events: str = "impression"
    user: str = "user"
    target: str = "room"
    tables: tuple[Table, ...] = ()
    fields: tuple[Field, ...] = ()
    sequences: tuple[SequenceFields, ...] = ()
    neighbourhoods: tuple[Neighbourhood, ...] = ()
    paths: tuple[Path, ...] = ()
    labels: tuple[Label, ...] = ()
    day_length: float = 1.0

    def validate(self, key: str = "config.model.features") -> None:
        """Checks what can be checked without data; raises ConfigError naming the key, its value and the remedy."""
        _check_names(f"{key}.tables", self.tables)
        for i, table in enumerate(self.tables):
            _check_table(f"{key}.tables[{i}]", table)
        if not self.fields:
            raise ConfigError(f"{key}.fields is empty; declare what a record shows, at least the target's id")
        _check_fields(f"{key}.fields", self.fields, self.tables, PARTS)
        _check_names(f"{key}.sequences", self.sequences)
        for i, sequence in enumerate(self.sequences):
            _check_sequence(f"{key}.sequences[{i}]", sequence, self.tables)
        _check_names(f"{key}.neighbourhoods", self.neighbourhoods)
        for i, neighbourhood in enumerate(self.neighbourhoods):
            _check_neighbourhood(f"{key}.neighbourhoods[{i}]", neighbourhood, self)
        _check_names(f"{key}.paths", self.paths)
        for i, path in enumerate(self.paths):
            _check_path(f"{key}.paths[{i}]", path, self)
        if not self.labels:
            raise ConfigError(f"{key}.labels is empty; declare the primary task's label")
        _check_names(f"{key}.labels", self.labels)
        for i, label in enumerate(self.labels):
            _check_label(f"{key}.labels[{i}]", label)
        self._check_tables_in_use(f"{key}.tables")
        if not 0 < self.day_length < math.inf:
            raise ConfigError(f"{key}.day_length = {self.day_length}; give a finite number above 0")
        self._check_leaks(f"{key}.fields")

    def all_fields(self) -> list[tuple[str, Field]]:
        """Returns (name of its default table, field) of records and sequences, in the order of batches."""
        inside = [(f"{sequence.name}.{field.name}", field) for sequence in self.sequences for field in sequence.fields]
        return [*((field.name, field) for field in self.fields), *inside]

    def _check_tables_in_use(self, key: str) -> None:
        named = {field.table for _, field in self.all_fields()}
        defaults = {default for default, field in self.all_fields() if not field.table}
        for i, table in enumerate(self.tables):
            if table.name not in named:
                raise ConfigError(f"{key}[{i}].name = '{table.name}': no field has this table; name it in one")
            if table.name in defaults:
                raise ConfigError(
                    f"{key}[{i}].name = '{table.name}' is also a field that names no table, whose own table has the "
                    "field's name; name the table in the field, or rename one of them"
                )

    def _check_leaks(self, key: str) -> None:
        """No record shows what its labels are made of."""
        asked = {column for label in self.labels for column in (label.column, label.only_if, label.measured)}
        for i, field in enumerate(self.fields):
            if field.source.startswith(".") and field.source[1:] in asked:
                raise ConfigError(
                    f"{key}[{i}].source = '{field.source}': labels are made of this column, so the field would tell "
                    "the answer; leave it out"
                )


def _check_names(key: str, of: Iterable[Table | Field | SequenceFields | Neighbourhood | Path | Label]) -> None:
    taken: set[str] = set()
    for i, entry in enumerate(of):
        if not entry.name or entry.name in taken or "." in entry.name:
            raise ConfigError(f"{key}[{i}].name = {entry.name!r}: give each a name of its own, without dots")
        taken.add(entry.name)


def _check_table(key: str, table: Table) -> None:
    for name in ("width", "buckets", "min_count", "max_size"):
        require_at_least(f"{key}.{name}", getattr(table, name), 0)
    for name in ("buckets", "max_size"):
        if getattr(table, name) >= MOST_ROWS:
            raise ConfigError(f"{key}.{name} = {getattr(table, name)}: rows have numbers below {MOST_ROWS}")
    if table.buckets and (table.min_count or table.max_size):
        raise ConfigError(
            f"{key}.buckets = {table.buckets}: hashed ids have no vocabulary; leave min_count and max_size at 0"
        )
    if table.has_all and (table.buckets or table.min_count or table.max_size):
        raise ConfigError(
            f"{key}.has_all: every id has a row of its own then; leave buckets, min_count and max_size at 0"
        )


def _check_fields(key: str, fields: tuple[Field, ...], tables: tuple[Table, ...], parts: tuple[str, ...]) -> None:
    _check_names(key, fields)
    names = [table.name for table in tables]
    for i, field in enumerate(fields):
        if not field.source:
            raise ConfigError(f"{key}[{i}].source of '{field.name}' is empty; say what it shows, e.g. 'room'")
        require_choice(f"{key}[{i}].part", field.part, parts)
        require_choice(f"{key}[{i}].transform", field.transform, TRANSFORMS)
        if field.table and field.table not in names:
            raise ConfigError(
                f"{key}[{i}].table = '{field.table}' is not declared; there are: {', '.join(names) or 'none'}"
            )


def _check_sequence(key: str, sequence: SequenceFields, tables: tuple[Table, ...]) -> None:
    if not sequence.history:
        raise ConfigError(f"{key}.history is empty; name one of config.histories")
    require_at_least(f"{key}.length", sequence.length, 1)
    if not sequence.fields:
        raise ConfigError(f"{key}.fields is empty; declare what a behaviour shows, e.g. its 'item'")
    _check_fields(f"{key}.fields", sequence.fields, tables, ("",))
    require_choice(f"{key}.hides", sequence.hides, HIDES)
    if sequence.hides == "behaviours" and not sequence.known_after:
        raise ConfigError(f"{key}.hides = 'behaviours': nothing is hidden without known_after; name it")


def _check_neighbourhood(key: str, of: Neighbourhood, declaration: Declaration) -> None:
    if not of.view:
        raise ConfigError(f"{key}.view is empty; name one of config.views")
    if not of.fanouts or min(of.fanouts) < 1:
        raise ConfigError(f"{key}.fanouts = {of.fanouts}: give at least one number of neighbours of at least 1")
    if not any(field.source == of.role and (field.table or field.name) == of.table for field in declaration.fields):
        raise ConfigError(
            f"{key}.table = '{of.table}': no field shows the id of '{of.role}' in this table; declare one, such as "
            f"Field('{of.role}_id', '{of.role}', 'context', table='{of.table}')"
        )


def _check_path(key: str, path: Path, declaration: Declaration) -> None:
    if not path.role:
        raise ConfigError(f"{key}.role is empty; name the role of the node, e.g. 'scenario'")
    if not 0 <= path.hide_rate < 1:
        raise ConfigError(f"{key}.hide_rate = {path.hide_rate}; give a chance in [0, 1)")
    require_at_least(f"{key}.width", path.width, 0)
    tables = {*(table.name for table in declaration.tables)}
    tables |= {field.table or default for default, field in declaration.all_fields()}
    if path.name in tables:
        raise ConfigError(f"{key}.name = '{path.name}' is a table already, and a path has its own; rename it")


def _check_label(key: str, label: Label) -> None:
    if not label.column:
        raise ConfigError(f"{key}.column is empty; name a value of the events")
    require_choice(f"{key}.kind", label.kind, LABEL_KINDS)
    require_choice(f"{key}.transform", label.transform, TRANSFORMS)
    require_at_least(f"{key}.at_least", label.at_least, 0)
    if label.kind == "binary" and label.transform:
        raise ConfigError(f"{key}.transform = '{label.transform}': a binary answer is 0 or 1; leave it out")
    if label.kind == "regression" and (label.at_least or label.measured):
        raise ConfigError(f"{key}: at_least and measured are for binary answers; leave them out")
    if not math.isfinite(label.minimum):
        raise ConfigError(f"{key}.minimum = {label.minimum}; give a finite number")
    if not label.measured and (label.minimum or label.is_short_left_out):
        raise ConfigError(f"{key}.minimum and is_short_left_out are for a measured column; name it in {key}.measured")
