"""What a step does with the arrays of other devices, inside jax.shard_map or jax.pmap; on one device, nothing.

The convention, known from the axes of the mesh that a step runs on:
- the rows of a batch are divided over all devices, along `data` and `model`;
- the rows of tables, of their moments and of vectors of all nodes are divided along `model`, in order and in equal
  parts (zeros fill the last one), and copied along `data`. A mesh without that axis has copies only;
- everything else is copied.
A device's loss is over its own rows of the batch. Gradients are those of the sum of all devices' losses, so that what a
device computes for the rows of others counts.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from lsec_jax.nn import lookups

DATA, MODEL = "data", "model"


def axes() -> tuple[str, ...]:
    """The axes along which the batch's rows are divided where this is traced."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(name for name in mesh.axis_names if name in (DATA, MODEL) and name in mesh.manual_axes)


def num_replicas() -> int:
    """How many devices share a batch."""
    return lax.axis_size(axes()) if axes() else 1


def num_shards() -> int:
    """In how many parts tables are divided."""
    return lax.axis_size(MODEL) if MODEL in axes() else 1


def mean(value: Any) -> Any:
    """The mean of all devices' values."""
    return lax.pmean(value, axes()) if axes() else value


def mean_of_parts(gradient: Any) -> Any:
    """The mean over all devices of the gradients of a table, of which each has its own part."""
    if not axes():
        return gradient
    copies = _devices().copies
    total = lax.psum(gradient, copies) if copies else gradient
    return jax.tree.map(lambda of: of / num_replicas(), total)


def all_rows(rows: Shaped[Array, "b ..."]) -> Shaped[Array, "r ..."]:
    """The rows of all devices, in the order of the batch."""
    return lax.all_gather(rows, axes(), tiled=True) if axes() else rows


def own_rows(rows: Shaped[Array, "r ..."]) -> Shaped[Array, "b ..."]:
    """This device's part of rows that every device has."""
    count = num_replicas()
    if count == 1:
        return rows
    size = len(rows) // count
    return lax.dynamic_slice_in_dim(rows, lax.axis_index(axes()) * size, size)


def all_nodes(vectors: Shaped[Array, "n ..."]) -> Shaped[Array, "m ..."]:
    """The vectors of all nodes, from this device's part of them."""
    return lax.all_gather(vectors, MODEL, tiled=True) if num_shards() > 1 else vectors


def whole_table(vectors: Shaped[Array, "n ..."], num_rows: int) -> Shaped[Array, "m ..."]:
    """`all_nodes` without the rows that fill up the last part."""
    return all_nodes(vectors)[:num_rows] if num_shards() > 1 else vectors


def sum_of_shards(value: Any) -> Any:
    """The sum of what each part of the tables gives."""
    return lax.psum(value, MODEL) if num_shards() > 1 else value


def local_indices(ids: Int[Array, "*s"], num_rows: int) -> Int[Array, "*s"]:
    """Where nodes stand in this device's part of a table, `num_rows` for those that are in another part.

    Args:
        ids: of the whole table.
        num_rows: of this device's part.
    """
    return ids if num_shards() == 1 else _within(ids - lax.axis_index(MODEL) * num_rows, num_rows)


def _within(places: Int[Array, "*s"], size: int) -> Int[Array, "*s"]:
    return jnp.where((places >= 0) & (places < size), places, size)


def global_ids(num_rows: int) -> Int[Array, " n"]:
    """The ids of the nodes in this device's part of a table; past the table's end, of what fills the part up."""
    numbers = jnp.arange(num_rows, dtype=jnp.int32)
    return numbers if num_shards() == 1 else lax.axis_index(MODEL) * num_rows + numbers


def own_part(vectors: Shaped[Array, "m ..."]) -> Shaped[Array, "n ..."]:
    """This device's part of the vectors of all nodes, which every device has; the opposite of `whole_table`."""
    count = num_shards()
    if count == 1:
        return vectors
    vectors = jnp.pad(vectors, ((0, -len(vectors) % count), *[(0, 0)] * (vectors.ndim - 1)))
    size = len(vectors) // count
    return lax.dynamic_slice_in_dim(vectors, lax.axis_index(MODEL) * size, size)


def of_owners(values: Float[Array, "*s"], places: Int[Array, "*s"], num_rows: int) -> Float[Array, "*s"]:
    """Values of nodes, each from the device that has the node: only numbers are on the way, no vectors.

    Args:
        values: what this device made of the nodes; of others than its own, anything.
        places: `local_indices` of them.
        num_rows: of this device's part.
    """
    return lax.psum(jnp.where(places < num_rows, values, 0), MODEL) if num_shards() > 1 else values


def any_of_shards(flags: Bool[Array, "*s"]) -> Bool[Array, "*s"]:
    """What is true of some part of the tables."""
    return lax.pmax(flags.astype(jnp.int32), MODEL) > 0 if num_shards() > 1 else flags


