"""KuaiLive (Qu et al. 2025, arXiv:2508.05633): three weeks of logs of a live-streaming platform, as released in CSV.

    user.csv, streamer.csv            one row per node, with its features
    room.csv                          whose room, when it was live, category, type and title; see `_Rooms`
    click.csv, negative.csv           rooms shown to users: entered, with the time watched, and not entered
    comment.csv, like.csv, gift.csv   what users did in rooms
    title_embeddings.npy              optional, or title_embeddings_pca128.npy: the vector of title i in row i

Times in the files are milliseconds since 1970; the data set's, and its availability, are seconds. Nothing has a split:
`config.split.method = "time"`. docs/data-formats.md says what every table holds; `kuailive_events` joins the logs.
Tested on rows in the published format only, not on the released files.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lsec_jax.data import features, ids
from lsec_jax.data.features import categories, days, ranges
from lsec_jax.data.files import expand_path
from lsec_jax.data.sources import kuailive_events
from lsec_jax.data.sources.kuailive_events import MILLISECONDS, NODE_FILES, Log
from lsec_jax.data.table import Table
from lsec_jax.schema import TRAIN, Availability, DataError, Feature, LiveCommerceData, NodeTable, Relation, Tree

_FLAGS = {f"onehot_feat{i}": categories for i in range(7)}
USER_FEATURES = {
    **dict.fromkeys(("gender", "country", "device_brand", "is_live_streamer", "is_photo_author"), categories),
    **dict.fromkeys(("age", "device_price", "fans_num", "follow_num"), ranges),
    **dict.fromkeys(("accu_watch_live_cnt", "accu_watch_live_duration"), ranges),
    **dict.fromkeys(("reg_timestamp", "first_watch_live_timestamp"), days),
    **_FLAGS,
}
STREAMER_FEATURES = {
    **dict.fromkeys(("gender", "country", "device_brand", "live_operation_tag"), categories),
    **dict.fromkeys(("age", "device_price", "fans_user_num", "fans_group_fans_num", "follow_user_num"), ranges),
    **dict.fromkeys(("accu_live_cnt", "accu_live_duration", "accu_play_cnt", "accu_play_duration"), ranges),
    **dict.fromkeys(("reg_timestamp", "first_live_timestamp"), days),
    **_FLAGS,
}
ROOM_FEATURES = {"live_content_category": categories, "live_type": categories}
ROOM_COLUMNS = ("live_id", "streamer_id", "p_date", "start_timestamp", "end_timestamp", *ROOM_FEATURES)
TITLE_FILES = ("title_embeddings.npy", "title_embeddings_pca128.npy")
# Beside the empty value; the published description names none.
MISSING = ("UNKNOWN", "Unknown", "unknown", "NULL", "null", "None", "NaN", "nan", "NA")
ROOT_SCENARIO = "root"


@dataclasses.dataclass
class Config:
    """Reads the released files.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded, `.gz` files are found too.
        name: of the data set, for reports; "" = the directory's name.
        rooms: "seen": only rooms that an event names; "all": also the others, of 11.6 million in all, which can be
            candidates while they are live.
        unmatched: what becomes of rows that name a user, streamer or room which user.csv, streamer.csv or room.csv does
            not list: "drop" leaves them out and counts them, "refuse" is an error.
        title_embeddings: their file; "" = the one of TITLE_FILES that is there, if one is; None = not read: with all
            rooms they take 6 GB of memory.
        missing: texts that stand for no value in features and end_timestamp, beside the empty one.
    """

    path: str = ""
    name: str = ""
    rooms: str = "seen"
    unmatched: str = "drop"
    title_embeddings: str | None = ""
    missing: tuple[str, ...] = MISSING

    def load(self) -> LiveCommerceData:
        """Reads everything; raises DataError naming file, line and column."""
        for field, known in (("rooms", ("seen", "all")), ("unmatched", ("drop", "refuse"))):
            if getattr(self, field) not in known:
                value = getattr(self, field)
                raise DataError(f"config key data.{field} = '{value}' is unknown; valid: {', '.join(known)}")
        root = expand_path(self.path)
        counts: dict[str, int] = {}
        nodes = {
            "user": _read_nodes(root, "user", USER_FEATURES, self.missing, counts),
            "streamer": _read_nodes(root, "streamer", STREAMER_FEATURES, self.missing, counts),
        }
        logs = _read_logs(root)
        rooms = _read_rooms(root, self, nodes, logs, counts)
        nodes["room"] = rooms.nodes
        nodes["scenario"], tree, scenarios = _scenarios(rooms.nodes, counts)
        logs = {name: log.of(nodes, rooms.hosts, self.unmatched, counts) for name, log in logs.items()}
        if len(logs["click"]) == 0:
            raise _nothing_left(logs["click"].place, counts)
        for log in logs.values():
            log.count_outside(rooms.live, counts)
        relations = {
            **_room_relations(rooms, scenarios),
            "watch": _first_of_pairs("watch", logs["click"], None, counts),
        }
        if len(logs["gift"]):
            relations["gift"] = _first_of_pairs("gift", logs["gift"], logs["gift"].value, counts)
        actions = {name: logs[name] for name in ("comment", "like", "gift")}
        events = kuailive_events.build_events(logs["click"], logs["negative"], actions, scenarios, counts)
        last = max(rooms.live.start.max(), *(log.time.max() / MILLISECONDS for log in logs.values() if len(log)))
        return LiveCommerceData(
            self.name or root.resolve().name,
            nodes,
            relations,
            end_time=float(np.nextafter(last, np.inf)),
            availability={"room": rooms.live},
            counts=counts,
            events=events,
            trees={"scenario": tree},
        )


@dataclasses.dataclass(frozen=True)
class _Rooms:
    """What room.csv says, one row per room.

    A room may be listed more than once (published counts of rows and of rooms differ by 200,000). It is then live from
    the earliest start to the latest end; streamer and features are those of the row with the earliest p_date (of equal
    ones, the first row), as what later rows say was not known when the room began.

    Attributes:
        nodes: sorted by id, with features.
        hosts: each room's streamer, [rooms] int32.
        live: when each room was live, in seconds.
    """

    nodes: NodeTable
    hosts: np.ndarray
    live: Availability


def _read_nodes(
    root: Path, name: str, columns: Mapping[str, Callable], missing: tuple[str, ...], counts: dict[str, int]
) -> NodeTable:
    """Reads user.csv or streamer.csv; nodes are sorted by id."""
    id_column = kuailive_events.ID_COLUMNS[name]
    table = kuailive_events.read_columns(root / NODE_FILES[name], [id_column, *columns])
    external = table.unique_integers(id_column)
    order = np.argsort(external)
    found = _read_features(table, columns, missing, counts)
    return NodeTable(name, external[order], {column: feature.take(order) for column, feature in found.items()})


def _read_features(
    table: Table, columns: Mapping[str, Callable], missing: tuple[str, ...], counts: dict[str, int]
) -> dict[str, Feature]:
    found = {column: read(table, column, missing) for column, read in columns.items()}
    for column, feature in found.items():
        _count_missing(table, column, feature, counts)
    return found


def _count_missing(table: Table, column: str, feature: Feature, counts: dict[str, int]) -> None:
    if num_missing := int(feature.is_missing().sum()):
        counts[f"{table.path.name}: no {column}"] = num_missing


def _read_logs(root: Path) -> dict[str, Log]:
    return {
        "click": kuailive_events.read_log(root / "click.csv", "watch_live_time"),
        "negative": kuailive_events.read_log(root / "negative.csv"),
        "comment": kuailive_events.read_log(root / "comment.csv"),
        "like": kuailive_events.read_log(root / "like.csv"),
        "gift": kuailive_events.read_log(root / "gift.csv", "gift_price", has_zero=False),
    }


def _nothing_left(table: Table, counts: Mapping[str, int]) -> DataError:
    found = "; ".join(f"{what}: {number}" for what, number in counts.items())
    return DataError(f"{table.path}: none of its rows can be used ({found}); check that the files belong together")


def _read_rooms(
    root: Path, config: Config, nodes: Mapping[str, NodeTable], logs: Mapping[str, Log], counts: dict[str, int]
) -> _Rooms:
    vectors_path = _title_path(root, config.title_embeddings)
    columns = [*ROOM_COLUMNS, *(["live_name_id"] if vectors_path else [])]
    table = kuailive_events.read_columns(root / NODE_FILES["room"], columns)
    room_ids = table.integers("live_id")
    if config.rooms == "seen":
        seen = np.unique(np.concatenate([log.ids["room"] for log in logs.values()]))
        is_seen = seen[np.minimum(np.searchsorted(seen, room_ids), len(seen) - 1)] == room_ids
        if not is_seen.all():
            counts[f"{table.path.name}: rows of rooms in no event, left out"] = int((~is_seen).sum())
            table, room_ids = table.take(np.flatnonzero(is_seen)), room_ids[is_seen]
    if len(room_ids) == 0:
        raise _nothing_left(table, counts)
    host_ids = {"streamer": table.integers("streamer_id")}
    rows, hosts = kuailive_events.find_nodes(table, host_ids, nodes, config.unmatched, counts)
    if len(rows) == 0:
        raise _nothing_left(table, counts)
    if len(rows) < len(room_ids):
        table, room_ids = table.take(rows), room_ids[rows]
    order = np.lexsort((table.integers("p_date"), room_ids))
    room_ids, host = room_ids[order], hosts["streamer"][order]
    first = np.flatnonzero(np.diff(room_ids, prepend=-1))
    if repeated := len(room_ids) - len(first):
        counts[f"{table.path.name}: further rows of a room, joined"] = repeated
    if differs := int((np.minimum.reduceat(host, first) < np.maximum.reduceat(host, first)).sum()):
        counts[f"{table.path.name}: rooms with several streamers, that of the earliest row is used"] = differs
    live = _read_windows(table, order, first, config.missing, counts)
    table = table.take(order[first])
    found = _read_features(table, ROOM_FEATURES, config.missing, counts)
    if vectors_path:
        vectors = features.load_vectors(vectors_path)
        found["title"] = features.vectors_of(table, "live_name_id", vectors, config.missing)
        _count_missing(table, "title", found["title"], counts)
    return _Rooms(NodeTable("room", room_ids[first], found), host[first], live)


def _title_path(root: Path, file: str | None) -> Path | None:
    """Returns the file of title embeddings, or None where they are not to be read or not there."""
    if file is None:
        return None
    if file:
        return root / expand_path(file)
    there = [root / name for name in TITLE_FILES if (root / name).is_file()]
    if len(there) > 1:
        raise DataError(
            f"{root}: has {' and '.join(TITLE_FILES)}; name one: --config.data.title_embeddings={TITLE_FILES[0]}"
        )
    return there[0] if there else None


def _read_windows(
    table: Table, order: np.ndarray, first: np.ndarray, missing: tuple[str, ...], counts: dict[str, int]
) -> Availability:
    """Reads when rooms were live, in seconds; an end that is missing, 0, or not after the start is not known (inf).

    Args:
        table: the rows.
        order: of the rows by room.
        first: the start of each room in `order`.
        missing: texts for no end.
        counts: gains the rooms without a known end.
    """
    start = np.minimum.reduceat(kuailive_events.milliseconds(table, "start_timestamp")[order], first)
    end = features.numbers(table, "end_timestamp", missing)
    end = np.where(end > 0, end, np.nan)
    kuailive_events.check_milliseconds(table, "end_timestamp", end)
    end = np.fmax.reduceat(end[order], first)
    has_no_end = np.isnan(end)
    is_wrong = end <= start
    for problem, rooms in (("without an end", has_no_end), ("that end before they start or at once", is_wrong)):
        if rooms.any():
            counts[f"{table.path.name}: rooms {problem}, taken for live from their start on"] = int(rooms.sum())
    end = np.where(has_no_end | is_wrong, np.inf, end)
    return Availability(start / MILLISECONDS, end / MILLISECONDS)


def _scenarios(rooms: NodeTable, counts: dict[str, int]) -> tuple[NodeTable, Tree, np.ndarray]:
    """Builds the tree root -> live_content_category -> live_type within it, of the paths that occur.

    Returns:
        Scenarios "root", "shop", "shop/1", ...; their tree; each room's scenario, [rooms] int32. A room without a
        live_type is at its category, one without a category at the root.
    """
    category, live_type = (rooms.features[column] for column in ("live_content_category", "live_type"))
    num_categories, num_types = len(category.vocabulary), len(live_type.vocabulary)
    has_leaf = (category.values >= 0) & (live_type.values >= 0)
    paths = category.values[has_leaf].astype(np.int64) * num_types + live_type.values[has_leaf]
    leaves, leaf_of_room = np.unique(paths, return_inverse=True)
    names = [ROOT_SCENARIO, *category.vocabulary]
    names += [f"{category.vocabulary[path // num_types]}/{live_type.vocabulary[path % num_types]}" for path in leaves]
    parents = np.concatenate([[-1], np.zeros(num_categories), 1 + leaves // max(num_types, 1)]).astype(np.int32)
    of_room = np.where(category.values >= 0, 1 + category.values, 0).astype(np.int32)
    of_room[has_leaf] = 1 + num_categories + leaf_of_room
    if above := int((~has_leaf).sum()):
        counts["scenario: rooms without category or type, above the leaves"] = above
    return NodeTable("scenario", np.array(names, np.str_)), Tree(parents), of_room


def _room_relations(rooms: _Rooms, scenarios: np.ndarray) -> dict[str, Relation]:
    """One edge per room to its streamer and to its scenario; their time is the room's start."""
    room_rows = np.arange(len(rooms.nodes), dtype=np.int32)
    start = rooms.live.start
    return {
        "hosts": Relation("hosts", "streamer", "room", rooms.hosts, room_rows, start),
        "in_scenario": Relation("in_scenario", "room", "scenario", room_rows, scenarios, start),
    }


def _first_of_pairs(name: str, log: Log, weight: np.ndarray | None, counts: dict[str, int]) -> Relation:
    """Users and streamers with the time, and the weight, of their first event; later ones are counted."""
    user, streamer = log.ids["user"], log.ids["streamer"]
    keep = ids.distinct_pairs(name, user, streamer, np.full(len(log), TRAIN, np.int8), log.time, counts)
    return Relation(
        name,
        "user",
        "streamer",
        user[keep],
        streamer[keep],
        log.time[keep] / MILLISECONDS,
        None if weight is None else weight[keep].astype(np.float32),
    )
