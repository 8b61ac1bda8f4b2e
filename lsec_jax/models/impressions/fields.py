"""Declared fields as vectors, from the rows of the tables that a batch looked up."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lsec_jax.declaration.layout import FieldLayout, Layout, NeighbourhoodLayout, SequenceLayout
from lsec_jax.nn.attention import masked_mean
from lsec_jax.nn.dense import dense

Batch = Mapping[str, Any]
Rows = Mapping[str, Float[Array, "b s d"]]

_TARGET = ""  # the owner of the target's projection; sequences have names


class Behaviours(NamedTuple):
    """One behaviour sequence of each row.

    Attributes:
        values: the fields of each element side by side, [b, t, f], newest last, anything where the mask is False.
        mask: [b, t] bool.
        projection: from f to d.
    """

    values: Float[Array, "b t f"]
    mask: Bool[Array, "b t"]
    projection: "Projection"

    @property
    def elements(self) -> Float[Array, "b t d"]:
        """The projected elements."""
        return self.projection(self.values)

    def mean(self) -> Float[Array, "b d"]:
        """Mean of the projected elements in float32, 0 of none; the values' mean is projected, not each element."""
        found = dense(masked_mean(self.values, self.mask), self.projection.weights, self.projection.bias)
        return jnp.where(self.mask.any(axis=1)[:, None], found, 0.0)


class Hops(NamedTuple):
    """A node of each row and the neighbours that were drawn for it in one view.

    Attributes:
        vectors: of the node [b, d], of its neighbours [b, k1, d], of theirs [b, k1, k2, d] and so on.
        masks: True = a neighbour, [b, k1], [b, k1, k2] and so on.
    """

    vectors: tuple[Float[Array, "b *k d"], ...]
    masks: tuple[Bool[Array, "b *k"], ...]


class TreePath(NamedTuple):
    """The path from a tree's root to a node of each row.

    Attributes:
        vectors: of the nodes on it, root first, [b, h, d]; anything where the mask is False.
        mask: True = a node, [b, h]; the padding stands at the end.
    """

    vectors: Float[Array, "b h d"]
    mask: Bool[Array, "b h"]


class Projection(NamedTuple):
    """x W + b.

    Attributes:
        weights: [f, d] float32.
        bias: [d] float32.
        dtype: of the product.
    """

    weights: Float[Array, "f d"]
    bias: Float[Array, " d"]
    dtype: Any

    def __call__(self, values: Float[Array, "*b f"]) -> Float[Array, "*b d"]:
        """[*b, f] -> [*b, d]."""
        return dense(values.astype(self.dtype), self.weights, self.bias)


class Fields(NamedTuple):
    """What a ranker reads of a batch; widths as `FieldEncoder` says.

    Attributes:
        context: e_c, the fields of this part side by side.
        target: the target's fields side by side.
        target_vector: e_vt, the projection of `target` to d.
        dynamic: e_d, the fields of this part side by side.
        sequences: by name.
        neighbours: by name of the neighbourhood.
        paths: by name.
    """

    context: Float[Array, "b c"]
    target: Float[Array, "b f"]
    target_vector: Float[Array, "b d"]
    dynamic: Float[Array, "b e"]
    sequences: Mapping[str, Behaviours]
    neighbours: Mapping[str, Hops] = {}
    paths: Mapping[str, TreePath] = {}


def history_products(fields: Fields) -> list[Float[Array, "b d"]]:
    """The mean of each sequence's elements times the target's vector."""
    return [of.mean() * fields.target_vector.astype(jnp.float32) for of in fields.sequences.values()]


def field_width(field: FieldLayout, layout: Layout, width: int) -> int:
    """Numbers of one field's vector, or of one element's."""
    if field.kind == "ids":
        return table_width(field.table, layout, width)
    return field.stop - field.start


def table_width(name: str, layout: Layout, width: int) -> int:
    """Width of a table: its own, or d."""
    return next(of.width for of in layout.tables if of.name == name) or width


