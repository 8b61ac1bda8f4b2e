"""Neighbours and paths in encoded batches."""

import dataclasses
import json

import numpy as np
import pytest

from lsec_jax.config import ConfigError, ViewConfig
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.neighbours import Draw
from lsec_jax.data.views import add_views
from lsec_jax.declaration import Declaration, Field, Label, Neighbourhood, Path, Table
from lsec_jax.schema import DataError, EventNodes, Events, LiveCommerceData, NodeTable, Relation, Tree

NUM_USERS = 12
#        0 root, 1-2 below it, 3-5 leaves below 1, 6 leaf below 2, 7 below 3
PARENTS = np.array([-1, 0, 0, 1, 1, 1, 2, 3], np.int32)


def data(num_rows=40, seed=0):
    """Suggestions among users; training shows the scenarios 3, 4 and 6 and the users up to 7."""
    rng = np.random.default_rng(seed)
    links = rng.integers(0, NUM_USERS - 1, (2, 30)).astype(np.int32)  # the last user has no neighbours
    num_train = num_rows // 2
    users = np.r_[rng.integers(0, 8, num_train), rng.integers(0, NUM_USERS, num_rows - num_train)].astype(np.int32)
    targets = ((users + 1 + rng.integers(0, 6, num_rows)) % NUM_USERS).astype(np.int32)
    scenarios = np.r_[rng.choice([3, 4, 6], num_train), rng.integers(-1, 8, num_rows - num_train)].astype(np.int32)
    roles = {
        "user": EventNodes("user", users),
        "target_user": EventNodes("user", targets),
        "scenario": EventNodes("scenario", scenarios),
    }
    users[-1] = NUM_USERS - 1
    split = np.repeat([0, 2], [num_train, num_rows - num_train]).astype(np.int8)
    answers = {"accepted": rng.random(num_rows) < 0.5}
    table = Events("suggestion", roles, 1 + np.arange(num_rows, dtype=float), answers, split=split)
    nodes = {
        "user": NodeTable("user", np.array([f"u{i}" for i in range(NUM_USERS)])),
        "scenario": NodeTable("scenario", 100 + np.arange(len(PARENTS))),
    }
    pay = Relation("pay", "user", "user", *links, time=np.zeros(30))
    world = LiveCommerceData(
        "toy", nodes, {"pay": pay}, events={"suggestion": table}, trees={"scenario": Tree(PARENTS)}
    )
    return add_views(world, (ViewConfig("pay", "pay"),), "suggestion")


def declaration(**changes):
    own = Declaration(
        events="suggestion",
        target="target_user",
        tables=(Table("user", has_all=True),),
        fields=(
            Field("user_id", "user", "context", table="user"),
            Field("target_id", "target_user", "target", table="user"),
            Field("scenario_id", "scenario", "dynamic"),
        ),
        neighbourhoods=(
            Neighbourhood("near_user", "pay", "user", fanouts=(3, 2)),
            Neighbourhood("near_target", "pay", "target_user", fanouts=(2,)),
        ),
        paths=(Path(hide_rate=0.5),),
        labels=(Label("accepted", "accepted"),),
    )
    return dataclasses.replace(own, **changes)


ROWS = np.arange(40)


def test_neighbours_lie_where_the_layout_says_and_are_those_of_the_view():
    world = data()
    encoder = EventEncoder(world, declaration())
    ids = encoder.encode(ROWS)["ids"]["user"]
    near_user, near_target = encoder.layout.neighbourhoods
    assert encoder.layout.num_slots("user") == ids.shape[1] == 2 + 9 + 2 == near_target.stop
    assert near_user.hops == ((2, 5), (5, 11)) and near_target.hops == ((11, 13),)
    events, view = world.events["suggestion"], world.views["pay"]
    for of, role in ((near_user, "user"), (near_target, "target_user")):
        np.testing.assert_array_equal(ids[:, of.own], events.ids(role) + 1)  # every user has a row, in their order
        at = events.ids(role)[:, None]
        for (start, stop), fanout in zip(of.hops, of.fanouts, strict=True):
            found = ids[:, start:stop] - 1
            for node, drawn in zip(at.ravel(), found.reshape(-1, fanout), strict=True):
                own = [] if node < 0 else view.neighbours[view.starts[node] : view.starts[node + 1]].tolist()
                assert {*drawn[drawn >= 0].tolist()} <= {*own} and (drawn >= 0).sum() == min(fanout, len(own))
            at = found
    assert (events.ids("user") == NUM_USERS - 1).any()  # somebody without neighbours was among them


