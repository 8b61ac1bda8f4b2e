"""Data sets: validation and fingerprints."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.schema import TEST, Candidates, DataError, NodeTable
from tests.worlds import world


def with_buy(data, **changes):
    buy = dataclasses.replace(data.relations["buy"], **changes)
    return data.replace(relations={**data.relations, "buy": buy})


def test_the_fingerprint_does_not_depend_on_the_order_of_edges():
    data = with_buy(world(), time=np.arange(40.0))
    buy = data.relations["buy"]
    order = np.random.default_rng(0).permutation(len(buy))
    columns = {name: getattr(buy, name)[order] for name in ("source_ids", "target_ids", "time", "split")}
    assert with_buy(data, **columns).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("column", ["time", "weight", "split", "target_ids"])
def test_the_fingerprint_depends_on_every_column(column):
    data = with_buy(world(), time=np.arange(40.0), weight=np.arange(40, dtype=np.float32))
    changed = with_buy(data, **{column: getattr(data.relations["buy"], column)[::-1] + np.int8(column == "split")})
    assert changed.fingerprint() != data.fingerprint()


def test_the_fingerprint_depends_on_published_candidates():
    lists = [
        Candidates(np.array([0]), np.array([[0, item]]), np.array([[True, False]]), "published") for item in (1, 2)
    ]
    data = world()
    one, other = (data.replace(candidates={("buy", TEST): part}) for part in lists)
    assert len({data.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3


def test_validation_reports_all_problems_at_once():
    data = world()
    data = with_buy(data, source_ids=np.full(40, 99, np.int32), time=np.full(40, np.nan))
    data = data.replace(nodes={**data.nodes, "item": NodeTable("item", np.zeros(9, np.int64))})
    with pytest.raises(DataError) as error:
        data.validate()
    for part in ("'item': ids are not unique", "user index 99 outside 0..11", "time is not finite"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["../../user", "/user", "a/b", "", "-user", "us er", "user\n", ".."])
def test_names_that_could_lead_out_of_a_folder_are_refused(name):
    data = world()
    with pytest.raises(DataError) as error:
        data.replace(nodes={**data.nodes, name: NodeTable(name, np.arange(3))}).validate()
    assert f"node type {name!r}: names are letters, digits, _ and -" in str(error.value)
    with pytest.raises(DataError, match=r"relation .*: names are letters, digits, _ and -.*; rename it"):
        data.replace(relations={**data.relations, name: data.relations["buy"]}).validate()


@pytest.mark.parametrize("name", ["user", "live_room-2", "2nd", "Käufer", "用户"])
def test_words_of_any_script_are_names(name):
    data = world()
    data.replace(nodes={**data.nodes, name: NodeTable(name, np.arange(12))}).validate()


def test_ids_are_found_as_numbers_and_as_their_text():
    numbers, texts = NodeTable("item", np.array([30, 10])), NodeTable("user", np.array(["b", "7"]))
    np.testing.assert_array_equal(numbers.index_of(np.array([10, 11, 30])), [1, -1, 0])
    np.testing.assert_array_equal(numbers.index_of(np.array(["10", "x"])), [1, -1])
    np.testing.assert_array_equal(texts.index_of(np.array([7, 8])), [1, -1])
    np.testing.assert_array_equal(texts.index_of(np.array([], np.str_)), [])
