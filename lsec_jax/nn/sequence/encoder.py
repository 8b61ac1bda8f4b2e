"""What every sequence encoder does, and building one by its name."""

import inspect
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lsec_jax.config import ConfigError
from lsec_jax.nn.sequence.din import DinEncoder
from lsec_jax.nn.sequence.gru import GruEncoder
from lsec_jax.nn.sequence.hgn import HgnEncoder
from lsec_jax.nn.sequence.transformer import TransformerEncoder


@runtime_checkable
class Encoder(Protocol):
    """Turns the elements of sequences into states, and states into one vector.

    Sequences are padded in front: the newest element stands last. What the padding holds, and how much of it there is,
    changes nothing.
    """

    def __call__(
        self,
        elements: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        target: Float[Array, "b d"],
        key: Array | None = None,
        row_ids: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns a state for each element, [b, t, d] float32, 0 where masked.

        Args:
            elements: of the sequences.
            mask: True = an element, False = padding.
            target: what the sequence is read for; "din" and "hgn" look at it.
            key: of the dropout, which "transformer" has; None = evaluation.
            row_ids: the rows' places in the whole batch, for the dropout.
        """
        ...

    def pool(
        self, states: Float[Array, "b t d"], mask: Bool[Array, "b t"], target: Float[Array, "b d"]
    ) -> Float[Array, "b d"]:
        """Returns one vector per row, 0 of an empty sequence."""
        ...


ENCODERS: dict[str, type[TransformerEncoder] | type[DinEncoder] | type[HgnEncoder] | type[GruEncoder]] = {
    "transformer": TransformerEncoder,
    "din": DinEncoder,
    "hgn": HgnEncoder,
    "gru": GruEncoder,
}


def build(kind: str, width: int, rngs: nnx.Rngs, **options: Any) -> Encoder:
    """Builds an encoder.

    Args:
        kind: one of ENCODERS.
        width: d, of the elements, the target and the states.
        rngs: stream "params".
        options: of the encoder's class.

    Raises:
        ConfigError: for an unknown kind or option, with the valid ones, or a value that the encoder refuses.
    """
    if kind not in ENCODERS:
        raise ConfigError(f"sequence encoder '{kind}': valid are {', '.join(ENCODERS)}")
    parameters = inspect.signature(vars(ENCODERS[kind])["__init__"]).parameters.values()
    valid = [of.name for of in parameters if of.kind is inspect.Parameter.KEYWORD_ONLY]
    if unknown := sorted(options.keys() - set(valid)):
        raise ConfigError(f"sequence encoder '{kind}' has no option '{unknown[0]}'; valid are {', '.join(valid)}")
    try:
        return ENCODERS[kind](width, rngs, **options)
    except ValueError as error:
        raise ConfigError(f"sequence encoder '{kind}': {error}") from None
