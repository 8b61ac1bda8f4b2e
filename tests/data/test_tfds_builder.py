"""Prepared data as a TensorFlow data set: what TFDS reads back is what was prepared, and never half of it."""

import builtins
import dataclasses
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from lsec_jax.config import ConfigError, HistoryConfig, RunConfig
from lsec_jax.data import preparation, store, tfds_builder
from lsec_jax.data.event_columns import EventColumns, HistoryView
from lsec_jax.data.sources import synthetic
from lsec_jax.data.sources import tfds as tfds_source
from lsec_jax.data.sources.live_world.config import LiveConfig
from lsec_jax.data.splits import event_rows
from lsec_jax.data.tfds_builder import Export
from lsec_jax.data.writer import Writer
from lsec_jax.models import lsec_gnn
from lsec_jax.schema import SPLITS, DataError, EventNodes, Events, Feature, LiveCommerceData, NodeTable

REASON = "the extra `tfds` is not installed: python -m pip install tensorflow-datasets array-record"
tfds = pytest.importorskip("tensorflow_datasets", reason=REASON)
pytest.importorskip("array_record", reason=REASON)

WATCHES = HistoryView("watches", 3, with_ages=True, behaviours="impression", columns=("streamer",))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small live world, prepared."""
    directory = tmp_path_factory.mktemp("prepared") / "world"
    history = HistoryConfig("watches", item="room", where="watched", length=3)
    world = synthetic.live_tiny(LiveConfig(num_impressions=600))
    preparation.run(RunConfig(data=world, model=lsec_gnn.Config(), histories=(history,)), directory, quarantine=False)
    return directory


def read(data_dir, split, name="lsec_jax/impression"):
    return list(tfds.data_source(name, split=split, data_dir=data_dir, download=False))


def column(examples, name):
    return np.stack([np.asarray(example[name]) for example in examples])


@pytest.mark.parametrize("external_ids", [True, False])
def test_what_tfds_reads_is_what_was_prepared(prepared, tmp_path, external_ids):
    data = store.read(prepared)
    export = Export("impression", histories=(WATCHES,), external_ids=external_ids)
    builder = tfds_builder.build(prepared, tmp_path, export)
    events = data.events["impression"]
    assert sum(split.num_examples for split in builder.info.splits.values()) == len(events) == 600
    for split, code in SPLITS.items():
        examples = read(tmp_path, split)
        rows = np.arange(len(events))[event_rows(data, events, code)]
        assert len(examples) == len(rows) > 0
        np.testing.assert_array_equal(column(examples, "time"), events.time[rows])
        assert column(examples, "time").dtype == np.float64
        np.testing.assert_array_equal(column(examples, "group"), events.group[rows])
        batch = EventColumns(data, "impression", histories=[WATCHES])(rows)
        for kind in ("values", "features"):
            for name, values in batch[kind].items():
                np.testing.assert_array_equal(column(examples, name), values)
        history = batch["histories"]["watches"]
        np.testing.assert_array_equal(column(examples, "watches_ages"), history["ages"])
        ids = {role: (role, of) for role, of in batch["nodes"].items()}
        ids |= {"watches_items": ("room", history["items"]), "watches_streamer": ("streamer", history["streamer"])}
        for name, (node_type, wanted) in ids.items():
            if external_ids:
                names = data.nodes[node_type].ids.astype("S")
                wanted = np.where(wanted < 0, b"", names[np.maximum(wanted, 0)])
            np.testing.assert_array_equal(column(examples, name), wanted)


def test_tensorflow_is_not_imported(prepared, tmp_path):
    """Neither to write nor to read, in a process of its own."""
    script = f"""
import sys
from lsec_jax.data import tfds_builder
tfds_builder.build({str(prepared)!r}, {str(tmp_path)!r}, tfds_builder.Export("impression", roles=("user",)))
import tensorflow_datasets as tfds
source = tfds.data_source("lsec_jax/impression", split="test", data_dir={str(tmp_path)!r}, download=False)
assert source[0]["user"].startswith(b"user_")
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_source_tfds_reads_it_back(prepared, tmp_path):
    data = store.read(prepared)
    events = data.events["impression"]
    tfds_builder.build(prepared, tmp_path, Export("impression", values=("watched",), features=()))
    back = tfds_source.Config(
        name="lsec_jax/impression",
        path=str(tmp_path),
        user_column="user",
        item_column="room",
        time_column="time",
        weight_column=None,
        validation_split="validation",
        test_split="test",
    ).load()
    shown = back.events_of("interaction")
    np.testing.assert_array_equal(shown.time, events.time)
    for role, node_type, own in (("user", "user", "user"), ("item", "item", "room")):
        wanted = data.nodes[own].ids[events.ids(own)]
        np.testing.assert_array_equal(np.sort(back.nodes[node_type].ids[shown.ids(role)]), np.sort(wanted))
    for code in SPLITS.values():
        rows = event_rows(data, events, code)
        assert (shown.split == code).sum() == len(range(*rows.indices(len(events))))


