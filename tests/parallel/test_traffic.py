"""What compiled functions send between devices."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from lsec_jax.config import ParallelConfig
from lsec_jax.models import ncf
from lsec_jax.nn import lookups, replicas
from lsec_jax.parallel import strategies, traffic
from lsec_jax.training import run as run_lib
from tests import runs


def compiled(function, *arguments):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    divided = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    return jax.jit(divided).lower(*arguments).compile().as_text()


# Each device has [8, 3] float32 = 96 bytes of the [32, 3].
@pytest.mark.parametrize(
    ("function", "name", "num_bytes", "received"),
    [
        (lambda own: lax.all_gather(own, "data", tiled=True).sum(0, keepdims=True), "all-gather", 384, 288),
        (lambda own: own + lax.psum(own, "data"), "all-reduce", 96, 144),
        (lambda own: lax.psum_scatter(own, "data", tiled=True), "reduce-scatter", 96, 72),
        (lambda own: lax.all_to_all(own, "data", 0, 0, tiled=True), "all-to-all", 96, 72),
    ],
)
def test_a_collectives_bytes_are_those_of_a_ring(function, name, num_bytes, received):
    (found,) = traffic.collectives(compiled(function, jnp.ones((32, 3))))
    assert found == (name, num_bytes, 4, 1)
    assert found.received_bytes == received


def module(line):
    """A compiled function of one operation."""
    return f"HloModule f\n\nENTRY %main (own: f32[8,3]) -> f32[8,3] {{\n  ROOT %x = {line}\n}}\n"


def test_what_cannot_be_counted_is_refused():
    groups = "channel_id=1, replica_groups=[1,4]<=[4], use_global_device_ids=true"
    for line, message in (
        ("f32[8,3]{1,0} all-reduce(%own), replica_groups={}, to_apply=%add", "the group of a all-reduce is not known"),
        (
            "f32[8,3]{1,0} all-gather(%own), replica_groups=mesh['a'=4] {'a':(1)2}",
            "the group of a all-gather is not known",
        ),
        (f"f32[8,3]{{1,0}} ragged-all-to-all(%own), {groups}", "the bytes of a ragged-all-to-all are not counted"),
        ("(f32[8,3], u32[], token[]) send(%own, %token), channel_id=1", "the bytes of a send are not counted"),
        (f"token[] all-gather(%own), {groups}", "type is not known: token"),
    ):
        with pytest.raises(ValueError, match=message):
            traffic.collectives(module(line))


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3}}", 2),
        ("[2,4]<=[8]", 4),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['data'=2,'model'=4] {'model'}", 4),
        ("mesh['data'=2,'model'=3] {'data','model'}", 6),
    ],
)
def test_the_devices_of_a_group_are_counted(groups, size):
    (found,) = traffic.collectives(module(f"f32[8,3]{{1,0}} all-to-all(%own), channel_id=1, replica_groups={groups}"))
    assert found.group_size == size


@pytest.mark.parametrize(
    ("kind", "num_bytes"), [("pred", 24), ("f8e4m3fn", 24), ("bf16", 48), ("s64", 192), ("u4", 12)]
)
def test_every_type_has_its_bytes(kind, num_bytes):
    (found,) = traffic.collectives(module(f"{kind}[8,3]{{1,0}} all-to-all(%own), replica_groups={{{{0,1}},{{2,3}}}}"))
    assert found == ("all-to-all", num_bytes, 2, 1)


def test_collectives_in_a_loop_count_as_often_as_it_runs():
    def function(own):
        return lax.fori_loop(0, 7, lambda _, total: total + lax.psum(total, "data"), own)

    (found,) = traffic.collectives(compiled(function, jnp.ones((32, 3))))
    assert (found.name, found.times) == ("all-reduce", 7)


def test_a_loop_of_unknown_length_around_a_collective_is_refused():
    def function(own):
        return lax.while_loop(lambda total: total[0, 0] < 99.0, lambda total: total + lax.psum(total, "data"), own)

    with pytest.raises(ValueError, match="a loop with a all-reduce does not say how often it runs"):
        traffic.collectives(compiled(function, jnp.ones((32, 3))))


def test_of_a_conditional_the_branch_of_the_given_predicate_counts():
    def function(own):
        return lax.cond(
            lax.pmax(own[0, 0], "data") > 1.0,
            lambda own: lax.psum_scatter(lax.all_gather(own, "data", tiled=True), "data", tiled=True),
            lambda own: lax.all_to_all(own, "data", 0, 0, tiled=True),
            own,
        )

    hlo = compiled(function, jnp.ones((32, 3)))
    names = [[of.name for of in traffic.collectives(hlo, predicate)] for predicate in (False, True)]
    assert names == [["all-reduce", "all-to-all"], ["all-reduce", "all-gather", "reduce-scatter"]]
    assert traffic.received_bytes(hlo) < traffic.received_bytes(hlo, predicate=True)


def test_a_choice_between_three_branches_is_refused():
    def function(own):
        return lax.switch(own[0, 0].astype(jnp.int32), [lambda of: of, lambda of: 2 * of, jnp.sin], own)

    with pytest.raises(ValueError, match="a conditional that has not two branches"):
        traffic.collectives(compiled(function, jnp.ones((32, 3))))


def compiled_lookup(num_ids, num_rows, width, capacity):
    """Of a lookup and its gradient on 8 devices that divide a table, from (table, ids) to (.., overflow)."""

    def function(table, ids):
        def loss(table):
            return jnp.sum(replicas.take(table, ids) ** 2), replicas.lookup_overflow()

        gradient, overflow = jax.grad(loss, has_aux=True)(table)
        return gradient, overflow

    mesh = strategies.make_mesh(ParallelConfig("sharded", data=1, model=8))
    traced = function if capacity is None else lookups.exchanging(capacity)(function)
    table, ids = P("model"), P(("data", "model"))
    divided = jax.shard_map(traced, mesh=mesh, in_specs=(table, ids), out_specs=(table, P()), check_vma=False)
    shapes = jax.ShapeDtypeStruct((num_rows, width), jnp.float32), jax.ShapeDtypeStruct((num_ids,), jnp.int32)
    return jax.jit(divided).lower(*shapes).compile()


def test_a_lookups_bytes_follow_its_capacity_whichever_way_it_goes():
    num_ids, num_rows, width, capacity = 8 * 240, 8 * 1000, 5, 1.5
    room, sum_of_overflow = math.ceil(capacity * 240 / 8), 2 * 7 / 8 * 4
    id_and_row_there_and_gradient_back = 4 + 4 * width + 4 * width
    gathered = 7 * 240 * id_and_row_there_and_gradient_back
    assert traffic.received_bytes(compiled_lookup(num_ids, num_rows, width, None).as_text()) == gathered
    hlo = compiled_lookup(num_ids, num_rows, width, capacity).as_text()
    exchanged = 7 * room * id_and_row_there_and_gradient_back
    assert traffic.received_bytes(hlo) == exchanged + sum_of_overflow < gathered / 5
    assert traffic.received_bytes(hlo, predicate=True) == gathered + sum_of_overflow
    without_choice = compiled_lookup(num_ids, num_rows, width, 8.0).as_text()
    assert " conditional(" not in without_choice
    assert traffic.received_bytes(without_choice) == gathered


def test_ids_with_many_repetitions_need_little_capacity():
    compute = compiled_lookup(8 * 240, 8 * 1000, 5, 0.1)
    ids = np.random.default_rng(0).integers(0, 8, 8 * 240) * 1000  # each device asks each other one for one row
    _, overflow = compute(np.ones((8 * 1000, 5), np.float32), ids.astype(np.int32))
    assert overflow["lookup_overflow"] == 0
    assert traffic.received_bytes(compute.as_text()) < 0.02 * 7 * 240 * (4 + 2 * 4 * 5)


SHARDED = ParallelConfig("sharded", data=2, model=4)
PARALLEL = {
    "pmap": ParallelConfig("pmap", data=8),
    "sharded": SHARDED,
    "all_to_all": dataclasses.replace(SHARDED, lookup="all_to_all", lookup_capacity=1.5),
}


@functools.cache
def compiled_step(parallel):
    """Of a step that looks rows up: (HLO, lookups by table, bytes of the tables and of dense parameters)."""
    config = runs.tiny_config(batch_size=16)
    config.data = runs.tiny_world(num_users=4000, num_items=4000)
    config.model = ncf.Config(embedding_dim=6, mlp_dims=(8, 4))
    config.optimizer.tables, config.parallel = "lazy", PARALLEL[parallel]
    run = run_lib.prepare(config)
    state = run.initial_state()
    arguments = state, run.inputs, run.input_at()(0).batch
    hlo = run.step_function().lower(*arguments).compile().as_text()
    sizes = ([of.nbytes for of in jax.tree.leaves(tree)] for tree in (state.params.tables, state.params.dense))
    return hlo, run.model.num_lookups(run.inputs, run.batch_at()(0)), *sizes


WIDTH = 2 * 6  # of the tables: GMF's half and the tower's


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_step_that_looks_rows_up_sends_no_table_and_no_part_of_one(parallel):
    hlo, num_lookups, of_tables, of_dense = compiled_step(parallel)
    for predicate in (False, True):
        found = traffic.collectives(hlo, predicate)
        assert found and max(of.num_bytes for of in found) < min(of_tables) / PARALLEL[parallel].model / 2
    total = sum(num_lookups.values())
    # Rows go to where they are used, and their gradients to all that update; ids and dense parameters are smaller.
    assert traffic.received_bytes(hlo) < 4 * (3 * total * WIDTH + 4 * total) + 3 * sum(of_dense)


def test_a_step_with_all_to_all_sends_what_its_capacity_has_room_for():
    expected = 0
    for count in compiled_step("all_to_all")[1].values():
        room = math.ceil(1.5 * (count // 8) / 4)
        # Rows along `model`; gradients along `model`, and those of all four parts' devices along `data`.
        expected += (3 + 3 + 4) * room * (4 + 4 * WIDTH)
    found, in_default_way = (
        sum(of.received_bytes for of in traffic.collectives(compiled_step(name)[0]) if of.name != "all-reduce")
        for name in ("all_to_all", "sharded")
    )
    assert found == expected < 0.6 * in_default_way
