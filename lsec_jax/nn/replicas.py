"""Types of arrays inside jax.shard_map."""

from typing import Any

import jax
from jax import lax
from jaxtyping import Array


def vary_as(tree: Any, operands: list[Array]) -> Any:
    """Types arrays that are equal on all devices as different along each axis along which an operand is.

    Loops want it of what they start with, and results of jax.ffi do not have it by themselves. Outside jax.shard_map
    nothing happens.
    """
    axes = tuple(frozenset[str]().union(*(jax.typeof(operand).manual_axis_type.varying for operand in operands)))
    return jax.tree.map(lambda of: lax.pcast(of, axes, to="varying"), tree) if axes else tree
