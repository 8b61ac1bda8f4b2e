"""Ciao's ratings as suggestions in scenarios: which item of a category a user takes up next (the task of TREEMS).

The files are those of the source `ciao`. Its 28 categories are the scenarios, leaves of a tree of two levels below the
root 0. The ratings of the first part of the period make views only, those of the later part requests:

    suggestion    the item that a user rated (`taken`) beside items of the same category, as one `group`; roles user,
                  item, scenario. An item is a negative with a chance in proportion to the ratings that it has in the
                  category from earlier days, and never if the user has rated it by then, that day included.
    rating        all ratings of both parts, as the source `ciao` has them, to derive histories from.
    co_rate       users who rated the same items in the first part, both directions. The weight is how many, the time
                  when the last of these ratings was made: all of them lie before the first request.
    trust         who trusts whom. The file has no times, so that some of it may be later than a request, of which it
                  is no label: that is an item.

Nobody knows what these users were shown. Negatives are of what others have rated before, as the choice of the log must
not show in them: so a request needs a positive that somebody has rated in the category on an earlier day, and the other
ratings (about two of five) are left out and counted, as are later ratings of a pair. Two ratings of one user, day and
category are two requests, in neither of which the other one's item is a negative. What a user rates later may be a
negative of hers. Times are days in seconds: histories end before the day.
"""

import dataclasses

import numpy as np

from lsec_jax.data.sources import ciao
from lsec_jax.data.suggestions import Log, check_settings, co_links, suggestions
from lsec_jax.schema import DataError, LiveCommerceData


@dataclasses.dataclass
class Config:
    """Reads the released files of `ciao`.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded.
        name: of the data set, for reports; "" = the directory's name.
        view_share: share of the ratings, by time, that make views only, in (0, 1); no day is parted.
        num_negatives: items beside the one that was rated; fewer where a category has too few, counted.
        max_raters: items that more users rated in the first part link nobody in `co_rate`, which else is not sparse.
        min_shared: links of `co_rate` with fewer items are left out.
        seed: of the negatives.
    """

    path: str = ""
    name: str = ""
    view_share: float = 0.4
    num_negatives: int = 9
    max_raters: int = 50
    min_shared: int = 1
    seed: int = 0

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable key, its value and the remedy."""
        least = {"num_negatives": 1, "max_raters": 2, "min_shared": 1}
        check_settings(self.view_share, self.seed, {key: (getattr(self, key), of) for key, of in least.items()})

    def load(self) -> LiveCommerceData:
        """Reads ratings, trust; raises DataError naming file, variable, row and column, ConfigError as `validate`."""
        self.validate()
        whole = ciao.Config(self.path, self.name).load()
        ratings, counts = whole.events["rating"], dict(whole.counts)
        counts.pop("rate: duplicate rows dropped", None)
        cut = ratings.time[int(self.view_share * len(ratings))]
        num_views = int(np.searchsorted(ratings.time, cut))
        if num_views == 0:
            raise DataError(
                f"config key data.view_share = {self.view_share}: no rating is of an earlier day than the share's "
                "last; raise it"
            )
        items, users = ratings.ids("item"), ratings.ids("user")
        views = slice(0, num_views)
        link = (users[views], items[views], ratings.time[views])
        co_rate = co_links("co_rate", "user", *link, self.max_raters, self.min_shared, counts)
        events = suggestions(
            Log(users, items, ratings.ids("scenario"), ratings.time),
            np.arange(num_views, len(ratings)),
            self.num_negatives,
            "item",
            "taken",
            is_known_ahead=False,
            rng=np.random.default_rng(self.seed),
            counts=counts,
        )
        relations = {"co_rate": co_rate, "trust": whole.relation("trust")}
        return whole.replace(relations=relations, counts=counts, events={events.name: events, "rating": ratings})
