"""A data set on disk: one .npy file per column, and a manifest that is written last. Columns are memory-mapped.

    DIR/manifest.json                      what there is, with dtypes, shapes and SHA-256; without it nothing is whole
    DIR/nodes/user/ids.npy                 features/NAME.npy beside it
    DIR/relations/buy/source_ids.npy       target_ids, time, weight, split
    DIR/events/impression/time.npy         group, split, parent; nodes/ROLE.npy, values/NAME.npy, features/NAME.npy
    DIR/trees/..., DIR/availability/..., DIR/candidates/...

While a directory is being written it holds a file INCOMPLETE, and no manifest: what was interrupted is never read, and
is cleared away by the next attempt.
"""

import hashlib
import json
import shutil
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lsec_jax.config import differences
from lsec_jax.data.files import write_json
from lsec_jax.data.manifest import CANDIDATE_COLUMNS, EVENT_COLUMNS, RELATION_COLUMNS, check_manifest
from lsec_jax.schema import (
    Availability,
    Candidates,
    DataError,
    EventNodes,
    Events,
    EventTruth,
    Feature,
    LiveCommerceData,
    NodeTable,
    Relation,
    Tree,
)

SCHEMA_VERSION = 1
FORMAT = "lsec_jax prepared data"
MANIFEST, INCOMPLETE = "manifest.json", "INCOMPLETE"
FOLDERS = ("nodes", "relations", "events", "trees", "availability", "candidates")
_BLOCK = 2**24
# What numpy raises for a file that is no array, or whose header was damaged.
_UNREADABLE = (ValueError, EOFError, OSError, OverflowError, MemoryError, TypeError, SyntaxError, tokenize.TokenError)


def columns_of(data: LiveCommerceData) -> dict[str, np.ndarray]:
    """Every array of a data set by its path in the store, without the ending."""
    return {path: values for path, values in _columns(data) if values is not None}


def _columns(data: LiveCommerceData) -> Iterator[tuple[str, np.ndarray | None]]:
    for name, table in data.nodes.items():
        yield f"nodes/{name}/ids", table.ids
        yield from _features(f"nodes/{name}", table.features)
    for name, relation in data.relations.items():
        yield from ((f"relations/{name}/{column}", getattr(relation, column)) for column in RELATION_COLUMNS)
    for name, events in data.events.items():
        at = f"events/{name}"
        yield from ((f"{at}/{column}", getattr(events, column)) for column in EVENT_COLUMNS)
        yield from ((f"{at}/nodes/{role}", nodes.ids) for role, nodes in events.nodes.items())
        yield from ((f"{at}/values/{column}", values) for column, values in events.values.items())
        yield from _features(at, events.features)
        yield f"{at}/parent", None if events.parent is None else events.parent[1]
    for name, tree in data.trees.items():
        yield f"trees/{name}/parents", tree.parents
    for name, availability in data.availability.items():
        yield from ((f"availability/{name}/{column}", getattr(availability, column)) for column in ("start", "end"))
    for (name, split), lists in data.candidates.items():
        yield from ((f"candidates/{name}.{split}/{column}", getattr(lists, column)) for column in CANDIDATE_COLUMNS)


def _features(at: str, features: Mapping[str, Feature]) -> Iterator[tuple[str, np.ndarray]]:
    yield from ((f"{at}/features/{name}", feature.values) for name, feature in features.items())


def description_of(data: LiveCommerceData) -> dict[str, Any]:
    """What the columns do not say, JSON."""
    return {
        "name": data.name,
        "nodes": {name: _described(table.features) for name, table in data.nodes.items()},
        "relations": {name: {"source": of.source, "target": of.target} for name, of in data.relations.items()},
        "events": {
            name: {
                "nodes": {role: nodes.node_type for role, nodes in events.nodes.items()},
                "values": list(events.values),
                "features": _described(events.features),
                "parent": None if events.parent is None else events.parent[0],
            }
            for name, events in data.events.items()
        },
        "trees": list(data.trees),
        "availability": list(data.availability),
        "candidates": [[name, split, lists.origin] for (name, split), lists in data.candidates.items()],
        "cut_times": None if data.cut_times is None else list(map(float, data.cut_times)),
        "end_time": data.end_time,
        "has_dates": data.has_dates,
        "counts": {name: int(count) for name, count in data.counts.items()},
        "truth": [] if data.truth is None else list(data.truth.relations),
        "has_event_truth": isinstance(data.truth, EventTruth),
    }


