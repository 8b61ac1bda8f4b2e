"""What changes during training, and the step that changes it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

Metrics = dict[str, Array]


class Params(NamedTuple):
    """Trainable arrays.

    Attributes:
        dense: the module's state as a plain nested dict.
        tables: embedding tables by node type.
    """

    dense: Any
    tables: Mapping[str, Array]


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


def make_train_step(
    model: TrainableModel, optimizer: optax.GradientTransformation, negatives_key: Array
) -> Callable[[TrainState, Any, Mapping[str, Array]], tuple[TrainState, Metrics]]:
    """Returns the jitted step (state, inputs, batch) -> (state, metrics). The state's buffers are donated."""

    def step(state: TrainState, inputs: Any, batch: Mapping[str, Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(negatives_key, state.step)

        def loss(params: Params) -> tuple[Array, Metrics]:
            return model.module(params.dense).loss(params.tables, inputs, batch, key)

        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def init_state(model: TrainableModel, optimizer: optax.GradientTransformation, keys: Keys) -> TrainState:
    """Returns the state before the first step."""
    params = model.init(keys)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
