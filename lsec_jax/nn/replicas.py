"""Types of arrays inside jax.shard_map."""

from typing import Any

import jax
from jax import lax
from jaxtyping import Array


def vary_as(tree: Any, operands: Any) -> Any:
    """Types arrays that are equal on all devices as different along each axis along which an operand is.

    Loops want it of what they start with, results of jax.ffi do not have it by themselves, and a function with a
    backward pass of its own must return gradients of its arguments' types. Outside jax.shard_map nothing happens.
    """
    axes = frozenset[str]().union(*map(_axes, jax.tree.leaves(operands)))

    def vary(array: Array) -> Array:
        missing = tuple(sorted(axes - _axes(array)))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(vary, tree)


def _axes(array: Array) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying
