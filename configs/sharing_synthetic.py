"""Baselines of TREEMS on the simulated world of sharing of `treems_synthetic.py`, with the same features and training.

Variants: `:dnn` (also without a variant), `:multi_scenario`, `:mmoe`, `:pinsage_mean`, `:pinsage_max`, `:pinsage_lstm`,
`:gat`, `:diffnet`, `:cune`, `:scenario_meta`; `:tiny` is a DNN of seconds. Table 2 of the paper, over seeds and with
a learning rate chosen for each: `python -m benchmarks.quality.sweep --sweep=sharing`.
"""

from typing import Any

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import sharing_world
from lsec_jax.data.sources.sharing_world_declared import declared, histories, views
from lsec_jax.models.sharing_baselines import cune, diffnet, dnn, gat, mmoe, multi_scenario, pinsage, scenario_meta


def models() -> dict[str, tuple[Any, dict[str, Any]]]:
    """The config of each variant and its own keys."""
    towers = {"history_products": True, "tower_widths": (64, 32)}
    return {
        "dnn": (dnn.Config, towers),
        "multi_scenario": (multi_scenario.Config, towers),
        "mmoe": (mmoe.Config, {**towers, "num_experts": 8, "expert_widths": (64, 48)}),
        "pinsage_mean": (pinsage.Config, {**towers, "aggregator": "mean"}),
        "pinsage_max": (pinsage.Config, {**towers, "aggregator": "max"}),
        "pinsage_lstm": (pinsage.Config, {**towers, "aggregator": "lstm"}),
        "gat": (gat.Config, towers),
        "diffnet": (diffnet.Config, {}),
        "cune": (cune.Config, {}),
        "scenario_meta": (scenario_meta.Config, towers),
    }


def get_config(variant: str = "") -> RunConfig:
    known = models()
    if variant not in ("", "tiny", *known):
        raise ValueError(
            f"unknown variant ':{variant}'; this config has ':tiny', {', '.join(f':{of!s}' for of in known)}"
        )
    is_tiny = variant == "tiny"
    model, keys = known["dnn" if is_tiny else variant or "dnn"]
    features = declared(8, (3, 2)) if is_tiny else declared()
    steps, size, every = (60, 128, 30) if is_tiny else (1500, 1024, 300)
    return RunConfig(
        data=sharing_world.tiny() if is_tiny else sharing_world.Config(),
        model=model(features=features, embedding_dim=8 if is_tiny else 16, embedding_std=0.3, **keys),
        histories=histories(),
        views=views(),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        training=TrainingConfig(num_steps=steps, batch_size=size, evaluate_every=every, patience=3, metric="gauc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",), cutoffs=(5, 10), baselines=("popularity",), scenario="scenario"
        ),
    )
