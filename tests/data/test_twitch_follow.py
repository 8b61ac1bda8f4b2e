import numpy as np
import pytest

from lsec_jax.config import SplitConfig
from lsec_jax.data.sources.twitch_follow import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import DataError

FILES = {
    "user_streamer_follow_train.tsv": "user\tstreamer\n7\t0\n7\t2\n5\t0\n",
    "streamer_game_airtime.tsv": "streamer\tgame\tpct_airtime\n0\t1\t0.25\n2\t0\t1.0\n",
    "streamer_features.tsv": "streamer\tlanguage\n2\tEnglish\n0\tGerman\n1\tGerman\n",
    "games.tsv": "game\tname_inferred\n0\tA, the game\n1\tB\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_follows_and_weighted_air_time_join_users_streamers_and_games(folder):
    data = Config(path=str(folder)).load()
    assert {name: table.ids.tolist() for name, table in data.nodes.items()} == {
        "user": [5, 7],
        "streamer": [0, 1, 2],
        "game": [0, 1],
    }
    follow, airtime = data.relations["follow"], data.relations["airtime"]
    assert list(zip(follow.source_ids, follow.target_ids, strict=True)) == [(1, 0), (1, 2), (0, 0)]
    np.testing.assert_array_equal(airtime.weight, np.float32([0.25, 1.0]))
    assert follow.split is None and airtime.split is None


BAD_FILES = {
    "unknown streamer": (
        "user_streamer_follow_train.tsv",
        "user\tstreamer\n7\t3\n",
        r"line 2, column 'streamer': streamer 3 is not in streamer_features.tsv, which has 3, 0 to 2",
    ),
    "unknown game": (
        "streamer_game_airtime.tsv",
        "streamer\tgame\tpct_airtime\n0\t9\t1\n",
        r"line 2, column 'game': game 9 is not in games.tsv",
    ),
    "no air time": (
        "streamer_game_airtime.tsv",
        "streamer\tgame\tpct_airtime\n0\t1\t0\n",
        r"line 2, column 'pct_airtime': weight 0.0; weights must be finite and > 0",
    ),
    "more than all air time": (
        "streamer_game_airtime.tsv",
        "streamer\tgame\tpct_airtime\n0\t1\t1\n2\t1\t2\n",
        r"line 3, column 'pct_airtime': share 2.0; shares of the air time are in \(0, 1\]; correct or drop the row",
    ),
    "no header": (
        "games.tsv",
        "0\n1\n",
        r"no column 'game'; the first line is a header with the columns game, tabs between; it has: 0$",
    ),
    "no rows": ("games.tsv", "game\n", r"empty table: a header \(game\) and no rows; write or copy it again$"),
    "a streamer twice": ("streamer_features.tsv", "streamer\n0\n2\n0\n", r"line 4, column 'streamer': id 0 occurs tw"),
    "no such column": ("games.tsv", "id\n0\n1\n", r"games.tsv: no column 'game'"),
    "malformed": ("user_streamer_follow_train.tsv", "user\tstreamer\n7\t0\t1\n", r"line 2: malformed row: 3 fields"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_input_is_refused_with_file_line_and_column(folder, case):
    name, text, message = BAD_FILES[case]
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        Config(path=str(folder)).load()


def test_the_released_files_have_their_published_sizes_and_split_at_random(data_dir):
    data = Config(path=str(data_dir / "twitch_follow")).load()
    assert {name: len(table) for name, table in data.nodes.items()} == {"user": 10985, "streamer": 1904, "game": 50}
    assert (len(data.relations["follow"]), len(data.relations["airtime"])) == (222131, 9414)
    assert data.counts == {}
    split = assign_splits(data, SplitConfig(method="random"), ("follow",))
    assert np.bincount(split.relations["follow"].split).tolist() == [177705, 22213, 22213]
    assert not split.relations["airtime"].split.any()
