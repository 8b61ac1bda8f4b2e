"""Behaviour sequences: what each user did before a moment, stored once per user. Never looks into the future.

Columns may be larger than memory: they are read and written in blocks.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from lsec_jax.config import ConfigError, HistoryConfig
from lsec_jax.config_json import differences, to_json
from lsec_jax.data.columns import NewColumn, blocks, in_memory
from lsec_jax.schema import NAME_RULE, DataError, Events, Histories, LiveCommerceData, is_name

_REGION_ROWS = 2**22  # behaviours that are sorted at once


def add_histories(
    data: LiveCommerceData, configs: Sequence[HistoryConfig], new_column: NewColumn = in_memory
) -> LiveCommerceData:
    """Returns the data with `histories` as the configs say.

    Prepared data have their histories; others are derived from their events.

    Args:
        data: with the events.
        configs: validated.
        new_column: gives the arrays to fill.

    Raises:
        ConfigError: a name that cannot be one of a file, an owner of two node types, or settings other than those that
            histories of this name were prepared with.
        DataError: events, a role or a column are missing.
    """
    stored = {of["name"]: of for of in (data.prepared_with or {}).get("histories", ())}
    histories = dict(data.histories)
    for i, config in enumerate(configs):
        key = f"config.histories[{i}]"
        if config.name not in stored:
            histories[config.name] = _from_config(data, config, key, new_column)
        elif changed := differences(stored[config.name], to_json(config), key):
            raise ConfigError(
                f"histories '{config.name}' of data set '{data.name}' were prepared otherwise (prepared -> given):\n"
                + "".join(f"  {line}\n" for line in changed)
                + "Give the prepared values or another name, or prepare the data again into another directory."
            )
    return data.replace(histories=histories)


def check_histories(data: LiveCommerceData, configs: Sequence[HistoryConfig]) -> None:
    """Checks that histories can be derived; the tables' rows do not count.

    Args:
        data: with the events.
        configs: validated.

    Raises:
        ConfigError: a name that cannot be one of a file, or an owner of two node types.
        DataError: events, a role or a column are missing.
    """
    stored = [of["name"] for of in (data.prepared_with or {}).get("histories", ())]
    for i, config in enumerate(configs):
        if config.name not in stored:
            _check(data, config, f"config.histories[{i}]")


def _check(data: LiveCommerceData, config: HistoryConfig, key: str) -> None:
    if not is_name(config.name):
        raise ConfigError(f"{key}.name = {config.name!r}: {NAME_RULE}")
    events = data.events_of(config.events)
    for role in (config.owner, config.item):
        events.ids(role)
    if config.where:
        events.value(config.where)
    owner_type = events.nodes[config.owner].node_type
    for name in config.moments:
        data.events_of(name).ids(config.owner)
        if (other := data.events[name].nodes[config.owner].node_type) != owner_type:
            raise ConfigError(
                f"{key}.owner = '{config.owner}' is of type {owner_type} in events '{config.events}', but of type "
                f"{other} in '{name}'; choose another role or other events"
            )


def _from_config(data: LiveCommerceData, config: HistoryConfig, key: str, new_column: NewColumn) -> Histories:
    _check(data, config, key)
    events = data.events_of(config.events)
    owner_type = events.nodes[config.owner].node_type

    def new(path: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return new_column(f"histories/{config.name}/{path}", shape, dtype)

    where = events.value(config.where) if config.where else None
    histories = build_histories(events, config.owner, config.item, len(data.nodes[owner_type]), where, new)
    histories = dataclasses.replace(histories, owner_role=config.owner, events=config.events, delay=float(config.delay))
    of_moments = {name: _of_moments(histories, data.events[name], config, new) for name in config.moments}
    if config.is_materialized:
        return dataclasses.replace(histories, last=of_moments)
    return dataclasses.replace(histories, ends=of_moments)


def _of_moments(histories: Histories, moments: Events, config: HistoryConfig, new_column: NewColumn) -> np.ndarray:
    """The moments' end offsets, or their last items."""
    owners = moments.ids(config.owner)
    if config.is_materialized:
        found = new_column(f"last/{moments.name}", (len(moments), config.length), np.int32)
    else:
        found = new_column(f"ends/{moments.name}", (len(moments),), np.int64)
    for block in blocks(len(moments)):
        ends = ends_before(histories, owners[block], moments.time[block], config.delay)
        if config.is_materialized:
            found[block] = last_items(histories, owners[block], ends, config.length)
        else:
            found[block] = ends
    return found


