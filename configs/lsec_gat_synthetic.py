"""LSEC-GAT (KDD 2021) on the built-in synthetic live-commerce world: attention over neighbours, all heads concatenated.

Four heads that are together as wide as lsec_gcn_synthetic.py's layers (the paper has eight of 128 and 64: set
--config.model.num_heads=8 and layer_dims). The learning rate was the better of 5e-3 and 2e-3 on validation, one run
each of the one-relation model.
"""

from lsec_jax.config import OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=synthetic.Config(),
        model=lsec_gnn.Config(
            aggregator="gat",
            num_heads=4,
            layer_dims=(32, 16),
            embedding_std=1.0,
            self_loop=False,
            weights_per_direction=True,
            last_activation="none",
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(num_steps=1000, batch_size=2048, evaluate_every=100, patience=4, metric="ndcg@10"),
    )
    if variant == "tiny":
        config.data = synthetic.tiny()
        config.model.embedding_dim, config.model.layer_dims, config.model.predictor_hidden = 32, (8, 4), 32
        config.optimizer.learning_rate = 1e-2
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 200, 128, 50
        config.evaluation.num_candidates = 100
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
