"""Prepared directories: the same data as the source's, and nothing half-written is ever taken for whole."""

import dataclasses
import json

import numpy as np
import pytest

from lsec_jax.config import ConfigError, HistoryConfig, RunConfig
from lsec_jax.data import preparation, store
from lsec_jax.data.sources import prepared, synthetic
from lsec_jax.data.splits import assign_splits
from lsec_jax.data.writer import _MARK, Writer, check_directory
from lsec_jax.models import lsec_gnn
from lsec_jax.schema import (
    TEST,
    Availability,
    Candidates,
    DataError,
    EventNodes,
    Events,
    EventTruth,
    Feature,
    Histories,
    LiveCommerceData,
    NodeTable,
    Relation,
    Tree,
)

INT = np.int32


def everything():
    """A data set with every kind of table and column."""
    ages = Feature("ordinal", np.array([0, -1, 1], INT), ("young", "old"))
    nodes = {
        "user": NodeTable("user", np.array(["ann", "bob", "käthe"]), {"age": ages}),
        "item": NodeTable("item", np.array([7, 9]), {"image": Feature("vector", np.ones((2, 4), np.float32))}),
    }
    pair = (np.array([0, 1], INT), np.array([1, 0], INT))
    rated = {"time": np.array([1.0, 2.5]), "weight": np.array([-1, 1], np.float32), "split": np.array([0, 2], np.int8)}
    shown = Events(
        "impression",
        {"user": EventNodes("user", np.array([0, 2], INT)), "item": EventNodes("item", np.array([1, -1], INT))},
        np.array([3.0, 3.0]),
        {"watched": np.array([True, False]), "stay_seconds": np.array([2, np.nan], np.float32)},
        {"scene": Feature("categorical", np.array([0, 0], INT), ("feed",))},
        group=np.array([5, 5]),
        split=np.zeros(2, np.int8),
    )
    givers = {"user": EventNodes("user", np.array([0], INT))}
    gift = Events("gift", givers, np.array([4.0]), parent=("impression", np.array([0])))
    watches = Histories(
        "user", "item", np.array([0, 1, 1, 2]), np.array([1, 0], INT), np.array([3.0, 3.0]), np.array([0, 1])
    )
    watches = dataclasses.replace(
        watches,
        ends={"impression": np.array([0, 1])},
        last={"gift": np.array([[-1, 1]], INT)},
    )
    watches = dataclasses.replace(watches, owner_role="user", events="impression", delay=0.5)
    lists = Candidates(np.array([1], INT), np.array([[0, 1]], INT), np.array([[True, False]]), "published")
    return LiveCommerceData(
        "everything",
        nodes,
        {"rate": Relation("rate", "user", "item", *pair, **rated), "plain": Relation("plain", "user", "item", *pair)},
        candidates={("rate", TEST): lists},
        cut_times=(0.1, 2.0),
        end_time=9.0,
        has_dates=True,
        availability={"item": Availability(np.array([-np.inf, 0.0]), np.array([1.0, np.inf]))},
        counts={"rows": np.int64(3)},
        events={"impression": shown, "gift": gift},
        trees={"item": Tree(np.array([-1, 0], INT))},
        histories={"watches": watches},
    )


def write(data, directory, on_column=lambda num_bytes: None, source=None):
    with Writer(directory, source or {"data": "x"}) as writer:
        writer.finish(data, {}, on_column)
    return directory


def test_what_is_read_is_what_was_written(tmp_path):
    data = everything()
    data.validate()
    read = store.read(write(data, tmp_path / "new" / "folder"), verify=True)
    read.validate()
    assert read.fingerprint() == data.fingerprint()
    for name in ("name", "cut_times", "end_time", "has_dates", "counts"):
        assert getattr(read, name) == getattr(data, name)
    assert read.nodes["user"].features["age"].vocabulary == ("young", "old")
    assert read.candidates[("rate", TEST)].origin == "published"
    assert read.events["gift"].parent[0] == "impression"
    assert read.relations["plain"].time is None and read.relations["plain"].split is None
    assert store.description_of(read) == store.description_of(data)
    watches = read.histories["watches"]
    assert watches.last["gift"].tolist() == [[-1, 1]]
    assert (watches.owner_role, watches.events, watches.delay) == ("user", "impression", 0.5)
    for path, values in store.columns_of(data).items():
        np.testing.assert_array_equal(store.columns_of(read)[path], values)
    assert isinstance(read.relations["rate"].time, np.memmap)


