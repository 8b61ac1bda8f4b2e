"""The on-disk format that the LSEC-GNN authors published, read and written: node, edge and candidate TSV files.

    metadata.json
    train/user.tsv                  one row per node, under a header; the row number is the node's id
    train/user-item-buy.tsv         relation "buy": two id columns, header = the node types
    val/user-item-buy.tsv           candidates: user, item, 0/1 label, as many rows for every user
    test/user-item-buy.tsv

Relations are whatever `metadata.json` lists. A node file's column named `id` or like the node type holds the external
ids; without one, the row number is the external id too. A positive of val/ or test/ is also an edge of its relation,
with that split code; where a pair is in more than one split, the earlier one keeps it, and it is counted.
"""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from lsec_jax.data import csr, tables
from lsec_jax.data.delimited import header_of
from lsec_jax.data.files import expand_path, read_bytes
from lsec_jax.data.ids import first_occurrences
from lsec_jax.data.table import Table
from lsec_jax.schema import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Candidates,
    DataError,
    LiveCommerceData,
    NodeTable,
    Relation,
)

DIRECTORIES = {VALIDATION: "val", TEST: "test"}
SPLIT_NAMES = {code: name for name, code in SPLITS.items() if code in DIRECTORIES}


@dataclasses.dataclass
class Config:
    """Reads a directory in the published LSEC format.

    Attributes:
        path: directory with train/, val/, test/ and the metadata; `~` and `${VARIABLES}` are expanded.
        metadata: path of the metadata, inside `path` (the authors' files leave its name open).
        name: of the data set, for reports; "" = the directory's name.
    """

    path: str = ""
    metadata: str = "metadata.json"
    name: str = ""

    def load(self) -> LiveCommerceData:
        """Reads everything that the metadata lists; raises DataError naming file, line and column."""
        root = expand_path(self.path)
        metadata_path = root / self.metadata
        node_files, edge_files, task_files = _read_metadata(metadata_path)
        nodes = {name: _read_nodes(root / "train" / f"{name}.tsv", name) for name in node_files}
        relations: dict[str, Relation] = {}
        candidates: dict[tuple[str, int], Candidates] = {}
        counts: dict[str, int] = {}
        for file, is_weighted in edge_files.items():
            source, target, name = _parse_edge_name(metadata_path, file)
            if name in relations:
                raise DataError(f"{metadata_path}: two edge files name a relation '{name}'; rename one of the files")
            for end in (source, target):
                if end not in nodes:
                    raise DataError(f"{metadata_path}: '{file}' needs a node file '{end}.tsv' under graph.node")
            relation = _read_train_edges(root / "train" / file, (name, source, target), nodes, is_weighted, counts)
            lists = _read_task(root, file, relation, nodes, counts)
            candidates |= {(name, split): value for split, value in lists.items()}
            relations[name] = _with_positives(relation, lists, counts)
        if not candidates:
            listed = ", ".join(task_files) or "none"
            raise DataError(f"{root}: val/ and test/ hold no file of the tasks ({listed}); add their candidate files")
        return LiveCommerceData(self.name or root.name, nodes, relations, candidates, counts=counts)


