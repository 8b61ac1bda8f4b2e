"""Every statistic of the data analysis against a loop over pairs, and against the simulated world's own truth."""

import dataclasses
import itertools
import math
import tracemalloc

import numpy as np
import pytest

from lsec_jax.data import analysis, bits
from lsec_jax.data.analysis import APART, JOINED
from lsec_jax.data.sources import synthetic
from lsec_jax.schema import DataError, Relation
from tests import worlds

NAMES = ("buy", "follow", "sell")


def edge_sets(data):
    """{name: set of (source, target)}."""
    pairs = {name: data.relations[name] for name in NAMES}
    return {name: set(zip(of.source_ids.tolist(), of.target_ids.tolist(), strict=True)) for name, of in pairs.items()}


def with_edges(**edges):
    """A world of the given (source, target) pairs by relation; random ones where none are given."""
    columns = {name: tuple(np.array(pairs).T) for name, pairs in edges.items()}
    return worlds.world({**worlds.random_edges(), **columns})


def graph_of(data):
    return analysis.tripartite(data, *NAMES)


def loaded_world(**changes):
    sizes = {"num_users": 800, "num_items": 800, "num_streamers": 200, "num_topics": 10}
    edges = {"num_buy": 10_000, "num_follow": 8_000, "num_sell": 8_000}
    return synthetic.Config(**{**sizes, **edges, **changes}).load()


def influence_of(data, num_draws=300_000, seed=0):
    def truth(users):
        return data.truth.probabilities("buy", users, 0.0, data.end_time)

    return analysis.influence(graph_of(data), np.random.default_rng(seed), num_draws, true_probabilities=truth)


def brute_force_similarity(baskets, streamers_of, num_nodes):
    """{group: [(cosine, Jaccard)]} of all pairs of nodes with a basket."""
    found = {APART: [], JOINED: []}
    nodes = [node for node in range(num_nodes) if baskets.get(node)]
    for a, b in itertools.combinations(nodes, 2):
        common, union = baskets[a] & baskets[b], baskets[a] | baskets[b]
        values = len(common) / math.sqrt(len(baskets[a]) * len(baskets[b])), len(common) / len(union)
        is_joined = bool(streamers_of.get(a, set()) & streamers_of.get(b, set()))
        found[JOINED if is_joined else APART].append(values)
    return found


def grouped(pairs):
    result = {}
    for key, value in pairs:
        result.setdefault(key, set()).add(value)
    return result


def swapped(pairs):
    return {(b, a) for a, b in pairs}


