"""eLiveRec on Ciao: what a user likes of the goods that she tries, from her ratings of two groups of categories.

Source: `ciao_domains`. Records are the ratings of the even categories (88,471), the other domain those of the odd ones
(60,590); liked = a rating of 4 or 5, which four of five of the newest are. Beside it the model learns how useful others
find the review. A user has twelve ratings in the target domain on average; days are the unit of time, and nothing of
the same day is in a history. The baseline to beat is the share of likes of each item so far (`watch_rate`).
"""

from lsec_jax.config import EvaluationConfig, HistoryConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import ciao_domains
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.models import eliverec


def sequence(name: str, history: str) -> SequenceFields:
    """The last ratings of a domain."""
    return SequenceFields(
        name,
        history,
        length=20,
        fields=(
            Field("item", "item", table="item"),
            Field("category", "category", table="category"),
            Field("rating", "rating"),
            Field("age", "ages"),
        ),
    )


def declared() -> Declaration:
    """What is shown of a rating; weekdays say nothing here, as times are those of reviews."""
    return Declaration(
        user="user",
        target="item",
        tables=(Table("item", min_count=2), Table("category")),
        fields=(
            Field("user", "user", "context"),
            Field("item_id", "item", "target", table="item"),
            Field("category_id", "category", "target", table="category"),
        ),
        sequences=(sequence("ratings", "ratings"), sequence("others", "others")),
        labels=(
            Label("liked", "rating", at_least=4.0),
            Label("helpfulness", "helpfulness", kind="regression", transform="log1p"),
        ),
        day_length=86_400.0,
    )


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=ciao_domains.Config(path="${LSEC_JAX_DATA}/ciao"),
        model=eliverec.Config(
            features=declared(),
            channel="ratings",
            product="others",
            tasks=("helpfulness",),
            task_weights=(0.1,),
            embedding_dim=16,
            tower_widths=(64, 32),
            task_tower_widths=(32,),
            l2=1e-3,
            dropout=0.1,
        ),
        histories=(
            HistoryConfig("ratings", item="item"),
            HistoryConfig("others", events="other", item="item"),
        ),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(num_steps=1000, batch_size=512, evaluate_every=50, patience=5, metric="auc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",), baselines=("popularity", "watch_rate"), recent_days=30.0
        ),
    )
    if variant == "tiny":
        config.model.embedding_dim, config.model.num_heads, config.model.regulariser_group_size = 8, 2, 32
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 64, 2
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