class FieldEncoder(nnx.Module):
    """Puts the fields of each part side by side, and projects the target's, and those of each element, to d.

    Fields of one table are projected by the same weights, in the target and in all sequences: what a behaviour and the
    target have in common is then the same in both vectors from the start, as without a projection.
    """

    def __init__(self, layout: Layout, width: int, dtype: Any, rngs: nnx.Rngs):
        self.layout, self.width, self.dtype = layout, width, dtype
        self.part_widths = {
            part: tuple(field_width(of, layout, width) for of in layout.fields if of.part == part)
            for part in ("context", "target", "dynamic")
        }
        # By what is projected: the name of its weights, and its width, for each field.
        self.projected = {_TARGET: self._weights_of([of for of in layout.fields if of.part == "target"], _TARGET, 1)}
        self.projected |= {of.name: self._weights_of(of.fields, of.name, of.length) for of in layout.sequences}
        init = jax.nn.initializers.glorot_uniform()
        sizes = dict(pair for pairs in self.projected.values() for pair in pairs)
        self.weights = nnx.Dict(
            {name: nnx.Param(init(rngs.params(), (size, width), jnp.float32)) for name, size in sizes.items()}
        )
        self.biases = nnx.Dict({name: nnx.Param(jnp.zeros(width)) for name in self.projected})

    def _weights_of(self, fields: Sequence[FieldLayout], owner: str, elements: int) -> tuple[tuple[str, int], ...]:
        """(name of the weights, their rows) of each field; a table's second field in one vector has its own."""
        found: list[tuple[str, int]] = []
        for field in fields:
            if field.kind == "ids":
                same = sum(name.split("#")[0] == f"table {field.table}" for name, _ in found)
                size = table_width(field.table, self.layout, self.width)
                found.append((f"table {field.table}#{same}", size))
            else:
                found.append((f"numbers {owner} {field.name}", (field.stop - field.start) // elements))
        return tuple(found)

    def projection(self, owner: str) -> Projection:
        """Of the target (""), or of a sequence's elements."""
        weights = jnp.concatenate([self.weights[name][...] for name, _ in self.projected[owner]])
        return Projection(weights, self.biases[owner][...], self.dtype)

    def __call__(self, rows: Rows, batch: Batch) -> Fields:
        """Reads a batch.

        Args:
            rows: `table[batch["ids"][name]]` for each table.
            batch: of an `EventEncoder`.
        """
        parts = {name: self._part(name, rows, batch) for name in self.part_widths}
        sequences = {
            of.name: Behaviours(self._elements(of, rows, batch), batch["masks"][of.name], self.projection(of.name))
            for of in self.layout.sequences
        }
        vector = self.projection(_TARGET)(parts["target"])
        neighbours = {of.name: _hops(of, rows, batch) for of in self.layout.neighbourhoods}
        paths = {of.name: TreePath(rows[of.name], batch["ids"][of.name] > 0) for of in self.layout.paths}
        return Fields(parts["context"], parts["target"], vector, parts["dynamic"], sequences, neighbours, paths)

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


def _values(field: FieldLayout, rows: Rows, batch: Batch) -> Float[Array, "b _"]:
    if field.kind == "numbers":
        return batch["numbers"][:, field.start : field.stop]
    found = rows[field.table][:, field.start : field.stop]
    return found.reshape(len(found), -1)


def _hops(of: NeighbourhoodLayout, rows: Rows, batch: Batch) -> Hops:
    table, ids = rows[of.table], batch["ids"][of.table]
    vectors, masks, shape = [table[:, of.own]], list[Array](), tuple[int, ...]((len(table),))
    for (start, stop), fanout in zip(of.hops, of.fanouts, strict=True):
        shape = (*shape, fanout)
        vectors.append(table[:, start:stop].reshape(*shape, table.shape[-1]))
        masks.append(ids[:, start:stop].reshape(shape) > 0)
    return Hops(tuple(vectors), tuple(masks))


def side_by_side(parts: Sequence[Float[Array, "b _"]]) -> Float[Array, "b _"]:
    """Concatenates vectors of the same rows in float32, which towers and gradients of the shared vector are in."""
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=1)
