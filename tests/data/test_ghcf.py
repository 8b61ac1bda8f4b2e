"""GHCF's buys and carts: what was not bought is drawn fairly, and no history knows its record."""

import numpy as np
import pytest

from lsec_jax.config import ConfigError, HistoryConfig
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.sources.ghcf import Config
from lsec_jax.schema import TEST, TRAIN, VALIDATION, DataError

NUM_USERS, NUM_ITEMS = 40, 60
HISTORIES = [
    HistoryConfig("buys", item="item", where="bought"),
    HistoryConfig("carts", events="cart", item="item"),
]


def write(folder, **settings):
    """Users of 2 to 9 training buys, some without a cart."""
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": [], "cart": []}
    for user in range(NUM_USERS):
        items = rng.permutation(NUM_ITEMS)[: 3 + user % 8]
        lines["train"].append(" ".join(map(str, [user, *items[1:]])))
        lines["test"].append(f"{user} {items[0]}")
        carts = [*rng.permutation(NUM_ITEMS)[: user % 5], *items[: user % 3]]
        lines["cart"].append(" ".join(map(str, [user, *dict.fromkeys(carts)])))
    for name, of in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(of) + "\n")
    return Config(**{"path": str(folder), "num_negatives": 3, "num_candidates": 12} | settings)


def pairs_of(folder, name):
    """(user, item) of a file."""
    lines = [list(map(int, line.split())) for line in (folder / f"{name}.txt").read_text().splitlines()]
    return {(line[0], item) for line in lines for item in line[1:]}


def columns(events):
    return events.ids("user"), events.ids("item"), events.value("bought"), events.split


def test_each_buy_is_a_group_with_items_that_were_not_bought_by_then(tmp_path):
    data = write(tmp_path).load()
    data.validate()
    shown = data.events["impression"]
    users, items, bought, split = columns(shown)
    train, test = pairs_of(tmp_path, "train"), pairs_of(tmp_path, "test")
    held_out = {(u, i) for u, i, b, s in zip(users, items, bought, split, strict=True) if b and s == VALIDATION}
    assert {(u, i) for u, i, b, s in zip(users, items, bought, split, strict=True) if b and s == TEST} == test
    assert held_out < train and len(held_out) == len({user for user, _ in held_out})
    assert {user for user, _ in held_out} == {user for user in range(NUM_USERS) if user % 8}  # those with 3 or more
    known = {TRAIN: train - held_out, VALIDATION: train, TEST: train | test}
    assert len(np.unique(shown.group)) == len(train) + len(test)
    for group in np.unique(shown.group):
        rows = np.flatnonzero(shown.group == group)
        assert len({*users[rows]}) == len({*shown.time[rows]}) == len({*split[rows]}) == 1
        assert len(rows) == 1 + (3 if split[rows[0]] == TRAIN else 12)
        assert len({*items[rows]}) == len(rows)
        assert bought[rows].tolist() == [True] + [False] * (len(rows) - 1)
        assert all((users[row], items[row]) not in known[split[row]] for row in rows[1:])


def test_training_negatives_know_nothing_of_later_buys(tmp_path):
    """The items of later buys are drawn as negatives as often as any others that the user has not bought."""
    data = write(tmp_path, num_negatives=40).load()
    users, items, bought, split = columns(data.events["impression"])
    later = {(u, i) for u, i, b, s in zip(users, items, bought, split, strict=True) if b and s != TRAIN}
    negatives = [*zip(users[~bought & (split == TRAIN)], items[~bought & (split == TRAIN)], strict=True)]
    hits = sum(pair in later for pair in negatives)
    groups = np.unique(data.events["impression"].group[split == TRAIN])
    expected = 0.0
    for group in groups:
        user = users[data.events["impression"].group == group][0]
        num_train = sum(1 for u, b, s in zip(users, bought, split, strict=True) if u == user and b and s == TRAIN)
        expected += 40 * sum(pair[0] == user for pair in later) / (len(data.nodes["item"]) - num_train)
    assert abs(hits - expected) < 5 * np.sqrt(expected)


