"""Trains and evaluates the LSEC-GNN authors' own code (PyPI `rechub` 0.0.5) as a peer of ours.

This driver holds none of the authors' code: it imports `rechub` and calls its trainer, evaluation and metrics. It
runs in a virtual environment of its own (README.md beside this file).

LSEC-GCN (the authors' `HET-GCN`) on a data set in the LSEC on-disk format, or the authors' metrics on given scores
(row i of the .npy is the score of row i of the TSV):

  python rechub_lsec_gcn.py --data DIR --seed 0 --epochs 50 --output run.json --scores scores.npy
  python rechub_lsec_gcn.py --metrics-only --scores scores.npy --labels-tsv DIR/val/user-item-buy.tsv --output m.json

Hooked from outside, without changing a number: the edge loader (counts steps and positives, ends training when the
budget is spent), the evaluation (keeps metrics and scores) and the TensorBoard writer (keeps losses). `rechub_startup`
restores what `rechub` expects of older packages.
"""

import argparse
import json
import math
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import rechub_startup

METRICS = ("AUC", "MRR", "NDCG@10", "NDCG@50", "Recall@10", "Recall@50")


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--scores", type=Path, help="training: .npy written at the end; --metrics-only: .npy to read")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--metrics-only", action="store_true", help="no training: the authors' metrics on --scores")
    parser.add_argument("--labels-tsv", type=Path, help="--metrics-only: candidate file with columns user, item, 0/1")
    parser.add_argument("--data", type=Path, help="folder with train/, val/, test/ and metadata.json")
    parser.add_argument("--model", default="HET-GCN", choices=("HET-GCN", "HET-LightGCN", "HET-GAT"))
    parser.add_argument(
        "--tasks", nargs="+", default=["user-item-buy", "user-streamer-follow"], help="first: evaluated"
    )
    parser.add_argument("--task-weights", nargs="+", default=["0.5", "0.5"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="budget in the authors' epochs (one random edge per source node)")
    parser.add_argument(
        "--positives-per-task", type=int, help="budget: ends with the epoch in which all tasks reach it"
    )
    parser.add_argument(
        "--core-seconds", type=float, help="budget: ends with the epoch in which training has had that much of a core"
    )
    parser.add_argument("--eval-every", type=int, default=5, help="epochs between evaluations")
    parser.add_argument("--patience", type=int, default=20, help="the authors' early stopping, in evaluations")
    parser.add_argument("--no-test", action="store_true", help="test only once, at the selected checkpoint")
    parser.add_argument("--batch-size", default="4096")
    parser.add_argument("--learning-rate", default="0.0005")
    parser.add_argument("--dims", nargs="+", default=["200", "128", "64"], help="embedding width, then layer widths")
    options = parser.parse_args()
    if options.metrics_only and not (options.scores and options.labels_tsv):
        parser.error("--metrics-only needs --scores and --labels-tsv")
    budgets = (options.epochs, options.positives_per_task, options.core_seconds)
    if not options.metrics_only and (options.data is None or sum(budget is not None for budget in budgets) != 1):
        parser.error("training needs --data and exactly one of --epochs, --positives-per-task and --core-seconds")
    return options


def rechub_arguments(options: argparse.Namespace) -> list[str]:
    """The command line that rechub parses for itself, on import, from sys.argv."""
    if options.metrics_only:
        return list(rechub_startup.NO_DATA)
    return [
        *rechub_startup.training_arguments(
            options.data,
            options.model,
            options.tasks,
            options.task_weights,
            options.dims,
            options.batch_size,
            options.learning_rate,
        ),
        *("--num_epochs_validate", str(options.eval_every), "--early_stop_patience", str(options.patience)),
    ]


class Recorder:
    """Counts what the authors' trainer does, keeps its evaluations and ends it when the budget is spent."""

    def __init__(self, options: argparse.Namespace, train: ModuleType, other: ModuleType) -> None:
        import dgl

        self.options, self.task, self.other = options, options.tasks[0], other
        self.epochs, self.steps, self.positives = 0, 0, Counter()
        self.losses, self.history = defaultdict(list), []
        self.clock = Clock()
        self.authors_evaluate, self.authors_mrr = train.evaluate, other.mrr
        dgl.dataloading.EdgeDataLoader, train.SummaryWriter = self.edge_loader, lambda **_: self
        other.mrr, train.evaluate = self.mrr, self.evaluate

    def edge_loader(self, *graph_and_sampler: Any, **how: Any) -> "CountingLoader":
        """The trainer's loader, one per epoch."""
        seen = min(self.positives[task] for task in self.options.tasks)
        if (
            self.epochs == self.options.epochs
            or seen >= (self.options.positives_per_task or math.inf)
            or self.clock.training()[1] >= (self.options.core_seconds or math.inf)
        ):
            if self.history[-1]["steps"] != self.steps:  # the trainer evaluates every k epochs only
                self.model.eval()
                self.evaluate(self.model, self.tasks, "val")
            raise KeyboardInterrupt  # which the trainer catches, to go on to testing
        return CountingLoader(rechub_startup.edge_loader(*graph_and_sampler, **how), self)

    def count(self, positive_graph: Any) -> None:
        """Counts a step and, for each relation, the positives in its batch."""
        self.steps += 1
        for source, relation, target in positive_graph.canonical_etypes:
            if not relation.endswith("-by"):  # rechub's name for a reversed relation
                self.positives[f"{source}-{target}-{relation}"] += positive_graph.num_edges(relation)

    def add_scalar(self, tag: str, value: float, _step: int) -> None:
        """Stands in for TensorBoard's writer; nan is a batch without an edge of that task."""
        if tag.startswith("Train/") and not math.isnan(value):
            self.losses[tag.removeprefix("Train/")].append(float(value))

    def mrr(self, y_trues: Any, y_scores: Any) -> float:
        """The authors' MRR; called once per evaluation, with all scores."""
        self.predictions = y_scores.ravel().copy()
        return self.authors_mrr(y_trues, y_scores)

    def evaluate(self, model: Any, tasks: Any, mode: str) -> Any:
        """The authors' evaluation; every call on val adds a row to the history."""
        self.model, self.tasks = model, tasks
        self.clock.stop()
        result = self.authors_evaluate(model, tasks, mode)
        values = {mode: {name: float(result[0][self.task][name]) for name in METRICS}}
        if mode == "test":  # only the trainer asks for test: at its end, with its best checkpoint
            self.selected_test = values["test"]
            return result
        self.val_predictions = self.predictions
        if not self.options.no_test:
            test = self.authors_evaluate(model, tasks, "test")[0][self.task]
            values["test"] = {name: float(test[name]) for name in METRICS}
        row = {"epoch": self.epochs, "steps": self.steps, "positives": dict(self.positives)}
        row["seconds_training"], row["core_seconds_training"] = self.clock.training()
        row["seconds_evaluating"] = self.clock.start()
        row["mean_loss"] = {tag: math.fsum(v) / len(v) for tag, v in self.losses.items()}
        self.history.append(row | values)
        self.losses.clear()
        print(json.dumps(self.history[-1]), flush=True)
        return result

    def report(self) -> dict[str, Any]:
        """What goes into the JSON file."""
        evaluated = [row for row in self.history if row["epoch"] and row["epoch"] % self.options.eval_every == 0]
        best = max(evaluated, key=lambda row: math.fsum(row["val"].values()), default=self.history[0])
        return {
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.options).items()},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "history": self.history,
            "selected": {"epoch": best["epoch"], "val": best["val"], "test": self.selected_test},
            "scores_are_of_epoch": self.history[-1]["epoch"],
        }


