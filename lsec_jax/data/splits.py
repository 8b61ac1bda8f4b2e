"""Train / validation / test codes for every edge: given, chronological, random or leave-one-out."""

import dataclasses
import zlib
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from lsec_jax.config import ConfigError, SplitConfig
from lsec_jax.config_json import differences, from_dict, to_json
from lsec_jax.data.audits import LEAVE_ONE_OUT_LEAST
from lsec_jax.data.columns import NewColumn, blocks, in_memory
from lsec_jax.schema import SPLITS, TEST, TRAIN, VALIDATION, Candidates, DataError, Events, LiveCommerceData, Relation

METHODS = ("auto", "given", "time", "random", "leave_one_out")

WITHOUT_CUTS = ("random", "leave_one_out")


def assign_splits(
    data: LiveCommerceData,
    config: SplitConfig,
    tasks: Sequence[str],
    new_column: NewColumn = in_memory,
) -> LiveCommerceData:
    """Returns the data with `Relation.split` filled for every relation, and `Events.split` where there are cut times.

    Tasks are relations, or one table of events. The primary relation is the first task's; of a table of events, its
    rows are what is said of the primary relation's edges below, and it can be split by "given" and "time" only. By
    method:

    - "given": relations keep the split of their source; task relations must have one, others without are TRAIN.
    - "time": two cut times, near the quantiles of the primary relation's times. In every relation with times, an edge
      before the first cut is TRAIN, before the second VALIDATION, else TEST; edges of equal time are never parted.
      So no training graph holds anything that happened after the cut. Given splits of these relations are replaced.
    - "random": task relations are split at random, others keep a given split or are TRAIN. An edge between nodes of one
      type stays with its reverse. Where there are cut times, the splits of relations with times come from those cuts,
      not from the source, and are dropped.
    - "leave_one_out": of every source node's edges in a task relation, the last one by time is TEST and the one before
      VALIDATION; nodes with fewer than 3 edges only train. Of equal times, the edge with the higher target index is the
      later one. Other relations are as under "random". There is a cut for each user, but none for all, so that another
      user's training edges may be of later times: `audits.audit_leave_one_out` checks this split.
    - "auto": "given" if the primary relation has a given split, else "time" if it has times, else "random".

    Relations to which a method does not apply ("time" without times, "auto" -> "given" without a given split) keep a
    given split; without one, tasks are split at random and others are TRAIN. Random splits do not depend on the order
    of the rows or of the relations. Published candidate lists of relations that are split anew are dropped.

    Events are split by the cut times, where there are any. A given split of theirs stays, but gives way to the cuts
    under "time" and is dropped under "random" and "leave_one_out".

    Prepared data hold the split of the settings that they were prepared with: other settings than these are refused, as
    they would silently have no effect, or another one than on the source. "given" takes the stored split as it is.
    With the same settings the stored split stays, too, and so do candidate lists.

    Args:
        data: from a source.
        config: method, fractions, seed.
        tasks: trained and evaluated relations, the primary one first; or a table of events alone.
        new_column: gives the arrays of the events' splits.

    Returns:
        The data with splits, and with cut_times and end_time where the split is chronological. `counts` gains
        every relation's edges per split, every task relation's cold nodes, and the edges outside an availability.

    Raises:
        ConfigError: unknown method, bad fractions, a method that the data does not allow, or other settings than the
            data was prepared with.
        DataError: unknown relation, a relation left without training edges, or a primary relation without test edges.
    """
    _check(config, tasks)
    primary = check_tasks(data, tasks)
    _check_prepared(data, config, tasks)
    method = _resolve(data, config, primary, tasks)
    cuts: tuple[float, float] = (np.inf, np.inf)
    # Such a split of data that was split by time before has no cuts any more.
    changes: dict[str, Any] = {"cut_times": None} if method in WITHOUT_CUTS else {}
    if method == "time":
        cuts = _cut_times(primary, config.fractions)
        lasts = [relation.time.max() for relation in data.relations.values() if relation.time is not None]
        last = max([*lasts, *(events.time[-1] for events in data.events.values() if len(events))])
        end_time = data.end_time if data.end_time is not None else float(np.nextafter(last, np.inf))
        changes = {"cut_times": cuts, "end_time": end_time}
    counts, relations, resplit = dict(data.counts), {}, set()
    for name, relation in data.relations.items():
        is_of_cuts = data.cut_times is not None and relation.time is not None
        split = _given_split(relation, method, name in tasks, is_of_cuts)
        if split is None:
            if method == "time" and relation.time is not None:
                split = np.digitize(relation.time, cuts).astype(np.int8)
            elif method == "leave_one_out":
                split = _leave_one_out(relation)
            else:
                split = _random_split(relation, config)
            resplit.add(name)
        # Models of events read relations, if at all, for what happened before.
        if not (split == TRAIN).any() and isinstance(primary, Relation):
            raise DataError(
                f"relation '{name}': the '{method}' split {tuple(config.fractions)} leaves none of its "
                f"{len(relation)} edges for training; {_remedy(method)}, or leave the relation out"
            )
        relations[name] = dataclasses.replace(relation, split=split)
    kept = _keep_candidates(data, resplit, counts)
    split_data = data.replace(relations=relations, candidates=kept, **changes)
    split_data = split_data.replace(events=_split_events(split_data, method, new_column))
    if isinstance(primary, Relation):
        if not _is_in(relations[primary.name], TEST).any():
            raise DataError(f"relation '{primary.name}': the '{method}' split has no test edges; {_remedy(method)}")
    else:
        counts |= _event_counts(split_data, primary.name, method)
    return split_data.replace(counts=counts | _counts(split_data, tasks))