def prepared_log(directory, split=(0, 1, 0, 2), **changes):
    """Four events with missing ids and codes, whose splits are no ranges."""
    nodes = {
        "user": NodeTable("user", np.array([70, 80])),
        "room": NodeTable("room", np.array(["käthe", "bob"])),
    }
    roles = {
        "user": EventNodes("user", np.array([1, -1, 0, 0], np.int32)),
        "room": EventNodes("room", np.array([0, 1, -1, 0], np.int32)),
    }
    scene = Feature("categorical", np.array([1, -1, 0, 0], np.int32), ("feed", "a\nb"))
    shown = Events("view", roles, np.array([1.0, 1.0, 0.1 + 2.0, 3.0]), features={"scene": scene}, **changes)
    shown = dataclasses.replace(shown, split=None if split is None else np.array(split, np.int8))
    with Writer(directory, {}) as writer:
        writer.finish(LiveCommerceData("log", nodes, {}, events={"view": shown}), {}, lambda num_bytes: None)
    return directory


def test_rows_of_a_given_split_come_in_the_order_of_the_table(tmp_path):
    builder = tfds_builder.build(prepared_log(tmp_path / "p"), tmp_path / "d", Export("view", name="shop"))
    train = read(tmp_path / "d", "train", "shop/view")
    assert [example["user"] for example in train] == [80, 70]
    assert [example["room"].decode() for example in train] == ["käthe", ""]
    assert [example["scene"] for example in train] == [1, 0]
    assert [float(example["time"]) for example in train] == [1.0, 0.1 + 2.0]
    (held_out,) = read(tmp_path / "d", "validation", "shop/view")
    assert (held_out["user"], held_out["scene"]) == (-1, -1)
    assert tfds.builder("shop/view", data_dir=tmp_path / "d").info.metadata["vocabularies"] == {
        "scene": ["feed", "a\nb"]
    }
    assert builder.info.metadata["source"]["name"] == "log"


def test_a_split_without_events_is_left_out(tmp_path):
    builder = tfds_builder.build(prepared_log(tmp_path / "p", (0, 0, 0, 2)), tmp_path / "d", Export("view"))
    assert {*builder.info.splits} == {"train", "test"}


def test_an_interrupted_build_is_never_taken_for_whole(prepared, tmp_path, monkeypatch):
    export = Export("impression", roles=("user",))
    examples = tfds_builder._Table.examples

    def fail(self, rows):
        for i, example in enumerate(examples(self, rows)):
            if i == 20 and len(rows) < 200:  # the train split is written by then
                raise KeyboardInterrupt
            yield example

    monkeypatch.setattr(tfds_builder._Table, "examples", fail)
    with pytest.raises(KeyboardInterrupt):
        tfds_builder.build(prepared, tmp_path, export)
    with pytest.raises(Exception, match=r"Dataset .*lsec_jax.*not found|No registered|not found"):
        read(tmp_path, "train")
    monkeypatch.undo()
    assert not tfds_builder.builder_of(prepared, tmp_path, export).is_prepared()
    builder = tfds_builder.build(prepared, tmp_path, export)
    assert sum(split.num_examples for split in builder.info.splits.values()) == 600
    assert len(read(tmp_path, "train")) == builder.info.splits["train"].num_examples


