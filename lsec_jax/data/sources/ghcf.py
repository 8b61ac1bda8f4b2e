"""Buys and carts as sets without times, as GHCF publishes its Taobao data, made into records of two domains.

    train.txt     0 17 4 250        user 0 has bought items 17, 4 and 250
    cart.txt      0 4 9             and put 4 and 9 into the cart
    test.txt      0 3               the buy that tests

Nobody knows in which order this happened. So that no record knows its own answer, buys get an order that is drawn with
the seed: time is a position in it, and says nothing else.

    0        carts: all of them are known from the start, as the published protocol has it (17 % of the released test
             items are in their user's cart).
    [1, 2)   training buys, each at its own time: its history is a random subset of the user's other training buys.
    2, 3     the buy that validates (one of each user with enough of them, drawn with the seed), and the one that tests.

The table "impression" has these buys (`bought` = True) and for each of them items that the user has not bought, at the
same time and in the same group (`bought` = False): `num_negatives` in training, `num_candidates` for the buys that
validate and test. They are drawn evenly, no item twice in a group, from those that the user has not bought in the same
or an earlier split: training does not know what later ones hold. Its split is given. The table "cart" has the carts.
The relations "buy" and "cart" have the pairs, with the same split.

Histories to derive: of "impression" where `bought`, and of "cart". They are sets: declare their sequences with
is_ordered=False, and show no ages.
"""

import dataclasses

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.data.sources import lightgcn_text
from lsec_jax.schema import (
    TRAIN,
    VALIDATION,
    DataError,
    EventNodes,
    Events,
    LiveCommerceData,
    NodeTable,
    Relation,
)

MIN_BUYS = 2  # in training, beside the one that validates: else most histories would be empty


