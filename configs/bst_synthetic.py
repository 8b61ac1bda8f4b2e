"""BST (DLP-KDD 2019) on the feed of eliverec_synthetic.py: the room stands behind each sequence in a Transformer.

Features, histories, sizes, optimizer and steps are those of that config. Watches alone:
--config.model.sequences="('watches',)".
About three minutes on one CPU core; what it reaches: docs/results.md (sweep `ladder`).
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.declared import SHORT_LENGTH, declared, feed, histories, world
from lsec_jax.models import ctr_baselines


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=world(20_000),
        model=ctr_baselines.Config(
            variant="bst",
            features=declared(),
            embedding_std=0.3,
            embedding_dim=16,
            history_products=True,
            tower_reads_dynamic=True,
        ),
        histories=histories(),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        training=TrainingConfig(num_steps=1600, batch_size=512, evaluate_every=400, patience=4, metric="gauc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",),
            cutoffs=(1, 3, 10),
            baselines=("popularity", "recent_popularity", "watch_rate", "last_watched", "own_counts"),
        ),
    )
    if variant == "tiny":
        config.data = synthetic.live_tiny(feed(30_000))
        config.model.features = declared(SHORT_LENGTH)
        config.model.embedding_dim, config.model.num_heads = 8, 2
        config.model.tower_widths = (32, 16)
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 60, 256, 30
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
