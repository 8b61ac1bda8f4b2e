"""Quotes, headers and long rows of delimited text: no row may disappear unnoticed."""

import csv
import io
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from lsec_jax.data import delimited, tables
from lsec_jax.schema import DataError
from tests.data.test_tables import put


def read(path, *columns):
    table = tables.read_table(path, columns)
    return [table.columns[column].to_pylist() for column in columns]


UNCLOSED = {
    "never closed": ('a,1,"x\nb,2,z\nc,3,w\n', 2, r"""'"x'"""),
    "another opened": ('a,1,"5 in\nb,2,z\nc,3,"6 in\nd,4,y\n', 2, r"""'"5 in'"""),
    "first value": ('a,1,x\n"b,2,z\nc,3,w\n', 3, r"""'"b,2,z'"""),
    "text after it": ('a,1,"x"\nb,2,"y" z\n', 3, r"""'"y'"""),
    "three": ('a,1,"""\nb,2,z\n', 2, r"""'\"""'"""),
}


@pytest.mark.parametrize("case", UNCLOSED)
def test_a_quote_that_does_not_close_with_its_value_is_refused(tmp_path, case):
    text, line, shown = UNCLOSED[case]
    message = (
        rf"a.csv, line {line}: a quote begins a value and does not close at its end \({shown}\); close it .*double"
    )
    with pytest.raises(DataError, match=message):
        read(put(tmp_path, "user,item,t\n" + text, "a.csv"), "user")


def test_quotes_that_close_and_quotes_inside_values_are_read(tmp_path):
    text = 'user,item,t\r\n"a,b",1,"x\r\ny"\r\nc,2,5" in\r\n"d ""e""",3,""\r\n'
    users, titles = read(put(tmp_path, text, "a.csv"), "user", "t")
    assert users == ["a,b", "c", 'd "e"'] and titles == ["x\r\ny", '5" in', ""]


@hypothesis.given(st.text('ab",\n', max_size=40))
@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.example('"",""\n"a\n"",b"')
def test_text_with_quotes_is_read_as_a_strict_csv_reader_reads_it_or_refused(tmp_path_factory, text):
    path = put(tmp_path_factory.mktemp("text"), f"a,b\n{text}\n", "a.csv")
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(), newline=""), strict=True))[1:]
        expected = [row or ["", ""] for row in rows]  # empty ids are refused when they are used
    except csv.Error:
        expected = []
    if expected and all(len(row) == 2 for row in expected):
        assert [list(row) for row in zip(*read(path, "a", "b"), strict=True)] == expected
    else:
        with pytest.raises(DataError):
            read(path, "a", "b")


def test_a_header_may_have_line_breaks_in_quotes(tmp_path):
    path = put(tmp_path, 'user,item,"ti\ntle"\na,1,x\nb,,y\n', "a.csv")
    assert read(path, "user", "ti\ntle") == [["a", "b"], ["x", "y"]]
    with pytest.raises(DataError, match=r"a.csv: no column 'titel'.*; it has: user, item, ti\\ntle$"):
        read(path, "titel")
    with pytest.raises(DataError, match=r"a.csv, line 4, column 'item': empty value"):
        tables.read_table(path, ["item"]).ids("item")


def test_rows_after_line_breaks_in_quotes_are_counted_as_records(tmp_path):
    text = 'user,"ti\ntle"\na,"x\ny"\nb,z\n,w\n'
    table = tables.read_table(put(tmp_path, text, "a.csv"), ["user"])
    assert table.num_line_breaks == 1
    with pytest.raises(DataError, match=r"a.csv, record 4, column 'user': empty value"):
        table.ids("user")
    with pytest.raises(DataError, match=r"a.csv, record 5: malformed row: 1 fields, expected 2 .*drop the record"):
        read(put(tmp_path, text + "c\n", "a.csv"), "user")


def test_a_malformed_row_that_is_no_utf_8_is_refused_in_one_message(tmp_path, capfd):
    path = put(tmp_path, "user,t\nann,1\njos\u00e9,1,2\n".encode("latin1"), "a.csv")
    with pytest.raises(DataError, match=r"a.csv, line 3: not UTF-8 text; convert the file"):
        read(path, "user")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("header", ["user,t", "user,t" + ",t" * 700_000], ids=["row", "header"])
def test_rows_of_more_than_a_megabyte_are_read(tmp_path, header):
    width = header.count(",")
    path = put(tmp_path, f"{header}\na,{'x' * 3_000_000}{',' * (width - 1)}\nb,y{',' * (width - 1)}\n", "a.csv")
    assert read(path, "user") == [["a", "b"]]


def test_a_row_past_the_limit_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_ROW_BYTES", 1 << 20)
    path = put(tmp_path, f"user,t\nb,y\na,{'x' * 3_000_000}\nb,y\n", "a.csv")
    with pytest.raises(DataError, match=r"a.csv: a row is longer than 1 MiB; check the file's line ends and quotes"):
        read(path, "user")


def test_the_check_of_quotes_takes_about_a_second_per_million_rows(tmp_path):
    data = b'"user12345","item6789",1234567,"5"" tape"\n' * 300_000
    start = time.perf_counter()
    assert delimited.check_quotes(tmp_path, data, ",", has_quotes=True) == 0
    assert time.perf_counter() - start < 5  # about 0.3 s on an idle machine
