"""Runs over a small feed of the live world that compile and train in seconds; shared by tests."""

import pytest

from lsec_jax.config import EvaluationConfig, HistoryConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources.live_world.declared import SECONDS, feed
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.models import ctr_baselines, eliverec
from lsec_jax.training import compilation
from tests import runs

SIZES = {"embedding_dim": 4, "embedding_std": 0.1, "num_heads": 2, "tower_widths": (8,), "task_tower_widths": (4,)}
TASKS = ("stay", "bag")
HISTORIES = (
    HistoryConfig("watches", item="streamer", where="watched"),
    HistoryConfig("clicks", events="product_click", item="item"),
)


def small_declaration():
    """Some of the feed's features, one of each kind, and short sequences; a vocabulary with a threshold, and a hash."""
    stay = {"known_after": "stay_seconds", "known_after_unit": SECONDS}
    return Declaration(
        tables=(Table("user", min_count=20), Table("streamer"), Table("item", buckets=16)),
        fields=(
            Field("user_id", "user", "context", table="user"),
            Field("activity", "user.log_activity", "context"),
            Field("streamer_id", "streamer", "target", table="streamer"),
            Field("category", "room.category", "target"),
            Field("viewers", ".viewers", "dynamic", transform="log1p"),
        ),
        sequences=(
            SequenceFields(
                "watches",
                "watches",
                length=4,
                fields=(Field("streamer_id", "item", table="streamer"), Field("stay", "stay_seconds")),
                **stay,
            ),
            SequenceFields("clicks", "clicks", length=4, fields=(Field("item_id", "item", table="item"),)),
        ),
        labels=(
            Label("watched", "watched"),
            Label("stay", "stay_seconds", kind="regression", transform="log1p", only_if="watched"),
            Label("bag", "goods_bag_click", only_if="watched"),
        ),
    )


def eliverec_model(**keys):
    """eLiveRec with both sequences, two tasks, adaptive weights and regularisers."""
    sizes = {**SIZES, "expert_widths": (4,), "num_experts": 2, "gate_width": 4, "regulariser_group_size": 8}
    tasks = {"tasks": TASKS, "task_weighting": "adaptive", "total_task_weight": 0.7}
    of = {"features": small_declaration(), "channel": "watches", "product": "clicks"}
    return eliverec.Config(**{**of, **sizes, **tasks, **keys}).without_unused()


def baseline_model(variant="wdl", **keys):
    """A baseline on the same features; the default compiles fastest."""
    sizes = {**SIZES, "activation_widths": (4,), "expert_widths": (4,), "num_experts": 2}
    config = ctr_baselines.Config(**{"features": small_declaration(), "variant": variant, **sizes, **keys})
    return config.without_unused()


def small_world(num_impressions=2400, **changes):
    """A world of 60 users whose feed has so many impressions."""
    return runs.tiny_world(live=feed(num_impressions), num_days=20, sessions_per_streamer=15.0, **changes)


def event_config(model=None, data=None, **training):
    """A ranker of the feed; eight steps with a validation after every fourth."""
    steps = {"num_steps": 8, "batch_size": 64, "evaluate_every": 4, "patience": 0, "metric": "auc", "log_every": 2}
    return RunConfig(
        data=small_world() if data is None else data,
        model=baseline_model() if model is None else model,
        histories=HISTORIES,
        split=SplitConfig(method="time", fractions=(0.7, 0.15, 0.15)),
        optimizer=OptimizerConfig(learning_rate=0.02),
        training=TrainingConfig(**{**steps, **training}),
        evaluation=EvaluationConfig(protocols=("impressions",), cutoffs=(1, 3), baselines=("popularity", "watch_rate")),
    )


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Programs that several runs of a module have in common compile once."""
    with runs.no_cache_after():
        compilation.use_cache(tmp_path_factory.mktemp("programs"))
        yield
