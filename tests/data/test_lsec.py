import dataclasses
import gzip
import json
import shutil

import numpy as np
import pytest

from lsec_jax.data.sources import lsec
from lsec_jax.schema import TEST, TRAIN, VALIDATION, Candidates, DataError, LiveCommerceData, NodeTable, Relation

FILES = {
    "train/user.tsv": "user\n0\n1\n2\n",
    "train/item.tsv": "item\n0\n1\n2\n3\n",
    "train/streamer.tsv": "streamer\n0\n1\n",
    "train/user-item-buy.tsv": "user\titem\n0\t1\n1\t2\n2\t3\n",
    "train/user-streamer-follow.tsv": "user\tstreamer\n0\t0\n1\t1\n",
    "train/streamer-item-sell.tsv": "streamer\titem\n0\t0\n1\t3\n",
    "val/user-item-buy.tsv": "user\titem\tlabel\n1\t0\t1\n1\t3\t0\n0\t2\t1\n0\t3\t0\n",
    "test/user-item-buy.tsv": "user\titem\tlabel\n2\t0\t1\n2\t1\t1\n2\t2\t0\n",
}
EDGES = ("user-item-buy.tsv", "user-streamer-follow.tsv", "streamer-item-sell.tsv")
METADATA = {
    "graph": {
        "node": [{"filename": f"{name}.tsv", "attribute": []} for name in ("item", "user", "streamer")],
        "edge": [{"filename": name, "weighted": False} for name in EDGES],
    },
    "task": [{"filename": EDGES[0], "type": "top-k-recommendation", "loss": "binary-cross-entropy", "weight": 1}],
}


