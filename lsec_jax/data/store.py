"""A data set on disk: one .npy file per column, and a manifest that is written last (`writer`). Columns are mapped.

    DIR/manifest.json                      what there is, with dtypes, shapes and SHA-256; without it nothing is whole
    DIR/nodes/user/ids.npy                 features/NAME.npy beside it
    DIR/relations/buy/source_ids.npy       target_ids, time, weight, split
    DIR/events/impression/time.npy         group, split, parent; nodes/ROLE.npy, values/NAME.npy, features/NAME.npy
    DIR/histories/watches/items.npy        starts, times, rows; ends/EVENTS.npy or last/EVENTS.npy
    DIR/trees/..., DIR/availability/..., DIR/candidates/...

While a directory is being written it holds a file INCOMPLETE, and no manifest.
"""

import hashlib
import json
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lsec_jax.data.columns import blocks
from lsec_jax.data.manifest import (
    CANDIDATE_COLUMNS,
    EVENT_COLUMNS,
    HISTORY_COLUMNS,
    RELATION_COLUMNS,
    VIEW_COLUMNS,
    check_manifest,
)
from lsec_jax.schema import (
    Availability,
    Candidates,
    DataError,
    EventNodes,
    Events,
    EventTruth,
    Feature,
    Histories,
    LiveCommerceData,
    NodeTable,
    Relation,
    Tree,
    View,
)

SCHEMA_VERSION = 1
FORMAT = "lsec_jax prepared data"
MANIFEST, INCOMPLETE = "manifest.json", "INCOMPLETE"
FOLDERS = ("nodes", "relations", "events", "histories", "views", "trees", "availability", "candidates")
_HASHED_BYTES = 2**24
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
    for name, of in data.histories.items():
        at = f"histories/{name}"
        yield from ((f"{at}/{column}", getattr(of, column)) for column in HISTORY_COLUMNS)
        yield from ((f"{at}/ends/{moments}", ends) for moments, ends in of.ends.items())
        yield from ((f"{at}/last/{moments}", last) for moments, last in of.last.items())
    for name, view in data.views.items():
        yield from ((f"views/{name}/{column}", getattr(view, column)) for column in VIEW_COLUMNS)
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
        "histories": {
            name: {
                "owner": of.owner,
                "owner_role": of.owner_role,
                "item": of.item,
                "events": of.events,
                "delay": float(of.delay),
                "ends": list(of.ends),
                "last": list(of.last),
            }
            for name, of in data.histories.items()
        },
        # Only where there are some: data prepared before there were views have no such key.
        **({"views": {name: of.node_type for name, of in data.views.items()}} if data.views else {}),
        "trees": list(data.trees),
        "availability": list(data.availability),
        "candidates": [[name, split, lists.origin] for (name, split), lists in data.candidates.items()],
        "cut_times": None if data.cut_times is None else list(map(float, data.cut_times)),
        "end_time": None if data.end_time is None else float(data.end_time),
        "has_dates": data.has_dates,
        "counts": {name: int(count) for name, count in data.counts.items()},
        "truth": [] if data.truth is None else list(data.truth.relations),
        "has_event_truth": isinstance(data.truth, EventTruth),
    }


def _described(features: Mapping[str, Feature]) -> dict[str, Any]:
    return {name: {"kind": of.kind, "vocabulary": list(of.vocabulary)} for name, of in features.items()}


def sha256(values: np.ndarray) -> str:
    """The SHA-256 of an array's bytes, hex."""
    digest = hashlib.sha256()
    row_bytes = values.nbytes // max(len(values), 1)
    for rows in blocks(len(values), max(_HASHED_BYTES // max(row_bytes, 1), 1)):
        digest.update(values[rows].tobytes())
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
    if verify and sha256(values) != form["sha256"]:
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
        histories={name: _read_histories(name, of, columns) for name, of in data["histories"].items()},
        views={
            name: View(name, node_type, *(columns[f"views/{name}/{column}"] for column in VIEW_COLUMNS))
            for name, node_type in data.get("views", {}).items()
        },
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


def _read_histories(name: str, of: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> Histories:
    at = f"histories/{name}"
    own: dict[str, Any] = {column: columns[f"{at}/{column}"] for column in HISTORY_COLUMNS}
    return Histories(
        of["owner"],
        of["item"],
        **own,
        ends={moments: columns[f"{at}/ends/{moments}"] for moments in of["ends"]},
        last={moments: columns[f"{at}/last/{moments}"] for moments in of["last"]},
        owner_role=of["owner_role"],
        events=of["events"],
        delay=float(of["delay"]),
    )


def _read_features(at: str, features: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> dict[str, Feature]:
    return {
        name: Feature(form["kind"], columns[f"{at}/features/{name}"], tuple(form["vocabulary"]))
        for name, form in features.items()
    }
