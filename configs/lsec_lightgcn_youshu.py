"""LSEC-LightGCN (KDD 2021) on Youshu's released split, full ranking: users, book lists ("bundles") and books ("item").

Source: `youshu`. Roles: bundles stand where streamers do. The task is user_bundle (LSEC-GNN's follow) on the given
split, with early stopping by its tune part; user_item (buy) and bundle_item (sell) are further relations, all training.
A user and a bundle have two relations each, so that the dot predictor fits. Expected: about two minutes, two CPU cores.

All but the relations is that of lightgcn_youshu.py, where it was chosen.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import youshu
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=youshu.Config(path="${LSEC_JAX_DATA}/youshu"),
        model=lsec_gnn.Config(
            relations=("user_bundle", "user_item", "bundle_item"),
            tasks=(lsec_gnn.TaskConfig("user_bundle", loss="bpr", num_negatives=1, hardest_of=8, rows_per_draw=8),),
            embedding_dim=64,
            embedding_std=0.1,
            aggregator="lightgcn",
            layer_dims=(64, 64),
            layer_combination="mean",
            predictor="dot",
            exclude_batch_edges=False,
            l2=1e-2,  # of half the squared norm
        ),
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="cosine", warmup_steps=20),
        training=TrainingConfig(num_steps=1000, batch_size=4096, evaluate_every=50, patience=6, metric="recall@20"),
        evaluation=EvaluationConfig(protocols=("full_ranking",), cutoffs=(20,), validation_users=2000, block_size=256),
    )
    if variant == "tiny":
        config.model.tasks[0].hardest_of, config.optimizer.warmup_steps = 4, 2
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 512, 2
        config.evaluation.baselines = ("popularity",)
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
