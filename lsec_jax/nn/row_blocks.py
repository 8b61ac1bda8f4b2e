"""Functions of rows, applied to blocks of them so that what is between stays in a CPU's cache."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Numbers of one block's largest intermediate result: 2 MB in float32, about a core's second-level cache.
BLOCK_VALUES = 2**19


def in_row_blocks(function: Callable[..., Any], arrays: Sequence[Any], values_per_row: int) -> Any:
    """Applies a function that treats every row by itself; on a CPU to one block of rows after the other.

    Nothing of a block is kept for the backward pass, which computes it again: that is faster than to write it to
    memory and read it. The last block may be filled with rows of zeros, whose results are dropped.

    Args:
        function: from arrays [c, ...] to a tree of arrays [c, ...]; what else it reads is the same for all rows.
        arrays: trees of arrays [b, ...].
        values_per_row: numbers of the largest intermediate result of a row.

    Returns:
        `function(*arrays)`.
    """
    num_rows = len(jax.tree.leaves(arrays)[0])
    num_blocks = _num_blocks(num_rows, values_per_row)
    if jax.default_backend() != "cpu" or num_blocks <= 1:
        return function(*arrays)
    size = math.ceil(num_rows / num_blocks)
    padding = num_blocks * size - num_rows

    def divide(array: jax.Array) -> jax.Array:
        if padding:
            array = jnp.pad(array, ((0, padding), *[(0, 0)] * (array.ndim - 1)))
        return array.reshape(num_blocks, size, *array.shape[1:])

    # A loop is no place where XLA could merge the second computation with the first one.
    one = jax.checkpoint(lambda block: function(*block), prevent_cse=False)
    found = lax.map(one, jax.tree.map(divide, tuple(arrays)))
    return jax.tree.map(lambda of: of.reshape(-1, *of.shape[2:])[:num_rows], found)


def _num_blocks(num_rows: int, values_per_row: int) -> int:
    """As few as the cache allows, or a few more that need no padding, which copies all arrays."""
    least = min(num_rows, math.ceil(num_rows * values_per_row / BLOCK_VALUES))
    return next((count for count in range(max(least, 1), 2 * least) if num_rows % count == 0), least)
