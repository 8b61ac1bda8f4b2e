"""Losses of the tasks of an impression, each over the rows on which its label is defined."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lsec_jax.declaration.layout import LabelLayout
from lsec_jax.nn import replicas


def row_losses(
    outputs: Float[Array, "b m"], answers: Float[Array, "b m"], labels: tuple[LabelLayout, ...]
) -> Float[Array, "b m"]:
    """The loss of each row and task, 0 where it is not defined: log loss of binary labels, squared error of others.

    Args:
        outputs: logits, or expected values.
        answers: NaN = not defined.
        labels: of the columns.
    """
    is_defined = ~jnp.isnan(answers)
    known = jnp.where(is_defined, answers, 0.0)
    columns = []
    for i, label in enumerate(labels):
        output, answer = outputs[:, i], known[:, i]
        if label.kind == "binary":
            columns.append(jax.nn.softplus(output) - answer * output)
        else:
            columns.append(jnp.square(output - answer))
    return jnp.where(is_defined, jnp.stack(columns, axis=1), 0.0)


def task_losses(
    outputs: Float[Array, "b m"], answers: Float[Array, "b m"], labels: tuple[LabelLayout, ...]
) -> Float[Array, " m"]:
    """The loss of each task, mean over the rows of the whole batch on which it is defined (eLiveRec Eq. 11, 13).

    A task that no row of the batch defines has loss 0. As everywhere, a device's loss is its sum over its share of
    everybody's count.

    Args:
        outputs: logits, or expected values.
        answers: NaN = not defined.
        labels: of the columns.
    """
    each = row_losses(outputs, answers, labels)
    counts = replicas.mean((~jnp.isnan(answers)).sum(axis=0).astype(jnp.float32))
    return each.sum(axis=0) / jnp.maximum(counts, 1.0 / replicas.num_replicas())
