"""The benchmark of TREEMS: what it measures, what it compares with, and its section."""

import copy
import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.throughput import expert_loop, link_graph, treems_section, treems_step, treems_world
from benchmarks.throughput.contestants import OURS
from benchmarks.throughput.peers import records
from benchmarks.throughput.rows import sharing
from benchmarks.throughput.step_times import in_turns
from tests.benchmarks.test_suite_section import ENVIRONMENT

CIRCUMSTANCES = {"environments": [ENVIRONMENT], "command": "python -m x"}
SMALL = dataclasses.replace(  # of a tree of two levels
    treems_step.QUICK,
    experts=expert_loop.Sizes(8, 4, (4, 2), 4),
    world=treems_world.Sizes(500, 2_000, 2_000, 4, (4, 2), (4,)),
    default=treems_world.Shape(2, 1, (2,)),
    growth=(("experts", (2,)), ("views", (0, 1))),
    batch_sizes=(64,),
)


def of_core(*seconds: float) -> dict:
    return {"seconds": [2 * of for of in seconds], "cpu_seconds": list(seconds), "compile_seconds": 20.0}


def peer_row(seconds: float) -> dict:
    """A step of ours of 1 s and one of a peer's."""
    known = {"p90": 2.0, "p99": 2.0, "examples_per_second": 4.0, "peak_gib": 1.0, "setup_seconds": 1.0}
    known |= {"compile_seconds": 0.0}
    results = {
        OURS: {"p50": 1.0, "cpu_seconds": [1.0], **known},
        "torch_rechub": {"p50": seconds, "cpu_seconds": [seconds], **known},
    }
    ratios = {"torch_rechub": {"seconds": seconds, "memory": 1.0}}
    return {"row": "sharing/mmoe/32", "size": "small", "results": results, "ratios": ratios, "unavailable": {}}


def treems_step_result() -> dict:
    """A step of 2 s of the core at batch 500, of 6 s with 32 experts and of 8 s at batch 2,000."""
    variants = {
        "small": {"experts": 8, "views": 3, "fanouts": [8, 4], "batch_size": 500, **of_core(2.0, 1.0, 2.0)},
        "more": {"experts": 32, "views": 3, "fanouts": [8, 4], "batch_size": 500, **of_core(6.0, 4.0, 5.0)},
        "large": {"experts": 8, "views": 3, "fanouts": [8, 4], "batch_size": 2000, **of_core(8.0)},
    }
    waits = [
        {"batch_size": 500, "inputs_on": where, "steps": 10, "seconds": seconds, "input_wait_share": 0.125}
        for where, seconds in (("the same core", 50.0), ("another core", 25.0))
    ]
    model = {"embedding_dim": 32, "num_experts": 8, "expert_widths": [128, 16], "tower_widths": [128]}
    steps = {
        "variants": variants,
        "default": {"500": "small", "2000": "large"},
        "growth": {"experts": ["small", "more"], "fanouts": ["small"]},
        "encoding": {"500": of_core(0.1), "2000": of_core(0.4)},
        "waiting": waits,
        "operations": {"500": 1e10, "2000": 4e10},
        "product": {**of_core(0.5), "operations": 5e9},
        "world": {"users": 1000, "scenarios": 240, "levels": 5, "neighbours": {"friend": 4000}},
        "config": {"model": model},
    }
    sampling = {
        **{"users": 1000, "neighbours": 4000, "degree_percentiles": {"p50": 3.0, "p99": 50.0, "p100": 99.0}},
        **{"batch_size": 64, "fanouts": [8, 4], "filled_share": 0.9, "unavailable": {"torch_geometric": "absent"}},
        "slots": {"sampler": 4_000_000, "gather": 4_000_000, "loop": 100_000},
        "ways": {"sampler": of_core(0.2), "gather": of_core(0.1), "loop": of_core(0.5)},
    }
    sizes = {"batch_size": 2048, "in_width": 256, "widths": [128, 16], "path_width": 32}
    experts = [{"experts": 8, "batched": of_core(1.0, 2.0, 1.0), "loop": of_core(1.5, 3.0, 1.5)}]
    return {
        "experts": {"sizes": sizes, "rows": experts},
        "sampling": sampling,
        "steps": steps,
        "peers": [peer_row(1.25)],
        "protocol": {"repetitions": 3, "warm_ups": 1, "seed": 0, "dtype": "float32", "seconds": 120.0},
        **CIRCUMSTANCES,
    }


