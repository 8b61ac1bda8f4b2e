"""KuaiLive's files: every value of a small example by hand, and what is counted."""

import gzip

import numpy as np
import pytest

from lsec_jax.config import HistoryConfig, SplitConfig
from lsec_jax.data.audits import audit_splits
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.splits import assign_splits
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.schema import TRAIN
from tests.kuailive_files import FILES, STREAMER, USER, T, change, load, write


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def meanings(feature):
    return [None if code < 0 else feature.vocabulary[code] for code in feature.values]


def pairs(data, name):
    relation = data.relations[name]
    source, target = data.nodes[relation.source].ids, data.nodes[relation.target].ids
    return list(zip(source[relation.source_ids].tolist(), target[relation.target_ids].tolist(), strict=True))


def seconds(*milliseconds):
    return [(T + of) / 1000 for of in milliseconds]


def test_nodes_are_sorted_by_the_released_ids(folder):
    data = load(folder)
    assert {name: table.ids.tolist() for name, table in data.nodes.items()} == {
        "user": [8505, 11504, 23154],
        "streamer": [419, 56006],
        "room": [10, 20, 30],
        "scenario": ["root", "shop", "shop/1", "shop/10"],
    }
    assert data.name == folder.name


def test_features_of_users_have_their_kinds_values_and_order(folder):
    features = load(folder).nodes["user"].features
    assert meanings(features["age"]) == ["18-23", None, "24-30"]
    assert features["device_price"].kind == "ordinal"
    assert features["device_price"].vocabulary == ("0", "0-1000", "5000+")
    assert meanings(features["device_price"]) == ["0", "0-1000", "5000+"]
    assert features["accu_watch_live_cnt"].vocabulary == ("0-50000", "50000-100000")
    assert features["country"].kind == "categorical"
    assert meanings(features["country"]) == ["China", None, "China"]
    assert meanings(features["device_brand"]) == ["DESKTOP", "OPPO", "APPLE"]
    assert meanings(features["gender"]) == ["M", "M", "F"]
    assert features["reg_timestamp"].kind == "numeric"
    assert features["reg_timestamp"].values.tolist() == [19480, 1, 16436]
    np.testing.assert_array_equal(features["first_watch_live_timestamp"].values, [19481, 19480, np.nan])
    assert meanings(features["is_live_streamer"]) == ["0", "0", "1"]
    assert meanings(features["is_photo_author"]) == ["0", "1", "1"]
    assert meanings(features["onehot_feat0"]) == ["0", "0", "1"]
    assert features["onehot_feat2"].vocabulary == ("0",)
    assert set(features) == set(USER.splitlines()[0].split(",")) - {"user_id"}


def test_features_of_streamers_have_their_kinds_values_and_order(folder):
    features = load(folder).nodes["streamer"].features
    assert set(features) == set(STREAMER.splitlines()[0].split(",")) - {"streamer_id"}
    assert meanings(features["age"]) == ["50+", "24-30"]
    assert features["age"].vocabulary == ("24-30", "50+")
    assert features["fans_user_num"].vocabulary == ("10000-100000", "100000+")
    assert features["accu_play_duration"].vocabulary == ("0-50000000000", "50000000000-100000000000")
    assert meanings(features["live_operation_tag"]) == ["Music", "Relationship"]
    assert features["first_live_timestamp"].values.tolist() == [18262, 17566]
    kinds = {name: feature.kind for name, feature in features.items()}
    assert [name for name, kind in kinds.items() if kind == "numeric"] == ["reg_timestamp", "first_live_timestamp"]
    assert sorted(name for name, kind in kinds.items() if kind == "ordinal") == [
        "accu_live_cnt",
        "accu_live_duration",
        "accu_play_cnt",
        "accu_play_duration",
        "age",
        "device_price",
        "fans_group_fans_num",
        "fans_user_num",
        "follow_user_num",
    ]


def test_rooms_are_live_in_seconds_and_a_room_without_a_usable_end_stays_live(folder):
    data = load(folder)
    live = data.availability["room"]
    assert live.start.tolist() == seconds(0, -30_000, -60_000)
    assert live.end.tolist() == [np.inf, np.inf, *seconds(90_000)]
    assert data.counts["room.csv: rooms without an end, taken for live from their start on"] == 1
    assert data.counts["room.csv: rooms that end before they start or at once, taken for live from their start on"] == 1


