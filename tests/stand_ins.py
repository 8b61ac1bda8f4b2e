"""Small worlds written in the formats of the real data sets, in folders of their names."""

import csv

import numpy as np
import scipy.io

from lsec_jax.data.sources import youshu
from lsec_jax.data.sources.kuailive import ROOM_COLUMNS, STREAMER_FEATURES, USER_FEATURES


def write_rows(path, *columns, header=(), delimiter="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [header] if header else []
    rows += zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows))


def write_youshu(world, folder):
    """Streamers are the bundles."""
    sizes = ([len(world.nodes[name])] for name in ("user", "streamer", "item"))
    write_rows(folder / youshu.SIZE_FILE, *sizes)
    for name, relation in {"user_bundle": "follow", "user_item": "buy", "bundle_item": "sell"}.items():
        edges, files = world.relations[relation], youshu.RELATIONS[name]
        for split, file in files.items():
            rows = np.arange(len(edges)) % 5 % 3 == split if len(files) > 1 else slice(None)
            write_rows(folder / file, edges.source_ids[rows], edges.target_ids[rows])


def write_twitch_follow(world, folder):
    """Items are the games."""
    follow, sell = world.relations["follow"], world.relations["sell"]
    write_rows(
        folder / "user_streamer_follow_train.tsv", follow.source_ids, follow.target_ids, header=("user", "streamer")
    )
    weights = 0.5 + np.arange(len(sell)) % 2 / 2
    header = ("streamer", "game", "pct_airtime")
    write_rows(folder / "streamer_game_airtime.tsv", sell.source_ids, sell.target_ids, weights, header=header)
    write_rows(folder / "streamer_features.tsv", np.arange(len(world.nodes["streamer"])), header=("streamer",))
    write_rows(folder / "games.tsv", np.arange(len(world.nodes["item"])), header=("game",))


def write_mafengwo(world, folder):
    """Streamers with their followers are the groups, items the places; the last edge of each node is its test."""
    follow = world.relations["follow"]
    num_groups = len(world.nodes["streamer"])
    members = [np.append(follow.source_ids[follow.target_ids == group], group) for group in range(num_groups)]
    members[0] = np.arange(len(world.nodes["user"]))
    write_rows(
        folder / "groupMember.txt",
        np.arange(num_groups),
        [",".join(map(str, ids.tolist())) for ids in members],
        delimiter=" ",
    )
    for name, relation in (("group", "sell"), ("user", "buy")):
        sources, targets = world.relations[relation].source_ids, world.relations[relation].target_ids
        is_last = np.append(sources[1:] != sources[:-1], True)
        for part, rows in (("Train", ~is_last), ("Test", is_last)):
            write_rows(folder / f"{name}Rating{part}.txt", sources[rows], targets[rows], delimiter=" ")
        pairs = [f"({a},{b})" for a, b in zip(sources[is_last], targets[is_last], strict=True)]
        others = np.random.default_rng(0).choice(np.unique(targets[~is_last]), (10, len(pairs)))
        write_rows(folder / f"{name}RatingNegative.txt", pairs, *others, delimiter=" ")


def write_ciao(world, folder):
    """Users rate items of all 28 categories, a few a day."""
    rng = np.random.default_rng(0)
    columns = [rng.integers(1, size, 1200) for size in (1 + len(world.nodes["user"]), 13, 29, 6, 6)]
    times = 86_400.0 * np.sort(rng.integers(1, 300, 1200))
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "ciao_rating_with_timestamp.mat", {"rating": np.stack([*columns, times], axis=1)})
    scipy.io.savemat(folder / "trustnetwork.mat", {"trustnetwork": np.array([[1, 2]])})


def write_ghcf_taobao(world, folder):
    """Purchases, the last one of each user to test, and every second one of them in the cart."""
    relation = world.relations["buy"]
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"train": [], "test": [], "cart": []}
    for user in np.unique(relation.source_ids).tolist():
        items = relation.target_ids[relation.source_ids == user].tolist()
        for name, of in (("train", items[:-1]), ("test", items[-1:]), ("cart", items[::2])):
            lines[name].append(" ".join(map(str, [user, *of])))
    for name, of in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(of) + "\n")


def _write_csv(path, **columns):
    with path.open("w", newline="") as stream:
        rows = zip(*(np.asarray(of).tolist() for of in columns.values()), strict=True)
        csv.writer(stream).writerows([[*columns], *rows])


def write_kuailive(world, folder):
    """Three rooms of each streamer, shown to users in the hours that they are live; who enters may comment and like."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    hour, start = 3_600_000, 1_746_374_400_000
    sizes = {"user": len(world.nodes["user"]), "streamer": len(world.nodes["streamer"])}
    for name, columns in (("user", USER_FEATURES), ("streamer", STREAMER_FEATURES)):
        kinds = {of.__name__ for of in columns.values()}
        values = {"categories": ["0", "1"], "ranges": ["0-10", "10-100", "100+"], "days": ["2020-01-01"]}
        assert kinds <= values.keys()
        drawn = {column: rng.choice(values[of.__name__], sizes[name]) for column, of in columns.items()}
        _write_csv(folder / f"{name}.csv", **{f"{name}_id": np.arange(sizes[name]), **drawn})
    rooms = np.arange(3 * sizes["streamer"])
    begins = start + hour * rng.integers(0, 200, len(rooms))
    categories = rng.choice(["shop", "music"], len(rooms))
    found = (rooms, rooms // 3, np.full(len(rooms), 20250505), begins, begins + 20 * hour, categories, rooms % 4)
    _write_csv(folder / "room.csv", **dict(zip(ROOM_COLUMNS, found, strict=True)))
    shown = rng.integers(len(rooms), size=2000)
    times = begins[shown] + rng.integers(20 * hour, size=2000)
    log = {"user_id": rng.integers(sizes["user"], size=2000), "live_id": shown, "streamer_id": shown // 3}
    is_entered, stays = rng.random(2000) < 0.4, rng.integers(1000, 600_000, 2000)

    def write(name, rows, after=0, **more):
        columns = {column: of[rows] for column, of in log.items()}
        _write_csv(folder / f"{name}.csv", **columns, timestamp=times[rows] + after, **more)

    entered = np.flatnonzero(is_entered)
    write("click", entered, watch_live_time=stays[entered])
    write("negative", np.flatnonzero(~is_entered))
    for name, rows in (("comment", entered[::3]), ("like", entered[1::2])):
        write(name, rows, stays[rows] // 2)
    write("gift", entered[::9], stays[entered[::9]] // 3, gift_price=1 + entered[::9] % 5)


WRITERS = {
    "youshu": write_youshu,
    "twitch_follow": write_twitch_follow,
    "mafengwo": write_mafengwo,
    "ciao": write_ciao,
    "ghcf_taobao": write_ghcf_taobao,
}
