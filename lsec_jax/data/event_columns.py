"""What a batch shows of a table of events: rows -> arrays of fixed shapes, out of columns that may be on disk."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.sequences import last_before, starts_of
from lsec_jax.schema import DataError, Events, Histories, LiveCommerceData

Batch = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class HistoryView:
    """What a batch shows of histories.

    Attributes:
        name: of the data's histories.
        length: last behaviours that are shown.
        owner: role of the events whose history it is; "" or the role that the histories were made with.
        with_ages: also show how long before the event each behaviour was.
        behaviours: table of the behaviours; "" or the one that the histories were made of.
        columns: its roles and values that are shown of each behaviour. A value may be one that nobody knew at the
            moment, e.g. how long a watch that goes on will be: `known_after` hides those.
        known_after: its value that says how long after a behaviour its columns are known, e.g. "stay_seconds"; NaN and
            below 0 = 0. While time + the histories' delay + that is not below the moment, columns are missing (-1,
            NaN, False); items and ages stay. "" = columns are known with the behaviour.
        known_after_unit: units of the data set's time in one of `known_after`, e.g. 1 / 86400 for seconds where times
            are days.
        hides: what is missing until then: the "columns", or the whole "behaviours", which leave no gap: the known ones
            move up. There may then be fewer than `length`, though older ones exist.
    """

    name: str
    length: int
    owner: str = ""
    with_ages: bool = False
    behaviours: str = ""
    columns: tuple[str, ...] = ()
    known_after: str = ""
    known_after_unit: float = 1.0
    hides: str = "columns"


class EventColumns:
    """Reads rows of a table of events. Nothing is read before it is asked for, and no more than that.

    A batch of b rows is

        {"nodes": {ROLE: [b] int32, -1 = none}, "values": {NAME: [b] bool or float32, NaN = not defined},
         "features": {NAME: [b] int32 with -1, or float32 with NaN, or [b, d]},
         "histories": {NAME: {"items": [b, length] int32, ...}}}

    Histories have the newest behaviour last; short ones are filled in front, with -1 (ids), NaN (numbers) or False.
    "ages" are float32, in the data set's unit.
    """

    def __init__(
        self,
        data: LiveCommerceData,
        events: str,
        roles: Sequence[str] | None = None,
        values: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        histories: Sequence[HistoryView] = (),
    ):
        """Chooses columns.

        Args:
            data: in memory or mapped.
            events: the table.
            roles: of the table; None = all that there are.
            values: the same.
            features: the same.
            histories: views of the data's histories.

        Raises:
            DataError: a table, role, column, feature or history that is not there.
            ConfigError: a view that the stored layout cannot give, or two views of one name.
        """
        table = data.events_of(events)
        self.events = events
        self.num_rows = len(table)
        self._columns = {
            "nodes": {role: _plain(table.ids(role)) for role in (table.nodes if roles is None else roles)},
            "values": {name: _plain(table.value(name)) for name in (table.values if values is None else values)},
            "features": {
                name: _plain(table.feature(name).values) for name in (table.features if features is None else features)
            },
        }
        named = [view.name for view in histories]
        if twice := {name for name in named if named.count(name) > 1}:
            raise ConfigError(f"histories '{min(twice)}' are shown twice; a batch has one view of each")
        self._histories = {view.name: _reader(data, table, view) for view in histories}
        self._flat: dict[str, list[tuple[str, str]]] = {}
        for kind, columns in self._columns.items():
            for name, column in columns.items():
                if column.ndim == 1:
                    self._flat.setdefault(str(column.dtype), []).append((kind, name))

    def __call__(self, rows: np.ndarray) -> Batch:
        """Returns the batch of some rows, [b] int64, in their order."""
        batch: Batch = {
            kind: {name: column.take(rows, axis=0) for name, column in columns.items()}
            for kind, columns in self._columns.items()
        }
        batch["histories"] = {name: read(rows) for name, read in self._histories.items()}
        return batch

    def pack(self, batch: Batch) -> Batch:
        """Returns the batch with all columns of one number per row in one array for each dtype, [b, columns].

        Putting an array on a device has a price of its own: a few arrays take a fraction of the time of many.
        """
        packed: Batch = {kind: dict(columns) for kind, columns in batch.items()}
        packed["packed"] = {
            dtype: np.stack([packed[kind].pop(name) for kind, name in names], axis=1)
            for dtype, names in self._flat.items()
        }
        return packed

    def unpack(self, packed: Batch) -> Batch:
        """Returns the batch that was packed; for numpy and jax arrays, also in a jitted function."""
        batch: Batch = {kind: dict(columns) for kind, columns in packed.items() if kind != "packed"}
        for dtype, names in self._flat.items():
            for i, (kind, name) in enumerate(names):
                batch[kind][name] = packed["packed"][dtype][:, i]
        return batch


def require_whole(what: str, value: Any, minimum: int) -> None:
    """Raises ConfigError unless the value is a whole number of at least the minimum."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{what} = {value!r}; give a whole number of {minimum} or more")


