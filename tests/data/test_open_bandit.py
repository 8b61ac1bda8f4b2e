import gzip

import numpy as np
import pytest

from lsec_jax.config import SplitConfig
from lsec_jax.data.sources.open_bandit import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import DataError

ITEMS = """,item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3
0,1,-0.5,bb,cc,dd
1,0,2.25,aa,cc,ee
"""
LOG = """,timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,\
user_feature_3,user-item_affinity_0,user-item_affinity_1
0,2019-11-24 00:00:02.500000+00:00,1,3,1,0.25,f1,g0,h0,k0,0.0,2.0
1,2019-11-24 00:00:01+00:00,0,1,0,1e-06,f0,g0,h1,k0,1.5,0.0
2,2019-11-24 00:00:02.500000+00:00,1,2,0,1.0,f1,g0,h1,k0,0.0,0.0
"""
MIDNIGHT = 1574553600.0  # 2019-11-24 UTC


def write(root, log=LOG, items=ITEMS):
    folder = root / "bts" / "women"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "women.csv").write_text(log)
    (folder / "item_context.csv").write_text(items)
    return Config(path=str(root), policy="bts", campaign="women")


def test_impressions_have_clicks_propensities_and_positions_in_time_order(tmp_path):
    data = write(tmp_path).load()
    assert (data.name, list(data.nodes), data.relations, data.counts) == ("obd_bts_women", ["item"], {}, {})
    events = data.events_of("impression")
    assert list(events.nodes) == ["item"]
    assert events.ids("item").tolist() == [0, 1, 1]
    assert events.time.tolist() == [MIDNIGHT + 1, MIDNIGHT + 2.5, MIDNIGHT + 2.5]
    assert events.value("click").tolist() == [False, True, False]
    np.testing.assert_array_equal(events.value("propensity"), np.float32([1e-6, 0.25, 1]))
    assert events.value("position").tolist() == [1, 3, 2]


def test_the_context_is_categorical_and_the_affinities_are_a_vector(tmp_path):
    features = write(tmp_path).load().events_of("impression").features
    assert {name: (of.vocabulary, of.values.tolist()) for name, of in features.items() if name != "affinity"} == {
        "user_feature_0": (("f0", "f1"), [0, 1, 1]),
        "user_feature_1": (("g0",), [0, 0, 0]),
        "user_feature_2": (("h0", "h1"), [1, 0, 1]),
        "user_feature_3": (("k0",), [0, 0, 0]),
    }
    assert features["affinity"].kind == "vector"
    assert features["affinity"].values.tolist() == [[1.5, 0], [0, 2], [0, 0]]


def test_items_have_their_features_in_the_order_of_their_ids(tmp_path):
    table = write(tmp_path).load().nodes["item"]
    assert table.ids.tolist() == [0, 1]
    assert table.features["item_feature_0"].kind == "numeric"
    assert table.features["item_feature_0"].values.tolist() == [2.25, -0.5]
    assert [table.features[f"item_feature_{i}"].vocabulary for i in (1, 2, 3)] == [("aa", "bb"), ("cc",), ("dd", "ee")]
    assert [table.features[f"item_feature_{i}"].values.tolist() for i in (1, 2, 3)] == [[0, 1], [0, 0], [1, 0]]


def test_affinities_can_be_left_out(tmp_path):
    write(tmp_path)
    data = Config(path=str(tmp_path), policy="bts", campaign="women", affinities=False).load()
    assert "affinity" not in data.events_of("impression").features
    assert data.events_of("impression").value("click").tolist() == [False, True, False]


def test_packed_files_are_found_and_equal(tmp_path):
    config = write(tmp_path)
    plain = config.load().fingerprint()
    log = tmp_path / "bts" / "women" / "women.csv"
    log.with_name("women.csv.gz").write_bytes(gzip.compress(log.read_bytes()))
    log.unlink()
    assert config.load().fingerprint() == plain


def test_data_without_relations_is_valid_and_a_task_on_it_names_that_there_are_none(tmp_path):
    data = write(tmp_path).load()
    data.validate()
    with pytest.raises(DataError, match=r"relation 'click' is not in data set 'obd_bts_women'; it has: none"):
        assign_splits(data, SplitConfig(), ("click",))


def test_unknown_policies_and_campaigns_are_refused_and_the_valid_ones_named(tmp_path):
    with pytest.raises(DataError, match=r"data.policy = 'rnd' \(did you mean 'random'\?\); valid: random, bts"):
        Config(path=str(tmp_path), policy="rnd").load()
    with pytest.raises(DataError, match=r"data.campaign = '../x'; valid: all, men, women"):
        Config(path=str(tmp_path), campaign="../x").load()


