import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lsec_jax.config import ConfigError, SplitConfig
from lsec_jax.config_json import to_json
from lsec_jax.data import columns, splits
from lsec_jax.data.audits import audit_leave_one_out, audit_splits
from lsec_jax.data.splits import assign_splits, event_rows
from lsec_jax.schema import (
    TEST,
    TRAIN,
    VALIDATION,
    Candidates,
    DataError,
    EventNodes,
    Events,
    LiveCommerceData,
    NodeTable,
    Relation,
)

NUM_USERS, NUM_ITEMS = 50, 60


def relation(name, num_edges=500, *, times=None, split=None, seed=0) -> Relation:
    keys = np.random.default_rng(seed).permutation(NUM_USERS * NUM_ITEMS)[:num_edges]
    source_ids, target_ids = (part.astype(np.int32) for part in np.divmod(keys, NUM_ITEMS))
    times = None if times is None else np.asarray(times, np.float64)
    return Relation(name, "user", "item", source_ids, target_ids, time=times, split=split)


def dataset(*relations, **changes) -> LiveCommerceData:
    nodes = {"user": NodeTable("user", np.arange(NUM_USERS)), "item": NodeTable("item", np.arange(NUM_ITEMS))}
    return LiveCommerceData("toy", nodes, {relation.name: relation for relation in relations}, **changes)


def distinct_times(num_edges=500, seed=0):
    return np.random.default_rng(seed).permutation(num_edges) * 1.5


def sizes(data, name):
    return np.bincount(data.relations[name].split, minlength=3).tolist()


def test_the_chronological_split_has_exact_shares_where_times_are_distinct():
    data = dataset(relation("buy", times=distinct_times()))
    split = assign_splits(data, SplitConfig(), ("buy",))
    assert sizes(split, "buy") == [400, 50, 50]
    assert split.cut_times == (600.0, 675.0)
    assert split.end_time > 499 * 1.5 and split.end_time == np.nextafter(499 * 1.5, np.inf)
    audit_splits(split)
    assert data.relations["buy"].split is None


def test_one_cut_holds_for_every_relation_that_has_times():
    follow = relation("follow", times=distinct_times(seed=1) * 1.4, seed=1)
    sell = relation("sell", seed=2)
    split = assign_splits(dataset(relation("buy", times=distinct_times()), follow, sell), SplitConfig(), ("buy",))
    first, second = split.cut_times
    expected = np.where(follow.time < first, TRAIN, np.where(follow.time < second, VALIDATION, TEST))
    np.testing.assert_array_equal(split.relations["follow"].split, expected)
    assert sizes(split, "sell") == [500, 0, 0]
    assert split.end_time == np.nextafter(follow.time.max(), np.inf)
    audit_splits(split)


def test_the_observed_period_of_the_source_is_kept():
    split = assign_splits(dataset(relation("buy", times=distinct_times()), end_time=1e6), SplitConfig(), ("buy",))
    assert split.end_time == 1e6


@hypothesis.given(st.lists(st.integers(0, 12), min_size=3, max_size=60), st.sampled_from([0.0, 0.1, 0.3]))
@hypothesis.settings(max_examples=100, deadline=None)
def test_edges_of_equal_time_are_never_parted_and_training_never_sees_the_future(times, validation):
    data = dataset(relation("buy", len(times), times=times))
    config = SplitConfig(method="time", fractions=(0.6, validation, 0.4 - validation))
    if len(set(times)) < 2 + (validation > 0):
        with pytest.raises(DataError, match=f"only {len(set(times))} distinct times, too few"):
            assign_splits(data, config, ("buy",))
        return
    split = assign_splits(data, config, ("buy",))
    buy = split.relations["buy"]
    for time in set(times):
        assert len(np.unique(buy.split[buy.time == time])) == 1
    assert sizes(split, "buy")[TRAIN] > 0 and sizes(split, "buy")[TEST] > 0
    assert (sizes(split, "buy")[VALIDATION] > 0) == (validation > 0)
    assert buy.time[buy.split == TRAIN].max() < split.cut_times[0] <= buy.time[buy.split != TRAIN].min()
    audit_splits(split)


