"""LSEC-LightGCN (KDD 2021) on Mafengwo's groups: places, and who is in which group and went where.

Source: `mafengwo`. The task is group_place on the released split; user_place (its training part) and member (group to
user) are further relations. A group and a place have two relations each, so that the dot predictor fits. The released
candidate lists are used as published; --config.data.negatives=cleaned replaces the negatives that are none. Expected:
under half a minute on two CPU cores.

All but the relations is that of lightgcn_mafengwo.py; on the validation part of `:holdout`, l2 of
1e-2 was better than 2e-3. Variants: `:tiny` and `:holdout`.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import mafengwo
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=mafengwo.Config(path="${LSEC_JAX_DATA}/mafengwo"),
        model=lsec_gnn.Config(
            relations=("group_place", "user_place", "member"),
            tasks=(lsec_gnn.TaskConfig("group_place", loss="bpr", num_negatives=1, hardest_of=8, rows_per_draw=8),),
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
        training=TrainingConfig(num_steps=300, batch_size=1024, evaluate_every=100, patience=0, metric="ndcg@10"),
        evaluation=EvaluationConfig(protocols=("candidates", "full_ranking"), cutoffs=(5, 10), block_size=256),
    )
    if variant == "tiny":
        config.model.tasks[0].hardest_of, config.optimizer.warmup_steps = 4, 2
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 512, 2
        config.evaluation.baselines = ("popularity",)
    elif variant == "holdout":
        config.data.validation_fraction = 0.2
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny' and ':holdout'")
    return config
