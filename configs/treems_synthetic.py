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
            inconsistency_weight=0.001,
        ),
        histories=histories(),
        views=views(),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=1e-2),  # Adam; with the paper's AdaGrad the experts hardly learned
        training=TrainingConfig(num_steps=1500, batch_size=1024, evaluate_every=300, patience=3, metric="gauc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",), cutoffs=(5, 10), baselines=("popularity",), scenario="scenario"
        ),
    )
    if variant == "ablations":
        config.data = sharing_world.Config(num_users=3_000, num_requests=25_000)
        config.training.num_steps, config.training.batch_size = 1200, 512
    elif variant == "tiny":
        config.data = sharing_world.tiny()
        config.model.features = declared(8, (3, 2))
        config.model.embedding_dim, config.model.num_experts = 8, 4
        config.model.expert_widths, config.model.tower_widths = (16, 12, 8, 8, 8), (16,)
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 60, 128, 30
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':ablations' and ':tiny'")
    return config
