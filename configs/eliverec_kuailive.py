"""eLiveRec on KuaiLive: which room shown to a user she enters, from rooms that she watched and rooms that she liked.

Source: `kuailive`; the files are yours to download (docs/data-formats.md): --config.data.path=/my/KuaiLive. It has no
goods, so the second domain is the rooms that the user liked, and the tasks beside entering are how long she stays, a
like and a comment. Likes are read from the table of actions, which has them at their own times: the columns of an
impression have them too, but at the time at which the room was shown, when nobody knew of them. How long a watch
lasted is known when it has ended. What is shown of a request together is not in the files: rankings are per user.
Not run on the released files: neither time nor score is known.
"""

from lsec_jax.config import EvaluationConfig, HistoryConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import kuailive
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.models import eliverec

DAY = 86_400.0


def declared() -> Declaration:
    """What is shown of an impression; streamers that training shows twice have a vector of their own."""
    room = (
        Field("streamer_id", "streamer", table="streamer"),
        Field("category", "room.live_content_category", table="category"),
    )
    return Declaration(
        tables=(Table("streamer", min_count=2), Table("category")),
        fields=(
            Field("user", "user", "context"),
            Field("age", "user.age", "context"),
            Field("gender", "user.gender", "context"),
            Field("device", "user.device_price", "context"),
            Field("watched_before", "user.accu_watch_live_cnt", "context"),
            Field("hour", "time.hour", "context"),
            Field("weekday", "time.weekday", "context"),
            Field("target_streamer", "streamer", "target", table="streamer"),
            Field("target_category", "room.live_content_category", "target", table="category"),
            Field("live_type", "room.live_type", "target"),
            Field("fans", "streamer.fans_user_num", "target"),
            Field("operation_tag", "streamer.live_operation_tag", "target"),
        ),
        sequences=(
            SequenceFields(
                "watches",
                "watches",
                length=50,
                fields=(*room, Field("stay", "stay_seconds", transform="log1p"), Field("age", "ages")),
                known_after="stay_seconds",
            ),
            SequenceFields("likes", "likes", length=50, fields=(*room, Field("age", "ages"))),
        ),
        labels=(
            Label("watched", "watched"),
            Label("stay", "stay_seconds", kind="regression", transform="log1p", only_if="watched"),
            Label("like", "like", only_if="watched"),
            Label("comment", "comment", only_if="watched"),
        ),
        day_length=DAY,
    )


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=kuailive.Config(path="kuailive", title_embeddings=None),
        model=eliverec.Config(
            features=declared(),
            channel="watches",
            product="likes",
            tasks=("stay", "like", "comment"),
            task_weighting="adaptive",
            total_task_weight=0.7,
            embedding_dim=32,
            embedding_std=0.1,
            l2=1e-4,
        ),
        histories=(
            HistoryConfig("watches", item="room", where="watched"),
            HistoryConfig("likes", events="action", item="room", where="like"),
        ),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(num_steps=20_000, batch_size=1024, evaluate_every=2000, patience=3, metric="gauc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",),
            baselines=("popularity", "recent_popularity", "watch_rate", "last_watched", "own_counts"),
            validation_users=5000,
        ),
    )
    if variant == "tiny":
        config.model.embedding_dim, config.model.num_heads, config.model.regulariser_group_size = 8, 2, 32
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 64, 2
        config.evaluation.validation_users = 0
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
