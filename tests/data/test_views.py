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


def audited(linked, accepted, split=None):
    """What the audit says of a view with some links, where forty pairs are suggested twice."""
    users, targets = np.tile(np.arange(40, dtype=np.int32), 2), np.tile(np.arange(40, 80, dtype=np.int32), 2)
    roles = {"user": EventNodes("user", users), "target_user": EventNodes("user", targets)}
    table = Events("suggestion", roles, np.arange(80.0), {"accepted": accepted}, split=split)
    view = view_of("trust", users[linked], targets[linked], 80)
    world = LiveCommerceData(
        "w", {"user": NodeTable("user", np.arange(80))}, {}, events={"suggestion": table}, views={"trust": view}
    )
    return audit_views(world, "suggestion", ("user", "target_user"), "accepted")


def test_the_audit_finds_labels_in_a_view_though_the_same_pairs_were_refused_before():
    accepted = np.r_[np.zeros(40, bool), np.arange(40) < 20]  # refused at first, half of them accepted later
    (problem,) = audited(np.arange(20), accepted)
    assert "view 'trust' holds labels: of the pairs of events 'suggestion' in all rows, 20 that are" in problem
    assert "e.g. (0, 40), and none of those that never are" in problem
    assert audited(np.arange(21), accepted) == []  # one link of a pair that was never accepted: no copy of the labels
    assert audited(np.arange(9), accepted) == audited(np.arange(0), accepted) == []
    assert audited(np.arange(40), np.ones(80, bool)) == []  # nothing was refused: nothing can be told


def test_the_audit_finds_labels_of_one_split():
    accepted = np.r_[np.arange(40) < 20, np.zeros(40, bool)]
    linked = np.r_[np.arange(20), 35]  # what training accepts, and a pair that only other rows show
    assert audited(linked, accepted) == []
    split = np.r_[np.repeat([0, 1], [30, 10]), np.full(40, 2)].astype(np.int8)
    (problem,) = audited(linked, accepted, split)
    assert "of the pairs of events 'suggestion' in 'train', 20 that are positive" in problem


def test_views_of_other_nodes_than_the_pairs_are_not_looked_at():
    world = add_views(data(), (ViewConfig("pay", "pay"),), "suggestion")
    assert audit_views(world, "suggestion", ("user", "target_user"), "accepted") == []


def test_what_a_view_holds_is_validated():
    world = add_views(data(), (ViewConfig("pays", "pay"),), "suggestion")
    world.validate()
    good = world.views["pays"]
    for changes, message in (
        ({"starts": good.starts[:-1]}, "view 'pays'.*starts.*give one int64 for each of the 6 nodes, and one more"),
        ({"starts": good.starts[::-1].copy()}, "starts"),
        ({"starts": good.starts + np.r_[0, 0, 0, 0, 0, 0, 1]}, "goes from 0 to 5, not from 0 to 4"),
        ({"neighbours": good.neighbours - 1}, "node -1 is none of the 6 nodes"),
        ({"neighbours": good.neighbours + 5}, "is none of the 6 nodes"),
        ({"neighbours": good.neighbours.astype(np.int64)}, "give one int32 for each link"),
        ({"neighbours": np.array([1, 2, 0, 1], np.int32)}, "is not above the one before it in its row"),
        ({"node_type": "room"}, "no such node table"),
    ):
        with pytest.raises(DataError, match=message):
            world.replace(views={"pays": dataclasses.replace(good, **changes)}).validate()


def test_runs_on_other_views_have_other_fingerprints():
    world = data()
    both, one = (
        add_views(world, (ViewConfig("pays", "pay", is_both_ways=of),), "suggestion").fingerprint()
        for of in (True, False)
    )
    assert len({both, one, world.fingerprint()}) == 3
    assert add_views(world, (), "suggestion").fingerprint() == world.fingerprint()


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
