"""KuaiLive's files when they are wrong: unknown ids, and one clear message for everything that cannot be used."""

import numpy as np
import pytest

from lsec_jax.schema import DataError
from tests.kuailive_files import CLICK, FILES, GIFT, ROOM, UNKNOWN, T, change, load, write


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def test_rows_with_unknown_ids_are_left_out_and_counted_for_each_file_and_column(folder):
    before = load(folder)
    for name, rows in UNKNOWN.items():
        (folder / name).write_text(FILES[name] + rows)
    data = load(folder)
    assert data.fingerprint() == before.fingerprint()
    assert {name: number for name, number in data.counts.items() if name not in before.counts} == {
        "click.csv: rows dropped, their user_id is not in user.csv": 2,
        "click.csv: rows dropped, their streamer_id is not in streamer.csv": 1,
        "click.csv: rows dropped, their live_id is not in room.csv": 1,
        "negative.csv: rows dropped, their live_id is not in room.csv": 1,
        "comment.csv: rows dropped, their user_id is not in user.csv": 1,
        "like.csv: rows dropped, their streamer_id is not in streamer.csv": 1,
        "gift.csv: rows dropped, their live_id is not in room.csv": 1,
        "room.csv: rows dropped, their streamer_id is not in streamer.csv": 1,
    }


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("click.csv", r"line 7, column 'user_id': user 7 is not in user.csv \(2 rows have such ids\); list it there"),
        ("negative.csv", r"line 4, column 'live_id': room 31 is not in room.csv"),
        ("like.csv", r"line 5, column 'streamer_id': streamer 420 is not in streamer.csv"),
        ("room.csv", r"line 7, column 'streamer_id': streamer 77 is not in streamer.csv"),
    ],
)
def test_rows_with_unknown_ids_are_refused_where_that_is_asked_for(folder, name, place):
    load(folder, unmatched="refuse")
    (folder / name).write_text(FILES[name] + UNKNOWN[name])
    with pytest.raises(DataError, match=rf"{name}, {place}.*--config\.data\.unmatched=drop"):
        load(folder, unmatched="refuse")


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("3", "3 is no row of the 3 vectors, 0..2"),
        ("-2", "-2 is no row"),
        ("1.5", "1.5 is no row"),
        ("x", "'x' is not"),
    ],
)
def test_a_title_without_an_embedding_is_refused(folder, number, problem):
    np.save(folder / "title_embeddings.npy", np.ones((3, 2), np.float32))
    change(folder, "room.csv", ",shop,0\n", f",shop,{number}\n")
    with pytest.raises(DataError, match=rf"room\.csv, line 4, column 'live_name_id': {problem}"):
        load(folder)


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        (np.ones(3), r"title_embeddings\.npy: float64 of shape \(3,\); expected floating-point vectors"),
        (np.ones((3, 2), int), "int64 of shape"),
        (np.array([[{}]]), "not a complete .npy file"),
        (np.array([[np.inf], [0], [0]]), r"line 4, column 'live_name_id': vector 0 has values that are not finite"),
        (np.array([[1e300], [0], [0]]), r"line 4, column 'live_name_id': vector 0 has values that are not finite"),
    ],
)
def test_unusable_embeddings_are_refused(folder, vectors, problem):
    np.save(folder / "title_embeddings.npy", vectors)
    with pytest.raises(DataError, match=problem):
        load(folder)


