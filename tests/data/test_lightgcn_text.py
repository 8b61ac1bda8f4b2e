import gzip
import time

import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.data.sources.lightgcn_text import Config
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError

TRAIN_TEXT = "0 5 2 9\n3 2\n7 \n1 2 2 5\n"
TEST_TEXT = "0 4 5\n8 2\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_text(TRAIN_TEXT)
    (tmp_path / "test.txt").write_text(TEST_TEXT)
    return tmp_path


def load(folder, **options):
    return Config(path=str(folder), **options).load()


def pairs(data, split):
    relation = data.relations["buy"]
    users, items = data.nodes["user"].ids, data.nodes["item"].ids
    keep = relation.split == split
    return set(zip(users[relation.source_ids[keep]].tolist(), items[relation.target_ids[keep]].tolist(), strict=True))


def test_lines_become_pairs_in_the_files_own_ids(folder):
    data = load(folder)
    assert pairs(data, TRAIN) == {(0, 5), (0, 2), (0, 9), (3, 2), (1, 2), (1, 5)}
    assert pairs(data, TEST) == {(0, 4), (8, 2)}
    assert pairs(data, VALIDATION) == set()
    assert data.nodes["user"].ids.tolist() == [0, 1, 3, 7, 8]
    assert data.nodes["item"].ids.tolist() == [2, 4, 5, 9]


def test_duplicates_shared_pairs_and_empty_lines_are_counted_and_training_keeps_shared_pairs(folder):
    assert load(folder).counts == {
        "buy: lines without item ids": 1,
        "buy: duplicate rows dropped": 1,
        "buy: test pairs that are in an earlier split, dropped": 1,
    }


def test_a_slow_parser_agrees(tmp_path):
    rng = np.random.default_rng(0)
    lines = [[user, *rng.integers(0, 10 ** int(rng.integers(1, 8)), 5)] for user in rng.permutation(200)]
    text = "\n".join("  ".join(map(str, line)) for line in lines) + "\r\n\n"
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "test.txt").write_text("1 1\n")
    data = load(tmp_path)
    assert pairs(data, TRAIN) == {(line[0], item) for line in lines for item in line[1:]}


def test_packed_files_are_found(folder):
    plain = load(folder)
    for name in ("train.txt", "test.txt"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert load(folder).fingerprint() == plain.fingerprint()


def test_a_byte_order_mark_does_not_count(folder):
    plain = load(folder).fingerprint()
    (folder / "train.txt").write_text(TRAIN_TEXT, encoding="utf-8-sig")
    assert load(folder).fingerprint() == plain


def test_list_files_name_the_external_ids_and_all_nodes(folder):
    names = "".join(f"item{number} {number}\n" for number in reversed(range(11)))
    (folder / "item_list.txt").write_text("org_id remap_id\n" + names)
    data = load(folder)
    assert data.nodes["item"].ids.tolist() == [f"item{number}" for number in range(11)]
    assert (3, "item2") in pairs(data, TRAIN)


def test_a_validation_file_is_used(folder):
    (folder / "tune.txt").write_text("3 4 2\n")
    data = load(folder, validation_file="tune.txt")
    assert pairs(data, VALIDATION) == {(3, 4)}
    assert data.counts["buy: validation pairs that are in an earlier split, dropped"] == 1


def test_held_out_pairs_are_a_seeded_share_of_every_users_training_items(tmp_path):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 40, 500)
    lines = [" ".join(map(str, [user, *rng.permutation(300)[:size]])) for user, size in enumerate(sizes)]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.txt").write_text("0 300\n")
    data = load(tmp_path, validation_fraction=0.2)
    relation = data.relations["buy"]
    held = np.bincount(relation.source_ids[relation.split == VALIDATION], minlength=500)
    assert (held >= np.floor(0.2 * sizes)).all() and (held <= np.ceil(0.2 * sizes)).all()
    assert (held < sizes).all()
    assert abs(held.sum() / sizes.sum() - 0.2) < 0.01
    assert len(pairs(data, TRAIN) | pairs(data, VALIDATION)) == sizes.sum()
    np.testing.assert_array_equal(relation.split, load(tmp_path, validation_fraction=0.2).relations["buy"].split)
    assert (relation.split != load(tmp_path, validation_fraction=0.2, seed=1).relations["buy"].split).any()


