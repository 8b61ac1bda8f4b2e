"""Another source's data as it was known at a time."""

import dataclasses
import json

import numpy as np
import pytest

from lsec_jax.config import ConfigError, SplitConfig
from lsec_jax.config_json import from_dict, to_json
from lsec_jax.data.audits import audit_splits
from lsec_jax.data.sources import lsec, period, synthetic
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError
from lsec_jax.training.workdirs import load_config
from tests import runs

TIMES = 20.0, 25.0, 30.0


@pytest.fixture(scope="module")
def world():
    return synthetic.live_tiny(LiveConfig(num_impressions=2000), seed=1).load()


@pytest.fixture(scope="module")
def cut(world):
    return period.Config(synthetic.live_tiny(), *TIMES).cut(world)


def triples(data, name, rows=slice(None)):
    """Edges in the data's own ids."""
    of = data.relations[name]
    ends = data.nodes[of.source].ids[of.source_ids[rows]], data.nodes[of.target].ids[of.target_ids[rows]]
    return sorted(zip(ends[0].tolist(), ends[1].tolist(), of.time[rows].tolist(), strict=True))


def test_edges_are_those_before_the_end_in_the_users_own_ids(world, cut):
    assert set(cut.relations) == {name for name, of in world.relations.items() if of.time is not None}
    for name in ("buy", "follow", "sell"):
        time = world.relations[name].time
        assert triples(cut, name) == triples(world, name, time < 30.0)
        bounds = zip((TRAIN, VALIDATION, TEST), ((-1, 20.0), (20.0, 25.0), (25.0, 30.0)), strict=True)
        for split, (low, high) in bounds:
            rows = cut.relations[name].split == split
            assert rows.any() and triples(cut, name, rows) == triples(world, name, (low <= time) & (time < high))


def test_nodes_that_come_later_do_not_exist_yet(world, cut):
    release = world.availability["item"].start
    assert set(cut.nodes["item"].ids) == set(world.nodes["item"].ids[release < 30.0])
    assert 0 < (release >= 30.0).sum() == len(world.nodes["item"]) - len(cut.nodes["item"])
    assert (cut.availability["item"].start < 30.0).all()
    assert cut.nodes["user"].ids.tolist() == world.nodes["user"].ids.tolist()
    at = world.nodes["item"].index_of(cut.nodes["item"].ids)
    for name, feature in cut.nodes["item"].features.items():
        np.testing.assert_array_equal(feature.values, world.nodes["item"].features[name].values[at])


def test_it_is_valid_and_audited_and_its_split_stays(cut):
    cut.validate()
    split = assign_splits(cut, SplitConfig(), ("buy", "follow"))
    audit_splits(split)
    assert split.cut_times == (20.0, 25.0) and split.end_time == 30.0
    for name, relation in split.relations.items():
        np.testing.assert_array_equal(relation.split, cut.relations[name].split)
    np.testing.assert_array_equal(split.offered("item", TEST), np.ones(len(cut.nodes["item"]), bool))


def test_the_truth_is_that_of_the_nodes_that_are_left(world, cut):
    users = np.arange(0, 200, 7)
    at = world.nodes["item"].index_of(cut.nodes["item"].ids)
    expected = world.truth.probabilities("buy", users, 25.0, 30.0)[:, at]
    np.testing.assert_array_equal(cut.truth.probabilities("buy", users, 25.0, 30.0), expected)
    assert cut.truth.relations == ("buy", "follow")


def test_what_is_left_out_is_counted(world, cut):
    assert cut.counts["friend: edges without a time, left out"] == len(world.relations["friend"])
    assert not cut.events and not cut.trees
    start = world.availability["item"].start.copy()
    start[world.relations["buy"].target_ids[world.relations["buy"].time < 30.0][0]] = 40.0
    later = dataclasses.replace(world.availability["item"], start=start)
    found = period.Config(synthetic.live_tiny(), *TIMES).cut(world.replace(availability={"item": later}))
    assert found.counts["buy: edges of nodes that are not available in the period, left out"] >= 1
    found.validate()


def test_it_does_not_depend_on_what_comes_later(world, cut):
    def without_future(relation):
        return relation if relation.time is None else relation.take(relation.time < 30.0)

    past = world.replace(relations={name: without_future(of) for name, of in world.relations.items()})
    assert period.Config(synthetic.live_tiny(), *TIMES).cut(past).fingerprint() == cut.fingerprint()


def test_its_config_is_stored_with_that_of_its_source(cut):
    config = dataclasses.replace(runs.tiny_config(), data=period.Config(runs.tiny_world(seed=3), *TIMES))
    restored = from_dict(type(config), to_json(config))
    assert restored == config and isinstance(restored.data.source, synthetic.Config)
    assert restored.data.load().fingerprint() == config.data.load().fingerprint()


def test_data_that_moved_is_found_behind_it(tmp_path):
    config = dataclasses.replace(runs.tiny_config(), data=period.Config(lsec.Config("there"), *TIMES))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    assert load_config(tmp_path, "here", ()).data.source.path == "here"
    config = dataclasses.replace(config, data=period.Config(runs.tiny_world(), *TIMES))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    with pytest.raises(ConfigError, match=r"--data=here: this run's data source \(lsec_jax.data.sources.synthetic\)"):
        load_config(tmp_path, "here", ())


@pytest.mark.parametrize("times", [(2.0, 1.0, 3.0), (1.0, 3.0, 3.0), (1.0, 2.0, np.inf), (np.nan, 2.0, 3.0)])
def test_times_must_be_in_their_order(times):
    with pytest.raises(ConfigError, match="give train_end <= test_start < end, all finite"):
        period.Config(runs.tiny_world(), *times).load()


def test_a_source_and_times_are_needed():
    with pytest.raises(ConfigError, match=r"config\.data\.source = None: give the config of a data source"):
        period.Config(None, *TIMES).load()
    data = runs.tiny_world().load()
    timeless = {name: dataclasses.replace(of, time=None) for name, of in data.relations.items()}
    with pytest.raises(DataError, match="no relation with times"):
        period.Config(runs.tiny_world(), *TIMES).cut(data.replace(relations=timeless))
