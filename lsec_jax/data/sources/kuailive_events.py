"""KuaiLive's event files: their rows, whose nodes are known, and the watch in which a comment, like or gift happened.

The files have milliseconds since 1970; they are joined as such and become the data set's seconds at the end.

An action belongs to a watch of the same user and room if it lies in [enter, enter + watch_live_time], ends included.
Watches may overlap (a user enters the room again before the end that the log gives). Then the action belongs to one of
them only: of the watches that contain it, the one entered last; of those entered at the same time, the last row.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lsec_jax.data import tables
from lsec_jax.data.table import Table
from lsec_jax.schema import Availability, EventNodes, Events, NodeTable

MILLISECONDS = 1000.0
# In milliseconds since 1970: 1973 and 5138. Seconds lie below, microseconds above.
EARLIEST, LATEST = 1e11, 1e14
NODE_FILES = {"user": "user.csv", "streamer": "streamer.csv", "room": "room.csv"}
ID_COLUMNS = {"user": "user_id", "streamer": "streamer_id", "room": "live_id"}


@dataclasses.dataclass(frozen=True)
class Log:
    """The rows of one event file, n of them.

    Attributes:
        place: the file, without its columns, for messages.
        ids: by node type "user", "streamer" and "room": external ids as read, [n] int64; internal indices, [n] int32,
            once `Log.of` has looked them up.
        time: in milliseconds since 1970, [n] float64.
        value: what was measured, [n] float64, or None.
    """

    place: Table
    ids: Mapping[str, np.ndarray]
    time: np.ndarray
    value: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def file(self) -> str:
        """The file's name, for counts."""
        return self.place.path.name

    def of(self, nodes: Mapping[str, NodeTable], hosts: np.ndarray, unmatched: str, counts: dict[str, int]) -> "Log":
        """Returns the rows whose user, streamer and room are known, with internal indices.

        The streamer is that of the room in room.csv, so that every event's room and streamer are an edge of "hosts";
        rows that name another one are counted.

        Args:
            nodes: tables by type.
            hosts: each room's streamer, [rooms] int32.
            unmatched: as in `find_nodes`.
            counts: gains what was left out and what disagreed.
        """
        rows, found = find_nodes(self.place, self.ids, nodes, unmatched, counts)
        host = hosts[found["room"]]
        if differs := int((found["streamer"] != host).sum()):
            counts[f"{self.file}: rows whose streamer_id is not their room's in room.csv, which is used"] = differs
        value = None if self.value is None else self.value[rows]
        return Log(self.place, {**found, "streamer": host}, self.time[rows], value)

    def count_outside(self, rooms: Availability, counts: dict[str, int]) -> None:
        """Counts the rows at a time at which their room is not live; they are kept."""
        if outside := int((~rooms.at(self.time / MILLISECONDS, self.ids["room"])).sum()):
            counts[f"{self.file}: rows while their room is not live, kept"] = outside

    def roles(self, rows: np.ndarray) -> dict[str, EventNodes]:
        """Returns the nodes of some rows as event roles."""
        return {name: EventNodes(name, self.ids[name][rows]) for name in ("user", "room", "streamer")}


def read_log(path: Path, value_column: str = "", has_zero: bool = True) -> Log:
    """Reads user_id, live_id, streamer_id, timestamp and one more column of an event file.

    Args:
        path: of the file.
        value_column: of numbers from 0 up to LATEST, or "".
        has_zero: whether the value may be 0.

    Raises:
        DataError: naming file, line and column.
    """
    columns = [*ID_COLUMNS.values(), "timestamp", *([value_column] if value_column else [])]
    table = read_columns(path, columns)
    ids = {name: table.integers(column) for name, column in ID_COLUMNS.items()}
    value = None
    if value_column:
        value = table.numbers(value_column)
        is_low = value < 0 if has_zero else value <= 0
        wrong = np.flatnonzero(is_low | (value >= LATEST))
        if len(wrong):
            row, least = int(wrong[0]), ">= 0" if has_zero else "> 0"
            limits = f"{least} and below {LATEST:g}"
            table.fail(row, value_column, f"{value[row]:g}; expected a number {limits}; correct or drop the row")
    return Log(dataclasses.replace(table, columns={}), ids, milliseconds(table, "timestamp"), value)


def read_columns(path: Path, columns: Sequence[str]) -> Table:
    """Reads some columns of one of the files; raises DataError that says what it must look like."""
    expected = f"the first line is a header with the columns {', '.join(columns)}, commas between"
    return tables.read_table(path, columns, expected=expected)


