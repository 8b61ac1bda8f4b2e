import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from absl import flags
from ml_collections import config_flags

from lsec_jax.config import SplitConfig
from lsec_jax.data import audits, splits
from lsec_jax.data.sources.interactions import AvailabilitySpec, Config, RelationSpec
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError

BUY = "user,item,when,price\nu2,7,30,1.5\nu1,8,20,2\nu2,7,10,4\nu1,9,5,1\n"
SELL = "shop\titem\n1\t7\n1\t10\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "buy.csv").write_text(BUY)
    (tmp_path / "sell.tsv").write_text(SELL)
    return tmp_path


def buy_spec(**changes) -> RelationSpec:
    columns = {"source_column": "user", "target_column": "item", "time_column": "when", "weight_column": "price"}
    return RelationSpec(**({"name": "buy", "source": "user", "target": "item", "path": "buy.csv"} | columns | changes))


def sell_spec(**changes) -> RelationSpec:
    columns = {"source_column": "shop", "target_column": "item"}
    return RelationSpec(
        **({"name": "sell", "source": "shop", "target": "item", "path": "sell.tsv"} | columns | changes)
    )


def load(folder: Path, *specs: RelationSpec):
    return Config(path=str(folder), relations=specs).load()


def rows(data, name):
    """A relation's rows in the source's own ids."""
    relation = data.relations[name]
    left, right = data.nodes[relation.source].ids, data.nodes[relation.target].ids
    return list(zip(left[relation.source_ids].tolist(), right[relation.target_ids].tolist(), strict=True))


def test_relations_share_node_tables_and_keep_the_users_own_ids(folder):
    data = load(folder, buy_spec(), sell_spec())
    assert data.nodes["user"].ids.tolist() == ["u1", "u2"]
    assert data.nodes["item"].ids.tolist() == [7, 8, 9, 10]
    assert rows(data, "sell") == [(1, 7), (1, 10)]
    assert data.relations["sell"].time is None and data.relations["sell"].weight is None
    assert data.relations["buy"].split is None


def test_a_duplicate_pair_keeps_its_earliest_row_and_is_counted(folder):
    data = load(folder, buy_spec())
    assert rows(data, "buy") == [("u1", 8), ("u2", 7), ("u1", 9)]
    assert data.relations["buy"].time.tolist() == [20, 10, 5]
    assert data.relations["buy"].weight.tolist() == [2, 4, 1]
    assert data.counts == {"buy: duplicate rows dropped": 1}


def test_line_breaks_in_quoted_values_are_counted(folder):
    (folder / "buy.csv").write_text('user,item,when,price,title\nu1,7,1,1,"a\nb\nc"\nu2,8,1,1,"d"\n')
    data = load(folder, buy_spec())
    assert rows(data, "buy") == [("u1", 7), ("u2", 8)]
    assert data.counts == {"buy: line breaks inside quoted values": 2}


def test_another_delimiter_is_set_at_the_key_of_its_relation(folder):
    (folder / "sell.tsv").write_text("shop;item\n1;7\n")
    with pytest.raises(DataError, match=r"set the delimiter \(--config.data.relations\[1\].delimiter=';'\)"):
        load(folder, buy_spec(), sell_spec())


def test_without_times_the_first_row_is_kept(folder):
    data = load(folder, buy_spec(time_column=None))
    assert rows(data, "buy") == [("u2", 7), ("u1", 8), ("u1", 9)]
    assert data.relations["buy"].weight.tolist() == [1.5, 2, 1]


def test_row_order_does_not_change_node_tables(folder):
    shuffled = BUY.splitlines()
    (folder / "other.csv").write_text("\n".join([shuffled[0], *reversed(shuffled[1:])]) + "\n")
    left, right = (load(folder, buy_spec(path=path)) for path in ("buy.csv", "other.csv"))
    assert left.nodes["user"].ids.tolist() == right.nodes["user"].ids.tolist()
    assert set(rows(left, "buy")) == set(rows(right, "buy"))


def test_ids_are_text_for_all_relations_if_they_are_text_in_one(folder):
    (folder / "sell.tsv").write_text("shop\titem\n1\t7\n1\tx\n")
    data = load(folder, buy_spec(), sell_spec())
    assert data.nodes["item"].ids.tolist() == ["7", "8", "9", "x"]
    assert rows(data, "sell") == [(1, "7"), (1, "x")]


def test_parquet_with_dates_loads_like_csv_with_seconds(folder):
    stamps = pa.array([30, 20, 10, 5], pa.timestamp("s"))
    table = {"user": ["u2", "u1", "u2", "u1"], "item": [7, 8, 7, 9], "when": stamps, "price": [1.5, 2.0, 4.0, 1.0]}
    pq.write_table(pa.table(table), folder / "buy.parquet")
    left, right = (load(folder, buy_spec(path=path)).relations["buy"] for path in ("buy.csv", "buy.parquet"))
    for field in ("source_ids", "target_ids", "time", "weight"):
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field), strict=True)


