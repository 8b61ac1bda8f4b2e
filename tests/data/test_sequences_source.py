import gzip
import time

import numpy as np
import pytest

from lsec_jax.config import SplitConfig
from lsec_jax.data.sources.sequences import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError

LINES = "2 10 7 30\n1 7 10 7 7 8\n9 10 7\n4 30 7 8 30\n"


def write(folder, text=LINES, name="Beauty.txt"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Config(path=str(path))


def edges(relation):
    columns = (relation.source_ids, relation.target_ids, relation.time, relation.split)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def test_the_last_item_tests_the_one_before_validates_and_short_sequences_train(tmp_path):
    data = write(tmp_path).load()
    assert data.name == "Beauty"
    assert {name: table.ids.tolist() for name, table in data.nodes.items()} == {
        "user": [1, 2, 4, 9],
        "item": [7, 8, 10, 30],
    }
    assert edges(data.relation("interact")) == {
        (1, 2, 0, TRAIN),
        (1, 0, 1, VALIDATION),
        (1, 3, 2, TEST),
        (0, 0, 0, TRAIN),  # item 7 comes back twice, the second time for validation
        (0, 2, 1, TRAIN),
        (0, 1, 4, TEST),
        (3, 2, 0, TRAIN),  # two interactions are too few to hold any out
        (3, 0, 1, TRAIN),
        (2, 3, 0, TRAIN),  # comes back as the test item
        (2, 0, 1, TRAIN),
        (2, 1, 2, VALIDATION),
    }
    assert data.counts == {
        "interact: users with 1 to 2 interactions, which all train": 1,
        "interact: duplicate rows dropped": 1,
        "interact: validation pairs that are in an earlier split, dropped": 1,
        "interact: test pairs that are in an earlier split, dropped": 1,
    }


def test_events_keep_every_interaction_in_the_order_of_positions(tmp_path):
    events = write(tmp_path).load().events_of("interaction")
    # By position, then in the order of the lines: users 2, 1, 9, 4.
    assert events.time.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    assert events.ids("user").tolist() == [1, 0, 3, 2, 1, 0, 3, 2, 1, 0, 2, 0, 2, 0]
    assert events.ids("item").tolist() == [2, 0, 2, 3, 0, 2, 0, 0, 3, 0, 1, 0, 3, 1]
    user_one = events.ids("user") == 0
    assert events.split[user_one].tolist() == [TRAIN, TRAIN, TRAIN, VALIDATION, TEST]


def test_ids_may_be_text_and_spaces_tabs_and_carriage_returns_separate(tmp_path):
    data = write(tmp_path, "ann \t7  008 x\r\nbob x é\r\n").load()
    assert data.nodes["user"].ids.tolist() == ["ann", "bob"]
    assert data.nodes["item"].ids.tolist() == ["008", "7", "x", "é"]
    assert edges(data.relation("interact")) == {
        (0, 1, 0, TRAIN),
        (0, 0, 1, VALIDATION),
        (0, 2, 2, TEST),
        (1, 2, 0, TRAIN),
        (1, 3, 1, TRAIN),
    }


def test_packed_files_are_found(tmp_path):
    plain = write(tmp_path).load().fingerprint()
    (tmp_path / "Beauty.txt.gz").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "Beauty.txt").unlink()
    data = Config(path=str(tmp_path / "Beauty.txt")).load()
    assert (data.fingerprint(), data.name) == (plain, "Beauty")


def test_a_user_without_items_is_a_node_and_counted(tmp_path):
    data = write(tmp_path, "1 7 8 9\n5\n").load()
    assert data.nodes["user"].ids.tolist() == [1, 5]
    assert data.counts == {"interact: lines without items": 1}


def test_the_relation_can_have_another_name_but_only_a_valid_one(tmp_path):
    path = write(tmp_path).path
    assert Config(path=path, relation="buy").load().relation("buy").name == "buy"
    with pytest.raises(DataError, match=r"data.relation = '../x': names are letters"):
        Config(path=path, relation="../x").load()