@pytest.fixture
def folder(tmp_path):
    for name, text in (FILES | {"metadata.json": json.dumps(METADATA)}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def load(folder):
    return lsec.Config(path=str(folder)).load()


def test_training_edges_and_labelled_positives_become_edges_with_split_codes(folder):
    data = load(folder)
    buy = data.relations["buy"]
    rows = list(zip(buy.source_ids.tolist(), buy.target_ids.tolist(), buy.split.tolist(), strict=True))
    assert rows[:3] == [(0, 1, TRAIN), (1, 2, TRAIN), (2, 3, TRAIN)]
    assert rows[3:] == [(1, 0, VALIDATION), (0, 2, VALIDATION), (2, 0, TEST), (2, 1, TEST)]
    assert list(data.relations) == ["buy", "follow", "sell"]
    assert (data.relations["follow"].source, data.relations["follow"].target) == ("user", "streamer")
    assert (data.relations["sell"].split == TRAIN).all()
    assert data.counts == {}


def test_candidates_keep_the_order_of_the_file(folder):
    lists = load(folder).candidates["buy", VALIDATION]
    assert lists.source_ids.tolist() == [1, 0]
    assert lists.target_ids.tolist() == [[0, 3], [2, 3]]
    assert lists.labels.tolist() == [[True, False], [True, False]]
    assert lists.origin == "val/user-item-buy.tsv"


def test_scattered_rows_of_a_user_are_gathered(folder):
    text = "user\titem\tlabel\n1\t0\t1\n0\t2\t1\n1\t3\t0\n0\t3\t0\n"
    (folder / "val/user-item-buy.tsv").write_text(text)
    lists = load(folder).candidates["buy", VALIDATION]
    assert lists.source_ids.tolist() == [1, 0] and lists.target_ids.tolist() == [[0, 3], [2, 3]]


def test_duplicates_and_leaking_positives_are_counted_and_not_added(folder):
    (folder / "train/user-item-buy.tsv").write_text(FILES["train/user-item-buy.tsv"] + "0\t1\n")
    (folder / "val/user-item-buy.tsv").write_text("user\titem\tlabel\n0\t1\t1\n0\t2\t1\n1\t2\t0\n1\t3\t0\n")
    (folder / "test/user-item-buy.tsv").write_text("user\titem\tlabel\n0\t2\t1\n0\t3\t1\n0\t3\t1\n")
    data = load(folder)
    assert len(data.relations["buy"]) == 3 + 1 + 1
    assert data.counts == {
        "buy: duplicate rows dropped": 1,
        "buy: validation positives that are edges of an earlier split, not added": 1,
        "buy: test positives that are edges of an earlier split, not added": 1,
        "buy: validation candidates labelled 0 that are training edges": 1,
        "buy: validation candidates: user nodes without a positive": 1,
        "buy: test candidates listed twice": 1,
    }


@pytest.mark.parametrize("column", ["id", "user"])
def test_an_id_column_of_the_node_file_gives_the_external_ids(folder, column):
    (folder / "train/user.tsv").write_text(f"age\t{column}\n30\tann\n31\tbob\n30\teve\n")
    data = load(folder)
    assert data.nodes["user"].ids.tolist() == ["ann", "bob", "eve"]
    assert data.nodes["item"].ids.tolist() == [0, 1, 2, 3]


def test_without_an_id_column_the_row_number_is_the_external_id(folder):
    (folder / "train/user.tsv").write_text("age\n30\n30\n31\n")
    assert load(folder).nodes["user"].ids.tolist() == [0, 1, 2]


def test_quotes_in_titles_do_not_shift_row_numbers(folder):
    titles = ('"5 inch', "tape", '"6 inch', '"A" and "B"')
    (folder / "train/item.tsv").write_text(
        "item\ttitle\n" + "".join(f"{i + 10}\t{title}\n" for i, title in enumerate(titles))
    )
    assert load(folder).nodes["item"].ids.tolist() == [10, 11, 12, 13]
    (folder / "train/item.tsv").write_text("title\n" + "".join(f"{title}\n" for title in titles))
    assert load(folder).nodes["item"].ids.tolist() == [0, 1, 2, 3]


SHIFTED = {
    "line break": ("train/item.tsv", 'title\n"a\nb"\nc\nd\n', r"item.tsv, line 2: a value in quotes with a line break"),
    "blank line": (
        "train/item.tsv",
        "title\tprice\na\t1\n\nb\t2\nc\t3\n",
        r"item.tsv, line 3: a blank line; remove it",
    ),
    "blank line first": ("train/item.tsv", "\r\nitem\r\n0\r\n1\r\n2\r\n", r"item.tsv, line 1: a blank line; remove it"),
    "name of a node column": (
        "train/item.tsv",
        '"item"\n1\n2\n3\n4\n',
        r"item.tsv, line 1: the name \"item\" is in quotes",
    ),
    "id": ("train/item.tsv", 'item\n"a"\nb\nc\nd\n', r"item.tsv, line 2, column 'item': value '\"a\"' is in quotes"),
    "row number": (
        "train/user-item-buy.tsv",
        'user\titem\n0\t"1"\n',
        r"line 2, column 'item': value '\"1\"' is in quotes",
    ),
}


@pytest.mark.parametrize("case", SHIFTED)
def test_blank_lines_and_quoted_values_are_refused(folder, case):
    name, text, message = SHIFTED[case]
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load(folder)


def small_world() -> LiveCommerceData:
    """Three relations, one weighted, external ids of both kinds, two evaluated tasks."""
    rng = np.random.default_rng(0)
    users = NodeTable("user", np.array([f"u{i:02d} ü" for i in range(30)]))
    nodes = {"user": users, "item": NodeTable("item", np.arange(40) * 3), "room": NodeTable("room", np.arange(9))}
    relations, candidates = {}, {}
    for name, source, target in (("buy", "user", "item"), ("watch", "user", "room"), ("show", "room", "item")):
        size = len(nodes[source]) * len(nodes[target])
        keys = np.sort(rng.choice(size, size // 6, replace=False))
        source_ids, target_ids = (part.astype(np.int32) for part in np.divmod(keys, len(nodes[target])))
        split, extra = np.zeros(len(keys), np.int8), {"weight": rng.random(len(keys), np.float32)}
        relations[name] = Relation(name, source, target, source_ids, target_ids, split=split, **extra)
        if name == "show":
            continue
        relations[name] = dataclasses.replace(relations[name], weight=None)
        for code in (VALIDATION, TEST):
            listed = rng.permutation(np.setdiff1d(np.arange(size), keys))[:200]
            chosen = rng.permutation(len(nodes[source]))[:5].astype(np.int32)
            wanted = [listed[listed // len(nodes[target]) == source][:3] for source in chosen]
            wanted = [found for found in wanted if len(found) == 3]
            target_ids = np.stack(wanted).astype(np.int32) % len(nodes[target])
            source_ids = np.array([found[0] // len(nodes[target]) for found in wanted], np.int32)
            candidates[name, code] = Candidates(source_ids, target_ids, rng.random(target_ids.shape) < 0.4, "made up")
    return LiveCommerceData("world", nodes, relations, candidates)


def assert_equal(left: LiveCommerceData, right: LiveCommerceData) -> None:
    assert list(left.nodes) == list(right.nodes) and list(left.relations) == list(right.relations)
    for name, table in left.nodes.items():
        np.testing.assert_array_equal(table.ids, right.nodes[name].ids, strict=True)
    for name, relation in left.relations.items():
        for field in ("source", "target", "source_ids", "target_ids", "weight", "split"):
            np.testing.assert_array_equal(getattr(relation, field), getattr(right.relations[name], field), strict=True)
    assert list(left.candidates) == list(right.candidates)
    for key, lists in left.candidates.items():
        for field in ("source_ids", "target_ids", "labels"):
            np.testing.assert_array_equal(getattr(lists, field), getattr(right.candidates[key], field), strict=True)


def test_what_is_written_reads_back_equal(tmp_path):
    world = small_world()
    assert lsec.write(world, tmp_path / "once") == {}
    once = load(tmp_path / "once")
    assert once.nodes["user"].ids[0] == "u00 ü"
    np.testing.assert_array_equal(once.relations["show"].weight, world.relations["show"].weight)
    for key, lists in world.candidates.items():
        np.testing.assert_array_equal(once.candidates[key].target_ids, lists.target_ids)
    assert lsec.write(once, tmp_path / "twice", tasks={"buy": 0.5, "watch": 0.5}) == {}
    twice = load(tmp_path / "twice")
    assert_equal(once, twice)
    assert once.fingerprint() == twice.fingerprint()


def test_written_node_files_have_one_row_per_node_under_a_header(tmp_path):
    lsec.write(small_world(), tmp_path / "x")
    for name, size in (("user", 30), ("item", 40), ("room", 9)):
        lines = (tmp_path / f"x/train/{name}.tsv").read_text().splitlines()
        assert lines[0] == name and len(lines) == size + 1
    assert (tmp_path / "x/val/user-item-buy.tsv").read_text().startswith("user\titem\tlabel\n")
    metadata = json.loads((tmp_path / "x/metadata.json").read_text())
    assert [entry["filename"] for entry in metadata["graph"]["node"]] == ["user.tsv", "item.tsv", "room.tsv"]
    assert [entry["weighted"] for entry in metadata["graph"]["edge"]] == [False, False, True]
    assert metadata["task"][0] == METADATA["task"][0]


def test_writing_counts_what_the_format_cannot_hold(tmp_path, folder):
    data = load(folder)
    buy = dataclasses.replace(data.relations["buy"], time=np.arange(7.0))
    lists = data.candidates["buy", TEST]
    lists = dataclasses.replace(lists, labels=np.array([[True, False, False]]))
    data = data.replace(relations={**data.relations, "buy": buy})
    lost = lsec.write(data, tmp_path / "x", {**data.candidates, ("buy", TEST): lists})
    assert lost == {"buy: times not written": 7, "buy: test edges outside the candidate lists, not written": 1}


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path):
    world = small_world()
    unsplit = dataclasses.replace(world.relations["show"], split=None)
    dashed = dataclasses.replace(world.relations["show"], name="is-shown")
    quoted = NodeTable("user", np.array([f"u{i}" for i in range(29)] + ['a "b"']))
    cases = [
        (world.replace(candidates={}), r"candidates of both VALIDATION and TEST .*candidates.generate_candidates"),
        (world.replace(relations={**world.relations, "show": unsplit}), "'show' has no training edges.*assign_splits"),
        (
            world.replace(relations={**world.relations, "is-shown": dashed}),
            "'is-shown': names with '-' do not fit.*rename",
        ),
        (
            world.replace(nodes={**world.nodes, "user": quoted}),
            "node table 'user', row 29: id 'a \"b\"' does not fit a TSV",
        ),
    ]
    for data, message in cases:
        with pytest.raises(DataError, match=message):
            lsec.write(data, tmp_path / "x")
        assert not (tmp_path / "x").exists()
    with pytest.raises(DataError, match="relation 'sold' is not in data set 'world'"):
        lsec.write(world, tmp_path / "x", tasks={"sold": 1.0})
    for tasks, message in (
        ({}, "tasks is empty; give the weight of at least one of buy, watch, or None"),
        ({"show": 1.0}, "tasks: relation 'show' has no candidates; leave it out, or .*generate_candidates"),
        ({"buy": -1.0}, r"tasks\['buy'\] = -1.0; give a finite weight >= 0"),
        ({"buy": 1.0, "watch": float("nan")}, r"tasks\['watch'\] = nan; give a finite weight >= 0"),
    ):
        with pytest.raises(DataError, match=message):
            lsec.write(world, tmp_path / "x", tasks=tasks)
        assert not (tmp_path / "x").exists()
    lsec.write(world, tmp_path / "x")
    with pytest.raises(DataError, match="holds a data set already; choose another directory"):
        lsec.write(world, tmp_path / "x")


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()], ids=["disk", "kill"])
def test_a_failed_write_leaves_nothing_behind_and_can_be_repeated(tmp_path, monkeypatch, failure):
    world, write_columns = small_world(), lsec._write_columns

    def failing(path, *rest):
        write_columns(path, *rest)
        if path.parent.name == "val":
            raise failure

    for directory in (tmp_path / "new" / "x", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        monkeypatch.setattr(lsec, "_write_columns", failing)
        with pytest.raises(type(failure)):
            lsec.write(world, directory)
        assert [path for path in directory.parent.rglob("*") if path.is_file()] == []
        assert [path.name for path in directory.parent.iterdir() if path.name.startswith(".")] == []
        monkeypatch.undo()
        lsec.write(world, directory)
        assert load(directory).relations["buy"].split is not None
        assert sorted(path.name for path in directory.iterdir()) == ["metadata.json", "test", "train", "val"]
        shutil.rmtree(directory)


def test_a_written_folder_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").mkdir()
    lsec.write(small_world(), tmp_path / "x")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"is not empty \(thesis.txt\); choose another directory"):
        lsec.write(small_world(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


BUY, VAL = "train/user-item-buy.tsv", "val/user-item-buy.tsv"


def edges(entry: str) -> str:
    """metadata.json with one edge entry."""
    return '{"graph": {"node": [{"filename": "user.tsv"}], "edge": [' + entry + "]}}"


BAD_FILES = {
    "id out of range": (
        BUY,
        "user\titem\n0\t1\n1\t4\n",
        r"line 3, column 'item': 4 is out of range 0..3; .*has 4 rows",
    ),
    "negative id": (BUY, "user\titem\n0\t1\n-1\t2\n", r"line 3, column 'user': negative value -1"),
    "text id": (BUY, "user\titem\nann\t1\n", r"line 2, column 'user': 'ann' is not an integer"),
    "swapped header": (BUY, "item\tuser\n1\t0\n", r"line 1: the first two columns must be 'user', 'item'.*found: item"),
    "empty relation": (BUY, "user\titem\n", r"empty table: a header \(user, item\) and no rows"),
    "cut file": (BUY, "user\titem\n0\t1\n1\t", r"line 3: .*last line may be cut"),
    "malformed row": (BUY, "user\titem\n0\t1\n1\n", r"line 3: malformed row: 1 fields, expected 2"),
    "label 2": (VAL, "user\titem\tlabel\n0\t1\t1\n0\t2\t2\n", r"line 3, column 3: label 2; labels must be 0 or 1"),
    "label nan": (VAL, "user\titem\tlabel\n0\t1\tnan\n", r"line 2, column 3: label nan; labels must be 0 or 1"),
    "label empty": (VAL, "user\titem\tlabel\n0\t1\t\n", r"line 2, column 3: empty value"),
    "no labels": (VAL, "user\titem\n0\t1\n", r"line 1: no third column after user, item; add the labels"),
    "unequal counts": (
        VAL,
        "user\titem\tlabel\n0\t0\t1\n0\t2\t0\n1\t0\t1\n2\t0\t1\n2\t1\t0\n",
        r"line 4: user 1 has 1 candidates, but 2 of 3 have 2; give every user the same number",
    ),
    "two labels": (VAL, "user\titem\tlabel\n0\t2\t1\n0\t2\t0\n", r"line 3, column 3: user 0, item 2 has both labels"),
    "id twice": ("train/user.tsv", "id\n5\n6\n5\n", r"line 4, column 'id': id 5 occurs twice; ids must be unique"),
    "bad JSON": ("metadata.json", '{"graph": {', r"not valid JSON .*line 1.* it may be cut; correct or copy"),
    "no edges": (
        "metadata.json",
        '{"graph": {"node": [{"filename": "a"}]}}',
        r"no key 'graph.edge'; expected keys: graph",
    ),
    "no node files": ("metadata.json", '{"graph": {"node": []}}', r"'graph.node' must be a list with at least one"),
    "edge without a file": ("metadata.json", edges('"a"'), r"graph.edge\[0\] has no 'filename'"),
    "weighted in words": (
        "metadata.json",
        edges('{"filename": "user-item-buy.tsv", "weighted": "no"}'),
        r"graph.edge\[0\].weighted is \"no\"; write true or false, without quotes",
    ),
    "old Mac line ends": (BUY, b"user\titem\r0\t1\r\n", r"line 1: a carriage return without a line feed"),
    "no file name": ("metadata.json", '{"graph": {"node": [{}]}}', r"graph.node\[0\] has no 'filename'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_input_is_refused_with_its_place_and_a_remedy(folder, case):
    name, text, message = BAD_FILES[case]
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=name + ".*" + message):
        load(folder)


@pytest.mark.parametrize("name", [*FILES, "metadata.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: missing file.*the directory has"):
        load(folder)


def test_metadata_with_a_byte_order_mark_is_read(folder):
    plain = load(folder).fingerprint()
    (folder / "metadata.json").write_text(json.dumps(METADATA), encoding="utf-8-sig")
    assert load(folder).fingerprint() == plain


def test_packed_metadata_is_read(folder):
    plain = load(folder).fingerprint()
    (folder / "metadata.json.gz").write_bytes(gzip.compress((folder / "metadata.json").read_bytes()))
    (folder / "metadata.json").unlink()
    assert load(folder).fingerprint() == plain


def test_a_data_set_without_any_candidates_is_refused(folder):
    (folder / "val/user-item-buy.tsv").unlink()
    (folder / "test/user-item-buy.tsv").unlink()
    with pytest.raises(DataError, match=r"val/ and test/ hold no file of the tasks \(user-item-buy.tsv\)"):
        load(folder)


def test_bad_names_in_the_metadata_are_refused(folder):
    for change, message in (
        ({"edge": [{"filename": "buy.tsv"}]}, r"edge file 'buy.tsv' must be named source-target-relation.tsv"),
        ({"node": [{"filename": "user.tsv"}]}, r"'user-item-buy.tsv' needs a node file 'item.tsv' under graph.node"),
        (
            {"edge": [{"filename": name} for name in (*EDGES, "user-streamer-buy.tsv")]},
            r"two edge files name a relation 'buy'",
        ),
    ):
        task = [{"filename": (change.get("edge") or METADATA["graph"]["edge"])[0]["filename"]}]
        metadata = {"graph": METADATA["graph"] | change, "task": task}
        (folder / "metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(DataError, match="metadata.json: " + message):
            load(folder)
    (folder / "metadata.json").write_text(json.dumps(METADATA | {"task": [{"filename": "user-item-like.tsv"}]}))
    with pytest.raises(
        DataError, match=r"task file 'user-item-like.tsv' is not among graph.edge \(user-item-buy.tsv, "
    ):
        load(folder)
