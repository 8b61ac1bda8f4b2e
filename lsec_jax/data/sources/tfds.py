"""TensorFlow Datasets: the interactions of any builder whose examples have a user, an item, maybe a time and a weight.

    movielens/100k-ratings    {"user_id": b"138", "movie_id": b"357", "timestamp": 879024327, "user_rating": 4.0, ...}

Needs the extra `tfds` (python -m pip install 'lsec_jax[tfds]'), not TensorFlow. The data set must have been prepared as
ArrayRecord, `tfds build --file_format=array_record`, in the directory `path`, or `download=True` prepares it there.

TensorFlow Datasets shuffles what it prepares, so an example's place says nothing. With times, each example is an event
"interaction", and the relation keeps a pair's earliest one; without, there are no events, and it keeps the first that
is read. TFDS's splits become ours by `train_split`, `validation_split` and `test_split`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from lsec_jax.data import files
from lsec_jax.data.files import expand_path
from lsec_jax.data.ids import build_nodes, distinct_pairs, join_columns
from lsec_jax.data.table import Table
from lsec_jax.data.tfds_builder import FILE_FORMAT, import_tfds
from lsec_jax.schema import NAME_RULE, SPLITS, DataError, EventNodes, Events, LiveCommerceData, Relation, is_name

EVENTS = "interaction"
BATCH_EXAMPLES = 4096


@dataclasses.dataclass
class Config:
    """Reads one builder's examples.

    Attributes:
        name: TFDS's name, "builder", "builder/config" or "builder/config:version"; for reports too.
        path: TFDS's `data_dir`; `~` and `${VARIABLES}` are expanded; "" = TFDS's own default.
        user_column, item_column: features with the external ids, integers or text.
        time_column: feature with times >= 0, or None.
        weight_column: feature with finite weights > 0, or None.
        train_split, validation_split, test_split: TFDS's split that is ours, e.g. "train" or "train[:80%]"; "" = none.
            With the first one alone the relation has no given split.
        relation: the relation's name.
        download: whether a data set that is not prepared is downloaded and prepared; else that is an error.
    """

    name: str = ""
    path: str = ""
    user_column: str = "user_id"
    item_column: str = "movie_id"
    time_column: str | None = "timestamp"
    weight_column: str | None = "user_rating"
    train_split: str = "train"
    validation_split: str = ""
    test_split: str = ""
    relation: str = "rate"
    download: bool = False

    def load(self) -> LiveCommerceData:
        """Reads all splits; raises DataError naming data set, split, example and column, or the config key."""
        self._check()
        builder = _prepared(self.name, str(expand_path(self.path)) if self.path else None, self.download)
        columns = [self.user_column, self.item_column]
        columns += [column for column in (self.time_column, self.weight_column) if column]
        _check_columns(builder, columns)
        splits = zip(SPLITS.values(), (self.train_split, self.validation_split, self.test_split), strict=True)
        parts = {code: _read_split(builder, split, columns) for code, split in splits if split}
        users, items = (
            join_columns([part.ids(column) for part in parts.values()])
            for column in (self.user_column, self.item_column)
        )
        nodes, (user_ids, item_ids) = build_nodes([("user", users), ("item", items)])
        time = weight = None
        if self.time_column:
            time = np.concatenate([part.times(self.time_column)[0] for part in parts.values()])
        if self.weight_column:
            weight = np.concatenate([part.weights(self.weight_column) for part in parts.values()])
        split = np.concatenate([np.full(len(part), code, np.int8) for code, part in parts.items()])
        counts: dict[str, int] = {}
        keep = distinct_pairs(self.relation, user_ids, item_ids, split, time, counts)
        given = split if len(parts) > 1 else None
        relation = Relation(self.relation, "user", "item", user_ids, item_ids, time, weight, given).take(keep)
        events = {}
        if time is not None:
            roles = {"user": EventNodes("user", user_ids), "item": EventNodes("item", item_ids)}
            values = {} if weight is None else {"weight": weight}
            of_all = Events(EVENTS, roles, time, values, split=given)
            events[EVENTS] = of_all.take(np.argsort(time, kind="stable"))
        return LiveCommerceData(self.name, nodes, {self.relation: relation}, counts=counts, events=events)

    def _check(self) -> None:
        for key in ("name", "user_column", "item_column", "train_split"):
            if not getattr(self, key):
                raise DataError(f"config key data.{key} is empty; give it, e.g. --config.data.{key}=...")
        if not is_name(self.relation):
            raise DataError(f"config key data.relation = {self.relation!r}: {NAME_RULE}")


def _prepared(name: str, data_dir: str | None, download: bool) -> Any:
    """Returns TFDS's builder of a data set that is there, prepared."""
    tfds = import_tfds("source tfds")
    options = {"file_format": FILE_FORMAT} if download else {}
    place = f"TensorFlow data set '{name}' in {data_dir or 'the default data_dir of TFDS'}"
    remedy = (
        f"prepare it (tfds build {name} --file_format={FILE_FORMAT}, with --data_dir), correct data.name or data.path, "
        "or let it be downloaded (--config.data.download=True)"
    )
    try:
        builder = tfds.builder(name, data_dir=data_dir, **options)
        if download:
            builder.download_and_prepare()
        is_prepared = builder.is_prepared()
    except Exception as error:  # builders raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{place}: cannot be opened ({reason}); {remedy}") from None
    if not is_prepared:
        raise DataError(f"{place}: not prepared, {builder.data_path} is not complete; {remedy}")
    return builder


