"""Vocabularies and hashing of ids."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lsec_jax.data.vocabularies import fit_vocabulary, hash_ids, rows_by_hash, rows_by_vocabulary


def slow_hash(text):
    """FNV-1a over code points, then SplitMix64's finalizer, in Python's integers."""
    mask, value = 2**64 - 1, 0xCBF29CE484222325
    for character in text:
        value = ((value ^ ord(character)) * 0x100000001B3) & mask
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & mask
    return value ^ value >> 31


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), min_size=1))
def test_a_hash_is_that_of_the_slow_definition_whatever_stands_beside_it(texts):
    found = hash_ids(np.array(texts, np.str_))
    assert found.tolist() == [slow_hash(text) for text in texts]
    assert found[:1].tolist() == hash_ids(np.array(texts[:1], np.str_)).tolist()


def test_an_integer_has_the_hash_of_its_decimal_text():
    ids = np.array([0, 7, -3, 2**62])
    np.testing.assert_array_equal(hash_ids(ids), hash_ids(ids.astype(np.str_)))


def test_hashes_stay_what_they_were():
    """A table that was trained with other ones would be worthless."""
    assert hash_ids(np.array(["room_00001", ""])).tolist() == [slow_hash("room_00001"), slow_hash("")]
    assert slow_hash("room_00001") % 1_000 == 870


def test_buckets_are_even():
    rows = rows_by_hash(np.arange(40_000), 40)
    assert rows.dtype == np.int32 and rows[-1] == 0 and rows[:-1].min() == 1 and rows[:-1].max() == 40
    chi_square = ((np.bincount(rows[:-1], minlength=41)[1:] - 1_000) ** 2 / 1_000).sum()
    assert abs(chi_square - 39) < 4 * np.sqrt(2 * 39)


def test_the_most_frequent_ids_come_first_and_seldom_ones_not_at_all():
    first = (np.array(["a", "b", "c", "d"]), np.array([1, 5, 0, 5]))
    second = (np.array(["d", "a", "e"]), np.array([2, 3, 9]))
    assert fit_vocabulary([first, second], 0, 0).tolist() == ["e", "b", "d", "a"]  # a counts 3, d 5; c was never shown
    assert fit_vocabulary([first, second], 4, 0).tolist() == ["e", "b", "d"]
    assert fit_vocabulary([first, second], 0, 2).tolist() == ["e", "b"]
    assert fit_vocabulary([first, second], 10, 0).tolist() == []


def test_rows_follow_the_vocabulary_and_what_is_not_in_it_has_row_0():
    rows = rows_by_vocabulary(np.array([5, 8, 3]), np.array([3, 4, 5]))
    assert rows.tolist() == [3, 0, 1, 0] and rows.dtype == np.int32
    assert rows[-1] == 0  # of the index -1
    assert rows_by_vocabulary(np.array(["x"]), np.zeros(0, np.int64)).tolist() == [0, 0]
    assert rows_by_vocabulary(np.zeros(0, np.str_), np.array(["x"])).tolist() == [0]
