"""What happens in the simulated world of sharing: ties, scenarios and slates of candidates. No jax here."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lsec_jax.data.csr import contains
from lsec_jax.data.sources.live_world.social import Friends, Scenarios, ScenarioTree
from lsec_jax.data.sources.simulated import make_relation
from lsec_jax.data.sources.synthetic_sampling import draw_index, exclusive_sum, sample_segments
from lsec_jax.schema import Relation, Tree

TIES = ("closeness", "paid", "shared")
OPENINGS = 0.8, 0.82, 0.84, 0.86, 0.88  # when new scenarios open, as shares of the time of the suggestions
LAST_PART = 0.9  # from then on every scenario is open, likewise


def draw_shares(friends: Friends, rates: np.ndarray, view_end: float, rng: np.random.Generator) -> Relation:
    """The view `share_view`: who shared with which friend before a time; first times, with the numbers as weights.

    Args:
        friends: f friendships.
        rates: expected shares of each in its direction, [f] float64.
        view_end: the time, in days.
        rng: of the draws.
    """
    counts = rng.poisson(rates)
    rows = np.flatnonzero(counts)
    first = 1.0 - rng.random(len(rows)) ** (1.0 / counts[rows])  # the least of so many even draws
    pairs = friends.owners()[rows], friends.ids[rows]
    return make_relation("share_view", ("user", "user"), *pairs, first * view_end, counts[rows])


@dataclasses.dataclass(frozen=True)
class Ties:
    """What was between users when the suggestions began.

    Attributes:
        num_users: u.
        friends: f friendships.
        keys: source * u + target of all friendships, of payments and of shares, each rising.
    """

    num_users: int
    friends: Friends
    keys: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def build(cls, num_users: int, friends: Friends, pay: Relation, share: Relation) -> "Ties":
        """Takes views whose pairs are in the order of the friendships."""
        pairs = (friends.owners(), friends.ids), (pay.source_ids, pay.target_ids), (share.source_ids, share.target_ids)
        friend, paid, shared = (sources.astype(np.int64) * num_users + targets for sources, targets in pairs)
        return cls(num_users, friends, (friend, paid, shared))

    def between(self, users: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Closeness (0 = no friends), whether the user paid and shared with the target; [m] each -> [m, 3] float64."""
        wanted = users * self.num_users + targets
        friend, paid, shared = self.keys
        out = np.zeros((len(wanted), len(TIES)))
        rows = np.flatnonzero(contains(friend, wanted))
        out[rows, 0] = self.friends.closeness[np.searchsorted(friend, wanted[rows])]
        out[:, 1], out[:, 2] = contains(paid, wanted), contains(shared, wanted)
        return out