def _described(features: Mapping[str, Feature]) -> dict[str, Any]:
    return {name: {"kind": of.kind, "vocabulary": list(of.vocabulary)} for name, of in features.items()}


def check_directory(directory: Path, source: Mapping[str, Any]) -> bool:
    """Whether a directory holds this very source already, whole.

    Args:
        directory: new, empty, interrupted, or prepared.
        source: JSON of what the data comes from.

    Raises:
        DataError: it holds something else.
    """
    if (directory / MANIFEST).exists():
        stored = read_manifest(directory)["source"]
        if changed := differences(stored, source, "source"):
            raise DataError(
                f"{directory} holds data prepared otherwise (stored -> given):\n  "
                + "\n  ".join(changed)
                + "\nGive another directory, or remove this one."
            )
        return True
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory}: this is a file; give a new or empty directory")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / INCOMPLETE).exists():
        raise DataError(f"{directory}: not empty, and not begun by `prepare`; give a new or empty directory")
    return False


def write(
    data: LiveCommerceData,
    directory: Path,
    source: Mapping[str, Any],
    on_column: Callable[[str, int], None] = lambda path, size: None,
) -> None:
    """Writes a data set; what an interrupted attempt left is cleared away first.

    Args:
        data: valid; its names are names of files.
        directory: as `check_directory` found it.
        source: JSON of what the data comes from.
        on_column: called after each column with its path and bytes.

    Raises:
        OSError: e.g. if the disk is full; the directory stays marked as incomplete.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / INCOMPLETE).touch()
    for name in FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)
    columns = {}
    for path, values in columns_of(data).items():
        file = directory / f"{path}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.ascontiguousarray(values)
        with file.open("wb") as stream:
            np.lib.format.write_array(stream, values, allow_pickle=False)
        columns[path] = {"dtype": values.dtype.str, "shape": list(values.shape), "sha256": _hash(values)}
        on_column(path, values.nbytes)
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "data": description_of(data),
        "columns": columns,
    }
    write_json(directory / MANIFEST, manifest)
    (directory / INCOMPLETE).unlink()


def _hash(values: np.ndarray) -> str:
    digest, content = hashlib.sha256(), values.reshape(-1).view(np.uint8)
    for start in range(0, len(content), _BLOCK):
        digest.update(content[start : start + _BLOCK].data)
    return digest.hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Reads and checks the manifest of a prepared directory; raises DataError where there is none that can be used."""
    path = directory / MANIFEST
    if not path.exists():
        if (directory / INCOMPLETE).exists():
            raise DataError(f"{directory}: preparing it was interrupted; run `python -m lsec_jax.prepare` again")
        raise DataError(f"{directory}: no {MANIFEST} here; give a directory that `python -m lsec_jax.prepare` wrote")
    try:
        manifest = json.loads(path.read_text())
        version = (manifest["format"], manifest["schema_version"])
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); prepare the data again into a new directory") from None
    if version != (FORMAT, SCHEMA_VERSION):
        raise DataError(
            f"{path}: {version[0]}, schema version {version[1]}; this version of lsec_jax reads '{FORMAT}', schema "
            f"version {SCHEMA_VERSION}: prepare the data again"
        )
    check_manifest(manifest, path)
    return manifest


def read(directory: Path, verify: bool = False) -> LiveCommerceData:
    """Maps a prepared directory into memory, without truth.

    Args:
        directory: that `write` completed.
        verify: also compare every column's SHA-256, which reads everything.

    Raises:
        DataError: a column is missing, cut or not what the manifest says.
    """
    manifest = read_manifest(directory)
    _check_files(directory, manifest["columns"])
    columns = {path: _map(directory, path, form, verify) for path, form in manifest["columns"].items()}
    return _assemble(manifest["data"], columns)


