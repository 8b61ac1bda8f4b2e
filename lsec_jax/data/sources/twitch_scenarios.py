"""Twitch follows as suggestions in scenarios: which streamer of a game a user follows next (the task of TREEMS).

The files are those of the source `twitch_follow`. A streamer's scenario is her main game, that of most of her air time
(of equal shares the game that is listed under the lower id), or `none` without any; all are leaves below the root
`all`. Nothing has a time. So that no request knows its own answer, follows get an order that is drawn with the seed:
time is the place in it, from 0, and says nothing else. A split by time is so one at random. The first part makes views
only, the later follows requests:

    suggestion     the streamer whom a user follows (`followed`) beside streamers of the same game, as one `group`;
                   roles user, streamer, scenario. A streamer is a negative with a chance in proportion to her followers
                   among earlier follows, and never if the user follows her anywhere in the data.
    follow         all follows of both parts, to derive histories from: random subsets of a user's other follows, so
                   declare sequences with is_ordered=False and show no ages.
    co_follow      users who follow the same streamers in the first part, both directions. The weight is how many, the
                   time that of the last of these follows: all of them lie before the first request.
    co_followed    streamers whom the same users follow in the first part, likewise.

A request needs a positive whom somebody follows earlier in the order, as the negatives are of those; others are left
out and counted. As negatives are never of the user's later follows, training requests know a little of what tests: not
whom a user follows, but that she does not follow these.

Mutual follows of streamers are published with another data set (`twitch_social`), whose 7,126 anonymous ids are not
those of these files and share no column with them. `co_followed` stands in for them.
"""

import dataclasses

import numpy as np

from lsec_jax.data.sources import twitch_follow
from lsec_jax.data.suggestions import Log, check_settings, co_links, suggestions
from lsec_jax.schema import DataError, EventNodes, Events, LiveCommerceData, NodeTable, Relation, Tree

ROOT_SCENARIO, NO_GAME = "all", "none"
NO_GAME_ROW, FIRST_GAME_ROW = 1, 2  # of the scenarios, after the root


@dataclasses.dataclass
class Config:
    """Reads the files of `twitch_follow`.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded, `.gz` files are found too.
        name: of the data set, for reports; "" = the directory's name.
        view_share: share of the follows, in the drawn order, that make views only, in (0, 1).
        num_negatives: streamers beside the one who is followed; fewer where a game has too few, counted.
        max_followers: streamers with more followers in the first part link nobody in `co_follow`, which else is not
            sparse.
        max_follows: users who follow more streamers in the first part link nobody in `co_followed`.
        min_shared: links of both views with fewer streamers, or users, are left out.
        seed: of the order and the negatives.
    """

    path: str = ""
    name: str = ""
    view_share: float = 0.4
    num_negatives: int = 9
    max_followers: int = 200
    max_follows: int = 100
    min_shared: int = 2
    seed: int = 0

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable key, its value and the remedy."""
        least = {"num_negatives": 1, "max_followers": 2, "max_follows": 2, "min_shared": 1}
        check_settings(self.view_share, self.seed, {key: (getattr(self, key), of) for key, of in least.items()})

    def load(self) -> LiveCommerceData:
        """Reads follows and air time; raises DataError naming file, line and column, ConfigError as `validate`."""
        self.validate()
        whole = twitch_follow.Config(self.path, self.name).load()
        orders, draws = (np.random.default_rng((self.seed, part)) for part in range(2))
        streamers, counts = whole.nodes["streamer"], dict(whole.counts)
        scenario, tree = _scenarios(whole.nodes["game"])
        log = _in_drawn_order(whole.relation("follow"), _main_games(whole.relation("airtime"), len(streamers)), orders)
        num_views = int(self.view_share * len(log))
        if num_views == 0:
            raise DataError(f"config key data.view_share = {self.view_share}: none of {len(log)} follows; raise it")
        users, followed, time = log.users[:num_views], log.targets[:num_views], log.time[:num_views]
        views = [
            co_links("co_follow", "user", users, followed, time, self.max_followers, self.min_shared, counts),
            co_links("co_followed", "streamer", followed, users, time, self.max_follows, self.min_shared, counts),
        ]
        rows = np.arange(num_views, len(log))
        shown = suggestions(log, rows, self.num_negatives, "streamer", "followed", True, draws, counts)
        roles = {"user": log.users, "streamer": log.targets, "scenario": log.scenarios}
        follow = Events("follow", {role: EventNodes(role, ids) for role, ids in roles.items()}, log.time)
        return LiveCommerceData(
            whole.name,
            {"user": whole.nodes["user"], "streamer": streamers, "scenario": scenario},
            {view.name: view for view in views},
            counts=counts,
            events={shown.name: shown, follow.name: follow},
            trees={"scenario": tree},
        )


def _scenarios(games: NodeTable) -> tuple[NodeTable, Tree]:
    """The root, "none" and the games in their order, whose ids are "game_" and theirs."""
    names = np.char.add("game_", games.ids.astype(np.str_))
    parents = np.append(-1, np.zeros(1 + len(games))).astype(np.int32)
    return NodeTable("scenario", np.concatenate([[ROOT_SCENARIO, NO_GAME], names])), Tree(parents)


def _main_games(airtime: Relation, num_streamers: int) -> np.ndarray:
    """The scenario of each streamer, [s] int32."""
    assert airtime.weight is not None
    order = np.lexsort((airtime.target_ids, -airtime.weight, airtime.source_ids))
    streamers, first = np.unique(airtime.source_ids[order], return_index=True)
    scenarios = np.full(num_streamers, NO_GAME_ROW, np.int32)
    scenarios[streamers] = FIRST_GAME_ROW + airtime.target_ids[order[first]]
    return scenarios


def _in_drawn_order(follow: Relation, scenarios: np.ndarray, rng: np.random.Generator) -> Log:
    """All follows in an order that does not depend on that of the file's rows."""
    order = np.lexsort((follow.target_ids, follow.source_ids))[rng.permutation(len(follow))]
    streamers = follow.target_ids[order]
    return Log(follow.source_ids[order], streamers, scenarios[streamers], np.arange(len(follow), dtype=np.float64))
