"""The tables of a data set: nodes with typed features, relations, events, scenarios, availability. No jax here."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
NAME_RULE = "names are letters, digits, _ and -, and begin with no -, as files are named after them; rename it"

FEATURE_KINDS = ("categorical", "ordinal", "numeric", "vector")


class DataError(ValueError):
    """Input data that cannot be used; the message names the place (file, row, column or key) and the remedy."""


def is_name(text: str) -> bool:
    """Whether a node type or relation may have this name: one that cannot leave the folder it names a file in."""
    return isinstance(text, str) and re.fullmatch(r"\w[\w-]*", text) is not None


def split_name(code: int) -> str:
    """The name of a split's code."""
    return next(name for name, value in SPLITS.items() if value == code)


@dataclasses.dataclass(frozen=True)
class Feature:
    """One typed column of a node or event table; n rows.

    Attributes:
        kind: "categorical" and "ordinal" (codes into a vocabulary, of the latter in rising order), "numeric", or
            "vector" (embeddings).
        values: codes [n] int32 with -1 = missing; numbers [n] float32 with NaN = missing; vectors [n, d] float32, a
            missing row all NaN.
        vocabulary: what the codes mean, different strings; empty for the other kinds.
    """

    kind: str
    values: np.ndarray
    vocabulary: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def is_missing(self) -> np.ndarray:
        """Where there is no value, [n] bool."""
        if self.kind in ("categorical", "ordinal"):
            return self.values < 0
        missing = np.isnan(self.values)
        return missing.all(axis=1) if self.kind == "vector" else missing

    def take(self, rows: np.ndarray) -> "Feature":
        """Returns some rows, by position or mask."""
        return dataclasses.replace(self, values=self.values[rows])


@dataclasses.dataclass(frozen=True)
class NodeTable:
    """All nodes of one type.

    Attributes:
        name: node type, e.g. "user".
        ids: the source's own ids, unique, [n], int64 or a numpy string dtype; position is the internal index.
        features: typed columns, by name.
    """

    name: str
    ids: np.ndarray
    features: Mapping[str, Feature] = dataclasses.field(default_factory=dict)

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
        weight: [e] float32 or None (all ones). Below 0 in signed relations, e.g. of rival streamers.
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

    def take(self, rows: np.ndarray) -> "Relation":
        """Returns some edges, by position or mask."""
        columns = ("source_ids", "target_ids", "time", "weight", "split")
        there = {name: getattr(self, name) for name in columns}
        return dataclasses.replace(self, **{name: of[rows] for name, of in there.items() if of is not None})

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


@dataclasses.dataclass(frozen=True)
class EventNodes:
    """Which nodes of one type take part in events.

    Attributes:
        node_type: e.g. "user".
        ids: internal indices, [n] int32; -1 where the event has none or it is not known.
    """

    node_type: str
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Events:
    """What happened, in time order: impressions, gifts, responses, comments; n rows. The same may happen many times.

    Attributes:
        name: e.g. "impression" or "gift".
        nodes: those that take part, by role, e.g. {"user": ..., "room": ..., "streamer": ...}; a role that a model may
            rely on has the name of its node type.
        time: when, never falling, [n] float64 (the data set's unit).
        values: what was measured, by name, [n] bool or float32, NaN = not defined for the event. Of impressions:
            "watched", "stay_seconds", "goods_bag_click", "product_click", "share", "propensity" (of being shown).
            Of gifts: "amount".
        features: further typed columns, by name.
        group: of events that were shown together (a request), [n] int64, or None.
        parent: (name of another table of events, its row for each event here, [n] int64, -1 = none), e.g. the gift that
            a response answers; or None.
        split: [n] int8 of TRAIN / VALIDATION / TEST, or None.
    """

    name: str
    nodes: Mapping[str, EventNodes]
    time: np.ndarray
    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    features: Mapping[str, Feature] = dataclasses.field(default_factory=dict)
    group: np.ndarray | None = None
    parent: tuple[str, np.ndarray] | None = None
    split: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.time)

    def ids(self, role: str) -> np.ndarray:
        """Returns the node indices of a role, [n] int32; raises DataError naming the roles that there are."""
        if role not in self.nodes:
            raise DataError(
                f"events '{self.name}' have no '{role}'; they have: {', '.join(self.nodes)}. Change the config, or add "
                "the column to the data source."
            )
        return self.nodes[role].ids

    def value(self, name: str) -> np.ndarray:
        """Returns a measured column, [n]; raises DataError naming the columns that there are."""
        if name not in self.values:
            there = ", ".join(self.values) or "none"
            raise DataError(
                f"events '{self.name}' have no column '{name}'; they have: {there}. Change the config, or add the "
                "column to the data source."
            )
        return self.values[name]

    def feature(self, name: str) -> Feature:
        """Returns a typed column; raises DataError naming the features that there are."""
        if name not in self.features:
            there = ", ".join(self.features) or "none"
            raise DataError(
                f"events '{self.name}' have no feature '{name}'; they have: {there}. Change the config, or add the "
                "feature to the data source."
            )
        return self.features[name]

    def take(self, rows: np.ndarray) -> "Events":
        """Returns some rows, by rising position or mask."""
        return dataclasses.replace(
            self,
            nodes={role: EventNodes(nodes.node_type, nodes.ids[rows]) for role, nodes in self.nodes.items()},
            time=self.time[rows],
            values={name: column[rows] for name, column in self.values.items()},
            features={name: feature.take(rows) for name, feature in self.features.items()},
            group=None if self.group is None else self.group[rows],
            parent=None if self.parent is None else (self.parent[0], self.parent[1][rows]),
            split=None if self.split is None else self.split[rows],
        )


