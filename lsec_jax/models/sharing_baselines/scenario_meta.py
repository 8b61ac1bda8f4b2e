"""ScenarioMeta: parameters that adapt to a scenario from little data (Du et al., "s2Meta", KDD 2019).

Implemented: the last hidden layer of the primary task's tower and its prediction have the weights
w_s = w - a * g_s in scenario s: one inner step from the initial weights w that all scenarios share, with rates a that
are learned for each weight (Meta-SGD, Li et al. 2017), on g_s, the gradient of the scenario's loss at w.

Training is first-order MAML inside the step. The batch's rows at even places are the support of those at odd places,
and the other way round: each row is predicted with g_s of the other half's rows of its scenario, over all devices, and
the loss trains w, a and all below through these predictions, g_s taken as fixed. A scenario that the other half does
not have is predicted by w, so that w learns for scenarios that nobody knows.

Prediction needs a support set as well. A table keeps an estimate of each scenario's g_s, which follows what the steps
find of it (its gradient is the difference), so that the support is what training showed of the scenario of late.
Scenarios that training does not know have 0 there, and the initial weights.

Departures, what it is not: s2Meta's controllers, an LSTM that says how each weight is updated and one that says when to
stop, are rates and one step here. s2Meta adapts to one scenario after the other, with the users and items of another
domain; here all scenarios of a batch adapt at once, on the declared features, and what stands below the last two layers
is shared and trained with the rest. Second derivatives are left out. The optimizer moves the table of gradients as it
moves everything, by its own rates.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.config import require_finite
from lsec_jax.models.impressions.fields import Batch, Fields
from lsec_jax.models.impressions.ranker import Draws, Represented
from lsec_jax.models.impressions.tasks import row_losses
from lsec_jax.models.sharing import ScenarioConfig, ScenarioRanker
from lsec_jax.nn import replicas
from lsec_jax.nn.grouped_dense import dense_by_group
from lsec_jax.nn.towers import Tower

Changes = tuple[Float[Array, "g i h"], Float[Array, "g j o"]]


@dataclasses.dataclass
class Config(ScenarioConfig):
    """ScenarioMeta; keys of `ScenarioConfig` are inherited.

    Attributes:
        inner_rate: what all rates a begin at; 0 adapts nothing until they have moved.
    """

    inner_rate: float = 0.1

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        super().validate()
        require_finite("config.model.inner_rate", self.inner_rate)

    @property
    def name(self) -> str:
        """For reports."""
        return "scenario_meta"

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Keys that change neither shapes nor meanings."""
        return (*super().training_keys, "inner_rate")

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "ScenarioMeta":
        """Builds the ranker; raises ConfigError for a scenario that is no id."""
        return ScenarioMeta(self, layout, rngs)