def test_users_whom_only_views_show_have_rows_only_in_a_table_of_all():
    world = data()
    some = EventEncoder(world, declaration(tables=(Table("user"),)))
    assert some.layout.table("user").num_rows < 1 + NUM_USERS
    ids = some.encode(ROWS)["ids"]["user"]
    known = {*some.table_ids()["user"].tolist()}
    events, near = world.events["suggestion"], some.layout.neighbourhoods[1]
    names = np.append("", some.table_ids()["user"])[ids[:, near.start : near.stop]]
    assert {*np.unique(names)} <= known | {""}
    everyone = EventEncoder(world, declaration())
    assert everyone.table_ids()["user"].tolist() == world.nodes["user"].ids.tolist()
    hidden = everyone.encode(ROWS)["ids"]["user"][:, near.start : near.stop]
    assert (ids[:, near.start : near.stop] > 0).sum() < (hidden > 0).sum() and len(events) == 40


def test_training_draws_anew_each_step_and_scoring_never():
    encoder = EventEncoder(data(), declaration(), seed=3)
    once, again = (encoder.encode(ROWS)["ids"] for _ in range(2))
    reverse = encoder.encode(ROWS[::-1])["ids"]
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
        np.testing.assert_array_equal(once[name], reverse[name][::-1])  # whatever rows are beside it
    steps = [encoder.encode(ROWS, Draw(step, np.arange(40)))["ids"] for step in (0, 1, 0)]
    for name in ("user", "path"):
        assert (steps[0][name] != steps[1][name]).any()
        np.testing.assert_array_equal(steps[0][name], steps[2][name])
    part = encoder.encode(ROWS[10:20], Draw(1, np.arange(10, 20)))["ids"]
    assert all((part[name] == steps[1][name][10:20]).all() for name in part)
    # A node that is only scored has the same neighbours in every row and role.
    events, layouts = data().events["suggestion"], encoder.layout.neighbourhoods
    drawn = {}
    for of, role in zip(layouts, ("user", "target_user"), strict=True):
        start, stop = of.hops[0]
        for node, near in zip(events.ids(role).tolist(), once["user"][:, start:stop].tolist(), strict=True):
            assert drawn.setdefault((role, node), near) == near
    other = EventEncoder(data(), declaration(), seed=4).encode(ROWS, Draw(0, np.arange(40)))["ids"]
    assert (other["user"] != steps[0]["user"]).any() and (other["path"] != steps[0]["path"]).any()


def test_paths_end_with_an_unknown_child_where_training_knows_no_more():
    world = data()
    encoder = EventEncoder(world, declaration())
    found, scenarios = encoder.encode(ROWS)["ids"]["path"], world.events["suggestion"].ids("scenario")
    unknown = 1 + len(PARENTS) + np.arange(4)  # rows of the unknown children by level
    wanted = {-1: [0, 0, 0, 0], 0: [1, 0, 0, 0], 3: [1, 2, 4, 0], 6: [1, 3, 7, 0]}
    wanted |= {5: [1, 2, unknown[2], 0], 7: [1, 2, 4, unknown[3]], 1: [1, 2, 0, 0]}
    for scenario, path in wanted.items():
        assert (found[scenarios == scenario] == path).all()
    assert encoder.layout.table("path").num_rows == 1 + 8 + 4
    names = encoder.table_ids()["path"]
    assert names[0] == "100" and names[8:].tolist() == [f"unknown child of level {level}" for level in range(4)]


def test_hidden_nodes_are_drawn_at_the_rate_and_never_the_only_root():
    world = data(4000)
    encoder = EventEncoder(world, declaration(paths=(Path(hide_rate=0.3),)))
    rows = np.arange(2000)
    found = encoder.encode(rows, Draw(0, rows))["ids"]["path"]
    assert (found[:, 0] == 1).all()
    assert (found[:, 1] == 1 + 8 + 1).mean() == pytest.approx(0.3, abs=0.04)
    assert (found[:, 2] == 1 + 8 + 2).mean() == pytest.approx(0.7 * 0.3, abs=0.04)
    never = EventEncoder(world, declaration(paths=(Path(hide_rate=0.0),)))
    plain = never.encode(rows, Draw(0, rows))["ids"]["path"]
    np.testing.assert_array_equal(plain, encoder.encode(rows)["ids"]["path"])


