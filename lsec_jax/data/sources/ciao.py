"""Ciao: ratings of goods with time, category and helpfulness, and who trusts whom (Tang, Gao and Liu, WSDM 2012).

    ciao_rating_with_timestamp.mat   variable `rating`: user, item, category, rating, helpfulness, time
    trustnetwork.mat                 variable `trustnetwork`: user, user whom they trust

Ids are integers from 1, with gaps; they stay the external ids. Ratings are 0 to 5, helpfulness is how useful others
found the review, times are days, written in seconds since 1970 UTC. Trust has no time.

Each row is an event "rating", also where a user rates an item again. The relation "rate" keeps the first rating of a
pair, whose weight is the rating. An item may stand in several categories (101 of the released ones do), so a category
is no feature of items: "belong" has all pairs of item and category, and each event the category of its row. The same
category is the event's scenario: the tree over "scenario" has the root 0 above all of them (TREEMS), and scenario c is
category c.
"""

import dataclasses

import numpy as np

from lsec_jax.data import matlab
from lsec_jax.data.files import expand_path
from lsec_jax.data.ids import IdColumn, build_nodes, distinct_pairs, first_occurrences
from lsec_jax.schema import DataError, EventNodes, Events, LiveCommerceData, NodeTable, Relation, Tree

RATING_FILE, RATING_VARIABLE = "ciao_rating_with_timestamp.mat", "rating"
RATING_COLUMNS = ("user", "item", "category", "rating", "helpfulness", "time")
TRUST_FILE, TRUST_VARIABLE, TRUST_COLUMNS = "trustnetwork.mat", "trustnetwork", ("truster", "trustee")
HIGHEST_RATING = 5
ROOT_SCENARIO = 0


@dataclasses.dataclass
class Config:
    """Reads the released files.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded.
        name: of the data set, for reports; "" = the directory's name.
        min_rating: lowest rating that makes an edge of "rate"; events keep all. A few of the released ratings are 0,
            which models that normalise by weighted degrees refuse: give them 1.
    """

    path: str = ""
    name: str = ""
    min_rating: float = 0.0

    def load(self) -> LiveCommerceData:
        """Reads ratings and trust; raises DataError naming file, variable, row and column."""
        root = expand_path(self.path)
        ratings = matlab.read_matrix(root / RATING_FILE, RATING_VARIABLE, RATING_COLUMNS)
        trust = matlab.read_matrix(root / TRUST_FILE, TRUST_VARIABLE, TRUST_COLUMNS)
        columns = [(name, _id_column(ratings, name)) for name in ("user", "item", "category")]
        columns += [("user", _id_column(trust, name)) for name in TRUST_COLUMNS]
        nodes, (users, items, categories, trusting, trusted) = build_nodes(columns)
        nodes["scenario"] = NodeTable("scenario", np.append(ROOT_SCENARIO, nodes["category"].ids))
        counts: dict[str, int] = {}
        events = _events(ratings, {"user": users, "item": items, "category": categories}, counts)
        relations = {
            "rate": _rate(events, self.min_rating, counts),
            "trust": _trust(trusting, trusted, counts),
            "belong": _belong(events),
        }
        # The root stands before its children, each of which is a category.
        parents = np.append(-1, np.zeros(len(nodes["category"]))).astype(np.int32)
        return LiveCommerceData(
            self.name or root.resolve().name,
            nodes,
            relations,
            counts=counts,
            events={"rating": events},
            trees={"scenario": Tree(parents)},
        )


def _id_column(matrix: matlab.Matrix, name: str) -> IdColumn:
    return IdColumn(*np.unique(matrix.ids(name), return_inverse=True))


def _events(ratings: matlab.Matrix, ids: dict[str, np.ndarray], counts: dict[str, int]) -> Events:
    """All rows, by time; rows of one time stay in the order of the file."""
    time = ratings.numbers("time", 0, np.inf)
    values = {
        "rating": ratings.numbers("rating", 0, HIGHEST_RATING).astype(np.float32),
        "helpfulness": ratings.numbers("helpfulness", 0, float(np.finfo(np.float32).max)).astype(np.float32),
    }
    if zeros := int((values["rating"] == 0).sum()):
        counts["rating: events with a rating of 0"] = zeros
    roles = {name: EventNodes(name, of) for name, of in ids.items()}
    roles["scenario"] = EventNodes("scenario", ids["category"] + 1)  # after the root
    return Events("rating", roles, time, values).take(np.argsort(time, kind="stable"))


def _rate(events: Events, min_rating: float, counts: dict[str, int]) -> Relation:
    rated = events.take(events.value("rating") >= min_rating)
    if not len(rated):
        raise DataError(
            f"config key data.min_rating = {min_rating}: no rating is as high; lower it; ratings are 0 to 5"
        )
    if low := len(events) - len(rated):
        counts[f"rate: ratings below {min_rating:g} left out"] = low
    users, items = rated.ids("user"), rated.ids("item")
    keep = distinct_pairs("rate", users, items, np.zeros(len(users), np.int8), rated.time, counts)
    return Relation(
        "rate", "user", "item", users[keep], items[keep], time=rated.time[keep], weight=rated.value("rating")[keep]
    )


def _belong(events: Events) -> Relation:
    """Each item's categories, once each."""
    items, categories = events.ids("item"), events.ids("category")
    keep = first_occurrences(items, categories)
    return Relation("belong", "item", "category", items[keep], categories[keep])


def _trust(trusting: np.ndarray, trusted: np.ndarray, counts: dict[str, int]) -> Relation:
    keep = distinct_pairs("trust", trusting, trusted, np.zeros(len(trusting), np.int8), None, counts)
    return Relation("trust", "user", "user", trusting[keep], trusted[keep])
