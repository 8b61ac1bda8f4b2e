import builtins
import shutil
from typing import ClassVar

import numpy as np
import pytest

from lsec_jax.data.sources.offers import SOURCES
from lsec_jax.data.sources.tfds import Config
from lsec_jax.schema import TEST, TRAIN, DataError

REASON = "the extra `tfds` is not installed: python -m pip install tensorflow-datasets array-record"
TRAINING = [
    # user, item, time, weight
    ("ann", 30, 105, 4.0),
    ("bob", 10, 101, 1.5),
    ("ann", 30, 103, 2.0),
    ("cat", 20, 104, 3.0),
]
TESTING = [("bob", 40, 110, 5.0), ("cat", 20, 111, 1.0)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir with a data set that TFDS itself has prepared, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets", reason=REASON)
    pytest.importorskip("array_record", reason=REASON)

    # It is found by its files, as anybody's data set is.
    class TinyMovies(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="ratings")]

        def _info(self):
            features = {"user_id": tfds.features.Text(), "movie_id": np.int64, "timestamp": np.int64}
            features |= {"user_rating": np.float32, "genres": tfds.features.Sequence(np.int64), "liked": np.bool_}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(TRAINING), "test": self._generate_examples(TESTING)}

        def _generate_examples(self, rows):
            for i, (user, item, time, weight) in enumerate(rows):
                example = {"user_id": user, "movie_id": item, "timestamp": time, "user_rating": weight}
                yield i, example | {"genres": [1, 2], "liked": True}

    path = tmp_path_factory.mktemp("tfds")
    TinyMovies(data_dir=path, config="ratings", file_format="array_record").download_and_prepare()
    return path


def config(path, **changes):
    return Config(**({"name": "tiny_movies/ratings", "path": str(path), "test_split": "test"} | changes))


def test_examples_become_events_and_the_earliest_of_a_pair_an_edge(prepared):
    data = config(prepared).load()
    assert {name: table.ids.tolist() for name, table in data.nodes.items()} == {
        "user": ["ann", "bob", "cat"],
        "item": [10, 20, 30, 40],
    }
    rate = data.relation("rate")
    columns = (rate.source_ids, rate.target_ids, rate.time, rate.weight, rate.split)
    assert set(zip(*(column.tolist() for column in columns), strict=True)) == {
        (0, 2, 103, 2.0, TRAIN),
        (1, 0, 101, 1.5, TRAIN),
        (2, 1, 104, 3.0, TRAIN),
        (1, 3, 110, 5.0, TEST),
    }
    assert data.counts == {
        "rate: duplicate rows dropped": 1,
        "rate: test pairs that are in an earlier split, dropped": 1,
    }
    events = data.events_of("interaction")
    assert events.time.tolist() == [101, 103, 104, 105, 110, 111]
    assert events.ids("user").tolist() == [1, 0, 2, 0, 1, 2]
    assert events.ids("item").tolist() == [0, 2, 1, 2, 3, 1]
    assert events.value("weight").tolist() == [1.5, 2, 3, 4, 5, 1]
    assert events.split.tolist() == [TRAIN] * 4 + [TEST] * 2


def test_without_times_and_other_splits_there_are_no_events_and_no_given_split(prepared):
    data = config(prepared, test_split="", time_column=None, weight_column=None, relation="buy").load()
    buy = data.relation("buy")
    assert (len(buy), buy.time, buy.weight, buy.split, dict(data.events)) == (3, None, None, None, {})


def test_a_part_of_a_split_can_be_read(prepared):
    data = config(prepared, train_split="train[:50%]", validation_split="train[50%:]").load()
    assert len(data.events_of("interaction")) == 6
    assert set(data.events_of("interaction").split.tolist()) == {0, 1, 2}


BAD_CONFIGS = {
    "unknown name": (
        {"name": "tiny_books"},
        r"'tiny_books' in .*: cannot be opened .*tfds build tiny_books .*download",
    ),
    "no name": ({"name": ""}, r"config key data.name is empty; give it"),
    "unknown split": (
        {"test_split": "tset"},
        r"split 'tset': cannot be read \(Unknown split.* it has the splits train, t",
    ),
    "unknown column": ({"user_column": "usr_id"}, r"no 'usr_id' \(did you mean 'user_id'\?\); they have: .*movie_id"),
    "a list per example": (
        {"item_column": "genres"},
        r"column 'genres': .* is not one value per example; name another",
    ),
    "ids that are truths": (
        {"item_column": "liked"},
        r"column 'liked': type bool cannot hold",
    ),
    "times that are text": ({"time_column": "user_id"}, r"example 0, column 'user_id': '.*' is not a number"),
    "relation": ({"relation": "a/b"}, r"data.relation = 'a/b': names are letters"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_keys_are_refused_with_the_place_and_the_remedy(prepared, case):
    changes, message = BAD_CONFIGS[case]
    with pytest.raises(DataError, match=message):
        config(prepared, **changes).load()


@pytest.mark.parametrize("size", [0, 100, 65536, -5, None])
def test_cut_and_missing_files_are_refused(prepared, tmp_path, size):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    path = next(folder.rglob("*train.array_record*"))
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content[:size])
    with pytest.raises(DataError, match=r"tiny_movies/ratings/1.0.0, split 'train': cannot be read .*prepare"):
        config(folder).load()


def test_without_the_packages_the_message_names_the_extra(monkeypatch):
    original = builtins.__import__

    def fail(name, *arguments, **options):
        if name.startswith("tensorflow_datasets"):
            raise ImportError("No module named 'tensorflow_datasets'")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(DataError, match=r"source tfds needs packages that are optional .*'lsec_jax\[tfds\]'"):
        config("nowhere").load()


def test_the_source_has_what_it_says(prepared):
    data = config(prepared).load()
    data.validate()
    events = data.events["interaction"]
    assert tuple(data.relations) == SOURCES["tfds"].relations
    assert (*events.nodes, *events.values, *events.features) == SOURCES["tfds"].events["interaction"]
