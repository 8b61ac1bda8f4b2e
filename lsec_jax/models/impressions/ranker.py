"""What every ranker of impressions is: tables beside a trunk, towers on what the trunk hands over, weighted tasks."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lsec_jax import losses
from lsec_jax.declaration.layout import LabelLayout, Layout
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.impressions.fields import Batch, Behaviours, FieldEncoder, Fields, Rows, table_width
from lsec_jax.models.impressions.tasks import task_losses
from lsec_jax.models.impressions.weights import TaskWeights
from lsec_jax.nn import replicas
from lsec_jax.nn.dropout import dropout
from lsec_jax.nn.row_blocks import in_row_blocks
from lsec_jax.nn.towers import Tower

Tables = Mapping[str, Float[Array, "_ d"]]
Metrics = dict[str, Float[Array, ""]]


class Draws(NamedTuple):
    """Where a training step takes its random numbers from.

    Attributes:
        key: of the step.
        places: where in the whole batch each row is, [b] int32: draws do not depend on how devices share it.
    """

    key: Array
    places: Int[Array, " b"]


class Represented(NamedTuple):
    """What a trunk makes of a batch.

    Attributes:
        shared: what the towers of all tasks read, [b, D] float32; the adaptive weights compare gradients here.
        dynamic: e_d, [b, e].
        penalty: what the trunk adds to the loss, a scalar.
        metrics: to log.
        offset: what the primary task's logit has besides, [b]; no tower reads it.
        passed: what the model's own `primary_output` or `outputs` reads besides.
    """

    shared: Float[Array, "b D"]
    dynamic: Float[Array, "b e"]
    penalty: Float[Array, ""] | float = 0.0
    metrics: Mapping[str, Float[Array, ""]] = {}
    offset: Float[Array, " b"] | None = None
    passed: Mapping[str, Any] = {}


def read_in_blocks(
    read: Callable[[Behaviours, Array, Draws | None], Any],
    sequence: Behaviours,
    target: Float[Array, "b d"],
    draws: Draws | None,
    values_per_row: int,
) -> Any:
    """Reads a sequence for its target, blocks of rows at a time where that is faster; see `nn/row_blocks.py`.

    Args:
        read: from the sequence, the target and draws to vectors of each row.
        sequence: what is read.
        target: e_vt.
        draws: of a training step.
        values_per_row: numbers of the largest result in between.
    """

    def one(values: Array, mask: Array, target: Array, places: Array | None) -> Any:
        own = None if draws is None or places is None else draws._replace(places=places)
        return read(sequence._replace(values=values, mask=mask), target, own)

    arrays = (sequence.values, sequence.mask, target, None if draws is None else draws.places)
    return in_row_blocks(one, arrays, values_per_row)


def _start_of(label: LabelLayout) -> float:
    """The output that predicts the mean answer; of binary ones that are nearly always the same, a finite one."""
    if label.kind == "regression":
        return label.mean
    chance = min(max(label.mean, 1e-4), 1.0 - 1e-4)
    return math.log(chance / (1.0 - chance))


class ImpressionRanker(nnx.Module):
    """Scores impressions. A model file adds `represent`, and `outputs` where its towers are others than these.

    Towers here: the primary task's on the shared representation, with the dynamic context if the config says so, and
    one for each other task on both (shared bottom).
    """

    def __init__(self, config: ImpressionConfig, layout: Layout, rngs: nnx.Rngs):
        self.config, self.layout = config, layout
        self.dtype = jnp.dtype(config.dtype)
        self.fields = FieldEncoder(layout, config.embedding_dim, self.dtype, rngs)
        self.weights = TaskWeights(config, [of.name for of in layout.labels], rngs)
        # Predictions begin at the mean answers: else the first steps would only learn these, through all layers.
        self.output_biases = nnx.Param(jnp.array([_start_of(of) for of in layout.labels], jnp.float32))

    def build_towers(self, shared_width: int, rngs: nnx.Rngs) -> None:
        """Builds the towers, once the width of the shared representation is known."""
        config, num_tasks = self.config, len(self.layout.labels)
        dynamic = sum(self.fields.part_widths["dynamic"])
        first = shared_width + (dynamic if config.tower_reads_dynamic else 0)
        self.build_primary(first, rngs)
        self.task_towers = nnx.List(
            [
                Tower(shared_width + dynamic, config.task_tower_widths, rngs, out_width=1, dtype=self.dtype)
                for _ in range(num_tasks - 1)
            ]
        )

    def build_primary(self, in_width: int, rngs: nnx.Rngs) -> None:
        """Builds what `primary_output` needs: a tower."""
        self.primary_tower = Tower(in_width, self.config.tower_widths, rngs, out_width=1, dtype=self.dtype)

    def represent(self, fields: Fields, batch: Batch, draws: Draws | None) -> Represented:
        """The trunk; `draws` is None where nothing is trained."""
        raise NotImplementedError

    def outputs(self, represented: Represented, shared: Float[Array, "b D"]) -> Float[Array, "b m"]:
        """Logits or values of all tasks from the shared representation, the primary first; without `output_biases`."""
        both = jnp.concatenate([shared, represented.dynamic], axis=1)
        first = both if self.config.tower_reads_dynamic else shared
        own = self.primary_output(first, represented)
        return jnp.concatenate([own, *(tower(both) for tower in self.task_towers)], axis=1)

    def primary_output(self, read: Float[Array, "b f"], represented: Represented) -> Float[Array, "b 1"]:
        """The primary task's output from what its tower reads."""
        return self.primary_tower(read)

    def init_tables(self, key: Array) -> dict[str, Float[Array, "_ d"]]:
        """Draws the embedding tables from N(0, embedding_std^2); row 0, of all that is unknown, begins with zeros."""
        keys = jax.random.split(key, len(self.layout.tables))

        def draw(own: Array, num_rows: int, width: int) -> Float[Array, "_ d"]:
            return (self.config.embedding_std * jax.random.normal(own, (num_rows, width))).at[0].set(0.0)

        return {
            of.name: draw(own, of.num_rows, self.table_width(of.name))
            for of, own in zip(self.layout.tables, keys, strict=True)
        }

    def table_width(self, name: str) -> int:
        """Numbers in a row of a table."""
        return table_width(name, self.layout, self.config.embedding_dim)

    def lookups(self, inputs: Any, batch: Batch, key: Array) -> Mapping[str, Int[Array, "b s"]]:
        """The rows of each table that the batch's fields and sequences are made of."""
        return batch["ids"]

    def loss(
        self, tables: Tables, inputs: Any, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss of one step and what to log of it."""
        rows = {name: replicas.take(tables[name], ids) for name, ids in batch["ids"].items()}
        return self.loss_of_rows(rows, inputs, batch, key)

    def loss_of_rows(self, rows: Rows, inputs: Any, batch: Batch, key: Array) -> tuple[Float[Array, ""], Metrics]:
        """`loss` from the rows that `lookups` asks for."""
        key, own_key = jax.random.split(key)
        represented = self._represent(rows, batch, Draws(key, batch["places"]))
        kept = dropout(represented.shared, self.config.dropout, own_key, batch["places"])
        represented = represented._replace(shared=kept)
        labels = self.layout.labels

        def losses_of(shared: Float[Array, "b D"]) -> Float[Array, " m"]:
            return task_losses(self._biased_outputs(represented, shared), batch["labels"], labels)

        loss, metrics = self.weights(losses_of, represented.shared)
        if self.config.l2:
            there = [of * self._is_there(name, of, batch)[:, :, None] for name, of in rows.items()]
            loss = loss + self.config.l2 * losses.mean_squared_norm(*there, num_rows=len(batch["labels"]))
        total = loss + represented.penalty
        trained = self.trained_part(loss, represented.penalty, batch)
        return trained, {"loss": total, **metrics, **represented.metrics}

    def _is_there(self, table: str, rows: Float[Array, "b s d"], batch: Batch) -> Bool[Array, "b s"]:
        """Which of the rows of a table stand for a field, a behaviour, a neighbour or a node, and not for padding."""
        found = jnp.ones(rows.shape[:2], bool)
        for sequence in self.layout.sequences:
            for of in sequence.fields:
                if of.kind == "ids" and of.table == table:
                    found = found.at[:, of.start : of.stop].set(batch["masks"][sequence.name])
        for near in self.layout.neighbourhoods:
            if near.table == table:
                found = found.at[:, near.start : near.stop].set(batch["ids"][table][:, near.start : near.stop] > 0)
        if table in [path.name for path in self.layout.paths]:
            found = batch["ids"][table] > 0
        return found

    def trained_part(self, loss: Float[Array, ""], penalty: Float[Array, ""] | float, batch: Batch) -> Float[Array, ""]:
        """What this step descends on, of the loss of the tasks and the penalty: their sum."""
        return loss + penalty

    def predict(self, tables: Tables, batch: Batch) -> dict[str, Float[Array, " b"]]:
        """Logits of binary tasks and expected values of others, in the label's transformed unit, by task."""
        rows = {name: replicas.take(tables[name], ids) for name, ids in batch["ids"].items()}
        represented = self._represent(rows, batch, None)
        outputs = self._biased_outputs(represented, represented.shared)
        return {label.name: outputs[:, i] for i, label in enumerate(self.layout.labels)}

    def _biased_outputs(self, represented: Represented, shared: Float[Array, "b D"]) -> Float[Array, "b m"]:
        outputs = self.outputs(represented, shared)
        if represented.offset is not None:
            outputs = outputs.at[:, 0].add(represented.offset)
        return outputs + jnp.broadcast_to(self.output_biases[...], outputs.shape)

    def _represent(self, rows: Rows, batch: Batch, draws: Draws | None) -> Represented:
        return self.represent(self.fields(rows, batch), batch, draws)
