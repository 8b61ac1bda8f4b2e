"""The keys of sequence encoders, which rankers share, and how an encoder is built from them."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx

from lsec_jax.config import ConfigError, require_at_least, require_choice
from lsec_jax.declaration.layout import SequenceLayout
from lsec_jax.nn.sequence import encoder

ENCODERS = tuple(encoder.ENCODERS)


@dataclasses.dataclass
class EncoderConfig:
    """Keys of encoders; each encoder reads its own.

    Attributes:
        num_layers: blocks of a Transformer.
        num_heads: of its attention.
        feed_forward_width: hidden width of its feed-forward nets; 0 = 4 d.
        attention_scale: "head" divides scores by sqrt(d / heads), "width" by sqrt(d) as the paper's Eq. 4.
        has_positions: whether a Transformer, or HGN's instance gates, learn positions of sequences that are declared as
            ordered. A GRU reads an order anyway.
        activation_widths: hidden widths of DIN's activation unit.
        activation: of these layers, "prelu" or "sigmoid".
    """

    num_layers: int = 1
    num_heads: int = 4
    feed_forward_width: int = 0
    attention_scale: str = "head"
    has_positions: bool = True
    activation_widths: tuple[int, ...] = (36,)
    activation: str = "prelu"

    def encoder_uses(self, kinds: Collection[str]) -> dict[str, bool]:
        """Which keys encoders of some kinds read."""
        of_transformer = ("num_layers", "num_heads", "feed_forward_width", "attention_scale")
        of_din = ("activation_widths", "activation")
        return {
            **dict.fromkeys(of_transformer, "transformer" in kinds),
            **dict.fromkeys(of_din, "din" in kinds),
            "has_positions": bool({"transformer", "hgn"} & {*kinds}),
        }

    def validate_encoder(self, kinds: Collection[str]) -> None:
        """Checks the keys that encoders of some kinds read; raises ConfigError."""
        for key in ("num_layers", "num_heads"):
            require_at_least(f"config.model.{key}", getattr(self, key), 1)
        require_at_least("config.model.feed_forward_width", self.feed_forward_width, 0)
        require_choice("config.model.attention_scale", self.attention_scale, ("head", "width"))
        require_choice("config.model.activation", self.activation, ("prelu", "sigmoid"))
        if not self.activation_widths or min(self.activation_widths) < 1:
            raise ConfigError(f"config.model.activation_widths = {self.activation_widths}: give widths of at least 1")
        width: int = self.embedding_dim  # type: ignore[attr-defined]
        if "transformer" in kinds and width % self.num_heads:
            raise ConfigError(
                f"config.model.num_heads = {self.num_heads} heads cannot share config.model.embedding_dim = {width}; "
                "give a divisor of it"
            )


def build_encoder(config: Any, kind: str, sequence: SequenceLayout, rngs: nnx.Rngs) -> encoder.Encoder:
    """Builds the encoder of one sequence.

    Args:
        config: an `EncoderConfig` that is an `ImpressionConfig` too.
        kind: of ENCODERS.
        sequence: what is encoded.
        rngs: of the weights.

    Raises:
        ConfigError: an encoder that reads an order, for a sequence that has none.
    """
    has_positions = config.has_positions and sequence.is_ordered
    if kind == "gru" and not sequence.is_ordered:
        raise ConfigError(
            f"a GRU reads behaviours in their order, and the sequence '{sequence.name}' is declared with is_ordered="
            "False; choose another config.model.encoder, or declare the order"
        )
    options: dict[str, Any] = {"dtype": jnp.dtype(config.dtype)}
    if kind == "transformer":
        options |= {
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "ffn_width": config.feed_forward_width or 4 * config.embedding_dim,
            "max_length": sequence.length,
            "has_positions": has_positions,
            "scale": config.attention_scale,
            "dropout_rate": config.dropout,
        }
    elif kind == "din":
        options |= {"layer_widths": tuple(config.activation_widths), "activation": config.activation}
    elif kind == "hgn":
        options |= {"max_length": sequence.length, "has_positions": has_positions}
    return encoder.build(kind, config.embedding_dim, rngs, **options)


def values_per_row(config: Any, kind: str, length: int) -> int:
    """Numbers of the largest result between the elements of a sequence and the states of its encoder.

    Args:
        config: as of `build_encoder`.
        kind: of ENCODERS.
        length: of the sequence.
    """
    width = config.embedding_dim
    widths = {"transformer": config.feed_forward_width or 4 * width, "din": max(config.activation_widths)}
    return length * max(width, widths.get(kind, 0))
