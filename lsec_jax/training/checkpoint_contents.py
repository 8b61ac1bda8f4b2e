"""What a checkpoint says of its arrays, to tell another model's from a damaged one: shapes, types and checksums.

A checksum is a function of an array's values alone. It does not depend on the mesh, nor on rows of zeros at the end of
an embedding table, which pad it to a multiple of the devices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
_MAX_LINES = 8


def describe(state: Any) -> dict[str, dict[str, Any]]:
    """Returns shape, dtype and checksum of each array by its path; all processes call it, and get the same."""
    leaves = _by_path(state)
    checksums = jax.device_get(_checksums(list(leaves.values())))
    return {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": int(checksum)}
        for (path, leaf), checksum in zip(leaves.items(), checksums, strict=True)
    }


def misfits(stored: Mapping[str, Any], template: Any) -> list[str]:
    """Returns why a checkpoint cannot be of the template's model: 'path: stored -> template'; none where it fits.

    Embedding tables and their moments may have more or fewer rows than stored.
    """
    leaves = _by_path(template)
    tables = {path for path in leaves if ".tables[" in path}

    def form(path: str, shape: Sequence[int], dtype: Any) -> str:
        sizes = ["any", *shape[1:]] if path in tables and shape else shape
        return f"{dtype}[{', '.join(map(str, sizes))}]"

    old = {path: form(path, of["shape"], of["dtype"]) for path, of in stored.items()}
    new = {path: form(path, leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    lines = [
        f"{path}: {old.get(path, '(absent)')} -> {new.get(path, '(absent)')}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    ]
    return lines if len(lines) <= _MAX_LINES else [*lines[:_MAX_LINES], f"and {len(lines) - _MAX_LINES} more"]


def damaged(stored: Mapping[str, Any], state: Any) -> list[str]:
    """Returns the paths of the arrays whose values are not those that were stored."""
    return [path for path, of in describe(state).items() if of["checksum"] != stored[path]["checksum"]]


def _by_path(state: Any) -> dict[str, Any]:
    """Arrays by path, for example "params.tables['user']"."""
    return {
        jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@jax.jit
def _checksums(leaves: list[Array]) -> list[Array]:
    return [_checksum(leaf) for leaf in leaves]


def _checksum(values: Array) -> Array:
    """Sum of the words, each times an odd number of its place, modulo 2**32: any single wrong word changes it."""
    values = values.astype(jnp.uint8) if values.dtype == jnp.bool_ else values
    words = lax.bitcast_convert_type(values, _WORDS[np.dtype(values.dtype).itemsize]).astype(jnp.uint32)
    places, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        places += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(words * (2 * places + 1), dtype=jnp.uint32)
