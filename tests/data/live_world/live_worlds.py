"""Live worlds and checks shared by their tests."""

import functools

import numpy as np

from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig

# The smallest world that is one: one user, one streamer, one room a day.
SINGLE = {"num_users": 1, "num_items": 4, "num_streamers": 1, "num_topics": 2, "items_per_session": 4.0}
SINGLE |= {"num_buy": 2, "num_follow": 1, "num_sell": 3, "num_days": 10, "sessions_per_streamer": 5.0}


@functools.cache
def loaded(seed=0):
    """`live_tiny`, generated once."""
    return synthetic.live_tiny(seed=seed).load()


def live_world(seed=0, num_impressions=4_000, **live):
    """A small world with other live knobs."""
    return synthetic.live_tiny(LiveConfig(num_impressions=num_impressions, **live), seed=seed).load()


def z_score(outcomes, probabilities):
    """(realised - expected number) in standard deviations; both [n]."""
    probabilities = probabilities.astype(np.float64)
    return (outcomes - probabilities).sum() / np.sqrt((probabilities * (1 - probabilities)).sum())


def binned_z_scores(outcomes, probabilities, num_bins=6):
    """The same in bins of equal expected number, in order of probability."""
    order = np.argsort(probabilities, kind="stable")
    outcomes, probabilities = np.asarray(outcomes, float)[order], probabilities[order].astype(np.float64)
    running = np.cumsum(probabilities)
    bins = np.minimum((running / running[-1] * num_bins).astype(int), num_bins - 1)
    variance = np.bincount(bins, probabilities * (1 - probabilities), num_bins)
    return np.bincount(bins, outcomes - probabilities, num_bins) / np.sqrt(variance)


def watch_windows(data):
    """(enter, leave) of every impression in days, NaN leave where the room was not entered."""
    impression = data.events["impression"]
    return impression.time, impression.time + impression.value("stay_seconds").astype(np.float64) / 86_400


def assert_inside_watches(data, rows, times):
    """Each time [m] lies in the watch of its impression [m]."""
    enter, leave = watch_windows(data)
    assert data.events["impression"].value("watched")[rows].all()
    assert (enter[rows] <= times).all() and (times <= leave[rows]).all()


def assert_same_tables(first, second, names):
    """The named events are equal in every column."""
    for name in names:
        a, b = first.events[name], second.events[name]
        np.testing.assert_array_equal(a.time, b.time)
        for role in a.nodes:
            np.testing.assert_array_equal(a.ids(role), b.ids(role))
        for column in a.values:
            np.testing.assert_array_equal(a.value(column), b.value(column))
