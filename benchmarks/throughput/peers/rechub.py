"""A peer of the throughput suite: the LSEC-GNN authors' own code (PyPI `rechub` 0.0.5).

  PYTHON benchmarks/throughput/peers/rechub.py ROW WORKLOAD_DIR [--quick]

Holds none of their code. A step is one turn of their trainer's own loop: sampling neighbours and negatives, then
forward, backward and Adam. Left out, in their favour: progress bars, TensorBoard, evaluations, the choice of an epoch's
edges, and the smaller batch that ends an epoch.
"""

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import prepared
from protocol import Work, serve
from training import POSITIVES, QUICK_POSITIVES, Lockstep, loss_report, num_threads

sys.path.pop(0)  # this folder, in which "rechub" is this file
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "quality" / "peers"))

import rechub_startup

TASKS = ("user-item-buy", "user-streamer-follow")
DIMS = ("200", "128", "64")
NUM_CANDIDATES, TOP_K = 100, 50
AUC_USERS, RANKED_USERS = 1024, 32
SCORED_TOGETHER = 2048  # pairs; 1.6 times as fast here as the 32,768 of their evaluation


def write_training_files(workload: Path, directory: Path) -> None:
    """Writes the training part of prepared data in the authors' format."""
    (directory / "train").mkdir()
    files = {}
    for node_type, count in prepared.num_nodes(workload).items():
        np.savetxt(directory / "train" / f"{node_type}.tsv", np.arange(count), "%d", header=node_type, comments="")
    for relation in prepared.manifest(workload)["relations"]:
        edges = prepared.edges(workload, relation)
        files[relation] = f"{edges.source}-{edges.target}-{relation}.tsv"
        pairs = np.stack([edges.source_ids, edges.target_ids], axis=1)
        header = f"{edges.source}\t{edges.target}"
        np.savetxt(directory / "train" / files[relation], pairs, "%d", "\t", header=header, comments="")
    nodes = [{"filename": f"{name}.tsv", "attribute": []} for name in prepared.num_nodes(workload)]
    task = {"type": "top-k-recommendation", "loss": "binary-cross-entropy", "weight": 0.5}
    metadata = {
        "graph": {"node": nodes, "edge": [{"filename": name, "weighted": False} for name in files.values()]},
        "task": [{"filename": f"{name}.tsv", **task} for name in TASKS],
    }
    (directory / "metadata.json").write_text(json.dumps(metadata))


def start(workload: Path, model: str, batch_size: int) -> tuple[ModuleType, ModuleType, tempfile.TemporaryDirectory]:
    """Imports rechub for a model on the training edges.

    Returns:
        (its `train`, its `utils.other`, the folder of its files, which lives as long as this object).
    """
    directory = tempfile.TemporaryDirectory()
    write_training_files(workload, Path(directory.name))
    arguments = rechub_startup.training_arguments(
        Path(directory.name), model, TASKS, ("0.5", "0.5"), DIMS, str(batch_size)
    )
    train, other, _ = rechub_startup.import_rechub([*arguments, "--num_epochs_validate", "1000000"], num_threads())
    return train, other, directory


def step(model: str, workload: Path, is_quick: bool) -> Work:
    """One turn of the trainer's loop."""
    batch_size = QUICK_POSITIVES if is_quick else POSITIVES
    train, _, directory = start(workload, model, batch_size)

    import dgl

    losses: list[float] = []
    work = Work(run=lambda: None, examples=batch_size, finish=lambda: loss_report(losses))

    def add_scalar(tag: str, value: float, _step: int) -> None:
        if tag == "Train/Loss":
            losses.append(float(value))

    def train_in(lockstep: Lockstep) -> None:
        with directory:
            train.SummaryWriter = lambda **_: SimpleNamespace(add_scalar=add_scalar)
            train.evaluate = lambda model, tasks, mode: ({task["name"]: {} for task in tasks}, {})
            train.enlighten.get_manager = functools.partial(train.enlighten.get_manager, enabled=False)
            dgl.dataloading.EdgeDataLoader = functools.partial(Batches, lockstep, work)
            train.train()

    work.run = Lockstep(train_in).run
    work.notes = (
        "a turn of the authors' own loop, with sampling; a batch has edges of all relations, those of 'sell' without a "
        "loss; edges: sampled in the first batch, mean of both layers and directions"
    )
    return work


