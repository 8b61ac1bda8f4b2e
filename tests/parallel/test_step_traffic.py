"""What whole training steps send between devices, beside the closed formulas."""

import dataclasses

import jax
import pytest

from benchmarks.scaling import compiled, formulas
from lsec_jax.config import ParallelConfig
from lsec_jax.training import run as run_lib
from tests import runs

# The others take as long again each.
QUICK = {("LSEC-GCN", "sharded-2x4"), ("LSEC-GCN", "pmap-8"), ("NCF, dense", "sharded-2x4"), ("NCF, lazy", "pmap-8")}


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        pytest.param(name, mesh, marks=[] if (name, mesh) in QUICK else pytest.mark.slow)
        for name in compiled.models()
        for mesh in ("sharded-2x4", "pmap-8")
    ],
)
def test_a_step_sends_what_the_formula_says(name, mesh):
    parallel = compiled.parse_mesh(mesh)
    run = compiled.prepare(name, parallel)
    found = compiled.by_operation(compiled.step_collectives(run, run.initial_state()))
    counted = formulas.terms(run.config.model, compiled.workload_of(run), parallel)
    wanted = compiled.by_operation(of for term in counted.values() for of in term)
    assert found and not compiled.differences(found, wanted)
    assert sum(found.values()) == pytest.approx(sum(wanted.values()), rel=compiled.TOLERANCE)


def test_no_collective_of_a_divided_whole_graph_is_as_large_as_a_table():
    """Layers gather what all nodes of a side send, narrower here than the tables, which stay where they are."""
    config = runs.tiny_config(batch_size=16)
    config.data = runs.tiny_world(num_users=600, num_items=600, num_streamers=300)
    config.model = dataclasses.replace(
        compiled.models()["LSEC-GCN"], embedding_dim=48, layer_dims=(6, 5), predictor_hidden=7, l2=1e-3
    )
    config.parallel = ParallelConfig("sharded", data=1, model=4)
    run = run_lib.prepare(config)
    state = run.initial_state()
    found = [of for of in compiled.step_collectives(run, state) if of.group_size > 1]
    smallest_table = min(of.nbytes for of in jax.tree.leaves(state.params.tables))
    assert max(of.num_bytes for of in found) < smallest_table
    counted = formulas.terms(config.model, compiled.workload_of(run), config.parallel)
    largest = max(of.num_bytes for of in counted["senders"])
    assert largest == 4 * 600 * 6 and largest in {of.num_bytes for of in found}
    assert "table_gradients" not in counted