def build_histories(
    events: Events,
    owner: str,
    item: str,
    num_owners: int,
    where: np.ndarray | None = None,
    new_column: NewColumn = in_memory,
) -> Histories:
    """Sorts events into histories; of equal times, the order of the table stays.

    Memory: a few numbers an owner and a region of behaviours, whatever the number of events.

    Args:
        events: in time order.
        owner: role of the nodes whose histories these are, e.g. "user".
        item: role of what they acted on, e.g. "room".
        num_owners: n.
        where: events count where this is true or above 0, e.g. those with a purchase, [events] bool or float; None =
            all. Events without an owner or an item (-1) never count.
        new_column: gives the arrays to fill.

    Raises:
        DataError: if the events lack a role.
    """
    owners, items = events.ids(owner), events.ids(item)

    def behaviours(block: slice) -> np.ndarray:
        is_one = (owners[block] >= 0) & (items[block] >= 0)
        return block.start + np.flatnonzero(is_one if where is None else is_one & (where[block] > 0))

    starts = np.zeros(num_owners + 1, np.int64)
    for block in blocks(len(events)):
        starts[1:] += np.bincount(owners[behaviours(block)], minlength=num_owners)
    np.cumsum(starts, out=starts)
    size = int(starts[-1])
    rows = new_column("rows", (size,), np.int64)
    sorted_items, times = new_column("items", (size,), np.int32), new_column("times", (size,), np.float64)
    # Regions of whole owners, which fit into memory: rows go to their region first, and are sorted there.
    first = np.unique(np.r_[0, np.searchsorted(starts, np.arange(0, size, _REGION_ROWS), side="right") - 1])
    bounds = starts[first]
    ends = bounds.copy()
    for block in blocks(len(events)):
        found = behaviours(block)
        region = np.searchsorted(first, owners[found], side="right") - 1
        order = np.argsort(region, kind="stable")
        sizes = np.bincount(region, minlength=len(first))
        for at, part in enumerate(np.split(found[order], np.cumsum(sizes)[:-1])):
            rows[ends[at] : ends[at] + len(part)] = part
        ends += sizes
    for begin, end in zip(bounds, ends, strict=True):
        part = rows[begin:end]
        order = np.argsort(owners[part], kind="stable")
        sorted_items[begin:end] = items[part][order]
        times[begin:end] = events.time[part][order]
        rows[begin:end] = part[order]
    types = [events.nodes[role].node_type for role in (owner, item)]
    return Histories(types[0], types[1], starts, sorted_items, times, rows)


def ends_before(histories: Histories, owners: np.ndarray, times: np.ndarray, delay: float = 0.0) -> np.ndarray:
    """Where each owner's history ends at a moment: behaviours with time + delay < the moment lie before it.

    Behaviours of the very moment do not count: those of the same request, or of the impression itself, would tell its
    label. A binary search in all histories at once.

    Args:
        histories: of all owners.
        owners: [b], -1 for nobody, whose history is empty.
        times: the moments, [b].
        delay: time until a behaviour is known to the system, >= 0.

    Returns:
        Offsets into `histories.items`, [b] int64; from `starts[owner]` for an empty history.
    """
    if not delay >= 0:
        raise DataError(f"delay = {delay}: behaviours would be known before they happen; give 0 or more")
    low, high = _bounds(histories, owners)
    open_rows = np.flatnonzero(low < high)
    while len(open_rows):
        middle = (low[open_rows] + high[open_rows]) // 2
        is_before = histories.times[middle] + delay < times[open_rows]
        low[open_rows] = np.where(is_before, middle + 1, low[open_rows])
        high[open_rows] = np.where(is_before, high[open_rows], middle)
        open_rows = open_rows[low[open_rows] < high[open_rows]]
    return low