def test_a_room_that_is_listed_again_has_the_features_of_its_earliest_day(folder):
    data = load(folder)
    features = data.nodes["room"].features
    assert meanings(features["live_content_category"]) == [None, "shop", "shop"]
    assert meanings(features["live_type"]) == ["1", "10", "1"]
    assert features["live_type"].vocabulary == ("1", "10")
    assert data.counts["room.csv: further rows of a room, joined"] == 1


@pytest.mark.parametrize(("end", "known"), [("0", np.inf), ("-1", np.inf), ("NULL", np.inf), (f"{T}.0", T / 1000)])
def test_an_end_of_zero_or_below_and_markers_are_no_end(folder, end, known):
    change(folder, "room.csv", f"10,{T - 30_000},,", f"10,{T - 30_000},{end},")
    assert load(folder).availability["room"].end[1] == known


def test_the_scenario_tree_goes_from_root_over_category_to_type(folder):
    data = load(folder)
    assert data.trees["scenario"].parents.tolist() == [-1, 0, 1, 1]
    assert pairs(data, "in_scenario") == [(10, "root"), (20, "shop/10"), (30, "shop/1")]
    assert data.counts["scenario: rooms without category or type, above the leaves"] == 1
    change(folder, "room.csv", "56006,10,", "56006,,")
    data = load(folder)
    assert data.nodes["scenario"].ids.tolist() == ["root", "shop", "shop/1"]
    assert pairs(data, "in_scenario") == [(10, "root"), (20, "shop"), (30, "shop/1")]
    assert data.trees["scenario"].paths().tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 2]]


def test_relations_have_the_first_time_of_each_pair_and_the_streamer_of_the_room(folder):
    data = load(folder)
    assert pairs(data, "hosts") == [(56006, 10), (56006, 20), (419, 30)]
    assert data.relations["hosts"].time.tolist() == data.availability["room"].start.tolist()
    # Room 10 is that of streamer 56006, whatever click.csv says.
    assert dict(zip(pairs(data, "watch"), data.relations["watch"].time.tolist(), strict=True)) == {
        (8505, 419): (T + 0) / 1000,
        (23154, 56006): (T + 1_000) / 1000,
        (8505, 56006): (T + 40_000) / 1000,
    }
    gifts = data.relations["gift"]
    assert pairs(data, "gift") == [(8505, 419), (23154, 419), (8505, 56006)]
    assert gifts.time.tolist() == seconds(20_000, 70_000, 40_000)
    assert gifts.weight.tolist() == [88, 5, 1]
    assert data.counts["watch: duplicate rows dropped"] == 2
    assert data.counts["gift: duplicate rows dropped"] == 1
    assert data.counts["click.csv: rows whose streamer_id is not their room's in room.csv, which is used"] == 1


def test_impressions_are_watches_and_negatives_in_time_order_with_what_was_done_in_them(folder):
    data = load(folder)
    events = data.events_of("impression")
    assert events.time.tolist() == seconds(0, 1_000, 1_000, 5_000, 20_000, 40_000, 95_000)
    external = {name: data.nodes[name].ids[events.ids(name)].tolist() for name in ("user", "room", "streamer")}
    assert external == {
        "user": [8505, 23154, 11504, 23154, 8505, 8505, 8505],
        "room": [30, 20, 20, 30, 30, 20, 10],
        "streamer": [419, 56006, 56006, 419, 419, 56006, 56006],
    }
    scenario = data.nodes["scenario"].ids[events.ids("scenario")].tolist()
    assert scenario == ["shop/1", "shop/10", "shop/10", "shop/1", "shop/1", "shop/10", "root"]
    assert events.value("watched").tolist() == [True, True, False, False, True, True, True]
    stay = np.array([10, 0.5, np.nan, np.nan, 2.852, 0, 1], np.float32)
    np.testing.assert_array_equal(events.value("stay_seconds"), stay)
    # The comment at 10 s is at the end of the first watch, the one a millisecond later in none; nor is that of a user
    # who did not enter. Likes at the very start of one watch and at the very end of another.
    assert events.value("comment").tolist() == [True, False, False, False, False, False, False]
    assert events.value("like").tolist() == [True, False, False, False, True, False, False]
    assert events.value("gift").tolist() == [False, False, False, False, True, True, False]
    assert events.value("gift_amount").tolist() == [0, 0, 0, 0, 90, 1, 0]