def test_random_splits_have_exact_shares_and_do_not_depend_on_order():
    buy, like = relation("buy"), relation("like", 303, seed=1)
    config = SplitConfig(method="random")
    split = assign_splits(dataset(buy, like), config, ("buy", "like"))
    assert sizes(split, "buy") == [400, 50, 50] and sizes(split, "like") == [242, 31, 30]
    order = np.random.default_rng(1).permutation(len(buy))
    shuffled = dataclasses.replace(buy, source_ids=buy.source_ids[order], target_ids=buy.target_ids[order])
    again = assign_splits(dataset(like, shuffled), config, ("like", "buy"))
    np.testing.assert_array_equal(again.relations["buy"].split, split.relations["buy"].split[order])
    other = assign_splits(dataset(buy, like), SplitConfig(method="random", seed=1), ("buy",))
    assert (other.relations["buy"].split != split.relations["buy"].split).any()
    assert sizes(other, "like") == [303, 0, 0]
    audit_splits(split)


def test_given_splits_are_kept_and_other_relations_train():
    given = np.repeat(np.array([0, 1, 2], np.int8), [300, 0, 200])
    data = dataset(relation("buy", split=given, times=distinct_times()), relation("sell", seed=1))
    for method in ("auto", "given"):
        split = assign_splits(data, SplitConfig(method=method), ("buy",))
        np.testing.assert_array_equal(split.relations["buy"].split, given)
        assert sizes(split, "sell") == [500, 0, 0]
        assert split.cut_times is None


def test_auto_splits_a_second_task_without_given_split_at_random():
    given = np.repeat(np.array([0, 1, 2], np.int8), [400, 50, 50])
    data = dataset(relation("buy", split=given), relation("like", seed=1))
    assert sizes(assign_splits(data, SplitConfig(), ("buy", "like")), "like") == [400, 50, 50]


def test_published_candidates_of_a_relation_that_is_split_anew_are_dropped():
    given = np.repeat(np.array([0, 1, 2], np.int8), [400, 50, 50])
    lists = Candidates(np.array([0], np.int32), np.array([[1, 2]], np.int32), np.array([[True, False]]), "x")
    candidates = {("buy", VALIDATION): lists, ("buy", TEST): lists}
    data = dataset(relation("buy", split=given), candidates=candidates)
    assert len(assign_splits(data, SplitConfig(), ("buy",)).candidates) == 2
    split = assign_splits(data, SplitConfig(method="random"), ("buy",))
    assert split.candidates == {}
    assert split.counts["buy: published candidate lists dropped, split anew"] == 2


