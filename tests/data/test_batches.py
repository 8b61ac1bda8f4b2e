"""Batches of training positives."""

import numpy as np
import pytest

from lsec_jax.data.batches import EdgeBatches


@pytest.mark.parametrize(("num_edges", "batch_size"), [(10, 4), (12, 4), (5, 5), (7, 1)])
def test_every_edge_comes_once_per_epoch_and_nothing_is_dropped(num_edges, batch_size):
    batches = EdgeBatches(num_edges, batch_size, (0, 1))
    stream = np.concatenate([batches(step) for step in range(3 * num_edges)])
    for epoch in range(3):
        part = stream[epoch * num_edges : (epoch + 1) * num_edges]
        np.testing.assert_array_equal(np.sort(part), np.arange(num_edges))


def test_a_batch_depends_on_seed_and_step_only():
    forward, backward = EdgeBatches(50, 8, (3, 1)), EdgeBatches(50, 8, (3, 1))
    wanted = [forward(step) for step in range(20)]
    found = [backward(step) for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(wanted, found)
    assert not np.array_equal(EdgeBatches(50, 8, (4, 1))(0), wanted[0])


def test_a_batch_larger_than_the_data_shrinks_to_it():
    assert len(EdgeBatches(5, 100, (0,))(3)) == 5