def take_or(column: np.ndarray, rows: np.ndarray, missing: Any) -> np.ndarray:
    """The column's values at some rows, of any shape; `missing` at -1."""
    if len(column) == 0:
        return np.full(rows.shape, missing, column.dtype)
    found = column.take(np.maximum(rows, 0))
    np.putmask(found, rows < 0, missing)
    return found


_Reader = Callable[[np.ndarray], dict[str, np.ndarray]]


def _plain(column: np.ndarray) -> np.ndarray:
    """The column without np.memmap's bookkeeping, mapped as before. `take` would copy a strided one each time."""
    return np.ascontiguousarray(column)


def _reader(data: LiveCommerceData, table: Events, view: HistoryView) -> _Reader:
    """How the view's arrays are read: from the materialised layout where it has them, else by end offsets."""
    histories = data.histories_of(view.name)
    require_whole(f"histories '{view.name}': length", view.length, 1)
    last, ends = histories.last.get(table.name), histories.ends.get(table.name)
    if last is None and ends is None:
        there = ", ".join(sorted({*histories.last, *histories.ends})) or "none"
        raise DataError(
            f"histories '{view.name}' are not kept for events '{table.name}', but for: {there}; add '{table.name}' to "
            "their moments in config.histories, and prepare the data again if it was prepared"
        )
    _check_source(table, histories, view)
    if last is not None and view.length <= last.shape[1] and not (view.with_ages or view.columns or view.known_after):
        return _last_reader(_plain(last), view.length)
    if ends is None:
        assert last is not None
        raise ConfigError(
            f"histories '{view.name}' are stored as the last {last.shape[1]} items of each row, so there are no more "
            f"items, no ages and no columns of behaviours (asked for: {view}); store them with is_materialized=False"
        )
    return _ends_reader(data, table, histories, _plain(ends), view)


def _last_reader(last: np.ndarray, length: int) -> _Reader:
    return lambda rows: {"items": np.ascontiguousarray(last.take(rows, axis=0)[:, -length:])}


def _ends_reader(
    data: LiveCommerceData, table: Events, histories: Histories, ends: np.ndarray, view: HistoryView
) -> _Reader:
    owners = _plain(histories.owners_of(table))
    offsets = dataclasses.replace(histories, starts=_plain(histories.starts))
    items, times, moments = _plain(histories.items), _plain(histories.times), _plain(table.time)
    behaviour_rows, columns = _plain(histories.rows), _behaviour_columns(data, histories, view)
    is_known = _known_reader(data, histories, view)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        ends_of = ends.take(rows)
        starts = starts_of(offsets, owners.take(rows), ends_of)
        found = {"items": last_before(items, starts, ends_of, view.length, -1)}
        if view.with_ages:
            when = last_before(times, starts, ends_of, view.length, np.nan)
            found["ages"] = (moments.take(rows)[:, None] - when).astype(np.float32)
        if columns or is_known is not None:
            at = last_before(behaviour_rows, starts, ends_of, view.length, -1)
            if is_known is not None:
                is_hidden = (at >= 0) & ~is_known(at, moments.take(rows))
                at[is_hidden] = -1
                if view.hides == "behaviours":
                    at = _leave_out(is_hidden, found, at)
            for name, (column, missing) in columns.items():
                found[name] = take_or(column, at, missing)
        return found

    return read


