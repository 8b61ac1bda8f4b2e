"""Ciao as requests in scenarios: which ratings make views and which requests, and what a request may know."""

import numpy as np
import pytest
import scipy.io

from lsec_jax.config import ConfigError, HistoryConfig, SplitConfig
from lsec_jax.data.sequences import add_histories, audit_histories
from lsec_jax.data.sources.ciao_scenarios import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import DataError

DAY = 86400.0
# user, item, category, rating, helpfulness, time. The first two days make views; nobody rated item 60 before.
RATINGS = np.array(
    [
        [1, 10, 2, 5, 1, 1 * DAY],
        [2, 10, 2, 3, 2, 1 * DAY],
        [2, 20, 2, 4, 1, 2 * DAY],
        [1, 30, 3, 4, 1, 2 * DAY],
        [1, 20, 2, 2, 1, 2 * DAY],
        [3, 10, 2, 1, 4, 3 * DAY],
        [3, 30, 3, 1, 4, 3 * DAY],
        [4, 20, 2, 5, 1, 4 * DAY],
        [4, 60, 2, 5, 1, 4 * DAY],
        [1, 10, 2, 5, 1, 5 * DAY],
    ]
)
TRUST = np.array([[1, 2], [9, 1], [1, 2]])


def write(folder, ratings=RATINGS, **settings):
    scipy.io.savemat(folder / "ciao_rating_with_timestamp.mat", {"rating": ratings})
    scipy.io.savemat(folder / "trustnetwork.mat", {"trustnetwork": TRUST})
    return Config(**{"path": str(folder), "view_share": 0.5} | settings)


def edges(data, name):
    relation, ids = data.relation(name), data.nodes["user"].ids
    return [*zip(ids[relation.source_ids].tolist(), ids[relation.target_ids].tolist(), strict=True)]


def test_ratings_after_the_views_are_requests_beside_items_that_others_rated_before(tmp_path):
    data = write(tmp_path).load()
    data.validate()
    events = data.events["suggestion"]
    columns = [data.nodes[role].ids[events.ids(role)].tolist() for role in ("user", "item", "scenario")]
    columns += [events.value("taken").tolist(), events.group.tolist(), (events.time / DAY).tolist()]
    assert [*zip(*columns, strict=True)] == [
        (3, 10, 2, True, 0, 3),
        (3, 20, 2, False, 0, 3),
        (4, 10, 2, False, 1, 4),
        (4, 20, 2, True, 1, 4),
    ]
    assert data.counts == {
        "trust: duplicate rows dropped": 1,
        "suggestion: rows of a pair that is there before, left out": 1,  # user 1 rates item 10 again
        "suggestion: rows whose item is new in the scenario, left out": 1,  # item 60
        "suggestion: rows without any negative, left out": 1,  # item 30 is alone in its category
        "suggestion: requests with fewer than 9 negatives": 2,
    }
    assert len(data.events["rating"]) == len(RATINGS)
    assert data.nodes["scenario"].ids.tolist() == [0, 2, 3] and data.trees["scenario"].parents.tolist() == [-1, 0, 0]


def test_views_hold_the_first_part_alone_and_trust_no_times(tmp_path):
    data = write(tmp_path).load()
    assert edges(data, "co_rate") == [(1, 2), (2, 1)]
    assert data.relation("co_rate").weight.tolist() == [2, 2]
    assert data.relation("co_rate").time.tolist() == [2 * DAY, 2 * DAY]
    assert sorted(edges(data, "trust")) == [(1, 2), (9, 1)] and data.relation("trust").time is None
    # The fifth rating is of day 2, which is not parted.
    data = write(tmp_path, view_share=0.45).load()
    assert data.relation("co_rate").weight.tolist() == [1, 1] and data.relation("co_rate").time.tolist() == [DAY, DAY]


