"""Runs over the shares of a small live world that compile and train in seconds; shared by tests."""

import dataclasses

from lsec_jax.config import (
    EvaluationConfig,
    HistoryConfig,
    OptimizerConfig,
    RunConfig,
    SplitConfig,
    TrainingConfig,
    ViewConfig,
)
from lsec_jax.data.sources.live_world.config import SocialConfig
from lsec_jax.data.sources.live_world.declared import feed
from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Path, SequenceFields, Table
from tests import runs
from tests.models.sharing.batches import MODELS, PAIRS

FANOUTS = {"friend": (3, 2), "pay": (2, 2)}
VIEWS = (ViewConfig("friend", "friend", is_timeless=True), ViewConfig("pay", "pay"))
HISTORIES = (HistoryConfig("shares", events="share", item="target_user", moments=("share",)),)

DECLARED = Declaration(
    events="share",
    target="target_user",
    tables=(Table("user", has_all=True),),
    fields=(
        Field("user_id", "user", "context", table="user"),
        Field("age", "user.age_band", "context"),
        Field("target_id", "target_user", "target", table="user"),
        Field("scenario_id", "scenario", "dynamic"),
        Field("hour", "time.hour", "dynamic"),
    ),
    sequences=(SequenceFields("shares", "shares", length=3, fields=(Field("user_id", "item", table="user"),)),),
    neighbourhoods=tuple(
        Neighbourhood(f"{view}_of_{role}", view, role, "user", FANOUTS[view])
        for role in ("user", "target_user")
        for view in FANOUTS
    ),
    paths=(Path(),),
    labels=(Label("accepted", "accepted"),),
)


def sharing_world():
    """60 users who share much, in six scenarios of which some open late."""
    social = SocialConfig(share_rate=0.6, accept_rate=0.4, scenario_branching=(2, 3), new_scenarios=0.2)
    live = dataclasses.replace(feed(4000), social=social)
    return runs.tiny_world(live=live, num_days=20, sessions_per_streamer=15.0)


def sharing_config(name, **keys):
    """One of the rankers; six steps."""
    module, own = MODELS[name]
    sizes = {"features": DECLARED, "embedding_dim": 4, "embedding_std": 0.3}
    sizes |= {} if name in PAIRS else {"tower_widths": (6, 5)}
    return RunConfig(
        data=sharing_world(),
        model=module.Config(**{**sizes, **own, **keys}),
        histories=HISTORIES,
        views=VIEWS,
        split=SplitConfig(method="time", fractions=(0.7, 0.15, 0.15)),
        optimizer=OptimizerConfig(learning_rate=0.02),
        training=TrainingConfig(num_steps=6, batch_size=64, evaluate_every=3, patience=0, metric="auc", log_every=2),
        evaluation=EvaluationConfig(protocols=("impressions",), cutoffs=(1, 3), baselines=()),
    )