BAD_FILES = {
    "word": ("0 5\n1 x7 3\n", r"train.txt, line 2, token 2: 'x7' is not an integer >= 0; a line is 'user item"),
    "word inside": ("0 5\n1 3 7x\n", r"line 2, token 3: '7x' is not an integer"),
    "negative": ("0 5\n-1 3\n", r"line 2, token 1: '-1' is not an integer >= 0"),
    "fraction": ("0 5.5\n", r"line 1, token 2: '5.5' is not an integer"),
    "nan": ("0 5\n\n1 nan\n", r"line 3, token 2: 'nan' is not an integer"),
    "commas": ("0,5\n", r"line 1, token 1: '0,5' is not an integer"),
    "huge": ("0 5\n1 99999999999999999999\n", r"line 2, token 2: '99999999999999999999' is too large for an id"),
    "large": ("0 5\n1 2 999999999\n", r"line 2, token 3: '999999999' is too large for an id; renumber"),
    "cut": ("0 5\n1 2", r"train.txt, line 2: .*last line may be cut \('1 2'\).*appending a newline"),
    "old Mac line ends": ("0 5\r1 2\n", r"train.txt, line 1: a carriage return without a line feed"),
    "Parquet": ("PAR1\x15\x04\x00", r"train.txt: this is a Parquet file, not text"),
    "empty": ("", r"train.txt: empty file"),
    "no items": ("0\n1\n", r"train.txt: no line has an item"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_input_is_refused_with_file_line_and_token(folder, case):
    text, message = BAD_FILES[case]
    (folder / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_bad_files_and_options_are_refused(folder):
    with pytest.raises(DataError, match=r"tset.txt: missing file \(did you mean 'test.txt'\?\)"):
        load(folder, test_file="tset.txt")
    with pytest.raises(ConfigError, match=r"data.validation_fraction = 1.5; must be in \[0, 1\)"):
        load(folder, validation_fraction=1.5)
    with pytest.raises(ConfigError, match="both given; keep one"):
        load(folder, validation_fraction=0.1, validation_file="test.txt")
    with pytest.raises(ConfigError, match=r"data.seed = -1; give a whole number in \[0, 2\*\*32\)"):
        load(folder, seed=-1)


def test_bad_options_are_refused_before_anything_is_read():
    for options in ({"seed": -1}, {"validation_fraction": float("nan")}):
        with pytest.raises(ConfigError, match=f"data.{next(iter(options))} = "):
            Config(path="nowhere", **options).validate()


def test_list_files_that_do_not_fit_are_refused(folder):
    (folder / "item_list.txt").write_text("org_id remap_id\na 0\nb 1\nc 2\nd 3\n")
    with pytest.raises(DataError, match=r"train.txt, line 1, token 2: 5 is not in item_list.txt, which ends at 3; add"):
        load(folder)
    (folder / "item_list.txt").write_text("org_id remap_id\na 0\nb 2\n")
    with pytest.raises(
        DataError, match=r"item_list.txt, line 3, column 'remap_id': 2 is out of range 0..1; remap_id must"
    ):
        load(folder)
    (folder / "item_list.txt").write_text("org_id remap_id\na 0\nb 1\nc 2\nd 1\n")
    with pytest.raises(
        DataError,
        match=r"line 5, column 'remap_id': 1 occurs twice; remap_id must hold every number of 0..3 once; correct",
    ):
        load(folder)
    (folder / "item_list.txt").write_text("org_id remap_id\na 0\na 1\n")
    with pytest.raises(DataError, match=r"item_list.txt, line 3, column 'org_id': id a occurs twice"):
        load(folder)


def test_a_list_file_with_tabs_is_refused_with_a_remedy_that_this_source_has(folder):
    (folder / "item_list.txt").write_text("org_id\tremap_id\na\t0\n")
    with pytest.raises(
        DataError, match=r"no column 'org_id'; if '\\t' separates .*, write the file with ' '; .*; it has"
    ):
        load(folder)


def test_a_quote_in_a_list_file_is_a_character(folder):
    names = "".join(f'"{number} {number}\n' for number in range(11))
    (folder / "item_list.txt").write_text("org_id remap_id\n" + names)
    assert load(folder).nodes["item"].ids.tolist() == [f'"{number}' for number in range(11)]


def test_gowalla_has_its_published_sizes_and_loads_in_seconds(data_dir):
    start = time.perf_counter()
    data = load(data_dir / "gowalla")
    seconds = time.perf_counter() - start
    assert (len(data.nodes["user"]), len(data.nodes["item"])) == (29858, 40981)
    assert np.bincount(data.relations["buy"].split).tolist() == [810128, 0, 217242]
    assert data.nodes["user"].ids[:2].tolist() == [343, 5258]
    assert data.counts == {}
    assert seconds < 15  # about 1 s on an idle machine
