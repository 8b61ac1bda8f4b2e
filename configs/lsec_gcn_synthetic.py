"""LSEC-GCN (KDD 2021) on the built-in synthetic live-commerce world: three relations, two tasks.

A world of 3,000 users, 3,000 items and 450 streamers. The layers are those of the authors' code (no self-connections,
weights per direction, no activation after the last layer, embeddings from N(0, 1)); the learning rate is ten times the
paper's. Expected: docs/results.md.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=synthetic.Config(),
        model=lsec_gnn.Config(embedding_std=1.0, self_loop=False, weights_per_direction=True, last_activation="none"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        training=TrainingConfig(num_steps=1000, batch_size=2048, evaluate_every=100, patience=4, metric="ndcg@10"),
        evaluation=EvaluationConfig(num_candidates=1000),
    )
    if variant == "tiny":
        config.data = synthetic.tiny()
        config.model.embedding_dim, config.model.layer_dims, config.model.predictor_hidden = 32, (32, 16), 32
        config.optimizer.learning_rate = 1e-2
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 200, 128, 50
        config.evaluation.num_candidates = 100
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
