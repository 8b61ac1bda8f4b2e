import gzip

import numpy as np
import pytest

from lsec_jax.data.sources.youshu import Config
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError

FILES = {
    "Youshu_data_size.txt": "4\t3\t5\n",
    "user_bundle_train.txt": "0\t2\n0\t1\n3\t0\n",
    "user_bundle_tune.txt": "0\t0\n",
    "user_bundle_test.txt": "3\t1\n3\t2\n",
    "user_item.txt": "0\t4\n1\t4\n0\t4\n",
    "bundle_item.txt": "2\t0\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_bundles_have_the_given_split_and_the_other_relations_none(folder):
    data = Config(path=str(folder)).load()
    assert {name: len(table) for name, table in data.nodes.items()} == {"user": 4, "bundle": 3, "item": 5}
    bundles = data.relations["user_bundle"]
    pairs = zip(bundles.source_ids.tolist(), bundles.target_ids.tolist(), bundles.split.tolist(), strict=True)
    assert set(pairs) == {(0, 2, TRAIN), (0, 1, TRAIN), (3, 0, TRAIN), (0, 0, VALIDATION), (3, 1, TEST), (3, 2, TEST)}
    ends = {name: (relation.source, relation.target, relation.split) for name, relation in data.relations.items()}
    assert ends["user_item"] == ("user", "item", None) and ends["bundle_item"] == ("bundle", "item", None)
    assert data.counts == {"user_item: duplicate rows dropped": 1}


def test_packed_files_are_found(folder):
    plain = Config(path=str(folder)).load().fingerprint()
    (folder / "user_item.txt.gz").write_bytes(gzip.compress((folder / "user_item.txt").read_bytes()))
    (folder / "user_item.txt").unlink()
    assert Config(path=str(folder)).load().fingerprint() == plain


BAD_FILES = {
    "bundle out of range": ("user_bundle_test.txt", "3\t3\n", r"line 1, column 'bundle': bundle 3 is not in Youshu_da"),
    "item out of range": ("user_item.txt", "0\t4\n1\t5\n", r"line 2, column 'item': item 5 is not in .*has 5, 0 to 4"),
    "word": ("bundle_item.txt", "2\tx\n", r"bundle_item.txt, line 1, column 'item': item x is not in"),
    "negative": ("user_item.txt", "-1\t4\n", r"user_item.txt, line 1, column 'user': negative id -1"),
    "missing field": ("user_item.txt", "0\t1\n2\n", r"user_item.txt, line 2: malformed row: 1 fields, expected 2"),
    "spaces between": ("user_item.txt", "0 1\n", r"user_item.txt, line 1: 1 fields \('0 1'\), expected 2; a line is"),
    "no size": ("Youshu_data_size.txt", "0\t3\t5\n", r"line 1, column 'user': 0 nodes; give the number of user nodes"),
    "a digit too many": ("Youshu_data_size.txt", "4\t3\t99999999999\n", r"'item': 99999999999 nodes; .*1 to 10000000$"),
    "two lines of sizes": ("Youshu_data_size.txt", "4\t3\t5\n4\t3\t5\n", r"2 lines; give one line, the numbers of us"),
    "empty": ("user_bundle_tune.txt", "", r"user_bundle_tune.txt: empty file; write or copy it again; a line is"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_input_is_refused_with_file_line_and_column(folder, case):
    name, text, message = BAD_FILES[case]
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        Config(path=str(folder)).load()


def test_a_missing_file_is_refused(folder):
    (folder / "user_item.txt").unlink()
    with pytest.raises(DataError, match=r"user_item.txt: missing file"):
        Config(path=str(folder)).load()


def test_the_released_files_have_their_published_sizes(data_dir):
    data = Config(path=str(data_dir / "youshu")).load()
    assert {name: len(table) for name, table in data.nodes.items()} == {"user": 8039, "bundle": 4771, "item": 32770}
    assert np.bincount(data.relations["user_bundle"].split).tolist() == [34416, 5189, 9746]
    assert (len(data.relations["user_item"]), len(data.relations["bundle_item"])) == (138515, 176667)
    assert data.counts == {}