def _check_columns(builder: Any, columns: Sequence[str]) -> None:
    """Raises DataError for a column that the examples do not have, or that is no single value."""
    features = builder.info.features
    names = list(features.keys()) if hasattr(features, "keys") else []
    for column in columns:
        if column not in names:
            there = f"{files.suggestion(column, names)}; they have: {', '.join(names)}"
            raise DataError(
                f"{builder.data_path}: the examples have no '{column}'{there}; set the ..._column keys of data"
            )
        if features[column].shape != ():
            raise DataError(
                f"{builder.data_path}, column '{column}': {features[column]} is not one value per example; name another"
            )


def _read_split(builder: Any, split: str, columns: Sequence[str]) -> Table:
    """Reads some columns of a split in batches, with a progress bar."""
    tfds = import_tfds("source tfds")
    place = Path(builder.data_path)
    # Raw, and of each example only these features unpacked: unpacking is nearly all of the time.
    chosen = tfds.features.FeaturesDict({column: builder.info.features[column] for column in columns})
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    parts: dict[str, list[pa.Array]] = {column: [] for column in columns}
    try:
        source = builder.as_data_source(split=split, deserialize_method=raw)
        with tqdm(total=len(source), desc=f"{place}, {split}", unit=" examples", disable=None, leave=False) as progress:
            for start in range(0, len(source), BATCH_EXAMPLES):
                records = source.__getitems__(list(range(start, min(start + BATCH_EXAMPLES, len(source)))))
                examples = [chosen.deserialize_example_np(record) for record in records]
                for column in columns:
                    values = [example[column] for example in examples]
                    if None in values:  # of a file that is cut, too
                        raise ValueError(f"example {start + values.index(None)} has no value of '{column}'")
                    parts[column].append(_to_arrow(values))
                progress.update(len(examples))
    except Exception as error:  # a damaged file, a format without random access, an unknown split: each raises its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        there = ", ".join(builder.info.splits) or "none"
        raise DataError(
            f"{place}, split '{split}': cannot be read ({reason}); it has the splits {there}; correct the split, or "
            f"prepare the data set again with --file_format={FILE_FORMAT}"
        ) from None
    if not parts[columns[0]]:
        raise DataError(f"{place}, split '{split}': no examples; name another split")
    arrays: dict[str | int, pa.Array] = {column: pa.chunked_array(of).combine_chunks() for column, of in parts.items()}
    table = Table(place, arrays, 0, f"split '{split}', example")
    return dataclasses.replace(table, columns={column: _text(table, column) for column in columns})


def _to_arrow(values: list[Any]) -> pa.Array:
    if isinstance(values[0], bytes):
        return pa.array(values, pa.large_binary())
    return pa.array(np.asarray(values))


def _text(table: Table, column: str) -> pa.Array:
    """The column, bytes as text; raises DataError for bytes that are no text."""
    array = table.columns[column]
    if not pa.types.is_large_binary(array.type):
        return array
    try:
        return array.cast(pa.large_string())
    except pa.ArrowInvalid:
        for row, value in enumerate(array.to_pylist()):
            try:
                value.decode()
            except UnicodeDecodeError:
                table.fail(row, column, f"{value[:40]!r} is not UTF-8 text; name another column")
        raise
