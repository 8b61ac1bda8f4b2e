"""Views of a user-user graph, and what is drawn from them."""

import numpy as np
import pytest

from lsec_jax.data import views
from lsec_jax.data.views import NOBODY, NeighbourSampler, View, draw_neighbours, view_of
from lsec_jax.schema import DataError


def random_view(num_nodes=30, num_links=90, seed=0, **keys):
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(0, num_nodes - 3, (2, num_links))  # the last three have no neighbours
    return sources, targets, view_of("friend", sources, targets, num_nodes, **keys)


@pytest.mark.parametrize("both_ways", [True, False])
def test_neighbours_are_those_of_the_links_each_once(both_ways):
    sources, targets, view = random_view(both_ways=both_ways)
    wanted = {node: set() for node in range(30)}
    for a, b in zip(sources, targets, strict=True):
        if a != b:
            wanted[a].add(b)
            if both_ways:
                wanted[b].add(a)
    assert len(view) == 30
    for node, of in wanted.items():
        assert view.neighbours[view.starts[node] : view.starts[node + 1]].tolist() == sorted(of)


def test_links_out_of_range_are_named_and_a_graph_may_have_none():
    with pytest.raises(DataError, match="view 'pay', link 1: node 4 is none of the 4 nodes"):
        view_of("pay", np.array([0, 4]), np.array([1, 1]), 4)
    empty = view_of("pay", np.zeros(0, int), np.zeros(0, int), 4)
    assert draw_neighbours(empty, np.array([0, 3, NOBODY]), 2, np.zeros(3)).tolist() == [[NOBODY] * 2] * 3
    assert len(view_of("pay", np.zeros(0, int), np.zeros(0, int), 0)) == 0


def test_few_neighbours_are_all_taken_and_many_drawn_without_repetition():
    _, _, view = random_view()
    rng = np.random.default_rng(1)
    nodes = np.concatenate([np.arange(30), [NOBODY]])
    for fanout in (1, 3, 8):
        for _ in range(20):
            found = draw_neighbours(view, nodes, fanout, rng.random(31))
            for node, drawn in zip(nodes, found, strict=True):
                own = [] if node == NOBODY else view.neighbours[view.starts[node] : view.starts[node + 1]].tolist()
                there = drawn[drawn >= 0].tolist()
                assert len(there) == len(set(there)) == min(fanout, len(own)) and set(there) <= set(own)
                assert (drawn[len(there) :] == NOBODY).all() and (len(own) > fanout or there == own)


def test_every_neighbour_is_as_likely():
    for degree, fanout in ((7, 3), (10, 4), (5, 5), (101, 10)):
        view = View("friend", np.array([0, degree]), np.arange(degree, dtype=np.int32))
        draws = 20_000
        uniforms = (np.arange(draws) + 0.5) / draws
        found = draw_neighbours(view, np.zeros(draws, int), fanout, uniforms)
        np.testing.assert_allclose(np.bincount(found.ravel(), minlength=degree) / draws, fanout / degree, rtol=0.01)
    largest = np.nextafter(1.0, 0.0)
    assert draw_neighbours(view, np.zeros(1, int), 10, np.array([largest])).max() == degree - 1


def test_what_is_drawn_for_a_row_does_not_depend_on_which_process_draws_it():
    sampler = NeighbourSampler((random_view()[2], random_view(seed=5)[2]), (4, 3), seed=7)
    nodes = np.random.default_rng(2).integers(0, 30, 16)
    whole = sampler(nodes, 3, np.arange(16), 16)
    assert [[hop.shape for hop in hops] for hops in whole] == [[(16, 4), (16, 4, 3)]] * 2
    for part in (slice(0, 6), slice(6, 16)):
        own = sampler(nodes[part], 3, np.arange(16)[part], 16)
        for hops, others in zip(whole, own, strict=True):
            for hop, other in zip(hops, others, strict=True):
                np.testing.assert_array_equal(hop[part], other)
    again, later = sampler(nodes, 3, np.arange(16), 16), sampler(nodes, 4, np.arange(16), 16)
    assert all((a == b).all() for x, y in zip(whole, again, strict=True) for a, b in zip(x, y, strict=True))
    assert any((a != b).any() for x, y in zip(whole, later, strict=True) for a, b in zip(x, y, strict=True))


def test_neighbours_of_nobody_are_nobody():
    sampler = NeighbourSampler((random_view()[2],), (4, 3), seed=7)
    ((first, second),) = sampler(np.array([29, 2]), 0, np.arange(2), 2)
    assert (first[0] == NOBODY).all() and (second[first == NOBODY] == NOBODY).all() and (first[1] >= 0).any()


def test_a_memory_mapped_view_gives_the_same(tmp_path):
    _, _, view = random_view()
    for name in ("starts", "neighbours"):
        np.save(tmp_path / f"{name}.npy", getattr(view, name))
    mapped = View("friend", *(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("starts", "neighbours")))
    found = [draw_neighbours(of, np.arange(30), 3, np.full(30, 0.4)) for of in (view, mapped)]
    np.testing.assert_array_equal(*found)


def test_links_in_the_training_window_and_labels_in_a_view_are_refused():
    views.require_earlier("share", np.array([1.0, 2.5]), 3.0)
    for late in (3.0, np.nan):
        with pytest.raises(DataError, match="view 'share': 1 of 2 links are not from before the training window"):
            views.require_earlier("share", np.array([1.0, late]), 3.0)
    view = view_of("share", np.array([0, 2]), np.array([1, 3]), 5, both_ways=False)
    views.check_no_labels(view, np.array([0, 4, 1]), np.array([2, 4, 3]))
    for pair in ((2, 3), (3, 2)):
        with pytest.raises(DataError, match=r"view 'share' holds 1 pairs that are labels, such as \(\d, \d\)"):
            views.check_no_labels(view, np.array([1, pair[0]]), np.array([4, pair[1]]))
    views.check_no_labels(view_of("share", np.zeros(0, int), np.zeros(0, int), 5), np.array([1]), np.array([2]))
