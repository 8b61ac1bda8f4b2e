"""What an encoder learns of the training rows: which ids have rows of their own, and how numbers are spread. No jax."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.declared_columns import (
    Columns,
    Declared,
    RecordColumns,
    SequenceColumns,
    id_sources,
    number_sources,
    transform_of,
)
from lsec_jax.data.event_columns import take_or
from lsec_jax.data.normalisation import Scale, ScaleFit, from_fitted, to_fitted
from lsec_jax.data.splits import event_rows
from lsec_jax.data.vocabularies import fit_vocabulary
from lsec_jax.declaration import Declaration, Table
from lsec_jax.schema import TRAIN, DataError, Events, LiveCommerceData
from lsec_jax.schema.blocks import blocks

VERSION = 1
_SAMPLE_ROWS = 2**14  # training rows whose histories say how numbers of behaviours are spread


@dataclasses.dataclass(frozen=True)
class LearnedPath:
    """What an encoder has learned of a declared path.

    Attributes:
        nodes: external ids behind the rows of its table from 1 on.
        trained: of the nodes that training shows.
        depth: levels of the tree.
    """

    nodes: np.ndarray
    trained: np.ndarray
    depth: int

    def to_json(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return {"nodes": self.nodes.tolist(), "trained": self.trained.tolist(), "depth": self.depth}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LearnedPath":
        """Returns what `to_json` stored."""
        return cls(_ids(stored["nodes"]), _ids(stored["trained"]), int(stored["depth"]))


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What an encoder has learned.

    Attributes:
        vocabularies: external ids by table, the first one in row 1; none for tables of hashed ids.
        scales: by field of numbers.
        label_means: mean answers by label; 0 where no training row has one.
        paths: by name of the path.
    """

    vocabularies: Mapping[str, np.ndarray]
    scales: Mapping[str, Scale]
    label_means: Mapping[str, float]
    paths: Mapping[str, LearnedPath] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return {
            "version": VERSION,
            "vocabularies": {name: ids.tolist() for name, ids in self.vocabularies.items()},
            "scales": {name: to_fitted(scale) for name, scale in self.scales.items()},
            "label_means": dict(self.label_means),
            # Only where there are some: what was stored before there were paths has no such key.
            **({"paths": {name: of.to_json() for name, of in self.paths.items()}} if self.paths else {}),
        }


def from_json(
    stored: Mapping[str, Any], tables: Sequence[str], fields: Sequence[Declared], paths: Sequence[str] = ()
) -> Fitted:
    """Returns what `Fitted.to_json` stored.

    Args:
        stored: of a declaration that is equal to this one.
        tables: that have a vocabulary.
        fields: of numbers that are standardised.
        paths: names of declared paths.

    Raises:
        ConfigError: it was fitted for another declaration, or by another version.
    """
    remedy = "fit a new encoder, or use the declaration that this was fitted for"
    if stored.get("version") != VERSION:
        raise ConfigError(f"the stored encoder has version {stored.get('version')}, not {VERSION}; {remedy}")
    numbers = {declared.name: declared for declared in fields}
    for part, wanted in (("vocabularies", {*tables}), ("scales", {*numbers}), ("paths", {*paths})):
        there = {*stored.get(part, ())}
        if wanted != there:
            raise ConfigError(
                f"the stored encoder has {part} of: {', '.join(sorted(there)) or 'none'}; the declaration needs "
                f"those of: {', '.join(sorted(wanted)) or 'none'}; {remedy}"
            )
    scales = {name: from_fitted(stored["scales"][name], transform_of(of)) for name, of in numbers.items()}
    for name, scale in scales.items():
        size = numbers[name].source.size  # type: ignore[union-attr]
        if len(scale.mean) != size:
            raise ConfigError(f"the stored encoder has {len(scale.mean)} numbers of '{name}', not {size}; {remedy}")
    vocabularies = {name: _ids(ids) for name, ids in stored["vocabularies"].items()}
    known = {name: LearnedPath.from_json(of) for name, of in stored.get("paths", {}).items()}
    return Fitted(vocabularies, scales, dict(stored["label_means"]), known)


def _ids(stored: list[Any]) -> np.ndarray:
    return np.array(stored, np.str_ if stored and isinstance(stored[0], str) else np.int64)