def check_tasks(data: LiveCommerceData, tasks: Sequence[str]) -> Relation | Events:
    """Returns the first task's relation, or the table of events that is the task; raises DataError for unknown ones."""
    if len(tasks) == 1 and tasks[0] not in data.relations and tasks[0] in data.events:
        return data.events[tasks[0]]
    for name in tasks:
        data.relation(name)
    return data.relation(tasks[0])


def _event_counts(data: LiveCommerceData, name: str, method: str) -> dict[str, int]:
    """Counts the rows of a table of events in each part; raises DataError where one has to train or test without."""
    split = data.events[name].split
    assert split is not None
    sizes = dict(zip(SPLITS, np.bincount(split, minlength=len(SPLITS)).tolist(), strict=True))
    for part in ("train", "test"):
        if not sizes[part]:
            word = "training" if part == "train" else "test"
            raise DataError(f"events '{name}': the '{method}' split has no {word} rows; {_remedy(method)}")
    return {f"{name}: {'training' if part == 'train' else part} rows": count for part, count in sizes.items()}


def _split_events(data: LiveCommerceData, method: str, new_column: NewColumn) -> dict[str, Events]:
    """Splits the events as `assign_splits` says; those of prepared data have these very cuts already."""
    found, is_prepared = dict(data.events), data.prepared_with is not None
    for name, events in data.events.items():
        if method in WITHOUT_CUTS:
            found[name] = dataclasses.replace(events, split=None)
        elif data.cut_times is not None and (events.split is None or (method == "time" and not is_prepared)):
            split = new_column(f"events/{name}/split", (len(events),), np.int8)
            for rows in blocks(len(events)):
                split[rows] = np.digitize(events.time[rows], data.cut_times)
            found[name] = dataclasses.replace(events, split=split)
    return found


