"""Requests made of a log of what users took up, for data that do not know what they were shown: the rest is drawn."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data import csr
from lsec_jax.schema import DataError, EventNodes, Events, Relation

SUGGESTION = "suggestion"
_ROUNDS = 8  # of draws with rejection; what is missing then is drawn from all that is left
_BLOCK_ROWS = 2**22


@dataclasses.dataclass(frozen=True)
class Log:
    """Who took up what in which scenario, in time order; n rows.

    Attributes:
        users, targets, scenarios: indices, [n] int32.
        time: never falling, [n] float64.
    """

    users: np.ndarray
    targets: np.ndarray
    scenarios: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.time)


def check_settings(view_share: float, seed: int, at_least: Mapping[str, tuple[int, int]]) -> None:
    """Checks settings that sources of suggestions share; raises ConfigError naming the first unusable one.

    Args:
        view_share: of the log, that makes views only.
        seed: of the draws.
        at_least: value and least value of other settings, by key.
    """
    if not 0.0 < view_share < 1.0:
        raise ConfigError(f"data.view_share = {view_share}; give a share between 0 and 1, such as 0.4")
    for key, (value, least) in at_least.items():
        if value < least:
            raise ConfigError(f"data.{key} = {value}; give a whole number of {least} or more")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"data.seed = {seed}; give a whole number in [0, 2**32)")


def suggestions(
    log: Log,
    rows: np.ndarray,
    num_negatives: int,
    target: str,
    value: str,
    is_known_ahead: bool,
    rng: np.random.Generator,
    counts: dict[str, int],
) -> Events:
    """Makes a request of each row: what was taken, and negatives from its scenario, by popularity until then.

    Negatives are drawn without replacement, each with a chance in proportion to its rows of the log in the request's
    scenario at times strictly before. So both the positive and the negatives have to be there before: rows whose target
    is not are left out, as a model would know the positive by being new. Rows of a pair that was there before are left
    out, too: it takes nothing up. Fewer negatives where the scenario has fewer; without any, no request.

    Args:
        log: of everything.
        rows: of the log that become requests, rising, [m].
        num_negatives: of each request.
        target: node type and role of what is taken up.
        value: name of the label.
        is_known_ahead: whether a user's negatives exclude all targets that she has anywhere in the log; else those that
            she has by the request's time, that time included, in any scenario.
        rng: of the draws.
        counts: gains what was left out.

    Returns:
        Events "suggestion" with the roles user, the target, scenario, by request (`group`) and in it by target.

    Raises:
        DataError: no request is left.
    """
    pool = _Pool.of(log, is_known_ahead)
    kept = rows[pool.is_first_of_pair[rows]]
    _count(counts, "rows of a pair that is there before, left out", len(rows) - len(kept))
    are_there = kept[pool.is_target_there_before[kept]]
    _count(counts, f"rows whose {target} is new in the scenario, left out", len(kept) - len(are_there))
    drawn = pool.draw(are_there, num_negatives, rng)
    sizes = np.bincount(drawn // pool.num_targets, minlength=len(are_there))
    _count(counts, "rows without any negative, left out", int((sizes == 0).sum()))
    is_short = (sizes > 0) & (sizes < num_negatives)
    _count(counts, f"requests with fewer than {num_negatives} negatives", int(is_short.sum()))
    asked = np.flatnonzero(sizes)
    if not len(asked):
        raise DataError(
            f"events '{SUGGESTION}': none of the last {len(rows)} rows of the log makes a request: no {target} with an "
            "earlier row of its scenario beside which there is another one; give more data, or lower data.view_share"
        )
    keys = np.sort(np.concatenate([drawn, asked * pool.num_targets + log.targets[are_there[asked]]]))
    requests, targets = np.divmod(keys, pool.num_targets)
    of_log = are_there[requests]
    roles = {"user": log.users[of_log], target: targets.astype(np.int32), "scenario": log.scenarios[of_log]}
    return Events(
        SUGGESTION,
        {role: EventNodes(role, ids) for role, ids in roles.items()},
        log.time[of_log],
        {value: targets == log.targets[of_log]},
        group=np.searchsorted(asked, requests).astype(np.int64),
    )


def _count(counts: dict[str, int], what: str, number: int) -> None:
    if number:
        counts[f"{SUGGESTION}: {what}"] = number


@dataclasses.dataclass(frozen=True)
class _Pool:
    """What negatives are drawn from: earlier rows of the same scenario.

    Keys of candidates are request * num_targets + target.

    Attributes:
        log: of everything.
        ranks: of the times, [n]; equal times have one.
        num_targets: above all indices.
        order: the log's rows by scenario, then time, [n].
        order_keys: of these rows, by scenario and rank, rising, [n].
        pairs: sorted user * num_targets + target, each once, [p].
        pair_ranks: from when on each is no negative of its user, [p].
        is_first_of_pair: whether a row is the first of its user and target, [n] bool.
        is_target_there_before: whether the target has a row of the scenario at an earlier time, [n] bool.
    """

    log: Log
    ranks: np.ndarray
    num_targets: int
    order: np.ndarray
    order_keys: np.ndarray
    pairs: np.ndarray
    pair_ranks: np.ndarray
    is_first_of_pair: np.ndarray
    is_target_there_before: np.ndarray

    @classmethod
    def of(cls, log: Log, is_known_ahead: bool) -> "_Pool":
        num_targets = int(log.targets.max(initial=0)) + 1
        ranks = np.cumsum(np.diff(log.time, prepend=log.time[:1]) > 0)
        scenario_keys = log.scenarios.astype(np.int64) * (int(ranks.max(initial=0)) + 1) + ranks
        order = np.argsort(scenario_keys, kind="stable")
        pairs, first = np.unique(log.users.astype(np.int64) * num_targets + log.targets, return_index=True)
        is_first = np.zeros(len(log), bool)
        is_first[first] = True
        _, begin, inverse = np.unique(
            log.scenarios.astype(np.int64) * num_targets + log.targets, return_index=True, return_inverse=True
        )
        return cls(
            log,
            ranks,
            num_targets,
            order,
            scenario_keys[order],
            pairs,
            np.full(len(pairs), -1) if is_known_ahead else ranks[first],
            is_first,
            ranks[begin][inverse] < ranks,
        )

    def draw(self, rows: np.ndarray, num_negatives: int, rng: np.random.Generator) -> np.ndarray:
        """Sorted keys of the negatives of some rows, each a request, whose targets are there before.

        Draws with rejection and, for requests where they are refused too often, from all that is left, which have the
        same probabilities.
        """
        first_keys = self.log.scenarios[rows].astype(np.int64) * (int(self.ranks.max(initial=0)) + 1)
        starts = np.searchsorted(self.order_keys, first_keys)
        sizes = np.searchsorted(self.order_keys, first_keys + self.ranks[rows]) - starts
        chosen, missing = np.zeros(0, np.int64), np.full(len(rows), num_negatives)
        for _ in range(_ROUNDS):
            requests = np.repeat(np.arange(len(rows)), missing)
            at = starts[requests] + rng.integers(0, sizes[requests])
            keys = np.unique(requests * self.num_targets + self.log.targets[self.order[at]])
            keys = keys[self._is_free(keys, rows, chosen)]
            chosen = np.sort(np.concatenate([chosen, keys]), kind="stable")  # a merge: both parts are sorted
            missing = num_negatives - np.bincount(chosen // self.num_targets, minlength=len(rows))
        parts, short = [chosen], np.flatnonzero(missing)
        for block in np.array_split(short, 1 + int(sizes[short].sum()) // _BLOCK_ROWS):
            at = csr.expand_ranges(starts[block], sizes[block])
            keys = np.repeat(block, sizes[block]) * self.num_targets + self.log.targets[self.order[at]]
            keys, popularity = np.unique(keys, return_counts=True)
            is_free = self._is_free(keys, rows, chosen)
            keys, popularity = keys[is_free], popularity[is_free]
            # The first to arrive, at rates as the popularities, are a draw without replacement.
            arrivals = rng.exponential(size=len(keys)) / popularity
            keys = keys[np.lexsort((arrivals, keys // self.num_targets))]
            requests, first, counts = np.unique(keys // self.num_targets, return_index=True, return_counts=True)
            place = np.arange(len(keys)) - np.repeat(first, counts)
            parts.append(keys[place < np.repeat(missing[requests], counts)])
        return np.sort(np.concatenate(parts))

    def _is_free(self, keys: np.ndarray, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Which keys are not chosen yet and have a target that the request's user does not have, [k] bool."""
        requests, targets = np.divmod(keys, self.num_targets)
        pairs = self.log.users[rows[requests]].astype(np.int64) * self.num_targets + targets
        at = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        is_had = (self.pairs[at] == pairs) & (self.pair_ranks[at] <= self.ranks[rows[requests]])
        return ~is_had & ~csr.contains(chosen, keys)


