"""How the losses of several tasks become one (eLiveRec Eq. 14-15, and what its tables compare with).

The primary task has weight 1 under "fixed" and "adaptive". L = L_rec + sum_i w_i L_i + what the model adds.

Adaptive weights. A two-layer net sees, for each auxiliary task, the cosine of its loss's gradient with that of the
primary loss, the log of its loss, and a learned vector of the task. Gradients are those of the shared representation:
what the trunk hands to the towers, [b, D]; one forward pass and one backward pass through the towers for each task, and
no copy of a table. Dot products and norms are summed over all devices before the cosine.

The net is not trained on L: it would drive every weight to 0, or all weight to the task of the lowest loss. Its loss is
the first-order look-ahead, - sum_i w_i cos_i (how much a step on task i lowers the primary loss), minus an entropy
term; w = m softmax(.), so that the weights keep their sum. Neither losses nor gradients are trained through it, nor is
anything else through w. The option "one_step" looks at the primary loss's gradient after a step on the shared
representation along the weighted gradients instead: the exact derivative of the bi-level one-step look-ahead, with the
representation as its inner variable, in units of a step on the primary loss alone.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.nn import replicas

_TASK_WIDTH, _HIDDEN = 8, 16
LossesOf = Callable[[Float[Array, "b D"]], Float[Array, " m"]]


class TaskWeights(nnx.Module):
    """Weights of the tasks beside the primary one, which is the first."""

    def __init__(self, config: ImpressionConfig, names: Sequence[str], rngs: nnx.Rngs):
        self.config, self.names = config, tuple(names)
        count = len(names) - 1
        if config.task_weighting == "adaptive":
            init = nnx.initializers.normal(1.0)
            self.task_vectors = nnx.Param(init(rngs.params(), (count, _TASK_WIDTH), jnp.float32))
            self.hidden = nnx.Linear(_TASK_WIDTH + 2, _HIDDEN, rngs=rngs)
            # From equal weights: nothing is known at the start.
            self.output = nnx.Linear(_HIDDEN, 1, kernel_init=nnx.initializers.zeros, rngs=rngs)
        elif config.task_weighting == "uncertainty":
            self.log_variances = nnx.Param(jnp.zeros(len(names)))

    def __call__(
        self, losses_of: LossesOf, shared: Float[Array, "b D"]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns the loss of all tasks together, and what to log of it.

        Args:
            losses_of: from the shared representation to the losses of all tasks, the primary one first.
            shared: what the trunk hands to the towers.
        """
        kind = self.config.task_weighting
        if len(self.names) == 1 or kind == "fixed":
            losses = losses_of(shared)
            weights = jnp.array((1.0, *self.config.task_weights), jnp.float32)
            return (weights * losses).sum(), self._logged(losses, weights)
        if kind == "uncertainty":
            losses = losses_of(shared)
            log_variances = self.log_variances[...]
            # Mean over devices, as of everything that is the same on each.
            total = (jnp.exp(-log_variances) * losses + 0.5 * log_variances).sum()
            return total, self._logged(losses, jnp.exp(-log_variances))
        return self._adaptive(losses_of, shared)

    def _adaptive(
        self, losses_of: LossesOf, shared: Float[Array, "b D"]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        losses, pull_back = jax.vjp(losses_of, shared)
        gradients = [
            lax.stop_gradient(pull_back(one)[0].astype(jnp.float32))
            for one in jnp.eye(len(self.names), dtype=jnp.float32)
        ]
        known = lax.stop_gradient(replicas.mean(losses))
        cosines = gradient_cosines(gradients)
        weights = self.weights(cosines, known[1:])
        gains = self._gains(weights, cosines, gradients, losses_of, shared)
        of_net = -(weights * gains).sum() - self.config.weight_entropy * _entropy(weights)
        fixed = lax.stop_gradient(weights)
        # The net's loss has gradients, and is no part of the loss that is told.
        total = losses[0] + (fixed * losses[1:]).sum() + of_net - lax.stop_gradient(of_net)
        cosine_metrics = {f"{name}/cosine": of for name, of in zip(self.names[1:], cosines, strict=True)}
        return total, self._logged(losses, jnp.concatenate([jnp.ones(1), fixed])) | cosine_metrics

    def weights(self, cosines: Float[Array, " n"], losses: Float[Array, " n"]) -> Float[Array, " n"]:
        """Eq. 14, of the n auxiliary tasks: w = total softmax(net(cosine, log loss, task)), the total n by default."""
        seen = jnp.stack([cosines, jnp.log(jnp.maximum(losses, 1e-6))], axis=1)
        hidden = jax.nn.relu(self.hidden(jnp.concatenate([seen, self.task_vectors[...]], axis=1)))
        total = self.config.total_task_weight or len(cosines)
        return total * jax.nn.softmax(self.output(hidden)[:, 0])

    def _gains(
        self,
        weights: Float[Array, " n"],
        cosines: Float[Array, " n"],
        gradients: Sequence[Float[Array, "b D"]],
        losses_of: LossesOf,
        shared: Float[Array, "b D"],
    ) -> Float[Array, " n"]:
        """How much a unit of each weight lowers the primary loss, as a share of what a step on it alone does."""
        if self.config.look_ahead == "first_order":
            return cosines
        # A row's gradient of the batch's mean is small by the batch's size, on a device by the number of its own rows.
        rate = self.config.look_ahead_rate * len(shared)
        step = sum((lax.stop_gradient(weights)[i] * of for i, of in enumerate(gradients[1:])), gradients[0])
        _, pull_back = jax.vjp(losses_of, lax.stop_gradient(shared) - rate * step)
        ahead = pull_back(jnp.eye(len(self.names), dtype=jnp.float32)[0])[0].astype(jnp.float32)
        sums = [(gradients[0] * gradients[0]).sum(), *((ahead * of).sum() for of in gradients[1:])]
        found = replicas.mean(jnp.stack(sums))
        return lax.stop_gradient(found[1:] / jnp.maximum(found[0], jnp.finfo(jnp.float32).tiny))

    def _logged(self, losses: Float[Array, " m"], weights: Float[Array, " m"]) -> dict[str, Float[Array, ""]]:
        found = {f"{name}/loss": losses[i] for i, name in enumerate(self.names)}
        return found | {f"{name}/weight": weights[i] for i, name in enumerate(self.names) if i or weights.shape[0] > 1}


def gradient_cosines(gradients: Sequence[Float[Array, "b D"]]) -> Float[Array, " n"]:
    """Cosine of the first gradient with each other one, over the rows of all devices; 0 where one of them is 0."""
    first, others = gradients[0], gradients[1:]
    sums = [(first * first).sum(), *((of * of).sum() for of in others), *((first * of).sum() for of in others)]
    found = replicas.mean(jnp.stack(sums))
    squares, dots = found[: len(gradients)], found[len(gradients) :]
    norms = squares[0] * squares[1:]
    return jnp.where(norms > 0, dots / jnp.sqrt(jnp.where(norms > 0, norms, 1.0)), 0.0)


def _entropy(weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Of the shares of the weights' sum."""
    shares = weights / weights.sum()
    return -(shares * jnp.log(jnp.maximum(shares, 1e-12))).sum()