class Clock:
    """Wall and core seconds of training; stands still before the first evaluation's end and during evaluations."""

    def __init__(self) -> None:
        self._trained, self._evaluated = (0.0, 0.0), 0.0
        self._started: tuple[float, float] | None = None
        self._stopped = time.perf_counter()

    def training(self) -> tuple[float, float]:
        """Wall and core seconds of training so far."""
        if self._started is None:
            return self._trained
        now = time.perf_counter(), time.process_time()
        wall, core = (
            before + end - begin for before, end, begin in zip(self._trained, now, self._started, strict=True)
        )
        return wall, core

    def stop(self) -> None:
        """An evaluation begins."""
        self._trained, self._started, self._stopped = self.training(), None, time.perf_counter()

    def start(self) -> float:
        """An evaluation has ended; returns the wall seconds of all so far."""
        self._evaluated += time.perf_counter() - self._stopped
        self._started = time.perf_counter(), time.process_time()
        return self._evaluated


class CountingLoader:
    """The edge loader of one epoch, reporting each batch to the recorder."""

    def __init__(self, loader: Any, recorder: Recorder) -> None:
        self.loader, self.recorder = loader, recorder

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.recorder.count(batch[1])
            yield batch
        self.recorder.epochs += 1


def run_training(options: argparse.Namespace) -> dict[str, Any]:
    """The authors' trainer from start to end; the scores written are those of the history's last row."""
    train, other, _ = rechub_startup.import_rechub(rechub_arguments(options), options.threads)

    import dgl
    import numpy as np
    import torch

    np.random.seed(options.seed)  # noqa: NPY002 - pandas draws each epoch's edges from it
    torch.manual_seed(options.seed)
    dgl.seed(options.seed)
    recorder = Recorder(options, train, other)
    train.train()
    if options.scores:  # the authors sort the file by user: back to the order of the file
        frame = other._df_cache_for_validation[os.path.join(str(options.data), "val", f"{recorder.task}.tsv")]
        scores = np.empty_like(recorder.val_predictions)
        scores[frame.index.to_numpy()] = recorder.val_predictions
        np.save(options.scores, scores, allow_pickle=False)
    return recorder.report()


def run_metrics(options: argparse.Namespace) -> dict[str, Any]:
    """The authors' metric functions on given scores, rows sorted and grouped by user as their evaluation does."""
    _, _, metrics = rechub_startup.import_rechub(rechub_arguments(options), options.threads)

    import numpy as np
    import pandas as pd

    frame, scores = pd.read_table(options.labels_tsv), np.load(options.scores, allow_pickle=False)
    frame = frame.sort_values(frame.columns[0])  # unstable, as theirs: the order of ties depends on it
    sizes = frame.groupby(frame.columns[0]).size().unique()
    if len(sizes) != 1 or scores.shape != (len(frame),):
        sys.exit(f"{len(frame)} rows, scores {scores.shape}, numbers of candidates per user {sorted(sizes)}")
    truth, scores = (x.reshape(-1, sizes[0]) for x in (frame.iloc[:, 2].to_numpy(), scores[frame.index.to_numpy()]))
    values = {"AUC": metrics.fast_roc_auc_score(truth, scores), "MRR": metrics.mrr(truth, scores)}
    for k in (10, 50):
        values[f"NDCG@{k}"] = metrics.ndcg_score(truth, scores, k=k, ignore_ties=True)
        values[f"Recall@{k}"] = metrics.recall(truth, scores, k=k)
    return {"users": len(truth), "candidates": int(sizes[0]), "metrics": {k: float(values[k]) for k in METRICS}}


if __name__ == "__main__":
    options = parse_options()
    for path in filter(None, (options.output, options.scores)):
        path.parent.mkdir(parents=True, exist_ok=True)
    outcome = run_metrics(options) if options.metrics_only else run_training(options)
    options.output.write_text(json.dumps(outcome, indent=1) + "\n")