class ScenarioMeta(ScenarioRanker):
    """A tower whose last two layers adapt to the scenario."""

    config: Config

    def build_primary(self, in_width: int, rngs: nnx.Rngs) -> None:
        """The layers that do not adapt, and those that do; the last row of their weights is the bias."""
        *lower, last = self.config.tower_widths
        below = lower[-1] if lower else in_width
        self.lower = Tower(in_width, tuple(lower), rngs, dtype=self.dtype)
        init = jax.nn.initializers.glorot_uniform()
        shapes = ((below, last), (last, 1))
        drawn = [init(rngs.params(), shape, jnp.float32) for shape in shapes]
        initial = [jnp.concatenate([of, jnp.zeros((1, of.shape[1]))]) for of in drawn]
        self.initial = nnx.List([nnx.Param(of) for of in initial])
        self.rates = nnx.List([nnx.Param(jnp.full(of.shape, float(self.config.inner_rate))) for of in initial])
        self.gradients = nnx.List([nnx.Param(jnp.zeros((self.num_scenarios, *of.shape))) for of in initial])

    def represent(self, fields: Fields, batch: Batch, draws: Draws | None) -> Represented:
        """x, and the changes of the weights by group of rows: in training those that the other half says."""
        represented = super().represent(fields, batch, draws)
        scenarios = self.scenarios(batch)
        if draws is None:
            kept = tuple(of[...] for of in self.gradients)
            return represented._replace(passed={"gradients": kept, "groups": scenarios})
        halves, count = draws.places % 2, self.num_scenarios
        read = represented.shared
        if self.config.tower_reads_dynamic:
            read = jnp.concatenate([read, represented.dynamic], axis=1)
        found, rows = self._support(read, batch["labels"], halves * count + scenarios)
        following = self._following(found, rows)
        return represented._replace(
            # The table of gradients has a loss of its own, which is no part of the one that is told.
            penalty=following - jax.lax.stop_gradient(following),
            metrics={"adaptation/distance": jnp.sqrt(2 * jax.lax.stop_gradient(following))},
            passed={"gradients": found, "groups": jnp.where(scenarios > 0, (1 - halves) * count + scenarios, 0)},
        )

    def primary_output(self, read: Float[Array, "b f"], represented: Represented) -> Float[Array, "b 1"]:
        """The logit, by the weights of each row's scenario."""
        gradients: Changes = represented.passed["gradients"]
        first, second = (-rates[...][None] * of for rates, of in zip(self.rates, gradients, strict=True))
        return self._head(self.lower(read), (first, second), represented.passed["groups"])

    def _head(self, hidden: Float[Array, "b w"], changes: Changes, groups: Int[Array, " b"]) -> Float[Array, "b 1"]:
        first, second = self.initial
        hidden = jax.nn.relu(dense_by_group(self._with_one(hidden), first[...], changes[0], groups))
        return dense_by_group(self._with_one(hidden), second[...], changes[1], groups).astype(jnp.float32)

    def _with_one(self, hidden: Float[Array, "b w"]) -> Float[Array, "b v"]:
        hidden = hidden.astype(self.dtype)
        return jnp.concatenate([hidden, jnp.ones_like(hidden[:, :1])], axis=1)

    def _support(
        self, read: Float[Array, "b f"], answers: Float[Array, "b m"], groups: Int[Array, " b"]
    ) -> tuple[Changes, Float[Array, " g"]]:
        """(gradient of each group's mean loss at the initial weights, its rows), over the rows of all devices.

        Rows without an answer, or of scenarios that training does not know, support nothing.
        """
        count, labels = self.num_scenarios, self.layout.labels[:1]
        hidden = jax.lax.stop_gradient(self.lower(read))
        answers = jnp.where((groups % count > 0)[:, None], answers[:, :1], jnp.nan)
        is_support = ~jnp.isnan(answers[:, 0])
        rows = jnp.zeros(2 * count).at[groups].add(is_support.astype(jnp.float32))
        rows = replicas.num_replicas() * replicas.mean(rows)

        def loss(changes: Changes) -> Float[Array, ""]:
            output = self._head(hidden, changes, groups)
            output = output + jnp.broadcast_to(self.output_biases[...][:1], output.shape)
            each = row_losses(output, answers, labels)[:, 0]
            return (each / jnp.maximum(rows[groups], 1.0)).sum()

        nothing = [jnp.zeros((2 * count, *of.shape)) for of in self.initial]
        found = jax.grad(loss)((nothing[0], nothing[1]))
        first, second = (replicas.num_replicas() * replicas.mean(of) for of in jax.lax.stop_gradient(found))
        return (first, second), rows

    def _following(self, found: Changes, rows: Float[Array, " g"]) -> Float[Array, ""]:
        """Half the squared distance of the table to what this step found, of the scenarios that it has."""
        halves = rows.reshape(2, -1)
        shares = halves / jnp.maximum(halves.sum(axis=0, keepdims=True), 1.0)
        has_any = halves.sum(axis=0) > 0
        total = jnp.zeros(())
        for kept, of in zip(self.gradients, found, strict=True):
            both = (of.reshape(2, -1, *of.shape[1:]) * shares[:, :, None, None]).sum(axis=0)
            distance = jnp.square(kept[...] - both).sum(axis=(1, 2))
            total += 0.5 * jnp.where(has_any, distance, 0.0).sum()
        return total