def write(
    data: LiveCommerceData,
    directory: str | Path,
    candidates: Mapping[tuple[str, int], Candidates] | None = None,
    tasks: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Writes a data set in the published format; reading it back gives equal nodes, edges, splits and candidates.

    Args:
        data: every relation split (`splits.assign_splits`).
        directory: created, once all is written; may exist if it is empty. After a failure nothing is left there.
        candidates: for VALIDATION and TEST, at least one relation; None = `data.candidates`.
        tasks: weight in the loss (finite, >= 0) by relation, as `metadata.json` lists it, at least one; None = 1 for
            all that have candidates.

    Returns:
        What the format cannot hold, e.g. {"buy: times not written": 100}.

    Raises:
        DataError: before anything is written.
        OSError: the files cannot be written, e.g. a full disk.
    """
    directory = expand_path(directory)
    candidates = data.candidates if candidates is None else candidates
    tasks = {name: 1.0 for name, _ in candidates} if tasks is None else tasks
    _check_writable(data, directory, candidates, tasks)
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that the finished folder takes its place at once, and a broken one never does.
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as temporary:
        unfinished = Path(temporary) / directory.name
        _write_files(data, unfinished, candidates, tasks)
        os.replace(unfinished, directory)
    timed = [relation for relation in data.relations.values() if relation.time is not None]
    lost = {f"{relation.name}: times not written": len(relation) for relation in timed}
    lost |= {f"{name}: windows not written": len(data.nodes[name]) for name in data.availability}
    return lost | _count_unlisted_edges(data, candidates)


def _write_files(
    data: LiveCommerceData,
    directory: Path,
    candidates: Mapping[tuple[str, int], Candidates],
    tasks: Mapping[str, float],
) -> None:
    for part in ("train", *DIRECTORIES.values()):
        (directory / part).mkdir(parents=True)
    for name, table in data.nodes.items():
        _write_columns(directory / "train" / f"{name}.tsv", [name], [table.ids])
    files = {}
    for relation in data.relations.values():
        files[relation.name] = f"{relation.source}-{relation.target}-{relation.name}.tsv"
        ends = [relation.source, relation.target]
        keep = relation.split == TRAIN
        columns = [relation.source_ids[keep], relation.target_ids[keep]]
        if relation.weight is not None:
            ends, columns = [*ends, "weight"], [*columns, relation.weight[keep]]
        _write_columns(directory / "train" / files[relation.name], ends, columns)
    for (name, split), lists in candidates.items():
        relation = data.relations[name]
        columns = [np.repeat(lists.source_ids, lists.target_ids.shape[1]), lists.target_ids.ravel()]
        path = directory / DIRECTORIES[split] / files[name]
        _write_columns(
            path, [relation.source, relation.target, "label"], [*columns, lists.labels.ravel().astype(np.int8)]
        )
    (directory / "metadata.json").write_text(json.dumps(_metadata(data, files, tasks), indent=2) + "\n")


def _metadata(data: LiveCommerceData, files: Mapping[str, str], tasks: Mapping[str, float]) -> dict[str, Any]:
    """Returns the content of metadata.json; `files` holds each relation's file name."""
    return {
        "graph": {
            "node": [{"filename": f"{name}.tsv", "attribute": []} for name in data.nodes],
            "edge": [
                {"filename": file, "weighted": data.relations[name].weight is not None} for name, file in files.items()
            ],
        },
        "task": [
            {
                "filename": files[name],
                "type": "top-k-recommendation",
                "loss": "binary-cross-entropy",
                "weight": float(weight),
            }
            for name, weight in tasks.items()
        ],
    }


def _read_metadata(path: Path) -> tuple[list[str], dict[str, bool], list[str]]:
    """Returns node types, edge files with their `weighted` flags, and task files."""
    try:
        metadata = json.loads(read_bytes(path))  # also with a byte order mark
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); it may be cut; correct or copy it again") from None
    nodes = [
        _entry(path, entry, f"graph.node[{i}]") for i, entry in enumerate(_listed(path, metadata, "graph", "node"))
    ]
    edges = {}
    for i, entry in enumerate(_listed(path, metadata, "graph", "edge")):
        file = _entry(path, entry, f"graph.edge[{i}]")
        edges[file] = entry.get("weighted", False)
        if not isinstance(edges[file], bool):
            raise DataError(
                f"{path}: graph.edge[{i}].weighted is {json.dumps(edges[file])}; write true or false, without quotes"
            )
    tasks = [_entry(path, entry, f"task[{i}]") for i, entry in enumerate(_listed(path, metadata, "task"))]
    for task in tasks:
        if task not in edges:
            raise DataError(f"{path}: task file '{task}' is not among graph.edge ({', '.join(edges)}); add it there")
    return [Path(name).stem for name in nodes], edges, tasks


def _listed(path: Path, metadata: Any, *keys: str) -> Sequence[Any]:
    for key in keys:
        if not isinstance(metadata, dict) or key not in metadata:
            raise DataError(f"{path}: no key '{'.'.join(keys)}'; expected keys: graph.node, graph.edge, task")
        metadata = metadata[key]
    if not isinstance(metadata, list) or not metadata:
        raise DataError(f"{path}: '{'.'.join(keys)}' must be a list with at least one entry")
    return metadata


