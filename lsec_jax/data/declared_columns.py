"""Reads what declared fields are made of: columns of records, and of the behaviours before them. No jax."""

import dataclasses

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.declared_sources import (
    IdSource,
    NumberSource,
    Source,
    behaviour_source,
    check_logarithm,
    record_source,
)
from lsec_jax.data.event_columns import Batch, EventColumns, HistoryView
from lsec_jax.declaration import CLOCK, Declaration, Field, SequenceFields
from lsec_jax.schema import Events, LiveCommerceData

_SECONDS_PER_DAY = 86400.0
_EPOCH_WEEKDAY = 3  # 1970 began on a Thursday; Monday is 0


@dataclasses.dataclass(frozen=True)
class Declared:
    """A declared field and where it comes from.

    Attributes:
        name: of its own in the whole declaration: the field's, or SEQUENCE.FIELD.
        field: as declared.
        source: of its values.
        table: of ids; "" for numbers.
    """

    name: str
    field: Field
    source: Source
    table: str


class RecordColumns:
    """Reads the columns of records' fields.

    Attributes:
        fields: in the order of the declaration.
    """

    def __init__(self, data: LiveCommerceData, declaration: Declaration, key: str, has_known_nodes: bool = False):
        """Finds the columns; arguments and errors as those of `EventEncoder`.

        With `has_known_nodes`, features of nodes are those that an encoder has checked already.
        """
        events = data.events_of(declaration.events)
        self.fields: list[Declared] = []
        for i, field in enumerate(declaration.fields):
            place = f"{key}.fields[{i}]"
            source = record_source(data, events, field, place)
            is_checked = has_known_nodes and isinstance(source, NumberSource) and source.of_nodes is not None
            self.fields.append(_declared(data, events, field.name, field, source, place, is_checked))
        named = [declared.source.place for declared in self.fields]
        by_kind = {kind: {name for of, name in named if of == kind} for kind in ("nodes", "values", "features")}
        roles, values, features = (sorted(by_kind[kind]) for kind in ("nodes", "values", "features"))
        self._columns = EventColumns(data, declaration.events, roles, values, features)
        self._clock = sorted({name for kind, name in named if kind == "clock"})
        self._times, self._day, self._has_dates = events.time, declaration.day_length, data.has_dates
        if self._clock and data.has_dates and declaration.day_length != _SECONDS_PER_DAY:
            raise ConfigError(
                f"{key}.day_length = {declaration.day_length}: times of data set '{data.name}' are dates in seconds; "
                f"give {_SECONDS_PER_DAY}"
            )

    def __call__(self, rows: np.ndarray) -> Batch:
        """Returns the columns of rows [b]."""
        batch = self._columns(rows)
        if self._clock:
            days = self._times.take(rows) / self._day
            whole = np.floor(days)
            codes = {"time.hour": np.minimum(np.floor((days - whole) * CLOCK["time.hour"]), CLOCK["time.hour"] - 1)}
            codes["time.weekday"] = np.mod(whole + _EPOCH_WEEKDAY * self._has_dates, CLOCK["time.weekday"])
            batch["clock"] = {name: codes[name].astype(np.int32) for name in self._clock}
        return batch


class SequenceColumns:
    """Reads the columns of a sequence's fields.

    Attributes:
        declared: the sequence.
        behaviours: the table that they are in.
        fields: of each behaviour, in the order of the declaration.
    """

    def __init__(
        self,
        data: LiveCommerceData,
        declaration: Declaration,
        index: int,
        key: str,
        earlier: "SequenceColumns | None" = None,
    ):
        """Finds the columns of one of the declaration's sequences; arguments and errors as `EventEncoder`.

        Numbers of behaviours that `earlier`, the same of another table, has checked are not checked again.
        """
        sequence: SequenceFields = declaration.sequences[index]
        self.declared = sequence
        histories = data.histories_of(sequence.history)
        behaviours = data.events[histories.events] if histories.events else data.events_of(declaration.events)
        self.behaviours, self.fields = behaviours, list[Declared]()
        is_checked = earlier is not None and earlier.behaviours is behaviours
        for i, field in enumerate(sequence.fields):
            place, name = f"{key}.sequences[{index}].fields[{i}]", f"{sequence.name}.{field.name}"
            source = behaviour_source(data, histories, field, place)
            self.fields.append(_declared(data, behaviours, name, field, source, place, is_checked))
        columns = {declared.source.place[1] for declared in self.fields}
        self.view = HistoryView(
            sequence.history,
            sequence.length,
            with_ages="ages" in columns,
            columns=tuple(sorted(columns - {"items", "ages"})),
            known_after=sequence.known_after,
            known_after_unit=sequence.known_after_unit,
            hides=sequence.hides,
        )
        self._columns = EventColumns(data, declaration.events, [], [], [], [self.view])

    def __call__(self, rows: np.ndarray) -> Batch:
        """Returns the columns of rows [b], each [b, length], in batch["histories"]."""
        return {"histories": self._columns(rows)["histories"][self.declared.history]}


def _declared(
    data: LiveCommerceData, table: Events, name: str, field: Field, source: Source, key: str, is_checked: bool
) -> Declared:
    """Checks that the field says nothing that its source cannot take; its numbers, unless that is done already."""
    if isinstance(source, IdSource):
        if field.transform:
            raise ConfigError(f"{key}.transform = '{field.transform}': '{field.source}' is embedded; leave it out")
        return Declared(name, field, source, field.table or name)
    if field.table:
        raise ConfigError(f"{key}.table = '{field.table}': '{field.source}' is a number, not embedded; leave it out")
    if field.transform and source.is_flag:
        raise ConfigError(f"{key}.transform = '{field.transform}': '{field.source}' is true or false; leave it out")
    if field.transform and field.source == "ages":
        raise ConfigError(
            f"{key}.transform = '{field.transform}': ages are shown by their logarithm anyway; leave it out"
        )
    if field.transform and not is_checked:
        check_logarithm(data, table, source, key)
    return Declared(name, field, source, "")


Columns = RecordColumns | SequenceColumns


def transform_of(declared: Declared) -> str:
    """The transform of a field of numbers."""
    return "log1p" if declared.field.source == "ages" else declared.field.transform


def number_sources(fields: list[Declared]) -> list[tuple[Declared, NumberSource]]:
    """The fields whose numbers are standardised."""
    return [
        (declared, declared.source)
        for declared in fields
        if isinstance(declared.source, NumberSource) and not declared.source.is_flag
    ]


def id_sources(fields: list[Declared]) -> list[tuple[Declared, IdSource]]:
    """The fields that are embedded."""
    return [(declared, declared.source) for declared in fields if isinstance(declared.source, IdSource)]