def test_every_column_is_in_the_manifest_with_its_form(tmp_path):
    data = everything()
    manifest = store.read_manifest(write(data, tmp_path / "d"))
    files = {str(path.relative_to(tmp_path / "d"))[: -len(".npy")] for path in (tmp_path / "d").rglob("*.npy")}
    assert files == set(manifest["columns"]) == set(store.columns_of(data))
    assert manifest["columns"]["relations/rate/time"]["dtype"] == "<f8"


def test_empty_tables_are_kept(tmp_path):
    none = Events("gift", {"user": EventNodes("user", np.zeros(0, INT))}, np.zeros(0))
    data = everything().replace(events={"gift": none}, histories={})
    assert store.read(write(data, tmp_path / "d"), verify=True).fingerprint() == data.fingerprint()


def test_an_interrupted_directory_is_not_read_and_is_written_anew(tmp_path):
    def interrupt(num_bytes):
        raise KeyboardInterrupt

    directory = tmp_path / "d"
    with pytest.raises(KeyboardInterrupt):
        write(everything(), directory, interrupt)
    with pytest.raises(DataError, match=r"was interrupted; run `python -m lsec_jax\.prepare` again"):
        store.read(directory)
    (directory / "relations").mkdir(exist_ok=True)
    (directory / "relations" / "left_over.npy").touch()
    assert not check_directory(directory, {"data": "x"})
    write(everything(), directory)
    assert not (directory / "relations" / "left_over.npy").exists()
    assert store.read(directory).fingerprint() == everything().fingerprint()
    assert check_directory(directory, {"data": "x"})


def test_an_error_leaves_the_place_as_it_was(tmp_path):
    def fail(num_bytes):
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); make room"):
        write(everything(), tmp_path / "new", fail)
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError), Writer(tmp_path / "empty", {}) as writer:
        writer.new_column("events/gift/time", (3,), np.float64)
        raise DataError("no such data")
    assert not list((tmp_path / "empty").iterdir())


def test_an_error_leaves_no_new_folders_behind_and_none_that_was_there_before_goes(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(DataError, match="no such data"), Writer(tmp_path / "old" / "a" / "b", {}):
        raise DataError("no such data")
    assert (tmp_path / "old").exists() and not (tmp_path / "old" / "a").exists()


def test_a_manifest_that_cannot_be_written_leaves_nothing_behind_and_says_why(tmp_path, monkeypatch):
    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        write(everything(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_somebody_else_puts_into_the_directory_does_not_hide_the_error(tmp_path):
    with pytest.raises(DataError, match="no such data"), Writer(tmp_path / "new", {}):
        (tmp_path / "new" / "notes.txt").touch()
        raise DataError("no such data")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_an_empty_mark_counts_only_where_there_is_nothing_to_lose(tmp_path):
    (tmp_path / "INCOMPLETE").touch()
    assert not check_directory(tmp_path, {})
    (tmp_path / "nodes").mkdir()
    with pytest.raises(DataError, match="not empty, and not begun by `prepare`"):
        check_directory(tmp_path, {})


def test_a_mark_that_a_kill_left_in_a_whole_directory_is_cleared(tmp_path):
    directory = write(everything(), tmp_path / "d")
    (directory / "INCOMPLETE").write_text(_MARK)
    assert check_directory(directory, {"data": "x"}) and not (directory / "INCOMPLETE").exists()
    (directory / "INCOMPLETE").write_text("mine\n")
    assert check_directory(directory, {"data": "x"}) and (directory / "INCOMPLETE").exists()


def test_a_mark_that_goes_while_it_is_being_locked_is_another_process(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    monkeypatch.setattr("fcntl.flock", lambda *args: (tmp_path / "d" / "INCOMPLETE").unlink())
    with pytest.raises(DataError, match="another process is preparing data here"):
        write(everything(), tmp_path / "d")


def test_a_link_to_nothing_is_named_as_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"link: a link to .*/nothing, which is not there; make it, or remove the link"):
        check_directory(tmp_path / "link", {})


def test_two_at_once_do_not_mix(tmp_path):
    with Writer(tmp_path / "d", {"data": "x"}) as writer:
        with pytest.raises(DataError, match="another process is preparing data here"):
            write(everything(), tmp_path / "d")
        writer.finish(everything(), {}, lambda num_bytes: None)
    assert store.read(tmp_path / "d", verify=True).fingerprint() == everything().fingerprint()
    with pytest.raises(DataError, match="another process has just prepared data here"):
        write(everything(), tmp_path / "d")
    assert store.read(tmp_path / "d", verify=True).fingerprint() == everything().fingerprint()


def test_columns_that_were_filled_in_place_are_kept_and_others_are_removed(tmp_path):
    with Writer(tmp_path / "d", {"data": "x"}) as writer:
        time = writer.new_column("events/gift/time", (1,), np.float64)
        nothing = writer.new_column("relations/plain/time", (0,), np.float64)
        writer.new_column("events/gift/values/amount", (1,), np.float32)
        time[:] = 4.5
        data = everything()
        data = data.replace(events={**data.events, "gift": dataclasses.replace(data.events["gift"], time=time)})
        writer.finish(data, {}, lambda num_bytes: None)
    assert len(nothing) == 0
    assert store.read(tmp_path / "d", verify=True).fingerprint() == data.fingerprint()
    assert store.read(tmp_path / "d").events["gift"].time.tolist() == [4.5]
    assert not (tmp_path / "d" / "events" / "gift" / "values" / "amount.npy").exists()
    assert sorted(path.name for path in (tmp_path / "d").iterdir() if path.is_file()) == ["manifest.json"]


def test_a_directory_of_something_else_is_refused(tmp_path):
    directory = write(everything(), tmp_path / "d")
    with pytest.raises(DataError, match=r"prepared otherwise \(stored -> given\):\n  source.data: \"x\" -> \"y\""):
        check_directory(directory, {"data": "y"})
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="this is a file"):
        check_directory(tmp_path / "file", {})
    with pytest.raises(DataError, match=r"cannot be written \(Not a directory\)"):
        write(everything(), tmp_path / "file" / "x")
    with pytest.raises(DataError, match="not empty, and not begun by `prepare`"):
        check_directory(tmp_path, {})
    with pytest.raises(DataError, match=r"no manifest\.json here"):
        store.read(tmp_path)
    (tmp_path / "INCOMPLETE").write_text("my own list of what is incomplete\n")
    with pytest.raises(DataError, match="not empty, and not begun by `prepare`"):
        check_directory(tmp_path, {})


def damage(path, kind):
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:-3])
    elif kind == "cut header":
        path.write_bytes(content[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    elif kind == "another type":
        np.save(path, np.zeros(2, np.int64))
    else:  # Python objects, which only unpickling could read
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (2,)})
            stream.write(b"\0" * 64)


