"""Embedding tables: which of them are updated lazily, and how a step changes only the rows that it looked up.

A model that says before its loss which rows it reads (`lookups`) gets these rows alone, is differentiated with respect
to them, and the optimizer sees them and their moments alone. Models that read whole tables get dense updates.

What lazy means: a row that a step looks up is updated exactly as the dense optimizer would, with the sum of the
gradients of all its lookups; rows that it does not look up keep their values and their moments bit for bit.
- SGD and Adagrad: every step is the dense optimizer's, whose untouched rows do not move either.
- Adam: moments neither decay nor move a row while it is not looked up, and the bias correction counts all steps, not
  those of the row. So the first update of a row is the dense optimizer's whenever it comes, the state is the dense
  one's (checkpoints go on with either), and it is the definition of PyTorch's SparseAdam and TensorFlow's LazyAdam. A
  count for each row would make a late row's first update about 3 times smaller than dense Adam's (0.1 / sqrt(0.001)).
L2 terms of a model's loss reach the rows that it looked up, and no others.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# A table with at least this many rows for each slot of a step is updated lazily: where both cost the same on one CPU
# core (docs/performance.md).
ROWS_PER_SLOT = 2.0
# Rows updated at once on a CPU: they, their gradients and their moments stay in the cache, and no large buffer is
# allocated, whose pages the system would have to clear at every step.
CPU_BLOCK = 256


class Params(NamedTuple):
    """Trainable arrays.

    Attributes:
        dense: the module's state as a plain nested dict.
        tables: embedding tables by node type.
    """

    dense: Any
    tables: Mapping[str, Array]


class TablePlan(NamedTuple):
    """How the tables are updated.

    Attributes:
        lazy: names of those that are updated lazily.
        reason: of the choice, in words, for the log.
    """

    lazy: tuple[str, ...]
    reason: str


def plan(mode: str, num_rows: Mapping[str, int], num_slots: Mapping[str, int] | None) -> TablePlan:
    """Chooses lazy or dense updates for each table.

    Args:
        mode: `config.optimizer.tables`; "lazy" only for a model that says what it looks up.
        num_rows: of each table.
        num_slots: lookups of a step in each table, duplicates counted; None = the model reads whole tables.
    """
    if num_slots is None:
        assert mode != "lazy", "refused when the run was prepared"
        return TablePlan((), "dense (the model reads whole tables at every step)")
    assert num_slots.keys() == num_rows.keys(), "a step looks rows up in every table"
    if mode == "dense":
        return TablePlan((), "dense (config.optimizer.tables)")
    lazy = tuple(name for name in num_rows if mode == "lazy" or num_rows[name] >= ROWS_PER_SLOT * num_slots[name])
    described = [
        f"{name} {'lazy' if name in lazy else 'dense'} ({num_slots[name]} lookups a step, {num_rows[name]} rows)"
        for name in num_rows
    ]
    return TablePlan(lazy, ", ".join(described))


def pad_tables(tree: Any, num_parts: int) -> Any:
    """Fills tables and their moments with zeros up to a multiple of the parts in which they are divided."""

    def pad(table: Array) -> Array:
        missing = -len(table) % num_parts
        return jnp.pad(table, ((0, missing), (0, 0))) if missing else table

    return _map_params(lambda of: of._replace(tables=jax.tree.map(pad, of.tables)), tree)


def distinct_rows(ids: Int[Array, " s"], num_rows: int) -> tuple[Int[Array, " s"], Int[Array, " s"]]:
    """Finds repeated ids, in static shapes and without sorting.

    Args:
        ids: rows of a table; those past its end (of other devices' parts) stand for themselves.
        num_rows: of the table.

    Returns:
        (row ids, each once; slots that repeat a row hold different ids past the table's end instead; which slot stands
        for each slot's row).
    """
    numbers = jnp.arange(len(ids), dtype=jnp.int32)
    # A word for each row of the table costs less than a sort of the ids: 0.5 against 12 ms for 20,480 of 1M rows.
    slots = jnp.zeros(num_rows, jnp.int32).at[ids].max(numbers, mode="drop")[ids]
    is_here = ids < num_rows
    slots = jnp.where(is_here, slots, numbers)
    return jnp.where(is_here & (slots == numbers), ids.astype(jnp.int32), num_rows + numbers), slots


def sum_repeated(gradients: Float[Array, "*s d"], slots: Int[Array, " n"]) -> Float[Array, "n d"]:
    """Sums the gradients of lookups of the same row, in their order; rows of slots that repeat another one are 0."""
    return jax.ops.segment_sum(gradients.reshape(len(slots), -1), slots, num_segments=len(slots))


def apply_gradients(
    optimizer: optax.GradientTransformation,
    gradients: Params,
    params: Params,
    opt_state: optax.OptState,
    lazy_rows: Mapping[str, Int[Array, " _"]],
) -> tuple[Params, optax.OptState]:
    """One step of an optimizer that treats every element by itself.

    Args:
        optimizer: made for all parameters.
        gradients: of the dense parameters and of whole tables; for a lazy table [s, d], of its `lazy_rows`.
        params: current values.
        opt_state: the optimizer's state, the same with lazy tables as without.
        lazy_rows: row ids of the lazy tables, each once; those past the end are skipped.

    Returns:
        (new params, new state).
    """
    others = [name for name in params.tables if name not in lazy_rows]
    own = _select(params, params.dense, others)
    own_state = _map_params(lambda node: _select(node, node.dense, others), opt_state)
    updates, new_state = optimizer.update(_select(gradients, gradients.dense, others), own_state, own)
    parts = [(optax.apply_updates(own, updates), new_state)]
    for name, ids in lazy_rows.items():
        # The counts in a table's part are those before the step, as they must be; new ones come from the first part.
        part = _map_params(lambda node, name=name: _select(node, {}, [name]), (params, opt_state))
        parts.append(_update_rows(optimizer, gradients.tables[name], ids, name, part))
    return _map_params(lambda node, *tables: _merge(node, tables, params.tables), *parts)


def apply_gradients_if(
    condition: Bool[Array, ""],
    optimizer: optax.GradientTransformation,
    gradients: Params,
    params: Params,
    opt_state: optax.OptState,
    lazy_rows: Mapping[str, Int[Array, " _"]],
) -> tuple[Params, optax.OptState]:
    """As `apply_gradients` where the condition holds; else nothing changes, whatever the gradients are."""
    # Without a row to update, a lazy table is neither copied nor compared.
    lazy_rows = {
        name: jnp.where(condition, ids, len(params.tables[name]) + jnp.arange(len(ids), dtype=ids.dtype))
        for name, ids in lazy_rows.items()
    }
    old = params, opt_state
    new = apply_gradients(optimizer, gradients, params, opt_state, lazy_rows)

    def choose(after: Any, before: Any) -> Any:
        if not isinstance(after, Params):
            return jnp.where(condition, after, before)
        own = [name for name in after.tables if name not in lazy_rows]
        kept = [_select(node, node.dense, own) for node in (after, before)]
        chosen = jax.tree.map(lambda *leaves: jnp.where(condition, *leaves), *kept)
        return Params(chosen.dense, {**after.tables, **chosen.tables})

    return jax.tree.map(choose, new, old, is_leaf=lambda node: isinstance(node, Params))


def _update_rows(
    optimizer: optax.GradientTransformation,
    gradients: Float[Array, "s d"],
    ids: Int[Array, " s"],
    name: str,
    part: tuple[Params, optax.OptState],
) -> tuple[Params, optax.OptState]:
    """Updates some rows of one table and of its moments, block by block."""
    num_slots, num_rows = len(ids), len(part[0].tables[name])
    block = min(CPU_BLOCK, num_slots) if jax.default_backend() == "cpu" else num_slots

    def update(number: Array | int, whole: tuple[Params, optax.OptState]) -> tuple[Params, optax.OptState]:
        first = jnp.minimum(number * block, num_slots - block)  # the last block overlaps the one before it
        slots = first + jnp.arange(block)
        own_ids = jnp.where(slots < number * block, num_rows + slots, lax.dynamic_slice(ids, (first,), (block,)))
        own_gradients = lax.dynamic_slice(gradients, (first, 0), (block, gradients.shape[1]))
        rows, state = _map_tables(lambda table: table.at[own_ids].get(mode="clip", unique_indices=True), whole)
        updates, new_state = optimizer.update(Params({}, {name: own_gradients}), state, rows)
        changed = optax.apply_updates(rows, updates), new_state
        return _map_tables(
            lambda table, rows: table.at[own_ids].set(rows, mode="drop", unique_indices=True), whole, changed
        )

    return lax.fori_loop(0, -(-num_slots // block), update, part)


def _select(node: Params, dense: Any, tables: list[str]) -> Params:
    return Params(dense, {name: node.tables[name] for name in tables})


def _merge(node: Params, others: tuple[Params, ...], order: Mapping[str, Array]) -> Params:
    tables = {name: table for part in (node, *others) for name, table in part.tables.items()}
    return Params(node.dense, {name: tables[name] for name in order})


def _map_params(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Maps what is shaped as the parameters: themselves, and their moments; other leaves come from the first tree."""

    def one(node: Any, *rest: Any) -> Any:
        return function(node, *rest) if isinstance(node, Params) else node

    return jax.tree.map(one, tree, *others, is_leaf=lambda node: isinstance(node, Params))


def _map_tables(function: Callable[..., Array], tree: Any, *others: Any) -> Any:
    """Maps the tables and their moments; other leaves come from the first tree."""
    return _map_params(lambda *nodes: jax.tree.map(function, *nodes), tree, *others)
