"""LightGCN (SIGIR 2020) on Mafengwo's released split: 995 groups, 1,513 places, one test place and 100 negatives each.

Source: `mafengwo`. One relation: group_place, which is predicted. The released candidate lists are used as published;
--config.data.negatives=cleaned replaces the negatives that are none. There is no validation part, so all steps are
trained and the last checkpoint counts. Expected: under half a minute on two CPU cores.

How the recipe was chosen: that of lightgcn_youshu.py, with fewer steps of smaller batches. Variants: `:tiny` for a few
steps; `:holdout` keeps 20% of the groups' training pairs to choose settings by.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import mafengwo
from lsec_jax.models import lsec_gnn


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=mafengwo.Config(path="${LSEC_JAX_DATA}/mafengwo"),
        model=lsec_gnn.Config(
            relations=("group_place",),
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
