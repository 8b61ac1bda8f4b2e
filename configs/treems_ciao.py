"""TREEMS on Ciao: which item of a category a user rates next, with 28 categories as scenarios below one root.

Source: `ciao_scenarios`. Each rating of the last 60% is a request of the rated item and nine others of its category,
drawn by how often they were rated until then. Views: who rated the same items in the first 40% (`co_rate`), and whom a
user trusts; the trust file has no time, and no label is made of it. Only the user has neighbours: what is ranked is an
item. A baseline to know: how lately an item was rated ranks better than how often (`recent_popularity`).
"""

from lsec_jax.config import (
    EvaluationConfig,
    HistoryConfig,
    OptimizerConfig,
    RunConfig,
    SplitConfig,
    TrainingConfig,
    ViewConfig,
)
from lsec_jax.data.sources import ciao_scenarios
from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Path, SequenceFields, Table
from lsec_jax.models import treems


def declared(length: int = 20, fanouts: tuple[int, ...] = (8, 4)) -> Declaration:
    """What is shown of a candidate: the user, the item, the category, and what she rated before."""
    return Declaration(
        events="suggestion",
        user="user",
        target="item",
        tables=(Table("user", has_all=True), Table("item", min_count=2)),
        fields=(
            Field("user_id", "user", "context", table="user"),
            Field("item_id", "item", "target", table="item"),
            Field("scenario_id", "scenario", "dynamic"),
        ),
        sequences=(
            SequenceFields(
                "ratings",
                "ratings",
                length=length,
                fields=(Field("item_id", "item", table="item"), Field("category", "category"), Field("age", "ages")),
            ),
        ),
        neighbourhoods=tuple(Neighbourhood(view, view, "user", "user", fanouts) for view in ("co_rate", "trust")),
        paths=(Path(),),
        labels=(Label("taken", "taken"),),
        day_length=86_400.0,
    )


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=ciao_scenarios.Config(path="${LSEC_JAX_DATA}/ciao"),
        model=treems.Config(
            features=declared(),
            embedding_dim=16,
            embedding_std=0.1,
            history_products=True,
            expert_widths=(64, 32),
            tower_widths=(64, 32),
            l2=1e-3,
            dropout=0.1,
        ),
        histories=(HistoryConfig("ratings", events="rating", item="item", moments=("suggestion",)),),
        views=(ViewConfig("co_rate", "co_rate"), ViewConfig("trust", "trust", is_timeless=True)),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(num_steps=1500, batch_size=1024, evaluate_every=250, patience=2, metric="gauc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",),
            cutoffs=(1, 5),
            baselines=("popularity", "recent_popularity"),
            recent_days=30.0,
            scenario="scenario",
        ),
    )
    if variant == "tiny":
        config.model.features = declared(8, (3, 2))
        config.model.embedding_dim, config.model.num_experts = 8, 4
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 64, 2
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
