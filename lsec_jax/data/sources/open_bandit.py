"""Open Bandit data: impressions of a fashion shop with clicks and the probability of being shown (Saito et al. 2020).

    obd/random/men/men.csv           timestamp, item_id, position, click, propensity_score, user_feature_0 to 3,
                                     user-item_affinity_0, ... (one per item); random or bts, all, men or women
    obd/random/men/item_context.csv  item_id, item_feature_0 (a number), item_feature_1 to 3 (hashes)

Items are 0..n-1. Users have no ids, only features of each impression, so there are no user nodes and no relations:
everything is in the events "impression". The hashes of `random` and of `bts` are not comparable, item_feature_0 is.
"""

import dataclasses
from pathlib import Path

import numpy as np

from lsec_jax.data import delimited, tables
from lsec_jax.data.files import expand_path, suggestion
from lsec_jax.data.listed import ListedNodes
from lsec_jax.data.table import DATE_EXAMPLES, Table
from lsec_jax.schema import DataError, EventNodes, Events, Feature, LiveCommerceData, NodeTable

POLICIES, CAMPAIGNS = ("random", "bts"), ("all", "men", "women")
EVENTS = "impression"
ITEM_FILE, ITEM_NUMBER = "item_context.csv", "item_feature_0"
ITEM_HASHES = tuple(f"item_feature_{i}" for i in (1, 2, 3))
USER_HASHES = tuple(f"user_feature_{i}" for i in range(4))
AFFINITY = "user-item_affinity_"
NUM_POSITIONS = 3  # left, center and right of the page


@dataclasses.dataclass
class Config:
    """Reads the log of one policy in one campaign.

    Attributes:
        path: directory with the policies' folders; `~` and `${VARIABLES}` are expanded, `.gz` files are found too.
        policy: that chose the items: "random" (uniform) or "bts" (Bernoulli Thompson sampling).
        campaign: "all", "men" or "women".
        affinities: whether to read the affinities, the feature "affinity" [impressions, items] float32: most of the
            memory and time that the full release takes.
        name: of the data set, for reports; "" = obd_<policy>_<campaign>.
    """

    path: str = ""
    policy: str = "random"
    campaign: str = "men"
    affinities: bool = True
    name: str = ""

    def load(self) -> LiveCommerceData:
        """Reads log and items; raises DataError naming file, line and column, or the config key."""
        for key, value, valid in (("policy", self.policy, POLICIES), ("campaign", self.campaign, CAMPAIGNS)):
            if value not in valid:
                hint = suggestion(value, valid)
                raise DataError(f"config key data.{key} = '{value}'{hint}; valid: {', '.join(valid)}")
        folder = expand_path(self.path) / self.policy / self.campaign
        items = _read_items(folder / ITEM_FILE)
        events = _read_events(folder / f"{self.campaign}.csv", items, self.affinities)
        return LiveCommerceData(
            self.name or f"obd_{self.policy}_{self.campaign}", {"item": items}, {}, events={EVENTS: events}
        )


def _read_items(path: Path) -> NodeTable:
    table = tables.read_table(path, ["item_id", ITEM_NUMBER, *ITEM_HASHES])
    rule = f"; item_id must hold every number of 0..{len(table) - 1} once; correct the file"
    ids = table.integers("item_id", len(table), rule)
    table.unique_ids("item_id")
    order = np.argsort(ids)
    features = {ITEM_NUMBER: Feature("numeric", table.numbers(ITEM_NUMBER).astype(np.float32))}
    features |= {name: _hashes(table, name) for name in ITEM_HASHES}
    return NodeTable("item", ids[order], {name: feature.take(order) for name, feature in features.items()})


def _read_events(path: Path, items: NodeTable, with_affinities: bool) -> Events:
    affinities = [f"{AFFINITY}{i}" for i in range(len(items))]
    if with_affinities:
        _check_affinities(path, affinities)
    columns = ["timestamp", "item_id", "position", "click", "propensity_score", *USER_HASHES]
    table = tables.read_table(path, columns + (affinities if with_affinities else []))
    time, has_dates = table.times("timestamp")
    if not has_dates:
        table.fail(0, "timestamp", f"not a date; expected {DATE_EXAMPLES}; copy the file again")
    position = table.integers("position", NUM_POSITIONS + 1, "; positions are 1, 2 and 3; correct or drop the row")
    if len(bad := np.flatnonzero(position == 0)):
        table.fail(int(bad[0]), "position", "0; positions are 1, 2 and 3; correct or drop the row")
    item_ids = ListedNodes(items, ITEM_FILE).indices(table, "item_id")
    features = {name: _hashes(table, name) for name in USER_HASHES}
    if with_affinities:
        features["affinity"] = Feature("vector", _vectors(table, affinities))
    values = {
        "click": table.labels("click"),
        "propensity": _propensities(table),
        "position": position.astype(np.float32),
    }
    events = Events(EVENTS, {"item": EventNodes("item", item_ids)}, time, values, features)
    return events.take(np.argsort(time, kind="stable"))


def _check_affinities(path: Path, expected: list[str]) -> None:
    """Raises DataError where the log has not one affinity for each item of the other file."""
    there = [name for name in delimited.header_of(path, ",", has_quotes=True) if name.startswith(AFFINITY)]
    if wrong := sorted(set(there) ^ set(expected)):
        raise DataError(
            f"{path}: {len(there)} columns {AFFINITY}*, but {ITEM_FILE} has {len(expected)} items (first difference: "
            f"{wrong[0]}); copy both files again from one release, or set --config.data.affinities=False"
        )


def _propensities(table: Table) -> np.ndarray:
    """Probabilities of being shown, in (0, 1], [rows] float32."""
    values = table.numbers("propensity_score")
    bad = np.flatnonzero(~((values.astype(np.float32) > 0) & (values <= 1)))
    if len(bad):
        table.fail(
            int(bad[0]),
            "propensity_score",
            f"{values[bad[0]]:g}; the probability that the shown item was shown is in (0, 1]; correct or drop the row",
        )
    return values.astype(np.float32)


def _vectors(table: Table, columns: list[str]) -> np.ndarray:
    """One column per item side by side, [rows, items] float32, filled column by column to keep no second copy."""
    vectors = np.empty((len(table), len(columns)), np.float32)
    for i, name in enumerate(columns):
        values = table.numbers(name)
        bad = np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)
        if len(bad):
            table.fail(int(bad[0]), name, f"{values[bad[0]]:g} is too large for single precision; correct the row")
        vectors[:, i] = values
    return vectors


def _hashes(table: Table, column: str) -> Feature:
    """A categorical feature; the vocabulary is sorted, so that the order of rows does not matter."""
    hashes = table.ids(column)
    texts = hashes.values.astype(np.str_)
    vocabulary, codes = np.unique(texts, return_inverse=True)
    return Feature("categorical", codes[hashes.codes].astype(np.int32), tuple(vocabulary.tolist()))