def test_given_files_become_split_codes_and_cold_ids_are_counted(folder):
    (folder / "tune.csv").write_text("user,item,when,price\nu2,8,40,1\nu1,8,41,1\n")
    (folder / "test.csv").write_text("user,item,when,price\nu9,11,1,1\nu2,8,2,1\nu1,12,3,1\nu1,12,3,1\n")
    data = load(folder, buy_spec(validation_path="tune.csv", test_path="test.csv"), sell_spec())
    split = data.relations["buy"].split
    assert dict(zip(rows(data, "buy"), split.tolist(), strict=True)) == {
        ("u1", 8): TRAIN,
        ("u2", 7): TRAIN,
        ("u1", 9): TRAIN,
        ("u2", 8): VALIDATION,
        ("u9", 11): TEST,
        ("u1", 12): TEST,
    }
    assert data.counts == {
        "buy: duplicate rows dropped": 2,
        "buy: validation pairs that are in an earlier split, dropped": 1,
        "buy: test pairs that are in an earlier split, dropped": 1,
        "user: ids only in validation or test files": 1,
        "item: ids only in validation or test files": 2,
    }
    assert data.nodes["user"].ids.tolist() == ["u1", "u2", "u9"]


def test_one_key_of_one_relation_can_be_overridden_on_the_command_line(folder):
    @dataclasses.dataclass
    class Run:
        data: Config

    values = flags.FlagValues()
    run = Run(Config(path="nowhere", relations=(buy_spec(path="wrong.csv"), sell_spec())))
    command = ["x", f"--config.data.path={folder}", "--config.data.relations[0].path=buy.csv"]
    holder = config_flags.DEFINE_config_dataclass("config", run, flag_values=values, sys_argv=command)
    values(command)
    assert holder.value.data.relations[0].path == "buy.csv"
    assert len(holder.value.data.load().relations) == 2


