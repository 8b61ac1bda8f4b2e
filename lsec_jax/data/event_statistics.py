"""What the columns of events hold, counted once when data are prepared: for reports, and to scale features by.

Means and shares are of the training rows, or of all where there is no split.
"""

from typing import Any

import numpy as np

from lsec_jax.data.columns import blocks
from lsec_jax.schema import SPLITS, TRAIN, Events, Histories, LiveCommerceData


def describe(data: LiveCommerceData) -> dict[str, Any]:
    """Returns the statistics, JSON.

    By table of events: "rows", "splits" (rows of train, validation and test, or None), "values" and numeric "features"
    (mean, standard deviation, and the share of rows in which they are defined), other "features" (the share that is
    defined, and how often each word of the vocabulary is there). By name of histories: "behaviours", "owners" with any,
    and for each table of moments the mean "length", of what is stored, and the share that is "empty".
    """
    return {
        "events": {name: _events(events) for name, events in data.events.items()},
        "histories": {
            name: _histories(
                histories, {moments: data.events[moments] for moments in (*histories.ends, *histories.last)}
            )
            for name, histories in data.histories.items()
        },
    }


def split_sizes(split: np.ndarray) -> list[int]:
    """Rows of train, validation and test; `split` may be larger than memory."""
    counts = np.zeros(len(SPLITS), np.int64)
    for rows in blocks(len(split)):
        counts += np.bincount(split[rows], minlength=len(SPLITS))
    return counts.tolist()


def _events(events: Events) -> dict[str, Any]:
    numeric = {**events.values, **{name: of.values for name, of in events.features.items() if of.kind == "numeric"}}
    coded = {name: of for name, of in events.features.items() if of.vocabulary}
    described = {name: _number(events, values) for name, values in numeric.items()}
    words = {name: _words(events, of.values, len(of.vocabulary)) for name, of in coded.items()}
    return {
        "rows": len(events),
        "splits": None if events.split is None else split_sizes(events.split),
        "values": {name: described[name] for name in events.values},
        "features": {
            name: described.get(name) or words[name] for name in (*described, *words) if name in events.features
        },
    }


def _number(events: Events, values: np.ndarray) -> dict[str, float]:
    num_rows, count, mean, squares = 0, 0, 0.0, 0.0
    for rows in blocks(len(events)):
        block = _training(events, values, rows).astype(np.float64)
        found = block[~np.isnan(block)]
        num_rows += len(block)
        if not len(found):
            continue
        # Blocks are merged by their means and sums of squared distances (Chan et al. 1983), which loses no digits.
        total, distance = count + len(found), found.mean() - mean
        squares += float(np.square(found - found.mean()).sum()) + distance**2 * count * len(found) / total
        mean += distance * len(found) / total
        count = total
    return {
        "defined": count / max(num_rows, 1),
        "mean": float(mean),
        "standard_deviation": float(np.sqrt(squares / max(count, 1))),
    }


def _words(events: Events, codes: np.ndarray, num_words: int) -> dict[str, Any]:
    num_rows, counts = 0, np.zeros(num_words, np.int64)
    for rows in blocks(len(events)):
        block = _training(events, codes, rows)
        num_rows += len(block)
        counts += np.bincount(block[block >= 0], minlength=num_words)
    return {"defined": float(counts.sum() / max(num_rows, 1)), "counts": counts.tolist()}


def _training(events: Events, values: np.ndarray, rows: slice) -> np.ndarray:
    return values[rows] if events.split is None else values[rows][events.split[rows] == TRAIN]


def _histories(histories: Histories, moments: dict[str, Events]) -> dict[str, Any]:
    sizes = np.diff(histories.starts)
    found: dict[str, Any] = {"behaviours": len(histories.items), "owners": int((sizes > 0).sum()), "moments": {}}
    for name, events in moments.items():
        total = empty = 0
        for rows in blocks(len(events)):
            if name in histories.ends:
                owners = histories.owners_of(events)[rows]
                lengths = histories.ends[name][rows] - histories.starts[np.maximum(owners, 0)]
                lengths = np.where(owners >= 0, lengths, 0)
            else:
                lengths = (histories.last[name][rows] >= 0).sum(axis=1)
            total, empty = total + int(lengths.sum()), empty + int((lengths == 0).sum())
        found["moments"][name] = {"length": total / max(len(events), 1), "empty": empty / max(len(events), 1)}
    return found
