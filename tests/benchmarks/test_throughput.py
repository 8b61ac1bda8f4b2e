"""The throughput benchmarks measure what they say, at the smallest size."""

import json

import numpy as np
import pytest

from benchmarks import runs
from benchmarks.throughput import embedding_tables, training_step


@pytest.mark.parametrize("size", training_step.SIZES)
@pytest.mark.parametrize("mode", training_step.MODES)
def test_the_modes_are_the_papers_model_and_differ_in_the_training_graph_alone(size, mode):
    config = training_step.config_of(size, mode)
    assert config.model.training_graph == mode
    assert (config.model.embedding_dim, config.model.layer_dims, config.model.predictor_hidden) == (200, (128, 64), 128)
    full = runs.as_json(training_step.config_of(size, "full"))
    own = runs.as_json(config)
    own["model"]["training_graph"] = "full"
    assert own == full


def test_a_step_is_timed_without_its_compilation_and_its_losses_are_kept():
    row = json.loads(json.dumps(training_step.measure("tiny", "full", 2)))
    assert len(row["step_seconds"]) == 2 and len(row["losses"]) == 3
    assert np.isfinite(row["losses"]).all() and row["fanouts"] == {}
    assert 0 < row["peak_gib_before_the_first_step"] <= row["peak_gib"]
    assert row["compile_seconds"] > max(row["step_seconds"]) > 0
    assert row["train_edges"]["buy"] == 1920


def test_steps_of_dense_and_lazy_tables_alternate_on_one_state_and_their_lookups_are_counted():
    row = json.loads(json.dumps(embedding_tables.measure(50, 40, ("dense", "lazy", "lazy_items"), 2, 8, 4)))
    assert row["lookups"] == {"user": 8, "item": 40} and row["rows"] == {"user": 50, "item": 40}
    for mode in row["modes"].values():
        assert [len(mode[name]) for name in ("step_seconds", "cpu_seconds", "losses")] == [2, 2, 2]
        assert np.isfinite(mode["losses"]).all() and mode["compile_seconds"] > 0 and mode["temporary_bytes"] > 0
