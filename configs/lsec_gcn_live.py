"""LSEC-GCN on a simulated world with rooms: new items all the time, candidates from what is released.

The world of lsec_gcn_synthetic.py with `live` on: a million impressions of the feed, purchases, shares and gifts in
rooms, and three in ten items released in the period: some have no purchase before the test period, and candidates are
items that are released by then. The model trains on the relations buy, follow and sell.
`python -m lsec_jax.analyze` on this config draws what happens in the rooms. Three to four minutes on one CPU core; test
ndcg@10 on candidates with seed 0: 0.121 (item_knn 0.113, oracle 0.229).
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=synthetic.Config(live=LiveConfig()),
        model=lsec_gnn.Config(embedding_std=1.0, self_loop=False, weights_per_direction=True, last_activation="none"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        training=TrainingConfig(num_steps=1000, batch_size=2048, evaluate_every=100, patience=4, metric="ndcg@10"),
        evaluation=EvaluationConfig(num_candidates=1000),
    )
    if variant == "tiny":
        config.data = synthetic.live_tiny()
        config.model.embedding_dim, config.model.layer_dims, config.model.predictor_hidden = 32, (32, 16), 32
        config.optimizer.learning_rate = 1e-2
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 200, 128, 50
        config.evaluation.num_candidates = 100
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
