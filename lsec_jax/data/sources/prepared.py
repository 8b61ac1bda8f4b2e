"""What `python -m lsec_jax.prepare` wrote: memory-mapped columns, the same data as its source's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from lsec_jax.config import ConfigError, from_dict
from lsec_jax.data import store
from lsec_jax.data.files import expand_path
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
        source = manifest["source"]
        data = store.read(root, self.verify).replace(prepared_with={key: source[key] for key in ("split", "tasks")})
        relations = tuple(manifest["data"]["truth"])
        if not relations:
            return data
        try:
            deferred = _DeferredEventTruth if manifest["data"]["has_event_truth"] else _DeferredTruth
            return data.replace(truth=deferred(relations, source["data"]))
        except ConfigError:
            logging.warning("%s: its truth needs a source outside lsec_jax; there will be no oracle", root)
            return data


class _DeferredTruth:
    """The truth of a simulated world, which is simulated again when it is first asked."""

    def __init__(self, relations: tuple[str, ...], source: Mapping[str, Any]):
        self._relations = relations
        self._source = from_dict(Any, source, key="manifest.source.data")
        self._truth: Truth | None = None

    @property
    def relations(self) -> tuple[str, ...]:
        """Those it has probabilities for."""
        return self._relations

    def probabilities(self, relation: str, source_ids: np.ndarray, start: float, end: float) -> np.ndarray:
        """As the source's."""
        return self._load().probabilities(relation, source_ids, start, end)

    def _load(self) -> Truth:
        if self._truth is None:
            self._truth = self._source.load().truth
        if self._truth is None:
            raise DataError("the source of the prepared data has no truth any more; prepare the data again")
        return self._truth


class _DeferredEventTruth(_DeferredTruth):
    """The same, of a world that knows the truth of its events."""

    def expected(self, events: str, column: str) -> np.ndarray:
        """As the source's."""
        truth = self._load()
        assert isinstance(truth, EventTruth)
        return truth.expected(events, column)
