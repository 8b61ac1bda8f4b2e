"""TREEMS on a simulated world of sharing: to whom in which of 216 scenarios, a long tail of them, some new.

600,000 suggestions in 50,000 requests. Features, histories and views are declared in
`lsec_jax/data/sources/sharing_world_declared.py`, which configs of the baselines share.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import sharing_world
from lsec_jax.data.sources.sharing_world_declared import declared, histories, views
from lsec_jax.models import treems


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=sharing_world.Config(),
        model=treems.Config(
            features=declared(),
            embedding_dim=16,
            embedding_std=0.3,
            history_products=True,
            tower_widths=(64, 32),
        ),
        histories=histories(),
        views=views(),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(name="adagrad", learning_rate=0.05, initial_accumulator=0.1),
        training=TrainingConfig(num_steps=1800, batch_size=512, evaluate_every=300, patience=3, metric="gauc"),
        evaluation=EvaluationConfig(protocols=("impressions",), cutoffs=(5, 10), baselines=("popularity",)),
    )
    if variant == "tiny":
        config.data = sharing_world.tiny()
        config.model.features = declared(8, (3, 2))
        config.model.embedding_dim, config.model.num_experts = 8, 4
        config.model.expert_widths, config.model.tower_widths = (16, 12, 8, 8, 8), (16,)
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 60, 128, 30
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
