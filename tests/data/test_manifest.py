"""Damaged manifests and columns: one message that names the place, or the data as the manifest says."""

import json

import numpy as np
import pytest

from lsec_jax.data import store
from lsec_jax.data.sources import prepared
from lsec_jax.schema import DataError
from tests.data.test_store import everything, write


def manifest_with(directory, change):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["../rate", "/etc/rate", "rate/..", "", "a/b", "."])
def test_a_manifest_cannot_lead_out_of_its_directory(tmp_path, name):
    directory = write(everything(), tmp_path / "d")

    def rename(manifest):
        manifest["data"]["relations"][name] = manifest["data"]["relations"].pop("rate")
        columns = manifest["columns"]
        for path in [path for path in columns if path.startswith("relations/rate/")]:
            columns[path.replace("rate", name)] = columns.pop(path)

    def add(manifest):
        manifest["columns"][f"relations/{name}/time"] = manifest["columns"]["relations/rate/time"]

    manifest_with(directory, rename)
    with pytest.raises(DataError, match=r"manifest.json: damaged: data.relations has .*: names are letters"):
        store.read(directory)
    other = write(everything(), tmp_path / "other")
    manifest_with(other, add)
    with pytest.raises(DataError, match=r"damaged: columns has .*, which is no column of the data; prepare"):
        store.read(other)


def test_what_is_damaged_in_a_manifest_is_named_with_its_key(tmp_path):
    directory = write(everything(), tmp_path / "d")
    original = (directory / "manifest.json").read_text()
    changes = {
        r"data.relations.rate.source is '5', expected text": lambda m: m["data"]["relations"]["rate"].update(source=5),
        r"data.relations.rate.source is 'shop', expected one of: item, user": lambda m: m["data"]["relations"][
            "rate"
        ].update(source="shop"),
        r"columns has no 'nodes/user/ids', which the data needs": lambda m: m["columns"].pop("nodes/user/ids"),
        r"columns.nodes/user/ids.shape\[0\] is '-1'": lambda m: m["columns"]["nodes/user/ids"].update(shape=[-1]),
        r"data.cut_times is '\[1.0\]', expected 2 values": lambda m: m["data"].update(cut_times=[1.0]),
        r"data.end_time is 'inf', expected a finite number": lambda m: m["data"].update(end_time=float("inf")),
        r"data.histories.watches.events is 'view', expected one of: , gift, impression": lambda m: m["data"][
            "histories"
        ]["watches"].update(events="view"),
        r"data.histories.watches.delay is negative": lambda m: m["data"]["histories"]["watches"].update(delay=-1),
        r"data.histories.watches has no 'owner_role'": lambda m: m["data"]["histories"]["watches"].pop("owner_role"),
        r"data.has_dates is '1', expected true or false": lambda m: m["data"].update(has_dates=1),
        r"data.candidates\[0\] is no split, or there already": lambda m: m["data"]["candidates"][0].__setitem__(1, 3),
    }
    for message, change in changes.items():
        (directory / "manifest.json").write_text(original)
        manifest_with(directory, change)
        with pytest.raises(DataError, match=f"manifest.json: damaged: {message}.*prepare the data again into a new"):
            store.read(directory)


def places(tree, path=()):
    """All keys of a JSON tree, as tuples."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


OTHERS = (
    None,
    True,
    -1,
    0,
    2,
    10**18,
    10**400,
    1e308,
    float("nan"),
    "",
    "../..",
    "item",
    "\ud800",
    [],
    {},
    [[]],
    [0] * 40,
)


def mutated(tree, rng):
    """A copy of a JSON tree with one key deleted, renamed, doubled or given another value."""
    tree = json.loads(json.dumps(tree))
    found = list(places(tree))
    path = found[rng.integers(len(found))]
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    kind = rng.integers(4)
    if kind == 0:
        del parent[path[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[["", "x", "../x", "user", "time"][rng.integers(5)]] = parent.pop(path[-1])
    elif kind == 2 and isinstance(parent, list):
        parent.append(parent[path[-1]])
    else:
        parent[path[-1]] = OTHERS[rng.integers(len(OTHERS))]
    return tree


def assert_read_as_described(directory, manifest):
    """Either one DataError, or all columns of before under a description that is the manifest's."""
    try:
        read = store.read(directory)
        prepared.Config(str(directory)).load()
    except DataError as error:
        assert str(error).count("manifest.json") == 1 or ".npy" in str(error), error
        return False
    wanted = store.columns_of(everything())
    found = store.columns_of(read)
    assert found.keys() == wanted.keys()
    for path, values in wanted.items():
        np.testing.assert_array_equal(found[path], values)
    expected = {**manifest["data"], "truth": [], "has_event_truth": False}
    assert store.description_of(read) == {key: expected[key] for key in store.description_of(read)}
    return True


def test_a_damaged_manifest_gives_one_message_or_data_that_is_as_it_says(tmp_path):
    source = {
        "data": {"type": "x:Y"},
        "split": {"method": "auto"},
        "tasks": ["rate"],
        "histories": [],
        "quarantine": False,
    }
    directory = write(everything(), tmp_path / "d", source=source)
    manifest, rng = json.loads((directory / "manifest.json").read_text()), np.random.default_rng(0)
    num_read = 0
    for _ in range(600):
        other = mutated(manifest, rng)
        (directory / "manifest.json").write_text(json.dumps(other))
        num_read += assert_read_as_described(directory, other)
    assert 0 < num_read < 300


@pytest.mark.parametrize("column", ["relations/rate/time", "nodes/user/ids", "events/gift/time"])
def test_a_damaged_column_gives_one_message(tmp_path, column):
    directory = write(everything(), tmp_path / "d")
    path = directory / f"{column}.npy"
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(120):
        damaged = bytearray(content)
        if rng.integers(2):
            damaged[rng.integers(128)] = rng.integers(256)
        else:
            start = rng.integers(100)
            damaged[start : start + rng.integers(40)] = rng.bytes(rng.integers(40))
        path.write_bytes(damaged)
        try:
            store.read(directory)
        except DataError as error:
            assert str(error).startswith(str(path))
    path.write_bytes(b"PK\x03\x04" + content)
    with pytest.raises(DataError, match="cut or damaged"):
        store.read(directory)