def test_edges_and_cold_nodes_are_counted():
    buy = Relation(
        "buy",
        "user",
        "item",
        np.array([0, 1, 2, 3], np.int32),
        np.array([0, 1, 2, 0], np.int32),
        split=np.array([0, 1, 2, 2], np.int8),
    )
    like = Relation("like", "user", "item", np.array([3], np.int32), np.array([9], np.int32))
    counts = assign_splits(dataset(buy, like, counts={"x": 1}), SplitConfig(), ("buy",)).counts
    assert counts == {
        "x": 1,
        "buy: training edges": 1,
        "buy: validation edges": 1,
        "buy: test edges": 2,
        "like: training edges": 1,
        "like: validation edges": 0,
        "like: test edges": 0,
        "buy: test user nodes without training edges in it": 2,
        "buy: test user nodes without training edges in any relation": 1,
        "buy: test item nodes without training edges in it": 1,
        "buy: test item nodes without training edges in any relation": 1,
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            SplitConfig(method="chrono"),
            r"split.method = 'chrono' is unknown; valid: auto, given, time, random, leave",
        ),
        (SplitConfig(fractions=(0.8, 0.1, 0.2)), r"split.fractions = \(0.8, 0.1, 0.2\); .*sum to 1"),
        (SplitConfig(fractions=(1.2, -0.1, -0.1)), r"split.fractions = .*shares in \[0, 1\]"),
        (SplitConfig(fractions=(0.8, 0.2)), r"split.fractions = \(0.8, 0.2\); give three shares"),
        (SplitConfig(fractions=(float("nan"), 0.5, 0.5)), r"split.fractions = .*give three shares"),
        (SplitConfig(fractions=(0.9, 0.1, 0.0)), r"shares of train and test must be above 0"),
        (SplitConfig(fractions=(0.0, 0.5, 0.5)), r"shares of train and test must be above 0"),
        (SplitConfig(seed=-1), r"split.seed = -1; give a whole number in \[0, 2\*\*32\)"),
        (SplitConfig(seed=2**32), r"split.seed = 4294967296; give a whole number"),
        (
            SplitConfig(method="time"),
            r"'buy' has no times \(relations with times: follow\); .*use split.method = 'random'",
        ),
        (
            SplitConfig(method="given"),
            r"the source gives no split for relation 'buy'; name its validation and test files",
        ),
    ],
)
def test_a_bad_config_is_refused_with_its_key_and_a_remedy(config, message):
    data = dataset(relation("buy"), relation("follow", times=distinct_times()))
    with pytest.raises(ConfigError, match=message):
        assign_splits(data, config, ("buy",))


def test_unknown_or_no_tasks_are_refused():
    data = dataset(relation("buy"))
    with pytest.raises(DataError, match="relation 'cart' is not in data set 'toy'; it has: buy"):
        assign_splits(data, SplitConfig(), ("buy", "cart"))
    with pytest.raises(ConfigError, match="no tasks are given"):
        assign_splits(data, SplitConfig(), ())


def test_a_relation_left_without_training_edges_is_refused():
    late = relation("follow", times=distinct_times() + 1e6, seed=1)
    with pytest.raises(DataError, match=r"'follow': the 'time' split .* leaves none of its 500 edges for training"):
        assign_splits(dataset(relation("buy", times=distinct_times()), late), SplitConfig(), ("buy",))


def test_an_empty_test_split_is_refused():
    given = np.repeat(np.array([0, 1], np.int8), [400, 100])
    with pytest.raises(DataError, match=r"'buy': the 'given' split has no test edges; check the data config's split"):
        assign_splits(dataset(relation("buy", split=given)), SplitConfig(), ("buy",))
    with pytest.raises(DataError, match=r"'buy': the 'random' split has no test edges; change split.fractions"):
        assign_splits(dataset(relation("buy", 3)), SplitConfig(), ("buy",))


def test_a_random_split_of_data_that_was_split_by_time_has_no_cuts():
    by_time = assign_splits(dataset(relation("buy", times=distinct_times())), SplitConfig(), ("buy",))
    assert by_time.split_window(TEST) is not None
    again = assign_splits(by_time, SplitConfig(method="random"), ("buy",))
    assert again.cut_times is None and again.split_window(TEST) is None


def test_a_random_split_keeps_what_the_source_gave_and_drops_what_earlier_cuts_gave():
    follow = relation("follow", times=distinct_times(seed=1), seed=1)
    given = relation("view", split=np.repeat(np.array([0, 2], np.int8), [400, 100]), seed=2)
    by_time = assign_splits(dataset(relation("buy", times=distinct_times()), follow, given), SplitConfig(), ("buy",))
    assert sizes(by_time, "follow")[TEST] > 0
    again = assign_splits(by_time, SplitConfig(method="random"), ("buy",))
    assert sizes(again, "buy") == [400, 50, 50]
    assert sizes(again, "follow") == [500, 0, 0] and sizes(again, "view") == [400, 0, 100]


