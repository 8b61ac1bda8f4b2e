"""The data analysis of LSEC-GNN: do streamers join users with items, users with users and items with items?

Source: Yu et al., "Leveraging Tripartite Interaction Information from Live Stream E-Commerce for Improving Product
Recommendation", KDD 2021, Sec. 4 (Eq. 1-3, Tables 1-3).

Not specified; chosen:
- Each number from samples stands beside the exact one over all pairs, wherever that is a sum.
- Pairs of users (items) are of those with a purchase: an empty basket has no direction. The others are counted.
- Pairs of users (items) are drawn with replacement and uniformly among the pairs of each group, however rare it is.
- Standard deviations over the repeats divide by their number less one.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse

from lsec_jax.data.bits import BooleanProduct
from lsec_jax.data.csr import csr_from_pairs
from lsec_jax.schema import DataError, LiveCommerceData, Relation

APART, JOINED = 0, 1  # places of the two groups in every array over groups: Q and P of the paper
USER_LEVELS, ITEM_LEVELS = (0.5, 0.75, 0.9, 0.99), (0.98, 0.99, 0.999, 0.9999)  # Tables 2 and 3
DRAWS_AT_ONCE = 1 << 22  # of a block: memory does not grow with the number of draws
TRUTH_PAIRS = 150_000_000  # beyond so many pairs, the true probabilities are those of some users


@dataclasses.dataclass(frozen=True)
class Tripartite:
    """Three relations whose ends fit: who buys what, who follows whom, who sells what.

    Attributes:
        purchase, follow, sell: user-item, user-streamer and streamer-item edges; all of them, of whatever split.
        num_users, num_items, num_streamers: nodes.
    """

    purchase: Relation
    follow: Relation
    sell: Relation
    num_users: int
    num_items: int
    num_streamers: int


def tripartite(data: LiveCommerceData, purchase: str, follow: str, sell: str) -> Tripartite:
    """Looks the three relations up.

    Raises:
        DataError: if one is missing, or runs between other node types than the others ask for.
    """
    for role, name in (("purchase", purchase), ("follow", follow), ("sell", sell)):
        if name not in data.relations:
            raise DataError(
                f"--{role}={name}: data set '{data.name}' has no relation '{name}'; name one of: "
                f"{', '.join(sorted(data.relations))}"
            )
    buys, follows, sells = (data.relations[name] for name in (purchase, follow, sell))
    remedy = "name another relation, or, if its ends are named in the config (source interactions), swap them there"
    if follows.target == buys.target:
        raise DataError(
            f"--follow={follows.name}: runs from {follows.source} to {follows.target}, but must run from {buys.source} "
            f"to who sells each {buys.target}; {remedy}"
        )
    for role, relation, ends in (
        ("follow", follows, (buys.source, follows.target)),
        ("sell", sells, (follows.target, buys.target)),
    ):
        if (relation.source, relation.target) != ends:
            raise DataError(
                f"--{role}={relation.name}: runs from {relation.source} to {relation.target}, but must run from "
                f"{ends[0]} to {ends[1]}, as --purchase={buys.name} runs from {buys.source} to {buys.target} and "
                f"--follow={follows.name} to {follows.target}; {remedy}"
            )
    sizes = (len(data.nodes[name]) for name in (buys.source, buys.target, follows.target))
    return Tripartite(buys, follows, sells, *sizes)


@dataclasses.dataclass(frozen=True)
class Truth:
    """Sums over the pairs of some users by the true probabilities of a simulated world; [2] over groups.

    Attributes:
        num_users: whose pairs they are.
        pairs, purchases: what there are of each.
        expected: sum of the true probabilities.
        variance: of the number of purchases, given these probabilities.
    """

    num_users: int
    pairs: np.ndarray
    purchases: np.ndarray
    expected: np.ndarray
    variance: np.ndarray

    def ratio(self) -> float:
        """True P(purchase | sold by a followed streamer) / P(purchase | not)."""
        return _ratio(self.expected / self.pairs)

    def observed_ratio(self) -> float:
        """The same of the purchases of the same users."""
        return _ratio(self.purchases / self.pairs)

    def z_score(self) -> float:
        """(log observed - log true ratio) in standard deviations of what chance does to the purchases."""
        if not (self.expected > 0).all() or not (self.purchases > 0).all():
            return float("nan")
        deviation = np.sqrt((self.variance / self.expected**2).sum())
        return float((np.log(self.observed_ratio()) - np.log(self.ratio())) / deviation)


@dataclasses.dataclass(frozen=True)
class Influence:
    """Purchases among the (user, item) pairs whose item a followed streamer sells (JOINED), and among the others.

    Attributes:
        pairs, purchases: of all pairs, [2] int64 over groups.
        drawn_pairs, drawn_purchases: of each repeat of the Monte Carlo method, [r, 2] int64.
        truth: of simulated worlds.
    """

    pairs: np.ndarray
    purchases: np.ndarray
    drawn_pairs: np.ndarray
    drawn_purchases: np.ndarray
    truth: Truth | None

    def probabilities(self) -> np.ndarray:
        """Exact P(purchase | group), [2] float64."""
        return self.purchases / self.pairs

    def drawn_probabilities(self) -> np.ndarray:
        """Eq. 1: the estimate of each repeat, [r, 2] float64."""
        return self.drawn_purchases / self.drawn_pairs

    def ratio(self) -> float:
        """Exact P(purchase | JOINED) / P(purchase | APART); nan where nothing was bought APART."""
        return _ratio(self.probabilities())

    def drawn_ratios(self) -> np.ndarray:
        """The ratio of each repeat, [r] float64."""
        return np.array([_ratio(row) for row in self.drawn_probabilities()])


def _ratio(probabilities: np.ndarray) -> float:
    return float(probabilities[JOINED] / probabilities[APART]) if probabilities[APART] > 0 else float("nan")


def influence(
    graph: Tripartite,
    rng: np.random.Generator,
    num_draws: int,
    num_repeats: int = 5,
    true_probabilities: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Influence:
    """Sec. 4.1: how likely a purchase is in both groups of (user, item) pairs, by drawing pairs and exactly.

    Args:
        graph: the three relations.
        rng: of the Monte Carlo method.
        num_draws: pairs drawn in each repeat, uniformly and with replacement (N_MC).
        num_repeats: the paper's 5.
        true_probabilities: users [b] -> P(purchase) [b, n_items], of simulated worlds.

    Raises:
        DataError: if a group has no pair, or a repeat drew none of it.
    """
    shape = graph.num_users, graph.num_items
    bought_of = csr_from_pairs(graph.purchase.source_ids, graph.purchase.target_ids, graph.num_users)
    chosen = _users_of_truth(graph, rng) if true_probabilities else np.zeros(0, np.int64)
    pairs, purchases, truth = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros((4, 2))
    drawn = np.zeros((num_repeats, 2, 2), np.int64)  # by repeat, group, bought
    per_user = rng.multinomial(num_draws, np.full(graph.num_users, 1 / graph.num_users), size=num_repeats)
    for first, joined in _joined_items(graph).blocks():
        bought = _dense(bought_of, first, len(joined), graph.num_items)
        pairs += _by_group(joined)
        purchases += _by_group(joined[bought])
        codes = (2 * joined.view(np.uint8) + bought).ravel()
        for repeat, count in enumerate(per_user[:, first : first + len(joined)].sum(axis=1).tolist()):
            drawn[repeat] += _count_drawn(rng, codes, count)
        users = chosen[slice(*np.searchsorted(chosen, (first, first + len(joined))))]
        if true_probabilities is not None and len(users):
            truth += _true_sums(true_probabilities(users), joined[users - first], bought[users - first])
    for group, text in ((JOINED, "that a followed streamer sells"), (APART, "that no followed streamer sells")):
        if not pairs[group]:
            raise DataError(
                f"none of the {shape[0]} x {shape[1]} pairs of {graph.purchase.source} and {graph.purchase.target} has "
                f"an item {text}: there is nothing to compare; check the ids of '{graph.follow.name}' and "
                f"'{graph.sell.name}'"
            )
        if not drawn[:, group].sum(axis=1).all():
            raise DataError(f"--draws={num_draws}: no drawn pair has an item {text}; raise --draws")
    totals = Truth(len(chosen), truth[0], truth[1], truth[2], truth[3]) if true_probabilities else None
    return Influence(pairs, purchases, drawn.sum(axis=2), drawn[:, :, 1], totals)


def _joined_items(graph: Tripartite) -> BooleanProduct:
    """[users, items]: a streamer whom the user follows sells the item."""
    follow, sell = graph.follow, graph.sell
    shape = graph.num_users, graph.num_streamers, graph.num_items
    return BooleanProduct((follow.source_ids, follow.target_ids), (sell.source_ids, sell.target_ids), shape)


def _users_of_truth(graph: Tripartite, rng: np.random.Generator) -> np.ndarray:
    """All users, or as many as TRUTH_PAIRS allows, drawn without replacement; ascending, [u] int64."""
    count = min(graph.num_users, max(1, TRUTH_PAIRS // graph.num_items))
    return np.sort(rng.permutation(graph.num_users)[:count])


def _dense(pairs: tuple[np.ndarray, np.ndarray], first: int, num_rows: int, num_columns: int) -> np.ndarray:
    """Rows first .. first + num_rows - 1 of CSR pairs, [b, m] bool."""
    indptr, indices = pairs
    dense = np.zeros((num_rows, num_columns), bool)
    degrees = np.diff(indptr[first : first + num_rows + 1])
    dense[np.repeat(np.arange(num_rows), degrees), indices[indptr[first] : indptr[first + num_rows]]] = True
    return dense


def _count_drawn(rng: np.random.Generator, codes: np.ndarray, num_draws: int) -> np.ndarray:
    """Draws from codes 2 * group + bought, with replacement, and counts what was drawn, [2, 2] int64."""
    counts = np.zeros(4, np.int64)
    for start in range(0, num_draws, DRAWS_AT_ONCE):
        at = rng.integers(len(codes), size=min(DRAWS_AT_ONCE, num_draws - start))
        counts += np.bincount(codes[at], minlength=4)
    return counts.reshape(2, 2)


def _by_group(joined: np.ndarray) -> np.ndarray:
    """Counts a mask's False and True, [2] int64: APART and JOINED."""
    count = np.count_nonzero(joined)
    return np.array([joined.size - count, count])