def _bounds(histories: Histories, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the owners' histories begin and end, [b] int64 each; 0 and 0 for nobody."""
    known = np.flatnonzero(owners >= 0)  # there may be no owners at all
    low, high = np.zeros((2, len(owners)), np.int64)
    low[known], high[known] = histories.starts[owners[known]], histories.starts[owners[known] + 1]
    return low, high


def last_items(histories: Histories, owners: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """The last items before the ends, oldest first, [b, length] int32; -1 fills the front of short histories."""
    return last_before(histories.items, starts_of(histories, owners, ends), ends, length, -1)


def starts_of(histories: Histories, owners: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Where the owners' histories begin, [b] int64; at their ends for nobody (-1)."""
    return np.where(owners >= 0, histories.starts[np.maximum(owners, 0)], ends)


def last_before(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, length: int, missing: float) -> np.ndarray:
    """The last values before the ends, oldest first, [b, length].

    Args:
        values: a column of all behaviours, [m].
        starts: offsets where the histories begin, [b], in [0, m].
        ends: where they end, [b].
        length: of the rows.
        missing: fills the front of short histories.
    """
    sizes = np.clip(ends - starts, 0, length)
    if len(values) >= length:
        # A copy of consecutive values for each row is several times faster than a position for each value.
        found = np.lib.stride_tricks.sliding_window_view(values, length)[np.maximum(ends - length, 0)]
        cut = np.flatnonzero((ends < length) & (sizes > 0))  # these would begin before the column
    else:
        found, cut = np.empty((len(ends), length), values.dtype), np.flatnonzero(sizes)
    found[cut] = values[np.maximum(ends[cut, None] + np.arange(-length, 0), 0)]
    if length < len(sizes):  # a table by size is faster than a comparison per row, and smaller than the result
        is_missing = (np.arange(length) < np.arange(length, -1, -1)[:, None]).take(sizes, axis=0)
    else:
        is_missing = np.arange(length) < (length - sizes)[:, None]
    np.copyto(found, missing, where=is_missing)
    return found


def _at(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values at positions; whatever is outside gives some value, or -1 where there are none."""
    if len(values) == 0:
        return np.full(positions.shape, -1, values.dtype)
    return values[np.clip(positions, 0, len(values) - 1)]


def audit_histories(histories: Histories, owners: np.ndarray, times: np.ndarray, ends: np.ndarray) -> None:
    """Checks that no moment sees its own time or later, nor another owner's behaviours; raises DataError.

    So that the last behaviour before a moment says it of all, an owner's times may never fall, and times and moments
    must be numbers.

    Args:
        histories: of all owners.
        owners: [b], -1 for nobody.
        times: the moments, [b].
        ends: where each history ends, [b], as `ends_before` gives it.
    """
    _audit_order(histories)
    _refuse((owners < -1) | (owners >= len(histories)), lambda row: f"owner {owners[row]} of {len(histories)}")
    _refuse(np.isnan(times), lambda row: "its moment is NaN")
    known = owners >= 0
    starts, last = _bounds(histories, owners)
    _refuse(
        known & ((ends < starts) | (ends > last)),
        lambda row: f"its history ends at {ends[row]}, outside that of its owner {owners[row]}",
    )
    _refuse(
        known & (ends > starts) & (_at(histories.times, ends - 1) >= times),
        lambda row: (
            f"at {times[row]} its history has a behaviour of {histories.times[ends[row] - 1]}; histories must end "
            "before the moment"
        ),
    )


def _audit_order(histories: Histories) -> None:
    starts, values = histories.starts, histories.times
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(values) or (np.diff(starts) < 0).any():
        raise DataError(f"the owners' starts do not rise from 0 to {len(values)}; build_histories gives such ones")
    is_bad = np.isnan(values)
    is_bad[1:] |= values[1:] < values[:-1]
    is_first = np.zeros(len(values), bool)
    is_first[starts[:-1][starts[:-1] < len(values)]] = True
    bad = np.flatnonzero(is_bad & ~(is_first & ~np.isnan(values)))
    if len(bad):
        owner = np.searchsorted(starts, bad[0], side="right") - 1
        raise DataError(
            f"owner {owner}: behaviour {bad[0]} has time {values[bad[0]]} and comes after one of "
            f"{values[max(bad[0] - 1, 0)]}; times must not fall within an owner: sort the events by time"
        )


def _refuse(is_bad: np.ndarray, text: Callable[[int], str]) -> None:
    bad = np.flatnonzero(is_bad)
    if len(bad):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise DataError(f"row {bad[0]}{more}: {text(int(bad[0]))}")
