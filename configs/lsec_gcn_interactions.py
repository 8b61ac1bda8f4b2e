"""LSEC-GCN on your own interaction files: CSV, TSV or Parquet, one per relation.

Copy this file and edit the relations, or override keys:
  --config.data.path=/my/logs --config.data.relations[0].path=orders.csv --config.data.relations[0].time_column=paid_at
`:tiny` reads the small sample in tests/fixtures/shop.
"""

from pathlib import Path

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import interactions
from lsec_jax.models import lsec_gnn

_SAMPLE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "shop"


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=interactions.Config(
            path="interactions",
            relations=(
                interactions.RelationSpec(
                    name="buy",
                    source="user",
                    target="item",
                    path="buy.csv",
                    source_column="user_id",
                    target_column="item_id",
                    time_column="time",
                ),
                interactions.RelationSpec(
                    name="follow",
                    source="user",
                    target="streamer",
                    path="follow.csv",
                    source_column="user_id",
                    target_column="streamer_id",
                    time_column="time",
                ),
                interactions.RelationSpec(
                    name="sell",
                    source="streamer",
                    target="item",
                    path="sell.csv",
                    source_column="streamer_id",
                    target_column="item_id",
                ),
            ),
        ),
        model=lsec_gnn.Config(embedding_std=1.0, self_loop=False, weights_per_direction=True, last_activation="none"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        training=TrainingConfig(num_steps=2000, batch_size=4096, evaluate_every=100, patience=10, metric="ndcg@10"),
        evaluation=EvaluationConfig(validation_users=5000),
    )
    if variant == "tiny":
        config.data.path = str(_SAMPLE)
        config.model.embedding_dim, config.model.layer_dims, config.model.predictor_hidden = 32, (32, 16), 32
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 100, 128, 50
        config.evaluation.num_candidates = 100
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
