"""What `python -m lsec_jax.prepare` wrote: memory-mapped columns, the same data as its source's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from lsec_jax.config import ConfigError
from lsec_jax.config_json import from_dict
from lsec_jax.data import store
from lsec_jax.data.files import expand_path
from lsec_jax.data.manifest import check_source
from lsec_jax.schema import DataError, EventTruth, LiveCommerceData, Truth


@dataclasses.dataclass
class Config:
    """Reads a prepared directory.

    Attributes:
        path: the directory; `~` and `${VARIABLES}` are expanded.
        verify: compare every column's SHA-256 with the manifest's, which reads everything.
    """

    path: str = ""
    verify: bool = False

    def load(self) -> LiveCommerceData:
        """Maps the columns; raises DataError for a directory that is incomplete or damaged."""
        root = expand_path(self.path)
        manifest = store.read_manifest(root)
        check_source(manifest, root / store.MANIFEST)
        source = manifest["source"]
        settings = {key: source[key] for key in ("split", "tasks", "histories")}
        settings |= {"views": source["views"]} if "views" in source else {}
        settings["frozen_candidates"] = source.get("frozen_candidates")
        data = store.read(root, self.verify).replace(prepared_with=settings)
        relations = tuple(manifest["data"]["truth"])
        if not relations:
            return data
        try:
            world = _World(source["data"], source["quarantine"], {name: len(of) for name, of in data.events.items()})
        except ConfigError as error:
            logging.warning("%s: there will be no oracle, as its source cannot be simulated again: %s", root, error)
            return data
        deferred = _DeferredEventTruth if manifest["data"]["has_event_truth"] else _DeferredTruth
        return data.replace(truth=deferred(relations, world))


class _World:
    """The simulated world that prepared data come from; it is simulated again when its truth is first asked."""

    def __init__(self, source: Mapping[str, Any], is_quarantined: bool, num_events: Mapping[str, int]):
        """Takes the source's config as JSON, whether wrong rows were left out, and the events' rows in the store."""
        self._source = from_dict(Any, source, key="manifest.source.data")
        self._is_quarantined, self._num_events = is_quarantined, num_events
        self._truth: Truth | None = None

    def truth(self) -> Truth:
        """The truth, of the same rows as in the store; raises DataError if the source has it no more."""
        if self._truth is None:
            data = self._source.load()
            data = data.quarantined() if self._is_quarantined else data
            if data.truth is None or {name: len(of) for name, of in data.events.items()} != self._num_events:
                raise DataError(
                    f"the source of the prepared data ({data.name}) has no truth any more, or other events; prepare it "
                    "again"
                )
            self._truth = data.truth
        return self._truth


class _DeferredTruth:
    """The truth of a simulated world."""

    def __init__(self, relations: tuple[str, ...], world: _World):
        self._relations, self._world = relations, world

    @property
    def relations(self) -> tuple[str, ...]:
        """Those it has probabilities for."""
        return self._relations

    def probabilities(self, relation: str, source_ids: np.ndarray, start: float, end: float) -> np.ndarray:
        """As the source's."""
        return self._world.truth().probabilities(relation, source_ids, start, end)


class _DeferredEventTruth(_DeferredTruth):
    """The same, of a world that knows the truth of its events."""

    def expected(self, events: str, column: str) -> np.ndarray:
        """As the source's, of the rows that are in the store."""
        truth = self._world.truth()
        assert isinstance(truth, EventTruth)
        return truth.expected(events, column)
