"""Twitch follows as requests in scenarios: main games, the drawn order, and what a request may know."""

import itertools

import numpy as np
import pytest

from lsec_jax.config import ConfigError, HistoryConfig, SplitConfig
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.sources import twitch_follow
from lsec_jax.data.sources.twitch_scenarios import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import DataError

# Streamers 0 to 3 have game 1, 4 to 7 game 0, 8 and 9 none.
AIRTIME = "0\t1\t0.5\n0\t0\t0.5\n1\t1\t0.6\n1\t0\t0.4\n2\t1\t1\n3\t1\t1\n4\t0\t1\n5\t0\t1\n6\t0\t1\n7\t0\t1\n"


def write(folder, **settings):
    rng = np.random.default_rng(0)
    pairs = sorted({*zip(rng.integers(30, size=150).tolist(), rng.integers(10, size=150).tolist(), strict=True)})
    follows = "".join(f"{user}\t{streamer}\n" for user, streamer in pairs)
    (folder / "user_streamer_follow_train.tsv").write_text("user\tstreamer\n" + follows)
    (folder / "streamer_game_airtime.tsv").write_text("streamer\tgame\tpct_airtime\n" + AIRTIME)
    (folder / "streamer_features.tsv").write_text("streamer\n" + "".join(f"{i}\n" for i in range(10)))
    (folder / "games.tsv").write_text("game\n0\n1\n5\n")
    return Config(**{"path": str(folder), "min_shared": 1, "num_negatives": 2} | settings)


def pairs_of(events, data):
    return [*zip(*(data.nodes[role].ids[events.ids(role)].tolist() for role in ("user", "streamer")), strict=True)]


def test_scenarios_are_the_games_of_most_air_time_below_one_root(tmp_path):
    data = write(tmp_path).load()
    data.validate()
    assert data.nodes["scenario"].ids.tolist() == ["all", "none", "game_0", "game_1", "game_5"]
    assert data.trees["scenario"].parents.tolist() == [-1, 0, 0, 0, 0]
    follow = data.events["follow"]
    of = dict(zip(follow.ids("streamer").tolist(), follow.ids("scenario").tolist(), strict=True))
    # Streamer 0 gives two games as much: the lower one counts.
    assert of == {0: 2, **dict.fromkeys((1, 2, 3), 3), **dict.fromkeys((4, 5, 6, 7), 2), **dict.fromkeys((8, 9), 1)}


def test_every_follow_has_its_place_and_later_ones_are_requests_of_streamers_of_the_same_game(tmp_path):
    config = write(tmp_path, view_share=0.5)
    data = config.load()
    given = twitch_follow.Config(path=str(tmp_path)).load().relation("follow")
    follow, shown = data.events["follow"], data.events["suggestion"]
    pairs = [*zip(follow.ids("user").tolist(), follow.ids("streamer").tolist(), strict=True)]
    assert sorted(pairs) == sorted(zip(given.source_ids.tolist(), given.target_ids.tolist(), strict=True))
    assert follow.time.tolist() == [*range(len(pairs))] and pairs != sorted(pairs)
    scenario_of = dict(zip(follow.ids("streamer").tolist(), follow.ids("scenario").tolist(), strict=True))
    columns = [shown.ids(role).tolist() for role in ("user", "streamer", "scenario")]
    rows = zip(*columns, shown.value("followed").tolist(), shown.time.astype(int).tolist(), strict=True)
    positives = []
    for user, streamer, scenario, is_followed, time in rows:
        assert ((user, streamer) in pairs) == is_followed and scenario_of[streamer] == scenario
        assert streamer in {other for _, other in pairs[:time]}
        positives += [(time, (user, streamer))] if is_followed else []
    assert all(pairs[time] == pair for time, pair in positives) and positives[0][0] >= len(pairs) // 2
    left_out = sum(number for what, number in data.counts.items() if what.startswith("sugg") and "left out" in what)
    assert len(positives) == len(pairs) - len(pairs) // 2 - left_out


