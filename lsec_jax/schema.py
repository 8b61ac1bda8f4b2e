"""What a data set is: node tables, relations, splits and candidate lists, with their validation. No jax here."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
NAME_RULE = "names are letters, digits, _ and -, and begin with no -, as files are named after them; rename it"


class DataError(ValueError):
    """Input data that cannot be used; the message names the place (file, row, column or key) and the remedy."""


def is_name(text: str) -> bool:
    """Whether a node type or relation may have this name: one that cannot leave the folder it names a file in."""
    return re.fullmatch(r"\w[\w-]*", text) is not None


@dataclasses.dataclass(frozen=True)
class NodeTable:
    """All nodes of one type.

    Attributes:
        name: node type, e.g. "user".
        ids: the source's own ids, unique, [n], int64 or a numpy string dtype; position is the internal index.
    """

    name: str
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    def index_of(self, external_ids: np.ndarray) -> np.ndarray:
        """Maps external ids [m] to internal indices [m], int64; -1 where an id is unknown.

        Integer tables accept the decimal text of their ids, string tables the integers that their ids spell.
        """
        wanted = np.asarray(external_ids)
        if len(self.ids) == 0 or len(wanted) == 0:
            return np.full(len(wanted), -1, np.int64)
        if wanted.dtype.kind != self.ids.dtype.kind:
            sorted_ids = self.ids.astype(np.str_)
            order = np.argsort(sorted_ids, kind="stable")
            sorted_ids, wanted = sorted_ids[order], wanted.astype(np.str_)
        else:
            order, sorted_ids = self._order, self.ids[self._order]
        at = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
        return np.where(sorted_ids[at] == wanted, order[at], -1).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Relation:
    """Binary or weighted edges between two node types (Def. 1-3 of LSEC-GNN), each pair at most once.

    Attributes:
        name: e.g. "buy".
        source, target: node types at the two ends.
        source_ids, target_ids: internal indices, [e] int32.
        time: time of the pair's first occurrence, [e] float64 (any unit, one unit per data set), or None.
        weight: [e] float32 or None (all ones).
        split: [e] int8 of TRAIN / VALIDATION / TEST, or None until `splits.assign_splits` has run.
    """

    name: str
    source: str
    target: str
    source_ids: np.ndarray
    target_ids: np.ndarray
    time: np.ndarray | None = None
    weight: np.ndarray | None = None
    split: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.source_ids)

    def edges(self, split: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (source_ids, target_ids) of one split, sorted by source, then target."""
        rows = self._rows_of(split)
        return self.source_ids[rows], self.target_ids[rows]

    def edge_weights(self, split: int) -> np.ndarray:
        """Returns the weights of one split, [e] float32, in the order of `edges`."""
        rows = self._rows_of(split)
        return np.ones(len(rows), np.float32) if self.weight is None else self.weight[rows]

    def edge_times(self, split: int) -> np.ndarray | None:
        """Returns the times of one split, [e] float64, in the order of `edges`; None where there are none."""
        return None if self.time is None else self.time[self._rows_of(split)]

    def _rows_of(self, split: int) -> np.ndarray:
        assert self.split is not None, f"relation '{self.name}' has not been split yet"
        rows = np.flatnonzero(self.split == split)
        return rows[np.lexsort((self.target_ids[rows], self.source_ids[rows]))]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Candidate lists of one relation and split: every evaluated source node has the same number of candidates.

    Attributes:
        source_ids: evaluated source nodes, [b] int32, unique.
        target_ids: [b, k] int32.
        labels: [b, k] bool, True = positive.
        origin: one line for the reports, e.g. "generated, N=1000, seed 0" or the file's name.
    """

    source_ids: np.ndarray
    target_ids: np.ndarray
    labels: np.ndarray
    origin: str


@dataclasses.dataclass(frozen=True)
class Availability:
    """When the nodes of one type can be bought (or followed, ...): half-open windows [start, end).

    Attributes:
        start: in the unit of the relations' times, [n] float64; -inf where it is not known.
        end: exclusive, above the start, [n] float64; inf where it is not known.
    """

    start: np.ndarray
    end: np.ndarray

    def at(self, time: float | np.ndarray, ids: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Whether nodes (default: all) are available at a time, or each at its own, [n] or [len(ids)] bool."""
        return (self.start[ids] <= time) & (time < self.end[ids])

    def overlaps(self, start: float, end: float) -> np.ndarray:
        """Whether each node is available at some time of [start, end), [n] bool."""
        return (self.start < end) & (self.end > start)


@runtime_checkable
class Truth(Protocol):
    """The true probabilities of a simulated world, kept apart from the data for oracle rows."""

    @property
    def relations(self) -> tuple[str, ...]:
        """Those it has probabilities for."""
        ...

    def probabilities(self, relation: str, source_ids: np.ndarray, start: float, end: float) -> np.ndarray:
        """P(the pair first occurs in [start, end) | not before), [b, n_targets] float32."""
        ...


