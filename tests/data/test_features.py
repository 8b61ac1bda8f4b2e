import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsec_jax.data import features, tables
from lsec_jax.schema import DataError

MISSING = ("UNKNOWN", "nan")


def table(folder, *values):
    (folder / "a.csv").write_text("\n".join(["id,x", *(f"{row},{value}" for row, value in enumerate(values)), ""]))
    return tables.read_table(folder / "a.csv", ["x"])


def test_categories_that_are_integers_are_sorted_by_number_others_as_text(tmp_path):
    numbers = features.categories(table(tmp_path, "10", "9", "-1", " 10 ", ""), "x", MISSING)
    assert numbers.kind == "categorical" and numbers.values.dtype == np.int32
    assert numbers.vocabulary == ("-1", "9", "10")
    assert numbers.values.tolist() == [2, 1, 0, 2, -1]
    texts = features.categories(table(tmp_path, "b", "9", "UNKNOWN", "10"), "x", MISSING)
    assert texts.vocabulary == ("10", "9", "b")
    assert texts.values.tolist() == [2, 1, -1, 0]


def test_a_feature_may_be_missing_everywhere(tmp_path):
    rows = table(tmp_path, "UNKNOWN", "", "nan")
    for read in (features.categories, features.ranges, features.days):
        assert read(rows, "x", MISSING).is_missing().all()
    assert np.isnan(features.numbers(rows, "x", MISSING)).all()


def test_ranges_rise_by_their_lower_then_their_upper_end(tmp_path):
    feature = features.ranges(table(tmp_path, "5000+", "0-1000", "0", "9-10", "10-9000", "0.5-1", "nan"), "x", MISSING)
    assert feature.kind == "ordinal"
    assert feature.vocabulary == ("0", "0-1000", "0.5-1", "9-10", "10-9000", "5000+")
    assert feature.values.tolist() == [5, 1, 0, 3, 4, 2, -1]


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.integers(0, 10**12), min_size=2, max_size=9, unique=True))
def test_consecutive_ranges_are_in_the_order_of_their_numbers(tmp_path_factory, ends):
    ends.sort()
    ranges = [f"{low}-{high}" for low, high in itertools.pairwise(ends)] + [f"{ends[-1]}+"]
    feature = features.ranges(table(tmp_path_factory.mktemp("a"), *ranges[::-1]), "x", ())
    assert list(feature.vocabulary) == ranges
    assert feature.values.tolist() == list(range(len(ranges)))[::-1]


@pytest.mark.parametrize("text", ["24 - 30", "30-24", "-5", "5-", "+", "<18", "24-30-40", "1e3-2e3", "٣-٤"])
def test_other_texts_are_no_ranges_and_named_with_the_first_line(tmp_path, text):
    with pytest.raises(DataError, match=r"a\.csv, line 3, column 'x': '.*' is not a range .* config key data\.missing"):
        features.ranges(table(tmp_path, "0-1", text, text), "x", MISSING)


def test_dates_are_days_since_1970(tmp_path):
    feature = features.days(table(tmp_path, "1970-01-01", "nan", "2014-07-03", "1970-01-02T12:00"), "x", MISSING)
    assert feature.kind == "numeric" and feature.values.dtype == np.float32
    np.testing.assert_array_equal(feature.values, [0, np.nan, 16254, 1.5])
    born = features.days(table(tmp_path, "1969-12-31", "1931-05-04"), "x", MISSING)
    assert born.values.tolist() == [-1, -14122]


def test_dates_of_parquet_are_days_too_and_nan_is_no_word_and_no_number(tmp_path):
    stamps = pa.array(np.array(["1969-12-31T12:00", "NaT"], "datetime64[ns]"))
    pq.write_table(pa.table({"d": stamps, "x": [2.0, np.nan]}), tmp_path / "a.parquet")
    read = tables.read_table(tmp_path / "a.parquet", ["d", "x"])
    np.testing.assert_array_equal(features.days(read, "d", ("?",)).values, [-0.5, np.nan])
    category = features.categories(read, "x", ())
    assert category.vocabulary == ("2",) and category.values.tolist() == [0, -1]
    for missing in ((), ("?",)):
        np.testing.assert_array_equal(features.single_precision(read, "x", missing), [2, np.nan])


@pytest.mark.parametrize("text", ["a\0b", "a\x85b", "x" * 1001, "7" * 5000])
def test_words_that_are_too_long_or_have_control_characters_are_refused_with_their_row(tmp_path, text):
    pq.write_table(pa.table({"x": ["good", text]}), tmp_path / "a.parquet")
    read = tables.read_table(tmp_path / "a.parquet", ["x"])
    for convert in (features.categories, features.ranges):
        with pytest.raises(DataError, match=r"row 2, column 'x': (text .* has a control|a text of more than 1000)"):
            convert(read, "x", ())


def test_words_that_differ_in_spaces_only_are_one_word(tmp_path):
    feature = features.categories(table(tmp_path, "a", " a", "b"), "x", ())
    assert feature.vocabulary == ("a", "b") and feature.values.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (("2014-07-03", "x"), "line 3, column 'x': 'x' is not an ISO 8601 date"),
        (("", "17"), "line 3, column 'x': '17' is not an ISO 8601 date such as"),
        (("x",), "line 2, column 'x': 'x' is not an ISO 8601 date"),
    ],
)
def test_other_texts_are_no_dates(tmp_path, values, problem):
    with pytest.raises(DataError, match=problem):
        features.days(table(tmp_path, *values), "x", MISSING)
