"""TREEMS on Twitch follows: which streamer of a game a user follows, with games as scenarios below one root.

Source: `twitch_scenarios`. The data have no times: a drawn order of the follows is the clock, of which the first 40%
make the views only. Each later follow is a request of the followed streamer and nine others of the same main game.
Views: users who follow the same streamers (`co_follow`), and streamers whom the same users follow (`co_followed`).
Mutual follows of streamers are in another data set, whose ids cannot be joined with this one's.
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
from lsec_jax.data.sources import twitch_scenarios
from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Path, SequenceFields, Table
from lsec_jax.models import treems


def declared(length: int = 20, fanouts: tuple[int, ...] = (8, 4)) -> Declaration:
    """What is shown of a candidate: the user, the streamer, the game, and whom she follows already."""
    return Declaration(
        events="suggestion",
        user="user",
        target="streamer",
        tables=(Table("user", has_all=True), Table("streamer", has_all=True)),
        fields=(
            Field("user_id", "user", "context", table="user"),
            Field("streamer_id", "streamer", "target", table="streamer"),
            Field("scenario_id", "scenario", "dynamic"),
        ),
        sequences=(
            SequenceFields(
                "follows",
                "follows",
                length=length,
                fields=(Field("streamer_id", "item", table="streamer"), Field("game", "scenario")),
                is_ordered=False,
            ),
        ),
        neighbourhoods=(
            Neighbourhood("co_follow", "co_follow", "user", "user", fanouts),
            Neighbourhood("co_followed", "co_followed", "streamer", "streamer", fanouts),
        ),
        paths=(Path(),),
        labels=(Label("followed", "followed"),),
    )


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=twitch_scenarios.Config(path="${LSEC_JAX_DATA}/twitch_follow"),
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
        histories=(HistoryConfig("follows", events="follow", item="streamer", moments=("suggestion",)),),
        views=(ViewConfig("co_follow", "co_follow"), ViewConfig("co_followed", "co_followed")),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(num_steps=1500, batch_size=1024, evaluate_every=250, patience=2, metric="gauc"),
        evaluation=EvaluationConfig(
            protocols=("impressions",), cutoffs=(1, 5), baselines=("popularity",), scenario="scenario"
        ),
    )
    if variant == "tiny":
        config.model.features = declared(8, (3, 2))
        config.model.embedding_dim, config.model.num_experts = 8, 4
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 64, 2
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
