"""One paper, one file; baselines beside them. The protocols here are what a model file offers the trainer."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from lsec_jax.schema import LiveCommerceData
from lsec_jax.schema.needs import Needs
from lsec_jax.scorers import NodeScorer


class Model(Protocol):
    """A flax.nnx.Module that holds the dense parameters; embedding tables live beside it."""

    def init_tables(self, key: Array) -> Mapping[str, Array]:
        """Draws the embedding tables by node type."""
        ...

    def loss(
        self, tables: Mapping[str, Array], inputs: Any, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """(loss, metrics by name) of one step, from each stream's positions; pure."""
        ...

    def scorer(self, tables: Mapping[str, Array], inputs: Any) -> NodeScorer:
        """The primary task's scorer, of this device's nodes (`nn/replicas.py`)."""
        ...

    def final_vectors(self, tables: Mapping[str, Array], inputs: Any) -> Mapping[str, Array]:
        """The final vectors of this device's nodes by node type, for export."""
        ...


class LookupModel(Model, Protocol):
    """A model whose loss reads only some rows of its tables and can say before which: they can be updated lazily."""

    def lookups(self, inputs: Any, batch: Mapping[str, Any], key: Array) -> Mapping[str, Int[Array, "..."]]:
        """The rows of each table that a step reads, duplicates included; their shapes depend on the batch's alone."""
        ...

    def loss_of_rows(
        self, rows: Mapping[str, Array], inputs: Any, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """`loss`, from `table[ids]` for each of the tables in `lookups`."""
        ...


class ModelConfig(Protocol):
    """A model's config dataclass."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def task_tables(self) -> tuple[str, ...]:
        """The relations that are predicted, the first is evaluated and recommended; or one table of events."""
        ...

    @property
    def needs(self) -> Needs:
        """The tables that the data must have; `training.run.prepare` checks them."""
        ...

    @property
    def training_keys(self) -> tuple[str, ...]:
        """Keys that only say how it trains or computes, e.g. "l2" or "tasks[].weight".

        They change neither shapes nor what a parameter means: a run may start from one that has other values.
        """
        ...

    def validate(self) -> None:
        """Checks its own keys; raises ConfigError."""
        ...

    def inputs(self, data: LiveCommerceData) -> Any:
        """Builds the big arrays, a pytree; arguments of every jitted function, never closed over."""
        ...

    def divide(self, inputs: Any, num_parts: int) -> Any:
        """Cuts what is large for the devices along the axis `model`, along which tables are divided."""
        ...

    @property
    def rows_together(self) -> int:
        """Rows of a batch that must be on one device."""
        ...

    def streams(self, inputs: Any) -> Mapping[str, int]:
        """How many training examples each stream of batches has."""
        ...

    def build(self, data: LiveCommerceData, rngs: nnx.Rngs) -> Any:
        """Builds the Model."""
        ...

    def warnings(self, inputs: Any, batch_size: int) -> list[str]:
        """What may go wrong, in words."""
        ...

    def trained_nodes(self, data: LiveCommerceData, node_type: str) -> np.ndarray:
        """Which nodes have a vector that training has touched, [n] bool."""
        ...