def test_cut_missing_and_doubled_files_of_embeddings_are_refused(folder):
    np.save(folder / "whole.npy", np.ones((30, 20)))
    np.savez(folder / "archive.npz", np.ones((3, 2)))
    data = (folder / "whole.npy").read_bytes()
    for name, kept in (("half.npy", data[:500]), ("start.npy", data[:50]), ("empty.npy", b"")):
        (folder / name).write_bytes(kept)
        with pytest.raises(DataError, match=rf"{name}: not a complete \.npy file"):
            load(folder, title_embeddings=name)
    with pytest.raises(DataError, match=r"archive\.npz: an archive; expected"):
        load(folder, title_embeddings="archive.npz")
    with pytest.raises(DataError, match=r"nowhere\.npy: missing file"):
        load(folder, title_embeddings="nowhere.npy")
    for name in ("title_embeddings.npy", "title_embeddings_pca128.npy"):
        (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=r"name one: --config\.data\.title_embeddings=title_embeddings\.npy"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("user.csv", "18-23", "18 to 23", r"user\.csv, line 3, column 'age': '18 to 23' is not a range such as 24-30"),
        ("user.csv", "18-23", "23-18", r"line 3, column 'age': '23-18' is not a range"),
        ("user.csv", "5000+", "+", r"line 2, column 'device_price': '\+' is not a range.*config key data\.missing"),
        ("user.csv", "2023-05-04", "2023-13-04", r"line 3, column 'first_watch_live_timestamp': '2023-13-04' is not"),
        ("streamer.csv", "2019-12-31", "1577750400000", r"line 3, column 'reg_timestamp': '1577750400000' is not an"),
        ("user.csv", "8505,", "a8505,", r"line 3, column 'user_id': 'a8505' is not an integer >= 0"),
        ("user.csv", "11504,", "8505,", r"line 4, column 'user_id': id 8505 occurs twice; ids must be unique"),
        ("streamer.csv", "419,", "56006,", r"line 3, column 'streamer_id': id 56006 occurs twice"),
        ("user.csv", "user_id,age", "user_id,years", r"user\.csv: no column 'age'.*it has: user_id, years, gender"),
        ("room.csv", "30,419,1,", "x,419,1,", r"room\.csv, line 3, column 'live_id': 'x' is not an integer"),
        ("room.csv", f"10,{T - 30_000},", "10,nan,", r"line 4, column 'start_timestamp': value nan; expected a finite"),
        ("room.csv", f"10,{T - 30_000},", "10,,", r"line 4, column 'start_timestamp': empty value"),
        (
            "room.csv",
            f"10,{T - 30_000},,",
            f"10,{T - 30_000},1746374,",
            r"line 4, column 'end_timestamp': 1746374 is no",
        ),
        ("room.csv", f"10,{T - 30_000},,", f"10,{T - 30_000},soon,", r"column 'end_timestamp': 'soon' is not a number"),
        ("click.csv", ",10000\n", ",-1\n", r"click\.csv, line 3, column 'watch_live_time': -1; expected a number >= 0"),
        (
            "click.csv",
            ",10000\n",
            ",1e300\n",
            r"line 3, column 'watch_live_time': 1e\+300; expected a number >= 0 and b",
        ),
        ("click.csv", ",10000\n", "\n", r"click\.csv, line 3: malformed row: 4 fields, expected 5"),
        (
            "like.csv",
            f"{T + 22_853}\n",
            f"{T + 22_853},1\n",
            r"line 4: malformed row: 5 fields.*; the first line is a header .*timestamp, commas between",
        ),
        ("room.csv", "30,419,1,", "30,", r"room\.csv, line 3: malformed .*p_date, .*live_content_category.*, commas"),
        ("user.csv", "18-23,", "", r"user\.csv, line 3: malformed .*; the first line is a header .*user_id, gender"),
        ("click.csv", ",10000\n", ",\n", r"click\.csv, line 3, column 'watch_live_time': empty value"),
        ("click.csv", "watch_live_time", "duration", r"click\.csv: no column 'watch_live_time'; .*it has: user_id"),
        ("click.csv", "streamer_id", "author_id", r"click\.csv: no column 'streamer_id'.*author_id"),
        ("click.csv", f"{T},10000", "1746374400,10000", r"line 3, column 'timestamp': 1746374400 is no time in milli"),
        ("click.csv", f"{T},10000", f"{T}000,10000", r"line 3, column 'timestamp': 1746374400000000 is no time"),
        (
            "negative.csv",
            f"{T + 5_000}",
            "nan",
            r"negative\.csv, line 3, column 'timestamp': value nan; expected a fin",
        ),
        ("gift.csv", ",88\n", ",0\n", r"gift\.csv, line 3, column 'gift_price': 0; expected a number > 0"),
        ("like.csv", f"{T + 22_853}\n", "17", r"like\.csv, line 4: the file does not end in a newline"),
    ],
)
def test_hostile_input_is_refused_with_its_place_and_a_remedy(folder, file, old, new, problem):
    change(folder, file, old, new)
    with pytest.raises(DataError, match=problem):
        load(folder)


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_and_empty_files_are_refused(folder, name):
    (folder / name).write_text(FILES[name].splitlines()[0] + "\n")
    with pytest.raises(DataError, match=rf"{name}: empty table"):
        load(folder)
    (folder / name).write_text("")
    with pytest.raises(DataError, match=rf"{name}: empty file"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: missing file.*the directory has: "):
        load(folder)


def test_text_for_no_value_can_be_added(folder):
    change(folder, "user.csv", "18-23", "n/a")
    data = load(folder, missing=("n/a", "UNKNOWN"))
    assert data.nodes["user"].features["age"].is_missing().tolist() == [True, True, False]


def test_files_that_do_not_belong_together_are_refused(folder):
    (folder / "click.csv").write_text(CLICK.splitlines()[0] + f"\n7,30,419,{T},1\n")
    problem = (
        r"click\.csv: none of its rows can be used .*click\.csv: rows dropped, their user_id is not in user\.csv: 1"
    )
    with pytest.raises(DataError, match=problem):
        load(folder)
    header = ROOM.splitlines()[0]
    (folder / "room.csv").write_text(f"{header}\n20250505,99,419,7,{T},{T + 1000},game,0\n")
    with pytest.raises(DataError, match=r"room\.csv: none of its rows can be used"):
        load(folder)


def test_without_a_gift_that_can_be_used_there_is_no_relation_of_gifts(folder):
    (folder / "gift.csv").write_text(GIFT.splitlines()[0] + f"\n7,30,419,{T},1\n")
    data = load(folder)
    assert "gift" not in data.relations and len(data.events_of("gift")) == 0


@pytest.mark.parametrize("option", [{"rooms": "some"}, {"unmatched": "keep"}])
def test_unknown_options_are_refused_with_the_valid_ones(folder, option):
    with pytest.raises(DataError, match=r"config key data\.\w+ = '\w+' is unknown; valid: \w+, \w+"):
        load(folder, **option)