def test_the_section_of_treems_compares_times_of_the_core_of_one_turn():
    text = treems_section.section(treems_step_result())
    assert "| 500 | 4,000 / 4,000 | 2,000 | 125 | 250 | 100 (12.5%) | 200 (12.5%) | 20 |" in text
    assert "| 2,000 | 16,000 / 16,000 | 8,000 | 125 | 250 | not measured: the process had one core |" in text
    # Turns of 6 to 2, 4 to 1 and 5 to 2: the median is 3.
    assert "| 32 | 10,000 / 11,600 | 5,000 | 3.00 [2.60, 3.80] | 20 |" in text
    assert "| 8, 4 | 4,000 / 4,000 | 2,000 | 1.00 [1.00, 1.00] | 20 |" in text
    assert "| 8 | 2,000 / 3,600 | 3,000 / 5,400 | 1.50 [1.50, 1.50] | 20.0 | 20.0 |" in text
    assert "5 G a second of the core, 50% of the 10 G" in text and "5.0% of a step's time: 5,000 records" in text


def test_the_section_of_treems_shows_rates_of_drawing_beside_their_bound_and_the_peer():
    text = treems_section.section(treems_step_result())
    assert "| our sampler, whole batches | 20.00 [20.00, 20.00] | 50.0% |" in text
    assert "one node after the other | 0.20 [0.20, 0.20] | 0.5% |" in text
    assert "- torch_geometric: not measured, absent." in text and "- On a GPU: not measured." in text
    assert "| sharing/mmoe/32 | small | torch_rechub | 1,250 / 2,000 | 1,000 / 2,000 | 1.25 | 1.25 | 1.00 |" in text
    alone = copy.deepcopy(treems_step_result())
    for name in ("results", "ratios"):
        alone["peers"][0][name].pop("torch_rechub")
    assert "torch_rechub: not measured, no environment" in treems_section.section(alone)


def test_experts_one_after_the_other_give_what_they_give_together():
    sizes = expert_loop.Sizes(16, 12, (8, 6, 4), 5)
    arrays = expert_loop.inputs(sizes)
    together, loop = (expert_loop.build(kind, 3, sizes)(*arrays) for kind in ("batched", "loop"))
    np.testing.assert_allclose(together.mixed, loop.mixed, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together.gates, loop.gates)
    assert together.mixed.shape == (16, 18)


def test_a_graph_on_disk_is_the_one_in_memory_and_its_degrees_are_uneven(tmp_path):
    sizes = link_graph.Sizes(2_000, 20_000, 64, (3, 2), 8)
    view = link_graph.write_graph(tmp_path, sizes)
    drawn = link_graph.draw_graph("links", 2_000, 20_000, np.random.default_rng(0))
    assert isinstance(view.neighbours, np.memmap)
    np.testing.assert_array_equal(view.starts, drawn.starts)
    np.testing.assert_array_equal(view.neighbours, drawn.neighbours)
    degrees = np.diff(view.starts)
    assert degrees.max() > 20 * np.median(degrees) > 0


def test_the_loop_draws_different_neighbours_of_each_node_by_hop():
    sizes = link_graph.Sizes(200, 2_000, 8, (3, 2), 4)
    view = link_graph.draw_graph("links", 200, 2_000, np.random.default_rng(0))
    user = int(np.argmax(np.diff(view.starts)))
    first, second = link_graph.draw_one_by_one(view, user, sizes.fanouts, np.random.default_rng(1))
    assert len(first) == len(set(first)) == 3 and len(second) <= 6
    assert set(first) <= set(view.neighbours[view.starts[user] : view.starts[user + 1]].tolist())
    found = link_graph.facts(view, sizes)
    assert found["slots"] == {"sampler": 8 * 8 * 9, "gather": 8 * 8 * 9, "loop": 4 * 9}


