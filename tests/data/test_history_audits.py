"""Histories that know too much are found, in both layouts, whatever their owners' role and delay."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import HistoryConfig
from lsec_jax.config_json import to_json
from lsec_jax.data import columns, history_audits
from lsec_jax.data.history_audits import audit_all_histories
from lsec_jax.data.sequences import add_histories, ends_before, last_items
from lsec_jax.schema import DataError, EventNodes, Events, LiveCommerceData, NodeTable


def shares(size=400, seed=0):
    rng = np.random.default_rng(seed)
    columns_of = {"user": 7, "target_user": 7, "room": 6}
    nodes = {
        role: EventNodes(role.removeprefix("target_"), rng.integers(-1, count, size).astype(np.int32))
        for role, count in columns_of.items()
    }
    events = Events("share", nodes, np.sort(rng.integers(0, 90, size)).astype(float))
    tables = {"user": NodeTable("user", np.arange(7)), "room": NodeTable("room", np.arange(6))}
    return LiveCommerceData("toy", tables, {}, events={"share": events})


def with_history(is_materialized, **changes):
    config = HistoryConfig("h", "share", "target_user", "room", moments=("share",), delay=2.5, length=4)
    config = dataclasses.replace(config, is_materialized=is_materialized, **changes)
    return add_histories(shares(), [config])


def but(data, **changes):
    return data.replace(histories={"h": dataclasses.replace(data.histories["h"], **changes)})


@pytest.mark.parametrize("is_materialized", [False, True])
def test_derived_histories_pass_and_blocks_do_not_count(is_materialized, monkeypatch):
    data = with_history(is_materialized)
    data.validate()
    audit_all_histories(data)
    monkeypatch.setattr(history_audits, "blocks", lambda rows: columns.blocks(rows, 7))
    audit_all_histories(data)


def test_ends_that_take_in_what_is_not_known_yet_are_found():
    data = with_history(False)
    of, events = data.histories["h"], data.events["share"]
    too_late = ends_before(of, events.ids("target_user"), events.time, 0.0)  # as if all were known at once
    count = int((too_late > of.ends["share"]).sum())
    assert count
    with pytest.raises(DataError, match=rf"'h', moments 'share': {count} see a behaviour .*, known 2.5 later"):
        audit_all_histories(but(data, ends={"share": too_late}))
    # Without a delay nothing is wrong with them.
    audit_all_histories(but(data, ends={"share": too_late}, delay=0.0))


def test_last_items_that_take_in_what_is_not_known_yet_are_found(monkeypatch):
    monkeypatch.setattr(history_audits, "blocks", lambda rows: columns.blocks(rows, 64))
    data = with_history(True)
    of, events = data.histories["h"], data.events["share"]
    owners = events.ids("target_user")
    late = last_items(of, owners, ends_before(of, owners, events.time, 0.0), 4)
    wrong = np.flatnonzero((late != of.last["share"]).any(axis=1))
    with pytest.raises(DataError, match=rf"'share': {len(wrong)} have other last items .* e.g. row {wrong[0]}$"):
        audit_all_histories(but(data, last={"share": late}))
    with pytest.raises(DataError, match="do not say which events they come from"):
        audit_all_histories(but(data, events=""))


def test_stores_without_the_settings_are_audited_by_what_they_were_prepared_with():
    config = HistoryConfig("h", "share", "target_user", "room", moments=("share",), delay=2.5, length=4)
    config = dataclasses.replace(config, is_materialized=True)
    data = add_histories(shares(), [config])
    audit_all_histories(
        but(data, owner_role="", events="", delay=0.0).replace(prepared_with={"histories": [to_json(config)]})
    )


def test_behaviours_of_another_owner_or_time_are_found():
    data = with_history(False)
    of = data.histories["h"]
    with pytest.raises(DataError, match="behaviours have another owner than their events 'share'"):
        audit_all_histories(but(data, rows=np.roll(of.rows, 30)))
    earlier = of.times - 30.0
    with pytest.raises(DataError, match=rf": {len(earlier)} behaviours have another time"):
        audit_all_histories(but(data, times=earlier))


def changed(values, at, value):
    values = values.copy()
    values[at] = value
    return values


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("starts", lambda of: of.starts[:-1], r"column 'starts': shape \(7,\), starts are one int64 for each of the 7"),
        ("starts", lambda of: changed(of.starts, 0, 1), "column 'starts': they do not rise from 0 to"),
        ("items", lambda of: changed(of.items, 3, 6), "column 'items', row 3: room index 6 outside 0..5"),
        ("items", lambda of: of.items.astype(np.int64), "column 'items': int64; but there are"),
        ("rows", lambda of: of.rows[:-1], "column 'rows': shape"),
        ("rows", lambda of: changed(of.rows, 2, 400), "column 'rows', row 2: row 400 of 'share' outside 0..399"),
        ("times", lambda of: changed(of.times, 2, np.nan), "column 'times', row 2: nan is not finite"),
        ("times", lambda of: changed(of.times, 2, -1.0), "column 'times', row 2: -1.0 comes after"),
        ("ends", lambda of: {"share": of.ends["share"][1:]}, r"column 'ends/share': shape \(399,\), but there are 400"),
        ("ends", lambda of: {"share": changed(of.ends["share"], 5, 10**6)}, "column 'ends/share', row 5: 1000000"),
        ("ends", lambda of: {"gift": of.ends["share"]}, r"moments 'gift' are no events \(tables: share\)"),
        ("last", lambda of: {"share": np.full((400, 2), 6, np.int32)}, "column 'last/share', row 0 and 399 more: room"),
        ("last", lambda of: {"share": np.full((9, 2), 0, np.int32)}, "column 'last/share': shape"),
        ("owner_role", lambda of: "buyer", "moments 'share' have no owners 'buyer'"),
        ("owner_role", lambda of: "room", "moments 'share' have owners of type 'room', not 'user'"),
        ("events", lambda of: "gift", "column 'rows': no events 'gift'"),
        ("delay", lambda of: -1.0, "column 'delay': -1.0; give a finite time"),
        ("owner", lambda of: "buyer", "no node table 'buyer'"),
    ],
)
def test_histories_of_another_form_or_that_point_at_nothing_are_refused(column, change, message):
    data = with_history(False)
    broken = but(data, **{column: change(data.histories["h"])})
    with pytest.raises(DataError, match=f"histories 'h'.*{message}"):
        broken.validate()
    with pytest.raises(DataError, match=f"histories 'h'.*{message}"):
        audit_all_histories(broken)


def test_an_owner_may_begin_before_the_one_before_has_ended():
    of = with_history(False).histories["h"]
    assert (np.diff(of.times) < 0).any()
    with_history(False).validate()