def co_links(
    name: str,
    node_type: str,
    members: np.ndarray,
    shared: np.ndarray,
    time: np.ndarray,
    max_members: int,
    min_shared: int,
    counts: dict[str, int],
) -> Relation:
    """Links members that share something, in both directions.

    Args:
        name: of the relation.
        node_type: of the members.
        members: indices, [e].
        shared: what each has, e.g. items, [e]; each pair of member and shared counts once, with its first time.
        time: since when, [e].
        max_members: what more members share links nobody.
        min_shared: links of fewer shared things are left out.
        counts: gains what is left out.

    Returns:
        Links whose weight is how many things are shared, and whose time is that of the last of them: from then on this
        weight is known.

    Raises:
        DataError: no link is left.
    """
    order = np.lexsort((time, members, shared))
    members, shared, time = members[order].astype(np.int64), shared[order], time[order]
    is_first = (np.diff(members, prepend=-1) != 0) | (np.diff(shared, prepend=-1) != 0)
    sizes = np.bincount(shared[is_first])
    if wide := int((sizes > max_members).sum()):
        counts[f"{name}: shared by more than {max_members}, left out"] = wide
    kept = np.flatnonzero(is_first & (sizes <= max_members)[shared])
    members, shared, time = members[kept], shared[kept], time[kept]
    places = np.arange(len(kept))
    num_later = np.cumsum(np.bincount(shared))[shared] - 1 - places
    first, second = np.repeat(places, num_later), csr.expand_ranges(places + 1, num_later)
    # Members of one thing are in rising order.
    num_nodes = int(members.max(initial=0)) + 1
    keys, known = members[first] * num_nodes + members[second], np.maximum(time[first], time[second])
    keys, inverse, weights = np.unique(keys, return_inverse=True, return_counts=True)
    latest = np.full(len(keys), -np.inf)
    np.maximum.at(latest, inverse, known)
    is_kept = weights >= min_shared
    if few := int((~is_kept).sum()):
        counts[f"{name}: pairs that share fewer than {min_shared}, left out"] = few
    if not is_kept.any():
        raise DataError(
            f"relation '{name}': no two {node_type} nodes share {min_shared} of what at most {max_members} have; raise "
            "data.view_share or the most that may share, or lower data.min_shared"
        )
    ends = [ids.astype(np.int32) for ids in np.divmod(keys[is_kept], num_nodes)]
    both = (np.concatenate(ends), np.concatenate(ends[::-1]))
    latest, weights = np.tile(latest[is_kept], 2), np.tile(weights[is_kept], 2).astype(np.float32)
    return Relation(name, node_type, node_type, *both, time=latest, weight=weights)
