"""Views of a user-user graph, derived from relations."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import ConfigError, RunConfig, SplitConfig, ViewConfig, validate
from lsec_jax.data import preparation, views
from lsec_jax.data.sources import prepared, synthetic
from lsec_jax.data.splits import assign_splits
from lsec_jax.data.views import add_views, are_linked, audit_views, view_of, window_start
from lsec_jax.schema import DataError, EventNodes, Events, LiveCommerceData, NodeTable, Relation
from lsec_jax.schema.needs import Needs


def data(**changes):
    """Six users, links of two relations, and suggestions from time 5 on."""
    user = NodeTable("user", np.array([f"u{i}" for i in range(6)]))
    ends = np.array([0, 1, 2, 0, 3], np.int32), np.array([1, 2, 0, 1, 3], np.int32)
    pay = Relation("pay", "user", "user", *(of[[0, 1, 2]] for of in ends), time=np.array([1.0, 4.9, 5.0]))
    friend = Relation("friend", "user", "user", *(of[[0, 1, 2]] for of in ends))
    own = Relation("own", "user", "item", np.array([0], np.int32), np.array([0], np.int32), time=np.array([1.0]))
    roles = {
        "user": EventNodes("user", np.array([0, 0, 1, 1], np.int32)),
        "target_user": EventNodes("user", np.array([1, 3, 2, 5], np.int32)),
    }
    table = Events(
        "suggestion",
        roles,
        np.array([5.0, 5.0, 6.0, 7.0]),
        {"accepted": np.array([True, False, True, False])},
        split=np.array([0, 0, 1, 2], np.int8),
    )
    nodes = {"user": user, "item": NodeTable("item", np.array([0]))}
    relations = {"pay": pay, "friend": friend, "own": own}
    return dataclasses.replace(LiveCommerceData("six", nodes, relations, events={"suggestion": table}), **changes)


def neighbours_of(view):
    return [view.neighbours[a:b].tolist() for a, b in zip(view.starts, view.starts[1:], strict=False)]


@pytest.mark.parametrize("is_both_ways", [True, False])
def test_neighbours_are_those_of_the_links_each_once(is_both_ways):
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(0, 27, (2, 90))
    wanted = {node: set() for node in range(30)}
    for a, b in zip(sources, targets, strict=True):
        if a != b:
            wanted[a].add(b)
            if is_both_ways:
                wanted[b].add(a)
    view = view_of("friend", sources, targets, 30, is_both_ways)
    assert len(view) == 30 and neighbours_of(view) == [sorted(wanted[node]) for node in range(30)]


def test_links_out_of_range_are_named():
    with pytest.raises(DataError, match="view 'pay', link 1: node 4 is none of the 4 nodes"):
        view_of("pay", np.array([0, 4]), np.array([1, 1]), 4)
    assert len(view_of("pay", np.zeros(0, int), np.zeros(0, int), 0)) == 0


def test_links_of_the_training_window_are_left_out_and_counted():
    found = add_views(data(), (ViewConfig("pays", "pay"),), "suggestion")
    assert window_start(data(), "suggestion") == 5.0
    assert neighbours_of(found.view_of("pays")) == [[1], [0, 2], [1], [], [], []]
    assert found.counts["view pays: links of the training window or later left out"] == 1
    one_way = add_views(data(), (ViewConfig("pays", "pay", is_both_ways=False),), "suggestion")
    assert neighbours_of(one_way.view_of("pays")) == [[1], [2], [], [], [], []]


def test_a_relation_without_times_is_taken_only_where_the_config_says_that_it_is_from_before():
    with pytest.raises(ConfigError, match=r"config\.views\[0\]\.relation = 'friend' has no times.*set is_timeless"):
        add_views(data(), (ViewConfig("friend", "friend"),), "suggestion")
    found = add_views(data(), (ViewConfig("friend", "friend", is_timeless=True),), "suggestion")
    assert neighbours_of(found.view_of("friend")) == [[1, 2], [0, 2], [0, 1], [], [], []]
    with pytest.raises(ConfigError, match=r"config\.views\[0\]\.is_timeless: relation 'pay' has times"):
        add_views(data(), (ViewConfig("pay", "pay", is_timeless=True),), "suggestion")


def test_what_cannot_be_a_view_is_named():
    for config, message in (
        (ViewConfig("pay", "paid"), "relation 'paid' is not in data set 'six'"),
        (ViewConfig("own", "own"), r"config\.views\[0\]\.relation = 'own' is between 'user' and 'item'"),
        (ViewConfig("../pay", "pay"), r"config\.views\[0\]\.name = '\.\./pay'"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            add_views(data(), (config,), "suggestion")
    with pytest.raises(DataError, match="no events 'share'"):
        add_views(data(), (ViewConfig("pay", "pay"),), "share")
    with pytest.raises(DataError, match="data set 'six' has no view 'pay'; it has: none"):
        data().view_of("pay")
    late = dataclasses.replace(data().relations["pay"], time=np.array([5.0, 6.0, 7.0]))
    with pytest.raises(DataError, match="view 'pay': none of the 3 links of relation 'pay' is from before"):
        add_views(data(relations={"pay": late}), (ViewConfig("pay", "pay"),), "suggestion")
    config = RunConfig(data=None, model=None, views=(ViewConfig("a", "pay"), ViewConfig("a", "pay")))
    with pytest.raises(ConfigError, match=r"config\.views\[1\]\.name = 'a': give each a name of its own"):
        validate(config)


def test_pairs_are_linked_in_either_direction():
    rng = np.random.default_rng(1)
    sources, targets = rng.integers(0, 20, (2, 40))
    view = view_of("v", sources, targets, 25, is_both_ways=False)
    links = {(a, b) for a, b in zip(sources.tolist(), targets.tolist(), strict=True) if a != b}
    first, second = rng.integers(-1, 25, (2, 500))
    wanted = [(a, b) in links or (b, a) in links for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert are_linked(view, first, second).tolist() == wanted and any(wanted)
    assert not are_linked(view_of("v", sources[:0], targets[:0], 25), first, second).any()


def audited(num_positive, num_negative):
    """What the audit says of a view that links so many of the positive pairs and of the negative ones."""
    users, targets = np.arange(40, dtype=np.int32), np.arange(40, 80, dtype=np.int32)
    accepted = np.arange(40) < 20
    roles = {"user": EventNodes("user", users), "target_user": EventNodes("user", targets)}
    table = Events("suggestion", roles, np.arange(40.0), {"accepted": accepted}, split=np.zeros(40, np.int8))
    linked = np.r_[np.arange(num_positive), np.arange(20, 20 + num_negative)]
    view = view_of("trust", users[linked], targets[linked], 80)
    world = LiveCommerceData(
        "w", {"user": NodeTable("user", np.arange(80))}, {}, events={"suggestion": table}, views={"trust": view}
    )
    return audit_views(world, "suggestion", ("user", "target_user"), "accepted")


def test_the_audit_finds_labels_in_a_view_and_no_coincidence():
    (problem,) = audited(12, 0)
    assert "view 'trust' holds labels: 12 pairs of events 'suggestion'" in problem and "(0, 40) of row 0" in problem
    assert audited(12, 1) == audited(9, 0) == audited(0, 0) == []


@dataclasses.dataclass
class Model:
    """What preparing asks of a model."""

    task_tables = ("share",)
    needs = Needs(events={"share": ("accepted",)})


def prepare_config(**changes):
    world = synthetic.live_tiny()
    config = RunConfig(
        data=world,
        model=Model(),
        split=SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)),
        views=(ViewConfig("pays", "pay"), ViewConfig("friends", "friend", is_timeless=True)),
    )
    return dataclasses.replace(config, **changes)


def test_prepared_views_are_mapped_and_equal_those_of_a_run(tmp_path):
    config = prepare_config()
    text = preparation.run(config, tmp_path / "prepared")
    assert "view pays: user - user" in text
    loaded = assign_splits(prepared.Config(str(tmp_path / "prepared"), verify=True).load(), config.split, ("share",))
    direct = add_views(assign_splits(config.data.load(), config.split, ("share",)), config.views, "share")
    again = add_views(loaded, config.views, "share")
    for name, view in direct.views.items():
        stored = again.view_of(name)
        assert isinstance(stored.neighbours, np.memmap) and stored.node_type == view.node_type == "user"
        np.testing.assert_array_equal(stored.starts, view.starts)
        np.testing.assert_array_equal(stored.neighbours, view.neighbours)
    with pytest.raises(ConfigError, match=r"view 'pays' of data set .* was prepared otherwise"):
        add_views(loaded, (ViewConfig("pays", "pay", is_both_ways=False),), "share")
    # A view that was not prepared is derived.
    assert len(add_views(loaded, (ViewConfig("more", "pay"),), "share").view_of("more").neighbours)


def test_data_that_were_prepared_without_views_are_read_as_before(tmp_path):
    preparation.run(prepare_config(views=()), tmp_path / "prepared")
    loaded = prepared.Config(str(tmp_path / "prepared")).load()
    assert loaded.views == {} and "views" not in loaded.prepared_with
    assert views.add_views(loaded, (), "share") is loaded