def _entry(path: Path, entry: Any, place: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        raise DataError(f"{path}: {place} has no 'filename'; expected e.g. {{'filename': 'user-item-buy.tsv'}}")
    return entry["filename"]


def _parse_edge_name(metadata_path: Path, file: str) -> tuple[str, str, str]:
    """Splits "user-item-buy.tsv" into source, target, relation."""
    parts = file.removesuffix(".tsv").split("-")
    if len(parts) != 3 or not all(parts) or not file.endswith(".tsv"):
        raise DataError(f"{metadata_path}: edge file '{file}' must be named source-target-relation.tsv; rename it")
    return parts[0], parts[1], parts[2]


def _read_nodes(path: Path, name: str) -> NodeTable:
    header = header_of(path, "\t", has_quotes=False)
    column = next((header.index(wanted) for wanted in ("id", name) if wanted in header), None)
    wanted = header[column] if column is not None else 0
    table = tables.read_table(path, [wanted], delimiter="\t", has_quotes=False)
    if column is None:
        return NodeTable(name, np.arange(len(table)))
    return NodeTable(name, table.unique_ids(header[column]))


def _read_pairs(
    path: Path, source: str, target: str, nodes: Mapping[str, NodeTable], extra: Sequence[int]
) -> tuple[Table, np.ndarray, np.ndarray]:
    header = header_of(path, "\t", has_quotes=False)
    if header[:2] != [source, target]:
        raise DataError(
            f"{path}, line 1: the first two columns must be '{source}', '{target}' as in the file's name, "
            f"found: {', '.join(header)}; correct the header"
        )
    if extra and len(header) < 3:
        raise DataError(f"{path}, line 1: no third column after {', '.join(header)}; add the labels (or weights)")
    table = tables.read_table(path, [0, 1, *extra], delimiter="\t", has_quotes=False)
    ids = []
    for column, end in ((0, source), (1, target)):
        reason = f"; train/{end}.tsv has {len(nodes[end])} rows, and the row number is the id"
        try:
            ids.append(table.integers(column, len(nodes[end]), reason).astype(np.int32))
        except DataError as error:  # files are read by position, users know columns by name
            raise DataError(str(error).replace(f"column {column + 1}", f"column '{end}'", 1)) from None
    return table, ids[0], ids[1]


def _read_train_edges(
    path: Path,
    names: tuple[str, str, str],
    nodes: Mapping[str, NodeTable],
    is_weighted: bool,
    counts: dict[str, int],
) -> Relation:
    name, source, target = names
    table, source_ids, target_ids = _read_pairs(path, source, target, nodes, [2] if is_weighted else [])
    keep = first_occurrences(source_ids, target_ids)
    if len(keep) < len(source_ids):
        counts[f"{name}: duplicate rows dropped"] = len(source_ids) - len(keep)
    weight = table.weights(2)[keep] if is_weighted else None
    split = np.full(len(keep), TRAIN, np.int8)
    return Relation(name, source, target, source_ids[keep], target_ids[keep], weight=weight, split=split)


def _read_task(
    root: Path, file: str, relation: Relation, nodes: Mapping[str, NodeTable], counts: dict[str, int]
) -> dict[int, Candidates]:
    """Returns the relation's candidates by split: both files, or none where the relation has neither."""
    paths = {split: root / directory / file for split, directory in DIRECTORIES.items()}
    has_file = [any(p.exists() for p in (path, path.with_name(path.name + ".gz"))) for path in paths.values()]
    if not any(has_file):
        return {}
    return {split: _read_candidates(path, split, relation, nodes, counts) for split, path in paths.items()}


def _read_candidates(
    path: Path, split: int, relation: Relation, nodes: Mapping[str, NodeTable], counts: dict[str, int]
) -> Candidates:
    table, source_ids, target_ids = _read_pairs(path, relation.source, relation.target, nodes, [2])
    labels = table.labels(2)
    sources, first, sizes = np.unique(source_ids, return_index=True, return_counts=True)
    if sizes.min() != sizes.max():
        usual = np.bincount(sizes).argmax()
        odd = np.flatnonzero(sizes != usual)[0]
        line, end = table.first_line + first[odd], relation.source
        raise DataError(
            f"{path}, line {line}: {end} {sources[odd]} has {sizes[odd]} candidates, but {(sizes == usual).sum()} of "
            f"{len(sizes)} have {usual}; give every {end} the same number"
        )
    rows = np.argsort(source_ids, kind="stable").reshape(len(sources), sizes[0])
    rows = rows[np.argsort(first)]  # in the order of the file, [b k]
    keys = source_ids.astype(np.int64) * len(nodes[relation.target]) + target_ids
    labelled, labelled_first = np.unique(keys * 2 + labels, return_index=True)
    conflict = np.flatnonzero(labelled[1:] // 2 == labelled[:-1] // 2)
    if len(conflict):
        row = max(labelled_first[conflict[0]], labelled_first[conflict[0] + 1])
        pair = f"{relation.source} {source_ids[row]}, {relation.target} {target_ids[row]}"
        table.fail(int(row), 2, f"{pair} has both labels, 0 and 1; drop one of the rows")
    prefix = f"{relation.name}: {SPLIT_NAMES[split]} candidates"
    _count(counts, f"{prefix} listed twice", len(keys) - len(labelled))
    train_keys = relation.source_ids.astype(np.int64) * len(nodes[relation.target]) + relation.target_ids
    is_edge = csr.contains(np.sort(train_keys), keys[~labels])
    _count(counts, f"{prefix} labelled 0 that are training edges", int(is_edge.sum()))
    without = int((~labels[rows].any(1)).sum())
    _count(counts, f"{prefix}: {relation.source} nodes without a positive", without)
    return Candidates(source_ids[rows[:, 0]], target_ids[rows], labels[rows], f"{path.parent.name}/{path.name}")


def _with_positives(relation: Relation, lists: Mapping[int, Candidates], counts: dict[str, int]) -> Relation:
    """Adds the positives of val/ and test/ as edges with their split codes; earlier splits keep shared pairs."""
    assert relation.split is not None
    sources, targets, splits = [relation.source_ids], [relation.target_ids], [relation.split]
    for split, candidates in lists.items():
        source_ids = np.repeat(candidates.source_ids, candidates.target_ids.shape[1])[candidates.labels.ravel()]
        target_ids = candidates.target_ids[candidates.labels]
        once = first_occurrences(source_ids, target_ids)
        source_ids, target_ids = source_ids[once], target_ids[once]
        num_known = sum(map(len, sources))
        all_sources, all_targets = np.concatenate([*sources, source_ids]), np.concatenate([*targets, target_ids])
        kept = first_occurrences(all_sources, all_targets)
        new = kept[kept >= num_known]
        _count(
            counts,
            f"{relation.name}: {SPLIT_NAMES[split]} positives that are edges of an earlier split, not added",
            len(source_ids) - len(new),
        )
        sources, targets = [*sources, all_sources[new]], [*targets, all_targets[new]]
        splits.append(np.full(len(new), split, np.int8))
    weight = relation.weight
    if weight is not None:
        weight = np.concatenate([weight, np.ones(sum(map(len, sources)) - len(weight), np.float32)])
    return dataclasses.replace(
        relation,
        source_ids=np.concatenate(sources),
        target_ids=np.concatenate(targets),
        weight=weight,
        split=np.concatenate(splits),
    )


def _count(counts: dict[str, int], key: str, number: int) -> None:
    if number:
        counts[key] = number


def _check_writable(
    data: LiveCommerceData,
    directory: Path,
    candidates: Mapping[tuple[str, int], Candidates],
    tasks: Mapping[str, float],
) -> None:
    if (directory / "metadata.json").exists() or (directory / "train").exists():
        raise DataError(f"{directory}: holds a data set already; choose another directory, or remove this one first")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        there = f"is not empty ({min(directory.iterdir()).name})" if directory.is_dir() else "is a file"
        raise DataError(f"{directory}: {there}; choose another directory, a new or an empty one")
    data.validate()
    for name in (*(name for name, _ in candidates), *tasks):
        data.relation(name)
    with_both = [name for name in data.relations if all((name, split) in candidates for split in DIRECTORIES)]
    remedy = "make the missing lists with data.candidates.generate_candidates"
    if not with_both or any(name not in with_both for name, _ in candidates):
        raise DataError(
            f"the LSEC format needs candidates of both VALIDATION and TEST for every relation that has any; {remedy}"
        )
    if not tasks:
        raise DataError(f"tasks is empty; give the weight of at least one of {', '.join(with_both)}, or None for all")
    for name, weight in tasks.items():
        if name not in with_both:
            raise DataError(f"tasks: relation '{name}' has no candidates; leave it out, or {remedy}")
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"tasks['{name}'] = {weight}; give a finite weight >= 0")
    for relation in data.relations.values():
        if relation.split is None or not (relation.split == TRAIN).any():
            raise DataError(
                f"relation '{relation.name}' has no training edges to write; run splits.assign_splits first"
            )
        if any("-" in part for part in (relation.name, relation.source, relation.target)):
            raise DataError(f"relation '{relation.name}': names with '-' do not fit the LSEC file names; rename")
    for table in data.nodes.values():
        if table.ids.dtype.kind == "U":
            for row, value in enumerate(table.ids.tolist()):
                if not value or value != value.strip() or any(character in value for character in '\t\n\r"'):
                    raise DataError(f"node table '{table.name}', row {row}: id {value!r} does not fit a TSV; rename it")


def _count_unlisted_edges(data: LiveCommerceData, candidates: Mapping[tuple[str, int], Candidates]) -> dict[str, int]:
    """Counts validation and test edges that no candidate list has as a positive: the format has no place for them."""
    counts: dict[str, int] = {}
    for relation in data.relations.values():
        for split, split_name in SPLIT_NAMES.items():
            source_ids, target_ids = relation.edges(split)
            width = len(data.nodes[relation.target])
            keys = source_ids.astype(np.int64) * width + target_ids
            if lists := candidates.get((relation.name, split)):
                listed = (lists.source_ids[:, None].astype(np.int64) * width + lists.target_ids)[lists.labels]
                keys = keys[~csr.contains(np.sort(listed), keys)]
            _count(counts, f"{relation.name}: {split_name} edges outside the candidate lists, not written", len(keys))
    return counts


def _write_columns(path: Path, header: Sequence[str], columns: Sequence[np.ndarray]) -> None:
    table = pa.table({f"f{i}": pa.array(column) for i, column in enumerate(columns)})
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        file.write(("\t".join(header) + "\n").encode())
        pa.csv.write_csv(table, file, options)