BAD_FILES = {
    "empty id": ("user,item,when,price\nu1,7,1,1\n,8,1,1\n", r"line 3, column 'user': empty value where an id"),
    "negative id": ("user,item,when,price\nu1,-7,1,1\n", r"line 2, column 'item': negative id -7"),
    "negative id among text": ("user,item,when,price\n-5,7,1,1\nann,7,1,1\n", r"line 2, column 'user': negative id -5"),
    "line break in an id": (
        'user,item,when,price\nu1,7,1,1\n"u\n2",7,1,1\n',
        r"record 3, column 'user': id 'u\\n2' has a control character .*; rename it, and check the file's quotes",
    ),
    "negative time": ("user,item,when,price\nu1,7,-1,1\n", r"line 2, column 'when': negative time -1"),
    "bad weight": ("user,item,when,price\nu1,7,1,1\nu1,8,1,nan\n", r"line 3, column 'price': value nan"),
    "zero weight": ("user,item,when,price\nu1,7,1,1\nu1,8,1,0\n", r"line 3, column 'price': weight 0.* finite and > 0"),
    "negative weight": ("user,item,when,price\nu1,7,1,-2\n", r"line 2, column 'price': weight -2.*; correct or drop"),
    "malformed row": ("user,item,when,price\nu1,7,1\n", r"line 2: malformed row: 3 fields, expected 4"),
    "cut file": ("user,item,when,price\nu1,7,1,1\nu1,8", r"line 3: .*last line may be cut"),
    "empty relation": ("user,item,when,price\n", r"empty table"),
    "wrong column": (
        "user,itm,when,price\nu1,7,1,1\n",
        r"no column 'item' \(did you mean 'itm'\?\); it has: user, itm",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_input_is_refused_with_its_place(folder, case):
    text, message = BAD_FILES[case]
    (folder / "buy.csv").write_text(text)
    with pytest.raises(DataError, match="buy.csv.*" + message):
        load(folder, buy_spec())


def test_a_bad_config_is_refused_with_the_key(folder):
    cases = [
        ((), r"data.relations is empty; give a RelationSpec"),
        ((buy_spec(source_column=""),), r"data.relations\[0\].source_column is empty; give it"),
        ((buy_spec(name="../buy"),), r"data.relations\[0\].name = '../buy': names are letters, digits.*rename it"),
        ((buy_spec(), sell_spec(source="/tmp/x")), r"data.relations\[1\].source = '/tmp/x': names are letters"),
        ((buy_spec(target="-rf"),), r"data.relations\[0\].target = '-rf': names are letters"),
        (
            (buy_spec(target_column="user"),),
            r"data.relations\[0\].target_column = 'user' is source_column too; name the column of the item ids",
        ),
        ((buy_spec(), buy_spec()), r"the name 'buy' is used twice"),
        (
            (buy_spec(column_names=("a", "item")),),
            r"relations\[0\].source_column: 'user' is not among column_names \(a, item\)",
        ),
        ((buy_spec(path="bay.csv"),), r"bay.csv: missing file \(did you mean 'buy.csv'\?\)"),
        ((buy_spec(delimiter="||"),), r"data.relations\[0\].delimiter = '\|\|': must be one ASCII character"),
        ((buy_spec(), sell_spec(delimiter="\\t")), r"data.relations\[1\].delimiter = .*for a tab .*\$'\\t'"),
        ((buy_spec(delimiter="é"),), r"data.relations\[0\].delimiter = 'é': must be one ASCII character"),
        ((buy_spec(delimiter="\n"),), r"data.relations\[0\].delimiter = '\\n': must be one ASCII character"),
        ((buy_spec(format="orc"),), r"unknown format 'orc'; valid: text, parquet"),
    ]
    for specs, message in cases:
        with pytest.raises(DataError, match=message):
            load(folder, *specs)


def test_relations_must_share_one_unit_of_time(folder):
    (folder / "sell.csv").write_text("shop,item,at\n1,7,2021-01-01\n")
    with pytest.raises(
        DataError,
        match=r"'sell' has dates in column 'at' of .*/sell.csv, relation 'buy' has numbers in column 'when' of",
    ):
        load(folder, buy_spec(), sell_spec(path="sell.csv", time_column="at"))


def youshu(folder: Path) -> Config:
    specs = []
    for name, source, target, file in (
        ("follow", "user", "bundle", "user_bundle_train.txt"),
        ("buy", "user", "item", "user_item.txt"),
        ("sell", "bundle", "item", "bundle_item.txt"),
    ):
        specs.append(RelationSpec(name, source, target, file, source, target, column_names=(source, target)))
    specs[0].validation_path, specs[0].test_path = "user_bundle_tune.txt", "user_bundle_test.txt"
    return Config(path=str(folder / "youshu"), relations=tuple(specs))


def test_youshu_has_its_published_sizes(data_dir):
    data = youshu(data_dir).load()
    assert np.bincount(data.relations["follow"].split).tolist() == [34416, 5189, 9746]
    assert (len(data.relations["buy"]), len(data.relations["sell"])) == (138515, 176667)
    assert (len(data.nodes["bundle"]), len(data.nodes["item"])) == (4771, 32770)
    split = splits.assign_splits(data, SplitConfig(), ("follow",))
    assert split.counts["follow: test bundle nodes without training edges in it"] == 412
    assert len(np.unique(data.relations["follow"].edges(TEST)[0])) == 2959
    audits.audit_splits(split)


def test_twitch_follow_has_its_published_sizes(data_dir):
    follow = RelationSpec("follow", "user", "streamer", "user_streamer_follow_train.tsv", "user", "streamer")
    play = RelationSpec("play", "streamer", "game", "streamer_game_airtime.tsv", "streamer", "game")
    play.weight_column = "pct_airtime"
    data = load(data_dir / "twitch_follow", follow, play)
    assert {name: len(table) for name, table in data.nodes.items()} == {"user": 10985, "streamer": 1904, "game": 50}
    assert (len(data.relations["follow"]), len(data.relations["play"])) == (222131, 9414)
    assert data.name == "twitch_follow" and data.counts == {}


def load_available(folder, text, *specs, buy=None, **changes):
    (folder / "items.csv").write_text(text)
    spec = AvailabilitySpec(**({"node": "item", "path": "items.csv"} | changes))
    return Config(path=str(folder), relations=(buy or buy_spec(), sell_spec()), availability=(spec, *specs)).load()


def test_windows_are_read_and_what_is_not_known_is_open(folder):
    data = load_available(folder, "id,start,end\n9,,15\n7,12.5,40\n8,20,\n99,1,2\n")
    windows = data.availability["item"]
    assert data.nodes["item"].ids.tolist() == [7, 8, 9, 10]
    assert windows.start.tolist() == [12.5, 20, -np.inf, -np.inf]
    assert windows.end.tolist() == [40, np.inf, 15, np.inf]
    assert data.counts["item: windows of ids that are in no relation, dropped"] == 1
    assert data.counts["item: nodes without a window, always available"] == 1
    split = splits.assign_splits(data, SplitConfig(method="time", fractions=(0.4, 0.3, 0.3)), ("buy",))
    # Item 7 is bought at 10, before it is there.
    assert split.counts["buy: edges while the item is not available"] == 1
    split = splits.assign_splits(data, SplitConfig(method="random", fractions=(0.4, 0.3, 0.3)), ("buy",))
    assert split.counts["item: windows not used in evaluation, the split is not by time"] == 3


def test_windows_may_be_dates_like_the_times(folder):
    (folder / "buy.csv").write_text("user,item,when,price\nu2,7,2024-05-01,1\nu1,8,2024-05-02T10:00:00,1\n")
    windows = load_available(folder, "id,start,end\n7,,2024-05-01T00:00:01\n8,2024-05-02,\n").availability["item"]
    assert windows.end[0] == 1714521601 and windows.start[1] == 1714608000


def test_the_data_says_whether_its_times_are_dates(folder):
    assert not load(folder, buy_spec()).has_dates and not load(folder, sell_spec()).has_dates
    (folder / "buy.csv").write_text("user,item,when,price\nu2,7,2024-05-01,1\n")
    assert load(folder, buy_spec(), sell_spec()).has_dates


def test_a_file_without_any_start_leaves_all_starts_open(folder):
    windows = load_available(folder, "id,start,end\n7,,4\n8,,5\n").availability["item"]
    assert np.isneginf(windows.start).all() and windows.end.tolist() == [4, 5, np.inf, np.inf]


def test_windows_are_read_from_parquet_with_nulls(folder):
    table = {"sku": [7, 8], "from": [12.5, None], "until": [None, 30.0]}
    pq.write_table(pa.table(table), folder / "items.parquet")
    changes = {"path": "items.parquet", "id_column": "sku", "start_column": "from", "end_column": "until"}
    windows = load_available(folder, "", **changes).availability["item"]
    assert windows.start.tolist()[:2] == [12.5, -np.inf] and windows.end.tolist()[:2] == [np.inf, 30]


BAD_WINDOWS = {
    "backwards": ("id,start,end\n7,1,2\n8,9,5\n", r"items.csv, line 3, column 'end': the start 9 is not before 5; win"),
    "empty": ("id,start,end\n7,5,5\n", r"line 2, column 'end': the start 5 and the end 5 are one time"),
    "too fine": (
        "id,start,end\n7,1700000000000000001,1700000000000000002\n",
        r"the start 1700000000000000001 and the end 1700000000000000002 are one time, in double precision; windows",
    ),
    "other ids": (
        "id,start,end\nA7,1,2\nA8,1,2\n",
        r"items.csv, line 2, column 'id': no id of the file, such as A7, is of type item in the other files, such as 7",
    ),
    "another delimiter": (
        "id;start;end\n7;1;2\n",
        r"no column 'id'; if ';' separates .*set the delimiter \(--config.data.availability\[0\].delimiter=';'\)",
    ),
    "word": ("id,start,end\n7,,5\n8,soon,\n", r"line 3, column 'start': 'soon' is not a number, and dates must all be"),
    "nan": ("id,start,end\n7,nan,5\n", r"line 2, column 'start': value nan; expected a finite number"),
    "negative": ("id,start,end\n7,-1,5\n", r"line 2, column 'start': negative time -1; times must be >= 0"),
    "twice": ("id,start,end\n7,1,5\n7,6,9\n", r"line 3, column 'id': id 7 occurs twice"),
    "dates": ("id,start,end\n7,2024-05-01,\n", r"column 'start': dates, but the other times are numbers; use one"),
    "no column": ("id,start\n7,1\n", r"items.csv: no column 'end'"),
}


@pytest.mark.parametrize("case", BAD_WINDOWS)
def test_bad_windows_are_refused_with_file_line_and_column(folder, case):
    text, message = BAD_WINDOWS[case]
    with pytest.raises(DataError, match=message):
        load_available(folder, text)


def test_windows_that_fit_no_relation_are_refused_with_their_key(folder):
    good = "id,start,end\n7,1,2\n"
    message = r"config key data.availability\[0\].node = '{}' is the target of no relation, .*; choose one of: item$"
    for node in ("room", "user", ""):
        with pytest.raises(DataError, match=message.format(node)):
            load_available(folder, good, node=node)
    with pytest.raises(DataError, match=r"data.availability\[1\].node = 'item' is given twice"):
        load_available(folder, good, AvailabilitySpec("item", "items.csv"))
    for changes, problem in (
        ({"path": ""}, r"path is empty; give it"),
        ({"id_column": ""}, r"id_column is empty; give it"),
        ({"start_column": "id"}, r"start_column = 'id' is id_column too; name the column of the starts"),
        ({"end_column": "start"}, r"end_column = 'start' is start_column too; name the column of the ends"),
        ({"delimiter": ";;"}, r"delimiter = ';;': must be one ASCII character"),
        ({"column_names": ("id", "start")}, r"end_column: 'end' is not among column_names \(id, start\)"),
    ):
        with pytest.raises(DataError, match=r"config key data.availability\[0\]." + problem):
            load_available(folder, good, **changes)
    with pytest.raises(DataError, match=r"data.availability: no relation has times to compare the windows with"):
        load_available(folder, good, buy=buy_spec(time_column=None))
