import numpy as np
import pytest

from lsec_jax.data.listed import ListedNodes, read_relation
from lsec_jax.data.tables import read_table
from lsec_jax.schema import TEST, TRAIN, DataError, NodeTable

USERS = ListedNodes.numbered("user", 3, "sizes.txt")
ITEMS = ListedNodes(NodeTable("item", np.array(["a", "b"])), "items.tsv")


def read(tmp_path, *texts):
    tables = {}
    for code, text in zip((TRAIN, TEST), texts, strict=False):
        path = tmp_path / f"{code}.csv"
        path.write_text(f"user,item,weight\n{text}")
        tables[code] = read_table(path, ["user", "item", "weight"])
    return tables


def test_a_relation_keeps_each_pair_once_with_its_first_weight_and_earliest_split(tmp_path):
    tables, counts = read(tmp_path, "2,b,0.5\n0,a,1\n2,b,7\n", "0,a,2\n1,a,3\n"), {}
    relation = read_relation("buy", (USERS, ITEMS), tables, ("user", "item"), counts, weight_column="weight")
    assert list(zip(relation.source_ids, relation.target_ids, relation.weight, relation.split, strict=True)) == [
        (2, 1, 0.5, TRAIN),
        (0, 0, 1.0, TRAIN),
        (1, 0, 3.0, TEST),
    ]
    assert counts == {
        "buy: duplicate rows dropped": 1,
        "buy: test pairs that are in an earlier split, dropped": 1,
    }


def test_one_file_gives_no_split(tmp_path):
    relation = read_relation("buy", (USERS, ITEMS), read(tmp_path, "2,b,1\n"), ("user", "item"), {})
    assert relation.split is None and relation.weight is None


def test_an_id_that_is_not_listed_is_refused_with_its_place(tmp_path):
    message = r"0.csv, line 3, column 'user': user 3 is not in sizes.txt, which has 3, 0 to 2; correct the row"
    with pytest.raises(DataError, match=message):
        read_relation("buy", (USERS, ITEMS), read(tmp_path, "0,a,1\n3,a,1\n"), ("user", "item"), {})
    with pytest.raises(DataError, match=r"column 'item': item c is not in items.tsv, which has 2, a to b"):
        read_relation("buy", (USERS, ITEMS), read(tmp_path, "0,c,1\n"), ("user", "item"), {})
