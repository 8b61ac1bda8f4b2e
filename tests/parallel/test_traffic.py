"""What compiled functions send between devices."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from lsec_jax.config import ParallelConfig
from lsec_jax.models import ncf
from lsec_jax.parallel import traffic
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


@pytest.mark.parametrize("parallel", [ParallelConfig("pmap", data=8), ParallelConfig("sharded", data=2, model=4)])
def test_a_step_that_looks_rows_up_sends_no_table_and_no_part_of_one(parallel):
    config = runs.tiny_config(batch_size=16)
    config.data = runs.tiny_world(num_users=4000, num_items=4000)
    config.model = ncf.Config(embedding_dim=6, mlp_dims=(8, 4))
    config.optimizer.tables, config.parallel = "lazy", parallel
    run = run_lib.prepare(config)
    state = run.initial_state()
    arguments = state, run.inputs, run.input_at()(0).batch
    hlo = run.step_function().lower(*arguments).compile().as_text()
    smallest_part = min(of.nbytes for of in jax.tree.leaves(state.params.tables)) / run.strategy.num_shards
    found = traffic.collectives(hlo)
    assert found and max(of.num_bytes for of in found) < smallest_part / 2
    lookups = sum(run.model.num_lookups(run.inputs, run.batch_at()(0)).values())
    width = state.params.tables["user"].shape[1]
    # Rows go to where they are used, and their gradients to all that update; ids and dense parameters are smaller.
    assert traffic.received_bytes(hlo) < 4 * (3 * lookups * width + 4 * lookups) + 3 * _dense_bytes(state)


def _dense_bytes(state):
    return sum(of.nbytes for of in jax.tree.leaves(state.params.dense))
