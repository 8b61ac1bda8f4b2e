"""The lists of ids that a run keeps for those that start from it."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from lsec_jax.schema import NodeTable
from lsec_jax.training import vocabulary
from lsec_jax.training.checkpoint_folders import CheckpointError

TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.lists(st.integers(0, 2**63 - 1), unique=True), st.lists(TEXTS, unique=True)))
def test_ids_come_back_in_their_order_and_of_their_kind(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("workdir")
    is_text = bool(ids) and isinstance(ids[0], str)
    stored = NodeTable("user", np.array(ids, np.str_ if is_text else np.int64))
    vocabulary.write(folder, [stored])
    found = vocabulary.read(folder, ["user"])["user"]
    assert found.ids.dtype.kind == ("U" if is_text else "i")
    assert found.ids.tolist() == stored.ids.tolist()


@pytest.mark.parametrize("is_text", [False, True])
def test_large_lists_are_compact(tmp_path, is_text):
    ids = np.cumsum(np.random.default_rng(0).integers(1, 50, 100_000))
    ids = np.char.add("user_", np.char.zfill(ids.astype(np.str_), 9)) if is_text else ids
    vocabulary.write(tmp_path, [NodeTable("user", ids)])
    assert (tmp_path / "vocabulary" / "user.parquet").stat().st_size < 400_000  # 800,000 and 5,600,000 in numpy


def test_only_missing_lists_are_written_again(tmp_path):
    tables = [NodeTable(name, np.arange(3)) for name in ("user", "item")]
    vocabulary.write(tmp_path, tables[:1])
    vocabulary.write(tmp_path, [NodeTable("user", np.arange(5)), tables[1]], only_missing=True)
    assert {name: len(of) for name, of in vocabulary.read(tmp_path, ["user", "item"]).items()} == {"user": 3, "item": 3}
    vocabulary.write(tmp_path, [NodeTable("user", np.arange(5))])
    assert len(vocabulary.read(tmp_path, ["user"])["user"]) == 5
    assert [path.name for path in (tmp_path / "vocabulary").glob("*.tmp")] == []


@pytest.mark.parametrize("column", [{"id": [0.5]}, {"name": [1]}, {"id": [None, 1]}])
def test_a_file_that_holds_no_ids_is_refused(tmp_path, column):
    vocabulary.write(tmp_path, [NodeTable("user", np.arange(3))])
    pq.write_table(pa.table(column), tmp_path / "vocabulary" / "user.parquet")
    with pytest.raises(CheckpointError, match=r"user\.parquet: (damaged|holds).*delete it and run"):
        vocabulary.read(tmp_path, ["user"])
