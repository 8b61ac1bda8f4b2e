"""LightGCN (SIGIR 2020) on Twitch follows, full ranking: 10,985 users, 1,904 streamers.

Source: `twitch_follow`. One relation: follow, which is predicted, on a seeded random split 80/10/10 (the data has no
time). Expected: about two minutes on two CPU cores. The recipe is that of lightgcn_youshu.py with larger batches; no
other was tried.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import twitch_follow
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=twitch_follow.Config(path="${LSEC_JAX_DATA}/twitch_follow"),
        model=lsec_gnn.Config(
            relations=("follow",),
            tasks=(lsec_gnn.TaskConfig("follow", loss="bpr", num_negatives=1, hardest_of=8, rows_per_draw=8),),
            embedding_dim=64,
            embedding_std=0.1,
            aggregator="lightgcn",
            layer_dims=(64, 64),
            layer_combination="mean",
            predictor="dot",
            exclude_batch_edges=False,
            l2=1e-2,  # of half the squared norm
        ),
        split=SplitConfig(method="random", fractions=(0.8, 0.1, 0.1), seed=0),
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="cosine", warmup_steps=20),
        training=TrainingConfig(num_steps=1000, batch_size=16_384, evaluate_every=100, patience=4, metric="recall@20"),
        evaluation=EvaluationConfig(protocols=("full_ranking",), cutoffs=(20,), validation_users=2000, block_size=256),
    )
    if variant == "tiny":
        config.model.tasks[0].hardest_of, config.optimizer.warmup_steps = 4, 2
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 512, 2
        config.evaluation.baselines = ("popularity",)
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
