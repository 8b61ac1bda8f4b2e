"""What a data set is: node tables, relations, events, trees, availability, splits and candidate lists. No jax here."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lsec_jax.schema.tables import (
    FEATURE_KINDS,
    NAME_RULE,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Availability,
    Candidates,
    DataError,
    EventNodes,
    Events,
    EventTruth,
    Feature,
    Histories,
    NodeTable,
    Relation,
    Tree,
    Truth,
    is_name,
    split_name,
)
from lsec_jax.schema.validation import find_problems
from lsec_jax.schema.validation.quarantine import quarantine
from lsec_jax.schema.views import View

__all__ = [
    "FEATURE_KINDS",
    "FINGERPRINT_VERSION",
    "NAME_RULE",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Availability",
    "Candidates",
    "DataError",
    "EventNodes",
    "EventTruth",
    "Events",
    "Feature",
    "Histories",
    "LiveCommerceData",
    "NodeTable",
    "Relation",
    "Tree",
    "Truth",
    "View",
    "is_name",
    "split_name",
]

FINGERPRINT_VERSION = 2


@dataclasses.dataclass(frozen=True)
class LiveCommerceData:
    """One live-commerce data set. Everything but the nodes is optional; a model names what it needs.

    Attributes:
        name: for reports.
        nodes: node tables by type, with their features.
        relations: relations by name.
        events: tables of events by name, e.g. "impression", "gift", "response".
        trees: over the nodes of a type, by type, e.g. "scenario".
        histories: behaviour sequences by name, derived from events (`sequences.add_histories`).
        views: views of graphs by name, derived from relations (`views.add_views`).
        candidates: published candidate lists by (relation, split code); generated ones are not stored here.
        cut_times: (start of validation, start of test) where the split is chronological.
        end_time: end of the observed period (exclusive), where there is time.
        has_dates: whether the source's times are dates; they are then in seconds since 1970 UTC.
        truth: true probabilities, for simulated worlds only.
        availability: when nodes can be bought, by node type, where it is known; counts for relations' targets.
        counts: what reading found and did, e.g. {"buy: duplicate rows dropped": 12}; printed and stored in reports.
        prepared_with: of prepared data: the settings that its splits, histories, views and frozen candidates come
            from, JSON: {"split": ..., "tasks": [...], "histories": [...], "views": [...], "frozen_candidates": ...},
            "views" only where there are some; other ones are refused.
    """

    name: str
    nodes: Mapping[str, NodeTable]
    relations: Mapping[str, Relation]
    candidates: Mapping[tuple[str, int], Candidates] = dataclasses.field(default_factory=dict)
    cut_times: tuple[float, float] | None = None
    end_time: float | None = None
    has_dates: bool = False
    truth: Truth | None = None
    availability: Mapping[str, Availability] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    events: Mapping[str, Events] = dataclasses.field(default_factory=dict)
    trees: Mapping[str, Tree] = dataclasses.field(default_factory=dict)
    histories: Mapping[str, Histories] = dataclasses.field(default_factory=dict)
    views: Mapping[str, View] = dataclasses.field(default_factory=dict)
    prepared_with: Mapping[str, Any] | None = None

    def relation(self, name: str) -> Relation:
        """Returns a relation, or raises DataError naming the ones there are."""
        if name not in self.relations:
            there = ", ".join(sorted(self.relations)) or "none"
            raise DataError(
                f"relation '{name}' is not in data set '{self.name}'; it has: {there}. "
                "Change the config's relations and tasks, or add the relation to the data source."
            )
        return self.relations[name]

    def events_of(self, name: str) -> Events:
        """Returns a table of events, or raises DataError naming the ones there are."""
        if name not in self.events:
            there = ", ".join(sorted(self.events)) or "none"
            raise DataError(
                f"data set '{self.name}' has no events '{name}'; it has: {there}. Choose a source that has them "
                "(docs/data-formats.md, 'What each source has')."
            )
        return self.events[name]

    def histories_of(self, name: str) -> Histories:
        """Returns behaviour sequences, or raises DataError naming the ones there are."""
        if name not in self.histories:
            there = ", ".join(sorted(self.histories)) or "none"
            raise DataError(
                f"data set '{self.name}' has no histories '{name}'; it has: {there}. Add them to the config's "
                "histories, and prepare the data again if it was prepared."
            )
        return self.histories[name]

    def view_of(self, name: str) -> View:
        """Returns a view of a graph, or raises DataError naming the ones there are."""
        if name not in self.views:
            there = ", ".join(sorted(self.views)) or "none"
            raise DataError(
                f"data set '{self.name}' has no view '{name}'; it has: {there}. Add it to the config's views, and "
                "prepare the data again if it was prepared."
            )
        return self.views[name]

    def tree_of(self, node_type: str) -> Tree:
        """Returns the tree over the nodes of a type, or raises DataError naming the ones there are."""
        if node_type not in self.trees:
            there = ", ".join(sorted(self.trees)) or "none"
            raise DataError(
                f"data set '{self.name}' has no tree over '{node_type}'; it has: {there}. Choose a source that has one "
                "(docs/data-formats.md, 'What each source has')."
            )
        return self.trees[node_type]

    def split_window(self, split: int) -> tuple[float, float] | None:
        """Returns (start, end) of the validation or test period, or None where the split is not chronological."""
        if self.cut_times is None or self.end_time is None:
            return None
        return self.cut_times if split == VALIDATION else (self.cut_times[1], self.end_time)

    def offered(self, node_type: str, split: int) -> np.ndarray | None:
        """Whether each node is available at some time of the validation or test period, [n] bool.

        None = all of them: the node type has no availability, or the split is not chronological.

        Raises:
            DataError: none is.
        """
        window = self.split_window(split)
        if node_type not in self.availability or window is None:
            return None
        found = self.availability[node_type].overlaps(*window)
        if not found.any():
            name, period = split_name(split), " to ".join(map(self.time_text, window))
            raise DataError(
                f"no {node_type} is available at any time of the {name} period ({period}); check the windows"
            )
        return found

    def time_text(self, time: float) -> str:
        """Returns a finite time as sources read it: an ISO 8601 date where they are dates, else the number."""
        if not self.has_dates:
            return repr(float(time))
        date = np.datetime64(round(time * 1e6), "us")
        return str(np.datetime_as_string(date, unit="auto", timezone="UTC"))

    def validate(self) -> None:
        """Checks all tables; raises one DataError that lists every problem found."""
        problems = find_problems(self)
        if problems:
            raise DataError(f"data set '{self.name}' cannot be used:\n  " + "\n  ".join(map(str, problems)))

    def quarantined(self) -> "LiveCommerceData":
        """Returns the data without the rows that `validate` would refuse, of relations and events; `counts` has them.

        The truth of events is then of the rows that are left.

        Raises:
            DataError: for problems that leaving rows out does not solve, all at once.
        """
        return quarantine(self)

    def fingerprint(self, version: int = FINGERPRINT_VERSION) -> str:
        """SHA-256 over everything but name, truth, counts, histories and where it comes from, hex.

        Equal for equal data, whatever the source's path and the order of the rows of relations and candidate lists.

        Args:
            version: 1 is that of workdirs written before there were versions: it leaves out cut times, end time and
                whether times are dates, and tells equal ids stored in another width apart. Data without these have one
                fingerprint in all versions.
        """
        digest = hashlib.sha256()
        for text, values in self._hashed(version):
            digest.update(text.encode())
            digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def _hashed(self, version: int) -> Iterator[tuple[str, np.ndarray | None]]:
        for name, table in sorted(self.nodes.items()):
            yield f"{name}:{table.ids.dtype.kind}:{len(table)}", table.ids if version == 1 else _narrow(table.ids)
            yield from _hashed_features(table.features)
        for name, relation in sorted(self.relations.items()):
            order = np.lexsort((relation.target_ids, relation.source_ids))
            text = f"{name}:{relation.source}:{relation.target}:{len(relation)}"
            for column in ("source_ids", "target_ids", "time", "weight", "split"):
                values = getattr(relation, column)
                yield text, None if values is None else values[order]
                text = ""
        for (name, split), lists in sorted(self.candidates.items()):
            order = np.argsort(lists.source_ids)
            text = f"{name}:{split}:{lists.target_ids.shape}"
            for values in (lists.source_ids, lists.target_ids, lists.labels):
                yield text, values[order]
                text = ""
        for name, availability in sorted(self.availability.items()):
            yield f"availability:{name}:{len(availability.start)}", availability.start
            yield "", availability.end
        for name, events in sorted(self.events.items()):
            yield f"events:{name}:{len(events)}", events.time
            for role, nodes in sorted(events.nodes.items()):
                yield f"{role}:{nodes.node_type}", nodes.ids
            for column, values in sorted(events.values.items()):
                yield f"{column}:{values.dtype}", values
            yield from _hashed_features(events.features)
            for column in ("group", "split"):
                yield column, getattr(events, column)
            if events.parent is not None:
                yield f"parent:{events.parent[0]}", events.parent[1]
        for name, tree in sorted(self.trees.items()):
            yield f"tree:{name}:{len(tree.parents)}", tree.parents
        if version == 1:
            return
        # Only where they are set: data without them keep their fingerprints.
        if self.cut_times is not None:
            yield "cut_times", np.array(self.cut_times, np.float64)
        if self.end_time is not None:
            yield "end_time", np.array(self.end_time, np.float64)
        if self.has_dates:
            yield "has_dates", None
        for name, view in sorted(self.views.items()):
            yield f"view:{name}:{view.node_type}:{len(view)}", view.starts
            yield "", view.neighbours

    def replace(self, **changes: Any) -> "LiveCommerceData":
        """Returns a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


def _narrow(ids: np.ndarray) -> np.ndarray:
    """Texts in the width that the longest one needs."""
    return ids.astype(f"U{np.char.str_len(ids).max(initial=1)}") if ids.dtype.kind == "U" else ids


def _hashed_features(features: Mapping[str, Feature]) -> Iterator[tuple[str, np.ndarray]]:
    for name, feature in sorted(features.items()):
        yield f"feature:{name}:{feature.kind}:{feature.values.shape}:{feature.vocabulary!r}", feature.values