def test_gifts_keep_their_price_and_point_to_their_watch(folder):
    data = load(folder)
    gifts = data.events_of("gift")
    assert gifts.time.tolist() == seconds(20_000, 21_000, 40_000, 70_000)
    assert data.nodes["user"].ids[gifts.ids("user")].tolist() == [8505, 8505, 8505, 23154]
    assert data.nodes["room"].ids[gifts.ids("room")].tolist() == [30, 30, 20, 30]
    assert data.nodes["streamer"].ids[gifts.ids("streamer")].tolist() == [419, 419, 56006, 419]
    assert gifts.value("amount").tolist() == [88, 2, 1, 5]
    assert gifts.parent[0] == "impression"
    assert gifts.parent[1].tolist() == [4, 4, 5, -1]


def test_actions_keep_their_own_time_and_point_to_their_watch(folder):
    data = load(folder)
    actions = data.events_of("action")
    data.validate()
    assert actions.time.tolist() == seconds(0, 5_000, 10_000, 10_001, 20_000, 21_000, 22_852, 22_853, 40_000, 70_000)
    kinds = [[name for name, of in actions.values.items() if of[row]] for row in range(10)]
    assert kinds == [[name] for name in "like comment comment comment gift gift like like gift gift".split()]
    assert data.nodes["user"].ids[actions.ids("user")].tolist() == [8505, 23154, *[8505] * 7, 23154]
    assert data.nodes["room"].ids[actions.ids("room")].tolist() == [*[30] * 8, 20, 30]
    assert data.nodes["streamer"].ids[actions.ids("streamer")].tolist() == [*[419] * 8, 56006, 419]
    assert actions.parent[0] == "impression"
    assert actions.parent[1].tolist() == [0, -1, 0, -1, 4, 4, 4, -1, 5, -1]


def test_impressions_and_actions_are_two_domains_of_a_declaration(folder):
    """Watches are known when they end, actions at once; nothing of the watch itself is in its own history."""
    histories = [
        HistoryConfig("watches", item="room", where="watched"),
        HistoryConfig("likes", events="action", item="room", where="like"),
    ]
    data = add_histories(load(folder), histories)
    data = data.replace(cut_times=tuple(seconds(90_000, 94_000)))
    room = Field("room", "item", table="room")
    watches = SequenceFields("channels", "watches", 3, (room,), known_after="stay_seconds", hides="behaviours")
    declared = Declaration(
        tables=(Table("room"),),
        fields=(Field("room", "room", "target", "room"), Field("hour", "time.hour", "context")),
        sequences=(watches, SequenceFields("likes", "likes", 3, (room,))),
        labels=(
            Label("watched", "watched", measured="stay_seconds", minimum=0.4),
            Label("stay", "stay_seconds", "regression", "log1p", only_if="watched"),
            Label("like", "like", only_if="watched"),
            Label("comment", "comment", only_if="watched"),
        ),
        day_length=86_400.0,
    )
    encoder = EventEncoder(data, declared)
    batch = encoder.encode(np.arange(7))
    # Of user 8505 at 0, 20, 40 and 95 s; her watch at 20 s and the one at 40 s ended before the next moment.
    assert batch["masks"]["channels"].sum(axis=1).tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert batch["masks"]["likes"].sum(axis=1).tolist() == [0, 0, 0, 0, 1, 3, 3]
    answers = encoder.answers(np.arange(7))
    assert answers[:, 0].tolist() == [1, 1, 0, 0, 1, 0, 1]
    np.testing.assert_array_equal(np.isnan(answers[:, 1:]).all(axis=1), [0, 0, 1, 1, 0, 0, 0])
    assert answers[[0, 4], 2].tolist() == [1, 1] and answers[0, 3] == 1


