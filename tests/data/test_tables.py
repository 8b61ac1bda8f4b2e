import gzip
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsec_jax.data import ids, tables
from lsec_jax.data.table import ColumnError
from lsec_jax.schema import DataError


def put(folder: Path, text: str | bytes, name: str = "a.tsv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def put_parquet(folder: Path, name: str = "a.parquet", **columns) -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path)
    return path


def test_the_same_rows_read_equal_from_every_format(tmp_path):
    csv = put(tmp_path, "user,item,x\n7,a,0\n8,b c,0\n", "a.csv")
    tsv = put(tmp_path, "\ufeffuser\titem\tx\r\n7\ta\t0\r\n8\tb c\t0\r\n", "b.tsv")
    packed = put(tmp_path, gzip.compress(tsv.read_bytes()), "c.tsv.gz")
    parquet = put_parquet(tmp_path, user=[7, 8], item=["a", "b c"])
    for path in (csv, tsv, packed, tmp_path / "c.tsv", parquet):
        table = tables.read_table(path, ["item", "user"])
        user, item = table.ids("user"), table.ids("item")
        assert user.values.dtype == np.int64 and user.values[user.codes].tolist() == [7, 8]
        assert item.values[item.codes].tolist() == ["a", "b c"]


def test_dictionary_columns_of_parquet_are_text(tmp_path):
    path = put_parquet(tmp_path, item=pa.array(["x", "y", "x"]).dictionary_encode())
    item = tables.read_table(path, ["item"]).ids("item")
    assert item.values[item.codes].tolist() == ["x", "y", "x"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_every_type_of_text_in_parquet_holds_ids(tmp_path, kind):
    path = put_parquet(tmp_path, item=pa.array(["x", "y", "x"], kind))
    item = tables.read_table(path, ["item"]).ids("item")
    assert item.values[item.codes].tolist() == ["x", "y", "x"]


def test_ids_are_integers_only_if_printing_them_gives_the_text_back(tmp_path):
    table = tables.read_table(put(tmp_path, "a\tb\tc\n 7 \t007\t99999999999999999999\n8\t7\t1\n"), ["a", "b", "c"])
    assert table.ids("a").values.tolist() == [7, 8]
    assert table.ids("b").values.tolist() == ["007", "7"]
    assert table.ids("c").values.tolist() == ["99999999999999999999", "1"]


def test_dates_become_seconds_and_numbers_stay(tmp_path):
    text = "a\tb\tc\n1970-01-02\t5\t1970-01-01T00:00:01Z\n1970-01-01 00:00:10\t2.5\t1970-01-01T01:00:00+01:00\n"
    table = tables.read_table(put(tmp_path, text), ["a", "b", "c"])
    for column, expected, is_date in (("a", [86400, 10], True), ("b", [5, 2.5], False), ("c", [1, 0], True)):
        times, dates = table.times(column)
        assert times.tolist() == expected and dates is is_date
    stamps = pa.array([1_000_000, 2_500_000], pa.timestamp("us"))
    times, dates = tables.read_table(put_parquet(tmp_path, t=stamps), ["t"]).times("t")
    assert times.tolist() == [1, 2.5] and dates


def test_files_without_header_are_read_with_given_names(tmp_path):
    table = tables.read_table(put(tmp_path, "1 2\n3 4\n", "x.data"), ["b"], delimiter=" ", column_names=("a", "b"))
    assert table.integers("b").tolist() == [2, 4]


BAD_FILES = {
    "malformed row": (
        "a\tb\n1\t2\n3\n",
        r"a.tsv, line 3: malformed row: 1 fields, expected 2 \('3'\).*correct or drop",
    ),
    "extra field": ("a\tb\n1\t2\n3\t4\n1\t2\t3\n", r"a.tsv, line 4: malformed row: 3 fields, expected 2"),
    "unclosed quote": ('a\tb\n1\t2\n"3\t4\n5\t6\n', r"a.tsv, line 3: a quote begins a value and does not close"),
    "cut line": ("a\tb\n1\t2\n3\t", r"a.tsv, line 3: .*last line may be cut \('3\\t'\).*appending a newline"),
    "empty file": ("", r"a.tsv: empty file; write it again"),
    "blank file": ("\n\n", r"a.tsv: empty file"),
    "header only": ("a\tb\n", r"a.tsv: empty table: a header \(a, b\) and no rows"),
    "wrong name": ("aa\tb\n1\t2\n", r"a.tsv: no column 'a' \(did you mean 'aa'\?\); it has: aa, b"),
    "no header": ("1\t2\n3\t4\n", r"a.tsv: no column 'a'; if the first line is data .* set column_names; it has: 1, 2"),
    "name twice": ("a\ta\n1\t2\n", r"a.tsv: column 'a' occurs twice .*rename"),
    "semicolons": (
        "a;b\n1;2\n",
        r"a.tsv: no column 'a'; if ';' separates .*relations\[0\].delimiter=';'\); it has: a;b",
    ),
    "commas": ("x,b\n1,2\n", r"a.tsv: no column 'a'; if ',' separates the columns and not '\\t', write the file with"),
    "long header": ("a" * 200_000 + "\n1\n", r"a.tsv, line 1: cannot be split into columns .*; check its quotes"),
    "not UTF-8": (b"a\tb\n1\t2\n\xff\t3\n", r"a.tsv, line 3: not UTF-8 text; .*: iconv -f LATIN1 -t UTF-8 a.tsv"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_with_its_place_and_a_remedy(tmp_path, case):
    text, message = BAD_FILES[case]
    with pytest.raises(DataError, match=message):
        tables.read_table(put(tmp_path, text), ["a"], delimiter_key="data.relations[0].delimiter")


BAD_VALUES = {
    ("ids", ""): "line 3, column 'a': empty value where an id is expected; fill it in or drop",
    ("ids", "-4"): "line 3, column 'a': negative id -4; .*drop the row",
    ("ids", "u\x01"): r"line 3, column 'a': id 'u\\x01' has a control character",
    ("ids", "u\x85v"): r"line 3, column 'a': id 'u\\x85v' has a control character",
    ("ids", "u\u2028v"): r"line 3, column 'a': id 'u\\u2028v' has a control character",
    ("ids", "NULL"): "line 3, column 'a': id NULL is how other tools write a missing value; drop the row, or",
    ("ids", "null"): "line 3, column 'a': id null is how other tools write a missing value",
    ("ids", "None"): "line 3, column 'a': id None is how other tools write a missing value",
    ("ids", "NA"): "line 3, column 'a': id NA is how other tools write a missing value",
    ("ids", "<NA>"): "line 3, column 'a': id <NA> is how other tools write a missing value",
    ("ids", "nan"): "line 3, column 'a': id nan is a floating-point number; write ids as integers or text",
    ("ids", "7.0"): "line 3, column 'a': id 7.0 is a floating-point number",
    ("integers", "x"): "line 3, column 'a': 'x' is not an integer >= 0; correct or drop",
    ("integers", "1.5"): "line 3, column 'a': '1.5' is not an integer",
    ("integers", "nan"): "line 3, column 'a': 'nan' is not an integer",
    ("integers", "-4"): "line 3, column 'a': negative value -4; .*correct",
    ("integers", ""): "line 3, column 'a': empty value",
    ("numbers", "nan"): "line 3, column 'a': value nan; expected a finite number",
    ("numbers", "inf"): "line 3, column 'a': value inf",
    ("numbers", "x"): "line 3, column 'a': 'x' is not a number",
    ("numbers", ""): "line 3, column 'a': empty value",
    ("times", "-1"): "line 3, column 'a': negative time -1; times must be >= 0",
    ("times", "nan"): "line 3, column 'a': value nan",
    ("times", "soon"): "line 3, column 'a': 'soon' is not a number, and dates must all be ISO 8601 such as 2021-05-01",
    ("times", "05/01/2024"): "line 3, column 'a': '05/01/2024' is not a number, and dates must all be ISO 8601",
    ("times", ""): "line 3, column 'a': empty value",
    ("weights", "0"): "line 3, column 'a': weight 0.0; weights must be finite and > 0 .*; correct or drop the row",
    ("weights", "-1"): "line 3, column 'a': weight -1.0; weights must be",
    ("weights", "nan"): "line 3, column 'a': value nan; expected a finite number",
    ("weights", "1e-60"): "line 3, column 'a': weight 1e-60; weights must be finite and > 0 in single precision",
    ("weights", "1e60"): r"line 3, column 'a': weight 1e\+60; weights must be",
    ("weights", "x"): "line 3, column 'a': 'x' is not a number",
    ("labels", "2"): "line 3, column 'a': label 2; labels must be 0 or 1",
    ("labels", "nan"): "line 3, column 'a': label nan; labels must be 0 or 1",
    ("labels", ""): "line 3, column 'a': empty value",
}


@pytest.mark.parametrize(("kind", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_with_file_line_and_column(tmp_path, kind, value):
    table = tables.read_table(put(tmp_path, f"b\ta\n0\t1\n0\t{value}\n0\t1\n0\t{value}\n"), ["a"])
    with pytest.raises(DataError, match="a.tsv, " + BAD_VALUES[kind, value]):
        getattr(table, kind)("a")


def test_words_that_only_resemble_a_missing_value_are_ids(tmp_path):
    path = put(tmp_path, "a\nna\nnone\nnullable\nNAN1\nn/a\n")
    assert tables.read_table(path, ["a"]).ids("a").values.tolist() == ["na", "none", "nullable", "NAN1", "n/a"]


def test_a_tab_in_the_header_of_a_comma_file_is_pointed_out(tmp_path):
    with pytest.raises(DataError, match=r"no column 'a'; if '\\t' separates .*delimiter=\$'\\t'\)"):
        tables.read_table(put(tmp_path, "a\tb\n1\t2\n", "a.csv"), ["a"], delimiter_key="data.relations[1].delimiter")
    with pytest.raises(DataError, match=r"1 fields, but column_names has 2: a, b; if '\|' separates"):
        tables.read_table(put(tmp_path, "1|2\n", "b.csv"), ["a"], column_names=("a", "b"))


def test_column_names_that_repeat_the_header_are_refused(tmp_path):
    path = put(tmp_path, "a, b\n1,2\n", "a.csv")
    with pytest.raises(DataError, match=r"a.csv, line 1: the first line is column_names \(a, b\).*leave column_names"):
        tables.read_table(path, ["a"], column_names=("a", "b"))


def test_dates_without_a_zone_count_as_utc_among_dates_with_one(tmp_path):
    text = (
        "a\n1970-01-01T00:00:10\n1970-01-01T00:00:20Z\n1970-01-02\n1970-01-01 01:00:30+01:00\n1970-01-01 00:00:40.5\n"
    )
    table = tables.read_table(put(tmp_path, text), ["a"])
    times, dates = table.times("a")
    assert times.tolist() == [10, 20, 86400, 30, 40.5] and dates
    table = tables.read_table(put(tmp_path, text + "1970-01-40T00:00:10Z\n"), ["a"])
    with pytest.raises(DataError, match=r"line 7, column 'a': '1970-01-40T00:00:10Z' is not an ISO 8601 date such as"):
        table.times("a")


@pytest.mark.parametrize("kind", ["times", "weights", "numbers"])
def test_a_parquet_column_of_booleans_is_no_column_of_numbers(tmp_path, kind):
    table = tables.read_table(put_parquet(tmp_path, a=[True, True]), ["a"])
    with pytest.raises(DataError, match=r"a.parquet, column 'a': type bool where a number.* store numbers, or"):
        getattr(table, kind)("a")


@pytest.mark.parametrize("values", [[[1], None], [{"a": 1}], [b"a", None]])
def test_types_of_parquet_that_are_no_values_are_refused_with_their_column(tmp_path, values):
    with pytest.raises(DataError, match=r"a.parquet: column 'a' is of type .*; store text, numbers, booleans or dates"):
        tables.read_table(put_parquet(tmp_path, a=values), ["a"])


def test_text_of_parquet_that_is_not_utf_8_is_refused_with_its_row(tmp_path, monkeypatch):
    broken = pa.array([b"ok", b"ok", b"\xff", b"ok"]).view(pa.string())
    monkeypatch.setattr(tables, "BLOCK_ROWS", 2)
    for rows in (lambda path: [tables.read_table(path, ["a"])], lambda path: list(tables.read_blocks(path, ["a"]))):
        with pytest.raises(DataError, match=r"a.parquet, row 3, column 'a': not UTF-8 text"):
            rows(put_parquet(tmp_path, a=broken))


def test_large_integers_of_parquet_are_rounded_as_those_of_text(tmp_path):
    nanoseconds = [1_700_000_000_000_000_001, 5]
    packed = tables.read_table(put_parquet(tmp_path, a=nanoseconds), ["a"]).times("a")[0]
    text = tables.read_table(put(tmp_path, "a\n1700000000000000001\n5\n"), ["a"]).times("a")[0]
    np.testing.assert_array_equal(packed, text)


def test_dates_where_numbers_are_expected_are_wrong_as_a_column(tmp_path):
    read = tables.read_table(put_parquet(tmp_path, a=np.array(["2021-05-01"], "datetime64[s]")), ["a"])
    for convert in (read.numbers, read.labels, read.optional_numbers, read.ids):
        with pytest.raises(ColumnError, match=r"a.parquet, column 'a': type timestamp"):
            convert("a")


def test_ids_of_more_than_a_thousand_characters_are_refused(tmp_path):
    read = tables.read_table(put(tmp_path, f"a\n{'x' * 1000}\n{'x' * 1001}\n"), ["a"])
    with pytest.raises(DataError, match=r"line 3, column 'a': a text of more than 1000 characters; shorten it"):
        read.ids("a")


def test_text_ids_that_look_like_negative_integers_are_refused(tmp_path):
    path = put(tmp_path, "a\tb\nann\tx-1\nbob\t-x\n -12 \t--1\nann\t-1-\n-7\t1-2\n")
    table = tables.read_table(path, ["a", "b"])
    with pytest.raises(DataError, match=r"a.tsv, line 4, column 'a': negative id -12; .*drop the row"):
        table.ids("a")
    assert table.ids("b").values.tolist() == ["x-1", "-x", "--1", "-1-", "1-2"]
    parquet = tables.read_table(put_parquet(tmp_path, a=["ann", "-5"]), ["a"])
    with pytest.raises(DataError, match=r"a.parquet, row 2, column 'a': negative id -5"):
        parquet.ids("a")


def test_unsigned_ids_beyond_int64_are_text(tmp_path):
    table = tables.read_table(put_parquet(tmp_path, a=pa.array([2**63 + 1, 7], pa.uint64())), ["a"])
    assert table.ids("a").values.tolist() == ["9223372036854775809", "7"]


def test_a_bad_date_among_dates_is_refused_with_its_line(tmp_path):
    table = tables.read_table(put(tmp_path, "a\n2021-01-01\n2021-01-02\n2021-13-01\n2021-01-01\n"), ["a"])
    with pytest.raises(DataError, match=r"a.tsv, line 4, column 'a': '2021-13-01' is not an ISO 8601 date such as"):
        table.times("a")


def test_values_past_a_bound_are_refused(tmp_path):
    table = tables.read_table(put(tmp_path, "a\n0\n3\n"), ["a"])
    with pytest.raises(DataError, match=r"line 3, column 'a': 3 is out of range 0..2 because"):
        table.integers("a", 3, " because")


@pytest.mark.parametrize("column", [[1.0, 2.0], [True, False]])
def test_parquet_ids_must_be_integers_or_text(tmp_path, column):
    table = tables.read_table(put_parquet(tmp_path, a=column), ["a"])
    with pytest.raises(DataError, match=r"a.parquet, column 'a': type .* cannot hold ids; store them as integers"):
        table.ids("a")


def test_parquet_nulls_are_refused_with_their_row(tmp_path):
    table = tables.read_table(put_parquet(tmp_path, a=[1, None, 3]), ["a"])
    for convert in (table.ids, table.integers, table.numbers, table.times):
        with pytest.raises(DataError, match=r"a.parquet, row 2, column 'a': empty value"):
            convert("a")


def test_truncated_archives_are_refused(tmp_path):
    packed = gzip.compress(b"a\tb\n" + b"".join(b"%d\t2\n" % i for i in range(5000)))
    for cut in (packed[: len(packed) // 2], packed[:-4], b"plain text\n"):
        with pytest.raises(DataError, match=r"x.tsv.gz: truncated or damaged gzip file .*; copy or download it again"):
            tables.read_table(put(tmp_path, cut, "x.tsv.gz"), ["a"])
    whole = put_parquet(tmp_path, a=list(range(1000))).read_bytes()
    for cut in (whole[: len(whole) // 2], whole[:-4], b"PAR1"):
        with pytest.raises(DataError, match=r"x.parquet: not a complete Parquet file, it may be cut .*; copy it again"):
            tables.read_table(put(tmp_path, cut, "x.parquet"), ["a"])
    with pytest.raises(DataError, match=r"x.parquet: empty file"):
        tables.read_table(put(tmp_path, b"", "x.parquet"), ["a"])


def test_missing_files_and_formats_are_refused_with_what_there_is(tmp_path):
    put(tmp_path, "a\n1\n", "items.tsv")
    with pytest.raises(DataError, match=r"item.tsv: missing file \(did you mean 'items.tsv'\?\).*has: items.tsv"):
        tables.read_table(tmp_path / "item.tsv", ["a"])
    with pytest.raises(DataError, match=r"no directory .*nowhere; check the path"):
        tables.read_table(tmp_path / "nowhere" / "item.tsv", ["a"])
    with pytest.raises(DataError, match=r"is a directory; name a file"):
        tables.read_table(tmp_path, ["a"])
    with pytest.raises(DataError, match=r"x.dat: cannot tell the format from '.dat' \(known: .csv.*set delimiter"):
        tables.read_table(put(tmp_path, "a\n1\n", "x.dat"), ["a"])
    with pytest.raises(DataError, match=r"unknown format 'orc'; valid: text, parquet"):
        tables.read_table(tmp_path / "items.tsv", ["a"], file_format="orc")
    with pytest.raises(DataError, match=r"line 1: 1 fields, but column_names has 2: a, b"):
        tables.read_table(tmp_path / "items.tsv", ["a"], column_names=("a", "b"))


def test_node_tables_are_sorted_and_become_text_if_any_column_is():
    def numbers(*values):
        return ids.IdColumn(np.array(values), np.arange(len(values)))

    nodes, indices = ids.build_nodes(
        [
            ("user", numbers(9, 3)),
            ("item", numbers(10, 2)),
            ("item", ids.IdColumn(np.array(["b", "2"]), np.array([0, 1, 0]))),
            ("user", numbers(4, 9)),
        ]
    )
    assert nodes["user"].ids.tolist() == [3, 4, 9] and nodes["user"].ids.dtype == np.int64
    assert nodes["item"].ids.tolist() == ["10", "2", "b"]
    assert [index.tolist() for index in indices] == [[2, 0], [0, 1], [2, 1, 2], [1, 2]]
    assert all(index.dtype == np.int32 for index in indices)


@hypothesis.given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=30))
@hypothesis.settings(max_examples=50, deadline=None)
def test_every_pair_is_kept_once_at_its_earliest_split_and_time(rows):
    rows = sorted(rows, key=lambda row: row[3])
    source_ids, target_ids, time, split = np.array(rows, np.int64).reshape(-1, 4).T
    split, counts = np.minimum(split, 2), {}
    keep = ids.distinct_pairs("buy", source_ids, target_ids, split, time, counts)
    best = {}
    for i in range(len(rows)):
        pair, rank = (source_ids[i], target_ids[i]), (split[i], time[i], i)
        best[pair] = min(best.get(pair, rank), rank)
    assert keep.tolist() == sorted(rank[2] for rank in best.values())
    assert sum(counts.values()) == len(rows) - len(keep)


def test_rows_that_are_taken_keep_their_lines_in_errors(tmp_path):
    table = tables.read_table(put(tmp_path, "user\tx\n5\t1\n6\t2\n7\tthree\n8\t4\n"), ["user", "x"])
    part = table.take(np.array([3, 2]))
    assert part.unique_integers("user").tolist() == [8, 7]
    for rows in (part, part.take(np.array([1]))):
        with pytest.raises(DataError, match=r"line 4, column 'x': 'three' is not an integer"):
            rows.integers("x")


def test_integers_that_must_differ_name_the_line_of_the_second(tmp_path):
    table = tables.read_table(put(tmp_path, "user\n5\n6\n 5\n6\n"), ["user"])
    with pytest.raises(DataError, match=r"line 4, column 'user': id 5 occurs twice; ids must be unique"):
        table.unique_integers("user")
