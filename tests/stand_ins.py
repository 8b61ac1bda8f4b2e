"""Small worlds written in the formats of the real data sets, in folders of their names."""

import numpy as np

from lsec_jax.data.sources import youshu


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


WRITERS = {"youshu": write_youshu, "twitch_follow": write_twitch_follow, "mafengwo": write_mafengwo}