@dataclasses.dataclass
class Config:
    """Reads the released files.

    Attributes:
        path: their directory; `~` and `${VARIABLES}` are expanded, `.gz` files are found too.
        name: of the data set, for reports; "" = the directory's name.
        num_negatives: items not bought for each training buy.
        num_candidates: the same for each buy that validates or tests.
        has_validation: whether one buy of each user with more than MIN_BUYS of them is held out to validate.
        seed: of the order, the buys held out, and the items not bought.
    """

    path: str = ""
    name: str = ""
    num_negatives: int = 4
    num_candidates: int = 99
    has_validation: bool = True
    seed: int = 0

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable key, its value and the remedy."""
        for key in ("num_negatives", "num_candidates"):
            if getattr(self, key) < 1:
                raise ConfigError(f"data.{key} = {getattr(self, key)}; give a whole number of 1 or more")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"data.seed = {self.seed}; give a whole number in [0, 2**32)")

    def load(self) -> LiveCommerceData:
        """Reads the files; raises DataError naming file, line and token, ConfigError as `validate`."""
        self.validate()
        buys = lightgcn_text.Config(path=self.path, name=self.name, relation="buy").load()
        carts = lightgcn_text.Config(path=self.path, relation="cart", train_file="cart.txt", test_file="").load()
        nodes, (buy, cart) = _joined(buys, carts)
        orders, held_out, drawn = (np.random.default_rng((self.seed, part)) for part in range(3))
        if self.has_validation:
            buy = dataclasses.replace(buy, split=_hold_out(buy, len(nodes["user"]), held_out))
        assert buy.split is not None
        times = np.where(buy.split == TRAIN, 1.0 + orders.random(len(buy)), buy.split + 1.0)
        events = {
            "impression": _impressions(buy, times, len(nodes["item"]), self, drawn),
            "cart": Events("cart", _roles(cart.source_ids, cart.target_ids), np.zeros(len(cart))),
        }
        counts = {**buys.counts, **carts.counts}
        return LiveCommerceData(buys.name, nodes, {"buy": buy, "cart": cart}, counts=counts, events=events)


def _joined(buys: LiveCommerceData, carts: LiveCommerceData) -> tuple[dict[str, NodeTable], tuple[Relation, Relation]]:
    """The users and items of both files, and both relations with their indices; carts are known to training."""
    nodes = {}
    for name in ("user", "item"):
        # A list file, where there is one, is that of both: ids are text in both or in none.
        nodes[name] = NodeTable(name, np.union1d(buys.nodes[name].ids, carts.nodes[name].ids))
    relations = []
    for name, data in (("buy", buys), ("cart", carts)):
        relation = data.relation(name)
        ends = {
            node: nodes[node].index_of(data.nodes[node].ids)[ids].astype(np.int32)
            for node, ids in (("user", relation.source_ids), ("item", relation.target_ids))
        }
        relations.append(dataclasses.replace(relation, source_ids=ends["user"], target_ids=ends["item"]))
    return nodes, (relations[0], relations[1])


def _hold_out(buy: Relation, num_users: int, rng: np.random.Generator) -> np.ndarray:
    """The split with one training buy of each user who has more than MIN_BUYS moved to validation, [e] int8."""
    assert buy.split is not None
    split = buy.split.copy()
    train = np.flatnonzero(split == TRAIN)
    order = train[np.lexsort((rng.random(len(train)), buy.source_ids[train]))]
    first = order[np.flatnonzero(np.diff(buy.source_ids[order], prepend=-1))]
    counts = np.bincount(buy.source_ids[train], minlength=num_users)
    split[first[counts[buy.source_ids[first]] > MIN_BUYS]] = VALIDATION
    return split


def _roles(users: np.ndarray, items: np.ndarray) -> dict[str, EventNodes]:
    return {"user": EventNodes("user", users), "item": EventNodes("item", items)}


def _impressions(buy: Relation, times: np.ndarray, num_items: int, config: Config, rng: np.random.Generator) -> Events:
    """Buys with what was not bought beside them, in time order; each buy is the first of its group."""
    split = buy.split
    assert split is not None
    per_buy = np.where(split == TRAIN, config.num_negatives, config.num_candidates)
    of_buy = np.repeat(np.arange(len(buy)), per_buy)
    items = _not_bought(buy, of_buy, num_items, rng)
    rows = np.concatenate([np.arange(len(buy)), of_buy])
    items = np.concatenate([buy.target_ids, items])
    is_bought = np.arange(len(rows)) < len(buy)
    order = np.lexsort((~is_bought, rows, times[rows]))
    rows = rows[order]
    return Events(
        "impression",
        _roles(buy.source_ids[rows], items[order]),
        times[rows],
        {"bought": is_bought[order]},
        group=rows.astype(np.int64),
        split=split[rows],
    )


def _not_bought(buy: Relation, of_buy: np.ndarray, num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Draws an item for each row that its user has not bought by then, no item twice for one buy, [n] int32.

    Args:
        buy: all buys, with their split.
        of_buy: the buy of each row, rising, [n].
        num_items: that there are.
        rng: of the draws.
    """
    assert buy.split is not None
    users = buy.source_ids.astype(np.int64)
    most = np.bincount(users).max(initial=0) + np.bincount(of_buy).max(initial=0)
    if most > num_items:
        raise DataError(
            f"there are {num_items} items, of which some user would need {most} bought and not bought ones; lower "
            "data.num_negatives and data.num_candidates"
        )
    known = [np.sort(users[of] * num_items + buy.target_ids[of]) for of in (buy.split <= code for code in range(3))]
    items = rng.integers(num_items, size=len(of_buy), dtype=np.int32)
    rows = np.arange(len(of_buy))  # of the buys with an item that is not yet right
    while len(rows):
        is_wrong = np.ones(len(rows), bool)
        is_wrong[np.unique(of_buy[rows] * num_items + items[rows], return_index=True)[1]] = False  # all but the first
        for code, bought in enumerate(known):
            of_split = np.flatnonzero(buy.split[of_buy[rows]] == code)
            pairs = users[of_buy[rows[of_split]]] * num_items + items[rows[of_split]]
            is_wrong[of_split] |= np.isin(pairs, bought)
        wrong = rows[is_wrong]
        items[wrong] = rng.integers(num_items, size=len(wrong), dtype=np.int32)
        is_open = np.zeros(len(buy), bool)
        is_open[of_buy[wrong]] = True
        rows = rows[is_open[of_buy[rows]]]
    return items
