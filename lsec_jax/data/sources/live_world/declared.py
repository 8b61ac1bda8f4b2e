"""What rankers of impressions read of the live world: its features, histories and labels, and a feed to train on.

Configs of several models share it, as configs are loaded by path and cannot import each other. No jax here.
"""

from lsec_jax.config import HistoryConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table

SECONDS = 1.0 / 86400.0  # in days, the world's unit
LENGTH, SHORT_LENGTH = 50, 20  # behaviours of a sequence; fewer for trials


def declared(length: int = LENGTH) -> Declaration:
    """What is shown of an impression, with so many behaviours of a sequence."""
    return Declaration(
        tables=(Table("streamer"), Table("topic"), Table("item")),
        fields=(
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
                length=length,
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
                "purchases",
                "purchases",
                length=length,
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
    """Streamers whose rooms the user entered, and products that she bought in rooms, however she came there."""
    return (
        HistoryConfig("watches", item="streamer", where="watched"),
        HistoryConfig("purchases", events="purchase", item="item"),
    )


def world(num_users: int) -> synthetic.Config:
    """A world in which a user enters few rooms, and buys more in rooms that she comes to by other ways than the feed.

    There are fifty impressions and forty such purchases for each user, so that what she bought says more of her tastes
    than what she watched, and both together say more than either. With fewer, no ranker comes to know her; with more
    impressions, what she watched is enough.
    """
    return synthetic.Config(num_users=num_users, num_buy=40 * num_users, live=feed(50 * num_users))


def feed(num_impressions: int) -> LiveConfig:
    """Rooms that are entered for what they show rather than out of habit, and a taste for products of its own."""
    return LiveConfig(
        num_impressions=num_impressions,
        specific_tastes=0.25,
        enter_taste=3.0,
        enter_repeat=1.0,
        policy_repeat=1.0,
        bag_rate=0.5,
        product_rate=0.7,
        click_taste=3.0,
    )
