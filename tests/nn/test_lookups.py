"""Lookups in divided tables, by both ways, against numpy's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lsec_jax.config import ParallelConfig
from lsec_jax.nn import lookups, replicas
from lsec_jax.parallel import strategies
from lsec_jax.parallel.strategies import Part
from lsec_jax.training.tables import Params

# 8 devices, 2 x 4; parts of 10 rows, of which the last one has 7 and 3 that fill it up.
NUM_ROWS, NUM_PADDED, PART, NUM_IDS, WIDTH = 37, 40, 10, 12, 3
ROWS, TABLES = P((replicas.DATA, replicas.MODEL)), P(replicas.MODEL)
CAPACITIES = {"all_gather": None, "tight": 0.5, "even": 1.0, "ample": 4.0}


def ids_of(kind):
    """[8, 12], different ones on each device."""
    rng = np.random.default_rng(3)
    match kind:
        case "any":
            return rng.integers(0, NUM_ROWS, (8, NUM_IDS))
        case "repeated":
            return rng.integers(0, NUM_ROWS, (8, 3))[:, rng.integers(0, 3, NUM_IDS)]
        case "one owner's":
            return rng.integers(PART, 2 * PART, (8, NUM_IDS))
        case "the last owner's":
            return rng.integers(3 * PART, NUM_ROWS, (8, NUM_IDS))
        case "one":
            return np.full((8, NUM_IDS), 11)
        case "one device's overflow":
            return np.concatenate([np.full((7, NUM_IDS), 11), np.arange(NUM_IDS)[None]])
        case "outside":
            return rng.integers(-5, NUM_PADDED + 5, (8, NUM_IDS))


KINDS = ("any", "repeated", "one owner's", "the last owner's", "one", "one device's overflow", "outside")


def overflow_of(ids, capacity):
    """Different ids without room, of all devices."""
    if capacity is None:
        return 0
    room = min(NUM_IDS, PART, int(np.ceil(capacity * NUM_IDS / 4)))
    inside = [np.unique(own[(own >= 0) & (own < NUM_PADDED)]) for own in ids]
    return sum(np.maximum(np.bincount(own // PART) - room, 0).sum() for own in inside)


@functools.cache
def on_devices(function, capacity, in_specs, out_specs):
    mesh = strategies.make_mesh(ParallelConfig("sharded", data=2, model=4))
    traced = function if capacity is None else lookups.exchanging(capacity)(function)
    return jax.jit(jax.shard_map(traced, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))


def lookup_and_gradient(table, ids, cotangents):
    def loss(table):
        rows = replicas.take(table, ids)
        return jnp.sum(rows * cotangents), (rows, replicas.lookup_overflow().get("lookup_overflow", jnp.zeros(())))

    gradient, (rows, overflow) = jax.grad(loss, has_aux=True)(table)
    return rows, replicas.mean_of_parts(gradient) * replicas.num_replicas(), overflow


GIVE = functools.partial(replicas.give, num_rows=PART)


@functools.cache
def values(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def padded_table():
    return np.pad(values(NUM_ROWS, WIDTH), ((0, NUM_PADDED - NUM_ROWS), (0, 0)))


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_gradients_and_overflow_are_numpys(kind, capacity):
    ids, cotangents, capacity = ids_of(kind), values(8 * NUM_IDS, WIDTH), CAPACITIES[capacity]
    compute = on_devices(lookup_and_gradient, capacity, (TABLES, ROWS, ROWS), (ROWS, TABLES, P()))
    rows, gradient, overflow = compute(padded_table(), ids.ravel().astype(np.int32), cotangents)
    is_inside = (ids.ravel() >= 0) & (ids.ravel() < NUM_PADDED)
    wanted = np.where(is_inside[:, None], padded_table()[np.where(is_inside, ids.ravel(), 0)], 0)
    np.testing.assert_array_equal(rows, wanted)
    wanted = np.zeros_like(padded_table())
    np.add.at(wanted, ids.ravel()[is_inside], cotangents[is_inside])
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)
    assert overflow == overflow_of(ids, capacity)


def test_the_kinds_of_ids_overflow_and_do_not():
    """Or the fallback was not tested."""
    found = {kind: [overflow_of(ids_of(kind), of) > 0 for of in (0.5, 1.0, 4.0)] for kind in KINDS}
    assert found["one owner's"] == found["one device's overflow"] == [True, True, False]
    assert found["one"] == [False, False, False]


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_to_the_owners_of_rows_is_summed_as_by_numpy(kind, capacity):
    ids, given = ids_of(kind), values(8 * NUM_IDS, WIDTH)

    # Of every device: those along `data` have copies of a part.
    compute = on_devices(GIVE, CAPACITIES[capacity], (ROWS, ROWS), (ROWS, ROWS))
    rows, received = (
        np.asarray(of).reshape(2, 4, 8 * NUM_IDS, -1) for of in compute(given, ids.ravel().astype(np.int32))
    )
    is_inside = (ids.ravel() >= 0) & (ids.ravel() < NUM_PADDED)
    wanted = np.zeros((NUM_PADDED, WIDTH), np.float32)
    np.add.at(wanted, ids.ravel()[is_inside], given[is_inside])
    for copy in range(2):
        for part in range(4):
            own = np.zeros((PART + 1, WIDTH), np.float32)
            np.add.at(own, np.minimum(rows[copy, part, :, 0], PART), received[copy, part])
            np.testing.assert_allclose(own[:PART], wanted[part * PART :][:PART], rtol=1e-5, atol=1e-6)
            assert not own[PART].any()


def test_a_row_that_is_asked_for_often_is_sent_once():
    ids = jnp.asarray([7, 31, 7, 7, 12, 31, 7, 19], jnp.int32)
    requests, num_left_out = lookups.requests_of(ids, 10, 4, 2)
    np.testing.assert_array_equal(requests.rows, [[7, 10], [2, 9], [10, 10], [1, 10]])
    np.testing.assert_array_equal(requests.slots, [0, 6, 0, 0, 2, 6, 0, 3])
    assert num_left_out == 0


def test_the_capacities_of_the_page_on_performance_are_what_is_needed():
    num_rows, rng = 1_000_000, np.random.default_rng(0)
    shares = np.cumsum(1 / np.arange(1, num_rows + 1))
    by_popularity = np.searchsorted(shares, rng.random(20_480) * shares[-1])
    kinds = rng.integers(0, num_rows, 20_480), rng.permutation(num_rows)[by_popularity], by_popularity
    for ids, wanted in zip(kinds, (1.2, 0.8, 4.1), strict=True):
        counts = [np.bincount(np.unique(own) // (num_rows // 8), minlength=8).max() for own in ids.reshape(8, -1)]
        assert np.ceil(max(counts) / (2560 / 8) * 10) / 10 == wanted
        assert (wanted < ParallelConfig().lookup_capacity) == (wanted < 4)
        own = ids[: 20_480 // 8]
        _, num_left_out = lookups.requests_of(jnp.asarray(own, jnp.int32), num_rows // 8, 8, int(wanted * 2560 / 8))
        assert num_left_out == 0


def test_runs_of_both_ways_in_one_process_do_not_mix():
    """Also where a function inside is jitted by itself, and where compilation waits for the first call."""

    @jax.jit
    def inner(table, ids):
        return replicas.take(table, ids)

    def function(params, ids):
        return replicas.mean(jnp.sum(inner(params.tables["user"], ids)))

    made = {
        way: strategies.make(ParallelConfig("sharded", data=2, model=4, lookup=way, lookup_capacity=capacity))
        for way, capacity in (("all_to_all", 4.0), ("all_gather", 2.0))
    }
    arguments, results = [Part.STATE, Part.ROWS], [Part.REPLICATED]
    compiled = {way: strategy.compile(function, arguments, results) for way, strategy in made.items()}
    compiled["again"] = made["all_to_all"].compile(function, arguments, results)
    params, ids = Params({}, {"user": padded_table()}), ids_of("any").ravel().astype(np.int32)
    hlo = {}
    for way, function_of_way in compiled.items():
        strategy = made.get(way, made["all_to_all"])
        placed = strategy.place(params, Part.STATE), strategy.place(ids, Part.ROWS)
        hlo[way] = function_of_way.lower(*placed).compile().as_text()
    assert {way: "all-to-all" in text for way, text in hlo.items()} == {
        "all_to_all": True,
        "all_gather": False,
        "again": True,
    }
    assert lookups.current() is None