@dataclasses.dataclass(frozen=True)
class LiveCommerceData:
    """One live-commerce data set.

    Attributes:
        name: for reports.
        nodes: node tables by type.
        relations: relations by name.
        candidates: published candidate lists by (relation, split code); generated ones are not stored here.
        cut_times: (start of validation, start of test) where the split is chronological.
        end_time: end of the observed period (exclusive), where there is time.
        has_dates: whether the source's times are dates; they are then in seconds since 1970 UTC.
        truth: true probabilities, for simulated worlds only.
        availability: when nodes can be bought, by node type, where it is known; counts for relations' targets.
        counts: what reading found and did, e.g. {"buy: duplicate rows dropped": 12}; printed and stored in reports.
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

    def relation(self, name: str) -> Relation:
        """Returns a relation, or raises DataError naming the ones there are."""
        if name not in self.relations:
            raise DataError(
                f"relation '{name}' is not in data set '{self.name}'; it has: {', '.join(sorted(self.relations))}. "
                "Change the config's relations and tasks, or add the relation to the data source."
            )
        return self.relations[name]

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
            name, period = "validation" if split == VALIDATION else "test", " to ".join(map(self.time_text, window))
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
        problems = [
            f"{kind} {name!r}: {NAME_RULE}"
            for kind, names in (("node type", self.nodes), ("relation", self.relations))
            for name in names
            if not is_name(name)
        ]
        for table in self.nodes.values():
            if _has_duplicates(table.ids):
                problems.append(f"node table '{table.name}': ids are not unique")
        for relation in self.relations.values():
            problems += _relation_problems(relation, self.nodes)
        for name, availability in self.availability.items():
            problems += _availability_problems(name, availability, self.nodes)
        if problems:
            raise DataError(f"data set '{self.name}' cannot be used:\n  " + "\n  ".join(problems))

    def fingerprint(self) -> str:
        """SHA-256 over node ids, relations (with time, weight and split), candidate lists and availability, hex.

        Equal for equal data, whatever the source's path and the order of its rows.
        """
        digest = hashlib.sha256()
        for name, table in sorted(self.nodes.items()):
            digest.update(f"{name}:{table.ids.dtype.kind}:{len(table)}".encode())
            digest.update(np.ascontiguousarray(table.ids).tobytes())
        for name, relation in sorted(self.relations.items()):
            digest.update(f"{name}:{relation.source}:{relation.target}:{len(relation)}".encode())
            order = np.lexsort((relation.target_ids, relation.source_ids))
            for column in ("source_ids", "target_ids", "time", "weight", "split"):
                values = getattr(relation, column)
                digest.update(b"none" if values is None else np.ascontiguousarray(values[order]).tobytes())
        for (name, split), lists in sorted(self.candidates.items()):
            digest.update(f"{name}:{split}:{lists.target_ids.shape}".encode())
            order = np.argsort(lists.source_ids)
            for values in (lists.source_ids, lists.target_ids, lists.labels):
                digest.update(np.ascontiguousarray(values[order]).tobytes())
        for name, availability in sorted(self.availability.items()):
            digest.update(f"availability:{name}:{len(availability.start)}".encode())
            for values in (availability.start, availability.end):
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def replace(self, **changes: Any) -> "LiveCommerceData":
        """Returns a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


def _has_duplicates(values: np.ndarray) -> bool:
    ordered = np.sort(values)
    return bool((ordered[1:] == ordered[:-1]).any())


def _relation_problems(relation: Relation, nodes: Mapping[str, NodeTable]) -> list[str]:
    where = f"relation '{relation.name}'"
    missing = [end for end in (relation.source, relation.target) if end not in nodes]
    if missing:
        return [f"{where}: no node table '{name}' (tables: {', '.join(sorted(nodes))})" for name in missing]
    if len(relation) == 0:
        return [f"{where}: has no edges; remove it from the source or check the file"]
    problems = []
    for end, ids in ((relation.source, relation.source_ids), (relation.target, relation.target_ids)):
        bad = np.flatnonzero((ids < 0) | (ids >= len(nodes[end])))
        if len(bad):
            problems.append(f"{where}, row {bad[0]}: {end} index {ids[bad[0]]} outside 0..{len(nodes[end]) - 1}")
    for column in ("time", "weight"):
        values = getattr(relation, column)
        if values is not None and not np.isfinite(values).all():
            problems.append(f"{where}, row {np.flatnonzero(~np.isfinite(values))[0]}: {column} is not finite")
    keys = relation.source_ids.astype(np.int64) * len(nodes[relation.target]) + relation.target_ids
    if _has_duplicates(keys):
        problems.append(f"{where}: some pairs occur twice; sources keep the first occurrence")
    return problems


def _availability_problems(name: str, availability: Availability, nodes: Mapping[str, NodeTable]) -> list[str]:
    where = f"availability of '{name}'"
    if name not in nodes:
        return [f"{where}: no such node table (tables: {', '.join(sorted(nodes))})"]
    shape = (len(nodes[name]),)
    for column in ("start", "end"):
        values = getattr(availability, column)
        if values.shape != shape or values.dtype != np.float64:
            expected = f"one float64 for each of the {shape[0]} nodes"
            return [f"{where}: {column} is {values.dtype} of shape {values.shape}; give {expected}"]
    bad = np.flatnonzero(~(availability.start < availability.end))  # also NaN
    if len(bad) == 0:
        return []
    window = f"start {availability.start[bad[0]]}, end {availability.end[bad[0]]}"
    return [f"{where}: {name} {nodes[name].ids[bad[0]]}: {window}; the start must lie before the end"]
