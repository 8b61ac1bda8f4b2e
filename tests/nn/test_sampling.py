"""Negative sampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lsec_jax.nn.sampling import is_positive, negative_mask, positive_edges, uniform_targets, windows


def random_positives(num_sources=40, num_targets=30, count=300, seed=0):
    pairs = np.sort(np.random.default_rng(seed).choice(num_sources * num_targets, count, replace=False))
    return positive_edges(pairs // num_targets, pairs % num_targets, num_sources, num_targets)


def test_is_positive_finds_exactly_the_training_pairs():
    edges = random_positives()
    known = set(zip(edges.source_ids.tolist(), edges.target_ids.tolist(), strict=True))
    source_ids = np.arange(40, dtype=np.int32)
    target_ids = np.broadcast_to(np.arange(30, dtype=np.int32), (40, 30))
    expected = [[(int(u), int(i)) in known for i in target_ids[0]] for u in source_ids]
    np.testing.assert_array_equal(is_positive(edges, jnp.asarray(source_ids), jnp.asarray(target_ids)), expected)


def test_a_source_without_positives_has_none_even_at_the_end_of_the_arrays():
    edges = random_positives(num_sources=3, num_targets=30, count=10)
    padded = dataclasses.replace(edges, indptr=jnp.concatenate([edges.indptr, edges.indptr[-1:]]))
    found = is_positive(padded, jnp.array([3]), jnp.arange(30, dtype=jnp.int32)[None])
    assert not np.asarray(found).any()


def test_uniform_targets_cover_all_targets_evenly():
    draws = np.asarray(uniform_targets(jax.random.key(0), random_positives(), 3000, 10))
    counts = np.bincount(draws.ravel(), minlength=30)
    assert draws.shape == (3000, 10)
    assert len(counts) == 30
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_a_drawn_target_counts_if_it_is_no_positive_and_available_at_the_positives_own_time():
    edges = random_positives()
    generator = np.random.default_rng(1)
    seconds = 1.7e9 + np.arange(40)  # closer together than float32 can tell
    times, starts = generator.choice(seconds, 300), generator.choice([-np.inf, *seconds], 30)
    ends = np.where(generator.random(30) < 0.2, np.inf, starts + generator.integers(1, 20, 30))
    ends[starts == -np.inf] = 1.7e9 + 20
    timed = dataclasses.replace(edges, windows=windows(times, starts, ends))
    edge_ids = jnp.arange(300, dtype=jnp.int32)
    target_ids = uniform_targets(jax.random.key(0), edges, 300, 8)
    mask, shares = negative_mask(timed, edge_ids, target_ids)
    drawn = np.asarray(target_ids)
    is_available = (starts[drawn] <= times[:, None]) & (times[:, None] < ends[drawn])
    positive = np.asarray(is_positive(edges, edges.source_ids[edge_ids], target_ids))
    np.testing.assert_array_equal(mask, ~positive & is_available)
    assert float(shares["unavailable_negatives"]) == np.float32(1 - is_available.mean(dtype=np.float32))
    assert 0.1 < is_available.mean() < 0.9


def test_without_windows_only_training_positives_are_masked():
    edges = random_positives()
    edge_ids, target_ids = (
        jnp.arange(300, dtype=jnp.int32),
        uniform_targets(jax.random.key(0), random_positives(), 300, 8),
    )
    mask, shares = negative_mask(edges, edge_ids, target_ids)
    np.testing.assert_array_equal(mask, ~is_positive(edges, edges.source_ids[edge_ids], target_ids))
    assert set(shares) == {"false_negatives"}
