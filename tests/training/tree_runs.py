"""Runs over the shares of a small live world, whose scenarios are a tree; shared by tests."""

import dataclasses

from lsec_jax.config import EvaluationConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig, ViewConfig
from lsec_jax.data.sources.live_world.config import LiveConfig, SocialConfig
from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Path, Table
from lsec_jax.models import ctr_baselines, treems
from tests import runs

SIZES = {"embedding_dim": 4, "embedding_std": 0.3, "tower_widths": (8,)}


def declaration(has_scenario=True, has_graph=True):
    """Users, and the scenario; with the path to it and friends, or without."""
    scenario = (Field("scenario_id", "scenario", "dynamic"),) if has_scenario else ()
    return Declaration(
        events="share",
        user="user",
        target="target_user",
        tables=(Table("user", has_all=True),),
        fields=(
            Field("user_id", "user", "context", table="user"),
            Field("target_id", "target_user", "target", table="user"),
            Field("hour", "time.hour", "dynamic"),
            *scenario,
        ),
        neighbourhoods=(Neighbourhood("friends", "friend", "user", "user", (2,)),) if has_graph else (),
        paths=(Path(),) if has_graph else (),
        labels=(Label("accepted", "accepted"),),
    )


def treems_model(**keys):
    """Three experts over three levels, small enough to compile in seconds."""
    of = {"features": declaration(), "num_experts": 3, "expert_widths": (6, 4, 4), **SIZES}
    return treems.Config(**{**of, **keys})


def rival_model(has_scenario=True, **keys):
    """Without tree and graph."""
    model = ctr_baselines.Config(
        features=declaration(has_scenario, has_graph=False),
        variant="wdl",
        activation_widths=(4,),
        expert_widths=(4,),
        num_experts=2,
        **SIZES,
    )
    return dataclasses.replace(model.without_unused(), tower_reads_dynamic=True, **keys)


def world(**changes):
    """18 scenarios under three ancestors, some of them open late."""
    social = SocialConfig(scenario_branching=(3, 6), share_rate=0.5, accept_rate=0.4, new_scenarios=0.2)
    return runs.tiny_world(
        live=LiveConfig(num_impressions=6000, social=social), num_days=20, sessions_per_streamer=15.0, **changes
    )


def config(model=None, data=None, **training):
    """Six steps with a validation after every third."""
    steps = {"num_steps": 6, "batch_size": 64, "evaluate_every": 3, "patience": 0, "metric": "auc", "log_every": 3}
    model = treems_model() if model is None else model
    return RunConfig(
        data=world() if data is None else data,
        model=model,
        views=(ViewConfig("friend", "friend", is_timeless=True),) if model.features.neighbourhoods else (),
        split=SplitConfig(method="time", fractions=(0.7, 0.1, 0.2)),
        optimizer=OptimizerConfig(learning_rate=0.05),
        training=TrainingConfig(**{**steps, **training}),
        evaluation=EvaluationConfig(
            protocols=("impressions",), cutoffs=(1, 3), baselines=("popularity",), bootstrap_samples=50
        ),
    )
