"""Which tables each source has: for messages about what is missing, and for the tables in docs/data-formats.md."""

import dataclasses
from collections.abc import Mapping

from lsec_jax.schema import DataError, LiveCommerceData
from lsec_jax.schema.needs import KINDS, Missing, Needs, missing


@dataclasses.dataclass(frozen=True)
class Offers:
    """The tables of one source.

    Attributes:
        relations: names; of `configured` ones, the name by default.
        events: columns (roles, values, features) by table of events.
        features: names by node type.
        trees, availability: node types.
        configured: those of `needs.KINDS` whose names are the user's, in config or files.
        weighted: relations with weights.
        time, given_split, truth: what there is of them, in words; "" = nothing.
    """

    relations: tuple[str, ...] = ()
    events: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    features: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    trees: tuple[str, ...] = ()
    availability: tuple[str, ...] = ()
    configured: tuple[str, ...] = ()
    weighted: tuple[str, ...] = ()
    time: str = ""
    given_split: str = ""
    truth: str = ""

    def has(self, kind: str, table: str, columns: tuple[str, ...]) -> bool:
        """Whether a table with these columns is always there under this name."""
        tables = getattr(self, kind)
        return table in tables and all(column in tables[table] for column in columns)


_WORLD = Offers(relations=("buy", "follow", "sell"), time="days", truth="of `buy` and `follow`")
_IN_ROOM = ("user", "room", "streamer")
_HASHES = tuple(f"onehot_feat{i}" for i in range(7))

SOURCES: Mapping[str, Offers] = {
    "interactions": Offers(
        configured=("relations", "events", "features", "trees", "availability"),
        time="where configured",
        given_split="where configured",
    ),
    "lsec": Offers(configured=("relations",), given_split="yes, with candidates"),
    "lightgcn_text": Offers(relations=("buy",), configured=("relations",), given_split="yes"),
    "youshu": Offers(relations=("user_bundle", "user_item", "bundle_item"), given_split="of `user_bundle`"),
    "twitch_follow": Offers(relations=("follow", "airtime"), weighted=("follow", "airtime")),
    "mafengwo": Offers(
        relations=("group_place", "user_place", "member"),
        given_split="of `group_place` and `user_place`, with candidates",
    ),
    "ciao": Offers(
        relations=("rate", "trust", "belong"),
        weighted=("rate",),
        events={"rating": ("user", "item", "category", "scenario", "rating", "helpfulness")},
        trees=("scenario",),
        time="`rate`, `rating`; days, in seconds",
    ),
    "ciao_domains": Offers(
        relations=("rate",),
        weighted=("rate",),
        events={name: ("user", "item", "category", "rating", "helpfulness") for name in ("impression", "other")},
        time="days, in seconds",
    ),
    "ciao_scenarios": Offers(
        relations=("co_rate", "trust"),
        weighted=("co_rate",),
        events={
            "suggestion": ("user", "item", "scenario", "taken"),
            "rating": ("user", "item", "category", "scenario", "rating", "helpfulness"),
        },
        trees=("scenario",),
        time="`co_rate` and the events; days, in seconds",
    ),
    "twitch_scenarios": Offers(
        relations=("co_follow", "co_followed"),
        weighted=("co_follow", "co_followed"),
        events={
            "suggestion": ("user", "streamer", "scenario", "followed"),
            "follow": ("user", "streamer", "scenario"),
        },
        trees=("scenario",),
        time="a drawn order, no clock",
    ),
    "ghcf": Offers(
        relations=("buy", "cart"),
        events={"impression": ("user", "item", "bought"), "cart": ("user", "item")},
        time="a drawn order, no clock",
        given_split="yes",
    ),
    "sequences": Offers(
        relations=("interact",),
        configured=("relations",),
        events={"interaction": ("user", "item")},
        time="positions, no clock",
        given_split="leave-one-out",
    ),
    "open_bandit": Offers(
        events={
            "impression": (
                *("item", "click", "propensity", "position"),
                *(f"user_feature_{i}" for i in range(4)),
                "affinity",
            )
        },
        features={"item": tuple(f"item_feature_{i}" for i in range(4))},
        time="`impression`, in seconds",
    ),
    "tfds": Offers(
        relations=("rate",),
        configured=("relations",),
        weighted=("rate",),
        events={"interaction": ("user", "item", "weight")},
        time="where configured",
        given_split="where configured",
    ),
    "kuailive": Offers(
        relations=("watch", "gift", "hosts", "in_scenario"),
        weighted=("gift",),
        events={
            "impression": (*_IN_ROOM, "scenario", "watched", "stay_seconds", "comment", "like", "gift", "gift_amount"),
            "action": (*_IN_ROOM, "comment", "like", "gift"),
            "gift": (*_IN_ROOM, "amount"),
        },
        features={
            "user": (
                *("gender", "country", "device_brand", "is_live_streamer", "is_photo_author", "age", "device_price"),
                *("fans_num", "follow_num", "accu_watch_live_cnt", "accu_watch_live_duration", "reg_timestamp"),
                *("first_watch_live_timestamp", *_HASHES),
            ),
            "streamer": (
                *("gender", "country", "device_brand", "live_operation_tag", "age", "device_price", "fans_user_num"),
                *("fans_group_fans_num", "follow_user_num", "accu_live_cnt", "accu_live_duration", "accu_play_cnt"),
                *("accu_play_duration", "reg_timestamp", "first_live_timestamp", *_HASHES),
            ),
            "room": ("live_content_category", "live_type"),
        },
        trees=("scenario",),
        availability=("room",),
        time="seconds",
    ),
    "prepared": Offers(configured=KINDS, time="as its source", given_split="yes", truth="as its source"),
    "period": Offers(
        configured=("relations", "features", "availability"),
        time="as its source",
        given_split="yes",
        truth="as its source, of relations",
    ),
    "synthetic": _WORLD,
    "synthetic (live)": dataclasses.replace(
        _WORLD,
        relations=(*_WORLD.relations, "hosts", "friend", "pay", "share_view", "streamer_relation"),
        weighted=("friend", "pay", "share_view", "streamer_relation"),
        events={
            "impression": (
                *(*_IN_ROOM, "watched", "stay_seconds", "goods_bag_click", "product_click", "share", "propensity"),
                *("position", "minutes_live", "viewers", "recent_purchases", "recent_gifts"),
            ),
            "product_click": (*_IN_ROOM, "item"),
            "purchase": (*_IN_ROOM, "item"),
            "share": (*_IN_ROOM, "item", "scenario", "target_user", "accepted"),
            "gift": (*_IN_ROOM, "amount", "message"),
            "response": (*_IN_ROOM, "response"),
        },
        features={
            "user": ("gender", "age_band", "device_price_band", "log_activity"),
            "item": ("category", "brand", "price"),
            "streamer": ("fans_band", "gender"),
            "room": ("category", "start_hour", "num_goods"),
        },
        trees=("scenario",),
        availability=("room", "scenario", "item"),
        truth="of `buy`, `follow` and the events",
    ),
    "sharing_world": Offers(
        relations=("friend", "pay", "share_view"),
        weighted=("friend", "pay", "share_view"),
        events={"suggestion": ("user", "target_user", "scenario", "accepted", "closeness", "paid", "shared")},
        features={"user": ("city", "gender", "age_band", "log_activity")},
        trees=("scenario",),
        availability=("scenario",),
        time="`pay`, `share_view`, `suggestion`; days",
        truth="of `suggestion`",
    ),
}


