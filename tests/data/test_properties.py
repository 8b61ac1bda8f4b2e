"""What splits, histories and negatives may never do, each over more than a hundred thousand drawn rows.

Hypothesis draws the shape of an example (sizes, ties, delays, a seed), the seed its thousands of rows.
"""

import dataclasses

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsec_jax.config import SplitConfig
from lsec_jax.data.audits import audit_candidates, audit_leave_one_out, audit_splits
from lsec_jax.data.candidates import generate_candidates
from lsec_jax.data.sequences import audit_histories, build_histories, ends_before, last_items
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Availability,
    DataError,
    EventNodes,
    Events,
    LiveCommerceData,
    NodeTable,
    Relation,
)

ENOUGH = 100_000
seeds = st.integers(0, 2**32 - 1)


def many(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def relation(rng, name, num_edges, sizes, num_times):
    """Distinct random pairs; few different times have many ties. The first edge is early, so that some always train."""
    keys = rng.choice(sizes[0] * sizes[1], num_edges, replace=False)
    time = rng.integers(0, num_times, num_edges).astype(float)
    time[0] = -1.0
    sources, targets = (part.astype(np.int32) for part in np.divmod(keys, sizes[1]))
    return Relation(name, "user", "item", sources, targets, time=time)


def dataset(*relations, sizes, **changes):
    nodes = {name: NodeTable(name, np.arange(size)) for name, size in zip(("user", "item"), sizes, strict=True)}
    return LiveCommerceData("drawn", nodes, {of.name: of for of in relations}, **changes)


def shuffled(rng, data):
    """The same data with the rows of every relation in another order, and the orders."""
    orders = {name: rng.permutation(len(of)) for name, of in data.relations.items()}
    return data.replace(relations={name: of.take(orders[name]) for name, of in data.relations.items()}), orders


def assert_in_one_split_each(of):
    keys = [sources.astype(np.int64) * 2**31 + targets for sources, targets in map(of.edges, SPLITS.values())]
    assert len(np.unique(np.concatenate(keys))) == sum(map(len, keys)) == len(of)


def assert_chronological(data):
    """In all relations together: what is earlier is in an earlier split, and what is of one time in one."""
    time = np.concatenate([of.time for of in data.relations.values()])
    split = np.concatenate([of.split for of in data.relations.values()])
    first, second = data.cut_times
    assert time[split == TRAIN].max() < first and (time[split == VALIDATION] < second).all()
    assert (time[split != TRAIN] >= first).all() and (time[split == TEST] >= second).all()
    order = np.argsort(time, kind="stable")
    is_tie = np.diff(time[order]) == 0
    assert (np.diff(split[order])[is_tie] == 0).all() and (np.diff(split[order]) >= 0).all()


def test_a_split_by_time_never_trains_on_the_future_nor_parts_a_moment():
    checked = 0

    @many(25)
    @given(seeds, st.sampled_from([3, 7, 100, 10**6]), st.sampled_from([0.0, 0.1, 0.3]), st.integers(2000, 3000))
    def check(seed, num_times, validation, num_edges):
        nonlocal checked
        rng, sizes = np.random.default_rng(seed), (300, 200)
        pairs = [relation(rng, name, num_edges, sizes, num_times) for name in ("buy", "follow")]
        data, config = dataset(*pairs, sizes=sizes), SplitConfig("time", (0.6, validation, 0.4 - validation))
        split = assign_splits(data, config, ("buy",))
        assert_chronological(split)
        audit_splits(split)
        other, orders = shuffled(rng, data)
        again = assign_splits(other, config, ("buy",))
        assert again.cut_times == split.cut_times
        for name, of in split.relations.items():
            assert_in_one_split_each(of)
            np.testing.assert_array_equal(again.relations[name].split, of.split[orders[name]])
            checked += len(of)

    check()
    assert checked >= ENOUGH


def test_a_random_split_gives_every_edge_one_split_whatever_the_order():
    checked = 0

    @many(25)
    @given(seeds, st.integers(0, 2**32 - 1), st.integers(2000, 3000))
    def check(seed, split_seed, num_edges):
        nonlocal checked
        rng, sizes = np.random.default_rng(seed), (300, 200)
        data = dataset(*(relation(rng, name, num_edges, sizes, 9) for name in ("buy", "follow")), sizes=sizes)
        config = SplitConfig("random", (0.7, 0.1, 0.2), split_seed)
        split = assign_splits(data, config, ("buy", "follow"))
        other, orders = shuffled(rng, data)
        again = assign_splits(other, config, ("follow", "buy"))
        for name, of in split.relations.items():
            assert_in_one_split_each(of)
            wanted = np.diff(np.rint([0, 0.7 * num_edges, 0.8 * num_edges, num_edges]))
            np.testing.assert_array_equal(np.bincount(of.split, minlength=3), wanted)
            np.testing.assert_array_equal(again.relations[name].split, of.split[orders[name]])
            checked += len(of)

    check()
    assert checked >= ENOUGH


def slow_leave_one_out(of):
    """The last two of each user by (time, item), from the definition."""
    split = np.zeros(len(of), np.int8)
    for user in np.unique(of.source_ids):
        rows = np.flatnonzero(of.source_ids == user)
        ordered = sorted(rows.tolist(), key=lambda row: (of.time[row], of.target_ids[row]))
        if len(ordered) >= 3:
            split[ordered[-2]], split[ordered[-1]] = VALIDATION, TEST
    return split


def test_leave_one_out_never_trains_on_a_users_own_future():
    checked = 0

    @many(25)
    @given(seeds, st.sampled_from([2, 50, 10**6]), st.sampled_from([100, 3000]), st.integers(4000, 5000))
    def check(seed, num_times, num_users, num_edges):
        nonlocal checked
        rng, sizes = np.random.default_rng(seed), (num_users, 100)
        data = dataset(relation(rng, "buy", num_edges, sizes, num_times), sizes=sizes)
        config = SplitConfig("leave_one_out")
        split = assign_splits(data, config, ("buy",))
        audit_leave_one_out(split, ("buy",))
        buy = split.relations["buy"]
        assert_in_one_split_each(buy)
        np.testing.assert_array_equal(buy.split, slow_leave_one_out(buy))
        other, orders = shuffled(rng, data)
        np.testing.assert_array_equal(
            assign_splits(other, config, ("buy",)).relations["buy"].split, buy.split[orders["buy"]]
        )
        checked += len(buy)

    check()
    assert checked >= ENOUGH


def slow_histories(events, mask, owners, moments, delay, length):
    """The last items of each owner with time + delay < the moment, from the definition."""
    counts = (events.ids("room") >= 0) & mask
    mine = {owner: np.flatnonzero(counts & (events.ids("user") == owner)) for owner in np.unique(owners)}
    wanted = np.full((len(owners), length), -1, np.int32)
    for row, (owner, moment) in enumerate(zip(owners.tolist(), moments.tolist(), strict=True)):
        if owner >= 0:
            rows = mine[owner]
            seen = events.ids("room")[rows[events.time[rows] + delay < moment]][-length:]
            wanted[row, length - len(seen) :] = seen
    return wanted


def test_a_history_is_what_happened_before_the_moment_and_nothing_else():
    checked = 0

    @many(25)
    @given(seeds, st.sampled_from([2, 30, 10**5]), st.sampled_from([1, 5, 400]), st.sampled_from([0.0, 0.5, 7.0]))
    def check(seed, num_times, num_owners, delay):
        nonlocal checked
        rng, num_events, num_moments = np.random.default_rng(seed), 3000, 4500
        roles = {
            "user": EventNodes("user", rng.integers(-1, num_owners, num_events).astype(np.int32)),
            "room": EventNodes("room", rng.integers(-1, 50, num_events).astype(np.int32)),
        }
        events = Events("visit", roles, np.sort(rng.integers(0, num_times, num_events)).astype(float))
        mask = rng.random(num_events) < 0.8
        histories = build_histories(events, "user", "room", num_owners, mask)
        owners = rng.integers(-1, num_owners, num_moments)
        moments = rng.integers(-1, num_times + 8, num_moments).astype(float)
        ends = ends_before(histories, owners, moments, delay)
        audit_histories(histories, owners, moments, ends)
        seen = np.flatnonzero((owners >= 0) & (ends > histories.starts[np.maximum(owners, 0)]))
        assert (histories.times[ends[seen] - 1] + delay < moments[seen]).all()
        found = last_items(histories, owners, ends, 6)
        np.testing.assert_array_equal(found, slow_histories(events, mask, owners, moments, delay, 6))
        checked += num_moments

    check()
    assert checked >= ENOUGH


def split_world(seed, sizes, num_edges, has_windows):
    """A world split by time; where nodes have windows, some are not available in a held-out period."""
    rng = np.random.default_rng(seed)
    buy = relation(rng, "buy", num_edges, sizes, 1000)
    data = assign_splits(dataset(buy, sizes=sizes), SplitConfig(), ("buy",))
    if not has_windows:
        return data
    start = rng.choice([-np.inf, 0.0, 300.0, 850.0, 950.0], sizes[1])
    windows = Availability(start, start + 100.0)
    windows.end[start == -np.inf] = np.inf
    return data.replace(availability={"item": windows})


def test_no_negative_is_an_edge_or_unavailable_and_no_positive_is_missing():
    checked = 0

    @many(25)
    @given(
        seeds,
        st.sampled_from([(200, 60, 2500), (250, 400, 4000), (200, 3000, 3000)]),  # of which the first draws densely
        st.sampled_from([25, 40]),
        st.booleans(),
    )
    def check(seed, sizes, num_candidates, has_windows):
        nonlocal checked
        num_users, num_items, num_edges = sizes
        data = split_world(seed, (num_users, num_items), num_edges, has_windows)
        buy = data.relations["buy"]
        known = np.zeros((num_users, num_items), bool)
        known[buy.source_ids, buy.target_ids] = True
        for split in (VALIDATION, TEST):
            lists = generate_candidates(data, "buy", split, num_candidates, seed)
            audit_candidates(data, "buy", split, lists)
            sources, targets = buy.edges(split)
            np.testing.assert_array_equal(lists.source_ids, np.unique(sources))
            users = np.broadcast_to(lists.source_ids[:, None], lists.target_ids.shape)
            found = np.stack([users[lists.labels], lists.target_ids[lists.labels]])
            np.testing.assert_array_equal(found, [sources, targets])
            assert not known[users, lists.target_ids][~lists.labels].any()
            assert (np.diff(np.sort(lists.target_ids), axis=1) > 0).all()
            if has_windows:
                assert data.offered("item", split)[lists.target_ids][~lists.labels].all()
            checked += lists.target_ids.size

    check()
    assert checked >= ENOUGH


def test_these_properties_are_not_true_of_everything():
    """The checks themselves can fail: a future edge in training, a parted moment, an edge among the negatives."""
    data = split_world(0, (200, 60), 2500, has_windows=False)
    buy = data.relations["buy"]
    for row, code in ((np.argmax(buy.time), TRAIN), (np.argmin(buy.time), TEST)):
        split = buy.split.copy()
        split[row] = code
        with np.testing.assert_raises(AssertionError):
            assert_chronological(data.replace(relations={"buy": dataclasses.replace(buy, split=split)}))
    lists = generate_candidates(data, "buy", TEST, 25, 0)
    with np.testing.assert_raises(DataError):
        audit_candidates(data, "buy", TEST, dataclasses.replace(lists, labels=np.zeros_like(lists.labels)))