def test_views_come_from_the_first_part_of_the_order(tmp_path):
    data = write(tmp_path, view_share=0.5).load()
    follow = data.events["follow"]
    pairs = [*zip(follow.ids("user").tolist(), follow.ids("streamer").tolist(), strict=True)][: len(follow) // 2]
    for name, member in (("co_follow", 0), ("co_followed", 1)):
        expected = {}
        for first, second in itertools.permutations(pairs, 2):
            if first[1 - member] == second[1 - member]:
                link = (first[member], second[member])
                expected[link] = expected.get(link, 0) + 1
        view = data.relation(name)
        found = zip(view.source_ids.tolist(), view.target_ids.tolist(), view.weight.tolist(), strict=True)
        assert {(source, target): weight for source, target, weight in found} == expected
        assert (view.time < float(data.events["suggestion"].time[0])).all()


def test_the_seed_alone_decides_the_order_and_not_that_of_the_file(tmp_path):
    config = write(tmp_path)
    first = config.load()
    path = tmp_path / "user_streamer_follow_train.tsv"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(lines[::-1]))
    again, other = config.load(), Config(**{**vars(config), "seed": 1}).load()
    assert first.fingerprint() == again.fingerprint()
    assert pairs_of(first.events["follow"], first) != pairs_of(other.events["follow"], other)


def test_histories_of_requests_are_the_earlier_follows_in_the_order(tmp_path):
    data = write(tmp_path).load()
    data = add_histories(data, (HistoryConfig("follows", events="follow", moments=("suggestion",)),))
    shown, follow, histories = data.events["suggestion"], data.events["follow"], data.histories["follows"]
    for row, (user, end) in enumerate(zip(shown.ids("user"), histories.ends["suggestion"], strict=True)):
        earlier = (follow.ids("user") == user) & (follow.time < shown.time[row])
        found = histories.items[histories.starts[user] : end]
        assert found.tolist() == follow.ids("streamer")[earlier].tolist()


WRONG = {
    "no views": (ConfigError, {"view_share": 0.0}, "data.view_share = 0.0; give a share between 0 and 1"),
    "too few views": (DataError, {"view_share": 0.001}, "data.view_share = 0.001: none of .* follows; raise it"),
    "no negatives": (ConfigError, {"num_negatives": 0}, "data.num_negatives = 0; give a whole number of 1 or more"),
    "one follower": (ConfigError, {"max_followers": 1}, "data.max_followers = 1; give a whole number of 2 or more"),
    "one follow": (ConfigError, {"max_follows": 1}, "data.max_follows = 1; give a whole number of 2 or more"),
    "nothing shared": (ConfigError, {"min_shared": 0}, "data.min_shared = 0; give a whole number of 1 or more"),
    "no links": (DataError, {"min_shared": 11}, "'co_follow': no two user nodes share 11 of what at most 200 have"),
    "a high seed": (ConfigError, {"seed": 2**32}, r"data.seed = 4294967296; give a whole number in \[0, 2\*\*32\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_leave_nothing_are_refused(tmp_path, case):
    error, changes, message = WRONG[case]
    with pytest.raises(error, match=message):
        write(tmp_path, **changes).load()


def test_the_released_files_make_requests_without_any_follow_among_the_negatives(data_dir):
    data = Config(path=str(data_dir / "twitch_follow")).load()
    data.validate()
    shown, follow = data.events["suggestion"], data.events["follow"]
    is_followed, group = shown.value("followed"), shown.group
    assert (int(group[-1]) + 1, len(follow)) == (133_261, 222_131)
    assert {name: len(view) for name, view in data.relations.items()} == {"co_follow": 517_822, "co_followed": 242_496}
    assert (np.bincount(group[is_followed], minlength=133_261) == 1).all()
    keys = [of.ids("user").astype(np.int64) * 10_000 + of.ids("streamer") for of in (shown, follow)]
    np.testing.assert_array_equal(np.isin(*keys), is_followed)
    assert len(np.unique(group * 10_000 + shown.ids("streamer"))) == len(shown)
    scenario_of = np.zeros(len(data.nodes["streamer"]), np.int32)
    scenario_of[follow.ids("streamer")] = follow.ids("scenario")
    np.testing.assert_array_equal(scenario_of[shown.ids("streamer")], shown.ids("scenario"))
    for view in data.relations.values():
        assert (view.time < float(shown.time[0])).all()
    split = assign_splits(data, SplitConfig(), ("suggestion",))
    assert (split.events["suggestion"].split == 0).mean() == pytest.approx(0.8, abs=0.01)