def _check_files(directory: Path, columns: Mapping[str, Any]) -> None:
    """Refuses columns that the manifest does not name: those that a table may have or not would be missed silently."""
    for folder in FOLDERS:
        for file in sorted((directory / folder).rglob("*.npy")):
            if str(file.relative_to(directory).with_suffix("")) not in columns:
                raise DataError(
                    f"{file}: not named in {MANIFEST}, which is damaged; prepare the data again into a new directory"
                )


def _map(directory: Path, path: str, form: Mapping[str, Any], verify: bool) -> np.ndarray:
    file = directory / f"{path}.npy"
    remedy = "prepare the data again into a new directory"
    try:
        if 0 in form["shape"]:  # which cannot be mapped
            with file.open("rb") as stream:
                values = np.lib.format.read_array(stream, allow_pickle=False)
        else:
            values = np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError:
        raise DataError(f"{file}: missing, but the manifest names it; {remedy}") from None
    except _UNREADABLE as error:
        raise DataError(f"{file}: cut or damaged ({error}); {remedy}") from None
    found, wanted = (values.dtype.str, list(values.shape)), (form["dtype"], form["shape"])
    if found != wanted:
        texts = [f"{dtype} of shape {tuple(shape)}" for dtype, shape in (found, wanted)]
        raise DataError(f"{file}: {texts[0]}, the manifest says {texts[1]}; {remedy}")
    if verify and _hash(values) != form["sha256"]:
        raise DataError(f"{file}: its content is not what was written (SHA-256 differs); {remedy}")
    return values


def _assemble(data: Mapping[str, Any], columns: Mapping[str, Any]) -> LiveCommerceData:
    nodes = {
        name: NodeTable(name, columns[f"nodes/{name}/ids"], _read_features(f"nodes/{name}", features, columns))
        for name, features in data["nodes"].items()
    }
    relations = {}
    for name, ends in data["relations"].items():
        own: dict[str, Any] = {column: columns.get(f"relations/{name}/{column}") for column in RELATION_COLUMNS}
        relations[name] = Relation(name, ends["source"], ends["target"], **own)
    candidates = {}
    for name, split, origin in data["candidates"]:
        sources, targets, labels = (columns[f"candidates/{name}.{split}/{column}"] for column in CANDIDATE_COLUMNS)
        candidates[name, split] = Candidates(sources, targets, labels, origin)
    return LiveCommerceData(
        data["name"],
        nodes,
        relations,
        candidates=candidates,
        cut_times=None if data["cut_times"] is None else (float(data["cut_times"][0]), float(data["cut_times"][1])),
        end_time=None if data["end_time"] is None else float(data["end_time"]),
        has_dates=data["has_dates"],
        availability={
            name: Availability(columns[f"availability/{name}/start"], columns[f"availability/{name}/end"])
            for name in data["availability"]
        },
        counts=data["counts"],
        events={name: _read_events(name, of, columns) for name, of in data["events"].items()},
        trees={name: Tree(columns[f"trees/{name}/parents"]) for name in data["trees"]},
    )


def _read_events(name: str, of: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> Events:
    at = f"events/{name}"
    return Events(
        name,
        {role: EventNodes(node_type, columns[f"{at}/nodes/{role}"]) for role, node_type in of["nodes"].items()},
        columns[f"{at}/time"],
        values={column: columns[f"{at}/values/{column}"] for column in of["values"]},
        features=_read_features(at, of["features"], columns),
        group=columns.get(f"{at}/group"),
        parent=None if of["parent"] is None else (of["parent"], columns[f"{at}/parent"]),
        split=columns.get(f"{at}/split"),
    )


def _read_features(at: str, features: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> dict[str, Feature]:
    return {
        name: Feature(form["kind"], columns[f"{at}/features/{name}"], tuple(form["vocabulary"]))
        for name, form in features.items()
    }