@pytest.mark.parametrize("num_columns", [1, 63, 64, 65, 200])
def test_unpacking_gives_back_what_was_packed(num_columns):
    dense = np.random.default_rng(0).random((7, num_columns)) < 0.3
    packed = bits.pack(*np.nonzero(dense), *dense.shape)
    assert packed.dtype == np.uint64 and packed.shape == (7, -(-num_columns // 64))
    np.testing.assert_array_equal(bits.unpack(packed, num_columns), dense)


@pytest.mark.parametrize("chunk_bytes", [1, 40, 1 << 24])
@pytest.mark.parametrize("kept_bytes", [0, 1 << 28])
def test_the_boolean_product_is_that_of_the_matrices_whatever_its_blocks(monkeypatch, chunk_bytes, kept_bytes):
    monkeypatch.setattr(bits, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(bits, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(bits, "BLOCK_PAIRS", 210)
    rng = np.random.default_rng(1)
    left, right = rng.random((17, 9)) < 0.2, rng.random((9, 70)) < 0.1
    left[3] = left[16] = False  # rows without any edge
    product = bits.BooleanProduct(np.nonzero(left), np.nonzero(right), (17, 9, 70))
    for _ in range(2):  # the second time from what was kept
        blocks = list(product.blocks())
        assert [first for first, _ in blocks] == list(range(0, 17, 3))
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), left @ right)


def test_the_influence_of_a_world_counted_by_hand():
    # User 0 follows streamer 0, who sells items 0 and 1; nobody else follows or sells: 2 of 108 pairs are joined.
    data = with_edges(buy=[(0, 0), (0, 5), (1, 0), (2, 7)], follow=[(0, 0), (1, 2)], sell=[(0, 0), (0, 1), (1, 5)])
    found = analysis.influence(graph_of(data), np.random.default_rng(0), 20_000)
    np.testing.assert_array_equal(found.pairs, [106, 2])
    np.testing.assert_array_equal(found.purchases, [3, 1])
    assert found.ratio() == pytest.approx((1 / 2) / (3 / 106))
    assert found.truth is None


@pytest.mark.parametrize("block_pairs", [10, 1 << 22])
def test_the_influence_is_that_of_a_loop_over_all_pairs(monkeypatch, block_pairs):
    monkeypatch.setattr(bits, "BLOCK_PAIRS", block_pairs)
    data = worlds.world()
    edges = edge_sets(data)
    pairs, purchases = [0, 0], [0, 0]
    for user, item in itertools.product(range(12), range(9)):
        group = int(any((user, s) in edges["follow"] and (s, item) in edges["sell"] for s in range(4)))
        pairs[group] += 1
        purchases[group] += (user, item) in edges["buy"]
    num_draws = 100_000
    found = analysis.influence(graph_of(data), np.random.default_rng(0), num_draws)
    np.testing.assert_array_equal(found.pairs, pairs)
    np.testing.assert_array_equal(found.purchases, purchases)
    np.testing.assert_array_equal(found.drawn_pairs.sum(axis=1), np.full(5, num_draws))
    exact = found.probabilities()
    spread = np.sqrt(exact * (1 - exact) / found.drawn_pairs)
    assert (np.abs(found.drawn_probabilities() - exact) < 4.5 * spread).all()
    assert found.drawn_probabilities().std(axis=0).min() > 0  # the repeats are independent
    share = found.drawn_pairs[:, JOINED] / num_draws
    np.testing.assert_allclose(share, pairs[JOINED] / 108, atol=0.01)


@pytest.mark.parametrize("block_pairs", [20, 1 << 22])
@pytest.mark.parametrize("kind", ["users", "items"])
def test_similarities_are_those_of_a_loop_over_all_pairs(monkeypatch, block_pairs, kind):
    monkeypatch.setattr(bits, "BLOCK_PAIRS", block_pairs)
    edges = {**worlds.random_edges(3)}
    keep = edges["buy"][0] != 4, edges["buy"][1] != 6
    edges["buy"] = tuple(ids[keep[0] & keep[1]] for ids in edges["buy"])  # user 4 and item 6 have no purchase
    data = worlds.world(edges)
    sets = edge_sets(data)
    if kind == "users":
        baskets, streamers_of, num_nodes = grouped(sets["buy"]), grouped(sets["follow"]), 12
        found = analysis.user_similarity(graph_of(data), np.random.default_rng(0), 40_000)
    else:
        baskets, streamers_of, num_nodes = grouped(swapped(sets["buy"])), grouped(swapped(sets["sell"])), 9
        found = analysis.item_similarity(graph_of(data), np.random.default_rng(0), 40_000)
    expected = brute_force_similarity(baskets, streamers_of, num_nodes)
    assert (found.num_nodes, found.num_left_out) == (num_nodes - 1, 1)
    for group in (APART, JOINED):
        values = np.array(expected[group])  # [pairs, 2]
        assert found.pairs[group] == len(values)
        assert found.overlapping[group] == (values[:, 0] > 0).sum()
        np.testing.assert_allclose(found.means[group], values.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found.drawn_means()[group], values.mean(axis=0), atol=0.01)
        for m in (0, 1):
            seen, counts = np.unique(found.drawn[group, m], return_counts=True)
            wanted, of = np.unique(values[:, m].astype(np.float32), return_counts=True)
            np.testing.assert_allclose(seen, wanted, rtol=1e-6)  # every pair is drawn, and no other
            np.testing.assert_allclose(counts / 40_000, of / len(values), atol=0.015)
            quantiles = np.quantile(found.drawn[group, m], found.levels)
            np.testing.assert_allclose(found.quantiles()[group, m], quantiles)


def test_cosine_and_jaccard_of_baskets_computed_by_hand():
    # Baskets {0, 1}, {1, 2, 3}, {8}: only the first two overlap, in one of four things; users 0 and 2 share streamer 1.
    buys = [(0, 0), (0, 1), (1, 1), (1, 2), (1, 3), (2, 8)]
    data = with_edges(buy=buys, follow=[(0, 1), (2, 1), (1, 0)])
    found = analysis.user_similarity(graph_of(data), np.random.default_rng(0), 100)
    np.testing.assert_array_equal(found.pairs, [2, 1])
    np.testing.assert_allclose(found.means, [[1 / math.sqrt(6) / 2, 1 / 8], [0, 0]], rtol=1e-6)
    assert found.num_left_out == 9


def test_a_rare_group_gets_as_many_drawn_pairs_as_the_other():
    buys = [(u, i) for u in range(12) for i in (u % 9, (u + 1) % 9)]
    data = with_edges(buy=buys, follow=[(0, 0), (5, 0), (6, 1)])
    found = analysis.user_similarity(graph_of(data), np.random.default_rng(0), 500)
    assert found.pairs.tolist() == [65, 1] and found.drawn.shape == (2, 2, 500)
    assert np.unique(found.drawn[JOINED]).size <= 2


def test_the_ratio_is_that_of_the_worlds_own_probabilities_within_chance():
    z_scores = []
    for seed in range(3):
        data = loaded_world(seed=seed)
        found = influence_of(data)
        follow, sell = (data.relations[name] for name in ("follow", "sell"))
        joined = np.zeros((800, 200), np.float32), np.zeros((200, 800), np.float32)
        joined[0][follow.source_ids, follow.target_ids] = 1
        joined[1][sell.source_ids, sell.target_ids] = 1
        is_joined = joined[0] @ joined[1] > 0
        true = data.truth.probabilities("buy", np.arange(800), 0.0, data.end_time)
        assert found.truth.num_users == 800
        assert found.truth.ratio() == pytest.approx(true[is_joined].mean() / true[~is_joined].mean(), rel=1e-5)
        assert found.truth.observed_ratio() == pytest.approx(found.ratio())
        assert found.truth.ratio() > 2.5
        z_scores.append(found.truth.z_score())
        rates = found.drawn_purchases.sum(axis=0)
        deviation = np.sqrt((1 / rates + 1 / found.truth.expected).sum())
        drawn_ratio = found.drawn_purchases.sum(axis=0) / found.drawn_pairs.sum(axis=0)
        assert abs(np.log(drawn_ratio[JOINED] / drawn_ratio[APART] / found.truth.ratio())) < 4 * deviation
    assert np.abs(z_scores).max() < 4 and np.std(z_scores) > 0.01
    wrong = dataclasses.replace(found.truth, expected=found.truth.expected * [1.0, 1.3])
    assert abs(wrong.z_score()) > 4


def test_the_ratio_is_about_one_without_influence_and_without_follows_by_taste():
    found = [influence_of(loaded_world(seed=seed, influence=0.0, taste_follow=0.0), 50_000) for seed in range(4)]
    assert np.mean([of.truth.ratio() for of in found]) == pytest.approx(1.0, abs=0.06)
    assert np.mean([of.ratio() for of in found]) == pytest.approx(1.0, abs=0.06)
    assert max(abs(of.truth.z_score()) for of in found) < 4


def test_large_worlds_have_the_truth_of_some_users(monkeypatch):
    monkeypatch.setattr(analysis, "TRUTH_PAIRS", 300 * 800)
    monkeypatch.setattr(bits, "BLOCK_PAIRS", 100 * 800)
    found = influence_of(loaded_world())
    assert found.truth.num_users == 300 and found.truth.pairs.sum() == 300 * 800
    assert abs(found.truth.z_score()) < 4


def test_the_same_seed_gives_the_same_numbers():
    data = worlds.world()
    first, again, other = (influence_like(data, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.drawn, again.drawn)
    assert not np.array_equal(first.drawn, other.drawn)


def influence_like(data, seed):
    return analysis.user_similarity(graph_of(data), np.random.default_rng(seed), 100)


def test_a_ratio_to_nothing_is_no_number():
    data = with_edges(buy=[(0, 0), (0, 1)], follow=[(0, 0)], sell=[(0, 0), (0, 1)])
    found = analysis.influence(graph_of(data), np.random.default_rng(0), 5_000)
    assert math.isnan(found.ratio()) and np.isnan(found.drawn_ratios()).all()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bought", "follow", "sell"), r"--purchase=bought: .*no relation 'bought'; name one of: buy, follow, sell"),
        (("buy", "follows", "sell"), r"--follow=follows: "),
        (("buy", "follow", "follow"), r"--sell=follow: runs from user to streamer, but must run from streamer to item"),
        (
            ("buy", "sell", "sell"),
            r"--follow=sell: runs from streamer to item, but must run from user to who sells each ",
        ),
        (
            ("buy", "buy", "sell"),
            r"--follow=buy: runs from user to item, but must run from user to who sells each item; ",
        ),
        (("follow", "buy", "sell"), r"--sell=sell: runs from streamer to item, but must run from item to streamer"),
    ],
)
def test_missing_relations_and_ends_that_do_not_fit_are_refused(names, message):
    with pytest.raises(DataError, match=message) as caught:
        analysis.tripartite(worlds.world(), *names)
    assert "\n" not in str(caught.value)


EVERYBODY = [(user, 0) for user in range(12)]


@pytest.mark.parametrize(
    ("edges", "part", "message"),
    [
        ({"follow": [(0, 1)], "sell": [(0, 3)]}, "influence", "has an item that a followed streamer sells"),
        (
            {"follow": EVERYBODY, "sell": [(0, item) for item in range(9)]},
            "influence",
            "has an item that no followed streamer sells",
        ),
        ({"follow": [(0, 1), (1, 2)]}, "users", r"no two users have a streamer in common \('follow'\)"),
        ({"follow": EVERYBODY}, "users", r"any two users have a streamer in common \('follow'\)"),
        ({"sell": [(0, 1), (1, 2)]}, "items", r"no two items have a streamer in common \('sell'\)"),
        ({"buy": [(0, 1), (3, 1)]}, "items", r"no two items .* of 1 items with a purchase"),
    ],
)
def test_groups_without_a_pair_are_refused(edges, part, message):
    graph = graph_of(with_edges(**edges))
    call = {
        "influence": lambda rng: analysis.influence(graph, rng, 1000),
        "users": lambda rng: analysis.user_similarity(graph, rng, 10),
        "items": lambda rng: analysis.item_similarity(graph, rng, 10),
    }[part]
    with pytest.raises(DataError, match=message) as caught:
        call(np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_memory_does_not_grow_with_the_draws_and_chunks_change_nothing(monkeypatch):
    graph = graph_of(worlds.world())

    def draw_all():
        tracemalloc.start()
        found = analysis.influence(graph, np.random.default_rng(0), 500_000)
        peaks = [tracemalloc.get_traced_memory()[1]]
        tracemalloc.reset_peak()
        pairs = analysis.user_similarity(graph, np.random.default_rng(0), 200_000).drawn
        peaks.append(tracemalloc.get_traced_memory()[1] - pairs.nbytes)
        tracemalloc.stop()
        return found, pairs, max(peaks)

    whole, pairs, _ = draw_all()
    monkeypatch.setattr(analysis, "DRAWS_AT_ONCE", 10_001)
    parts, pairs_in_parts, peak = draw_all()
    assert peak < 3_000_000
    np.testing.assert_array_equal(parts.drawn_pairs, whole.drawn_pairs)
    np.testing.assert_array_equal(parts.drawn_purchases, whole.drawn_purchases)
    np.testing.assert_array_equal(pairs_in_parts, pairs)


def test_too_few_draws_for_a_group_are_refused():
    graph = graph_of(with_edges(follow=[(0, 0)], sell=[(0, 0)]))
    with pytest.raises(DataError, match=r"--draws=3: .* a followed streamer sells; raise --draws"):
        analysis.influence(graph, np.random.default_rng(0), 3)


def test_splits_do_not_matter():
    data = worlds.world()
    relations = {
        name: dataclasses.replace(relation, split=np.full(len(relation), 2, np.int8))
        for name, relation in data.relations.items()
    }
    assert isinstance(relations["buy"], Relation)
    first, held_out = (
        analysis.influence(graph_of(of), np.random.default_rng(0), 1000)
        for of in (data, data.replace(relations=relations))
    )
    np.testing.assert_array_equal(first.purchases, held_out.purchases)
