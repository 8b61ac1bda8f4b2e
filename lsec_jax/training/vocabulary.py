"""The external ids behind the rows of a run's embedding tables, kept in its workdir; categories of new ids.

`WORKDIR/vocabulary/TYPE.parquet` has one column `id`, in the order of the table's rows: 64-bit integers or text,
delta-encoded and compressed. Another run can take rows over by id without the data that the run was trained on.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lsec_jax.config import ConfigError, NewIdsConfig
from lsec_jax.data.files import replacing
from lsec_jax.schema import Feature, LiveCommerceData, NodeTable
from lsec_jax.training.checkpoint_folders import CheckpointError

FOLDER = "vocabulary"


def write(workdir: Path, tables: Iterable[NodeTable], only_missing: bool = False) -> None:
    """Writes the ids of node tables, each file as a whole; with `only_missing` those that are there already stay."""
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    for table in tables:
        path = folder / f"{table.name}.parquet"
        if only_missing and path.exists():
            continue
        is_text = table.ids.dtype.kind == "U"
        with replacing(path) as temporary:
            pq.write_table(
                pa.table({"id": pa.array(table.ids, pa.large_string() if is_text else pa.int64())}),
                temporary,
                compression="zstd",
                use_dictionary=False,  # ids are unique
                write_statistics=False,
                column_encoding={"id": "DELTA_BYTE_ARRAY" if is_text else "DELTA_BINARY_PACKED"},
            )


def read(workdir: Path, node_types: Iterable[str]) -> dict[str, NodeTable]:
    """Reads the ids of node types, as node tables without features.

    Raises:
        CheckpointError: the run has no such lists, or one is damaged.
    """
    return {name: _read(workdir, name) for name in node_types}


def _read(workdir: Path, name: str) -> NodeTable:
    path = workdir / FOLDER / f"{name}.parquet"
    if not path.exists():
        raise CheckpointError(
            f"{path}: missing; a version before there were id lists trained this run. Run its own training command "
            f"again with --workdir={workdir} and the same data: it trains nothing more and adds them"
        )
    try:
        column = pq.read_table(path, columns=["id"]).column("id").combine_chunks()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({str(error).splitlines()[0]}); delete it and {_AGAIN}") from None
    if pa.types.is_int64(column.type) and not column.null_count:
        return NodeTable(name, column.to_numpy())
    if pa.types.is_large_string(column.type) and not column.null_count:
        return NodeTable(name, column.to_numpy(zero_copy_only=False).astype(np.str_))
    raise CheckpointError(f"{path}: holds {column.type}, not ids; delete it and {_AGAIN}")


_AGAIN = "run the training command of that run again with its own data, which writes it anew"


def check_categories(data: LiveCommerceData, config: NewIdsConfig) -> Mapping[str, Feature]:
    """Returns the features that group the new nodes, by node type.

    Raises:
        ConfigError: for a node type or a feature that the data has not, or one without categories.
    """
    found = {}
    for i, name in enumerate(config.categories):
        key = f"config.new_ids.categories[{i}] = {name!r}"
        node_type, _, feature = name.partition(".")
        if node_type not in data.nodes:
            raise ConfigError(f"{key}: the data has no nodes '{node_type}'; it has: {', '.join(data.nodes)}")
        features = data.nodes[node_type].features
        grouping = [other for other, of in features.items() if of.kind in ("categorical", "ordinal")]
        if feature not in grouping:
            raise ConfigError(
                f"{key}: '{node_type}' has no categorical or ordinal feature '{feature}'; it has: "
                f"{', '.join(grouping) or 'none'}"
            )
        found[node_type] = features[feature]
    return found