def test_everything_that_was_left_out_or_decided_is_counted(folder):
    change(folder, "click.csv", f"{T + 20_000},2852\n", f"{T + 89_000},2000\n")
    change(folder, "negative.csv", f"{T + 5_000}", f"{T + 90_000}")
    counts = load(folder).counts
    assert counts == {
        "user.csv: no age": 1,
        "user.csv: no country": 1,
        "user.csv: no first_watch_live_timestamp": 1,
        "room.csv: rows of rooms in no event, left out": 1,
        "room.csv: further rows of a room, joined": 1,
        "room.csv: rooms without an end, taken for live from their start on": 1,
        "room.csv: rooms that end before they start or at once, taken for live from their start on": 1,
        "room.csv: no live_content_category": 1,
        "scenario: rooms without category or type, above the leaves": 1,
        "click.csv: rows whose streamer_id is not their room's in room.csv, which is used": 1,
        "negative.csv: rows while their room is not live, kept": 1,
        "comment.csv: rows in no watch of their user and room, in no impression": 2,
        "like.csv: rows in no watch of their user and room, in no impression": 2,
        "gift.csv: rows in no watch of their user and room, parent -1": 3,
        "watch: duplicate rows dropped": 2,
        "gift: duplicate rows dropped": 1,
    }


def test_all_rooms_are_there_where_candidates_need_them(folder):
    data = load(folder, rooms="all")
    assert data.nodes["room"].ids.tolist() == [10, 20, 30, 99]
    assert pairs(data, "hosts")[-1] == (419, 99)
    assert data.availability["room"].end[3] == (T + 1000) / 1000
    assert data.nodes["scenario"].ids.tolist() == ["root", "game", "shop", "game/7", "shop/1", "shop/10"]
    seen, every = load(folder).events_of("impression"), data.events_of("impression")
    np.testing.assert_array_equal(seen.value("like"), every.value("like"))


def test_row_order_and_compression_do_not_change_the_data(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name, text in FILES.items():
        header, *rows = text.splitlines()
        packed = gzip.compress("\n".join([header, *rows[::-1], ""]).encode())
        (other / f"{name}.gz").write_bytes(packed)
    # Only rows of equal time keep the order of the file, and there are none within one file.
    assert load(folder).fingerprint() == load(other).fingerprint()


def test_a_room_with_several_streamers_is_that_of_its_earliest_row(folder):
    change(folder, "room.csv", "20250506,30,419", "20250506,30,56006")
    data = load(folder)
    assert pairs(data, "hosts")[-1] == (419, 30)
    assert data.counts["room.csv: rooms with several streamers, that of the earliest row is used"] == 1


def test_title_embeddings_become_a_vector_feature_of_the_room(folder):
    vectors = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.save(folder / "title_embeddings_pca128.npy", vectors)
    data = load(folder)
    title = data.nodes["room"].features["title"]
    assert title.kind == "vector" and title.values.dtype == np.float32
    np.testing.assert_array_equal(title.values, [[np.nan] * 4, vectors[0], vectors[2]])
    assert data.counts["room.csv: no title"] == 1
    assert "title" not in load(folder, title_embeddings=None).nodes["room"].features
    np.save(folder / "mine.npy", vectors + 1)
    mine = load(folder, title_embeddings="mine.npy").nodes["room"].features["title"]
    np.testing.assert_array_equal(mine.values[1], vectors[0] + 1)


def test_title_numbers_may_be_written_as_floats_or_missing(folder):
    np.save(folder / "title_embeddings.npy", np.ones((3, 2), np.float16))
    change(folder, "room.csv", ",shop,0\n", ",shop,1.0\n")
    change(folder, "room.csv", f"{T},,-1", f"{T},,")
    title = load(folder).nodes["room"].features["title"]
    assert title.is_missing().tolist() == [True, False, False]


def test_the_relation_of_watches_can_be_split_by_time_for_a_graph_model(folder):
    data = assign_splits(load(folder), SplitConfig(method="time", fractions=(0.7, 0.0, 0.3)), ["watch"])
    audit_splits(data)
    data.validate()
    assert data.cut_times == tuple(seconds(40_000, 40_000))
    assert np.bincount(data.relations["watch"].split).tolist() == [2, 0, 1]
    assert np.bincount(data.relations["gift"].split).tolist() == [1, 0, 2]
    assert (data.relations["hosts"].split == TRAIN).all()
    assert data.end_time == np.nextafter((T + 95_000) / 1000, np.inf)


def test_events_lie_within_the_data_sets_period(folder):
    change(folder, "gift.csv", f"{T + 70_000}", f"{T + 99_000}")
    data = load(folder)
    assert data.end_time == np.nextafter((T + 99_000) / 1000, np.inf)
    assert data.quarantined().fingerprint() == data.fingerprint()
