"""Declared fields as vectors, from the rows of the tables that a batch looked up."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax.declaration.layout import FieldLayout, Layout, SequenceLayout
from lsec_jax.nn.attention import masked_mean
from lsec_jax.nn.dense import dense

Batch = Mapping[str, Any]
Rows = Mapping[str, Float[Array, "b s d"]]


class Behaviours(NamedTuple):
    """One behaviour sequence of each row.

    Attributes:
        values: the fields of each element side by side, [b, t, f], newest last, anything where the mask is False.
        mask: [b, t] bool.
        projection: from f to d.
    """

    values: Float[Array, "b t f"]
    mask: Bool[Array, "b t"]
    projection: nnx.Linear

    @property
    def elements(self) -> Float[Array, "b t d"]:
        """The projected elements."""
        weights, bias = self.projection.kernel[...], self.projection.bias
        assert bias is not None
        return dense(self.values.astype(self.projection.dtype), weights, bias[...])

    def mean(self) -> Float[Array, "b d"]:
        """Mean of the projected elements in float32, 0 of none; the values' mean is projected, not each element."""
        weights, bias = self.projection.kernel[...], self.projection.bias
        assert bias is not None
        found = dense(masked_mean(self.values, self.mask), weights, bias[...])
        return jnp.where(self.mask.any(axis=1)[:, None], found, 0.0)


class Fields(NamedTuple):
    """What a ranker reads of a batch; widths as `FieldEncoder` says.

    Attributes:
        context: e_c, the fields of this part side by side.
        target: the target's fields side by side.
        target_vector: e_vt, the projection of `target` to d.
        dynamic: e_d, the fields of this part side by side.
        sequences: by name.
    """

    context: Float[Array, "b c"]
    target: Float[Array, "b f"]
    target_vector: Float[Array, "b d"]
    dynamic: Float[Array, "b e"]
    sequences: Mapping[str, Behaviours]


def field_width(field: FieldLayout, layout: Layout, width: int) -> int:
    """Numbers of one field's vector, or of one element's."""
    if field.kind == "ids":
        return table_width(field.table, layout, width)
    return field.stop - field.start


def table_width(name: str, layout: Layout, width: int) -> int:
    """Width of a table: its own, or d."""
    return next(of.width for of in layout.tables if of.name == name) or width


class FieldEncoder(nnx.Module):
    """Puts the fields of each part side by side, and projects the target's, and those of each element, to d."""

    def __init__(self, layout: Layout, width: int, dtype: Any, rngs: nnx.Rngs):
        self.layout, self.width, self.dtype = layout, width, dtype
        self.part_widths = {
            part: tuple(field_width(of, layout, width) for of in layout.fields if of.part == part)
            for part in ("context", "target", "dynamic")
        }
        options = {"dtype": dtype, "kernel_init": nnx.initializers.glorot_uniform(), "rngs": rngs}
        self.target_projection = nnx.Linear(sum(self.part_widths["target"]), width, **options)
        self.element_projections = nnx.Dict(
            {of.name: nnx.Linear(_element_width(of, layout, width), width, **options) for of in layout.sequences}
        )

    def __call__(self, rows: Rows, batch: Batch) -> Fields:
        """Reads a batch.

        Args:
            rows: `table[batch["ids"][name]]` for each table.
            batch: of an `EventEncoder`.
        """
        parts = {name: self._part(name, rows, batch) for name in self.part_widths}
        sequences = {
            of.name: Behaviours(
                self._elements(of, rows, batch), batch["masks"][of.name], self.element_projections[of.name]
            )
            for of in self.layout.sequences
        }
        vector = self.target_projection(parts["target"].astype(self.dtype))
        return Fields(parts["context"], parts["target"], vector, parts["dynamic"], sequences)

    def _part(self, part: str, rows: Rows, batch: Batch) -> Float[Array, "b _"]:
        values = [_values(of, rows, batch) for of in self.layout.fields if of.part == part]
        return jnp.concatenate([*values, jnp.zeros((len(batch["numbers"]), 0))], axis=1)

    def _elements(self, sequence: SequenceLayout, rows: Rows, batch: Batch) -> Float[Array, "b t _"]:
        values = []
        for field in sequence.fields:
            if field.kind == "ids":
                values.append(rows[field.table][:, field.start : field.stop])
            else:
                numbers = batch["numbers"][:, field.start : field.stop]
                values.append(numbers.reshape(len(numbers), sequence.length, -1))
        return jnp.concatenate(values, axis=-1)


def _element_width(sequence: SequenceLayout, layout: Layout, width: int) -> int:
    return sum(
        table_width(of.table, layout, width) if of.kind == "ids" else (of.stop - of.start) // sequence.length
        for of in sequence.fields
    )


def _values(field: FieldLayout, rows: Rows, batch: Batch) -> Float[Array, "b _"]:
    if field.kind == "numbers":
        return batch["numbers"][:, field.start : field.stop]
    found = rows[field.table][:, field.start : field.stop]
    return found.reshape(len(found), -1)


def side_by_side(parts: Sequence[Float[Array, "b _"]]) -> Float[Array, "b _"]:
    """Concatenates vectors of the same rows in float32, which towers and gradients of the shared vector are in."""
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=1)
