"""The share of a kind among the first of each request."""

import numpy as np
import pytest

from lsec_jax.event_metrics import TopShare


@pytest.mark.parametrize("rows_in_memory", [50, 10_000])
def test_shares_are_those_of_a_loop_over_requests_and_ties_are_to_the_disadvantage_of_the_kind(rows_in_memory):
    generator = np.random.default_rng(0)
    requests, marked = generator.integers(40, size=500), generator.random(500) < 0.3
    scores = generator.integers(5, size=500).astype(np.float32)
    found = TopShare(rows_in_memory)
    for rows in np.array_split(np.arange(500), 9):
        found.add(scores[rows], marked[rows], requests[rows])
    count, shares = found.measure((1, 4))
    assert count == len(np.unique(requests)) and found.of_all == marked.mean()
    for k in (1, 4):
        slow = []
        for request in np.unique(requests):
            rows = np.flatnonzero(requests == request)
            first = sorted(rows, key=lambda row: (-scores[row], marked[row]))[:k]
            slow.append(np.mean(marked[first]))
        assert shares[k] == pytest.approx(np.mean(slow), rel=1e-12)


def test_no_rows_have_no_share():
    count, shares = TopShare().measure((3,))
    assert count == 0 and np.isnan(shares[3]) and np.isnan(TopShare().of_all)