def test_warm_ups_do_not_count_and_works_take_turns():
    done = []
    found = in_turns({name: lambda name=name: done.append(name) for name in "ab"}, 2, 1)
    assert done == ["a", "b"] * 3 and all(len(of["seconds"]) == len(of["cpu_seconds"]) == 2 for of in found.values())


def test_every_variant_of_the_step_is_measured_once():
    found = treems_step.shapes(treems_step.FULL)
    assert len(set(found.values())) == len(found) == 2 + 4 + 3 + 2
    assert [size for _, size in found.values()].count(2048) == 1


def test_a_full_tree_has_a_node_for_each_digit_and_all_leaves_at_one_depth():
    tree, leaves = treems_world.full_tree((2, 3))
    assert tree.parents.tolist() == [-1, 0, 0, 1, 1, 1, 2, 2, 2] and leaves.tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("model", sharing.MODELS)
def test_models_beside_the_peers_read_the_same_records(model):
    made = records.make("tiny")
    batch = sharing.batches(made, model)[0]
    layout = sharing.layout(model)
    assert {of.name for of in layout.tables} == batch["ids"].keys()
    np.testing.assert_array_equal(batch["ids"][records.TARGET][:, 0], made.target[0])
    scenarios = records.with_scenarios(made).context[0, :, records.CONTEXT.index(records.SCENARIO)]
    np.testing.assert_array_equal(batch["ids"][records.SCENARIO][:, 0], scenarios)
    for of in layout.tables:
        assert 0 < int(jnp.max(batch["ids"][of.name])) < of.num_rows
    module = sharing.config_of(model, 4).build(layout, nnx.Rngs(0))
    shapes = [of.shape for of in jax.tree.leaves(nnx.state(module, nnx.Param))]
    # Five ids, 4 wide, into the first layer of 8 experts.
    assert (8, 20, 128) in shapes and (8, 32, 16) in shapes


def test_paths_of_scenarios_begin_at_the_root_and_each_node_has_one_parent():
    paths = sharing.scenario_paths()
    assert paths.shape == (records.NUM_SCENARIOS, 5) and (paths[:, 0] == 1).all()
    assert len(np.unique(paths[:, -1])) == records.NUM_SCENARIOS
    for above, below in zip(paths.T[:-1], paths.T[1:], strict=True):
        assert len(np.unique(np.stack([above, below]), axis=1).T) == len(np.unique(below))
        assert below.min() > above.max()


def test_the_benchmark_of_treems_measures_every_part(monkeypatch, tmp_path):
    """With tiny sizes and no worker; its section reads what it stores."""
    monkeypatch.setattr(treems_world, "BRANCHING", (5,))
    monkeypatch.setattr(treems_step.run, "measure_row", lambda name, *_: {**peer_row(1.5), "row": name})
    cores = os.sched_getaffinity(0)
    found = treems_step.measure(SMALL, [], tmp_path, {"the same core": None})
    assert os.sched_getaffinity(0) == cores and not list(tmp_path.iterdir())
    steps = found["steps"]
    assert len(steps["variants"]) == 2 and steps["growth"].keys() == {"experts", "views"}
    assert found["experts"]["rows"][0]["loop"]["compile_seconds"] > 0
    for of in (*steps["variants"].values(), *found["sampling"]["ways"].values(), found["experts"]["rows"][0]["loop"]):
        assert len(of["seconds"]) == SMALL.repetitions
    assert steps["config"]["model"]["num_experts"] == 2 and found["protocol"]["seconds"] > 0
    assert [row["row"] for row in found["peers"]] == [f"sharing/{model}/32" for model in sharing.MODELS]
    assert found["sampling"]["unavailable"] == {"torch_geometric": "no environment of peers was given"}
    (name,) = steps["default"].values()
    middle = 1e3 * np.median(steps["variants"][name]["cpu_seconds"])
    text = treems_section.section({**found, **CIRCUMSTANCES})
    assert f"| {middle:.3g} |" in text and "### Beside torch-rechub's MMoE" in text