def test_what_a_killed_process_left_is_not_read_and_not_in_the_way(prepared, tmp_path):
    script = f"""
import os
from lsec_jax.data import tfds_builder
examples = tfds_builder._Table.examples
def die(self, rows):
    for i, example in enumerate(examples(self, rows)):
        if i == 20 and len(rows) < 200:
            os._exit(9)
        yield example
tfds_builder._Table.examples = die
tfds_builder.build({str(prepared)!r}, {str(tmp_path)!r}, tfds_builder.Export("impression", roles=("user",)))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 9
    assert list((tmp_path / "lsec_jax" / "impression").glob("incomplete.*"))
    builder = tfds_builder.builder_of(prepared, tmp_path, Export("impression", roles=("user",)))
    assert not builder.is_prepared()
    tfds_builder.build(prepared, tmp_path, Export("impression", roles=("user",)))
    assert len(read(tmp_path, "train")) > 400


def test_the_same_export_is_left_as_it_is_and_another_is_refused(prepared, tmp_path):
    export = Export("impression", roles=("user",), values=(), features=())
    before = tfds_builder.build(prepared, tmp_path, export)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    tfds_builder.build(prepared, tmp_path, export)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    with pytest.raises(
        DataError, match=r'holds another data set .*\n.*export.roles: \["user"\] -> \["room"\]\nGive another ver'
    ):
        tfds_builder.build(prepared, tmp_path, dataclasses.replace(export, roles=("room",)))
    newer = tfds_builder.build(prepared, tmp_path, dataclasses.replace(export, roles=("room",), version="1.0.1"))
    assert newer.data_path != before.data_path
    other = prepared_log(tmp_path / "p")
    tfds_builder.build(other, tmp_path / "d", Export("view"))
    changed = prepared_log(tmp_path / "p2", (0, 0, 0, 2))
    with pytest.raises(DataError, match=r"source.columns_sha256"):
        tfds_builder.build(changed, tmp_path / "d", Export("view"))


WRONG = {
    "events": (Export("gifts"), DataError, "no events 'gifts'; it has: "),
    "role": (Export("impression", roles=("item",)), DataError, "have no 'item'; they have: user, room, streamer"),
    "feature": (Export("impression", features=("age",)), DataError, "no feature 'age'"),
    "history": (Export("impression", histories=(HistoryView("buys", 3),)), DataError, "no histories 'buys'"),
    "name": (Export("impression", name="My-Data"), ConfigError, "names are small letters, digits and _"),
    "version": (Export("impression", version="2"), ConfigError, "version '2': .*versions like 1.0.0"),
    "length": (Export("impression", histories=(HistoryView("watches", 0),)), ConfigError, "length = 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_there_is_refused_before_anything_is_written(prepared, tmp_path, case):
    export, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        tfds_builder.build(prepared, tmp_path / "d", export)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("below", ["", "/lsec_jax", "/lsec_jax/impression/1.0.0"])
def test_a_file_in_the_place_of_the_data_set_is_refused(prepared, tmp_path, below):
    place = tmp_path / f"d{below}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    with pytest.raises(DataError, match=rf"{place} is a file, and the data set would be written below it; give anoth"):
        tfds_builder.build(prepared, tmp_path / "d", Export("impression"))
    assert place.read_text() == "mine"


@pytest.mark.parametrize("dtype", ["int64", "U8"])
def test_the_ids_of_a_block_of_examples_take_no_copy_of_all_ids(dtype):
    ids = np.arange(300_000).astype(dtype)
    role = EventNodes("user", np.array([7, -1, 299_999], np.int32))
    shown = Events("view", {"user": role}, np.arange(3.0), split=np.zeros(3, np.int8))
    data = LiveCommerceData("log", {"user": NodeTable("user", ids)}, {}, events={"view": shown})
    table = tfds_builder._Table(data, Export("view"))
    tracemalloc.start()
    found = [example["user"] for _, example in table.examples(range(3))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ([7, -1, 299_999] if dtype == "int64" else ["7", "", "299999"])
    assert peak < ids.nbytes / 20


def test_one_name_for_two_columns_is_refused(tmp_path):
    path = prepared_log(tmp_path / "p", values={"room": np.zeros(4, np.float32)})
    with pytest.raises(DataError, match=r"'room' would name two columns, .*; leave one out of the export"):
        tfds_builder.build(path, tmp_path / "d", Export("view"))
    tfds_builder.build(path, tmp_path / "d", Export("view", roles=("user",)))


def test_events_without_a_split_are_refused(tmp_path):
    with pytest.raises(DataError, match="events 'view' have no split"):
        tfds_builder.build(prepared_log(tmp_path / "p", None), tmp_path / "d", Export("view"))


def test_without_the_packages_the_message_names_the_extra(monkeypatch):
    original = builtins.__import__

    def fail(name, *arguments, **options):
        if name.startswith("tensorflow_datasets"):
            raise ImportError("No module named 'tensorflow_datasets'")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(DataError, match=r"the TFDS builder needs packages that are optional .*'lsec_jax\[tfds\]'$"):
        tfds_builder.build("nowhere", "nowhere", Export("impression"))