BAD_LOGS = {
    "unknown item": (",1,3,1,", ",2,3,1,", r"line 2, column 'item_id': item 2 is not in item_context.csv, which has 2"),
    "position 0": (",1,3,1,", ",1,0,1,", r"line 2, column 'position': 0; positions are 1, 2 and 3; correct or drop"),
    "position 4": (",1,3,1,", ",1,4,1,", r"line 2, column 'position': 4 is out of range 0..3; positions are 1, 2 and"),
    "click 2": (",1,3,1,", ",1,3,2,", r"line 2, column 'click': label 2; labels must be 0 or 1"),
    "empty click": (",1,3,1,", ",1,3,,", r"line 2, column 'click': empty value where a label, 0 or 1 is expected"),
    "propensity 0": ("1e-06", "0", r"line 3, column 'propensity_score': 0; the probability .* is in \(0, 1\]; correct"),
    "propensity 0 in single precision": ("1e-06", "1e-60", r"line 3, column 'propensity_score': 1e-60; the probab"),
    "propensity above 1": ("1e-06", "1.5", r"line 3, column 'propensity_score': 1.5; the probability"),
    "propensity NaN": ("1e-06", "nan", r"line 3, column 'propensity_score': value nan; expected a finite number"),
    "empty feature": (",h0,", ",,", r"line 2, column 'user_feature_2': empty value where an id is expected"),
    "infinite affinity": ("1.5,0.0", "1.5,inf", r"line 3, column 'user-item_affinity_1': value inf; expected a finit"),
    "affinity beyond single precision": ("1.5,0.0", "1.5,1e39", r"'user-item_affinity_1': 1e\+39 is too large for sin"),
    "no date": ("2019-11-24 00:00:01+00:00", "soon", r"line 3, column 'timestamp': 'soon' is not an ISO 8601 date"),
    "a missing field": (",k0,1.5,0.0", ",k0,1.5", r"women.csv, line 3: malformed row: 11 fields, expected 12"),
    "a missing column": ("user_feature_1", "user_feature_9", r"women.csv: no column 'user_feature_1'"),
    "a missing affinity": (
        "affinity_1\n",
        "affinity_7\n",
        r"2 columns user-item_affinity_\*.*: user-item_affinity_1\)",
    ),
    "cut": ("k0,0.0,0.0\n", "k0,0.0,0.0", r"women.csv, line 4: the file does not end in a newline"),
}


@pytest.mark.parametrize("case", BAD_LOGS)
def test_bad_impressions_are_refused_with_file_line_and_column(tmp_path, case):
    old, new, message = BAD_LOGS[case]
    assert LOG.count(old) == 1
    with pytest.raises(DataError, match=message):
        write(tmp_path, LOG.replace(old, new)).load()


def test_times_that_are_numbers_are_refused(tmp_path):
    log = LOG.replace("2019-11-24 00:00:02.500000+00:00", "2").replace("2019-11-24 00:00:01+00:00", "1")
    with pytest.raises(DataError, match=r"women.csv, line 2, column 'timestamp': not a date; expected such as 2021"):
        write(tmp_path, log).load()


BAD_ITEMS = {
    "twice": ("0,1,-0.5", "0,0,-0.5", r"item_context.csv, line 3, column 'item_id': id 0 occurs twice"),
    "a gap": ("0,1,-0.5", "0,2,-0.5", r"line 2, column 'item_id': 2 is out of range 0..1; item_id must hold every"),
    "negative": ("0,1,-0.5", "0,-1,-0.5", r"line 2, column 'item_id': negative value -1"),
    "NaN": ("-0.5", "nan", r"line 2, column 'item_feature_0': value nan; expected a finite number"),
    "no hash": (",bb,", ",,", r"line 2, column 'item_feature_1': empty value"),
    "no column": ("item_feature_3", "feature", r"item_context.csv: no column 'item_feature_3'"),
    "one item too many": ("0,1,-0.5", "2,2,1,aa,cc,dd\n0,1,-0.5", r"2 columns .* has 3 items .*user-item_affinity_2"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_bad_items_are_refused_with_file_line_and_column(tmp_path, case):
    old, new, message = BAD_ITEMS[case]
    assert ITEMS.count(old) == 1
    with pytest.raises(DataError, match=message):
        write(tmp_path, items=ITEMS.replace(old, new)).load()


def test_missing_empty_and_truncated_files_are_refused(tmp_path):
    config = write(tmp_path)
    log = tmp_path / "bts" / "women" / "women.csv"
    packed = gzip.compress(log.read_bytes())
    log.write_text("")
    with pytest.raises(DataError, match=r"women.csv: empty file"):
        config.load()
    log.unlink()
    with pytest.raises(DataError, match=r"women.csv: missing file"):
        config.load()
    log.with_name("women.csv.gz").write_bytes(packed[:-20])
    with pytest.raises(DataError, match=r"women.csv.gz: truncated or damaged gzip file"):
        config.load()
    with pytest.raises(DataError, match=r"missing file; there is no directory .*random"):
        Config(path=str(tmp_path), campaign="women").load()


RELEASED = {
    ("random", "men"): (34, 46),
    ("bts", "men"): (34, 69),
    ("random", "women"): (46, 46),
    ("bts", "women"): (46, 46),
}


@pytest.mark.parametrize(("policy", "campaign"), RELEASED)
def test_the_released_samples_have_their_published_sizes(data_dir, policy, campaign):
    num_items, num_clicks = RELEASED[policy, campaign]
    data = Config(path=str(data_dir / "obd"), policy=policy, campaign=campaign).load()
    events = data.events_of("impression")
    assert (len(events), len(data.nodes["item"])) == (10000, num_items)
    assert int(events.value("click").sum()) == num_clicks
    assert events.features["affinity"].values.shape == (10000, num_items)
    if policy == "random":
        np.testing.assert_array_equal(events.value("propensity"), np.float32(1 / num_items))
