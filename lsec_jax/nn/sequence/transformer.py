"""Stacked Transformer blocks (Vaswani et al. 2017; eLiveRec Eq. 3-4)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.nn.attention import target_attention
from lsec_jax.nn.dense import dense
from lsec_jax.nn.dropout import check_rate, dropout
from lsec_jax.nn.layer_norm import LayerNorm
from lsec_jax.nn.sequence.self_attention import self_attention

_POSITION_STD = 0.02


class TransformerBlock(nnx.Module):
    """LN(a + FFN(a)) with a = LN(x + Concat(head_1, ..., head_h) W); FFN(a) = relu(a W1 + b1) W2 + b2 (Eq. 3)."""

    def __init__(self, width: int, num_heads: int, ffn_width: int, rngs: nnx.Rngs):
        init = jax.nn.initializers.glorot_uniform()
        self.query_weights, self.key_weights, self.value_weights = (
            nnx.Param(init(rngs.params(), (width, width), jnp.float32)) for _ in range(3)
        )
        self.output_weights = nnx.Param(init(rngs.params(), (width, width), jnp.float32))
        self.ffn_weights = nnx.Param(init(rngs.params(), (width, ffn_width), jnp.float32))
        self.ffn_bias = nnx.Param(jnp.zeros(ffn_width))
        self.ffn_output_weights = nnx.Param(init(rngs.params(), (ffn_width, width), jnp.float32))
        self.ffn_output_bias = nnx.Param(jnp.zeros(width))
        self.attention_norm, self.ffn_norm = LayerNorm(width), LayerNorm(width)
        self.num_heads = num_heads

    def attend(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"], scale: float, is_causal: bool
    ) -> Float[Array, "b t d"]:
        """Concat(head_1, ..., head_h) W."""
        *rows, width = x.shape
        queries, keys, values = (
            dense(x, weights[...]).reshape(*rows, self.num_heads, -1)
            for weights in (self.query_weights, self.key_weights, self.value_weights)
        )
        heads = self_attention(queries, keys, values, mask, scale=scale, is_causal=is_causal)
        return dense(heads.reshape(*rows, width), self.output_weights[...])

    def feed_forward(
        self, x: Float[Array, "b t d"], rate: float, key: Array | None, row_ids: Int[Array, " b"] | None
    ) -> Float[Array, "b t d"]:
        """relu(x W1 + b1) W2 + b2, with dropout between."""
        hidden = jax.nn.relu(dense(x, self.ffn_weights[...], self.ffn_bias[...]))
        hidden = dropout(hidden, rate, key, row_ids)
        return dense(hidden, self.ffn_output_weights[...], self.ffn_output_bias[...])


class TransformerEncoder(nnx.Module):
    """Blocks with normalisation after each residual; every element sees all elements, or only what came before it.

    Departures from eLiveRec: positions, which the paper does not mention, are an option, and count from the newest
    element, so that the padding's length does not matter; dropout is not specified.
    """

    def __init__(
        self,
        width: int,
        rngs: nnx.Rngs,
        *,
        num_layers: int = 2,
        num_heads: int = 8,
        ffn_width: int | None = None,
        max_length: int = 50,
        has_positions: bool = True,
        is_causal: bool = False,
        scale: str = "width",
        dropout_rate: float = 0.0,
        dtype: DTypeLike | None = None,
    ):
        """Draws the weights.

        Args:
            width: d, of the elements and of the states; a multiple of num_heads.
            rngs: stream "params".
            num_layers: how many blocks; the paper: stacked.
            num_heads: h; the paper: 8.
            ffn_width: of the hidden layer of the FFN; None = width. Not specified; chosen because SASRec has it.
            max_length: of any sequence, for the positions.
            has_positions: whether a learnt vector of its position is added to each element.
            is_causal: whether an element sees only itself and those before it, as predicting the next one needs.
            scale: logits are divided by sqrt(d) ("width", Eq. 4) or sqrt(d / h) ("head", Vaswani et al.).
            dropout_rate: of the input, of what each half of a block adds, and of the FFN's hidden layer.
            dtype: of products and activations, for example bfloat16; parameters, normalisation and states are float32.

        Raises:
            ValueError: for a width that the heads cannot share, an unknown scale, or a rate outside [0, 1).
        """
        if width % num_heads:
            raise ValueError(f"width {width} is no multiple of num_heads {num_heads}; change one of them")
        if scale not in ("width", "head"):
            raise ValueError(f"scale '{scale}': valid are 'width' and 'head'")
        check_rate(dropout_rate)
        self.blocks = nnx.List(
            [TransformerBlock(width, num_heads, ffn_width or width, rngs) for _ in range(num_layers)]
        )
        draw = jax.nn.initializers.normal(_POSITION_STD)
        self.positions = nnx.Param(draw(rngs.params(), (max_length, width), jnp.float32)) if has_positions else None
        self.is_causal, self.dropout_rate, self.dtype = is_causal, dropout_rate, dtype
        self.scale = (width if scale == "width" else width // num_heads) ** -0.5

    def __call__(
        self,
        elements: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        target: Float[Array, "b d"],
        key: Array | None = None,
        row_ids: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the states, [b, t, d] float32, 0 where masked; the target plays no part in them.

        Args:
            elements: newest last; the padding in front may hold anything.
            mask: True = an element.
            target: only `pool` looks at it.
            key: of the dropout; None = evaluation.
            row_ids: the rows' places in the whole batch, for the dropout.

        Raises:
            ValueError: for sequences longer than max_length, if there are positions.
        """
        num_blocks, kept = len(self.blocks), mask[:, :, None]
        keys = [None] * (3 * num_blocks + 1) if key is None else list(jax.random.split(key, 3 * num_blocks + 1))
        states = jnp.where(kept, elements, 0.0).astype(jnp.float32)
        if self.positions is not None:
            states = states + jnp.broadcast_to(self._positions(elements.shape[1]), states.shape)
        states = dropout(states, self.dropout_rate, keys[0], row_ids)
        for i, block in enumerate(self.blocks):
            first, hidden, second = keys[3 * i + 1 : 3 * i + 4]
            added = block.attend(self._cast(states), mask, self.scale, self.is_causal)
            states = block.attention_norm(states + dropout(added, self.dropout_rate, first, row_ids))
            added = block.feed_forward(self._cast(states), self.dropout_rate, hidden, row_ids)
            states = block.ffn_norm(states + dropout(added, self.dropout_rate, second, row_ids))
        return jnp.where(kept, states, 0.0)

    def pool(
        self, states: Float[Array, "b t d"], mask: Bool[Array, "b t"], target: Float[Array, "b d"]
    ) -> Float[Array, "b d"]:
        """Attention of the target to the states, scaled by 1 / sqrt(d) (Eq. 4, 6); causal: the newest state.

        Not specified; chosen because it is what eLiveRec does to each component after disentangling.
        """
        if self.is_causal:
            return states[:, -1]
        return target_attention(target, states, states, mask, states.shape[-1] ** -0.5)

    def _positions(self, length: int) -> Float[Array, "1 t d"]:
        assert self.positions is not None
        table = self.positions[...]
        if length > len(table):
            raise ValueError(f"sequences of {length} elements; the encoder has positions for {len(table)}")
        return table[:length][::-1][None]

    def _cast(self, states: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return states if self.dtype is None else states.astype(self.dtype)