def fit(
    data: LiveCommerceData,
    declaration: Declaration,
    records: RecordColumns,
    sequences: Sequence[SequenceColumns],
    tables: Mapping[str, Table],
    answers: Callable[[np.ndarray], np.ndarray],
) -> Fitted:
    """Learns from the training rows alone.

    Args:
        data: split.
        declaration: validated.
        records: columns of its fields.
        sequences: of its sequences.
        tables: the settings of those that have a vocabulary.
        answers: rows [b] -> their labels, [b, m].

    Raises:
        DataError: there are no training rows, or the events have no split.
    """
    events = data.events_of(declaration.events)
    train = event_rows(data, events, TRAIN)
    num_rows = len(range(*train.indices(len(events)))) if isinstance(train, slice) else len(train)
    if not num_rows:
        raise DataError(f"events '{events.name}' have no training rows; give another split (config.split)")
    readers: list[Columns] = [records, *sequences]
    counts = {
        declared.name: np.zeros(len(source.external), np.int64)
        for of in readers
        for declared, source in id_sources(of.fields)
        if declared.table in tables
    }
    scales = {
        declared.name: ScaleFit(source.size, transform_of(declared))
        for of in readers
        for declared, source in number_sources(of.fields)
    }
    sums, defined = np.zeros((2, len(declaration.labels)))
    for rows in _blocks_of(train, len(events)):
        found = answers(rows)
        sums += np.nansum(found, axis=0, dtype=np.float64)
        defined += (~np.isnan(found)).sum(axis=0)
        batch = records(rows)
        for declared, source in id_sources(records.fields):
            if declared.name in counts:
                _count(source.codes_of(batch), counts[declared.name])
        for declared, number in number_sources(records.fields):
            scales[declared.name].add(number.values_of(batch))
    for sequence in sequences:
        _count_behaviours(data, events, sequence, train, counts)
        _sample_behaviours(sequence, _sample(train, num_rows, len(events)), scales)
    vocabularies = {}
    for name, table in tables.items():
        seen = [
            (source.external, counts[declared.name])
            for of in readers
            for declared, source in id_sources(of.fields)
            if declared.table == name
        ]
        if table.has_all:
            seen = [(ids, np.ones(len(ids), np.int64)) for ids, _ in seen]
        vocabularies[name] = fit_vocabulary(seen, table.min_count, table.max_size)
    means = (sums / np.maximum(defined, 1)).tolist()
    label_means = {label.name: mean for label, mean in zip(declaration.labels, means, strict=True)}
    return Fitted(vocabularies, {name: of.scale() for name, of in scales.items()}, label_means)


def _blocks_of(train: slice | np.ndarray, num_events: int) -> Iterator[np.ndarray]:
    if isinstance(train, slice):
        start, stop, _ = train.indices(num_events)
        yield from (np.arange(start + block.start, start + block.stop) for block in blocks(stop - start))
    else:
        yield from (train[block] for block in blocks(len(train)))


def _sample(train: slice | np.ndarray, num_rows: int, num_events: int) -> np.ndarray:
    """Training rows at even distances."""
    at = np.arange(min(num_rows, _SAMPLE_ROWS)) * num_rows // min(num_rows, _SAMPLE_ROWS)
    return at + train.indices(num_events)[0] if isinstance(train, slice) else train[at]


def _count(codes: np.ndarray, counts: np.ndarray) -> None:
    counts += np.bincount(codes[codes >= 0], minlength=len(counts))


def _count_behaviours(
    data: LiveCommerceData,
    events: Events,
    sequence: SequenceColumns,
    train: slice | np.ndarray,
    counts: Mapping[str, np.ndarray],
) -> None:
    """Counts each behaviour that a training row could see, once. Of materialised histories, as often as it is shown."""
    fields = [(declared, source) for declared, source in id_sources(sequence.fields) if declared.name in counts]
    histories = data.histories_of(sequence.declared.history)
    if not fields:
        return
    if events.name not in histories.ends:
        for rows in _blocks_of(train, len(events)):
            batch = sequence(rows)
            for declared, source in fields:
                _count(source.codes_of(batch), counts[declared.name])
        return
    visible = histories.starts[:-1].copy()
    owners, ends = histories.owners_of(events), histories.ends[events.name]
    for rows in _blocks_of(train, len(events)):
        known = rows[owners[rows] >= 0]
        np.maximum.at(visible, owners[known], ends[known])
    table = data.events_of(histories.events) if histories.events else None
    for block in blocks(len(histories.items)):
        positions = np.arange(block.start, block.stop)
        owner = np.searchsorted(histories.starts, positions, side="right") - 1
        seen = positions[positions < visible[owner]]
        for declared, source in fields:
            name = source.place[1]
            column = (
                histories.items[seen]
                if table is None or name == "items"
                else (take_or(np.asarray(table.ids(name)), histories.rows[seen], -1))
            )
            _count(source.codes_of({"histories": {name: column}}), counts[declared.name])


def _sample_behaviours(sequence: SequenceColumns, rows: np.ndarray, scales: Mapping[str, ScaleFit]) -> None:
    for block in blocks(len(rows), 1024):
        batch = sequence(rows[block])
        is_there = batch["histories"]["items"].reshape(-1) >= 0
        for declared, source in number_sources(sequence.fields):
            scales[declared.name].add(source.values_of(batch)[is_there])
