"""Requests made of a log, and co-links, against slow transcriptions of what they promise."""

import itertools

import numpy as np
import pytest

from lsec_jax.data import suggestions as module
from lsec_jax.data.suggestions import Log, co_links, suggestions
from lsec_jax.schema import DataError


def random_log(seed, size=600):
    """Few times, so that many are equal; targets are in several scenarios, users have some twice."""
    rng = np.random.default_rng(seed)
    draw = lambda high: rng.integers(high, size=size).astype(np.int32)  # noqa: E731
    users, targets, scenarios = draw(20), np.minimum(draw(40), draw(40)), draw(4)
    return Log(users, targets, scenarios, np.sort(rng.integers(60, size=size)).astype(np.float64))


def make(log, rows, num_negatives=4, is_known_ahead=False, seed=0):
    counts = {}
    rng = np.random.default_rng(seed)
    return suggestions(log, rows, num_negatives, "item", "taken", is_known_ahead, rng, counts), counts


def allowed(log, row, is_known_ahead):
    """Negatives that a row may have with their popularity, and whether it may be a request at all; by loops."""
    user, target, scenario, time = (column[row] for column in (log.users, log.targets, log.scenarios, log.time))
    had, pool = set(), {}
    for other in range(len(log)):
        if log.users[other] == user and (is_known_ahead or log.time[other] <= time):
            had.add(int(log.targets[other]))
        if log.scenarios[other] == scenario and log.time[other] < time:
            item = int(log.targets[other])
            pool[item] = pool.get(item, 0) + 1
    is_first = not ((log.users[:row] == user) & (log.targets[:row] == target)).any()
    return {item: size for item, size in pool.items() if item not in had}, is_first, int(target) in pool


@pytest.mark.parametrize("is_known_ahead", [False, True])
def test_each_request_has_its_positive_and_as_many_negatives_as_there_are(is_known_ahead):
    log = random_log(1)
    rows = np.arange(200, 600)
    events, counts = make(log, rows, is_known_ahead=is_known_ahead)
    found = {}
    for group in range(int(events.group[-1]) + 1):
        of = np.flatnonzero(events.group == group)
        assert len(set(events.ids("user")[of].tolist())) == len(set(events.ids("scenario")[of].tolist())) == 1
        assert len(np.unique(events.time[of])) == 1 and (np.diff(events.ids("item")[of]) > 0).all()
        found[group] = of
    expected, again, new, empty, short = 0, 0, 0, 0, 0
    for row in rows.tolist():
        pool, is_first, is_there = allowed(log, row, is_known_ahead)
        again, new = again + (not is_first), new + (is_first and not is_there)
        if not is_first or not is_there:
            continue
        if not pool:
            empty += 1
            continue
        of = found[expected]
        expected += 1
        is_taken, items = events.value("taken")[of], events.ids("item")[of]
        assert items[is_taken].tolist() == [log.targets[row]]
        assert events.ids("user")[of[0]] == log.users[row] and events.time[of[0]] == log.time[row]
        assert set(items[~is_taken].tolist()) <= set(pool) and len(items) - 1 == min(4, len(pool))
        short += len(pool) < 4
    assert expected == len(found)
    wanted = {
        "suggestion: rows of a pair that is there before, left out": again,
        "suggestion: rows whose item is new in the scenario, left out": new,
        "suggestion: rows without any negative, left out": empty,
        "suggestion: requests with fewer than 4 negatives": short,
    }
    assert counts == {what: number for what, number in wanted.items() if number}


