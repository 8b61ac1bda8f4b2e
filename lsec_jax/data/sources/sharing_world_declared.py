"""What rankers of destination users read of the sharing world: its features, views, paths and labels.

Configs of several models share it, as configs are loaded by path and cannot import each other. No jax here.
"""

from lsec_jax.config import HistoryConfig, ViewConfig
from lsec_jax.data.sources.sharing_world import EVENTS, LABEL
from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Path, SequenceFields, Table

VIEWS = ("friend", "pay", "share_view")
ROLES = ("user", "target_user")
LENGTH = 20


def declared(length: int = LENGTH, fanouts: tuple[int, ...] = (6, 3), hide_rate: float = 0.1) -> Declaration:
    """What is shown of a suggestion: both users and their ties, whom the source shared with before, the scenario."""
    features = ("gender", "age_band", "city", "log_activity")
    of_users = tuple(
        Field(f"{role}_{name}", f"{role}.{name}", part)
        for role, part in zip(ROLES, ("context", "target"), strict=True)
        for name in features
    )
    return Declaration(
        events=EVENTS,
        user="user",
        target="target_user",
        tables=(Table("user", has_all=True),),
        fields=(
            Field("user_id", "user", "context", table="user"),
            Field("target_id", "target_user", "target", table="user"),
            *of_users,
            Field("closeness", ".closeness", "target"),
            Field("paid", ".paid", "target"),
            Field("shared", ".shared", "target"),
            Field("scenario_id", "scenario", "dynamic"),
            Field("hour", "time.hour", "dynamic"),
        ),
        sequences=(
            SequenceFields(
                "accepted",
                "accepted",
                length=length,
                fields=(
                    Field("user_id", "item", table="user"),
                    Field("scenario_id", "scenario"),
                    Field("age", "ages"),
                ),
            ),
        ),
        neighbourhoods=tuple(
            Neighbourhood(f"{view}_of_{role}", view, role, "user", fanouts) for role in ROLES for view in VIEWS
        ),
        paths=(Path("path", "scenario", hide_rate, width=48),),
        labels=(Label(LABEL, LABEL),),
    )


def histories() -> tuple[HistoryConfig, ...]:
    """Who accepted what the source suggested before."""
    return (HistoryConfig("accepted", events=EVENTS, item="target_user", where=LABEL, moments=(EVENTS,)),)


def views() -> tuple[ViewConfig, ...]:
    """Friends, which the source says are from before; payments and shares of the time before the suggestions."""
    return (
        ViewConfig("friend", "friend", is_timeless=True),
        ViewConfig("pay", "pay"),
        ViewConfig("share_view", "share_view"),
    )