def choose_new_leaves(
    branching: Sequence[int], num_new: int, num_branches: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses which leaves are new: all under some lowest inner nodes, and others that each keep an old sibling.

    Returns:
        (positions among the leaves [num_new] int64, whose first num_branches * branching[-1] are the branches', and
        the number of the wave in which each opens [num_new] int64; those of a branch open together).
    """
    siblings = branching[-1]
    num_parents = int(np.prod(branching[:-1], dtype=np.int64))
    parents = rng.permutation(num_parents)
    branches = (parents[:num_branches, None] * siblings + np.arange(siblings)).ravel()
    # Of each other parent one leaf, drawn at random, stays; of the rest any may be new.
    places = rng.random((num_parents - num_branches, siblings)).argsort(axis=1)[:, 1:]
    free = rng.permutation((parents[num_branches:, None] * siblings + places).ravel())[: num_new - len(branches)]
    waves = rng.integers(len(OPENINGS), size=num_branches).repeat(siblings)
    return np.concatenate([branches, free]), np.concatenate([waves, rng.integers(len(OPENINGS), size=len(free))])


def open_scenarios(
    tree: ScenarioTree,
    popularity: np.ndarray,
    new: tuple[np.ndarray, np.ndarray],
    new_traffic: float,
    window: tuple[float, float],
) -> Scenarios:
    """Says when nodes open: a leaf with its wave, an inner node with its first leaf; -inf = before the period.

    Args:
        tree: n nodes.
        popularity: of the leaves, [leaves] float64.
        new: of `choose_new_leaves`.
        new_traffic: share of the requests that the new leaves have together, once all are open.
        window: start and end of the suggestions, in days.
    """
    leaves, waves_of = new
    waves = window[0] + np.array(OPENINGS) * (window[1] - window[0])
    is_new = np.zeros(len(popularity), bool)
    is_new[leaves] = True
    weights = popularity / popularity[~is_new].sum()
    if len(leaves):
        weights[leaves] *= new_traffic / (1.0 - new_traffic) / weights[leaves].sum()
    of_leaves = np.full(len(popularity), -np.inf)
    of_leaves[leaves] = waves[waves_of]
    paths = Tree(tree.parents).paths()[tree.first_leaf :]
    opening = np.full(len(tree.parents), np.inf)
    np.minimum.at(opening, paths, of_leaves[:, None])
    is_open = of_leaves[None, :] <= np.append(-np.inf, waves)[:, None]  # [waves + 1, leaves]
    return Scenarios(tree, opening, (is_open * weights)[:, None, :], waves)


def draw_slates(
    users: np.ndarray,
    slate_size: int,
    slots: tuple[float, float],
    friends: Friends,
    activity: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws distinct candidates for each request: friends, friends of friends, and anybody.

    Friends go by closeness and activity, anybody by activity. Who is drawn a second time, or is the user herself, gives
    the slot to the next one drawn, of twice as many as there are slots; after these everybody is as likely.

    Args:
        users: who shares, [r] int64.
        slate_size: k, well below the number of users.
        slots: chances that a slot is for a friend, and for a friend of a friend.
        friends: everybody's.
        activity: of the users, [u] float64.
        rng: of the draws.

    Returns:
        [r, k] int64.
    """
    owners = np.repeat(users, 2 * slate_size)
    kinds = np.searchsorted(np.cumsum(slots), rng.random(len(owners)), side="right")
    kinds[np.diff(friends.starts)[owners] == 0] = len(slots)
    proposed = draw_index(rng, activity, len(owners))
    of_closeness = exclusive_sum(friends.closeness * activity[friends.ids])
    evenly = exclusive_sum(np.ones(len(friends.ids)))

    def draw_friend(of: np.ndarray, cumulative: np.ndarray) -> np.ndarray:
        return friends.ids[sample_segments(rng, cumulative, friends.starts[of], friends.starts[of + 1])]

    proposed[kinds == 0] = draw_friend(owners[kinds == 0], of_closeness)
    proposed[kinds == 1] = draw_friend(draw_friend(owners[kinds == 1], evenly), of_closeness)
    proposals = proposed.reshape(len(users), -1)
    slates = np.empty((len(users), slate_size), np.int64)
    rows = np.arange(len(users))
    while len(rows):
        is_chosen = _first_distinct(proposals, users[rows], slate_size)
        done = is_chosen.sum(axis=1) == slate_size
        slates[rows[done]] = proposals[done][is_chosen[done]].reshape(-1, slate_size)
        rows = rows[~done]
        more = rng.integers(len(activity), size=(len(rows), slate_size))
        proposals = np.concatenate([proposals[~done], more], axis=1)
    return slates


def _first_distinct(proposals: np.ndarray, users: np.ndarray, count: int) -> np.ndarray:
    """The first different proposals [r, m] of each row but the user herself, `count` at most, [r, m] bool."""
    order = np.argsort(proposals, axis=1, kind="stable")
    ordered = np.take_along_axis(proposals, order, axis=1)
    is_first = np.ones(proposals.shape, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    usable = np.empty_like(is_first)
    np.put_along_axis(usable, order, is_first, axis=1)
    usable &= proposals != users[:, None]
    return usable & (np.cumsum(usable, axis=1) <= count)


def mean_log_odds(effects: np.ndarray, rate: float) -> float:
    """The constant b for which sigmoid(b + effects) [n] has the mean `rate`, by bisection."""
    low, high = -60.0 - effects.max(), 60.0 - effects.min()
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sigmoid(middle + effects).mean() < rate else (low, middle)
    return 0.5 * (low + high)


def sigmoid(log_odds: np.ndarray) -> np.ndarray:
    """Probabilities of log-odds, without overflow."""
    odds = np.exp(-np.abs(log_odds))
    return np.where(log_odds >= 0, 1.0, odds) / (1.0 + odds)
