"""Ciao as two domains: which ratings are records, which are the other domain, and what a record may know."""

import numpy as np
import pytest
import scipy.io

from lsec_jax.config import ConfigError, HistoryConfig, SplitConfig
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.sources.ciao_domains import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.schema import DataError

DAY = 86400.0
# user, item, category, rating, helpfulness, time. Item 30 is in categories 2 and 3.
RATINGS = np.array(
    [
        [1, 10, 2, 5, 1, 1 * DAY],
        [2, 10, 2, 3, 2, 2 * DAY],
        [1, 20, 3, 4, 1, 2 * DAY],
        [2, 20, 3, 1, 2, 2 * DAY],
        [1, 30, 2, 4, 3, 3 * DAY],
        [2, 30, 2, 2, 1, 4 * DAY],
        [1, 30, 3, 5, 1, 4 * DAY],
        [7, 40, 4, 5, 1, 5 * DAY],
        [1, 10, 2, 1, 4, 6 * DAY],
    ]
)


def write(folder, **settings):
    scipy.io.savemat(folder / "ciao_rating_with_timestamp.mat", {"rating": RATINGS})
    scipy.io.savemat(folder / "trustnetwork.mat", {"trustnetwork": np.array([[1, 2]])})
    return Config(**{"path": str(folder), "target_categories": (2,), "min_ratings": 2} | settings)


def rows_of(data, name):
    """(user, item, category, rating, helpfulness, day) of all events, by external ids."""
    events = data.events[name]
    ids = [data.nodes[role].ids[events.ids(role)].tolist() for role in ("user", "item", "category")]
    values = [events.value(column).tolist() for column in ("rating", "helpfulness")]
    return [*zip(*ids, *values, (events.time / DAY).tolist(), strict=True)]


def test_records_are_the_ratings_of_the_target_s_categories_of_often_rated_items(tmp_path):
    data = write(tmp_path).load()
    data.validate()
    assert rows_of(data, "impression") == [
        (1, 10, 2, 5, 1, 1),
        (2, 10, 2, 3, 2, 2),
        (1, 30, 2, 4, 3, 3),
        (2, 30, 2, 2, 1, 4),
        (1, 10, 2, 1, 4, 6),
    ]
    assert rows_of(data, "other") == [(1, 20, 3, 4, 1, 2), (2, 20, 3, 1, 2, 2)]
    assert {name: table.ids.tolist() for name, table in data.nodes.items()} == {
        "user": [1, 2],
        "item": [10, 20, 30],
        "category": [2, 3],
    }
    assert data.counts["other: ratings of items with fewer than 2 left out"] == 2  # item 30 has one there, and item 40
    assert len(data.relation("rate")) == 4 and data.counts["rate: duplicate rows dropped"] == 1


def test_the_other_domain_may_be_some_categories_only(tmp_path):
    data = write(tmp_path, other_categories=(4,), min_ratings=1).load()
    assert rows_of(data, "other") == [(7, 40, 4, 5, 1, 5)]
    assert len(data.events["impression"]) == 5


def test_histories_of_both_domains_hold_earlier_days_alone(tmp_path):
    data = write(tmp_path).load()
    histories = [HistoryConfig("target", item="item"), HistoryConfig("other", events="other", item="item")]
    data = add_histories(data, histories)
    data = data.replace(cut_times=(5 * DAY, 5.5 * DAY), end_time=7 * DAY)
    sequences = tuple(
        SequenceFields(name, name, 3, (Field("item", "item", table="item"), Field("rating", "rating")))
        for name in ("target", "other")
    )
    declared = Declaration(
        target="item",
        tables=(Table("item"),),
        fields=(Field("item", "item", "target", "item"),),
        sequences=sequences,
        labels=(Label("liked", "rating", at_least=4.0), Label("helpfulness", "helpfulness", "regression")),
        day_length=DAY,
    )
    batch = EventEncoder(data, declared).encode(np.arange(5))
    # User 1 on days 1, 3 and 6; user 2 on day 2, on which she rated in the other domain too, and on day 4.
    assert batch["masks"]["target"].sum(axis=1).tolist() == [0, 0, 1, 1, 2]
    assert batch["masks"]["other"].sum(axis=1).tolist() == [0, 0, 1, 1, 1]
    assert batch["labels"].tolist() == [[1, 1], [0, 2], [1, 3], [0, 1], [0, 4]]


WRONG = {
    "no target": (ConfigError, {"target_categories": ()}, "target_categories is empty; name at least one"),
    "in both": (ConfigError, {"other_categories": (2,)}, "other_categories: 2 is one of the target's too"),
    "no ratings": (ConfigError, {"min_ratings": 0}, "min_ratings = 0; give a whole number of 1 or more"),
    "no category": (DataError, {"target_categories": (2, 9)}, r"there is no category 9; there are: 2, 3, 4"),
    "too many ratings": (DataError, {"min_ratings": 4}, "no item of the domain 'impression' has as many; lower it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_domains_that_hold_nothing_are_refused(tmp_path, case):
    error, changes, message = WRONG[case]
    with pytest.raises(error, match=message):
        write(tmp_path, **changes).load()


def test_the_released_files_have_two_domains_with_shared_users(data_dir):
    data = Config(path=str(data_dir / "ciao")).load()
    assert {name: len(events) for name, events in data.events.items()} == {"impression": 88_471, "other": 60_590}
    assert {name: len(table) for name, table in data.nodes.items()} == {"user": 7_267, "item": 11_206, "category": 28}
    for events in data.events.values():
        assert np.bincount(events.ids("item"))[np.unique(events.ids("item"))].min() >= 5
    shared = np.intersect1d(*(events.ids("user") for events in data.events.values()))
    assert len(shared) > 3_000
    split = assign_splits(data, SplitConfig(), ("rate",))
    assert (split.events["impression"].split == 0).mean() == pytest.approx(0.8, abs=0.02)