@pytest.mark.parametrize("kind", ["cut", "cut header", "empty", "missing", "another type", "objects"])
def test_a_damaged_column_is_named(tmp_path, kind):
    directory = write(everything(), tmp_path / "d")
    damage(directory / "relations" / "rate" / "time.npy", kind)
    with pytest.raises(DataError, match=r"relations/rate/time\.npy: .*prepare the data again into a new directory"):
        store.read(directory)


def test_changed_content_is_found_where_it_is_looked_for(tmp_path):
    directory = write(everything(), tmp_path / "d")
    np.save(directory / "relations" / "rate" / "time.npy", np.array([1.0, 3.5]))
    store.read(directory)
    with pytest.raises(DataError, match=r"time\.npy: its content is not what was written \(SHA-256 differs\)"):
        store.read(directory, verify=True)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "lsec_jax prepared data", "schema_version": 99}'])
def test_a_damaged_or_newer_manifest_is_refused(tmp_path, content):
    directory = write(everything(), tmp_path / "d")
    (directory / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json: (damaged|.*schema version 99)"):
        store.read(directory)


def test_a_manifest_without_a_table_is_damaged(tmp_path):
    directory = write(everything(), tmp_path / "d")
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["data"]["trees"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="damaged"):
        store.read(directory)


def config():
    return RunConfig(data=synthetic.tiny(), model=lsec_gnn.Config())


def test_prepared_data_is_the_sources_data_with_its_split_and_truth(tmp_path):
    text = preparation.run(config(), tmp_path / "d", quarantine=False)
    assert "| relation buy: user - item | 2400 | 1920 / 240 / 240 | time |" in text
    direct = assign_splits(synthetic.tiny().load(), config().split, ("buy", "follow"))
    read = prepared.Config(str(tmp_path / "d"), verify=True).load()
    again = assign_splits(read, config().split, ("buy", "follow"))
    assert not isinstance(read.truth, EventTruth)
    assert direct.fingerprint() == read.fingerprint() == again.fingerprint()
    assert again.cut_times == direct.cut_times and again.end_time == direct.end_time
    assert dict(again.counts) == dict(direct.counts)
    users = np.arange(3)
    wanted = direct.truth.probabilities("buy", users, *direct.split_window(TEST))
    np.testing.assert_array_equal(read.truth.probabilities("buy", users, *read.split_window(TEST)), wanted)


def test_a_prepared_live_world_has_its_events_and_their_truth(tmp_path):
    live = RunConfig(data=synthetic.live_tiny(), model=lsec_gnn.Config())
    preparation.run(live, tmp_path / "d", quarantine=False)
    direct, read = live.data.load(), prepared.Config(str(tmp_path / "d")).load()
    assert read.events.keys() == direct.events.keys() and read.trees.keys() == direct.trees.keys()
    for name, events in direct.events.items():
        np.testing.assert_array_equal(read.events[name].time, events.time)
    assert isinstance(read.truth, EventTruth)
    wanted = direct.truth.expected("impression", "watched")
    np.testing.assert_array_equal(read.truth.expected("impression", "watched"), wanted)


def test_preparing_twice_leaves_what_is_there(tmp_path):
    first = preparation.run(config(), tmp_path / "d", quarantine=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    assert preparation.run(config(), tmp_path / "d", quarantine=False) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")} == before
    other = config()
    other.data.seed = 1
    with pytest.raises(DataError, match=r"source.data.seed: 0 -> 1"):
        preparation.run(other, tmp_path / "d", quarantine=False)


@dataclasses.dataclass
class OutlinedSource:
    """A source that tells its tables before it reads them, which it must not."""

    def outline(self):
        return synthetic.live_tiny().load()

    def load(self):
        raise AssertionError("was read")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": "watch"}, "has no events 'watch'"),
        ({"where": "wached"}, "have no column 'wached'"),
        ({"owner": "viewer"}, "have no 'viewer'"),
        ({"item": "shop"}, "have no 'shop'"),
        ({"moments": ("view",)}, "has no events 'view'"),
        ({"name": "a/b"}, r"config.histories\[0\].name = 'a/b'"),
    ],
)
def test_what_a_config_asks_of_tables_that_are_not_there_is_refused_before_reading(tmp_path, changes, message):
    watches = HistoryConfig(**{"name": "watches", **changes})
    model = lsec_gnn.Config()
    with pytest.raises((ConfigError, DataError), match=message):
        preparation.run(RunConfig(data=OutlinedSource(), model=model, histories=(watches,)), tmp_path / "d")
    assert not (tmp_path / "d").exists()