def milliseconds(table: Table, column: str) -> np.ndarray:
    """Returns times in milliseconds since 1970, [rows] float64; raises DataError for seconds, microseconds, NaN."""
    values = table.numbers(column)
    check_milliseconds(table, column, values)
    return values


def check_milliseconds(table: Table, column: str, values: np.ndarray) -> None:
    """Raises DataError for a time that cannot be in milliseconds; NaN is left alone."""
    wrong = np.flatnonzero((values < EARLIEST) | (values >= LATEST))
    if len(wrong):
        row = int(wrong[0])
        table.fail(
            row,
            column,
            f"{values[row]:.0f} is no time in milliseconds since 1970 (at least {EARLIEST:.0f}, which is 1973, and "
            f"below {LATEST:.0f}); correct the row, or multiply seconds by 1000",
        )


def find_nodes(
    place: Table,
    ids: Mapping[str, np.ndarray],
    nodes: Mapping[str, NodeTable],
    unmatched: str,
    counts: dict[str, int],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Looks up external ids; a row with an unknown one is refused or left out and counted, never given another node.

    Args:
        place: the rows' file.
        ids: external ids by node type, each [n] int64.
        nodes: tables by type.
        unmatched: "refuse" or "drop".
        counts: gains one entry for each column with unknown ids; a row counts for the first that it has.

    Returns:
        Rows that are kept, rising, [k] int64, and their internal indices by node type, each [k] int32.

    Raises:
        DataError: for an unknown id, with unmatched="refuse".
    """
    keep = np.ones(len(next(iter(ids.values()))), bool)
    found = {}
    for name, values in ids.items():
        found[name] = nodes[name].index_of(values)
        lost = np.flatnonzero(keep & (found[name] < 0))
        if not len(lost):
            continue
        column, file = ID_COLUMNS[name], NODE_FILES[name]
        if unmatched == "refuse":
            place.fail(
                int(lost[0]),
                column,
                f"{name} {values[lost[0]]} is not in {file} ({len(lost)} rows have such ids); list it there, "
                "correct the row, or leave such rows out and count them (--config.data.unmatched=drop)",
            )
        counts[f"{place.path.name}: rows dropped, their {column} is not in {file}"] = len(lost)
        keep[lost] = False
    rows = np.flatnonzero(keep)
    return rows, {name: index[rows].astype(np.int32) for name, index in found.items()}


class WatchIndex:
    """Finds the watch in which something happened: sorted once, then O(log watches) for each, no loop over rows.

    Attributes:
        num_overlapping: the number of watches that begin before an earlier one of their pair has ended.
    """

    def __init__(self, pairs: np.ndarray, enter: np.ndarray, stay: np.ndarray):
        """Sorts the watches.

        Args:
            pairs: one integer for each user and room, [w].
            enter: [w] float64.
            stay: [w] float64, >= 0.
        """
        self._order = np.lexsort((enter, pairs))  # stable: watches entered at once stay in row order
        self._pairs, self._group = np.unique(pairs[self._order], return_inverse=True)
        self._enter = np.sort(enter)
        self._end = (enter + stay)[self._order]
        self._keys = self._key(self._group, enter[self._order])
        # The latest end so far in each pair: a running maximum over (group, place of the end among all ends).
        ends, place = np.unique(self._end, return_inverse=True)
        latest = np.maximum.accumulate(self._group * len(ends) + place) - self._group * len(ends)
        self._latest_end = ends[latest]
        follows = self._group[1:] == self._group[:-1]
        self.num_overlapping = int((follows & (enter[self._order][1:] < self._latest_end[:-1])).sum())

    def _key(self, group: np.ndarray, time: np.ndarray) -> np.ndarray:
        """(group, time) as one integer: the time by how many times of entry, of all pairs, are not after it."""
        return group * (len(self._enter) + 1) + np.searchsorted(self._enter, time, side="right")

    def find(self, pairs: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Returns the watch of each (pair, time), by its row, [n] int64; -1 where no watch of the pair contains it."""
        group = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        at = np.searchsorted(self._keys, self._key(group, time), side="right") - 1  # the last one entered by then
        is_inside = (at >= 0) & (self._pairs[group] == pairs) & (self._group[at] == group)
        is_inside &= self._latest_end[at] >= time
        # Some watch up to `at` contains it: back over those that have ended, one step a turn for all rows at once.
        rows = np.flatnonzero(is_inside)
        while len(rows := rows[self._end[at[rows]] < time[rows]]):
            at[rows] -= 1
        return np.where(is_inside, self._order[at], -1)


def build_events(
    clicks: Log, negatives: Log, actions: Mapping[str, Log], scenarios: np.ndarray, counts: dict[str, int]
) -> dict[str, Events]:
    """Builds "impression", "action" and "gift", in time order; of equal times, click.csv comes before negative.csv.

    Args:
        clicks: watches; the value is the time watched, in milliseconds.
        negatives: shown and not entered.
        actions: "comment", "like" and "gift"; the value of gifts is their price.
        scenarios: each room's scenario, [rooms] int32.
        counts: gains the actions in no watch, and the watches that overlap.
    """
    assert clicks.value is not None
    num_rooms = len(scenarios)
    index = WatchIndex(_pairs(clicks, num_rooms), clicks.time, clicks.value)
    if index.num_overlapping:
        counts[f"{clicks.file}: watches that begin before an earlier one of their user and room ended"] = (
            index.num_overlapping
        )
    watch = {name: index.find(_pairs(log, num_rooms), log.time) for name, log in actions.items()}
    for name, rows in watch.items():
        if outside := int((rows < 0).sum()):
            remark = "parent -1" if name == "gift" else "in no impression"
            counts[f"{actions[name].file}: rows in no watch of their user and room, {remark}"] = outside

    both = Log(
        clicks.place,
        {name: np.concatenate([clicks.ids[name], negatives.ids[name]]) for name in clicks.ids},
        np.concatenate([clicks.time, negatives.time]),
    )
    order = np.argsort(both.time, kind="stable")
    values = _values(clicks, actions, watch, len(both))
    roles = both.roles(order) | {"scenario": EventNodes("scenario", scenarios[both.ids["room"][order]])}
    impressions = Events(
        "impression",
        roles,
        both.time[order] / MILLISECONDS,
        {name: column[order] for name, column in values.items()},
    )
    row_of = np.empty(len(both), np.int64)
    row_of[order] = np.arange(len(both))
    parents = {name: np.where(rows >= 0, row_of[np.maximum(rows, 0)], -1) for name, rows in watch.items()}
    gifts = _gifts(actions["gift"], parents["gift"])
    return {"impression": impressions, "action": _actions(actions, parents), "gift": gifts}


def _pairs(log: Log, num_rooms: int) -> np.ndarray:
    return log.ids["user"].astype(np.int64) * num_rooms + log.ids["room"]


def _values(
    clicks: Log, actions: Mapping[str, Log], watch: Mapping[str, np.ndarray], num_rows: int
) -> dict[str, np.ndarray]:
    """The measured columns of the watches and, after them, of the other impressions, each [num_rows]."""
    assert clicks.value is not None and actions["gift"].value is not None
    stay_seconds = np.full(num_rows, np.nan, np.float32)
    stay_seconds[: len(clicks)] = clicks.value / MILLISECONDS
    values: dict[str, np.ndarray] = {"watched": np.arange(num_rows) < len(clicks), "stay_seconds": stay_seconds}
    for name, rows in watch.items():
        values[name] = np.zeros(num_rows, bool)
        values[name][rows[rows >= 0]] = True
    is_inside = watch["gift"] >= 0
    amounts = np.bincount(watch["gift"][is_inside], actions["gift"].value[is_inside], num_rows)
    values["gift_amount"] = amounts.astype(np.float32)
    return values


def _actions(actions: Mapping[str, Log], parents: Mapping[str, np.ndarray]) -> Events:
    """All actions in time order, with what they were; of equal times, comments first, then likes, then gifts."""
    both = Log(
        next(iter(actions.values())).place,
        {role: np.concatenate([log.ids[role] for log in actions.values()]) for role in ID_COLUMNS},
        np.concatenate([log.time for log in actions.values()]),
    )
    kind = np.repeat(np.arange(len(actions)), [len(log) for log in actions.values()])
    order = np.argsort(both.time, kind="stable")
    return Events(
        "action",
        both.roles(order),
        both.time[order] / MILLISECONDS,
        {name: kind[order] == code for code, name in enumerate(actions)},
        parent=("impression", np.concatenate([*parents.values()])[order]),
    )


def _gifts(gifts: Log, parents: np.ndarray) -> Events:
    """Gifts in time order; `parents` are their rows among the impressions."""
    assert gifts.value is not None
    order = np.argsort(gifts.time, kind="stable")
    return Events(
        "gift",
        gifts.roles(order),
        gifts.time[order] / MILLISECONDS,
        {"amount": gifts.value[order].astype(np.float32)},
        parent=("impression", parents[order]),
    )
