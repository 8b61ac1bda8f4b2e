"""Batches of recent edges with a share of older ones."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import ConfigError, ReplayConfig, validate
from lsec_jax.data.batches import EdgeBatches
from lsec_jax.data.replay import ReplayBatches, replay_batches
from lsec_jax.schema import TRAIN, LiveCommerceData, NodeTable, Relation
from lsec_jax.training import run
from tests import runs

NUM_EDGES = 100


def is_recent(num_recent=30):
    return np.random.default_rng(0).permutation(NUM_EDGES) < num_recent


@pytest.mark.parametrize(
    ("num_recent", "share", "sizes"),
    [(30, 0.25, (15, 5)), (30, 0.0, (20, 0)), (100, 0.25, (20, 0)), (97, 0.25, (17, 3)), (8, 0.25, (8, 5))],
)
def test_a_batch_has_the_share_of_older_edges_as_far_as_there_are_so_many(num_recent, share, sizes):
    mask = is_recent(num_recent)
    batches = ReplayBatches(mask, 20, share, (0, 1))
    assert (batches.num_recent, batches.num_older) == sizes
    for step in range(7):
        batch = batches(step)
        assert batch.dtype == np.int32 and len(batch) == sum(sizes)
        assert mask[batch[: sizes[0]]].all() and not mask[batch[sizes[0] :]].any()


def test_each_part_goes_through_all_its_edges_before_one_comes_again():
    mask = is_recent()
    batches = ReplayBatches(mask, 20, 0.5, (0, 1))
    drawn = np.concatenate([batches(step) for step in range(21)])
    counts = np.bincount(drawn, minlength=NUM_EDGES)
    assert (counts[mask] == 7).all() and (counts[~mask] == 3).all()


def test_batches_are_a_function_of_seed_and_step():
    def make(seed):
        return ReplayBatches(is_recent(), 20, 0.25, (seed, 1))

    late = make(0)(50)
    ordered = make(0)
    np.testing.assert_array_equal([ordered(step) for step in range(51)][-1], late)
    assert not np.array_equal(make(1)(50), late)


def dataset(times, cut=None):
    edges = np.arange(len(times), dtype=np.int32)
    nodes = {name: NodeTable(name, np.arange(len(times))) for name in ("user", "item")}
    split = np.zeros(len(times), np.int8) if cut is None else (np.asarray(times) >= cut).astype(np.int8)
    # Later edges come first, so that positions in the order of `edges` are not those of the table.
    relation = Relation("buy", "user", "item", edges[::-1].copy(), edges, np.asarray(times, float), split=split)
    return LiveCommerceData("toy", nodes, {"buy": relation}, cut_times=None if cut is None else (cut, cut))


def test_the_window_ends_with_training_and_positions_are_those_of_the_training_edges():
    times = [0.0, 9.0, 3.0, 4.9, 5.0, 7.0]
    for cut, recent in ((8.0, {4.9, 5.0, 7.0}), (None, {9.0, 7.0})):
        data = dataset(times, cut)
        batches = replay_batches(data, "buy", ReplayConfig(3.1, 0.25), 4, (0, 1))
        of_edges = data.relations["buy"].edge_times(TRAIN)
        found = {of_edges[at] for step in range(20) for at in batches(step)[: batches.num_recent]}
        assert found == recent
        assert {of_edges[at] for step in range(20) for at in batches(step)} == set(of_edges)


def test_what_cannot_be_replayed_is_refused():
    data = dataset([0.0, 1.0, 5.0], cut=4.0)
    with pytest.raises(ConfigError, match=r"no training edge of 'buy' is so new; the newest is of 1\.0, .* at 4\.0"):
        replay_batches(data, "buy", ReplayConfig(2.5), 2, (0,))
    with pytest.raises(ConfigError, match=r"share = 0\.1 of config\.training\.batch_size = 2 rounds to 0 edges"):
        replay_batches(data, "buy", ReplayConfig(3.5, 0.1), 2, (0,))
    buy = dataclasses.replace(data.relations["buy"], time=None)
    with pytest.raises(ConfigError, match=r"'buy' has no times \(relations with times: none\)"):
        replay_batches(data.replace(relations={"buy": buy}), "buy", ReplayConfig(1.0), 2, (0,))


@pytest.mark.parametrize(
    ("replay", "expected"),
    [
        ({"window": -1.0}, "window = -1.0 must be finite"),
        ({"window": float("nan")}, "must be finite"),
        ({"window": 1.0, "share": 1.0}, r"share = 1\.0 must be in \[0, 1\)"),
        ({"share": 0.5}, "without a window no edge is older"),
    ],
)
def test_settings_that_mean_nothing_are_refused(replay, expected):
    config = dataclasses.replace(runs.tiny_config(), replay=ReplayConfig(**replay))
    with pytest.raises(ConfigError, match=expected):
        validate(config)


def test_a_run_trains_on_the_window_and_its_graph_keeps_all_edges():
    config = dataclasses.replace(runs.tiny_config(), replay=ReplayConfig(window=10.0, share=0.2))
    whole, prepared = run.prepare(runs.tiny_config()), run.prepare(config)
    times = prepared.data.relations["buy"].edge_times(TRAIN)
    is_new = times >= prepared.data.cut_times[0] - 10.0
    for step in range(5):
        batch = prepared.batch_at()(step)["buy"]
        assert is_new[batch].sum() == 40 and len(batch) == 50
    assert isinstance(next(iter(prepared.inputs.graphs.values())), type(next(iter(whole.inputs.graphs.values()))))
    assert len(prepared.inputs.positives["buy"].source_ids) == len(times)
    late = dataclasses.replace(config, replay=ReplayConfig(window=1e-9))
    with pytest.raises(ConfigError, match="so new"):
        run.prepare(late)


def test_without_a_window_batches_are_as_they_were():
    batch = run.prepare(runs.tiny_config()).batch_at()(3)["buy"]
    np.testing.assert_array_equal(batch, EdgeBatches(560, 50, (0, 1))(3))
