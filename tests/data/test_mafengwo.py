import numpy as np
import pytest

from lsec_jax.config import ConfigError, SplitConfig
from lsec_jax.data.sources.mafengwo import Config
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError

# Group 0 tests place 5 and has 1 and 2 in training; group 4 tests place 0 and has 3.
FILES = {
    "groupMember.txt": "0 10,11\n4 11\n",
    "groupRatingTrain.txt": "0 1\n0 2\n4 3\n",
    "groupRatingTest.txt": "0 5\n4 0\n",
    "groupRatingNegative.txt": "(0,5) 5 1 6 6\n(4,0) 1 2 5 6\r\n",
    "userRatingTrain.txt": "10 6\n10 7\n10 8\n10 9\n11 4\n",
    "userRatingTest.txt": "11 1\n",
    "userRatingNegative.txt": "(11,1) 4 2 3 5\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def load(folder, **options):
    return Config(path=str(folder), **options).load()


def test_groups_users_and_places_are_joined_by_three_relations(folder):
    data = load(folder)
    assert {name: table.ids.tolist() for name, table in data.nodes.items()} == {
        "group": [0, 4],
        "user": [10, 11],
        "place": list(range(10)),
    }
    member = data.relations["member"]
    assert list(zip(member.source_ids, member.target_ids, strict=True)) == [(0, 0), (0, 1), (1, 1)]
    assert data.relations["group_place"].split.tolist() == [TRAIN, TRAIN, TRAIN, TEST, TEST]
    assert data.relations["user_place"].edges(TEST)[1].tolist() == [1]


def test_the_published_lists_are_kept_as_they_are_and_their_collisions_counted(folder):
    data = load(folder)
    lists = data.candidates["group_place", TEST]
    assert lists.target_ids.tolist() == [[5, 5, 1, 6, 6], [0, 1, 2, 5, 6]]
    assert lists.labels.tolist() == [[True, False, False, False, False]] * 2
    assert lists.origin == "published (groupRatingNegative.txt)"
    assert data.counts == {
        "group_place: test lists whose negatives hold the positive itself": 1,
        "group_place: test lists whose negatives hold a training positive": 1,
        "group_place: test lists whose negatives hold a place twice": 1,
        "user_place: test lists whose negatives hold the positive itself": 0,
        "user_place: test lists whose negatives hold a training positive": 1,
        "user_place: test lists whose negatives hold a place twice": 0,
    }


def test_cleaned_lists_replace_the_collisions_only(folder):
    data = load(folder, negatives="cleaned")
    lists = data.candidates["group_place", TEST]
    assert lists.target_ids.shape == (2, 5)
    assert {5, 6} < set(lists.target_ids[0]) and len(set(lists.target_ids[0])) == 5
    assert not {1, 2} & set(lists.target_ids[0])
    assert lists.target_ids[lists.labels].tolist() == [5, 0]
    assert lists.target_ids[1].tolist() == [0, 1, 2, 5, 6]
    assert lists.origin == "published (groupRatingNegative.txt), cleaned: 3 collisions replaced, seed 0"
    assert data.counts == load(folder).counts


def test_cleaning_is_seeded_and_even(folder):
    drawn = [load(folder, negatives="cleaned", seed=seed).candidates["group_place", TEST] for seed in range(60)]
    again = load(folder, negatives="cleaned", seed=7).candidates["group_place", TEST]
    np.testing.assert_array_equal(drawn[7].target_ids, again.target_ids)
    counts = np.bincount(np.concatenate([lists.target_ids[0] for lists in drawn]), minlength=10)
    # Three of the six places 0, 3, 4, 7, 8, 9 each time.
    assert counts[[1, 2, 5, 6]].tolist() == [0, 0, 60, 60]
    assert (np.abs(counts[[0, 3, 4, 7, 8, 9]] - 30) < 16).all()


def test_held_out_pairs_leave_test_and_lists_alone(folder):
    plain, held = load(folder), load(folder, validation_fraction=0.6)
    split = held.relations["group_place"].split
    assert split.tolist()[2:] == [TRAIN, TEST, TEST]
    assert sorted(split.tolist()[:2]) == [TRAIN, VALIDATION]
    np.testing.assert_array_equal(
        plain.candidates["group_place", TEST].target_ids, held.candidates["group_place", TEST].target_ids
    )


BAD_FILES = {
    "unknown group": ("groupRatingTrain.txt", "7 1\n", r"column 'group': group 7 is not in groupMember.txt, which"),
    "unknown user": ("userRatingTest.txt", "12 1\n", r"column 'user': user 12 is not in groupMember.txt"),
    "unknown place": (
        "groupRatingNegative.txt",
        "(0,5) 5 1 6 6\n(4,0) 1 2 55 6\n",
        r"groupRatingNegative.txt, line 2, column 'negative 3': place 55 is not in the rating files",
    ),
    "another pair": (
        "groupRatingNegative.txt",
        "(0,4) 5 1 6 6\n(4,0) 1 2 5 6\n",
        r"line 1, column 'positive': '\(0,4\)' is not \(0,5\), the pair of this line of groupRatingTest.txt",
    ),
    "short list": (
        "groupRatingNegative.txt",
        "(0,5) 5 1 6 6\n(4,0) 1 2 5\n",
        r"groupRatingNegative.txt, line 2: malformed row: 4 fields, expected 5",
    ),
    "missing list": ("groupRatingNegative.txt", "(0,5) 5 1 6 6\n", r"1 lines, but groupRatingTest.txt has 2; give one"),
    "no negatives": ("groupRatingNegative.txt", "(0,5)\n(4,0)\n", r"line 1: no negatives; a line is '\(group,place\)"),
    "no list of users": (
        "groupMember.txt",
        "0 10,x\n4 11\n",
        r"line 1, column 'members': '10,x' is not a list of user numbers 'user,user,...'; correct the row",
    ),
    "user with a leading zero": ("groupMember.txt", "0 10,11\n4 011\n", r"line 2, column 'members': '011' is not a li"),
    "group of letters": (
        "groupMember.txt",
        "0 10,11\n4 11\n1O 10\n",
        r"groupMember.txt, line 3, column 'group': group '1O' is no number \(plain digits, 18 at most\); correct",
    ),
    "place of letters": (
        "userRatingTrain.txt",
        "10 6\n10 7\n11 1O\n",
        r"userRatingTrain.txt, line 3, column 'place': place '1O' is no number .*; correct the row",
    ),
    "place with a leading zero": (
        "groupRatingTest.txt",
        "0 05\n4 0\n",
        r"line 1, column 'place': place '05' is no num",
    ),
    "test pair in training": (
        "groupRatingTrain.txt",
        "0 1\n0 2\n4 3\n4 0\n",
        r"groupRatingTest.txt, line 2, column 'place': this pair is in groupRatingTrain.txt too; take it out of one",
    ),
    "space at a line's end": (
        "groupRatingNegative.txt",
        "(0,5) 5 1 6 6 \n(4,0) 1 2 5 6\n",
        r"groupRatingNegative.txt, line 1: two spaces together, or one at the line's end; a line is '\(group,place\) ",
    ),
    "tab between": (
        "groupRatingTrain.txt",
        "0\t1\n",
        r"line 1: 1 fields \('0\\t1'\), expected 2; if '\\t' separates .*; a line is 'group place', one space between$",
    ),
    "three fields": (
        "userRatingTrain.txt",
        "10 6\n10 7 8\n",
        r"line 2: malformed row: .*; a line is 'user place', one ",
    ),
    "header": (
        "groupRatingTrain.txt",
        "group place\n0 1\n",
        r"line 1: a header \('group place'\), which this format do",
    ),
    "empty file": (
        "groupMember.txt",
        "",
        r"empty file; write or copy it again; a line is 'group user,user,...', one spa",
    ),
    "a group twice": ("groupMember.txt", "0 10\n0 11\n", r"groupMember.txt, line 2, column 'group': id 0 occurs twice"),
}


def test_user_numbers_have_up_to_eighteen_digits(folder):
    (folder / "groupMember.txt").write_text("0 10,11\n4 11,1234567890,123456789012345678\n")
    assert load(folder).nodes["user"].ids.tolist() == [10, 11, 1234567890, 123456789012345678]


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_input_is_refused_with_file_line_and_column(folder, case):
    name, text, message = BAD_FILES[case]
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_two_test_pairs_of_a_group_are_refused(folder):
    (folder / "groupRatingTest.txt").write_text("0 5\n0 0\n")
    (folder / "groupRatingNegative.txt").write_text("(0,5) 6 7\n(0,0) 6 7\n")
    with pytest.raises(DataError, match=r"groupRatingTest.txt, line 2, column 'group': occurs twice; a candidate list"):
        load(folder)


def test_lists_that_cannot_be_cleaned_are_refused(folder):
    (folder / "groupRatingNegative.txt").write_text("(0,5) 5 1 6 6 7 8 9 9 9\n(4,0) 1 2 5 6 7 7 8 8 9\n")
    with pytest.raises(DataError, match=r"'cleaned': group 0 has only 7 places to draw 9 negatives from; use 'publish"):
        load(folder, negatives="cleaned")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": "clean"}, "config.data.negatives = 'clean' is not known; choose one of: published, cleaned"),
        ({"validation_fraction": 1.0}, "config.data.validation_fraction = 1.0; must be in"),
        ({"seed": -1}, "config.data.seed = -1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(options, message):
    with pytest.raises(ConfigError, match=message):
        Config(path="nowhere", **options).validate()


def test_the_released_lists_have_the_known_blemishes_and_cleaned_ones_have_none(data_dir):
    published, cleaned = (load(data_dir / "mafengwo", negatives=name) for name in ("published", "cleaned"))
    assert {name: len(table) for name, table in published.nodes.items()} == {"group": 995, "user": 5275, "place": 1513}
    assert np.bincount(published.relations["group_place"].split).tolist() == [2600, 0, 995]
    assert list(published.counts.values()) == [33, 102, 355, 333, 1268, 589]
    data = assign_splits(cleaned, SplitConfig(), ("group_place",))
    for name in ("group_place", "user_place"):
        old, new, relation = published.candidates[name, TEST], data.candidates[name, TEST], data.relations[name]
        assert new.target_ids.shape == old.target_ids.shape == (len(old.source_ids), 101)
        assert (np.diff(new.target_ids, axis=1) > 0).all()
        np.testing.assert_array_equal(new.target_ids[new.labels], old.target_ids[:, 0])
        edges = np.zeros((len(data.nodes[relation.source]), 1513), bool)
        edges[relation.source_ids, relation.target_ids] = True
        assert (edges[new.source_ids[:, None], new.target_ids] == new.labels).all()