@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_negatives_are_drawn_one_after_the_other_by_popularity(monkeypatch, rounds):
    """Two of three items whose popularities are 6, 3 and 1, beside a positive: with rejection, without, and mixed."""
    monkeypatch.setattr(module, "_ROUNDS", rounds)
    size = 20_000
    targets = np.concatenate([np.repeat([0, 1, 2, 3], [6, 3, 1, 5]), np.full(size, 3)]).astype(np.int32)
    users = np.arange(len(targets), dtype=np.int32)
    time = np.concatenate([np.zeros(15), np.ones(size)])
    events, counts = make(Log(users, targets, np.zeros_like(users), time), np.arange(15, 15 + size), 2)
    assert not counts and len(events) == 3 * size
    shown = np.bincount(events.ids("item"), minlength=4) / size
    left_out = np.zeros(3)
    weights = np.array([0.6, 0.3, 0.1])
    for first, second in itertools.permutations(range(3), 2):
        left_out[3 - first - second] += weights[first] * weights[second] / (1 - weights[first])
    np.testing.assert_allclose(shown, [*(1 - left_out), 1], atol=0.015)


def test_the_same_seed_gives_the_same_requests_and_another_one_others():
    log = random_log(2)
    first, again, other = (make(log, np.arange(200, 600), seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.ids("item"), again.ids("item"))
    assert not np.array_equal(first.ids("item"), other.ids("item"))


def test_later_rows_change_no_earlier_request():
    """Nothing of a request knows what comes after its time, where users' later targets may be negatives."""
    log = random_log(3)
    cut = int(np.searchsorted(log.time, 40.0))
    part = Log(*(column[:cut] for column in (log.users, log.targets, log.scenarios, log.time)))
    rows = np.arange(100, cut)
    whole, first = make(log, rows)[0], make(part, rows)[0]
    for role in ("user", "item", "scenario"):
        np.testing.assert_array_equal(whole.ids(role), first.ids(role))


def test_a_log_without_requests_is_refused():
    same = np.zeros(3, np.int32)
    log = Log(np.arange(3, dtype=np.int32), same, same, np.arange(3.0))
    with pytest.raises(DataError, match="'suggestion': none of the last 2 rows of the log makes a request: no item "):
        make(log, np.array([1, 2]))


@pytest.mark.parametrize(("max_members", "min_shared"), [(100, 1), (8, 1), (12, 2)])
def test_links_are_the_pairs_that_share_something_with_the_time_of_the_last(max_members, min_shared):
    rng = np.random.default_rng(4)
    members, shared = rng.integers(25, size=300).astype(np.int32), rng.integers(40, size=300).astype(np.int32)
    time, counts = rng.random(300), {}
    links = co_links("co_rate", "user", members, shared, time, max_members, min_shared, counts)
    first = {}
    for pair, when in zip(zip(members.tolist(), shared.tolist(), strict=True), time.tolist(), strict=True):
        first[pair] = min(when, first.get(pair, when))
    expected, wide = {}, 0
    for thing in range(40):
        of = sorted(member for member, other in first if other == thing)
        wide += len(of) > max_members
        for pair in itertools.permutations(of, 2) if len(of) <= max_members else ():
            known = max(first[member, thing] for member in pair)
            weight, latest = expected.get(pair, (0, 0.0))
            expected[pair] = (weight + 1, max(latest, known))
    kept = {pair: of for pair, of in expected.items() if of[0] >= min_shared}
    columns = (links.source_ids, links.target_ids, links.weight, links.time)
    found = {(a, b): (c, d) for a, b, c, d in zip(*(column.tolist() for column in columns), strict=True)}
    assert found == kept and len(links) == len(kept)
    wanted = {
        f"co_rate: shared by more than {max_members}, left out": wide,
        f"co_rate: pairs that share fewer than {min_shared}, left out": (len(expected) - len(kept)) // 2,
    }
    assert counts == {what: number for what, number in wanted.items() if number}


def test_views_without_links_are_refused():
    members, shared = np.array([0, 1], np.int32), np.array([0, 1], np.int32)
    with pytest.raises(DataError, match="'co_rate': no two user nodes share 1 of what at most 5 have; raise"):
        co_links("co_rate", "user", members, shared, np.zeros(2), 5, 1, {})
