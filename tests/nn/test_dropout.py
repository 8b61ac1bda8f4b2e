"""Dropout by row, and the hash below it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.nn.dropout import dropout
from lsec_jax.nn.hashed_bits import hashed_bits

KEY = jax.random.key(3)
ROWS = jnp.arange(64, dtype=jnp.int32)


def slow_hash(place, first, second):
    """lowbias32 in Python integers."""
    bits = (place * 0x9E3779B9) % 2**32 ^ first
    bits = (bits ^ bits >> 16) * 0x21F0AAAD % 2**32
    bits = (bits ^ bits >> 15) * 0x735A2D97 % 2**32
    return bits ^ bits >> 15 ^ second


def test_bits_are_those_of_the_hash_in_python_integers():
    places = np.array([0, 1, 2, 77, 2**32 - 1], np.uint32)
    first, second = 0x12345678, 0xDEADBEEF
    found = hashed_bits(jnp.asarray(places), jnp.uint32(first), jnp.uint32(second))
    assert found.tolist() == [slow_hash(int(place), first, second) for place in places]


def test_the_mask_is_the_one_that_the_rows_key_and_the_place_give():
    values = jnp.ones((3, 2, 5))
    row_ids = jnp.array([7, 0, 9], jnp.int32)
    found = dropout(values, 0.3, KEY, row_ids)
    for i, row in enumerate([7, 0, 9]):
        first, second = jax.random.bits(jax.random.fold_in(KEY, row), (2,)).tolist()
        keep = [slow_hash(place, first, second) >= 0.3 * 2**32 for place in range(10)]
        np.testing.assert_allclose(found[i], np.where(keep, np.float32(1 / 0.7), 0).reshape(2, 5), rtol=1e-6)


def test_a_rows_mask_does_not_depend_on_the_other_rows_or_their_order():
    values = jnp.ones((64, 40))
    whole = dropout(values, 0.5, KEY, ROWS)
    order = np.random.default_rng(0).permutation(64)[:17]
    np.testing.assert_array_equal(dropout(values[:17], 0.5, KEY, ROWS[order]), whole[order])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_the_rate_in_every_row_and_column_and_the_mean_stays(rate):
    rows = jnp.arange(2000, dtype=jnp.int32)
    found = np.asarray(dropout(jnp.ones((2000, 500)), rate, KEY, rows))
    is_dropped = found == 0
    for axis, count in ((0, 2000), (1, 500)):
        shares = is_dropped.mean(axis=axis)
        error = np.sqrt(rate * (1 - rate) / count)
        assert np.abs(shares - rate).max() < 5 * error
        assert 0.8 < shares.std() / error < 1.2  # neither clumped nor evener than chance
    assert abs(found.mean() - 1) < 0.01


def test_masks_of_two_rows_and_of_two_keys_are_independent():
    keep = np.asarray(dropout(jnp.ones((64, 4096)), 0.5, KEY, ROWS)) != 0
    other = np.asarray(dropout(jnp.ones((64, 4096)), 0.5, jax.random.key(4), ROWS)) != 0
    agreement = (keep[:, None] == keep[None]).mean(axis=-1)[np.triu_indices(64, 1)]
    assert np.abs(agreement - 0.5).max() < 5 * 0.5 / 64
    assert np.abs((keep == other).mean(axis=-1) - 0.5).max() < 5 * 0.5 / 64


def test_without_a_key_or_a_rate_nothing_is_dropped():
    values = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(dropout(values, 0.5, None, None), values)
    np.testing.assert_array_equal(dropout(values, 0.0, KEY, ROWS[:2]), values)


def test_a_rate_outside_its_range_and_a_key_without_rows_are_refused():
    with pytest.raises(ValueError, match="dropout rate 1"):
        dropout(jnp.ones((2, 3)), 1.0, KEY, ROWS[:2])
    with pytest.raises(ValueError, match="row_ids"):
        dropout(jnp.ones((2, 3)), 0.5, KEY, None)
