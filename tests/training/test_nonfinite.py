"""Steps whose loss or gradient is not finite: stop, or skip them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.training import fit, run
from lsec_jax.training.checkpoints import Checkpoints
from lsec_jax.training.loop import NonFiniteError
from lsec_jax.training.state import Keys
from tests import runs
from tests.training.test_loop import lines_of

pytestmark = pytest.mark.usefixtures("no_pictures")

KINDS = ("dense", "lazy")


def config_of(kind, **training):
    """A model that reads whole tables, or one whose tables are updated lazily."""
    config = runs.tiny_config(**{"log_every": 1, "on_nonfinite": "skip", **training})
    if kind == "lazy":
        config.model = ncf.Config("neumf", "buy", embedding_dim=4, mlp_dims=(4,), num_negatives=2, l2=0.01)
        config.optimizer.tables = "lazy"
    return config


@pytest.fixture
def poison(monkeypatch):
    """poison(*steps): the loss and its gradient are NaN at these steps, counted from 1."""

    def poisoned(original, steps):
        key = Keys.from_seed(0).negatives
        bad = jnp.stack([jax.random.key_data(jax.random.fold_in(key, step - 1)) for step in steps])

        def loss(self, tables, inputs, batch, key, *drawn):
            value, metrics = original(self, tables, inputs, batch, key, *drawn)
            is_bad = jnp.any(jnp.all(bad == jax.random.key_data(key)[None], axis=1))
            factor = jnp.where(is_bad, jnp.nan, 1.0)
            return value * factor, {**metrics, "loss": metrics["loss"] * factor}

        return loss

    def at(*steps):
        monkeypatch.setattr(lsec_gnn.LsecGnn, "loss", poisoned(lsec_gnn.LsecGnn.loss, steps))
        monkeypatch.setattr(ncf.Ncf, "loss_of_rows", poisoned(ncf.Ncf.loss_of_rows, steps))

    return at


def states_of(config, num_steps):
    """States before the first step and after each."""
    prepared = run.prepare(config)
    current, step, found = prepared.initial_state(), prepared.step_function(), []
    for i in range(num_steps):
        found.append(jax.device_get(current))
        current, metrics = step(current, prepared.inputs, prepared.batch_at()(i))
    return [*found, jax.device_get(current)], jax.device_get(metrics)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_changes_nothing_but_the_step_number(poison, kind, optimizer):
    poison(3)
    config = config_of(kind)
    config.optimizer.name, config.optimizer.schedule = optimizer, "cosine"
    states, _ = states_of(config, 4)
    assert [int(state.step) for state in states] == list(range(5))
    jax.tree.map(np.testing.assert_array_equal, states[2][1:], states[3][1:])
    for before, after in ((1, 2), (3, 4)):
        assert not np.array_equal(states[before].params.tables["user"], states[after].params.tables["user"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[4]))


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_is_finite_skipping_changes_no_step(kind):
    states = [states_of(config_of(kind, on_nonfinite=policy), 5)[0][-1] for policy in ("skip", "stop")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *states)


@pytest.mark.parametrize("kind", KINDS)
def test_skipped_steps_are_counted_and_have_no_part_in_the_means_also_after_a_kill(poison, kind, tmp_path):
    poison(2, 5, 6)
    config = config_of(kind, log_every=3, evaluate_every=4)
    fit.run(config, tmp_path / "whole")
    lines = lines_of(tmp_path / "whole", "train")
    assert [(line["step"], line["skipped"], "loss" in line) for line in lines] == [
        (3, 1, True),
        (4, 1, True),
        (6, 3, False),
        (8, 3, True),
    ]
    assert all(np.isfinite(value) for line in lines for value in line.values() if not isinstance(value, str))
    with runs.killed_at(6):
        fit.run(config, tmp_path / "broken")
    fit.run(config, tmp_path / "broken")
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "whole")
    found = []
    for name in ("whole", "broken"):
        with Checkpoints(tmp_path / name / "checkpoints", read_only=True) as checkpoints:
            found.append(checkpoints.restore(run.prepare(config).initial_state(), 8))
    jax.tree.map(np.testing.assert_array_equal, found[0][0], found[1][0])
    assert found[0][1].skipped == found[1][1].skipped == [2, 5, 6]


def test_more_skipped_steps_than_allowed_stop_the_run_and_are_named_and_more_may_be_allowed_later(poison, tmp_path):
    poison(2, 5, 6)
    expected = r"steps 2, 5, 6: loss or gradient is not finite.*max_skipped = 2.*checkpoint of step 4 is intact"
    with pytest.raises(NonFiniteError, match=expected):
        fit.run(config_of("dense", max_skipped=2, evaluate_every=4), tmp_path)
    fit.run(config_of("dense", max_skipped=3, evaluate_every=4), tmp_path)
    assert lines_of(tmp_path, "train")[-1]["skipped"] == 3


def test_a_run_that_stopped_can_go_on_by_skipping_the_step(poison, tmp_path):
    poison(6)
    with pytest.raises(NonFiniteError, match=r"step 6: gradient_norm, loss is not finite.*step 4 is intact.*skip"):
        fit.run(config_of("dense", on_nonfinite="stop"), tmp_path)
    fit.run(config_of("dense"), tmp_path)
    assert lines_of(tmp_path, "train")[-1]["skipped"] == 1