def _true_sums(probabilities: np.ndarray, joined: np.ndarray, bought: np.ndarray) -> np.ndarray:
    """(pairs, purchases, expected purchases, their variance) by group, [4, 2] float64."""
    sums = np.empty((4, 2))
    sums[0], sums[1] = _by_group(joined), _by_group(joined[bought])
    for row, values in ((2, probabilities), (3, probabilities * (1 - probabilities))):
        sums[row, JOINED] = np.sum(values[joined], dtype=np.float64)
        sums[row, APART] = np.sum(values, dtype=np.float64) - sums[row, JOINED]
    return sums


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Cosine (Eq. 2) and Jaccard (Eq. 3) of the baskets of node pairs that a streamer joins, and of the others.

    Attributes:
        node_type: "user" or "item" in the data's own words.
        num_nodes: nodes with a basket.
        num_left_out: nodes without one.
        pairs: unordered pairs, [2] int64 over groups.
        overlapping: those whose baskets have something in common, [2] int64.
        means: exact, over all pairs, [2, 2] float64: by group, then cosine and Jaccard.
        drawn: values of drawn pairs, [2, 2, p] float32: by group, then cosine and Jaccard.
        levels: of the quantiles to report.
    """

    node_type: str
    num_nodes: int
    num_left_out: int
    pairs: np.ndarray
    overlapping: np.ndarray
    means: np.ndarray
    drawn: np.ndarray
    levels: tuple[float, ...]

    def quantiles(self) -> np.ndarray:
        """Of the drawn pairs, [2, 2, levels] float64."""
        return np.moveaxis(np.quantile(self.drawn, self.levels, axis=2), 0, 2)

    def drawn_means(self) -> np.ndarray:
        """Of the drawn pairs, [2, 2] float64."""
        return self.drawn.mean(axis=2, dtype=np.float64)


def user_similarity(graph: Tripartite, rng: np.random.Generator, num_pairs: int) -> Similarity:
    """Sec. 4.2: the purchases of pairs of users who follow one streamer, and of pairs who do not; see `similarity`."""
    baskets = (graph.purchase.source_ids, graph.purchase.target_ids), (graph.num_users, graph.num_items)
    links = graph.follow.source_ids, graph.follow.target_ids
    names = graph.purchase.source, f"{graph.follow.target} in common ('{graph.follow.name}')"
    return similarity(*baskets, links, graph.num_streamers, rng, num_pairs, USER_LEVELS, names)


def item_similarity(graph: Tripartite, rng: np.random.Generator, num_pairs: int) -> Similarity:
    """Sec. 4.3: the buyers of pairs of items that one streamer sells, and of pairs that none sells; `similarity`."""
    baskets = (graph.purchase.target_ids, graph.purchase.source_ids), (graph.num_items, graph.num_users)
    links = graph.sell.target_ids, graph.sell.source_ids
    names = graph.purchase.target, f"{graph.sell.source} in common ('{graph.sell.name}')"
    return similarity(*baskets, links, graph.num_streamers, rng, num_pairs, ITEM_LEVELS, names)


def similarity(
    baskets: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
    links: tuple[np.ndarray, np.ndarray],
    num_streamers: int,
    rng: np.random.Generator,
    num_pairs: int,
    levels: tuple[float, ...],
    names: tuple[str, str],
) -> Similarity:
    """How similar the baskets of two nodes are, with and without a streamer in common.

    Args:
        baskets: (node, what is in its basket), [e] ints each, every pair once.
        shape: numbers of nodes and of what baskets may hold.
        links: (node, streamer), [f] ints each.
        num_streamers: number of streamers.
        rng: of the drawn pairs.
        num_pairs: drawn in each group.
        levels: of the quantiles.
        names: of the node type, and of what joins two of them, for the report and the message.

    Raises:
        DataError: if a group has no pair.
    """
    pairs_of = _PairsOfNodes(baskets, shape, links, num_streamers)
    counts = np.zeros((pairs_of.num_nodes, 2), np.int64)
    overlapping, sums = np.zeros(2, np.int64), np.zeros((2, 2))
    for first, joined, common in pairs_of.blocks():
        rows = slice(first, first + len(joined))
        counts[rows, JOINED] = np.count_nonzero(joined, axis=1)
        counts[rows, APART] = pairs_of.num_nodes - 1 - counts[rows, JOINED]
        row_ids, column_ids = common.coords
        groups = joined[row_ids, column_ids]
        values = pairs_of.similarities(row_ids + first, column_ids, common.data)
        is_other = row_ids + first != column_ids
        overlapping += _by_group(groups[is_other])
        sums += [[values[m][is_other & (groups == g)].sum(dtype=np.float64) for m in (0, 1)] for g in (APART, JOINED)]
    totals = counts.sum(axis=0)
    node_type, link = names
    for group, text in ((JOINED, f"no two {node_type}s have a"), (APART, f"any two {node_type}s have a")):
        if not totals[group]:
            raise DataError(
                f"{text} {link}, of {pairs_of.num_nodes} {node_type}s with a purchase: there is nothing to compare; "
                "give more data or other relations"
            )
    drawn = pairs_of.draw(rng, counts, num_pairs)
    num_left_out = shape[0] - pairs_of.num_nodes
    means = sums / totals[:, None]
    return Similarity(node_type, pairs_of.num_nodes, num_left_out, totals // 2, overlapping // 2, means, drawn, levels)


class _PairsOfNodes:
    """The pairs of nodes with a basket, block by block; nodes are numbered anew without the others."""

    def __init__(
        self,
        baskets: tuple[np.ndarray, np.ndarray],
        shape: tuple[int, int],
        links: tuple[np.ndarray, np.ndarray],
        num_streamers: int,
    ):
        sizes = np.bincount(baskets[0], minlength=shape[0])
        number = np.cumsum(sizes > 0) - 1
        self.sizes = sizes[sizes > 0]
        self.num_nodes = len(self.sizes)
        ones = np.ones(len(baskets[0]), np.float32)
        self.baskets = scipy.sparse.csr_array(
            (ones, (number[baskets[0]], baskets[1])), shape=(self.num_nodes, shape[1])
        )
        self.holders = scipy.sparse.csr_array(self.baskets.T)
        kept = sizes[links[0]] > 0
        node_ids, streamer_ids = number[links[0][kept]], links[1][kept]
        self.product = BooleanProduct(
            (node_ids, streamer_ids), (streamer_ids, node_ids), (self.num_nodes, num_streamers, self.num_nodes)
        )

    def blocks(self) -> Iterator[tuple[int, np.ndarray, scipy.sparse.coo_array]]:
        """Yields (first node, joined [b, n] bool, things in common [b, n]); no node is joined to itself."""
        for first, joined in self.product.blocks():
            own = np.arange(len(joined))
            joined[own, own + first] = False
            yield first, joined, scipy.sparse.coo_array(self.baskets[first : first + len(joined)] @ self.holders)

    def similarities(self, rows: np.ndarray, columns: np.ndarray, common: np.ndarray) -> np.ndarray:
        """(cosine, Jaccard) of pairs of nodes with so many things in common, [2, p] float32."""
        left, right = self.sizes[rows], self.sizes[columns]
        return np.stack([common / np.sqrt(left * right), common / (left + right - common)]).astype(np.float32)

    def draw(self, rng: np.random.Generator, counts: np.ndarray, num_pairs: int) -> np.ndarray:
        """Draws pairs of each group, uniformly and with replacement.

        Args:
            rng: source of randomness.
            counts: pairs of each node by group, [n, 2].
            num_pairs: of each group.

        Returns:
            Their (cosine, Jaccard), [2, 2, num_pairs] float32; ascending node by node, not in random order.
        """
        per_node = [rng.multinomial(num_pairs, counts[:, group] / counts[:, group].sum()) for group in (APART, JOINED)]
        ends = [np.concatenate([[0], np.cumsum(of_group)]) for of_group in per_node]  # of each node's draws
        drawn = np.empty((2, 2, num_pairs), np.float32)
        for first, joined, common in self.blocks():
            last = first + len(joined)
            overlap = common.toarray()
            for group in (APART, JOINED):
                members = joined
                if group == APART:
                    own = np.arange(len(joined))
                    members = ~joined
                    members[own, own + first] = False
                # The pairs of a node are neighbours in the flat list: one of them is a start and a random step.
                places = np.flatnonzero(members)
                sizes = counts[first:last, group]
                starts = np.cumsum(sizes) - sizes
                for start in range(ends[group][first], ends[group][last], DRAWS_AT_ONCE):
                    stop = min(start + DRAWS_AT_ONCE, ends[group][last])
                    row_ids = np.searchsorted(ends[group][first + 1 : last + 1], np.arange(start, stop), side="right")
                    column_ids = places[starts[row_ids] + rng.integers(sizes[row_ids])] - row_ids * self.num_nodes
                    common_of = overlap[row_ids, column_ids]
                    drawn[group, :, start:stop] = self.similarities(row_ids + first, column_ids, common_of)
        return drawn