def _leave_out(is_hidden: np.ndarray, found: dict[str, np.ndarray], at: np.ndarray) -> np.ndarray:
    """Moves the known behaviours up to the end, in place in `found`; returns their rows, [b, length]."""
    some = np.flatnonzero(is_hidden.any(axis=1))
    hidden = is_hidden[some]
    order = np.argsort(~hidden, axis=1, kind="stable")  # those that are hidden come first
    moved = np.take_along_axis(hidden, order, axis=1)
    for name, missing in (("items", -1), ("ages", np.nan)):
        if name in found:
            known = np.take_along_axis(found[name][some], order, axis=1)
            found[name][some] = np.where(moved, np.asarray(missing, known.dtype), known)
    at[some] = np.take_along_axis(at[some], order, axis=1)
    return at


def _check_source(table: Events, histories: Histories, view: HistoryView) -> None:
    """Raises ConfigError where the view names another owner or other behaviours than those of the histories."""
    histories.owners_of(table)
    role = histories.role
    if (found := table.nodes[role].node_type) != histories.owner:
        raise ConfigError(
            f"histories '{view.name}' are those of the type {histories.owner}; role '{role}' of events '{table.name}' "
            f"is of type {found}; make histories of it (config.histories)"
        )
    if view.owner not in ("", role):
        raise ConfigError(
            f"histories '{view.name}' were made with the owner '{role}', not '{view.owner}'; leave the owner out, or "
            "make other histories (config.histories)"
        )
    if not histories.events and (view.behaviours or view.columns or view.known_after):
        raise ConfigError(
            f"histories '{view.name}' do not say which events they were made of, so columns of behaviours cannot be "
            "shown; make them with config.histories"
        )
    if view.behaviours not in ("", histories.events):
        raise ConfigError(
            f"histories '{view.name}' were made of events '{histories.events}', not '{view.behaviours}'; leave the "
            "behaviours out, or make other histories (config.histories)"
        )


def _behaviour_columns(
    data: LiveCommerceData, histories: Histories, view: HistoryView
) -> Mapping[str, tuple[np.ndarray, float]]:
    """Columns of all behaviours' events, and what stands for a missing one."""
    if not view.columns:
        return {}
    table = data.events_of(histories.events)
    reserved = {"items", "ages"} & {*view.columns}
    if reserved:
        raise ConfigError(f"histories '{view.name}': the column '{min(reserved)}' has a name that batches use already")
    found: dict[str, tuple[np.ndarray, float]] = {}
    for name in view.columns:
        if name in table.nodes:
            found[name] = (_plain(table.ids(name)), -1)
        else:
            column = _plain(table.value(name))
            found[name] = (column, False if column.dtype == bool else np.nan)
    return found


def _known_reader(
    data: LiveCommerceData, histories: Histories, view: HistoryView
) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Whether the columns of behaviours at some rows, [b, length], are known at moments, [b]; None = always."""
    if view.hides not in ("columns", "behaviours"):
        raise ConfigError(f"histories '{view.name}': hides = {view.hides!r}; choose 'columns' or 'behaviours'")
    if not view.known_after:
        return None
    if not view.columns and view.hides == "columns":
        raise ConfigError(f"histories '{view.name}': known_after = '{view.known_after}', but no columns are shown")
    table = data.events_of(histories.events)
    times, spans = _plain(table.time), _plain(table.value(view.known_after))
    if spans.dtype == bool:
        raise ConfigError(f"histories '{view.name}': known_after = '{view.known_after}' is true or false, not a time")
    if not 0 < view.known_after_unit < np.inf:
        raise ConfigError(
            f"histories '{view.name}': known_after_unit = {view.known_after_unit}; give a finite number above 0"
        )

    def is_known(at: np.ndarray, moments: np.ndarray) -> np.ndarray:
        spans_of = view.known_after_unit * np.fmax(take_or(spans, at, np.nan).astype(np.float64), 0.0)
        return take_or(times, at, np.nan) + histories.delay + spans_of < moments[:, None]

    return is_known
