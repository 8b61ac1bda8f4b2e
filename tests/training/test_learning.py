import json

import pytest

from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn
from lsec_jax.training import fit
from lsec_jax.training.run import prepare
from tests import runs


def small_lsec_gcn(**training):
    """LSEC-GCN on the tiny world, wide enough to learn it in seconds."""
    config = runs.tiny_config(**training)
    config.data = synthetic.tiny()
    config.model = lsec_gnn.Config(embedding_dim=32, layer_dims=(32, 16), predictor_hidden=32)
    config.optimizer.learning_rate = 1e-2
    return config


@pytest.mark.parametrize("aggregator", ["gcn", "lightgcn"])
def test_the_model_overfits_one_batch(aggregator):
    config = small_lsec_gcn(batch_size=32)
    config.model.aggregator = aggregator
    # One relation, task and layer: what takes time here is compiling.
    config.model.relations, config.model.tasks = ("buy",), config.model.tasks[:1]
    config.model.layer_dims = (32,)
    run = prepare(config)
    state, step, batch = run.initial_state(), run.step_function(), run.batch_at()(0)
    losses = []
    for _ in range(200):
        state, metrics = step(state, run.inputs, batch)
        losses.append(metrics["loss"])
    assert float(losses[-1]) < 0.3 * float(losses[0]), losses[::30]


def test_lsec_gcn_beats_popularity_on_the_synthetic_world(tmp_path, no_pictures):
    config = small_lsec_gcn(num_steps=300, batch_size=128, evaluate_every=50, log_every=50)
    config.evaluation.num_candidates = 100
    fit.run(config, tmp_path)
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    scores = {row["model"]: row["metrics"]["ndcg@10"] for row in rows if row["split"] == "test"}
    print(scores)
    assert scores["lsec-gcn"] > 1.2 * scores["popularity"]
    assert scores["lsec-gcn"] < scores["oracle"]
