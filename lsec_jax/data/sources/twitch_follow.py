"""Twitch follows: who follows which streamer, and what share of the air time each streamer gives to which game.

    user_streamer_follow_train.tsv   user <tab> streamer
    streamer_game_airtime.tsv        streamer <tab> game <tab> pct_airtime
    streamer_features.tsv            lists the streamers in its column streamer; its features are not read
    games.tsv                        lists the games in its column game

Users are those who follow somebody. Nothing has a time or a split: `config.split.method = "random"`.
"""

import dataclasses
from pathlib import Path

import numpy as np

from lsec_jax.data import tables
from lsec_jax.data.files import expand_path
from lsec_jax.data.ids import build_nodes
from lsec_jax.data.listed import ListedNodes, read_relation
from lsec_jax.data.table import Table
from lsec_jax.schema import TRAIN, LiveCommerceData, NodeTable

FOLLOW_FILE, AIRTIME_FILE = "user_streamer_follow_train.tsv", "streamer_game_airtime.tsv"
NODE_FILES = {"streamer": "streamer_features.tsv", "game": "games.tsv"}


@dataclasses.dataclass
class Config:
    """Reads the follows and the air time.

    Attributes:
        path: directory of the files; `~` and `${VARIABLES}` are expanded, `.gz` files are found too.
        name: of the data set, for reports; "" = the directory's name.
    """

    path: str = ""
    name: str = ""

    def load(self) -> LiveCommerceData:
        """Reads `follow` (weight 1) and `airtime` (weight: the share); raises DataError naming file, line, column."""
        root = expand_path(self.path)
        follow = _read(root / FOLLOW_FILE, "user", "streamer")
        airtime = _read(root / AIRTIME_FILE, "streamer", "game", "pct_airtime")
        _check_shares(airtime)
        users = build_nodes([("user", follow.ids("user"))])[0]["user"]
        ends = {"user": ListedNodes(users, FOLLOW_FILE)}
        for name, file in NODE_FILES.items():
            listed = _read(root / file, name).unique_ids(name)
            ends[name] = ListedNodes(NodeTable(name, np.sort(listed)), file)
        counts: dict[str, int] = {}
        columns = ("user", "streamer")
        follows = read_relation("follow", (ends["user"], ends["streamer"]), {TRAIN: follow}, columns, counts)
        columns = ("streamer", "game")
        games = read_relation(
            "airtime", (ends["streamer"], ends["game"]), {TRAIN: airtime}, columns, counts, weight_column="pct_airtime"
        )
        # Explicit ones: a model that uses weights wants them in each of its relations.
        follows = dataclasses.replace(follows, weight=np.ones(len(follows), np.float32))
        relations = {"follow": follows, "airtime": games}
        nodes = {name: end.nodes for name, end in ends.items()}
        return LiveCommerceData(self.name or root.resolve().name, nodes, relations, counts=counts)


def _read(path: Path, *columns: str) -> Table:
    expected = f"the first line is a header with the columns {', '.join(columns)}, tabs between"
    return tables.read_table(path, columns, expected=expected)


def _check_shares(airtime: Table) -> None:
    shares = airtime.weights("pct_airtime")
    if len(above := np.flatnonzero(shares > 1)):
        problem = f"share {shares[above[0]]}; shares of the air time are in (0, 1]; correct or drop the row"
        airtime.fail(int(above[0]), "pct_airtime", problem)