def test_what_was_learned_serves_other_encoders():
    world = data()
    first = EventEncoder(world, declaration())
    stored = json.loads(json.dumps(first.fitted))
    later = dataclasses.replace(world.events["suggestion"], split=np.zeros(40, np.int8))  # would show other scenarios
    second = EventEncoder(world.replace(events={"suggestion": later}), declaration(), stored)
    for name, ids in first.encode(ROWS)["ids"].items():
        np.testing.assert_array_equal(ids, second.encode(ROWS)["ids"][name])
    reading = first.reading(world, "suggestion")
    np.testing.assert_array_equal(reading.encode(ROWS)["ids"]["user"], first.encode(ROWS)["ids"]["user"])
    # Other data have the scenarios in another order, and one more: rows go by ids.
    order = np.array([0, 2, 1, 6, 5, 4, 3, 7])
    place = np.argsort(order)
    parents = np.r_[np.where(PARENTS[order] < 0, -1, place[PARENTS[order]]), 7].astype(np.int32)
    events = world.events["suggestion"]
    old = events.ids("scenario")
    moved = EventNodes("scenario", np.where(old >= 0, place[old], -1).astype(np.int32))
    nodes = {**world.nodes, "scenario": NodeTable("scenario", np.append(100 + order, 300))}
    changed = dataclasses.replace(events, nodes={**events.nodes, "scenario": moved})
    shuffled = world.replace(nodes=nodes, events={"suggestion": changed}, trees={"scenario": Tree(parents)})
    third = EventEncoder(shuffled, declaration(), stored)
    np.testing.assert_array_equal(third.encode(ROWS)["ids"]["path"], first.encode(ROWS)["ids"]["path"])
    assert third.layout == first.layout
    deeper = third.scenario_paths["path"].rows[-1]
    assert deeper.tolist() == first.scenario_paths["path"].rows[7].tolist()  # below what the table has levels for
    del stored["paths"]
    with pytest.raises(ConfigError, match="has paths of: none; the declaration needs those of: path"):
        EventEncoder(world, declaration(), stored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbourhoods": (Neighbourhood("n", "paid"),)}, "has no view 'paid'; it has: pay"),
        ({"neighbourhoods": (Neighbourhood("n", ""),)}, r"neighbourhoods\[0\]\.view is empty"),
        ({"neighbourhoods": (Neighbourhood("n", "pay", fanouts=()),)}, r"fanouts = \(\): give at least one"),
        ({"neighbourhoods": (Neighbourhood("n", "pay", fanouts=(2, 0)),)}, r"fanouts = \(2, 0\): give at least one"),
        ({"neighbourhoods": (Neighbourhood("n", "pay", table="users"),)}, "table = 'users': no field shows the id of"),
        ({"neighbourhoods": (Neighbourhood("n", "pay", "friend"),)}, "no field shows the id of 'friend'"),
        ({"neighbourhoods": (Neighbourhood("n", "pay"), Neighbourhood("n", "pay"))}, "give each a name of its own"),
        ({"paths": (Path(role="room"),)}, "have no 'room'"),
        ({"paths": (Path(role="user"),)}, "has no tree over 'user'; it has: scenario"),
        ({"paths": (Path("user"),)}, "'user' is a table already"),
        ({"paths": (Path(hide_rate=1.0),)}, r"hide_rate = 1\.0; give a chance"),
        ({"tables": (Table("user", has_all=True, min_count=2),)}, "has_all: every id has a row"),
    ],
)
def test_what_is_declared_wrongly_is_named(changes, message):
    with pytest.raises((ConfigError, DataError), match=message):
        EventEncoder(data(), declaration(**changes))


def test_a_role_of_another_type_than_the_view_is_named():
    wrong = declaration(
        tables=(*declaration().tables, Table("place")),
        fields=(*declaration().fields, Field("place_id", "scenario", "dynamic", table="place")),
        neighbourhoods=(Neighbourhood("n", "pay", "scenario", "place"),),
    )
    with pytest.raises(ConfigError, match="role = 'scenario' is of type scenario, but the view 'pay' is of user"):
        EventEncoder(data(), wrong)
