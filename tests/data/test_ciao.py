import numpy as np
import pytest
import scipy.io

from lsec_jax.config import SplitConfig
from lsec_jax.data.sources.ciao import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import DataError

DAY = 86400.0
# user, item, category, rating, helpfulness, time; rows 2 and 4 (from 0) rate the same item, in two categories.
RATINGS = np.array(
    [
        [3, 40, 2, 5, 1, 2 * DAY],
        [3, 10, 1, 4, 2, 1 * DAY],
        [1, 10, 1, 0, 3, 1 * DAY],
        [5, 20, 7, 2, 4, 0 * DAY],
        [1, 10, 2, 3, 5, 3 * DAY],
    ]
)
TRUST = np.array([[1, 3], [3, 1], [8, 3], [1, 3]], np.uint16)
RATING_FILE, TRUST_FILE = "ciao_rating_with_timestamp.mat", "trustnetwork.mat"


def write(folder, ratings=RATINGS, trust=TRUST, **options):
    scipy.io.savemat(folder / RATING_FILE, {"rating": ratings}, **options)
    scipy.io.savemat(folder / TRUST_FILE, {"trustnetwork": trust}, **options)
    return Config(path=str(folder), name="ciao")


def changed(row, column, value):
    ratings = RATINGS.copy()
    ratings[row, column] = value
    return ratings


@pytest.mark.parametrize("compress", [False, True])
def test_every_row_is_an_event_in_time_order_with_all_its_columns(tmp_path, compress):
    data = write(tmp_path, do_compression=compress).load()
    assert {name: table.ids.tolist() for name, table in data.nodes.items()} == {
        "user": [1, 3, 5, 8],
        "item": [10, 20, 40],
        "category": [1, 2, 7],
        "scenario": [0, 1, 2, 7],
    }
    events = data.events_of("rating")
    assert events.time.tolist() == [0, DAY, DAY, 2 * DAY, 3 * DAY]
    assert events.ids("user").tolist() == [2, 1, 0, 1, 0]  # equal times: in the order of the file
    assert events.ids("item").tolist() == [1, 0, 0, 2, 0]
    assert events.ids("category").tolist() == [2, 0, 0, 1, 1]
    assert events.ids("scenario").tolist() == [3, 1, 1, 2, 2]
    assert events.value("rating").tolist() == [2, 4, 0, 5, 3]
    assert events.value("helpfulness").tolist() == [4, 2, 3, 1, 5]


def test_the_relation_keeps_a_pair_s_first_rating_and_trust_its_direction(tmp_path):
    data = write(tmp_path).load()
    rate, trust, belong = (data.relation(name) for name in ("rate", "trust", "belong"))
    edges = zip(
        *(column.tolist() for column in (rate.source_ids, rate.target_ids, rate.time, rate.weight)), strict=True
    )
    assert list(edges) == [(2, 1, 0, 2), (1, 0, DAY, 4), (0, 0, DAY, 0), (1, 2, 2 * DAY, 5)]
    assert list(zip(trust.source_ids.tolist(), trust.target_ids.tolist(), strict=True)) == [(0, 1), (1, 0), (3, 1)]
    assert (trust.time, trust.weight) == (None, None)
    assert set(zip(belong.source_ids.tolist(), belong.target_ids.tolist(), strict=True)) == {
        (1, 2),
        (0, 0),
        (0, 1),
        (2, 1),
    }
    assert data.counts == {
        "rating: events with a rating of 0": 1,
        "rate: duplicate rows dropped": 1,
        "trust: duplicate rows dropped": 1,
    }


def test_every_category_is_a_scenario_below_the_root(tmp_path):
    tree = write(tmp_path).load().trees["scenario"]
    assert tree.paths().tolist() == [[0, -1], [0, 1], [0, 2], [0, 3]]


def test_low_ratings_can_be_left_out_of_the_relation_but_not_of_the_events(tmp_path):
    write(tmp_path)
    data = Config(path=str(tmp_path), min_rating=3).load()
    rate = data.relation("rate")
    # The pair (1, 10) has a first rating of 0, so its rating of 3 is the first that counts.
    assert rate.weight.tolist() == [4, 5, 3] and rate.time.tolist() == [DAY, 2 * DAY, 3 * DAY]
    assert len(data.events_of("rating")) == 5
    assert data.counts["rate: ratings below 3 left out"] == 2
    with pytest.raises(DataError, match=r"data.min_rating = 6: no rating is as high; lower it"):
        Config(path=str(tmp_path), min_rating=6).load()