BAD_FILES = {
    "empty": ("", r"Beauty.txt: empty file"),
    "cut": ("1 2 3\n2 4 5", r"line 2: the file does not end in a newline"),
    "blank line": ("1 2 3\n\n2 4\n", r"line 2: a blank line; a line is 'user item item ...'"),
    "blank line of spaces first": (" \n2 4\n", r"line 1: a blank line"),
    "blank line at the end": ("1 2 3\n \n", r"line 2: a blank line"),
    "no items": ("1\n2\n", r"Beauty.txt: no line has an item"),
    "user twice": (
        "1 2 3\n2 4\n1 5\n",
        r"line 3, token 1 \(user\): 1 is the user of line 1 too; put all items of a us",
    ),
    "negative item": ("1 2 3\n2 4 -5\n", r"line 2, token 3 \(item\): negative id -5"),
    "negative user": ("-1 2 3\n", r"line 1, token 1 \(user\): negative id -1"),
    "number with a point": ("1 2 3\n2 4.0 5\n", r"line 2, token 2 \(item\): id 4.0 is a floating-point number"),
    "missing value": ("1 2 3\n2 4 nan\n", r"line 2, token 3 \(item\): id nan is a floating-point number"),
    "control character": ("1 2 3\n2 4\x00 5\n", r"line 2, token 2 \(item\): id '4\\x00' has a control character"),
    "Latin 1": (b"1 2 3\n2 caf\xe9 5\n", r"line 2: not UTF-8 text; convert"),
    "half a character before a space": (b"1 2 \xc3 \xa9 3\n", r"line 1: not UTF-8 text"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_input_is_refused_with_file_line_and_token(tmp_path, case):
    text, message = BAD_FILES[case]
    with pytest.raises(DataError, match=message):
        write(tmp_path, text).load()


def test_missing_and_truncated_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"Beauty.txt: missing file"):
        Config(path=str(tmp_path / "Beauty.txt")).load()
    (tmp_path / "Beauty.txt.gz").write_bytes(gzip.compress(LINES.encode())[:-9])
    with pytest.raises(DataError, match=r"Beauty.txt.gz: truncated or damaged gzip file"):
        Config(path=str(tmp_path / "Beauty.txt")).load()


def test_parsing_agrees_with_splitting_every_line(tmp_path):
    rng = np.random.default_rng(0)
    lines = [[str(user), *rng.integers(1, 50, rng.integers(0, 9)).astype(str)] for user in rng.permutation(200)]
    data = write(tmp_path, "".join(" ".join(line) + "\n" for line in lines)).load()
    events = data.events_of("interaction")
    for line in lines:
        user = data.nodes["user"].index_of(np.array([int(line[0])]))[0]
        mine = data.nodes["item"].ids[events.ids("item")[events.ids("user") == user]]
        assert mine.astype(str).tolist() == line[1:]


def test_the_released_beauty_file_has_its_published_size_and_reads_fast(data_dir):
    config = Config(path=str(data_dir / "seq_amazon" / "Beauty.txt"))
    start = time.process_time()
    data = config.load()
    assert time.process_time() - start < 5  # 0.15 s alone; far more is a loop over tokens
    assert {name: len(table) for name, table in data.nodes.items()} == {"user": 22363, "item": 12101}
    assert len(data.relation("interact")) == len(data.events_of("interaction")) == 198502
    assert np.bincount(data.relation("interact").split).tolist() == [198502 - 2 * 22363, 22363, 22363]
    assert data.counts == {}
    assert int(data.events_of("interaction").time[-1]) == 203  # the longest line has 204 items
    split = assign_splits(data, SplitConfig(), ("interact",))
    np.testing.assert_array_equal(split.relation("interact").split, data.relation("interact").split)
