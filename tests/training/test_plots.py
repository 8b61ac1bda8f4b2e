"""Pictures of a run."""

import json

import numpy as np
from matplotlib.image import imread

from lsec_jax.training import plots


def row(model, value, protocol="candidates"):
    metrics = {"ndcg@5": value, "auc": 0.5 + value} if protocol == "candidates" else {"recall@7": value}
    return {"model": model, "split": "test", "protocol": protocol, "metrics": metrics}


def test_pictures_are_drawn_for_any_cutoffs_and_before_the_first_validation(tmp_path):
    lines = [{"step": step, "kind": "train", "train_seconds": 1.0, "loss": 1.0 / step} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [row(model, value, protocol) for protocol in ("candidates", "full_ranking") for model, value in SCORES]
    plots.draw(tmp_path, rows)
    without = imread(tmp_path / "plots" / "training.png")
    measured = {"step": 2, "kind": "validation", "train_seconds": 1.0, "recall@7": 0.2}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, measured]))
    plots.draw(tmp_path, rows)
    assert not np.array_equal(imread(tmp_path / "plots" / "training.png"), without)
    for protocol in ("candidates", "full_ranking"):
        assert imread(tmp_path / "plots" / f"leaderboard_{protocol}.png").std() > 0


def test_weights_of_tasks_are_drawn_where_there_are_any(tmp_path):
    rows = [row(model, value) for model, value in SCORES]
    lines = [{"step": step, "kind": "train", "train_seconds": 1.0, "loss": 1.0 / step} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plots.draw(tmp_path, rows)
    assert not (tmp_path / "plots" / "task_weights.png").exists()
    pictures = []
    for extra in ({}, {"stay/cosine": -0.2}):
        weighted = [line | {"watched/weight": 1.0, "stay/weight": 0.3 * line["step"]} | extra for line in lines]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in weighted))
        plots.draw(tmp_path, rows)
        pictures.append(imread(tmp_path / "plots" / "task_weights.png"))
    assert pictures[1].shape[1] > pictures[0].shape[1]  # a panel more


SCORES = (("popularity", 0.1), ("model", 0.3))