def test_histories_are_other_training_buys_and_all_carts(tmp_path):
    data = add_histories(write(tmp_path).load(), HISTORIES)
    shown = data.events["impression"]
    users, items, bought, split = columns(shown)
    buys, carts = data.histories["buys"], data.histories["carts"]
    is_smaller = False
    for row in range(len(shown)):
        user = users[row]
        seen = {*buys.items[buys.starts[user] : buys.ends["impression"][row]].tolist()}
        by_split = {s: {*items[(users == user) & bought & (split == s)].tolist()} for s in (TRAIN, VALIDATION, TEST)}
        own = items[row] if bought[row] else items[(shown.group == shown.group[row]) & bought][0]
        if split[row] == TRAIN:
            assert seen <= by_split[TRAIN] - {own}
            is_smaller |= seen < by_split[TRAIN] - {own}
        else:
            assert seen == by_split[TRAIN] | (by_split[VALIDATION] if split[row] == TEST else set())
        in_cart = carts.items[carts.starts[user] : carts.ends["impression"][row]].tolist()
        assert {(user, item) for item in in_cart} == {pair for pair in pairs_of(tmp_path, "cart") if pair[0] == user}
    assert is_smaller


def test_the_seed_decides_everything_and_another_one_changes_it(tmp_path):
    config = write(tmp_path)
    first, again = config.load(), config.load()
    assert first.fingerprint() == again.fingerprint()
    other = write(tmp_path, seed=1).load().events["impression"]
    shown = first.events["impression"]
    assert not np.array_equal(shown.ids("item"), other.ids("item")) and not np.array_equal(shown.time, other.time)


def test_without_validation_all_training_buys_train(tmp_path):
    data = write(tmp_path, has_validation=False).load()
    shown = data.events["impression"]
    assert {*shown.split} == {TRAIN, TEST}
    assert shown.value("bought")[shown.split == TRAIN].sum() == len(pairs_of(tmp_path, "train"))
    np.testing.assert_array_equal(
        np.bincount(data.relation("buy").split)[[TRAIN, TEST]],
        [len(pairs_of(tmp_path, name)) for name in ("train", "test")],
    )


WRONG = {
    "negatives": (ConfigError, {"num_negatives": 0}, "data.num_negatives = 0; give a whole number of 1 or more"),
    "candidates": (ConfigError, {"num_candidates": 0}, "data.num_candidates = 0; give a whole number"),
    "seed": (ConfigError, {"seed": -1}, r"data.seed = -1; give a whole number in \[0, 2\*\*32\)"),
    "too few items": (DataError, {"num_candidates": 55}, "there are 60 items, of which some user would need 65 bought"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_drawn_is_refused(tmp_path, case):
    error, changes, message = WRONG[case]
    with pytest.raises(error, match=message):
        write(tmp_path, **changes).load()


def test_list_files_name_the_ids_of_both_files(tmp_path):
    config = write(tmp_path)
    plain = config.load()
    for name, size in (("user", NUM_USERS), ("item", NUM_ITEMS)):
        names = [f"{name[0]}{number:03d} {number}" for number in range(size)]
        (tmp_path / f"{name}_list.txt").write_text("\n".join(["org_id remap_id", *names]) + "\n")
    named = config.load()
    for relation in ("buy", "cart"):
        edges = []
        for data, text in ((plain, "{}{:03d}"), (named, "{1}")):
            of = data.relation(relation)
            ends = data.nodes["user"].ids[of.source_ids].tolist(), data.nodes["item"].ids[of.target_ids].tolist()
            edges.append({(text.format("u", user), text.format("i", item)) for user, item in zip(*ends, strict=True)})
        assert edges[0] == edges[1]


def test_an_empty_file_is_refused(tmp_path):
    config = write(tmp_path)
    (tmp_path / "cart.txt").write_text("")
    with pytest.raises(DataError, match=r"cart.txt"):
        config.load()


def test_the_released_files_have_their_published_sizes(data_dir):
    data = Config(path=str(data_dir / "ghcf_taobao"), num_candidates=1).load()
    assert {name: len(relation) for name, relation in data.relations.items()} == {"buy": 259_771, "cart": 193_747}
    assert {name: len(table) for name, table in data.nodes.items()} == {"user": 48_749, "item": 39_493}
    split = data.relations["buy"].split
    assert np.bincount(split).tolist() == [211_022 - 48_749, 48_749, 48_749]