@dataclasses.dataclass
class BrokenSource:
    """A source with one bad weight."""

    def load(self):
        data = synthetic.tiny().load()
        weight = np.ones(len(data.relations["buy"]), np.float32)
        weight[5] = np.nan
        buy = dataclasses.replace(data.relations["buy"], weight=weight)
        return data.replace(relations={**data.relations, "buy": buy}, truth=None)


def test_wrong_rows_are_refused_before_anything_is_written_or_left_out_and_counted(tmp_path):
    broken = RunConfig(data=BrokenSource(), model=lsec_gnn.Config())
    with pytest.raises(DataError, match=r"relation 'buy', column 'weight', row 5: nan is not finite"):
        preparation.run(broken, tmp_path / "d", quarantine=False)
    assert not (tmp_path / "d").exists()
    text = preparation.run(broken, tmp_path / "d", quarantine=True)
    assert "relation 'buy': rows quarantined, weight: 1" in text
    assert len(store.read(tmp_path / "d").relations["buy"]) == 2399


def test_the_truth_of_quarantined_and_prepared_events_is_of_the_rows_that_are_left(tmp_path, monkeypatch):
    load = synthetic.Config.load

    def load_with_wrong_rows(config):
        data = load(config)
        shown = data.events["impression"]
        ids = shown.ids("user").copy()
        ids[[3, 70]] = 10**6
        shown = dataclasses.replace(shown, nodes={**shown.nodes, "user": EventNodes("user", ids)})
        return data.replace(events={**data.events, "impression": shown})

    live = RunConfig(data=synthetic.live_tiny(), model=lsec_gnn.Config())
    whole = live.data.load().truth.expected("impression", "watched")
    monkeypatch.setattr(synthetic.Config, "load", load_with_wrong_rows)
    preparation.run(live, tmp_path / "d", quarantine=True)
    read = prepared.Config(str(tmp_path / "d")).load()
    assert len(read.events["impression"]) == len(whole) - 2
    np.testing.assert_array_equal(read.truth.expected("impression", "watched"), np.delete(whole, [3, 70]))
    monkeypatch.setattr(synthetic.Config, "load", load)  # a source that changed since
    with pytest.raises(DataError, match="or other events; prepare it again"):
        prepared.Config(str(tmp_path / "d")).load().truth.expected("impression", "watched")