def hold_out(source_ids: np.ndarray, split: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Moves a random share of each source's training pairs to VALIDATION; [e] int8.

    A source with n training pairs gives floor(fraction n + u), u uniform in [0, 1), so that the share is right on
    average for short lists too, but never its last one. For sources with a given split that has no validation part.

    Args:
        source_ids: [e].
        split: [e] int8.
        fraction: in [0, 1).
        seed: of the draw; it depends on the order of the rows.
    """
    rng = np.random.default_rng(seed)
    train = np.flatnonzero(split == TRAIN)
    order = train[np.lexsort((rng.random(len(train)), source_ids[train]))]
    _, first, sizes = np.unique(source_ids[order], return_index=True, return_counts=True)
    num_held = np.minimum(np.floor(fraction * sizes + rng.random(len(sizes))).astype(np.int64), sizes - 1)
    rank = np.arange(len(order)) - np.repeat(first, sizes)
    split = split.copy()
    split[order[rank < np.repeat(num_held, sizes)]] = VALIDATION
    return split


def event_rows(data: LiveCommerceData, events: Events, split: int) -> slice | np.ndarray:
    """Which events belong to a split: a range of rows wherever they lie together, as after a split by time.

    Args:
        data: split (`assign_splits`), or with given splits.
        events: of the data; without a split of their own they have that of the cut times.
        split: code.

    Returns:
        A slice, or else rising rows [n] int64, which take 8 bytes of memory each.

    Raises:
        DataError: no split is known for the events.
    """
    if events.split is None:
        if data.cut_times is None:
            raise DataError(
                f"events '{events.name}' have no split, and data set '{data.name}' no cut times; split it by time "
                "(config.split.method), or choose a source whose events have a split"
            )
        bounds = [0, *np.searchsorted(events.time, data.cut_times, side="left"), len(events)]
        return slice(int(bounds[split]), int(bounds[split + 1]))
    count, first, last = 0, 0, -1
    for block in blocks(len(events)):
        found = np.flatnonzero(events.split[block] == split)
        if len(found):
            first = block.start + int(found[0]) if count == 0 else first
            count, last = count + len(found), block.start + int(found[-1])
    if count == last + 1 - first:
        return slice(first, last + 1)
    return np.flatnonzero(events.split == split)


def live_event_rows(data: LiveCommerceData, events: Events, split: int, target: str) -> slice | np.ndarray:
    """`event_rows` without the rows whose target is not available at their time: it was shown by nobody's clock.

    Args:
        data: as `event_rows`.
        events: of the data.
        split: code.
        target: role of what is shown; where its type has no availability, all rows count.

    Returns:
        As `event_rows`; the same range wherever nothing is left out.
    """
    rows = event_rows(data, events, split)
    availability = data.availability.get(events.nodes[target].node_type)
    if availability is None:
        return rows
    ids, kept, num_rows = events.ids(target), [], 0
    for block in blocks(rows.stop - rows.start if isinstance(rows, slice) else len(rows)):
        own = np.arange(rows.start + block.start, rows.start + block.stop) if isinstance(rows, slice) else rows[block]
        # Who is not known (-1) is not known to be away.
        is_live = (ids[own] < 0) | availability.at(np.asarray(events.time[own]), ids[own])
        num_rows += len(own)
        kept.append(own[is_live])
    found = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return rows if len(found) == num_rows else found


def _check(config: SplitConfig, tasks: Sequence[str]) -> None:
    if config.method not in METHODS:
        raise ConfigError(f"split.method = '{config.method}' is unknown; valid: {', '.join(METHODS)}")
    fractions = tuple(config.fractions)
    if len(fractions) != 3 or not all(0 <= fraction <= 1 for fraction in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"split.fractions = {fractions}; give three shares in [0, 1] that sum to 1: (0.8, 0.1, 0.1)")
    if fractions[0] == 0 or fractions[2] == 0:
        raise ConfigError(f"split.fractions = {fractions}; the shares of train and test must be above 0")
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"split.seed = {config.seed}; give a whole number in [0, 2**32)")
    if not tasks:
        raise ConfigError("no tasks are given; a split needs at least one")


def _check_prepared(data: LiveCommerceData, config: SplitConfig, given: Sequence[str]) -> None:
    """Raises ConfigError where the settings differ from those that prepared data were split with."""
    if data.prepared_with is None:
        return
    split, tasks = data.prepared_with["split"], data.prepared_with["tasks"]
    if config.method == "given":
        without = [f"task '{name}' was none of them" for name in given if name not in tasks]
    else:
        known = from_dict(SplitConfig, split, key="manifest.source.split")  # with the defaults of keys that are newer
        without = differences(to_json(known), to_json(config), "config.split")
        without += differences(list(tasks), list(given), "tasks")
    if without:
        raise ConfigError(
            f"data set '{data.name}' was prepared with another split or other tasks (prepared -> given):\n  "
            + "\n  ".join(without)
            + f"\nRun `python -m lsec_jax.prepare` with this config's source into another directory, or give the "
            "prepared values, or set config.split.method = 'given' to take the stored split as it is (tasks: any of "
            f"{', '.join(tasks)})."
        )


def _resolve(data: LiveCommerceData, config: SplitConfig, primary: Relation | Events, tasks: Sequence[str]) -> str:
    """Returns the method with "auto" decided, or raises ConfigError where the data does not allow it."""
    if data.prepared_with is not None:  # with these very settings
        return "given"
    if isinstance(primary, Events):
        return _resolve_events(config, primary)
    if config.method == "auto":
        if primary.split is not None:
            return "given"
        return "time" if primary.time is not None else "random"
    with_times = {"time": tasks[:1], "leave_one_out": tasks}.get(config.method, ())
    if timeless := [name for name in with_times if data.relation(name).time is None]:
        timed = [name for name, relation in data.relations.items() if relation.time is not None]
        raise ConfigError(
            f"split.method = '{config.method}', but relation '{timeless[0]}' has no times (relations with times: "
            f"{', '.join(timed) or 'none'}); name its time column in the data config, or use split.method = 'random'"
        )
    if config.method == "given":
        without = [name for name in tasks if data.relation(name).split is None]
        if without:
            raise ConfigError(
                f"split.method = 'given', but the source gives no split for relation '{without[0]}'; name its "
                "validation and test files in the data config, or use split.method = 'time', 'random' or 'auto'"
            )
    return config.method


def _resolve_events(config: SplitConfig, events: Events) -> str:
    if config.method in WITHOUT_CUTS:
        raise ConfigError(
            f"split.method = '{config.method}', but the task '{events.name}' is a table of events, which are split by "
            "time; use split.method = 'time', 'given' or 'auto'"
        )
    if config.method == "given" and events.split is None:
        raise ConfigError(
            f"split.method = 'given', but the source gives no split for events '{events.name}'; use split.method = "
            "'time' or 'auto'"
        )
    if config.method == "auto":
        return "time" if events.split is None else "given"
    return config.method


def _cut_times(primary: Relation | Events, fractions: Sequence[float]) -> tuple[float, float]:
    """Returns the starts of validation and test: distinct times with the nearest shares of edges before them."""
    assert primary.time is not None
    times, first = np.unique(np.sort(primary.time), return_index=True)  # `first` = number of edges before each time
    has_validation = fractions[1] > 0
    if len(times) < 2 + has_validation:
        raise DataError(
            f"'{primary.name}': only {len(times)} distinct times, too few for the chronological split "
            f"{tuple(fractions)}; edges of equal time are never parted; use finer times or split.method = 'random'"
        )
    upper = len(times) - 1 if has_validation else len(times)  # leaves a time for test
    start = 1 + int(np.argmin(np.abs(first[1:upper] - fractions[0] * len(primary))))
    if not has_validation:
        return float(times[start]), float(times[start])
    before_test = (fractions[0] + fractions[1]) * len(primary)
    end = start + 1 + int(np.argmin(np.abs(first[start + 1 :] - before_test)))
    return float(times[start]), float(times[end])


def _given_split(relation: Relation, method: str, is_task: bool, is_of_cuts: bool) -> np.ndarray | None:
    """Returns the split that a relation has without splitting it anew, or None where it must be.

    Args:
        relation: with or without a split.
        method: resolved.
        is_task: whether it is trained and evaluated.
        is_of_cuts: whether a split that it has comes from the data's cut times.
    """
    if method == "time" and relation.time is not None:
        return None
    if relation.split is not None and not (method in WITHOUT_CUTS and (is_task or is_of_cuts)):
        return relation.split
    return None if is_task else np.full(len(relation), TRAIN, np.int8)


def _keep_candidates(
    data: LiveCommerceData, resplit: Set[str], counts: dict[str, int]
) -> dict[tuple[str, int], Candidates]:
    """Returns the published lists of the relations that keep their split, and counts the others."""
    for name in sorted({name for name, _ in data.candidates} & resplit):
        num_dropped = sum(other == name for other, _ in data.candidates)
        counts[f"{name}: published candidate lists dropped, split anew"] = num_dropped
    return {key: lists for key, lists in data.candidates.items() if key[0] not in resplit}


def _is_in(relation: Relation, split: int) -> np.ndarray:
    assert relation.split is not None
    return np.equal(relation.split, split)


def _random_split(relation: Relation, config: SplitConfig) -> np.ndarray:
    """Returns shares of a relation's edges, exact to one pair, by seed and relation name, [e] int8.

    Between nodes of one type, an edge and its reverse are drawn together: either would tell the other.
    """
    rng = np.random.default_rng([config.seed, zlib.crc32(relation.name.encode())])
    ends = (relation.source_ids, relation.target_ids)
    if relation.source == relation.target:
        ends = (np.minimum(*ends), np.maximum(*ends))
    by_pair = np.lexsort(ends[::-1])
    is_first = np.ones(len(relation), bool)
    is_first[1:] = np.any(np.diff(np.stack(ends)[:, by_pair]), axis=0)
    pair, sizes = np.cumsum(is_first) - 1, np.diff(np.flatnonzero(np.append(is_first, True)))
    order = rng.permutation(len(sizes))
    before = np.empty(len(sizes), np.int64)  # edges of the pairs that are drawn earlier
    before[order] = np.cumsum(sizes[order]) - sizes[order]
    bounds = np.rint(np.cumsum(config.fractions)[:2] * len(relation)).astype(np.int64)
    split = np.empty(len(relation), np.int8)
    split[by_pair] = np.digitize(before, bounds)[pair]
    return split


def _leave_one_out(relation: Relation) -> np.ndarray:
    """Holds the last two edges of each source out, [e] int8; see `assign_splits`."""
    assert relation.time is not None
    order = np.lexsort((relation.target_ids, relation.time, relation.source_ids))
    _, sizes = np.unique(relation.source_ids, return_counts=True)
    ends = np.cumsum(sizes)[sizes >= LEAVE_ONE_OUT_LEAST]
    split = np.full(len(relation), TRAIN, np.int8)
    split[order[ends - 1]] = TEST
    split[order[ends - 2]] = VALIDATION
    return split


def _remedy(method: str) -> str:
    if method == "given":
        return "check the data config's split files, or use split.method = 'random'"
    if method == "leave_one_out":
        return f"it needs a node with at least {LEAVE_ONE_OUT_LEAST} edges: give more data, or change split.method"
    return "change split.fractions or split.method, or give more data"


def _counts(data: LiveCommerceData, tasks: Sequence[str]) -> dict[str, int]:
    """Counts edges per split, and task nodes of the test split that training has never seen."""
    counts = _availability_counts(data)
    is_warm = {name: np.zeros(len(table), bool) for name, table in data.nodes.items()}
    for relation in data.relations.values():
        is_train = _is_in(relation, TRAIN)
        is_warm[relation.source][relation.source_ids[is_train]] = True
        is_warm[relation.target][relation.target_ids[is_train]] = True
    for name, relation in data.relations.items():
        for split_name, split in SPLITS.items():
            word = "training" if split == TRAIN else split_name
            counts[f"{name}: {word} edges"] = int(_is_in(relation, split).sum())
        if name not in tasks:
            continue
        for end, ids in ((relation.source, relation.source_ids), (relation.target, relation.target_ids)):
            tested = np.flatnonzero(np.bincount(ids[_is_in(relation, TEST)], minlength=len(data.nodes[end])))
            trained = np.bincount(ids[_is_in(relation, TRAIN)], minlength=len(data.nodes[end])) > 0
            prefix = f"{name}: test {end} nodes without training edges"
            counts[f"{prefix} in it"] = int((~trained[tested]).sum())
            counts[f"{prefix} in any relation"] = int((~is_warm[end][tested]).sum())
    return counts


def _availability_counts(data: LiveCommerceData) -> dict[str, int]:
    """Counts edges at a time when their target is not available, and windows that no evaluation can use."""
    counts: dict[str, int] = {}
    for name, availability in data.availability.items():
        if data.cut_times is None:
            is_bounded = (availability.start > -np.inf) | (availability.end < np.inf)
            counts[f"{name}: windows not used in evaluation, the split is not by time"] = int(is_bounded.sum())
        for relation in data.relations.values():
            if relation.target == name and relation.time is not None:
                outside = ~availability.at(relation.time, relation.target_ids)
                counts[f"{relation.name}: edges while the {name} is not available"] = int(outside.sum())
    return counts
