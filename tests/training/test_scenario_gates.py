"""Gates and states of all scenarios of a tree, and what training logs of them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.config import ParallelConfig
from lsec_jax.training import fit, run, scenario_groups
from lsec_jax.training.scenario_gates import mean_gates, utilisation
from tests import runs
from tests.event_runs import compiled_once  # noqa: F401 a fixture
from tests.training import tree_runs

pytestmark = pytest.mark.usefixtures("no_pictures", "compiled_once")


@pytest.fixture(scope="module")
def prepared():
    return run.prepare(tree_runs.config())


def test_scenarios_are_the_leaves_with_their_training_rows_groups_and_ancestors(prepared):
    scenarios = prepared.gate_reader.scenarios
    names = scenarios.ids.tolist()
    assert len(names) == 18 and all(name.count(".") == 2 for name in names)
    events = prepared.data.events["share"]
    shown = prepared.data.nodes["scenario"].ids[events.ids("scenario")[events.split == 0]]
    for i, name in enumerate(names):
        assert scenarios.training_impressions[i] == (shown == name).sum()
        parent = name.rpartition(".")[0]
        assert scenarios.node_ids[scenarios.parents[i]] == scenarios.node_ids[scenarios.ancestors[i]] == parent
    assert set(scenarios.groups) == {0, 1, 2}
    np.testing.assert_array_equal(scenarios.training_impressions == 0, scenarios.groups == 2)


def test_gates_and_states_are_those_that_the_model_has_for_rows_of_each_scenario(prepared):
    state = prepared.initial_state()
    reader = prepared.gate_reader
    read = reader.read(state.params)
    module = prepared.model.module(state.params.dense)
    scenarios = prepared.data.events["share"].ids("scenario")
    compared = 0
    for i, node in enumerate(reader.scenarios.nodes):
        rows = np.flatnonzero(scenarios == node)[:1]
        if len(rows):
            ids = prepared.encoder.encode(rows)["ids"]["path"]
            guided = module.experts(
                jnp.zeros((1, module.in_width)), state.params.tables["path"][ids], jnp.array(ids > 0)
            )
            np.testing.assert_allclose(read.gates[i], guided.gates[0], atol=1e-6)
            np.testing.assert_allclose(read.states[i], guided.states[0], atol=1e-6)
            compared += 1
    assert compared > 9
    np.testing.assert_allclose(read.gates.sum(axis=2), 1.0, atol=1e-6)


def test_statistics_are_of_mean_gates_weighted_by_training_rows_and_of_cold_scenarios_alike(prepared):
    state = prepared.initial_state()
    reader = prepared.gate_reader
    gates, scenarios = reader.read(state.params).gates.astype(np.float64), reader.scenarios
    found = prepared.state_metrics(state)
    assert len(found) == 3 * 3 * 2
    for code, group in enumerate(scenario_groups.GROUPS):
        for layer in range(3):
            mean, total = np.zeros(3), 0.0
            for i in np.flatnonzero(scenarios.groups == code):
                weight = 1.0 if group == "cold" else float(scenarios.training_impressions[i])
                mean, total = mean + weight * gates[i, layer], total + weight
            mean /= total
            entropy = -sum(share * np.log(share) for share in mean) / np.log(3)
            assert found[f"gates/{group}/layer{layer + 1}/entropy"] == pytest.approx(entropy, abs=1e-9)
            assert found[f"gates/{group}/layer{layer + 1}/largest"] == pytest.approx(mean.max(), abs=1e-9)


def test_groups_without_scenarios_are_left_out(prepared, monkeypatch):
    reader = prepared.gate_reader
    groups = np.where(reader.scenarios.groups == 2, 1, reader.scenarios.groups)
    monkeypatch.setattr(reader, "scenarios", dataclasses.replace(reader.scenarios, groups=groups))
    found = reader.statistics(prepared.initial_state().params)
    assert {name.split("/")[1] for name in found} == {"head", "tail"}


def test_an_even_gate_has_an_entropy_of_1_and_a_single_expert_one_of_0():
    mean = mean_gates(np.array([[[0.25] * 4, [1.0, 0, 0, 0]]]), np.ones(1))
    assert utilisation(mean)["entropy"].tolist() == pytest.approx([1.0, 0.0])
    assert utilisation(mean)["largest"].tolist() == [0.25, 1.0]
    assert utilisation(np.ones((2, 1)))["entropy"].tolist() == [0.0, 0.0]  # one expert


@pytest.mark.parametrize("parallel", [ParallelConfig("pmap", 4), ParallelConfig("sharded", 2, 2)])
def test_several_devices_read_the_same_gates(prepared, parallel):
    divided = run.prepare(dataclasses.replace(tree_runs.config(), parallel=parallel))
    found = divided.state_metrics(divided.initial_state())
    assert found == pytest.approx(prepared.state_metrics(prepared.initial_state()), abs=1e-6)


def test_training_logs_them_at_every_validation_and_compiles_their_reader_once(tmp_path):
    with runs.compiled_names() as compiled:
        fit.train(tree_runs.config(), tmp_path)
    assert compiled.count("read") == 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    states = [line for line in lines if line["kind"] == "state"]
    assert [line["step"] for line in states] == [3, 6]
    assert states[0]["gates/cold/layer3/entropy"] != states[1]["gates/cold/layer3/entropy"]
    shown = {tag for _, tag, _ in runs.shown_by_tensorboard(tmp_path / "tensorboard")}
    assert "state/gates/head/layer1/largest" in shown
    assert not any(name.startswith("gates") for line in lines if line["kind"] == "validation" for name in line)


def test_other_models_log_nothing_of_their_state():
    prepared = run.prepare(tree_runs.config(tree_runs.rival_model()))
    assert prepared.gate_reader is None and prepared.state_metrics(jax.eval_shape(prepared.unplaced_state)) == {}
