"""Ciao's ratings as the records of two domains: what a user rates of some categories, and before of the others.

The files are those of the source `ciao`. Its categories make two domains; items (of a domain) with few ratings are
left out, as in papers on two domains, of all ratings, so that the choice knows the whole period. There is a table of
events for each domain:

    impression    ratings of the target domain: the records. Roles user, item, category; values rating (0 to 5) and
                  helpfulness (how useful others found the review, 0 to 5).
    other         ratings of the other domain, with the same columns.

Labels to declare of them: liked = rating from 4 on (`Label("liked", "rating", at_least=4.0)`), and helpfulness as a
regression or from 2 on. Histories come from both tables. Times are days in seconds, and a history ends strictly before
its moment, so nothing of the same day is in it. An item of categories of both domains is in both, as one node. The
reader rated the item because she chose it: what is learned is what she likes of what she tried, not what she tries.

The relation "rate" has the first ratings of the target domain: `config.split` cuts the events by its times.
"""

import dataclasses

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.ids import distinct_pairs
from lsec_jax.data.sources import ciao
from lsec_jax.schema import DataError, EventNodes, Events, LiveCommerceData, NodeTable, Relation

TARGET, OTHER = "impression", "other"
_KEPT = ("user", "item", "category")


@dataclasses.dataclass
class Config:
    """Reads the released files of `ciao`.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded.
        name: of the data set, for reports; "" = the directory's name.
        target_categories: ids of the categories whose ratings are the records; the release names none of them, and the
            default, every second one, halves the ratings about evenly.
        other_categories: those of the other domain; () = all that are not the target's.
        min_ratings: items with fewer ratings in their domain are left out, and counted.
    """

    path: str = ""
    name: str = ""
    target_categories: tuple[int, ...] = tuple(range(2, 29, 2))
    other_categories: tuple[int, ...] = ()
    min_ratings: int = 5

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable key, its value and the remedy."""
        if not self.target_categories:
            raise ConfigError("data.target_categories is empty; name at least one category of the records")
        if both := {*self.target_categories} & {*self.other_categories}:
            raise ConfigError(f"data.other_categories: {min(both)} is one of the target's too; leave it out of one")
        if self.min_ratings < 1:
            raise ConfigError(f"data.min_ratings = {self.min_ratings}; give a whole number of 1 or more")

    def load(self) -> LiveCommerceData:
        """Reads ratings; raises DataError naming file, variable, row and column, ConfigError as `validate`."""
        self.validate()
        whole = ciao.Config(self.path, self.name).load()
        ratings, counts = whole.events["rating"], dict(whole.counts)
        is_target = self._is_in(whole, self.target_categories, "target_categories")
        is_other = ~is_target
        if self.other_categories:
            is_other = self._is_in(whole, self.other_categories, "other_categories")
        kept = {
            TARGET: _often_rated(ratings, is_target, self.min_ratings, TARGET, counts),
            OTHER: _often_rated(ratings, is_other, self.min_ratings, OTHER, counts),
        }
        nodes, roles = _nodes_of(whole, ratings, np.concatenate([*kept.values()]))
        events = {
            name: Events(
                name,
                {role: EventNodes(role, ids[rows]) for role, ids in roles.items()},
                ratings.time[rows],
                {column: values[rows] for column, values in ratings.values.items()},
            )
            for name, rows in kept.items()
        }
        return LiveCommerceData(
            whole.name, nodes, {"rate": _rate(events[TARGET], counts)}, counts=counts, events=events
        )

    def _is_in(self, whole: LiveCommerceData, categories: tuple[int, ...], key: str) -> np.ndarray:
        """Which ratings are of some categories, [ratings] bool."""
        codes = whole.nodes["category"].index_of(np.array(categories))
        if (codes < 0).any():
            there = ", ".join(map(str, whole.nodes["category"].ids.tolist()))
            missing = categories[int(np.flatnonzero(codes < 0)[0])]
            raise DataError(f"config key data.{key}: there is no category {missing}; there are: {there}")
        return np.isin(whole.events["rating"].ids("category"), codes)


def _often_rated(
    ratings: Events, is_in: np.ndarray, min_ratings: int, domain: str, counts: dict[str, int]
) -> np.ndarray:
    """Rows of a domain whose items have enough ratings in it, rising."""
    items = ratings.ids("item")
    often = np.bincount(items[is_in], minlength=int(items.max(initial=0)) + 1) >= min_ratings
    rows = np.flatnonzero(is_in & often[items])
    if len(rows) == 0:
        raise DataError(
            f"config key data.min_ratings = {min_ratings}: no item of the domain '{domain}' has as many; lower it"
        )
    if left_out := int(is_in.sum()) - len(rows):
        counts[f"{domain}: ratings of items with fewer than {min_ratings} left out"] = left_out
    return rows


def _nodes_of(
    whole: LiveCommerceData, ratings: Events, rows: np.ndarray
) -> tuple[dict[str, NodeTable], dict[str, np.ndarray]]:
    """The nodes that some rows have, and the new indices of all rows' nodes by role (-1 of those left out)."""
    nodes, roles = {}, {}
    for role in _KEPT:
        ids = whole.nodes[role].ids
        new = np.full(len(ids), -1, np.int32)
        used = np.unique(ratings.ids(role)[rows])
        new[used] = np.arange(len(used))
        nodes[role], roles[role] = NodeTable(role, ids[used]), new[ratings.ids(role)]
    return nodes, roles


def _rate(events: Events, counts: dict[str, int]) -> Relation:
    users, items = events.ids("user"), events.ids("item")
    keep = distinct_pairs("rate", users, items, np.zeros(len(users), np.int8), events.time, counts)
    weights = events.value("rating")[keep]
    return Relation("rate", "user", "item", users[keep], items[keep], time=events.time[keep], weight=weights)