def prepared_with(config, *tasks):
    split = assign_splits(dataset(relation("buy", times=distinct_times()), relation("like", seed=1)), config, tasks)
    return split.replace(prepared_with={"split": to_json(config), "tasks": list(tasks)})


def test_prepared_data_split_with_their_own_settings_stay_as_they_are():
    for method in ("auto", "time", "random"):
        data = prepared_with(SplitConfig(method=method, seed=3), "buy", "like")
        again = assign_splits(data, SplitConfig(method=method, seed=3), ("buy", "like"))
        assert again.fingerprint() == data.fingerprint() and again.cut_times == data.cut_times


@pytest.mark.parametrize(
    ("changes", "tasks", "message"),
    [
        ({"seed": 1}, ("buy", "like"), r"\n  config\.split\.seed: 0 -> 1\nRun"),
        ({"fractions": (0.6, 0.2, 0.2)}, ("buy", "like"), r"\n  config\.split\.fractions: \[0\.8, .*\] -> \[0\.6, "),
        ({"method": "random"}, ("buy",), r"split\.method: \"auto\" -> \"random\"\n  tasks: \[.*\] -> \[\"buy\"\]\nRun"),
        ({}, ("like", "buy"), r"tasks: \[\"buy\", \"like\"\] -> \[\"like\", \"buy\"\]\n.*any of buy, like\)"),
        ({"method": "given"}, ("buy", "sell"), r"\n  task 'sell' was none of them\nRun"),
    ],
)
def test_prepared_data_refuse_every_other_setting_at_once(changes, tasks, message):
    data = prepared_with(SplitConfig(), "buy", "like")
    sell = dataclasses.replace(data.relations["like"], name="sell")
    data = data.replace(relations={**data.relations, "sell": sell})
    with pytest.raises(ConfigError, match=r"was prepared with another split or other tasks .*(?s:.*)" + message):
        assign_splits(data, SplitConfig(**changes), tasks)


def test_the_stored_split_of_prepared_data_can_be_taken_for_some_of_their_tasks():
    data = prepared_with(SplitConfig(seed=5), "buy", "like")
    again = assign_splits(data, SplitConfig(method="given"), ("like",))
    assert again.fingerprint() == data.fingerprint()


def test_a_given_split_of_events_follows_that_of_the_relations():
    time = np.array([1.0, 599.0, 600.0, 700.0])
    given = Events("visit", {}, time, split=np.array([2, 1, 0, 0], np.int8))
    data = dataset(relation("buy", times=distinct_times()), events={"visit": given, "none": Events("none", {}, time)})
    by_time = assign_splits(data, SplitConfig(), ("buy",))
    for name in ("visit", "none"):
        assert by_time.events[name].split.tolist() == [0, 0, 1, 2]
    audit_splits(by_time)
    assert assign_splits(data, SplitConfig(method="random"), ("buy",)).events["visit"].split is None
    buy = dataclasses.replace(data.relations["buy"], split=np.repeat(np.array([0, 2], np.int8), [400, 100]))
    kept = assign_splits(data.replace(relations={"buy": buy}), SplitConfig(), ("buy",))
    np.testing.assert_array_equal(kept.events["visit"].split, given.split)


def users_edges(*edges):
    """A relation `buy` of (user, item, time)."""
    users, items, times = (np.array(column) for column in zip(*edges, strict=True))
    return Relation("buy", "user", "item", users.astype(np.int32), items.astype(np.int32), time=times.astype(float))


LEAVE = SplitConfig(method="leave_one_out")


