"""Neighbours drawn from views."""

import numpy as np
import pytest

from lsec_jax.data.neighbours import NO_STEP, NOBODY, Draw, NeighbourSampler, draw_neighbours, uniforms
from lsec_jax.data.views import view_of
from lsec_jax.schema import View


def random_view(num_nodes=30, num_links=90, seed=0):
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(0, num_nodes - 3, (2, num_links))  # the last three have no neighbours
    return view_of("friend", sources, targets, num_nodes)


def test_a_graph_may_have_no_links():
    empty = view_of("pay", np.zeros(0, int), np.zeros(0, int), 4)
    assert draw_neighbours(empty, np.array([0, 3, NOBODY]), 2, np.zeros(3)).tolist() == [[NOBODY] * 2] * 3


def test_few_neighbours_are_all_taken_and_many_drawn_without_repetition():
    view, rng = random_view(), np.random.default_rng(1)
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
        view = View("friend", "user", np.array([0, degree]), np.arange(degree, dtype=np.int32))
        draws = 20_000
        numbers = (np.arange(draws) + 0.5) / draws
        found = draw_neighbours(view, np.zeros(draws, int), fanout, numbers)
        np.testing.assert_allclose(np.bincount(found.ravel(), minlength=degree) / draws, fanout / degree, rtol=0.01)
    largest = np.nextafter(1.0, 0.0)
    assert draw_neighbours(view, np.zeros(1, int), 10, np.array([largest])).max() == degree - 1


def test_numbers_are_uniform_and_differ_by_key_place_and_column():
    found = uniforms((3, 1), np.arange(4000), 5)
    assert found.shape == (4000, 5) and found.min() >= 0 and found.max() < 1 and len(np.unique(found)) == 20_000
    np.testing.assert_allclose(np.histogram(found, 10, (0, 1))[0] / 2000, 1, atol=0.12)
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 0.06
    assert np.abs(np.corrcoef(found[:-1, 0], found[1:, 0])[0, 1]) < 0.05
    for key in ((3, 2), (1, 3), (3,), (4, 1), (3, NO_STEP)):
        other = uniforms(key, np.arange(4000), 5)
        assert not np.isin(other, found).any() and np.abs(np.corrcoef(other[:, 0], found[:, 0])[0, 1]) < 0.06


def test_what_is_drawn_for_a_row_depends_on_its_place_and_the_step_alone():
    sampler = NeighbourSampler(random_view(), (4, 3), (7, 0))
    nodes = np.random.default_rng(2).integers(0, 30, 16)
    whole = sampler(nodes, Draw(3, np.arange(16)))
    assert [hop.shape for hop in whole] == [(16, 4), (16, 12)]
    for part in (slice(0, 6), slice(6, 16)):  # as two processes draw
        for hop, other in zip(whole, sampler(nodes[part], Draw(3, np.arange(16)[part])), strict=True):
            np.testing.assert_array_equal(hop[part], other)
    again, later = sampler(nodes, Draw(3, np.arange(16))), sampler(nodes, Draw(4, np.arange(16)))
    assert all((a == b).all() for a, b in zip(whole, again, strict=True))
    assert any((a != b).any() for a, b in zip(whole, later, strict=True))


def test_the_second_hop_are_neighbours_of_the_first():
    view = random_view()
    first, second = NeighbourSampler(view, (4, 3), (0,))(np.arange(30), Draw(0, np.arange(30)))
    for node, drawn in zip(first.ravel(), second.reshape(-1, 3), strict=True):
        own = [] if node == NOBODY else view.neighbours[view.starts[node] : view.starts[node + 1]].tolist()
        assert {*drawn.tolist()} <= {*own, NOBODY} and (drawn >= 0).sum() == min(3, len(own))


@pytest.mark.parametrize("fanouts", [(3,), (2, 5, 2)])
def test_a_memory_mapped_view_gives_the_same(tmp_path, fanouts):
    view = random_view()
    columns = []
    for name in ("starts", "neighbours"):
        np.save(tmp_path / f"{name}.npy", getattr(view, name))
        columns.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    draw = Draw(NO_STEP, np.arange(100, 130))
    found, mapped = (
        NeighbourSampler(of, fanouts, (1,))(np.arange(30), draw) for of in (view, View("friend", "user", *columns))
    )
    assert all((a == b).all() for a, b in zip(found, mapped, strict=True))
