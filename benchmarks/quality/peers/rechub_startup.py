"""Starts the LSEC-GNN authors' package (PyPI `rechub` 0.0.5) on today's DGL and NumPy, for the drivers that call it.

`rechub` predates NumPy 2 and DGL 1: what it expects of them is restored here, without changing a number.
"""

import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import ModuleType
from typing import Any

NO_DATA = ("--dataset_path", ".", "--metadata_path", ".")


def training_arguments(
    data: Path,
    model: str,
    tasks: Sequence[str],
    task_weights: Sequence[str],
    dims: Sequence[str] = ("200", "128", "64"),
    batch_size: str = "4096",
    learning_rate: str = "0.0005",
) -> list[str]:
    """The command line that rechub parses for itself, with what all our trainings of it have in common.

    Args:
        data: folder in the LSEC format, with metadata.json.
        model: "HET-GCN", "HET-LightGCN" or "HET-GAT".
        tasks: names of relation files; the first is evaluated.
        task_weights: one for each.
        dims: embedding width, then layer widths.
        batch_size: edges of all relations together.
        learning_rate: of Adam.
    """
    metadata_path = data / "metadata.json"
    listed = [Path(task["filename"]).stem for task in json.loads(metadata_path.read_text())["task"]]
    if not set(tasks) <= set(listed):
        sys.exit(f"{metadata_path} lists the tasks {listed}, not all of {tasks}")
    choice = [str(listed.index(task)) for task in tasks]
    return [
        *("--dataset_path", str(data), "--metadata_path", str(metadata_path), "--save_checkpoint", "False"),
        *("--model_name", model, "--embedding_aggregator", "concat", "--predictor", "dnn"),
        *("--graph_embedding_dims", *dims, "--negative_sampling_ratio", "4", "--learning_rate", learning_rate),
        *("--batch_size", batch_size, "--num_workers", "0", "--num_epochs", "1000000"),
        *("--training_task_choice", *choice, "--evaluation_task_choice", choice[0]),
        *("--task_weight_overwrite", *task_weights),
    ]


def import_rechub(arguments: Sequence[str], threads: int) -> tuple[ModuleType, ModuleType, ModuleType]:
    """Imports rechub and patches it; returns its modules `train`, `utils.other` and `utils.metrics`.

    Args:
        arguments: its command line, which it reads from sys.argv on import.
        threads: of OpenMP, MKL and PyTorch.
    """
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "DGLBACKEND": "pytorch"}
    warnings.simplefilter("ignore")
    sys.argv = [sys.argv[0], *arguments]

    import numpy as np
    import torch

    torch.set_num_threads(threads)
    quantile = np.quantile
    np.quantile = lambda *a, interpolation="linear", **more: quantile(*a, **({"method": interpolation} | more))
    vars(np).setdefault("Inf", np.inf)  # gone in NumPy 2
    # rechub's packages re-export functions under the names of modules, hence import_module
    train, other, metrics = map(importlib.import_module, ("rechub.train", "rechub.utils.other", "rechub.utils.metrics"))
    metrics.Pool = lambda processes: ThreadPool(1)  # per-user AUC in this process, not in `processes` others
    train.logger = logging.getLogger("rechub")  # which its own command line would set
    for name, layer in (("gcn", "GraphConv"), ("gat", "GATConv")):
        module = importlib.import_module(f"rechub.model.heterogeneous.aggregator.{name}")
        setattr(module, layer, partial(getattr(module, layer), allow_zero_in_degree=True))
    return train, other, metrics


def edge_loader(
    graph: Any,
    eids: Any,
    sampler: Any,
    *,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
    num_workers: int,
    pin_memory: bool,
    **how: Any,
) -> Any:
    """DGL's EdgeDataLoader of old, rebuilt on today's; rechub's trainer makes one per epoch."""
    import dgl

    sampler = dgl.dataloading.as_edge_prediction_sampler(sampler, **how)
    how = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last, "num_workers": num_workers}
    return dgl.dataloading.DataLoader(graph, eids, sampler, **how)
