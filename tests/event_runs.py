"""Runs over a small feed of the live world that compile and train in seconds; shared by tests."""

import dataclasses

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.declared import declared, feed, histories
from lsec_jax.models import ctr_baselines, eliverec
from tests import runs

SIZES = {"embedding_dim": 4, "embedding_std": 0.1, "num_heads": 2, "tower_widths": (8,), "task_tower_widths": (4,)}
TASKS = ("stay", "bag")


def small_declaration(length=6):
    """The feed's features; sequences are short."""
    found = declared()
    sequences = tuple(dataclasses.replace(of, length=length) for of in found.sequences)
    return dataclasses.replace(found, sequences=sequences)


def eliverec_model(**keys):
    """eLiveRec with both sequences, two tasks, adaptive weights and regularisers."""
    sizes = {**SIZES, "expert_widths": (4,), "num_experts": 2, "gate_width": 4, "regulariser_group_size": 8}
    tasks = {"tasks": TASKS, "task_weighting": "adaptive", "total_task_weight": 0.7}
    of = {"features": small_declaration(), "channel": "watches", "product": "clicks", "tower_reads_dynamic": True}
    return eliverec.Config(**{**of, **sizes, **tasks, **keys})


def baseline_model(variant, **keys):
    """A baseline on the same features."""
    sizes = {**SIZES, "activation_widths": (4,), "expert_widths": (4,), "num_experts": 2}
    return ctr_baselines.Config(**{"features": small_declaration(), "variant": variant, **sizes, **keys})


def small_world(num_impressions=2400, **changes):
    """A world of 60 users whose feed has so many impressions."""
    return runs.tiny_world(live=feed(num_impressions), num_days=20, sessions_per_streamer=15.0, **changes)


def event_config(model=None, data=None, **training):
    """A ranker of the feed; eight steps with a validation after every fourth."""
    steps = {"num_steps": 8, "batch_size": 64, "evaluate_every": 4, "patience": 0, "metric": "auc", "log_every": 2}
    return RunConfig(
        data=small_world() if data is None else data,
        model=eliverec_model() if model is None else model,
        histories=histories(),
        split=SplitConfig(method="time", fractions=(0.7, 0.15, 0.15)),
        optimizer=OptimizerConfig(learning_rate=0.02),
        training=TrainingConfig(**{**steps, **training}),
        evaluation=EvaluationConfig(protocols=("impressions",), cutoffs=(1, 3), baselines=("popularity", "watch_rate")),
    )
