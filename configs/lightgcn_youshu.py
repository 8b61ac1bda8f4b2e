"""LightGCN (SIGIR 2020) on Youshu's released split, full ranking: 8,039 users, 4,771 book lists ("bundles").

Source: `youshu`. One relation: user_bundle, which is predicted; early stopping by its tune part. The rival that knows
of no books: lsec_lightgcn_youshu.py adds them. Expected: under a minute on two CPU cores.

How the recipe was chosen: on validation, one run each: l2 of 1e-2 over 2e-3, the hardest of 8 negatives over one.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import youshu
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=youshu.Config(path="${LSEC_JAX_DATA}/youshu"),
        model=lsec_gnn.Config(
            relations=("user_bundle",),
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
