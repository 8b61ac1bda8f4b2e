"""eLiveRec on a simulated world with rooms: who enters which room of a feed, from watches and product clicks.

A million impressions in requests of some rooms each; watched rooms and clicked products are the two sequences, staying,
opening the goods bag and clicking a product the tasks beside it. Features and histories are declared here; other models
of impressions take the same declaration (`get_data`).
"""

from lsec_jax.config import EvaluationConfig, HistoryConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.models import eliverec

SECONDS = 1.0 / 86400.0  # in days, the world's unit
LENGTH = 20  # users of this world have entered ten rooms on average


def declared() -> Declaration:
    """What is shown of an impression."""
    return Declaration(
        tables=(Table("streamer"), Table("topic"), Table("item")),
        fields=(
            Field("user", "user", "context"),
            Field("gender", "user.gender", "context"),
            Field("age", "user.age_band", "context"),
            Field("device", "user.device_price_band", "context"),
            Field("activity", "user.log_activity", "context"),
            Field("hour", "time.hour", "context"),
            Field("streamer_id", "streamer", "target", table="streamer"),
            Field("category", "room.category", "target", table="topic"),
            Field("fans", "streamer.fans_band", "target"),
            Field("minutes_live", ".minutes_live", "dynamic", transform="log1p"),
            Field("viewers", ".viewers", "dynamic", transform="log1p"),
            Field("recent_purchases", ".recent_purchases", "dynamic", transform="log1p"),
            Field("recent_gifts", ".recent_gifts", "dynamic", transform="log1p"),
            Field("num_goods", "room.num_goods", "dynamic", transform="log1p"),
        ),
        sequences=(
            SequenceFields(
                "watches",
                "watches",
                length=LENGTH,
                fields=(
                    Field("streamer_id", "item", table="streamer"),
                    Field("category", "room.category", table="topic"),
                    Field("stay", "stay_seconds", transform="log1p"),
                    Field("age", "ages"),
                ),
                known_after="stay_seconds",
                known_after_unit=SECONDS,
            ),
            SequenceFields(
                "clicks",
                "clicks",
                length=LENGTH,
                fields=(
                    Field("item_id", "item", table="item"),
                    Field("category", "item.category", table="topic"),
                    Field("age", "ages"),
                ),
            ),
        ),
        labels=(
            Label("watched", "watched"),
            Label("stay", "stay_seconds", kind="regression", transform="log1p", only_if="watched"),
            Label("bag", "goods_bag_click", only_if="watched"),
            Label("product", "product_click", only_if="watched"),
        ),
    )


def histories() -> tuple[HistoryConfig, ...]:
    """Rooms that the user entered and products that she clicked."""
    return (
        HistoryConfig("watches", item="streamer", where="watched"),
        HistoryConfig("clicks", events="product_click", item="item"),
    )


def live(num_impressions: int) -> LiveConfig:
    """Rooms that are entered for what they show rather than out of habit, and a taste for products of its own."""
    return LiveConfig(
        num_impressions=num_impressions,
        specific_tastes=0.4,
        enter_taste=3.0,
        enter_repeat=1.0,
        policy_repeat=1.0,
        bag_rate=0.5,
        product_rate=0.7,
        click_taste=3.0,
    )


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=synthetic.Config(num_users=10_000, live=live(1_000_000)),
        model=eliverec.Config(
            features=declared(),
            channel="watches",
            product="clicks",
            tasks=("stay", "bag", "product"),
            task_weighting="adaptive",
            total_task_weight=0.7,  # that of the paper's fixed weights; more of it costs the primary task
            embedding_std=0.1,
            embedding_dim=16,
            tower_reads_dynamic=True,
        ),
        histories=histories(),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        training=TrainingConfig(num_steps=1600, batch_size=512, evaluate_every=400, patience=4, metric="gauc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",),
            cutoffs=(1, 3, 10),
            baselines=("popularity", "recent_popularity", "watch_rate", "last_watched", "own_counts"),
        ),
    )
    if variant == "ablations":
        config.data = synthetic.Config(num_users=2_000, live=live(200_000))
        config.training.num_steps, config.training.evaluate_every = 640, 160
    elif variant == "tiny":
        config.data = synthetic.live_tiny(live(30_000))
        config.model.embedding_dim, config.model.num_heads = 8, 2
        config.model.tower_widths, config.model.expert_widths, config.model.task_tower_widths = (32, 16), (16,), (16,)
        config.model.regulariser_group_size = 64
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 60, 256, 30
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':ablations' and ':tiny'")
    return config