def check_needs(data: LiveCommerceData, needs: Needs) -> None:
    """Raises DataError with all that a model needs and the data lacks, each with the sources that have it."""
    lines = [
        f"{lack} not in data set '{data.name}'; it has: {', '.join(lack.there) or 'none'}; {_who_has(lack)}"
        for lack in missing(data, needs)
    ]
    if lines:
        raise DataError(
            "the data has not all that the model needs:\n  "
            + "\n  ".join(lines)
            + "\nChange the config's model (relations and tasks, for example), or its data source."
        )


def _who_has(lack: Missing) -> str:
    always = [name for name, offers in SOURCES.items() if offers.has(lack.kind, lack.table, lack.needed)]
    named = [name for name, offers in SOURCES.items() if lack.kind in offers.configured and name not in always]
    found = ([", ".join(always)] if always else []) + ([f"where yours name it so: {', '.join(named)}"] if named else [])
    return f"sources that have it: {'; '.join(found) or 'none'}"


def as_markdown() -> str:
    """The two tables of docs/data-formats.md."""
    lines = ["| source | relations | features | events | availability | scenarios | time | given split | truth |"]
    lines.append("|---" * 9 + "|")
    for name, offers in SOURCES.items():
        cells = [_cell(offers, kind) for kind in ("relations", "features", "events", "availability", "trees")]
        words = [text or "-" for text in (offers.time, offers.given_split, offers.truth)]
        lines.append(f"| {' | '.join([_named(name), *cells, *words])} |")
    lines += ["", "| source | table | columns |", "|---|---|---|"]
    for name, offers in SOURCES.items():
        for kind, tables in (("nodes", offers.features), ("events", offers.events)):
            lines += [f"| {_named(name)} | {kind} `{table}` | {_list(columns)} |" for table, columns in tables.items()]
    return "\n".join(lines) + "\n"


def _named(source: str) -> str:
    name, _, variant = source.partition(" ")
    return f"`{name}` {variant}".strip()


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(offers: Offers, kind: str) -> str:
    names = [f"`{name}`{' (weighted)' if name in offers.weighted else ''}" for name in getattr(offers, kind)]
    if kind in offers.configured:
        return f"as configured ({', '.join(names)})" if names else "as configured"
    return ", ".join(names) or "-"
