import dataclasses

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.data.sources import interactions
from lsec_jax.schema import TRAIN, Availability, DataError
from lsec_jax.training import serving
from lsec_jax.training.run import prepare
from tests import runs

NUM_USERS, NUM_ITEMS = 40, 25


def write_purchases(path, user_name, item_name):
    """Purchases of 40 users; the last user buys only after the training period."""
    generator = np.random.default_rng(0)
    lines = ["user,item,time"]
    for user in range(NUM_USERS - 1):
        for item in generator.choice(NUM_ITEMS, 9, replace=False):
            lines.append(f"{user_name(user)},{item_name(item)},{generator.integers(1000)}")
    lines.append(f"{user_name(NUM_USERS - 1)},{item_name(0)},2000")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module", params=["strings", "integers"])
def ready(request, tmp_path_factory):
    """(run, state, names of users, names of items); any state will do, so there is no training."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "strings":
        names = [f"zoë-{i}" for i in range(NUM_USERS)], [f"item {i}" for i in range(NUM_ITEMS)]
    else:
        names = [10**9 + 7 * i for i in range(NUM_USERS)], [100 - i for i in range(NUM_ITEMS)]
    write_purchases(folder / "buy.csv", names[0].__getitem__, names[1].__getitem__)
    config = runs.tiny_config(num_steps=4, batch_size=30)
    spec = interactions.RelationSpec("buy", "user", "item", "buy.csv", "user", "item", time_column="time")
    config.data = interactions.Config(str(folder), (spec,))
    config.evaluation.block_size = 16
    run = prepare(config)
    return run, run.initial_state(), *names


def read(path):
    if path.suffix == ".parquet":
        return pa_parquet.read_table(path).to_pydict()
    delimiter = "\t" if path.suffix == ".tsv" else ","
    return pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(delimiter=delimiter)).to_pydict()


def recommend(ready, output, users=None, k=5, include_seen=False):
    counts = serving.write_recommendations(ready[0], ready[1], users, k, output, include_seen)
    table = read(output)
    assert counts["rows"] == len(table["user_id"])
    return table


def lists(table):
    """{user: [(rank, item, score, source)]}"""
    result = {}
    for user, *rest in zip(*(table[c] for c in ("user_id", "rank", "item_id", "score", "source")), strict=True):
        result.setdefault(user, []).append(tuple(rest))
    return result


@pytest.mark.parametrize("include_seen", [False, True])
def test_lists_equal_brute_force_in_the_sources_own_ids(ready, tmp_path, include_seen):
    run, state, _, _ = ready
    buy, users, items = run.data.relations["buy"], run.data.nodes["user"].ids, run.data.nodes["item"].ids
    scores = np.asarray(run.scorer_function()(state).score_all(np.arange(NUM_USERS))).copy()
    popularity = np.bincount(buy.edges(TRAIN)[1], minlength=NUM_ITEMS)
    found = lists(recommend(ready, tmp_path / "r.parquet", include_seen=include_seen))
    assert list(found) == users.tolist()
    for i, user in enumerate(users.tolist()):
        is_cold = not np.any(buy.edges(TRAIN)[0] == i)
        row = popularity.astype(np.float32) if is_cold else scores[i]
        if not include_seen:
            row = row.copy()
            row[buy.target_ids[buy.source_ids == i]] = -np.inf  # of any split
        best = np.lexsort((np.arange(NUM_ITEMS), -row))[:5]
        ranks, names, values, sources = zip(*found[user], strict=True)
        assert ranks == (1, 2, 3, 4, 5) and names == tuple(items[best].tolist())
        np.testing.assert_allclose(values, row[best], rtol=1e-5)
        assert set(sources) == {"popularity" if is_cold else "model"}
        assert list(values) == sorted(values, reverse=True)


def test_unknown_and_cold_users_get_popularity(ready, tmp_path):
    run, _, user_names, _ = ready
    listed = tmp_path / "users.txt"
    unknown = "nobody" if isinstance(user_names[0], str) else 999
    listed.write_bytes(f"\ufeff{user_names[3]}\r\n{unknown}\r\n{user_names[-1]}\r\n{user_names[3]}\r\n".encode())
    table = recommend(ready, tmp_path / "r.parquet", serving.read_users(listed), k=3)
    found = lists(table)
    assert list(found) == [user_names[3], unknown, user_names[-1]]  # order of the file, duplicates once, own types
    assert [rows[0][3] for rows in found.values()] == ["model", "popularity", "popularity"]
    buy, items = run.data.relations["buy"], run.data.nodes["item"].ids
    popularity = np.bincount(buy.edges(TRAIN)[1], minlength=NUM_ITEMS)
    best = items[np.lexsort((np.arange(NUM_ITEMS), -popularity))[:3]]
    assert [row[1] for row in found[unknown]] == best.tolist()


def test_integer_ids_become_text_only_beside_ids_that_are_not_integers(ready, tmp_path):
    user = ready[2][3]
    if isinstance(user, str):
        pytest.skip("about integer ids")
    users = tmp_path / "users.txt"
    users.write_text(f"{user}\n007\n")
    assert list(lists(recommend(ready, tmp_path / "r.parquet", serving.read_users(users)))) == [str(user), "007"]


def test_k_above_the_number_of_items_gives_all_that_are_left(ready, tmp_path):
    run = ready[0]
    found = lists(recommend(ready, tmp_path / "r.parquet", k=10**9))
    bought = np.bincount(run.data.relations["buy"].source_ids, minlength=NUM_USERS)
    assert [len(rows) for rows in found.values()] == (NUM_ITEMS - bought).tolist()
    assert all(np.isfinite([row[2] for row in rows]).all() for rows in found.values())


def test_all_formats_hold_the_same(ready, tmp_path):
    tables = [recommend(ready, tmp_path / f"r{suffix}", k=2) for suffix in serving.FORMATS]
    for table in tables[1:]:
        assert {**table, "score": None} == {**tables[0], "score": None}
        np.testing.assert_allclose(table["score"], tables[0]["score"], rtol=1e-6)


def test_blocks_of_users_do_not_change_the_file(ready, tmp_path, monkeypatch):
    whole = recommend(ready, tmp_path / "a.parquet")
    monkeypatch.setattr(serving, "USERS_AT_ONCE", 7)
    assert recommend(ready, tmp_path / "b.parquet") == whole


@pytest.mark.parametrize("suffix", serving.FORMATS)
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(ready, tmp_path, monkeypatch, suffix):
    output = tmp_path / f"r{suffix}"
    output.write_text("old")
    monkeypatch.setattr(serving, "USERS_AT_ONCE", 16)
    make, calls = serving._lists, []

    def fail_at_second(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make(*args)

    monkeypatch.setattr(serving, "_lists", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        recommend(ready, output)
    assert [path.name for path in tmp_path.iterdir()] == [output.name] and output.read_text() == "old"


def test_exported_vectors_give_the_models_scores(ready, tmp_path, monkeypatch):
    run, state, user_names, _ = ready
    folder = tmp_path / "new" / "vectors"
    serving.export_embeddings(run, state, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["item.ids.txt", "item.npy", "user.ids.txt", "user.npy"]
    assert [p.name for p in folder.parent.iterdir()] == ["vectors"]
    users, items = np.load(folder / "user.npy"), np.load(folder / "item.npy")
    scores = np.asarray(run.scorer_function()(state).score_all(np.arange(NUM_USERS)))
    np.testing.assert_allclose(users @ items.T, scores, rtol=1e-4, atol=1e-6)
    assert set((folder / "user.ids.txt").read_text().splitlines()) == set(map(str, user_names))

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        serving.export_embeddings(run, state, tmp_path / "half")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"u1\n\nu2\n", "row 2: empty line"),
        (b"u1\n   \n", "row 2: empty line"),
        (b"PAR1\x15\x04\xff\xfe", "not a text file"),
        (b"u1\0u2\n", "not a text file"),
        ("a folder", "cannot be read"),
    ],
)
def test_an_unusable_user_file_is_named(tmp_path, content, message):
    path = tmp_path / "users.txt"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        serving.read_users(path)
    assert str(path) in str(caught.value) and "--users" in str(caught.value)


def test_user_ids_are_read_as_written(tmp_path):
    path = tmp_path / "users.txt"
    for text, expected in (
        ("3\n1\n3", [3, 1]),
        ("3\n01\n", ["3", "01"]),
        ("-3\n", [-3]),
        ("a\u2028b\n c \n", ["a\u2028b", "c"]),
        (f"{10**30}\n", [str(10**30)]),
        ("٣\n", ["٣"]),
    ):
        path.write_text(text, encoding="utf-8")
        assert serving.read_users(path).tolist() == expected


def available(run, start, end, has_dates=False):
    """The run, with the same data and windows of its items."""
    windows = Availability(np.asarray(start, np.float64), np.asarray(end, np.float64))
    return dataclasses.replace(run, data=run.data.replace(availability={"item": windows}, has_dates=has_dates))


def test_lists_at_a_time_are_those_of_the_items_available_then(ready, tmp_path):
    run, state, _, _ = ready
    start = np.where(np.arange(NUM_ITEMS) < 10, 0.0, 100.0)
    run = available(run, start, np.where(np.arange(NUM_ITEMS) < 5, 50.0, np.inf))
    items = run.data.nodes["item"].ids
    every = lists(recommend(ready, tmp_path / "all.parquet", k=NUM_ITEMS))
    for time, offered in ((0, range(10)), (50, range(5, 10)), (100, range(5, NUM_ITEMS))):
        path = tmp_path / f"{time}.parquet"
        serving.write_recommendations(
            run, state, None, NUM_ITEMS, path, False, serving.offered_at(run, serving.read_time(str(time)))
        )
        names = {items[i] for i in offered}
        found = lists(read(path))
        for user, rows in every.items():  # cold users' popularity lists too
            assert [row[1:] for row in found.get(user, [])] == [row[1:] for row in rows if row[1] in names]


def test_a_time_that_cannot_be_served_is_refused(ready):
    run = ready[0]
    with pytest.raises(ConfigError, match=r"--at=5: this run's data does not say when each item is available; give"):
        serving.offered_at(run, serving.read_time("5"))
    run = available(run, np.full(NUM_ITEMS, 10.0), np.full(NUM_ITEMS, np.inf))
    spans = r"windows start at 10.0 to 10.0 and end at an unknown time; give a"
    with pytest.raises(DataError, match=rf"--at=9.50: no item is available then; {spans} time between"):
        serving.offered_at(run, serving.read_time("9.50"))
    with pytest.raises(
        ConfigError, match=rf"--at=2024-05-01: a date, but this data's times are numbers; {spans} number"
    ):
        serving.offered_at(run, serving.read_time("2024-05-01"))


def test_a_time_of_dates_is_a_date_and_is_shown_as_one(ready, caplog):
    start, end = np.full(NUM_ITEMS, 1714521600.0), np.full(NUM_ITEMS, 1714564800.0)
    start[:3] = 1714521601
    run = available(ready[0], start, end, has_dates=True)
    spans = r"windows start at 2024-05-01 to 2024-05-01T00:00:01Z and end at 2024-05-01T12:00Z to 2024-05-01T12:00Z"
    with pytest.raises(
        ConfigError, match=rf"--at=20240501: a number, but this data's times are dates; {spans}; give a da"
    ):
        serving.offered_at(run, serving.read_time("20240501"))
    with pytest.raises(DataError, match=rf"--at=2024-05-02T01: no item is available then; {spans}; give a time"):
        serving.offered_at(run, serving.read_time("2024-05-02T01"))
    with caplog.at_level("INFO"):
        assert serving.offered_at(run, serving.read_time("2024-05-01T02:00+02:00")).sum() == NUM_ITEMS - 3
    assert f"--at=2024-05-01T02:00+02:00 (2024-05-01): {NUM_ITEMS - 3} of {NUM_ITEMS} items available" in caplog.text


def test_times_are_numbers_or_dates_as_sources_take_them():
    for text, time, is_date in (
        ("12.5", 12.5, False),
        ("20240501", 20240501, False),
        ("2024-05-01", 1714521600, True),
        ("2024-05-01T02:00:00+02:00", 1714521600, True),
        (" 2024-05-01 00:00:01Z", 1714521601, True),
    ):
        assert serving.read_time(text) == serving.Moment(text, time, is_date)
    for text in ("soon", "nan", "-1", "inf", "1_000", "2024-13-01", "2024-W18-3", "2024-05", "1969-01-01"):
        with pytest.raises(ConfigError, match=f"--at={text}: "):
            serving.read_time(text)