def test_histories_of_requests_end_before_their_day(tmp_path):
    ratings = np.append(RATINGS, [[3, 20, 2, 4, 1, 6 * DAY]], axis=0)
    data = write(tmp_path, ratings, view_share=0.49).load()
    config = HistoryConfig("rated", events="rating", item="item", moments=("suggestion",))
    data = add_histories(data, (config,))
    data.validate()
    events, histories = data.events["suggestion"], data.histories["rated"]
    owners = events.ids("user")
    audit_histories(histories, owners, events.time, histories.ends["suggestion"])
    lengths = (histories.ends["suggestion"] - histories.starts[owners])[events.value("taken")]
    users = data.nodes["user"].ids[owners[events.value("taken")]]
    # User 3 rates on day 3 and on day 6; nothing of day 3 counts on that day.
    assert users.tolist() == [3, 4, 3] and lengths.tolist() == [0, 0, 2]


WRONG = {
    "no views": (ConfigError, {"view_share": 0.0}, "data.view_share = 0.0; give a share between 0 and 1"),
    "views alone": (ConfigError, {"view_share": 1.0}, "data.view_share = 1.0; give a share"),
    "no negatives": (ConfigError, {"num_negatives": 0}, "data.num_negatives = 0; give a whole number of 1 or more"),
    "one rater": (ConfigError, {"max_raters": 1}, "data.max_raters = 1; give a whole number of 2 or more"),
    "nothing shared": (ConfigError, {"min_shared": 0}, "data.min_shared = 0; give a whole number of 1 or more"),
    "a seed below 0": (ConfigError, {"seed": -1}, r"data.seed = -1; give a whole number in \[0, 2\*\*32\)"),
    "the first day": (DataError, {"view_share": 0.1}, "data.view_share = 0.1: no rating is of an earlier day"),
    "no links": (DataError, {"min_shared": 3}, "relation 'co_rate': no two user nodes share 3 .* lower"),
    "the last day": (DataError, {"view_share": 0.95}, "'suggestion': none of the last 1 rows of the log makes a"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_leave_nothing_are_refused(tmp_path, case):
    error, changes, message = WRONG[case]
    with pytest.raises(error, match=message):
        write(tmp_path, **changes).load()


def test_the_released_files_make_requests_that_know_nothing_of_later_days(data_dir):
    data = Config(path=str(data_dir / "ciao")).load()
    data.validate()
    events, ratings = data.events["suggestion"], data.events["rating"]
    is_taken, group = events.value("taken"), events.group
    assert (int(group[-1]) + 1, len(events), len(data.relation("co_rate"))) == (97_201, 972_002, 641_570)
    assert (np.bincount(group[is_taken], minlength=97_201) == 1).all()
    assert data.counts["suggestion: rows whose item is new in the scenario, left out"] == 72_877
    assert len(np.unique(group * 200_000 + events.ids("item"))) == len(
        events
    )  # no item twice: no negative is the positive
    # From all ratings: what a user has by then is no negative, and all candidates have a rating of an earlier day.
    first_by_pair, first_in_category = {}, {}
    columns = (ratings.ids("user"), ratings.ids("item"), ratings.ids("scenario"), ratings.time)
    for user, item, scenario, time in zip(*(column.tolist() for column in columns), strict=True):
        first_by_pair.setdefault((user, item), time)
        first_in_category.setdefault((scenario, item), time)
    columns = (events.ids("user"), events.ids("item"), events.ids("scenario"), events.time, is_taken)
    for user, item, scenario, time, taken in zip(*(column[::7].tolist() for column in columns), strict=True):
        assert (first_by_pair.get((user, item), np.inf) <= time) == taken
        assert first_in_category[scenario, item] < time
    assert (data.relation("co_rate").time < float(events.time[0])).all()
    split = assign_splits(data, SplitConfig(), ("suggestion",))
    assert (split.events["suggestion"].split == 0).mean() == pytest.approx(0.8, abs=0.01)
