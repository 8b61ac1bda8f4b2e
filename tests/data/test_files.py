"""Files as a whole: where they are, and which are refused before their content is looked at."""

import gzip
import time
from pathlib import Path

import pytest

from lsec_jax.data import files
from lsec_jax.schema import DataError

PARQUET = b"PAR1\x15\x04\x15\x00 columns and rows \x00PAR1"
REFUSED = {
    "old Mac line end in the header": (
        b"user,item\ru,i\r\n",
        r"a.csv, line 1: a carriage return without a line feed \('user,item\\ru,i\\r'\).*convert the line ends \(perl",
    ),
    "old Mac line ends": (b"user,item\ru,i\r", r"a.csv, line 1: a carriage return without"),
    "old Mac line end further down": (b"user,item\r\nu,i\nv,\rj\n", r"a.csv, line 3: a carriage return .*'v,\\rj'"),
    "carriage return in quotes": (b'user,item\n"u\rv",i\n', r"a.csv, line 2: .*quoted values, where it is refused too"),
    "doubled carriage returns": (b"user,item\r\r\nu,i\r\r\n", r"a.csv, line 1: a carriage return"),
    "UTF-16": ("user,item\nu,i\n".encode("utf-16"), r"a.csv: this is text in UTF-16 .*iconv -f UTF-16 -t UTF-8 a.csv"),
    "UTF-16, big endian": (b"\xfe\xff" + "u\n".encode("utf-16-be"), r"a.csv: this is text in UTF-16"),
    "UTF-16 without a mark": ("user,item\nu,i\n".encode("utf-16-le"), r"a.csv: this is text in UTF-16"),
    "Parquet": (PARQUET, r"a.csv: this is a Parquet file, not text; name it .parquet, or set .* format to 'parquet'"),
    "gzip": (gzip.compress(b"a\n1\n"), r"a.csv: this is a gzip file; let its name end in .gz"),
    "spreadsheet": (b"PK\x03\x04\x14\x00", r"a.csv: this is a zip archive or a spreadsheet.*save it as CSV"),
    "only a byte order mark": (b"\xef\xbb\xbf", r"a.csv: empty file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_plain_text_is_refused_with_the_remedy_that_helps(tmp_path, case):
    content, message = REFUSED[case]
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        files.read_text(tmp_path / "a.csv")
    assert "appending a newline" not in str(error.value)


def test_text_that_begins_like_a_parquet_file_is_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"PAR1,PAR2\n1,2\n")
    assert files.read_text(tmp_path / "a.csv") == b"PAR1,PAR2\n1,2\n"


def test_text_is_read_without_its_byte_order_mark_and_with_its_line_ends(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\n")
    assert files.read_text(tmp_path / "a.csv") == b"a,b\r\n1,2\n"


def test_the_search_for_carriage_returns_takes_a_fraction_of_a_second_per_100_megabytes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"user12345,item6789,1234567\r\n" * 1_000_000)
    start = time.perf_counter()
    files.read_text(tmp_path / "a.csv")
    assert time.perf_counter() - start < 3  # about 0.05 s on an idle machine


def test_paths_expand_variables_and_name_those_that_are_not_set(tmp_path, monkeypatch):
    monkeypatch.setenv("LSEC_TEST_ROOT", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expand_path("${LSEC_TEST_ROOT}/x") == tmp_path / "x"
    assert files.expand_path("~/x") == Path("/home/me/x")
    monkeypatch.delenv("LSEC_TEST_ROOT")
    with pytest.raises(
        DataError, match=r"variable LSEC_TEST_ROOT is not set; set it .* or pass --config.data.path=DIR"
    ):
        files.expand_path("${LSEC_TEST_ROOT}/x")
    with pytest.raises(DataError, match=r"no data path was given; pass --config.data.path=DIR"):
        files.expand_path("")


def test_a_dollar_that_no_name_follows_stays_in_a_path(monkeypatch):
    monkeypatch.setenv("LSEC_TEST_ROOT", "/data/$5")
    assert files.expand_path("$LSEC_TEST_ROOT/cost$5.csv") == Path("/data/$5/cost$5.csv")
    for name in ("cost$.csv", "a$-b", "a${}", "a${5}", "$$", "a$"):
        assert files.expand_path(name) == Path(name)
    with pytest.raises(DataError, match=r"path 'cost\$LSEC_USD.csv': the environment variable LSEC_USD is not set"):
        files.expand_path("cost$LSEC_USD.csv")


@pytest.mark.parametrize("folder", ["", "x" * 300 + "/"])
def test_a_name_that_the_file_system_does_not_take_is_refused_as_such(tmp_path, folder):
    with pytest.raises(DataError, match=r"y.csv: cannot be looked for \(File name too long\); correct its name"):
        files.find_file(tmp_path / (folder + "y" * 300 + "y.csv"))