def all_columns(values: Shaped[Array, "b k"]) -> Shaped[Array, "b c"]:
    """The columns of all parts of the tables, for the same rows."""
    return lax.all_gather(values, MODEL, axis=1, tiled=True) if num_shards() > 1 else values


def rows_of_group(tree: Any) -> Any:
    """The rows of a batch of all devices that share the tables between them: they work on these together."""
    return jax.tree.map(lambda of: lax.all_gather(of, MODEL, tiled=True), tree) if num_shards() > 1 else tree


def places_in_group(positions: Int[Array, "*s"], num_rows: int) -> Int[Array, "*s"]:
    """Where rows of the batch stand among `rows_of_group`, `num_rows` for those of another group."""
    copies = _devices().copies
    return _within(positions - lax.axis_index(copies) * num_rows, num_rows) if copies else positions


def rows_of_all_groups(tree: Any) -> Any:
    """The rows of the whole batch, from what each group made of its own."""
    copies = _devices().copies
    return jax.tree.map(lambda of: lax.all_gather(of, copies, tiled=True), tree) if copies else tree


def mask_of(ids: Int[Array, " s"], num_rows: int) -> Bool[Array, " n"]:
    """Which nodes of this device's part of a table are among some ids of each device; of others, only its own are.

    Where tables are divided, a device computes what all of them need of its nodes.
    """
    ids = local_indices(all_rows(ids), num_rows) if num_shards() > 1 else ids
    return jnp.zeros(num_rows, bool).at[ids].set(True, mode="drop")


def take(table: Float[Array, "n d"], ids: Int[Array, "*s"]) -> Float[Array, "*s d"]:
    """Rows of a table, wherever they are.

    Of a divided table, the devices that share it gather each other's ids, and each sends every other one the sum of
    the rows that it has and zeros (reduce-scatter), or they exchange different ids and rows (`nn/lookups.py`), as the
    strategy says. The gradient goes the same way back. Never more than the rows that are asked for is on the way.

    Args:
        table: all of it, or this device's part.
        ids: of the whole table, different ones on each device.
    """
    if num_shards() == 1:
        return table[ids]

    def gathered(table: Array) -> Array:
        asked_for = local_indices(lax.all_gather(ids.ravel(), MODEL, tiled=True), len(table))
        return lax.psum_scatter(table.at[asked_for].get(mode="fill", fill_value=0), MODEL, tiled=True)

    exchange = lookups.current()
    rows = gathered(table) if exchange is None else exchange.take(table, ids.ravel(), gathered, _devices())
    return rows.reshape(*ids.shape, -1)


def give(
    values: Float[Array, "s d"], ids: Int[Array, " s"], num_rows: int
) -> tuple[Int[Array, " r"], Float[Array, "r d"]]:
    """What all devices have for rows of this device's part of a table: the way back of `take`.

    Args:
        values: for the rows of the ids.
        ids: of the whole table, different ones on each device.
        num_rows: of this device's part.

    Returns:
        (rows of this part, some more than once, those past its end for rows of others; their values, 0 for those of
        others).
    """

    def gathered(values: Array) -> tuple[Array, Array]:
        places, received = local_indices(all_rows(ids), num_rows), all_rows(values)
        return places, received if num_shards() == 1 else jnp.where((places < num_rows)[:, None], received, 0.0)

    exchange = lookups.current()
    if exchange is None or num_shards() == 1:
        return gathered(values)
    return exchange.give(values, ids, num_rows, gathered, _devices())


def lookup_overflow() -> dict[str, Float[Array, ""]]:
    """A step's metric of its lookups so far: how many ids of all devices had no room; nothing in the default way."""
    exchange = lookups.current()
    return {} if exchange is None else {"lookup_overflow": exchange.pop_overflow()}


def _devices() -> lookups.Devices:
    return lookups.Devices(MODEL, axes())


def take_same(table: Shaped[Array, "n ..."], ids: Int[Array, " s"]) -> Shaped[Array, "s ..."]:
    """`take` of ids that are the same on all devices that share the table; not differentiated."""
    if num_shards() == 1:
        return table[ids]
    return lax.psum(table.at[local_indices(ids, len(table))].get(mode="fill", fill_value=0), MODEL)


def vary_as(tree: Any, operands: Any) -> Any:
    """Types arrays that are equal on all devices as different along each axis along which an operand is.

    Loops want it of what they start with, results of jax.ffi do not have it by themselves, and a function with a
    backward pass of its own must return gradients of its arguments' types. Outside jax.shard_map nothing happens.
    """
    wanted = frozenset[str]().union(*map(_varying, jax.tree.leaves(operands)))

    def vary(array: Array) -> Array:
        missing = tuple(sorted(wanted - _varying(array)))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(vary, tree)


def _varying(array: Array) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying
