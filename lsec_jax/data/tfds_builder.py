"""Prepared data as a TensorFlow data set: a table of events in ArrayRecord files, for `tfds.data_source`.

    export = Export("impression", histories=(HistoryView("watches", 50),))
    tfds_builder.build("/data/prepared", "tfds_data", export)
    source = tfds.data_source("lsec_jax/impression", data_dir="tfds_data", split="train", download=False)

Needs the extra `tfds` (python -m pip install 'lsec_jax[tfds]'), not TensorFlow. An example is an event:

    ROLE             external id of its node, int64 or text, -1 or "" = none; with external_ids=False its row in the
                     table of nodes, int32, -1 = none
    time             float64
    group            int64, where the events have groups
    VALUE            bool or float32, NaN = not defined
    FEATURE          code int32, -1 = missing; number float32, NaN = missing; or vector float32. What codes mean is in
                     `builder.info.metadata["vocabularies"]`
    HISTORY_items    [length] ids as those of roles, the newest last, short ones filled in front; also HISTORY_ages and
                     HISTORY_COLUMN, as the view says

The splits train, validation and test are those of the data; one without events is left out. Examples are in time order.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.config_json import differences, to_json
from lsec_jax.data import store
from lsec_jax.data.columns import blocks
from lsec_jax.data.event_columns import EventColumns, HistoryView, take_or
from lsec_jax.data.files import expand_path
from lsec_jax.data.splits import event_rows
from lsec_jax.schema import SPLITS, DataError, Events, LiveCommerceData

FILE_FORMAT = "array_record"
_BLOCK_EXAMPLES = 4096


@dataclasses.dataclass(frozen=True)
class Export:
    """What of the prepared data becomes examples.

    Attributes:
        events: the table.
        roles: of the table; None = all that there are.
        values: the same.
        features: the same.
        histories: views of the data's histories.
        external_ids: ids as the source of the data had them; else rows of the node tables.
        name: of the TensorFlow data set; its config has the name of the table.
        version: of it; other content needs another version, or another directory.
    """

    events: str
    roles: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    histories: tuple[HistoryView, ...] = ()
    external_ids: bool = True
    name: str = "lsec_jax"
    version: str = "1.0.0"


def import_tfds(what: str) -> Any:
    """Returns the module tensorflow_datasets; raises DataError, naming what needs it, where it is not installed."""
    try:
        # The extra `tfds`: nothing else needs it.
        import tensorflow_datasets as tfds
        from array_record.python import array_record_data_source as _  # noqa: F401 (TFDS imports it when it reads)
    except ImportError as error:
        raise DataError(
            f"{what} needs packages that are optional ({error}): python -m pip install 'lsec_jax[tfds]'"
        ) from None
    return tfds


def build(path: str | Path, data_dir: str | Path, export: Export) -> Any:
    """Writes the data set, unless it is there already.

    Args:
        path: a prepared directory.
        data_dir: TFDS's; the files go to data_dir/NAME/EVENTS/VERSION, once all of them are whole.
        export: what becomes examples.

    Returns:
        TFDS's builder, prepared.

    Raises:
        DataError, ConfigError: before anything is written: packages or columns are missing, or the place holds
            something else.
    """
    builder = builder_of(path, data_dir, export)
    if builder.is_prepared():
        stored = {key: builder.info.metadata.get(key) for key in ("source", "export")}
        if changed := differences(stored, builder.metadata_of_source):
            raise DataError(
                f"{builder.data_path} holds another data set (stored -> given):\n  "
                + "\n  ".join(changed)
                + "\nGive another version or data_dir, or remove this one."
            )
    builder.download_and_prepare()
    return builder


def builder_of(path: str | Path, data_dir: str | Path, export: Export) -> Any:
    """Returns TFDS's builder, which reads and writes nothing yet but the prepared directory's columns; as `build`."""
    import_tfds("the TFDS builder")
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"[a-z][a-z0-9_]*", export.name) or not re.fullmatch(r"\d+\.\d+\.\d+", export.version):
        raise ConfigError(
            f"a TensorFlow data set '{export.name}', version '{export.version}': names are small letters, digits and "
            "_, versions like 1.0.0; give others"
        )
    root, where = expand_path(str(path)), expand_path(str(data_dir))
    folder = where / export.name / export.events / export.version
    if not (there := next(part for part in (folder, *folder.parents) if part.exists())).is_dir():
        raise DataError(f"{there} is a file, and the data set would be written below it; give another data_dir")
    manifest, data = store.read_manifest(root), store.read(root)
    table = _Table(data, export)
    content = json.dumps(manifest["columns"], sort_keys=True)
    source = {
        "source": {"name": data.name, "columns_sha256": hashlib.sha256(content.encode()).hexdigest()},
        "export": to_json(export),
    }
    summary = f"Events '{export.events}' of the data set '{data.name}', as prepared by lsec_jax."

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """A table of events of prepared data."""

        name = export.name
        VERSION = tfds.core.Version(export.version)
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=export.events, description=summary)]
        metadata_of_source: ClassVar = source

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=summary,
                features=tfds.features.FeaturesDict(table.features(tfds)),
                metadata=tfds.core.MetadataDict(vocabularies=table.vocabularies, **source),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            del dl_manager
            return {name: table.examples(rows) for name, rows in table.splits.items()}

        def _generate_examples(self) -> None:
            raise NotImplementedError  # `_split_generators` gives them

    return Prepared(data_dir=str(where), config=export.events, file_format=FILE_FORMAT)


class _Table:
    """The events of an export as examples.

    Attributes:
        splits: rows by name of the split.
        vocabularies: by name of the feature.
    """

    def __init__(self, data: LiveCommerceData, export: Export):
        self._events: Events = data.events_of(export.events)
        self._data, self._export = data, export
        self._columns = EventColumns(
            data, export.events, export.roles, export.values, export.features, export.histories
        )
        named = [name for name, _ in self._named(np.zeros(0, np.int64))]
        if twice := {name for name in named if named.count(name) > 1}:
            raise DataError(
                f"events '{export.events}': '{min(twice)}' would name two columns, of roles, values, features, "
                "histories, time and group; leave one out of the export"
            )
        split_rows = {name: event_rows(data, self._events, code) for name, code in SPLITS.items()}
        positions = {
            name: range(*rows.indices(len(self._events))) if isinstance(rows, slice) else rows
            for name, rows in split_rows.items()
        }
        self.splits = {name: rows for name, rows in positions.items() if len(rows)}
        if not self.splits:
            raise DataError(f"events '{export.events}' of data set '{data.name}' are empty; export another table")
        shown = self._events.features if export.features is None else export.features
        self.vocabularies = {
            name: list(feature.vocabulary) for name in shown if (feature := self._events.feature(name)).vocabulary
        }

    def features(self, tfds: Any) -> dict[str, Any]:
        """TFDS's description of each column."""
        return {name: _tfds_feature(tfds, values) for name, values in self._named(np.zeros(0, np.int64))}

    def examples(self, rows: range | np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (row, example); examples are a few thousand rows at a time in memory."""
        for block in blocks(len(rows), _BLOCK_EXAMPLES):
            chosen = np.asarray(rows[block], np.int64)
            columns = {
                name: values.tolist() if values.ndim == 1 or values.dtype.kind == "U" else list(values)
                for name, values in self._named(chosen)
            }
            for row, *example in zip(chosen.tolist(), *columns.values(), strict=True):
                yield row, dict(zip(columns, example, strict=True))

    def _named(self, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The columns of some rows, [b] or [b, ...], by the names that they have in examples."""
        batch = self._columns(rows)
        for role, ids in batch["nodes"].items():
            yield role, self._ids(self._events.nodes[role].node_type, ids)
        yield "time", np.asarray(self._events.time[rows])
        if self._events.group is not None:
            yield "group", np.asarray(self._events.group[rows])
        yield from batch["values"].items()
        yield from batch["features"].items()
        for view in self._export.histories:
            for column, values in batch["histories"][view.name].items():
                node_type = self._node_type(view, column)
                yield f"{view.name}_{column}", values if node_type is None else self._ids(node_type, values)

    def _node_type(self, view: HistoryView, column: str) -> str | None:
        if column == "items":
            return self._data.histories_of(view.name).item
        if column not in view.columns:
            return None
        nodes = self._data.events_of(self._data.histories_of(view.name).events).nodes
        return nodes[column].node_type if column in nodes else None

    def _ids(self, node_type: str, ids: np.ndarray) -> np.ndarray:
        """External ids, where they are wanted."""
        if not self._export.external_ids:
            return ids
        table = self._data.nodes[node_type].ids
        return take_or(np.asarray(table), ids, "" if table.dtype.kind == "U" else -1)


def _tfds_feature(tfds: Any, values: np.ndarray) -> Any:
    """The feature of a column, [b] or [b, ...]."""
    if values.dtype.kind == "U":
        return tfds.features.Text() if values.ndim == 1 else tfds.features.Tensor(shape=values.shape[1:], dtype=np.str_)
    if values.dtype == np.float64:  # tf.train.Example has single precision only, but for bytes
        return tfds.features.Tensor(shape=(), dtype=np.float64, encoding=tfds.features.Encoding.BYTES)
    if values.ndim == 1:
        return tfds.features.Scalar(dtype=values.dtype)
    return tfds.features.Tensor(shape=values.shape[1:], dtype=values.dtype)