BAD_RATINGS = {
    "five columns": (
        RATINGS[:, :5],
        r"variable 'rating': shape \[5, 5\]; expected \[rows, 6\]",
    ),
    "one row as three dimensions": (RATINGS[None], r"shape \[1, 5, 6\]; expected \[rows, 6\] \(user, it"),
    "no rows": (RATINGS[:0], r"variable 'rating': no rows; expected \[rows, 6\]"),
    "complex": (RATINGS * 1j, r"variable 'rating': class complex; expected a matrix of real numbers"),
    "text": (np.array(["user"]), r"variable 'rating': class char; expected a matrix of real numbers"),
    "objects": (np.array([[1, "a"]], object), r"variable 'rating': class cell; expected a matrix of real numbers"),
    "a structure": ({"user": 1}, r"variable 'rating': class struct; expected a matrix of real numbers"),
    "id 0": (
        changed(2, 0, 0),
        r"variable 'rating', row 3, column 'user': id 0; ids are integers >= 1; correct or drop",
    ),
    "negative id": (changed(4, 1, -7), r"row 5, column 'item': id -7; ids are integers"),
    "id with a fraction": (changed(0, 2, 2.5), r"row 1, column 'category': id 2.5; ids are integers"),
    "id beyond float64": (changed(0, 1, 2.0**53), r"row 1, column 'item': id 9.0072e\+15; ids are"),
    "NaN": (
        changed(1, 3, np.nan),
        r"variable 'rating', row 2, column 'rating': nan; expected a finite number; correct",
    ),
    "infinite": (changed(1, 5, np.inf), r"row 2, column 'time': inf; expected a finite number"),
    "rating above 5": (changed(1, 3, 6), r"row 2, column 'rating': 6, expected 0..5; correct or drop the row"),
    "negative helpfulness": (changed(1, 4, -1), r"row 2, column 'helpfulness': -1, expected 0..3"),
    "negative time": (changed(3, 5, -DAY), r"row 4, column 'time': -86400, expected 0 or more"),
}


@pytest.mark.parametrize("case", BAD_RATINGS)
def test_bad_ratings_are_refused_with_file_row_and_column(tmp_path, case):
    ratings, message = BAD_RATINGS[case]
    with pytest.raises(DataError, match=rf"{RATING_FILE}.*{message}"):
        write(tmp_path, ratings).load()


def test_a_bad_trust_network_is_refused_with_row_and_column(tmp_path):
    with pytest.raises(DataError, match=rf"{TRUST_FILE}, variable 'trustnetwork', row 2, column 'trustee': id 0"):
        write(tmp_path, trust=np.array([[1, 2], [1, 0]])).load()


def test_a_missing_variable_is_refused_and_the_others_named(tmp_path):
    config = write(tmp_path)
    scipy.io.savemat(tmp_path / RATING_FILE, {"ratings": RATINGS, "extra": 1})
    with pytest.raises(DataError, match=rf"{RATING_FILE}: no variable 'rating'; it has: 'ratings', 'extra'"):
        config.load()


def test_missing_empty_and_foreign_files_are_refused_with_the_remedy(tmp_path):
    config = write(tmp_path)
    path = tmp_path / TRUST_FILE
    header = path.read_bytes()[:124]
    for content, message in {
        b"": "empty file; copy it again",
        b"user,item\n": "not a MATLAB v5 file .* save it with -v7",
        header + b"\x00\x02IM": r"MATLAB v7.3 \(HDF5\), which is not read; save it with -v7",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{TRUST_FILE}: {message}"):
            config.load()
    scipy.io.savemat(path, {"trustnetwork": TRUST}, format="4")
    with pytest.raises(DataError, match=rf"{TRUST_FILE}: not a MATLAB v5 file"):
        config.load()
    path.unlink()
    with pytest.raises(DataError, match=rf"{TRUST_FILE}: missing file"):
        config.load()


def test_the_released_files_have_their_published_sizes_and_split_by_time(data_dir):
    data = Config(path=str(data_dir / "ciao")).load()
    assert {name: len(table) for name, table in data.nodes.items()} == {
        "user": 7375,
        "item": 105114,
        "category": 28,
        "scenario": 29,
    }
    assert int(data.nodes["item"].ids[-1]) == 106797
    sizes = {name: len(relation) for name, relation in data.relations.items()}
    assert sizes == {"rate": 284086 - 1436, "trust": 111781, "belong": 105219}
    assert len(data.events_of("rating")) == 284086
    assert data.counts == {"rate: duplicate rows dropped": 1436, "rating: events with a rating of 0": 34}
    categories_of_item = np.bincount(data.relation("belong").source_ids)
    assert np.bincount(categories_of_item).tolist() == [0, 105013, 97, 4]
    split = assign_splits(data, SplitConfig(), ("rate",))
    assert (split.relation("rate").split == 0).mean() == pytest.approx(0.8, abs=0.01)
