"""In which watch a comment, like or gift happened: against the definition in plain Python, and at its edges."""

import time

import hypothesis
import hypothesis.strategies as st
import numpy as np

from lsec_jax.data.sources.kuailive_events import WatchIndex

# Few pairs and short times, so that watches overlap, nest, touch and are entered at once.
watches = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 8)), min_size=1, max_size=14)
moments = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 22)), max_size=14)


def columns(rows, width):
    return np.array(rows, np.int64).reshape(-1, width).T


def slow_find(watches, pair, time):
    """Of the watches of the pair that contain the time: the one entered last, of those entered at once the last row."""
    inside = [
        (enter, row) for row, (of, enter, stay) in enumerate(watches) if of == pair and enter <= time <= enter + stay
    ]
    return max(inside)[1] if inside else -1


def slow_overlapping(watches):
    ordered = sorted((of, enter, row) for row, (of, enter, _) in enumerate(watches))
    count = 0
    for i, (pair, enter, _) in enumerate(ordered):
        ends = [watches[row][1] + watches[row][2] for of, _, row in ordered[:i] if of == pair]
        count += any(enter < end for end in ends)
    return count


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(watches, moments)
def test_every_moment_finds_the_watch_that_the_definition_names(watches, moments):
    pairs, enter, stay = columns(watches, 3)
    index = WatchIndex(pairs, enter.astype(float), stay.astype(float))
    at_pairs, at = columns(moments, 2)
    found = index.find(at_pairs, at.astype(float))
    assert found.tolist() == [slow_find(watches, pair, time) for pair, time in moments]
    assert index.num_overlapping == slow_overlapping(watches)


def test_a_watch_inside_another_wins_while_it_lasts():
    index = WatchIndex(np.array([5, 5]), np.array([10.0, 20.0]), np.array([100.0, 5.0]))
    times = np.array([9.0, 10, 19, 20, 25, 26, 110, 111])
    assert index.find(np.full(8, 5), times).tolist() == [-1, 0, 0, 1, 1, 0, 0, -1]
    assert index.find(np.full(8, 4), times).tolist() == [-1] * 8
    assert index.find(np.full(8, 6), times).tolist() == [-1] * 8
    assert index.num_overlapping == 1


def test_large_pairs_and_milliseconds_stay_exact():
    pairs = np.array([2**53 + 1, 2**53 + 2])
    index = WatchIndex(pairs, np.array([1746374400022.0, 1746374400022.0]), np.array([1.0, 2852.0]))
    assert index.find(pairs, np.array([1746374400024.0, 1746374402874.0])).tolist() == [-1, 1]
    assert index.find(pairs[::-1], np.array([1746374402875.0, 1746374400023.0])).tolist() == [-1, 0]


def test_two_hundred_thousand_watches_take_seconds_of_one_core():
    generator = np.random.default_rng(0)
    pairs, enter = generator.integers(0, 50_000, 200_000), generator.uniform(0, 1e9, 200_000)
    start = time.process_time()
    index = WatchIndex(pairs, enter, generator.exponential(1e6, 200_000))
    found = index.find(pairs, enter)
    assert time.process_time() - start < 10
    np.testing.assert_array_equal(found, np.arange(200_000))
