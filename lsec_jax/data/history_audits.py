"""Looks for moments whose histories know more than was known at the time; in blocks, O(moments log behaviours)."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lsec_jax.config import HistoryConfig
from lsec_jax.config_json import from_dict
from lsec_jax.data.columns import blocks
from lsec_jax.data.sequences import ends_before, last_items
from lsec_jax.schema import DataError, Events, Histories, LiveCommerceData
from lsec_jax.schema.validation.histories import history_problems
from lsec_jax.schema.validation.problems import rows_where


def audit_all_histories(data: LiveCommerceData) -> None:
    """Checks every history of the data, in both layouts; raises DataError with all that is wrong.

    Behaviours must be those of their owners in the table of events that they come from, at its times. A moment must
    not see a behaviour that is known at its own time or later (time + delay), nor one of another owner; stored last
    items must be the ones that come from the behaviours before the moment.
    """
    problems = []
    for name in sorted(data.histories):
        of = _with_settings(data, name)
        found = list(map(str, history_problems(name, of, data.nodes, data.events)))
        problems += found or [f"histories '{name}'{text}" for text in _problems(data, of)]
    if problems:
        raise DataError(f"data set '{data.name}' has histories that cannot be trusted:\n  " + "\n  ".join(problems))


def _with_settings(data: LiveCommerceData, name: str) -> Histories:
    """The histories with what they were derived by; stores of before these fields have it in their settings only."""
    of = data.histories[name]
    for i, settings in enumerate((data.prepared_with or {}).get("histories", ())):
        if not of.events and settings["name"] == name:
            config = from_dict(HistoryConfig, settings, key=f"manifest.source.histories[{i}]")
            return dataclasses.replace(of, owner_role=config.owner, events=config.events, delay=config.delay)
    return of


def _problems(data: LiveCommerceData, of: Histories) -> Iterator[str]:
    if of.events:
        yield from _behaviour_problems(of, data.events[of.events])
    elif of.last:
        yield (
            ": they do not say which events they come from, so their last items cannot be checked; derive them by "
            "sequences.add_histories, or prepare the data again"
        )
    for name, ends in of.ends.items():
        yield from _end_problems(of, data.events[name], ends)
    for name, last in of.last.items() if of.events else ():
        yield from _last_problems(of, data.events[name], last)


def _behaviour_problems(of: Histories, events: Events) -> Iterator[str]:
    owners = of.owners_of(events)
    is_wrong = {"owner": 0, "time": 0}
    for block in blocks(len(of.items)):
        rows = of.rows[block]
        own = np.searchsorted(of.starts, np.arange(block.start, block.stop), side="right") - 1
        is_wrong["owner"] += int((owners[rows] != own).sum())
        is_wrong["time"] += int((events.time[rows] != of.times[block]).sum())
    for what, count in is_wrong.items():
        if count:
            yield f": {count} behaviours have another {what} than their events '{events.name}'"


def _end_problems(of: Histories, moments: Events, ends: np.ndarray) -> Iterator[str]:
    owners = of.owners_of(moments)

    def is_late(rows: slice) -> np.ndarray:
        return (owners[rows] >= 0) & (ends[rows] > ends_before(of, owners[rows], moments.time[rows], of.delay))

    if len(bad := rows_where(len(ends), is_late)):
        first, delay = bad[0], f", known {of.delay:g} later" if of.delay else ""
        yield (
            f", moments '{moments.name}': {len(bad)} see a behaviour that was not known yet, e.g. row {first}: at "
            f"{moments.time[first]} one of {of.times[ends[first] - 1]}{delay}"
        )


def _last_problems(of: Histories, moments: Events, last: np.ndarray) -> Iterator[str]:
    owners = of.owners_of(moments)

    def differ(rows: slice) -> np.ndarray:
        ends = ends_before(of, owners[rows], moments.time[rows], of.delay)
        return (last[rows] != last_items(of, owners[rows], ends, last.shape[1])).any(axis=1)

    if len(bad := rows_where(len(last), differ)):
        yield (
            f", moments '{moments.name}': {len(bad)} have other last items than those of the behaviours known before "
            f"them, e.g. row {bad[0]}"
        )
