"""LightGCN (SIGIR 2020) on Gowalla, its authors' split, full ranking: 29,858 users, 40,981 items.

Expected: past the paper's Recall@20 / NDCG@20 = .1830 / .1554 in a few minutes of training on two CPU cores; the
results with seeds and the curve over time are in docs/results.md. Popularity must give .0416 / .0317.

What differs from the paper's training: batches of 32,768 instead of 2,048, the hardest of 64 uniform negatives instead
of one (64 rows of a batch choose from the same draws), and a cosine schedule: 1,000 steps do what takes the paper about
1,000 epochs.

How the recipe was chosen: with `:holdout`, which keeps 10% of the training pairs for validation, one run each, never on
test: 1,000 steps over 600, l2 of 2e-3 over 4e-3, 64 draws over 256 and 128. For item-kNN likewise: 100 neighbours over
400, a shrinkage of 30 over 0, 10, 100 and 300.

Variants: `:tiny` for a few steps; `:holdout` to choose settings with --config.KEY=VALUE.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import lightgcn_text
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=lightgcn_text.Config(path="${LSEC_JAX_DATA}/gowalla", relation="buy", source="user", target="item"),
        model=lsec_gnn.Config(
            relations=("buy",),
            tasks=(lsec_gnn.TaskConfig("buy", loss="bpr", num_negatives=1, hardest_of=64, rows_per_draw=64),),
            embedding_dim=64,
            embedding_std=0.1,
            aggregator="lightgcn",
            layer_dims=(64, 64, 64),
            layer_combination="mean",
            predictor="dot",
            exclude_batch_edges=False,
            l2=2e-3,  # of half the squared norm
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", warmup_steps=50),
        training=TrainingConfig(
            num_steps=1000, batch_size=32_768, evaluate_every=100, patience=0, metric="recall@20", track_test=True
        ),
        evaluation=EvaluationConfig(protocols=("full_ranking",), cutoffs=(20,), knn_neighbors=100),
    )
    if variant == "tiny":
        config.model.tasks[0].hardest_of = 4
        config.optimizer.warmup_steps = 2
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 512, 2
        config.training.track_test = False
        config.evaluation.baselines = ("popularity",)
    elif variant == "holdout":
        config.data.validation_fraction = 0.1
        config.training.track_test = False
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny' and ':holdout'")
    return config