def test_leave_one_out_holds_out_each_users_last_two_edges():
    edges = [
        (7, 1, 5),
        (7, 2, 1),
        (7, 3, 9),
        (7, 4, 2),
        (3, 1, 1),
        (3, 2, 2),
        (4, 9, 1),
        (4, 8, 3),
        (4, 7, 2),
        (5, 5, 5),
    ]
    split = assign_splits(dataset(users_edges(*edges)), LEAVE, ("buy",))
    assert split.relations["buy"].split.tolist() == [1, 0, 2, 0, 0, 0, 0, 2, 1, 0]
    assert split.cut_times is None and split.split_window(TEST) is None
    audit_leave_one_out(split, ("buy",))
    audit_splits(split)


def test_of_equal_times_the_higher_item_is_the_later_one():
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        edges = [[(0, 4, 1), (0, 9, 1), (0, 2, 1), (0, 7, 1)][i] for i in order]
        buy = assign_splits(dataset(users_edges(*edges)), LEAVE, ("buy",)).relations["buy"]
        assert {item: code for item, code in zip(buy.target_ids.tolist(), buy.split.tolist(), strict=True)} == {
            2: TRAIN,
            4: TRAIN,
            7: VALIDATION,
            9: TEST,
        }


def test_leave_one_out_needs_times_in_every_task_and_a_user_with_three_edges():
    with pytest.raises(ConfigError, match=r"'leave_one_out', but relation 'like' has no times \(relations with"):
        assign_splits(dataset(relation("buy", times=distinct_times()), relation("like")), LEAVE, ("buy", "like"))
    with pytest.raises(DataError, match=r"has no test edges; it needs a node with at least 3 edges: give more data"):
        assign_splits(dataset(users_edges((0, 1, 1), (0, 2, 2))), LEAVE, ("buy",))


def test_leave_one_out_drops_what_earlier_cuts_gave_and_splits_no_relation_that_is_no_task():
    follow = relation("follow", times=distinct_times(seed=1), seed=1)
    data = dataset(relation("buy", times=distinct_times()), follow)
    by_time = assign_splits(data, SplitConfig(), ("buy",))
    again = assign_splits(by_time, LEAVE, ("buy",))
    assert sizes(again, "follow") == [500, 0, 0] and again.cut_times is None
    np.testing.assert_array_equal(
        again.relations["buy"].split, assign_splits(data, LEAVE, ("buy",)).relations["buy"].split
    )


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        (0, TEST, r"1 user nodes have not one validation and one test edge, e\.g\. 0"),
        (1, TRAIN, "1 user nodes have not one"),
    ],
)
def test_the_audit_finds_a_user_with_more_or_less_than_one_edge_held_out(row, code, message):
    data = assign_splits(dataset(users_edges((0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 1, 9))), LEAVE, ("buy",))
    split = data.relations["buy"].split.copy()
    split[row] = code
    broken = data.replace(relations={"buy": dataclasses.replace(data.relations["buy"], split=split)})
    with pytest.raises(DataError, match=message):
        audit_leave_one_out(broken, ("buy",))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([1, 0, 2], "1 user nodes train on a later time than that of their validation edge"),
        (
            [2, 1, 0],
            "(?s:.*)1 user nodes train on a later time than that of their test edge(?s:.*)are validated on",
        ),
    ],
)
def test_the_audit_finds_a_user_who_trains_on_her_future(codes, message):
    data = assign_splits(dataset(users_edges((0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 1, 9))), LEAVE, ("buy",))
    split = np.array([*codes, TRAIN], np.int8)
    broken = data.replace(relations={"buy": dataclasses.replace(data.relations["buy"], split=split)})
    with pytest.raises(DataError, match=message):
        audit_leave_one_out(broken, ("buy",))


def log(times, split=None):
    nodes = {"user": EventNodes("user", np.zeros(len(times), np.int32))}
    return Events(
        "impression", nodes, np.array(times, float), split=None if split is None else np.array(split, np.int8)
    )


