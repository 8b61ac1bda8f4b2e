"""What an encoder learns: of training rows and what they could see, and of nothing else."""

import dataclasses

import numpy as np

from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.splits import event_rows
from lsec_jax.declaration import Declaration, Table
from lsec_jax.schema import TRAIN
from tests.data.encoded_worlds import FIELDS, HISTORIES, LABELS, columns_of, declaration, world


def test_ids_that_training_shows_seldom_or_never_have_row_0_and_are_counted():
    data = world()
    shown = data.events["impression"]
    train = event_rows(data, shown, TRAIN)
    later = np.arange(train.stop, 1_500)
    fields = tuple(dataclasses.replace(field, table="") for field in FIELDS)
    plain = EventEncoder(data, Declaration(fields=fields, labels=LABELS))
    rooms = shown.ids("room")
    in_training = {*rooms[train]}
    batch = plain.encode(np.arange(1_500))
    is_new = np.array([room not in in_training for room in rooms])
    assert 0 < is_new.sum() < len(later)
    np.testing.assert_array_equal(columns_of(plain, batch, "room")[:, 0] == 0, is_new)
    assert plain.unknown(later)["room"] == is_new.sum()
    assert plain.unknown(np.arange(train.stop))["room"] == 0
    known = columns_of(plain, batch, "room")[train, 0]
    assert {*known} == {*range(1, plain.layout.table("room").num_rows)}  # each row has an id that training shows

    tables = (Table("room", min_count=4), Table("streamer", max_size=5))
    fields = tuple(dataclasses.replace(f, table=f.name if f.name in ("room", "streamer") else "") for f in FIELDS)
    fewer = EventEncoder(data, Declaration(tables=tables, fields=fields, labels=LABELS))
    counts = np.bincount(rooms[train], minlength=len(data.nodes["room"]))
    found = columns_of(fewer, fewer.encode(np.arange(1_500)), "room")[:, 0]
    np.testing.assert_array_equal(found > 0, counts[rooms] >= 4)
    streamers = shown.ids("streamer")
    counts = np.bincount(streamers[train], minlength=len(data.nodes["streamer"]))
    order = np.argsort(-counts, kind="stable")[:5]
    assert fewer.fitted["vocabularies"]["streamer"] == data.nodes["streamer"].ids[order].tolist()
    assert fewer.layout.table("streamer").num_rows == 6


def test_behaviours_that_no_training_row_could_see_have_no_row():
    data = world()
    encoder = EventEncoder(data, declaration())
    clicks, shown = data.events["product_click"], data.events["impression"]
    train = event_rows(data, shown, TRAIN)
    last_seen = {}
    for row in range(train.stop):
        last_seen[shown.ids("user")[row]] = shown.time[row]
    visible = {
        data.nodes["item"].ids[clicks.ids("item")[i]]
        for i in range(len(clicks))
        if clicks.time[i] + HISTORIES[1].delay < last_seen.get(clicks.ids("user")[i], -1.0)
    }
    assert {*encoder.fitted["vocabularies"]["products.item"]} == visible


def test_nothing_is_learned_of_what_comes_after_training():
    """The log as it was at the end of training gives the same vocabularies and scales."""
    data = world()
    end = data.cut_times[0]
    events = {name: of.take(of.time < end) for name, of in data.events.items()}
    past = add_histories(data.replace(events=events, histories={}), HISTORIES)
    assert len(past.events["impression"]) < len(data.events["impression"])
    assert EventEncoder(past, declaration()).fitted == EventEncoder(data, declaration()).fitted


def test_training_rows_that_do_not_lie_together_are_learned_of_alike():
    """A given split of scattered rows: as if the others were not there."""
    data = world()
    shown = data.events["impression"]
    split = np.where(np.random.default_rng(0).random(len(shown)) < 0.5, TRAIN, 1).astype(np.int8)
    fields = tuple(dataclasses.replace(field, table="") for field in FIELDS)
    declared = Declaration(fields=fields, labels=LABELS)
    scattered = data.replace(events={"impression": dataclasses.replace(shown, split=split)})
    alone = data.replace(events={"impression": dataclasses.replace(shown, split=split).take(split == TRAIN)})
    first, second = (EventEncoder(of.replace(histories={}), declared) for of in (scattered, alone))
    assert first.layout == second.layout and first.fitted["vocabularies"] == second.fitted["vocabularies"]
    for name, of in first.fitted["scales"].items():
        np.testing.assert_allclose(of, second.fitted["scales"][name], rtol=1e-12)
    rows = np.flatnonzero(split == TRAIN)[:50]
    np.testing.assert_array_equal(first.encode(rows)["ids"]["room"], second.encode(np.arange(50))["ids"]["room"])
