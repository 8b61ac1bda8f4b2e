"""Files of requests: columns of every kind become what the table of events has, and times are those of the data."""

import dataclasses
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from lsec_jax.data import tables
from lsec_jax.data.request_files import read_requests
from lsec_jax.declaration import Field
from lsec_jax.schema import DataError, Feature
from tests.data.encoded_worlds import FIELDS, declaration, world

EXTRA = (
    Field("scene", ".scene", "context"),
    Field("friday", ".is_friday", "context"),
    Field("said", ".said", "target"),
)
DECLARED = declaration(fields=(*FIELDS, *EXTRA))
EPOCH = 1_600_000_000.0


def data(has_dates=False):
    """The world with a category, a flag and a vector; its rooms are always live."""
    found = world()
    shown, size = found.events["impression"], len(found.events["impression"])
    features = {
        "scene": Feature("categorical", np.zeros(size, np.int32), ("2", "10", "home")),
        "said": Feature("vector", np.zeros((size, 2), np.float32)),
    }
    shown = dataclasses.replace(
        shown,
        time=shown.time + EPOCH * has_dates,
        features={**shown.features, **features},
        values={**shown.values, "is_friday": np.zeros(size, bool)},
    )
    return found.replace(events={**found.events, "impression": shown}, availability={}, has_dates=has_dates)


def columns(**changes):
    """Three candidates, of two requests."""
    nodes = world().nodes
    users, rooms = nodes["user"].ids[[3, 3, 1]], nodes["room"].ids[[7, 5, 7]]
    return {"user": users, "room": rooms, "time": [2.0, 2.0, 2.0], **changes}


def read(path, of, source=None, at=None):
    pa_parquet.write_table(pa.table(of), path)
    return read_requests(path, data() if source is None else source, DECLARED, at)


def test_columns_become_what_the_table_has(tmp_path):
    given = {"scene": ["home", None, "2"], "is_friday": [1, 0, 1], "viewers": [3.5, None, 0.0], "note": ["a", "b", "c"]}
    found = read(tmp_path / "r.parquet", columns(**given))
    assert [*found.roles] == ["user", "room"] and len(found) == 3
    assert found.roles["user"].tolist() == [3, 3, 1] and found.roles["room"].tolist() == [7, 5, 7]
    assert found.requests.tolist() == [0, 0, 1] and found.times.tolist() == [2.0] * 3
    assert found.given["scene"].tolist() == [2, -1, 0] and found.given["scene"].dtype == np.int32
    assert found.given["is_friday"].tolist() == [True, False, True]
    np.testing.assert_array_equal(found.given["viewers"], np.float32([3.5, np.nan, 0.0]))
    assert found.unread == ("note",) and "said" in found.absent and "scene" not in found.absent


def test_times_may_differ_within_a_user_or_be_one_for_all(tmp_path):
    found = read(tmp_path / "r.parquet", columns(time=[2.0, 1.0, 2.0]))
    assert found.requests.tolist() == [0, 1, 2]
    of = columns()
    del of["time"]
    found = read(tmp_path / "r.parquet", of, at=7.5)
    assert found.times.tolist() == [7.5] * 3 and found.requests.tolist() == [0, 0, 1]


def test_dates_are_read_where_the_data_have_dates(tmp_path):
    source = data(has_dates=True)
    found = read(tmp_path / "r.parquet", columns(time=["2021-05-01", "2021-05-01T00:00:00Z", "2021-05-02"]), source)
    assert (found.times - found.times[0]).tolist() == [0.0, 0.0, 86400.0]
    assert found.times[0] == np.datetime64("2021-05-01", "s").astype(int)
    with pytest.raises(DataError, match=r"column 'time': numbers, but times of data set '.*' are dates; write them as"):
        read(tmp_path / "r.parquet", columns(), source)


WRONG = {
    "category": (
        {"scene": ["home", "tab", "2"]},
        r"row 2, column 'scene': 'tab' is none of the data's values \(2, 10",
    ),
    "flag": ({"is_friday": [1, 2, 0]}, "row 2, column 'is_friday': label 2; labels must be 0 or 1"),
    "vector": ({"said": [1.0, 2.0, 3.0]}, "column 'said': a feature of vectors, which files of requests cannot give"),
    "logarithm": ({"viewers": [1.0, -2.0, 3.0]}, "row 2, column 'viewers': -2, but the model reads the logarithm"),
    "infinite": ({"viewers": [1.0, np.inf, 3.0]}, "row 2, column 'viewers': value inf"),
    "large": ({"viewers": [1.0, 1e300, 3.0]}, "row 2, column 'viewers': value 1e[+]300 is too large for single"),
    "no time": ({"time": [1.0, None, 2.0]}, "row 2, column 'time': empty value where a number"),
    "before all": ({"time": [1.0, -1.0, 2.0]}, "row 2, column 'time': negative time -1.0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_values_that_cannot_be_are_refused(tmp_path, case):
    changes, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        read(tmp_path / "r.parquet", columns(**changes))


def test_times_both_in_the_file_and_given_or_in_neither_are_refused(tmp_path):
    with pytest.raises(DataError, match="a column 'time', and --at is given too; leave one of them out"):
        read(tmp_path / "r.parquet", columns(), at=2.0)
    of = columns()
    del of["time"]
    with pytest.raises(DataError, match="no column 'time', and --at is missing; add the column, or give --at=TIME"):
        read(tmp_path / "r.parquet", of)


def test_names_of_columns_are_those_that_reading_takes(tmp_path):
    path = tmp_path / "r.csv.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbfuser, "the room" ,time\n1,2,3\n'))
    assert tables.column_names(tmp_path / "r.csv")[0] == "user"
    (tmp_path / "t.tsv").write_text('user\t"the\troom"\n1\t2\n')
    names = tables.column_names(tmp_path / "t.tsv")
    assert names == ["user", "the\troom"] and [*tables.read_table(tmp_path / "t.tsv", names).columns] == names
    pa_parquet.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "r.parquet")
    assert tables.column_names(tmp_path / "r.parquet") == ["a", "b"]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "r.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match="not a complete Parquet file"):
        tables.column_names(tmp_path / "cut.parquet")
    (tmp_path / "empty.pq").write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        tables.column_names(tmp_path / "empty.pq")
    with pytest.raises(DataError, match="missing file"):
        tables.column_names(tmp_path / "r.json")
