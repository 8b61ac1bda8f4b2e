"""A gated recurrent unit over the sequence (Cho et al. 2014, Eq. 5-8; GRU4Rec is its use in recommendation).

Departure: the reset gate acts on the product with the last state, n = tanh(W x + b + r * (U h + c)), as in cuDNN's and
every framework's, so that one product serves all three gates.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.nn.dense import dense
from lsec_jax.nn.replicas import vary_as


class GruEncoder(nnx.Module):
    """h_i = (1 - z) n + z h_{i-1}, h_0 = 0; padding leaves the state as it is."""

    def __init__(self, width: int, rngs: nnx.Rngs, *, dtype: DTypeLike | None = None):
        """Draws the weights: Glorot uniform on the input's side, orthogonal on the state's.

        Args:
            width: d, of the elements and of the states.
            rngs: stream "params".
            dtype: of the products; parameters, gates and states are float32.
        """
        init, turn = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        inputs = [init(rngs.params(), (width, width), jnp.float32) for _ in range(3)]
        states = [turn(rngs.params(), (width, width), jnp.float32) for _ in range(3)]
        self.input_weights = nnx.Param(jnp.concatenate(inputs, axis=1))  # reset, update, new
        self.input_bias = nnx.Param(jnp.zeros(3 * width))
        self.state_weights = nnx.Param(jnp.concatenate(states, axis=1))
        self.new_bias = nnx.Param(jnp.zeros(width))
        self.dtype = dtype

    def __call__(
        self,
        elements: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        target: Float[Array, "b d"],
        key: Array | None = None,
        row_ids: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the states, [b, t, d] float32, 0 where masked; target and key play no part.

        Args:
            elements: newest last; the padding may hold anything.
            mask: True = an element.
            target: as of every encoder.
            key: likewise; there is no dropout here.
            row_ids: likewise.
        """
        elements = jnp.where(mask[:, :, None], elements, 0.0)
        arriving = dense(self._cast(elements), self.input_weights[...], self.input_bias[...])
        by_time = arriving.swapaxes(0, 1).astype(jnp.float32), mask.T[:, :, None]
        start = vary_as(jnp.zeros(elements[:, 0].shape), elements)
        _, states = lax.scan(self._step, start, by_time)
        return jnp.where(mask[:, :, None], states.swapaxes(0, 1), 0.0)

    def pool(
        self, states: Float[Array, "b t d"], mask: Bool[Array, "b t"], target: Float[Array, "b d"]
    ) -> Float[Array, "b d"]:
        """The newest state, which stands last; 0 of an empty sequence."""
        return states[:, -1]

    def _step(
        self, state: Float[Array, "b d"], arrived: tuple[Float[Array, "b f"], Bool[Array, "b 1"]]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
        inputs, is_element = arrived
        width = state.shape[1]
        recurrent = dense(self._cast(state), self.state_weights[...]).astype(jnp.float32)
        gates = jax.nn.sigmoid(inputs[:, : 2 * width] + recurrent[:, : 2 * width])
        reset, update = gates[:, :width], gates[:, width:]
        bias = jnp.broadcast_to(self.new_bias[...], state.shape)
        new = jnp.tanh(inputs[:, 2 * width :] + reset * (recurrent[:, 2 * width :] + bias))
        state = jnp.where(is_element, (1 - update) * new + update * state, state)
        return state, state

    def _cast(self, values: Float[Array, "..."]) -> Float[Array, "..."]:
        return values if self.dtype is None else values.astype(self.dtype)