def test_the_events_of_a_split_by_time_are_ranges_of_rows():
    data = dataset().replace(cut_times=(2.0, 4.0))
    events = log([0, 1, 2, 2, 3, 4, 9])
    assert [event_rows(data, events, split) for split in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 7)]
    assert event_rows(data, log([5, 6]), TRAIN) == slice(0, 0)
    assert event_rows(data, log([5, 6], split=[0, 0]), TRAIN) == slice(0, 2)


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_the_events_of_a_given_split_are_a_range_or_rows(monkeypatch, block_rows):
    monkeypatch.setattr(splits, "blocks", lambda rows: columns.blocks(rows, block_rows))
    events = log(range(6), split=[0, 0, 1, 0, 2, 2])
    np.testing.assert_array_equal(event_rows(dataset(), events, TRAIN), [0, 1, 3])
    assert event_rows(dataset(), events, VALIDATION) == slice(2, 3)
    assert event_rows(dataset(), events, TEST) == slice(4, 6)
    nothing = event_rows(dataset(), log(range(3), split=[0, 0, 0]), TEST)
    assert len(range(*nothing.indices(3))) == 0


def test_events_without_a_split_are_refused():
    with pytest.raises(DataError, match="events 'impression' have no split, and data set 'toy' no cut times"):
        event_rows(dataset(), log([1, 2]), TRAIN)


def friends(times=None):
    """Pairs of users, most of them in both directions."""
    found = relation("friend", 400)
    sources, targets = found.source_ids, found.target_ids % NUM_USERS
    both = np.stack([np.r_[sources, targets[:300]], np.r_[targets, sources[:300]]])
    sources, targets = np.unique(both, axis=1).astype(np.int32)
    times = None if times is None else times(len(sources))
    return Relation("friend", "user", "user", sources, targets, time=times)


def test_a_random_split_keeps_a_pair_of_users_and_its_reverse_together():
    split = assign_splits(dataset(friends()), SplitConfig(method="random", seed=4), ("friend",))
    friend = split.relations["friend"]
    code = np.full((NUM_USERS, NUM_USERS), -1)
    code[friend.source_ids, friend.target_ids] = friend.split
    is_both = (code >= 0) & (code.T >= 0)
    assert is_both.sum() > 400
    np.testing.assert_array_equal(code[is_both], code.T[is_both])
    np.testing.assert_allclose(np.bincount(friend.split) / len(friend), SplitConfig().fractions, atol=2 / len(friend))
    audit_splits(split)
    # The order of the rows does not count.
    mixed = np.random.default_rng(1).permutation(len(friend))
    again = assign_splits(dataset(friends().take(mixed)), SplitConfig(method="random", seed=4), ("friend",))
    np.testing.assert_array_equal(again.relations["friend"].split, friend.split[mixed])


def test_the_audit_finds_pairs_whose_reverse_trains_unless_it_came_first():
    data = assign_splits(dataset(friends()), SplitConfig(method="random"), ("friend",))
    friend = data.relations["friend"]
    has_reverse = np.isin(
        friend.target_ids * NUM_USERS + friend.source_ids, friend.source_ids * NUM_USERS + friend.target_ids
    )
    row = np.flatnonzero((friend.split == TEST) & has_reverse & (friend.source_ids != friend.target_ids))[0]
    is_reverse = (friend.source_ids == friend.target_ids[row]) & (friend.target_ids == friend.source_ids[row])
    split = np.where(is_reverse, TRAIN, friend.split).astype(np.int8)
    leaky = dataclasses.replace(friend, split=split)
    pair = rf"\({friend.source_ids[row]}, {friend.target_ids[row]}\)"
    with pytest.raises(DataError, match=f"'friend': 1 pairs have their reverse in an earlier split, e.g. {pair}"):
        audit_splits(data.replace(relations={"friend": leaky}))
    first = dataclasses.replace(leaky, time=np.where(is_reverse, 1.0, 2.0))
    audit_splits(data.replace(relations={"friend": first}))
    by_time = assign_splits(dataset(friends(lambda size: distinct_times(size))), SplitConfig(), ("friend",))
    audit_splits(by_time)
