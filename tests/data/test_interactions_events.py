"""Events and features of interaction files: in blocks and sorted through a database, as a slow reading finds them."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsec_jax.data import columns, event_log, event_statistics, store, tables
from lsec_jax.data.columns import Workspace
from lsec_jax.data.sources.interactions import (
    AvailabilitySpec,
    ColumnSpec,
    Config,
    EventSpec,
    NodeSpec,
    RelationSpec,
    RoleSpec,
)
from lsec_jax.data.table import Table
from lsec_jax.schema import DataError

SHOWN = """\
user,room,item,when,request,watched,stay,scene,age,price
ann,7,3,5,r2,1,2.5,feed,18-24,1.5
bob,9,,1,r1,0,,search,5000+,
ann,7,4,5,r2,0,,,,nan
käthe,7,3,2,r1,1,4,feed,0-17,2
"""
COLUMNS = (
    ColumnSpec("watched", kind="label"),
    ColumnSpec("stay_seconds", "stay", "measure"),
    ColumnSpec("scene"),
    ColumnSpec("age", kind="ordinal"),
    ColumnSpec("price", kind="numeric"),
)


def spec(**changes):
    roles = (RoleSpec("user"), RoleSpec("room"), RoleSpec("product", "item", "item", is_optional=True))
    values = dict(
        name="impression", path="shown.csv", roles=roles, time_column="when", group_column="request", columns=COLUMNS
    )
    return EventSpec(**{**values, **changes})


def config(folder, *events, **changes):
    return Config(str(folder), events=events or (spec(),), name="shop", **changes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shown.csv").write_text(SHOWN)
    return tmp_path


def test_events_are_sorted_by_time_and_keep_the_files_order_at_equal_times(folder):
    data = config(folder).load()
    data.validate()
    shown = data.events["impression"]
    assert data.nodes["user"].ids.tolist() == ["ann", "bob", "käthe"]
    assert data.nodes["room"].ids.tolist() == [7, 9] and data.nodes["item"].ids.tolist() == [3, 4]
    assert shown.time.tolist() == [1, 2, 5, 5]
    assert shown.ids("user").tolist() == [1, 2, 0, 0] and shown.ids("room").tolist() == [1, 0, 0, 0]
    assert shown.ids("product").tolist() == [-1, 0, 0, 1] and shown.nodes["product"].node_type == "item"
    assert shown.value("watched").tolist() == [False, True, True, False]
    np.testing.assert_array_equal(shown.value("stay_seconds"), np.array([np.nan, 4, 2.5, np.nan], np.float32))
    assert shown.group.tolist() == [0, 0, 1, 1]
    scene, age = shown.features["scene"], shown.features["age"]
    assert scene.vocabulary == ("feed", "search") and scene.values.tolist() == [1, 0, 0, -1]
    assert age.vocabulary == ("0-17", "18-24", "5000+") and age.values.tolist() == [2, 0, 1, -1]
    np.testing.assert_array_equal(shown.features["price"].values, np.array([np.nan, 2, 1.5, np.nan], np.float32))


def same(one, other):
    assert one.fingerprint() == other.fingerprint()
    for name in one.events["impression"].features:
        assert (
            one.events["impression"].features[name].vocabulary == other.events["impression"].features[name].vocabulary
        )


def test_many_small_blocks_many_files_and_parquet_give_the_same_events(folder, monkeypatch):
    whole = config(folder).load()
    lines = SHOWN.splitlines(keepends=True)
    (folder / "part-0.csv").write_text("".join(lines[:3]))
    with gzip.open(folder / "part-1.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write(lines[0] + "".join(lines[3:]))
    same(whole, config(folder, spec(path="part-*")).load())
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 50)
    monkeypatch.setattr(tables, "BLOCK_ROWS", 2)
    same(whole, config(folder).load())
    rows = [line.rstrip("\n").split(",") for line in lines]
    table = {name: [row[i] or None for row in rows[1:]] for i, name in enumerate(rows[0])}
    table["room"] = [int(room) for room in table["room"]]
    table["item"] = [item and int(item) for item in table["item"]]
    table["when"] = [float(when) for when in table["when"]]
    table["stay"] = [stay and float(stay) for stay in table["stay"]]
    pq.write_table(pa.table(table), folder / "shown.parquet")
    same(whole, config(folder, spec(path="shown.parquet")).load())


def test_a_database_on_disk_with_little_memory_gives_the_same_columns(folder, monkeypatch):
    rng = np.random.default_rng(0)
    n = 200_000
    table = {
        "user": rng.integers(0, 5_000, n),
        "room": rng.integers(0, 900, n),
        "item": rng.integers(0, 9, n),
        "when": rng.random(n),
        "request": rng.integers(0, n // 10, n),
        "watched": rng.random(n) < 0.3,
    }
    pq.write_table(pa.table(table), folder / "shown.parquet")
    columns = (ColumnSpec("watched", kind="label"),)
    many = config(folder, spec(path="shown.parquet", columns=columns))
    whole = many.load()
    (folder / "scratch").mkdir()
    monkeypatch.setattr(tables, "BLOCK_ROWS", 30_000)
    monkeypatch.setattr(event_log, "BLOCK_ROWS", 4_000)
    shares = []
    limited = Workspace(
        scratch=folder / "scratch", memory_bytes=2**26, on_progress=lambda what, share: shares.append((what, share))
    )
    same(whole, many.load_into(limited))
    order = np.argsort(table["when"], kind="stable")
    shown = whole.events["impression"]
    np.testing.assert_array_equal(whole.nodes["user"].ids[shown.ids("user")], table["user"][order])
    np.testing.assert_array_equal(shown.group, table["request"][order])
    for what in ("reading", "sorting"):
        assert sum(share for name, share in shares if name == what) == pytest.approx(1)


def test_ids_that_are_integers_at_first_and_text_later_are_text(folder, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 40)
    (folder / "shown.csv").write_text("user,when\n" + "".join(f"{i},{i}\n" for i in range(30)) + "x,40\n007,41\n")
    data = config(folder, EventSpec("view", "shown.csv", (RoleSpec("user"),), "when")).load()
    ids = data.nodes["user"].ids
    assert ids.dtype.kind == "U" and ids[data.events["view"].ids("user")].tolist() == [*map(str, range(30)), "x", "007"]


def test_relations_and_events_share_their_nodes(folder):
    (folder / "buy.csv").write_text("user,item,when\nann,3,9\nzoe,88,3\n")
    buy = RelationSpec("buy", "user", "item", "buy.csv", "user", "item", "when")
    data = config(folder, relations=(buy,)).load()
    assert data.nodes["user"].ids.tolist() == ["ann", "bob", "käthe", "zoe"]
    assert data.nodes["item"].ids.tolist() == [3, 4, 88]
    assert data.relations["buy"].target_ids.tolist() == [0, 2]


WRONG = """\
user,room,item,when,request,watched,stay,scene,age,price
ann,7,3,never,r2,1,2.5,feed,18-24,1.5
,9,,1,r1,2,,search,5000+,
ann,7,4,5,r2,0,,,,nan
bob,7,4,-5,r2,0,inf,,young,1e300
"""


def test_everything_that_is_wrong_is_said_at_once_with_file_line_and_column(folder, monkeypatch):
    (folder / "shown.csv").write_text(WRONG)
    for block_bytes in (2**20, 60):
        monkeypatch.setattr(tables, "_BLOCK_BYTES", block_bytes)
        with pytest.raises(DataError) as error:
            config(folder).load()
        text = str(error.value)
        for place in (
            "line 2, column 'when': 'never' is not a number",
            "line 3, column 'user': empty value where an id is expected",
            "line 3, column 'watched': label 2; labels must be 0 or 1",
            "line 5, column 'stay': value inf; expected a finite number",
            "line 5, column 'age': 'young' is not a range",
            "line 5, column 'price': value 1e+300 is too large for single precision",
        ):
            assert place in text
        assert "(1 more rows of this column)" in text  # the negative time


def test_quarantine_leaves_wrong_rows_out_and_counts_them(folder):
    (folder / "shown.csv").write_text(WRONG)
    data = config(folder).load_into(Workspace(is_quarantining=True))
    assert data.events["impression"].time.tolist() == [5] and data.nodes["user"].ids.tolist() == ["ann"]
    place = f"{folder / 'shown.csv'}: rows quarantined, column"
    counts = {name: data.counts[f"{place} '{name}'"] for name in ("when", "user", "watched", "stay", "age", "price")}
    assert counts == {"when": 2, "user": 1, "watched": 1, "stay": 1, "age": 1, "price": 1}


def test_a_column_that_is_wrong_throughout_is_refused_at_once_even_in_quarantine(folder):
    (folder / "shown.csv").write_text("user,when\n" + "ann,soon\n" * 1_002)
    only = EventSpec("view", "shown.csv", (RoleSpec("user"),), "when")
    with pytest.raises(DataError, match="and so are more than 1000 rows; check that it is the right column"):
        config(folder, only).load_into(Workspace(is_quarantining=True))
    (folder / "shown.csv").write_text("user,when\nann,soon\n")
    with pytest.raises(DataError, match=r"events 'view': no row of shown.csv can be used"):
        config(folder, only).load_into(Workspace(is_quarantining=True))


def test_dates_among_numbers_and_in_other_files_are_refused(folder):
    (folder / "shown.csv").write_text("user,when\nann,2024-05-01\nbob,2024-05-02T01:00:00\n")
    only = EventSpec("view", "shown.csv", (RoleSpec("user"),), "when")
    data = config(folder, only).load()
    assert data.has_dates and data.events["view"].time.tolist() == [1714521600, 1714611600]
    (folder / "buy.csv").write_text("user,item,when\nann,3,9\n")
    buy = RelationSpec("buy", "user", "item", "buy.csv", "user", "item", "when")
    with pytest.raises(
        DataError, match=r"events 'view' have dates in column 'when' of .*/shown.csv, relation 'buy' has num"
    ):
        config(folder, only, relations=(buy,)).load()


def test_dates_in_one_file_and_numbers_in_another_of_one_table_are_refused(folder, monkeypatch):
    for name, text in (("a", "ann,2024-05-01\n"), ("b", "bob,7\n")):
        (folder / name).mkdir()
        (folder / name / "shown.csv").write_text("user,when\n" + text)
    only = EventSpec("view", "*/shown.csv", (RoleSpec("user"),), "when")
    for workspace in (Workspace(), Workspace(is_quarantining=True)):
        with pytest.raises(
            DataError, match=r"have dates in column 'when' of .*/a/shown.csv, .* numbers .*/b/shown.csv"
        ):
            config(folder, only).load_into(workspace)


@pytest.mark.parametrize("block_bytes", [2**20, 12])
def test_numbers_among_a_files_dates_and_dates_among_numbers_are_wrong_rows(folder, monkeypatch, block_bytes):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", block_bytes)
    only = EventSpec("view", "shown.csv", (RoleSpec("user"),), "when")
    for good, bad in (("2024-05-01", "7"), ("7", "2024-05-01")):
        (folder / "shown.csv").write_text("user,when\n" + f"ann,{good}\n" * 3 + f"bob,{bad}\n" * 2)
        with pytest.raises(DataError, match=rf"line 5, column 'when': '{bad}' is not .*\(1 more rows"):
            config(folder, only).load()
        data = config(folder, only).load_into(Workspace(is_quarantining=True))
        assert len(data.events["view"]) == 3 and data.nodes["user"].ids.tolist() == ["ann"]


def test_a_star_matches_packed_files_and_no_other_character_is_special(folder):
    (folder / "[old]?").mkdir()
    for day in (1, 2):
        text = f"user,when\nann,{day}\n"
        (folder / "[old]?" / f"e{day}.csv").write_text(text)
    (folder / "[old]?" / "e2.csv").unlink()
    with gzip.open(folder / "[old]?" / "e2.csv.gz", "wt") as stream:
        stream.write(text)
    for path in ("e*.csv", "e*.csv.gz", "e*"):
        only = EventSpec("view", f"[old]?/{path}", (RoleSpec("user"),), "when")
        assert config(folder, only).load().events["view"].time.tolist() == [1, 2]
        assert config(folder / "[old]?", EventSpec("view", path, (RoleSpec("user"),), "when")).load().events
    (folder / "[old]?" / "e2.csv").write_text(text)
    with pytest.raises(DataError, match=r"data.events\[0\].path = .*e2.csv is there packed \(.gz\), too; remove one"):
        config(folder, only).load()


def everything_wrong(folder):
    """Files of every kind with wrong rows, and their config."""
    (folder / "shown.csv").write_text(SHOWN + "eve,7,3,never,r2,1,2.5,feed,18-24,1.5\n")
    (folder / "buy.csv").write_text("user,item,when\nann,3,9\nzoe,,3\nzoe,88,-3\n")
    (folder / "users.csv").write_text("id,age,score\nann,18-24,1\nbob,young,1e300\nzoe,,?\n")
    (folder / "rooms.csv").write_text("id,start,end\n7,1,9\n9,5,3\n8,x,\n")
    buy = RelationSpec("buy", "user", "item", "buy.csv", "user", "item", "when")
    columns = (ColumnSpec("age", kind="ordinal"), ColumnSpec("score", kind="numeric"))
    nodes = NodeSpec("user", "users.csv", columns=columns, missing=("?",))
    return config(folder, relations=(buy,), nodes=(nodes,), availability=(AvailabilitySpec("room", "rooms.csv"),))


WRONG_PLACES = (
    "buy.csv, line 3, column 'item': empty value",
    "buy.csv, line 4, column 'when': negative time -3",
    "shown.csv, line 6, column 'when': 'never' is not a number",
    "users.csv, line 3, column 'age': 'young' is not a range",
    "add it to the config key data.nodes[0].missing",
    "users.csv, line 3, column 'score': value 1e+300 is too large for single precision",
    "rooms.csv, line 3, column 'end': the start 5 is not before 3",
    "rooms.csv, line 4, column 'start': 'x' is not a number",
)


def test_wrong_rows_of_all_kinds_of_files_are_said_together(folder):
    with pytest.raises(DataError) as error:
        everything_wrong(folder).load()
    for place in WRONG_PLACES:
        assert place in str(error.value)


def test_wrong_rows_of_all_kinds_of_files_are_left_out_in_quarantine(folder):
    data = everything_wrong(folder).load_into(Workspace(is_quarantining=True))
    data.validate()
    assert len(data.relations["buy"]) == 1 and len(data.events["impression"]) == 4
    age = data.nodes["user"].features["age"]
    assert data.nodes["user"].ids.tolist() == ["ann", "bob", "käthe"] and age.values.tolist() == [0, -1, -1]
    assert data.availability["room"].start.tolist() == [1, -np.inf]
    for file, column in (("buy", "item"), ("users", "age"), ("rooms", "end"), ("rooms", "start"), ("shown", "when")):
        assert data.counts[f"{folder / file}.csv: rows quarantined, column '{column}'"] == 1


def test_a_line_that_cannot_be_split_is_said_with_the_wrong_rows_before_it(folder, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 20)
    (folder / "shown.csv").write_text("user,when\nann,soon\nann,1\nann,2\nbob,3\nbob,2,3\n")
    only = EventSpec("view", "shown.csv", (RoleSpec("user"),), "when")
    with pytest.raises(DataError, match=r"(?s)line 2, column 'when': 'soon'.*\n  .*line 6: malformed row: 3 fields"):
        config(folder, only).load()
    with pytest.raises(DataError, match="line 6: malformed row"):
        config(folder, only).load_into(Workspace(is_quarantining=True))


@pytest.mark.parametrize("kind", ["label", "measure", "numeric"])
def test_a_type_that_cannot_be_read_is_one_error_even_in_quarantine(folder, kind):
    table = {"user": ["ann"] * 3, "when": [1, 2, 3], "x": np.array(["2021-05-01"] * 3, "datetime64[s]")}
    pq.write_table(pa.table(table), folder / "shown.parquet")
    only = EventSpec("view", "shown.parquet", (RoleSpec("user"),), "when", columns=(ColumnSpec("x", kind=kind),))
    with pytest.raises(DataError, match=r"^\S*shown.parquet, column 'x': type timestamp"):
        config(folder, only).load_into(Workspace(is_quarantining=True))


def test_finding_a_wrong_value_reads_its_own_column_only(folder, monkeypatch):
    (folder / "shown.csv").write_text(WRONG)
    taken = []
    take = Table.take
    monkeypatch.setattr(Table, "take", lambda table, rows: taken.append(len(table.columns)) or take(table, rows))
    with pytest.raises(DataError):
        config(folder).load()
    assert taken.count(1) == len(taken) - 1  # the last gives the good rows of all columns


def test_line_breaks_in_quotes_are_refused_where_files_are_read_in_blocks(folder):
    (folder / "shown.csv").write_text('user,when\n"an\nn",1\n')
    with pytest.raises(DataError, match="quoted values with line breaks, which files that are read in blocks may not"):
        config(folder, EventSpec("view", "shown.csv", (RoleSpec("user"),), "when")).load()


def test_structural_faults_keep_their_line_numbers_in_later_blocks(folder, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 20)
    only = EventSpec("view", "shown.csv", (RoleSpec("user"),), "when")
    good = "user,when\n" + "ann,1\n" * 20
    for bad, message in (
        ("bob,2,3\n", "line 22: malformed row: 3 fields, expected 2"),
        ('"bob,2\n', "line 22: a quote begins a value and does not close at its end"),
        ("bob,2", "line 22: the file does not end in a newline"),
        ("b\rob,2\n", "line 22: a carriage return without a line feed"),
        ("bob,\n", "line 22, column 'when': empty value"),
    ):
        (folder / "shown.csv").write_text(good + bad, newline="")
        with pytest.raises(DataError, match=message):
            config(folder, only).load()
    (folder / "shown.csv").write_bytes(good.encode() + b"b\xffob,2\n")
    with pytest.raises(DataError, match="line 22: not UTF-8 text"):
        config(folder, only).load()
    packed = gzip.compress((good * 50).encode())
    (folder / "shown.csv.gz").write_bytes(packed[:-20])
    (folder / "shown.csv").unlink()
    with pytest.raises(DataError, match="truncated or damaged gzip file"):
        config(folder, only).load()


BAD_SPECS = {
    "no roles": ({"roles": ()}, r"data.events\[0\].roles is empty"),
    "a role twice": ({"roles": (RoleSpec("user"), RoleSpec("user"))}, "the role 'user' is used twice"),
    "a bad role": ({"roles": (RoleSpec("../x"),)}, r"roles\[0\].role = '../x'"),
    "a kind": ({"columns": (ColumnSpec("x", kind="date"),)}, r"columns\[0\].kind = 'date'; choose one of: label, mea"),
    "a taken name": ({"columns": (ColumnSpec("group"),)}, r"columns\[0\].name = 'group' is taken"),
    "a column that is not there": ({"columns": (ColumnSpec("sceen"),)}, r"no column 'sceen'.*did you mean 'scene'"),
    "no file": ({"path": "part-*.csv"}, r"data.events\[0\].path = 'part-\*.csv': no file matches"),
    "no time": ({"time_column": ""}, r"data.events\[0\].time_column is empty"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_specs_that_cannot_be_used_are_refused_with_their_key(folder, case):
    changes, message = BAD_SPECS[case]
    with pytest.raises(DataError, match=message):
        config(folder, spec(**changes)).load()


def test_nodes_get_typed_features_and_nodes_without_a_row_have_none(folder):
    (folder / "users.csv").write_text("id,age,city,since,score\nann,18-24,x,2024-01-02,2.5\nzoe,0-17,y,,\nbob,,?,,\n")
    kinds = ("ordinal", "categorical", "date", "numeric")
    columns = tuple(
        ColumnSpec(name, kind=kind) for name, kind in zip(("age", "city", "since", "score"), kinds, strict=True)
    )
    data = config(folder, nodes=(NodeSpec("user", "users.csv", columns=columns, missing=("?",)),)).load()
    data.validate()
    features = data.nodes["user"].features
    assert features["age"].vocabulary == ("0-17", "18-24") and features["age"].values.tolist() == [1, -1, -1]
    assert features["city"].vocabulary == ("x", "y") and features["city"].values.tolist() == [0, -1, -1]
    np.testing.assert_array_equal(features["since"].values, np.array([19724, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(features["score"].values, np.array([2.5, np.nan, np.nan], np.float32))
    assert data.counts["user: rows of features of ids that nothing else has, dropped"] == 1
    assert data.counts["user: nodes without a row of features"] == 1


def test_rooms_of_events_may_have_windows(folder):
    (folder / "rooms.csv").write_text("id,start,end\n7,1,9\n9,0,3\n")
    data = config(folder, availability=(AvailabilitySpec("room", "rooms.csv"),)).load()
    assert data.availability["room"].start.tolist() == [1, 0]


def test_names_that_differ_in_case_only_are_different_names(folder):
    roles = (RoleSpec("user"), RoleSpec("User", "user", "user"))
    columns = (ColumnSpec("Scene", "scene"), ColumnSpec("scene", "age"))
    events = [spec(name=name, roles=roles, columns=columns) for name in ("block", "Gift", "gift")]
    data = config(folder, *events).load()
    for name in ("block", "Gift", "gift"):
        assert data.events[name].features["Scene"].vocabulary == ("feed", "search")
        assert data.events[name].features["scene"].vocabulary == ("0-17", "18-24", "5000+")


def test_the_outline_has_the_tables_and_columns_that_reading_gives(folder):
    given = everything_wrong(folder)
    outline, data = given.outline(), given.load_into(Workspace(is_quarantining=True))
    one, other = store.description_of(outline), store.description_of(data)
    for of in (*one["nodes"].values(), *other["nodes"].values()):
        for feature in of.values():
            feature.pop("vocabulary")
    for of in (*one["events"].values(), *other["events"].values()):
        for feature in of["features"].values():
            feature.pop("vocabulary")
    for key in ("nodes", "relations", "events", "availability"):
        assert one[key] == other[key]


def test_splits_are_counted_in_blocks(monkeypatch):
    split = np.array([0, 2, 0, 1, 0], np.int8)
    monkeypatch.setattr(event_statistics, "blocks", lambda rows: columns.blocks(rows, 2))
    assert event_statistics.split_sizes(split) == [3, 1, 1]
