import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.declaration.layout import LabelLayout
from lsec_jax.models.impressions.tasks import task_losses

LABELS = (
    LabelLayout("watched", "binary", ""),
    LabelLayout("stay", "regression", "log1p"),
    LabelLayout("bag", "binary", ""),
)


def example(seed=0, rows=12):
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(rows, 3)).astype(np.float32)
    answers = rng.integers(2, size=(rows, 3)).astype(np.float32)
    answers[:, 1] = rng.exponential(3.0, rows)
    answers[answers[:, 0] == 0, 1:] = np.nan
    return jnp.asarray(outputs), answers


def test_losses_are_means_over_the_rows_that_define_them():
    outputs, answers = example()
    expected = []
    for i, label in enumerate(LABELS):
        total, count = 0.0, 0
        for output, answer in zip(np.asarray(outputs)[:, i].astype(float), answers[:, i], strict=True):
            if np.isnan(answer):
                continue
            chance = 1 / (1 + np.exp(-output))
            each = -np.log(chance if answer else 1 - chance) if label.kind == "binary" else (output - answer) ** 2
            total, count = total + each, count + 1
        expected.append(total / count)
    np.testing.assert_allclose(task_losses(outputs, jnp.asarray(answers), LABELS), expected, rtol=1e-5)


def test_a_task_that_no_row_defines_has_loss_0_and_no_gradient():
    outputs, answers = example()
    answers[:, 2] = np.nan
    assert task_losses(outputs, jnp.asarray(answers), LABELS)[2] == 0.0
    gradient = jax.grad(lambda of: task_losses(of, jnp.asarray(answers), LABELS).sum())(jnp.asarray(outputs))
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[:, 2] == 0).all()


def test_rows_without_an_answer_have_no_gradient():
    outputs, answers = example()
    gradient = np.asarray(
        jax.grad(lambda of: task_losses(of, jnp.asarray(answers), LABELS).sum())(jnp.asarray(outputs))
    )
    assert (gradient[np.isnan(answers)] == 0).all() and (gradient[~np.isnan(answers)] != 0).all()


@pytest.mark.parametrize("size", [-80.0, 80.0])
def test_sure_predictions_have_finite_losses(size):
    _, answers = example()
    losses = task_losses(jnp.full((12, 3), size), jnp.asarray(answers), LABELS)
    assert np.isfinite(losses).all()
