"""What changes during training, and the step that changes it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from lsec_jax.nn import replicas
from lsec_jax.training import tables as tables_lib
from lsec_jax.training.tables import Params

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """Everything that a checkpoint must hold to go on bit for bit, besides the early-stopping record.

    Attributes:
        step: [] int32, optimizer steps done.
        params: current parameters.
        opt_state: the optimizer's state.
    """

    step: Array
    params: Params
    opt_state: optax.OptState


class Keys(NamedTuple):
    """One seed, split once into named streams."""

    tables: Array
    dense: Array
    negatives: Array

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """Returns the streams of a run's seed."""
        return cls(*jax.random.split(jax.random.key(seed), len(cls._fields)))


class TrainableModel:
    """A module split once into its static graph and its parameters, as pure functions."""

    def __init__(self, module: nnx.Module):
        """Splits the module; it is not used again."""
        self.graphdef, self._initial = nnx.split(module)

    def init(self, keys: Keys) -> Params:
        """Returns the initial parameters."""
        tables = self.module(self._initial).init_tables(keys.tables)
        # A copy: the training step donates its state, and these arrays must serve the next call too.
        return Params(jax.tree.map(jnp.copy, nnx.to_pure_dict(self._initial)), tables)

    def module(self, dense: Any) -> Any:
        """Returns the module with the given dense parameters."""
        state = jax.tree.map(lambda leaf: leaf, self._initial)
        if not isinstance(dense, nnx.State):
            nnx.replace_by_pure_dict(state, dense)
        return nnx.merge(self.graphdef, state)

    @property
    def has_lookups(self) -> bool:
        """Whether the model reads only some rows of its tables, and says which."""
        return hasattr(self.module(self._initial), "lookups")

    def lookups(self, inputs: Any, batch: Mapping[str, Any], key: Array) -> Mapping[str, Int[Array, "..."]]:
        """Returns which rows of each table a step reads; only of a model that has lookups."""
        return self.module(self._initial).lookups(inputs, batch, key)

    @property
    def draws_ahead(self) -> bool:
        """Whether a step's draws can be made before it, by `draw`."""
        return bool(getattr(self.module(self._initial), "draws_ahead", False))

    def draw(self, inputs: Any, batch: Mapping[str, Any], key: Array) -> Any:
        """Returns what a step draws; only of a model that draws ahead."""
        return self.module(self._initial).draw(inputs, batch, key)

    def num_lookups(self, inputs: Any, batch: Any) -> dict[str, int] | None:
        """How many rows of each table a step looks up, duplicates counted; None if it reads whole tables."""
        if not self.has_lookups:
            return None
        shapes = jax.eval_shape(self.lookups, inputs, batch, jax.random.key(0))
        return {name: ids.size for name, ids in shapes.items()}


def make_train_step(
    model: TrainableModel,
    optimizer: optax.GradientTransformation,
    negatives_key: Array,
    lazy_tables: Collection[str] = (),
    skip_nonfinite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the step (state, inputs, batch) -> (state, metrics), for a strategy to compile.

    A model that draws ahead takes what `make_draw` made as a fourth argument; without it, the step draws the same. On
    several devices each has its own rows of the batch, and its part of what is divided (`nn/replicas.py`).

    The batch that the model sees has the key "step" besides: the number of the step, int32.

    Args:
        model: its pure functions.
        optimizer: one that treats every element by itself.
        negatives_key: folded with the step.
        lazy_tables: names of the tables of which only the rows looked up are updated; see `training/tables.py`.
        skip_nonfinite: a step one of whose metrics (gradient norm included) is not finite changes nothing but the
            step number: parameters and the optimizer's state, its count included, stay as they are. The metric
            "skipped" is then 1, else 0.
    """

    def step(state: TrainState, inputs: Any, batch: Mapping[str, Any], *drawn: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(negatives_key, state.step)
        params, batch = state.params, {**batch, "step": state.step}
        ids = model.lookups(inputs, batch, key) if lazy_tables else {}
        rows = {name: replicas.take(params.tables[name], ids[name]) for name in lazy_tables}

        def loss(trained: Params) -> tuple[Array, Metrics]:
            module = model.module(trained.dense)
            if ids:
                read = {
                    name: table if name in rows else replicas.take(table, ids[name])
                    for name, table in trained.tables.items()
                }
                total, metrics = module.loss_of_rows(read, inputs, batch, key)
            else:
                total, metrics = module.loss(trained.tables, inputs, batch, key, *drawn)
            return total, metrics | replicas.lookup_overflow()

        trained = params._replace(tables={**params.tables, **rows})
        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        lazy_rows, summed = {}, {}
        for name, gradient in gradients.tables.items():
            if name in lazy_tables:
                lazy_rows[name], summed[name] = _of_rows(gradient, ids[name], len(params.tables[name]))
            else:
                summed[name] = replicas.mean_of_parts(gradient)
        gradients = Params(replicas.mean(gradients.dense), summed)
        metrics = replicas.mean(metrics) | {"gradient_norm": _norm(gradients)}
        if not skip_nonfinite:
            new = tables_lib.apply_gradients(optimizer, gradients, params, state.opt_state, lazy_rows)
            return TrainState(state.step + 1, *new), metrics
        is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))
        old = params, state.opt_state
        new = tables_lib.apply_gradients_if(is_finite, optimizer, gradients, *old, lazy_rows)
        return TrainState(state.step + 1, *new), {**metrics, "skipped": 1.0 - is_finite}

    return step


def _of_rows(
    gradients: Float[Array, "*s d"], ids: Int[Array, "*s"], num_rows: int
) -> tuple[Int[Array, " r"], Float[Array, "r d"]]:
    """The rows of this device's part of a table that the batch looked up, each once, and their gradients."""
    flat = gradients.reshape(-1, gradients.shape[-1]) / replicas.num_replicas()
    all_ids, all_gradients = replicas.give(flat, ids.ravel(), num_rows)
    rows, slots = tables_lib.distinct_rows(all_ids, num_rows)
    return rows, tables_lib.sum_repeated(all_gradients, slots)


def _norm(gradients: Params) -> Float[Array, ""]:
    """The norm of all gradients, those of other devices' parts of tables included."""
    if replicas.num_shards() == 1:
        return optax.tree.norm(gradients)
    of_tables = replicas.sum_of_shards(optax.tree.norm(gradients.tables, squared=True))
    return jnp.sqrt(optax.tree.norm(gradients.dense, squared=True) + of_tables)


def make_draw(model: TrainableModel, negatives_key: Array) -> Callable[[Any, Mapping[str, Any], Any], Any]:
    """Returns (inputs, batch, step) -> draws of that step, of a model that draws ahead, for a strategy to compile."""

    def draw(inputs: Any, batch: Mapping[str, Any], step: Array) -> Any:
        return model.draw(inputs, batch, jax.random.fold_in(negatives_key, step))

    return draw


def init_state(model: TrainableModel, optimizer: optax.GradientTransformation, keys: Keys) -> TrainState:
    """Returns the state before the first step."""
    params = model.init(keys)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