@dataclasses.dataclass(frozen=True)
class Histories:
    """Behaviours of n owners (users, mostly) in time order, m in all.

    A history is one slice for all moments: a moment needs its owner and an end offset only.

    Attributes:
        owner, item: node types of the owners, and of what they acted on.
        starts: where each owner's behaviours begin, [n + 1] int64.
        items: what the owner acted on, [m] int32.
        times: when, never falling within an owner, [m] float64.
        rows: the event that each behaviour comes from, [m] int64.
        ends: by name of a table of events, where the owner's history ends for each of its rows, [rows] int64.
        last: the same in the materialised layout: the last items before each row, oldest first, [rows, length] int32,
            -1 in front of short histories. Either layout or both.
        owner_role: the owners' role in these tables of events; "" = the name of their node type.
        events: table of the behaviours, into which `rows` points; "" = not known.
        delay: time until a behaviour is known, in the data set's unit, as `ends` and `last` have it.
    """

    owner: str
    item: str
    starts: np.ndarray
    items: np.ndarray
    times: np.ndarray
    rows: np.ndarray
    ends: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    last: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    owner_role: str = ""
    events: str = ""
    delay: float = 0.0

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def role(self) -> str:
        """The owners' role in the moments' tables."""
        return self.owner_role or self.owner

    def owners_of(self, moments: Events) -> np.ndarray:
        """The owner of each row of a table of events, [rows] int32, -1 for nobody; raises DataError as `ids`."""
        return moments.ids(self.role)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A tree (or several) over the nodes of one type, e.g. of scenarios (TREEMS, Fig. 2).

    Attributes:
        parents: index of each node's parent, [n] int32; -1 for a root. A parent's index is below its children's.
    """

    parents: np.ndarray

    def depths(self) -> np.ndarray:
        """Levels above each node, [n] int32; 0 for a root."""
        depths = np.zeros(len(self.parents), np.int32)
        at = self.parents.copy()
        while (inside := at >= 0).any():
            depths += inside
            at = np.where(inside, self.parents[np.maximum(at, 0)], -1)
        return depths

    def paths(self) -> np.ndarray:
        """The nodes from the root to each node, [n, deepest + 1] int32, -1 after the node itself."""
        depths = self.depths()
        paths = np.full((len(self.parents), depths.max(initial=0) + 1), -1, np.int32)
        at, level = np.arange(len(self.parents), dtype=np.int32), depths.copy()
        while (rows := np.flatnonzero(at >= 0)).size:
            paths[rows, level[rows]] = at[rows]
            at[rows] = self.parents[at[rows]]
            level[rows] -= 1
        return paths


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


@runtime_checkable
class EventTruth(Protocol):
    """What a simulated world knows of its events, kept apart from them for oracle rows; a Truth may be one too."""

    def expected(self, events: str, column: str) -> np.ndarray:
        """Expected value of a measured column given all that came before, [n] float32; of bool ones the probability."""
        ...
