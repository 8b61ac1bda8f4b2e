"""What a batch shows of a table of events: rows -> arrays of fixed shapes, out of columns that may be on disk."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.sequences import last_before, starts_of
from lsec_jax.schema import DataError, Events, Histories, LiveCommerceData

Batch = dict[str, dict[str, Any]]
_CHECKED_ROWS = 2**16


@dataclasses.dataclass(frozen=True)
class HistoryView:
    """What a batch shows of histories.

    Attributes:
        name: of the data's histories.
        length: last behaviours that are shown.
        owner: role of the events whose history it is; "" = the role of the owners' node type.
        with_ages: also show how long before the event each behaviour was.
        behaviours: the table of events that the histories were made of, where `columns` needs it.
        columns: its roles and values that are shown of each behaviour.
    """

    name: str
    length: int
    owner: str = ""
    with_ages: bool = False
    behaviours: str = ""
    columns: tuple[str, ...] = ()


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
        """Returns the batch with all columns of one number per row in one array for each dtype, [columns, b].

        Putting an array on a device has a price of its own: a few arrays take a fraction of the time of many.
        """
        packed: Batch = {kind: dict(columns) for kind, columns in batch.items()}
        packed["packed"] = {
            dtype: np.stack([packed[kind].pop(name) for kind, name in names]) for dtype, names in self._flat.items()
        }
        return packed

    def unpack(self, packed: Batch) -> Batch:
        """Returns the batch that was packed; for numpy and jax arrays, also in a jitted function."""
        batch: Batch = {kind: dict(columns) for kind, columns in packed.items() if kind != "packed"}
        for dtype, names in self._flat.items():
            for i, (kind, name) in enumerate(names):
                batch[kind][name] = packed["packed"][dtype][i]
        return batch


_Reader = Callable[[np.ndarray], dict[str, np.ndarray]]


def _plain(column: np.ndarray) -> np.ndarray:
    """The column without np.memmap's bookkeeping, mapped as before. `take` would copy a strided one each time."""
    return np.ascontiguousarray(column)


def _reader(data: LiveCommerceData, table: Events, view: HistoryView) -> _Reader:
    """How the view's arrays are read: from the materialised layout where it has them, else by end offsets."""
    histories = data.histories_of(view.name)
    if view.length < 1:
        raise ConfigError(f"histories '{view.name}': length = {view.length}; give 1 or more")
    last, ends = histories.last.get(table.name), histories.ends.get(table.name)
    if last is None and ends is None:
        there = ", ".join(sorted({*histories.last, *histories.ends})) or "none"
        raise DataError(
            f"histories '{view.name}' are not kept for events '{table.name}', but for: {there}; add '{table.name}' to "
            "their moments in config.histories, and prepare the data again if it was prepared"
        )
    if last is not None and view.length <= last.shape[1] and not (view.with_ages or view.columns):
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
    owners = _plain(table.ids(_owner_role(table, histories, view)))
    offsets = dataclasses.replace(histories, starts=_plain(histories.starts))
    _check_owners(offsets, owners, ends, view)
    items, times, moments = _plain(histories.items), _plain(histories.times), _plain(table.time)
    behaviour_rows, columns = _plain(histories.rows), _behaviour_columns(data, histories, view)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        ends_of = ends.take(rows)
        starts = starts_of(offsets, owners.take(rows), ends_of)
        found = {"items": last_before(items, starts, ends_of, view.length, -1)}
        if view.with_ages:
            when = last_before(times, starts, ends_of, view.length, np.nan)
            found["ages"] = (moments.take(rows)[:, None] - when).astype(np.float32)
        if columns:
            at = last_before(behaviour_rows, starts, ends_of, view.length, -1)
            for name, (column, missing) in columns.items():
                shown = column.take(np.maximum(at, 0)) if len(column) else np.empty(at.shape, column.dtype)
                np.putmask(shown, at < 0, missing)
                found[name] = shown
        return found

    return read


def _owner_role(table: Events, histories: Histories, view: HistoryView) -> str:
    if view.owner:
        table.ids(view.owner)
        if (found := table.nodes[view.owner].node_type) != histories.owner:
            raise ConfigError(
                f"histories '{view.name}' are those of the type {histories.owner}; role '{view.owner}' of events "
                f"'{table.name}' is of type {found}; name another owner"
            )
        return view.owner
    fitting = [role for role, nodes in table.nodes.items() if nodes.node_type == histories.owner]
    if histories.owner in fitting:
        return histories.owner
    if len(fitting) != 1:
        there = ", ".join(fitting) or "none"
        raise ConfigError(
            f"histories '{view.name}': roles of type {histories.owner} in events '{table.name}' are: {there}; name "
            "the owner"
        )
    return fitting[0]


def _check_owners(histories: Histories, owners: np.ndarray, ends: np.ndarray, view: HistoryView) -> None:
    """Raises ConfigError where the offsets are those of another role; the first rows tell."""
    owners, ends = owners[:_CHECKED_ROWS], ends[:_CHECKED_ROWS]
    known = np.maximum(owners, 0)
    outside = (owners >= 0) & ((ends < histories.starts[known]) | (ends > histories.starts[known + 1]))
    if outside.any():
        raise ConfigError(
            f"histories '{view.name}': row {int(outside.argmax())} ends outside its owner's history; name the role "
            "that the histories were made with as the owner"
        )


def _behaviour_columns(
    data: LiveCommerceData, histories: Histories, view: HistoryView
) -> Mapping[str, tuple[np.ndarray, float]]:
    """Columns of all behaviours' events, and what stands for a missing one."""
    if not view.columns:
        return {}
    table = data.events_of(view.behaviours)
    rows, times = histories.rows[:_CHECKED_ROWS], histories.times[:_CHECKED_ROWS]
    if (rows >= len(table)).any() or (table.time[rows] != times).any():
        raise ConfigError(
            f"histories '{view.name}' were not made of events '{view.behaviours}': their times differ; name the events "
            "that they were made of"
        )
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
