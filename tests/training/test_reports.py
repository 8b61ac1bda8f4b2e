"""Leaderboards of impressions, on which not every scorer has every metric."""

import json

from matplotlib.image import imread

from lsec_jax.training import plots, reports

MODEL = {
    "auc": 0.8, "rmse_log1p_stay": 1.0, "ndcg@10": 0.7, "ndcg@3": 0.6, "precision@3": 0.3, "gauc": 0.75,
    "logloss": 0.3, "calibration_error": 0.01, "auc_bag": 0.6, "rmse_stay": 90.0,
    "hr@10": 0.9, "hr@3": 0.7, "mrr": 0.5,
}  # fmt: skip
FLOOR = {"auc": 0.6, "gauc": 0.55, "ndcg@3": 0.5, "ndcg@10": 0.6, "precision@3": 0.2, "mrr": 0.4}


def row(model, metrics):
    common = {"split": "test", "protocol": "impressions", "candidates": "impressions: 9 as shown", "users": 3}
    return {"model": model, "metrics": metrics, **common}


def test_metrics_of_impressions_are_shown_by_kind_and_cutoff():
    of_ranks = ["mrr", "hr@3", "hr@10", "ndcg@3", "ndcg@10", "precision@3"]
    names = ["auc", "gauc", *of_ranks, "logloss", "auc_bag", "rmse_stay"]
    assert reports.leaderboard_metrics("impressions", set(MODEL)) == names


def test_a_metric_that_a_scorer_lacks_is_a_dash_in_the_table_and_no_panel_of_the_picture(tmp_path):
    rows = [row("popularity", FLOOR), row("model", MODEL)]
    lines = reports.table(rows).splitlines()
    assert lines[0] == "### test, impressions: 9 as shown, 3 users"
    values = [0.8, 0.75, 0.5, 0.7, 0.9, 0.6, 0.7, 0.3, 0.3, 0.6, 90]
    assert lines[4] == "| model | " + " | ".join(f"{value:.4f}" for value in values) + " |"
    assert lines[5] == "| popularity | 0.6000 | 0.5500 | 0.4000 | - | - | 0.5000 | 0.6000 | 0.2000 | - | - | - |"
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "kind": "train", "train_seconds": 1.0}) + "\n")
    plots.draw(tmp_path, rows)
    assert imread(tmp_path / "plots" / "leaderboard_impressions.png").std() > 0