class Batches:
    """Their edge loader in lockstep; what the first batch propagates over is noted in the work."""

    def __init__(self, lockstep: Lockstep, work: Work, *graph_and_sampler: Any, **how: Any) -> None:
        self._loader = rechub_startup.edge_loader(*graph_and_sampler, **{**how, "drop_last": True})
        self._batches, self._work = lockstep.batches(self._loader), work

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Any:
        for batch in self._batches:
            blocks = batch[-1]
            if self._work.edges is None:
                counts = [block.num_edges(relation) for block in blocks for relation in block.canonical_etypes]
                self._work.edges = round(sum(counts) / (2 * len(blocks)))
            yield batch


def auc(workload: Path, is_quick: bool) -> Work:
    """Their per-user AUC of 100 candidates with given scores."""
    _, _, metrics = rechub_startup.import_rechub(rechub_startup.NO_DATA, num_threads())
    num_users = prepared.num_nodes(workload)["user"]
    chosen = min(num_users, AUC_USERS // 8 if is_quick else AUC_USERS)
    scores = np.random.default_rng(0).random((chosen, NUM_CANDIDATES), np.float32)
    labels = np.zeros(scores.shape, np.int64)
    labels[:, 0] = 1
    note = f"{chosen} of {num_users} users; scikit-learn's function user by user, in one process"
    return Work(
        lambda: metrics.fast_roc_auc_score(labels, scores), examples=chosen, fraction=chosen / num_users, notes=note
    )


def ranking(workload: Path, is_quick: bool) -> Work:
    """All items for some users, scored pair by pair as in their evaluation, and the best 50 of each."""
    train, other, directory = start(workload, "HET-GCN", POSITIVES)

    import torch

    with directory, open(train.args.metadata_path) as file:
        metadata = other.process_metadata(json.load(file))
        model = other.create_model(metadata, train.logger).eval()
    with torch.no_grad():
        nodes = {name: model.graph.nodes(ntype=name) for name in model.graph.ntypes}
        vectors = model.aggregate_embeddings(nodes, [model.graph] * (len(DIMS) - 1))
    num_users, num_items = model.graph.num_nodes("user"), model.graph.num_nodes("item")
    chosen = min(num_users, RANKED_USERS // 8 if is_quick else RANKED_USERS)
    note = f"{chosen} of {num_users} users; all vectors are there beforehand; training items are not left out"
    run = torch.no_grad()(lambda: best_items(model, vectors, chosen, num_items))
    return Work(run, examples=chosen, fraction=chosen / num_users, notes=note)


def best_items(model: Callable[..., Any], vectors: Any, num_users: int, num_items: int) -> Any:
    """Scores user by item in blocks of pairs and takes the best, ids [u, 50]."""
    import torch

    users = torch.arange(num_users).repeat_interleave(num_items)
    items = torch.arange(num_items).repeat(num_users)
    blocks = zip(users.split(SCORED_TOGETHER), items.split(SCORED_TOGETHER), strict=True)
    scores = [
        model({"name": "user", "index": block[0]}, {"name": "item", "index": block[1]}, TASKS[0], vectors)
        for block in blocks
    ]
    return torch.topk(torch.cat(scores).view(num_users, num_items), min(TOP_K, num_items)).indices


ROWS = {
    "step/lsec_gcn": functools.partial(step, "HET-GCN"),
    "step/lsec_lightgcn": functools.partial(step, "HET-LightGCN"),
    "step/lsec_gat": functools.partial(step, "HET-GAT"),
    "auc": auc,
    "ranking/mlp": ranking,
}

if __name__ == "__main__":
    serve(ROWS)
