"""temporary"""

import jax, jax.numpy as jnp
from flax import nnx


class Tower(nnx.Module):
    def __init__(self, in_width, layer_widths, rngs, out_width=None, activation="relu", dtype=None):
        ws = [in_width, *layer_widths]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs, dtype=dtype) for a, b in zip(ws, ws[1:])])
        self.last = None if out_width is None else nnx.Linear(ws[-1], out_width, rngs=rngs)

    def __call__(self, x):
        for l in self.layers:
            x = jax.nn.relu(l(x))
        return x if self.last is None else self.last(x.astype(jnp.float32))
