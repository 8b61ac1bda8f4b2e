"""A peer of the throughput suite: RecBole 1.2.1, its LightGCN, trainer and full-sort evaluation.

  PYTHON benchmarks/throughput/peers/recbole.py ROW WORKLOAD_DIR [--quick]

Holds none of RecBole's code. A step is one turn of its trainer's own loop, with the negatives that its loader draws.
Left out, in its favour: progress bars and the smaller batch that ends an epoch.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import prepared
from protocol import Work, serve
from training import POSITIVES, QUICK_POSITIVES, Lockstep, loss_report, num_threads

sys.path.pop(0)  # this folder, in which "recbole" is this file

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer

RELATION, NAME = "buy", "world"
EMBEDDING_DIM, NUM_LAYERS, TOP_K = 200, 3, 50
EVALUATED_TOGETHER = 256  # users; its default, 4,096 scores together, would take them one by one
PARTS = ("train", "valid", "test")  # in the order of split codes
SETTINGS = {
    "benchmark_filename": list(PARTS),
    "load_col": {"inter": ["user_id", "item_id"]},
    "embedding_size": EMBEDDING_DIM,
    "n_layers": NUM_LAYERS,
    "metrics": ["Recall"],
    "topk": [TOP_K],
    "valid_metric": f"Recall@{TOP_K}",
    "use_gpu": False,
    "show_progress": False,
    "worker": 0,
    "state": "ERROR",
}


def start(workload: Path, batch_size: int) -> tuple[Trainer, Any, Any]:
    """Reads the relation from files of RecBole's own and builds LightGCN.

    Returns:
        (trainer, training loader, loader of the test users).
    """
    num_items = prepared.num_nodes(workload)[prepared.manifest(workload)["relations"][RELATION]["target"]]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / NAME).mkdir()
        for code, part in enumerate(PARTS):
            edges = prepared.edges(workload, RELATION, code)
            pairs = np.stack([edges.source_ids, edges.target_ids], axis=1)
            path = Path(directory) / NAME / f"{NAME}.{part}.inter"
            np.savetxt(path, pairs, "%d", "\t", header="user_id:token\titem_id:token", comments="")
        paths = {"data_path": directory, "checkpoint_dir": directory}
        sizes = {"train_batch_size": batch_size, "eval_batch_size": EVALUATED_TOGETHER * num_items}
        sys.argv = sys.argv[:1]  # which Config would read too
        config = Config(model="LightGCN", dataset=NAME, config_dict={**SETTINGS, **paths, **sizes})
        dataset = create_dataset(config)
        train_data, _, test_data = data_preparation(config, dataset)
        model = LightGCN(config, train_data.dataset)
        return Trainer(config, model), train_data, test_data


def step(workload: Path, is_quick: bool) -> Work:
    """One turn of the trainer's loop."""
    batch_size = QUICK_POSITIVES if is_quick else POSITIVES
    trainer, train_data, _ = start(workload, batch_size)
    losses: list[float] = []

    def loss(batch: Any) -> torch.Tensor:
        value = trainer.model.calculate_loss(batch)
        losses.append(value.item())
        return value

    def train(lockstep: Lockstep) -> None:
        batches = lockstep.batches(train_data, lambda batch: len(batch) == batch_size)
        trainer._train_epoch(batches, 0, loss_func=loss)

    note = f"a turn of RecBole's own loop, with its negatives; {NUM_LAYERS} layers, mean"
    num_edges = trainer.model.interaction_matrix.nnz
    return Work(Lockstep(train).run, batch_size, num_edges, notes=note, finish=lambda: loss_report(losses))


def ranking(workload: Path, _is_quick: bool) -> Work:
    """Its full-sort evaluation of all test users, with Recall@50."""
    trainer, _, test_data = start(workload, POSITIVES)
    num_users = prepared.num_nodes(workload)["user"]
    chosen = len(test_data.uid_list)
    note = f"{chosen} of {num_users} users, those with test edges; vectors are there beforehand; with Recall@{TOP_K}"
    return Work(
        lambda: trainer.evaluate(test_data, load_best_model=False),
        examples=chosen,
        fraction=chosen / num_users,
        notes=note,
    )


ROWS = {"step/lightgcn_bpr": step, "ranking/dot": ranking}

if __name__ == "__main__":
    torch.set_num_threads(num_threads())
    serve(ROWS)
