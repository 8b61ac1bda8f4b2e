"""Embedding tables, which live beside the dense parameters."""

from collections.abc import Mapping

import jax
from jaxtyping import Array, Float


def normal_tables(key: Array, num_nodes: Mapping[str, int], width: int, std: float) -> dict[str, Float[Array, "_ d"]]:
    """Draws one table per node type from N(0, std^2); the order of the types does not matter."""
    types = sorted(num_nodes)
    keys = jax.random.split(key, len(types))
    return {name: std * jax.random.normal(own, (num_nodes[name], width)) for name, own in zip(types, keys, strict=True)}
