"""NeuMF (WWW 2017) on the synthetic world of lsec_gcn_synthetic.py: purchases only, no graph.

Variants of the model: --config.model.variant=gmf or mlp.
"""

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.models import ncf


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=synthetic.Config(),
        model=ncf.Config(),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        training=TrainingConfig(num_steps=1000, batch_size=2048, evaluate_every=100, patience=4, metric="ndcg@10"),
        evaluation=EvaluationConfig(num_candidates=1000),
    )
    if variant == "tiny":
        config.data = synthetic.tiny()
        config.model.embedding_dim, config.model.mlp_dims = 16, (32, 16)
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 200, 128, 50
        config.evaluation.num_candidates = 100
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
