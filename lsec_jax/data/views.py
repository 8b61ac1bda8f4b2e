"""Views of a user-user graph: links from before the training window, in compressed rows. No jax."""

from collections.abc import Sequence

import numpy as np

from lsec_jax.config import ConfigError, ViewConfig
from lsec_jax.config_json import differences, to_json
from lsec_jax.data.columns import NewColumn, in_memory
from lsec_jax.data.splits import event_rows
from lsec_jax.schema import NAME_RULE, SPLITS, TRAIN, DataError, LiveCommerceData, View, is_name

_FEWEST_LABELS = 10  # linked pairs among the positives that are no coincidence where no negative is linked


def view_of(
    name: str,
    source_ids: np.ndarray,
    target_ids: np.ndarray,
    num_nodes: int,
    is_both_ways: bool = True,
    node_type: str = "user",
    new_column: NewColumn = in_memory,
) -> View:
    """Builds a view from its links.

    Args:
        name: of the view.
        source_ids: indices, [e].
        target_ids: indices, [e]; repeated links count once, links of a node to itself not at all.
        num_nodes: n.
        is_both_ways: whether a link makes each end the other's neighbour; else the targets are the sources'.
        node_type: of both ends.
        new_column: gives the arrays to fill.

    Raises:
        DataError: an index out of range.
    """
    for ids in (source_ids, target_ids):
        bad = np.flatnonzero((ids < 0) | (ids >= num_nodes))
        if len(bad):
            raise DataError(f"view '{name}', link {bad[0]}: node {ids[bad[0]]} is none of the {num_nodes} nodes")
    source_ids, target_ids = source_ids.astype(np.int64), target_ids.astype(np.int64)
    if is_both_ways:
        source_ids, target_ids = np.concatenate([source_ids, target_ids]), np.concatenate([target_ids, source_ids])
    linked = source_ids != target_ids
    keys = np.sort(source_ids[linked] * num_nodes + target_ids[linked])
    # np.unique hashes: of 20 M links it takes a hundred times as long as the sort.
    keys = keys[np.diff(keys, prepend=-1) > 0]
    starts = new_column(f"views/{name}/starts", (num_nodes + 1,), np.int64)
    neighbours = new_column(f"views/{name}/neighbours", (len(keys),), np.int32)
    starts[0] = 0
    np.cumsum(np.bincount(keys // max(num_nodes, 1), minlength=num_nodes), out=starts[1:])
    neighbours[:] = keys % max(num_nodes, 1)
    return View(name, node_type, starts, neighbours)


def add_views(
    data: LiveCommerceData, configs: Sequence[ViewConfig], events: str, new_column: NewColumn = in_memory
) -> LiveCommerceData:
    """Returns the data with `views` as the configs say.

    Prepared data have their views; others are derived from their relations. Links from the first training event on are
    left out and counted.

    Args:
        data: split.
        configs: validated.
        events: the table whose training rows begin the training window.
        new_column: gives the arrays to fill.

    Raises:
        ConfigError: as `check_views`, or settings other than those that a view of this name was prepared with; a
            relation without times of which the config does not say that it is from before, or one with times of which
            it says so.
        DataError: as `check_views`; no training events; no link from before them.
    """
    if not configs:
        return data
    check_views(data, configs, events)
    stored = {of["name"]: of for of in (data.prepared_with or {}).get("views", ())}
    views, counts = dict(data.views), dict(data.counts)
    for i, config in enumerate(configs):
        key = f"config.views[{i}]"
        if config.name not in stored:
            views[config.name] = _from_config(data, config, key, window_start(data, events), counts, new_column)
        elif changed := differences(stored[config.name], to_json(config), key):
            raise ConfigError(
                f"view '{config.name}' of data set '{data.name}' was prepared otherwise (prepared -> given):\n"
                + "".join(f"  {line}\n" for line in changed)
                + "Give the prepared values or another name, or prepare the data again into another directory."
            )
    return data.replace(views=views, counts=counts)


def check_views(data: LiveCommerceData, configs: Sequence[ViewConfig], events: str) -> None:
    """Checks that views can be derived; the tables' rows do not count.

    Args:
        data: with the relations.
        configs: validated.
        events: the table whose training rows begin the training window.

    Raises:
        ConfigError: a name that cannot be one of a file, or a relation between nodes of two types.
        DataError: a relation or the events are missing.
    """
    for i, config in enumerate(configs):
        key = f"config.views[{i}]"
        if not is_name(config.name):
            raise ConfigError(f"{key}.name = {config.name!r}: {NAME_RULE}")
        data.events_of(events)
        relation = data.relation(config.relation)
        if relation.source != relation.target:
            raise ConfigError(
                f"{key}.relation = '{config.relation}' is between '{relation.source}' and '{relation.target}'; a view "
                "is of nodes of one type: choose another relation"
            )


def window_start(data: LiveCommerceData, events: str) -> float:
    """Returns the time of the first training event of a split table; raises DataError where there is none."""
    table = data.events_of(events)
    rows = event_rows(data, table, TRAIN)
    first = range(*rows.indices(len(table)))[:1] if isinstance(rows, slice) else rows[:1]
    if not len(first):
        raise DataError(f"events '{events}' have no training rows; give another split (config.split)")
    return float(table.time[first[0]])


def _from_config(
    data: LiveCommerceData,
    config: ViewConfig,
    key: str,
    start: float,
    counts: dict[str, int],
    new_column: NewColumn,
) -> View:
    relation = data.relation(config.relation)
    sources, targets = relation.source_ids, relation.target_ids
    if relation.time is None:
        if not config.is_timeless:
            raise ConfigError(
                f"{key}.relation = '{config.relation}' has no times, so nothing says that its links are from before "
                "the training window and no labels; set is_timeless if they are"
            )
    elif config.is_timeless:
        raise ConfigError(f"{key}.is_timeless: relation '{config.relation}' has times, which decide; leave it out")
    else:
        is_before = np.asarray(relation.time) < start
        sources, targets = sources[is_before], targets[is_before]
        if late := len(is_before) - len(sources):
            counts[f"view {config.name}: links of the training window or later left out"] = late
        if not len(sources) and len(is_before):
            raise DataError(
                f"view '{config.name}': none of the {len(is_before)} links of relation '{config.relation}' is from "
                f"before the first training event ({start:g}); leave the view out, or train on later events"
            )
    nodes = data.nodes[relation.source]
    return view_of(config.name, sources, targets, len(nodes), config.is_both_ways, relation.source, new_column)


def audit_views(data: LiveCommerceData, events: str, roles: tuple[str, str], label: str) -> list[str]:
    """Looks for views that hold what is to be predicted.

    A link that was there before says that a pair is likelier; one that is made of the labels says the label. So a view
    leaks where pairs that were positive at some time, in all rows or in those of one split, are linked, and of the
    pairs that never were none is. Views among other nodes than those of the pairs cannot be looked at so.

    Args:
        data: split, with views.
        events: the table of records.
        roles: of the one who answers and of what is ranked.
        label: value of the events that is positive where it is true or above 0.

    Returns:
        What is wrong, a line for each view.
    """
    table = data.events_of(events)
    first, second = (table.nodes[role] for role in roles)
    views = [of for of in data.views.values() if first.node_type == second.node_type == of.node_type]
    if not views:
        return []
    positive = np.nan_to_num(np.asarray(table.value(label), np.float32)) > 0
    low, high = (of(first.ids, second.ids).astype(np.int64) for of in (np.minimum, np.maximum))
    keys = np.where(low >= 0, low * len(data.nodes[first.node_type]) + high, -1)
    parts = [("all rows", slice(None))]
    if table.split is not None:
        parts += [(f"'{name}'", np.asarray(table.split) == code) for name, code in SPLITS.items()]
    problems = []
    for view in views:
        linked = are_linked(view, low, high)
        for name, rows in parts:
            pairs, at = np.unique(keys[rows], return_index=True)
            ever = np.zeros(len(pairs), bool)
            ever[np.searchsorted(pairs, keys[rows][positive[rows]])] = True
            is_linked, is_pair = linked[rows][at], pairs >= 0
            num_linked = int((is_linked & ever & is_pair).sum())
            if num_linked < _FEWEST_LABELS or (is_linked & ~ever).any() or not (~ever & is_pair).any():
                continue
            key = pairs[np.flatnonzero(is_linked & ever & is_pair)[0]]
            ids = data.nodes[view.node_type].ids
            size = len(ids)
            problems.append(
                f"view '{view.name}' holds labels: of the pairs of events '{events}' in {name}, {num_linked} that are "
                f"positive in '{label}' at some time are linked in it, e.g. ({ids[key // size]}, {ids[key % size]}), "
                "and none of those that never are. Build it from links before the training window, without those that "
                "labels are made of"
            )
            break
    return problems


def are_linked(view: View, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether each pair of nodes [n] is a link in either direction, [n] bool; False where one of them is nobody."""
    there = (sources >= 0) & (targets >= 0)
    found = np.zeros(len(sources), bool)
    for one, other in ((sources, targets), (targets, sources)):
        own = np.where(there, one, 0)
        low, high = view.starts[own].astype(np.int64), view.starts[own + 1].astype(np.int64)
        end = high.copy()
        while (low < high).any():  # a binary search in all rows at once
            middle = (low + high) // 2
            is_open = low < high
            at = np.where(is_open, middle, 0)
            is_below = is_open & (view.neighbours[at] < other)
            low, high = np.where(is_below, middle + 1, low), np.where(is_open & ~is_below, middle, high)
        at = np.where(low < end, low, 0)
        found |= there & (low < end) & (view.neighbours[at] == other if len(view.neighbours) else False)
    return found
