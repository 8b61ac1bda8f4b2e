"""Which streamers and points Figure 4 shows."""

import numpy as np
import pytest

from lsec_jax.data import analysis
from lsec_jax.schema import DataError
from lsec_jax.training import figure4
from tests import worlds


def graph_of(follow, sell):
    edges = {**worlds.random_edges(), "follow": tuple(np.array(follow).T), "sell": tuple(np.array(sell).T)}
    return analysis.tripartite(worlds.world(edges), "buy", "follow", "sell")


def everybody():
    return np.ones(12, bool), np.ones(9, bool)


def test_streamers_are_those_with_most_followers_of_their_own(monkeypatch):
    monkeypatch.setattr(figure4, "MIN_POINTS", 1)
    # Streamer 1 has six followers; 2 has five, all among them; 0 has four of which three are new; 3 has two new ones.
    follow = [
        *((u, 1) for u in range(6)),
        *((u, 2) for u in range(5)),
        *((u, 0) for u in (5, 6, 7, 8)),
        (9, 3),
        (10, 3),
    ]
    sell = [(1, 0), (1, 1), (0, 1), (0, 2), (3, 3), (2, 4)]
    streamers, (users, items) = figure4.choose_streamers(graph_of(follow, sell), *everybody(), count=3)
    assert streamers.tolist() == [1, 0, 3]
    assert users.tolist() == [0, 0, 0, 0, 0, -1, 1, 1, 1, 2, 2, -1]  # user 5 follows two of them
    assert items.tolist() == [0, -1, 1, 2, -1, -1, -1, -1, -1]


def test_streamers_without_points_enough_and_nodes_without_training_are_left_out(monkeypatch):
    monkeypatch.setattr(figure4, "MIN_POINTS", 2)
    follow = [*((u, 1) for u in range(5)), *((u, 0) for u in (5, 6, 7)), (8, 3), (9, 3)]
    sell = [(1, 0), (1, 1), (0, 2), (3, 3), (3, 4)]  # streamer 0 has one item only
    is_user, is_item = everybody()
    is_user[0] = False
    streamers, (users, items) = figure4.choose_streamers(graph_of(follow, sell), is_user, is_item)
    assert streamers.tolist() == [1, 3]
    assert users.tolist() == [-1, 0, 0, 0, 0, -1, -1, -1, 1, 1, -1, -1]
    assert items.tolist() == [0, 0, -1, 1, 1, -1, -1, -1, -1]
    is_item[4] = False
    with pytest.raises(DataError, match="needs two streamers with 2 users and items of their own, and there are 1"):
        figure4.choose_streamers(graph_of(follow, sell), is_user, is_item)


def test_what_is_shared_with_a_streamer_who_is_left_out_is_a_point_of_the_other(monkeypatch):
    monkeypatch.setattr(figure4, "MIN_POINTS", 2)
    follow = [*((u, 1) for u in range(5)), *((u, 0) for u in (4, 5, 6, 7)), (8, 3), (9, 3)]
    sell = [(1, 0), (1, 1), (1, 2), (0, 2), (0, 5), (3, 3), (3, 4)]  # streamer 0 has one item of its own
    streamers, (users, items) = figure4.choose_streamers(graph_of(follow, sell), *everybody())
    assert streamers.tolist() == [1, 3]
    assert users.tolist() == [0, 0, 0, 0, 0, -1, -1, -1, 1, 1, -1, -1]  # user 4 follows 0 too
    assert items.tolist() == [0, 0, 0, 1, 1, -1, -1, -1, -1]  # 0 sells item 2 too


def test_points_are_drawn_from_every_streamer_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(figure4, "POINTS_PER_STREAMER", 4)
    labels = np.array([0] * 10 + [1] * 3 + [-1] * 5)
    points = figure4._draw_points(labels, np.random.default_rng(0))
    assert np.bincount(labels[points]).tolist() == [4, 3]
    assert len(np.unique(points)) == 7 and (np.diff(points) > 0).all()
