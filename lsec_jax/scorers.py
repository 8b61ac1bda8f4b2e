"""Scorers: what gives pairs of a source and a target node a score, higher being better."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lsec_jax.nn import replicas

AnyArray = Array | np.ndarray

_PAIR_CHUNK = 16  # users whose candidates' rows are gathered at once
_MLP_CHUNK = 64  # users whose hidden units are added up together
_UNITS = 16  # hidden units added at once: the running scores are read and written that many times less often


@runtime_checkable
class Scorer(Protocol):
    """What can be ranked. Either method may return a numpy or a jax array of floats; higher is better."""

    def score_all(self, source_ids: np.ndarray) -> AnyArray:
        """Scores all targets: source_ids [b] int32 -> [b, n]."""
        ...

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> AnyArray:
        """Scores given targets: source_ids [b], target_ids [b, k] int32 -> [b, k]."""
        ...


class NodeScorer(Scorer, Protocol):
    """A scorer made of arrays, some of which have a row per node; a dataclass that is a pytree.

    Where these arrays are divided over devices (`nn/replicas.py`), `score_all` scores a device's own targets, what
    fills up the last part included, and `score_pairs` gives all devices the scores of all pairs.

    Attributes:
        per_node: names of the fields with a row per node.
    """

    per_node: ClassVar[tuple[str, ...]]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["source_vectors", "target_vectors"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class DotScorer(NodeScorer):
    """score(u, i) = source_vectors[u] . target_vectors[i].

    Attributes:
        source_vectors: [m, d] float32.
        target_vectors: [n, d] float32.
    """

    per_node = ("source_vectors", "target_vectors")
    source_vectors: AnyArray
    target_vectors: AnyArray

    def score_all(self, source_ids: AnyArray) -> Array:
        """[b] -> [b, n] float32."""
        return _dot_all(self, source_ids)

    def score_pairs(self, source_ids: AnyArray, target_ids: AnyArray) -> Array:
        """[b], [b, k] -> [b, k] float32."""
        return _dot_pairs(self, source_ids, target_ids)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["source_half", "target_half", "output_weights", "output_bias"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class MlpScorer(NodeScorer):
    """The two-layer predictor of LSEC-GNN (Eq. 8) with its first layer applied once per node.

    W1 [v_u ; v_i] + b1 = (W1u v_u + b1) + W1i v_i, so score(u, i) = relu(source_half[u] + target_half[i]) . w + b.

    Attributes:
        source_half: W1u v_u + b1, [m, h] float32.
        target_half: W1i v_i, [n, h] float32.
        output_weights: w, [h] float32.
        output_bias: b, scalar.
    """

    per_node = ("source_half", "target_half")
    source_half: AnyArray
    target_half: AnyArray
    output_weights: AnyArray
    output_bias: AnyArray | float

    def score_all(self, source_ids: AnyArray) -> Array:
        """[b] -> [b, n] float32."""
        return _mlp_all(self, self._targets_by_unit, source_ids)

    def score_pairs(self, source_ids: AnyArray, target_ids: AnyArray) -> Array:
        """[b], [b, k] -> [b, k] float32."""
        return _mlp_pairs(self, source_ids, target_ids)

    @functools.cached_property
    def _targets_by_unit(self) -> Array:
        """target_half transposed, a hidden unit being one contiguous row: made once, not for each block of users."""
        with jax.ensure_compile_time_eval():  # or the first use inside a traced function would keep a tracer
            return jnp.asarray(self.target_half).T


# Rankings compare scores that lie close together, so these products run at full precision on every backend.
@jax.jit
def _dot_all(scorer: DotScorer, source_ids: Int[Array, " b"]) -> Float[Array, "b n"]:
    sources = replicas.take_same(jnp.asarray(scorer.source_vectors), source_ids)
    return jnp.matmul(sources, jnp.asarray(scorer.target_vectors).T, precision=lax.Precision.HIGHEST)


@jax.jit
def _dot_pairs(scorer: DotScorer, source_ids: Int[Array, " b"], target_ids: Int[Array, "b k"]) -> Float[Array, "b k"]:
    def score(source: Array, targets: Array) -> Array:
        return jnp.matmul(targets, source, precision=lax.Precision.HIGHEST)  # [k, d] x [d]

    return map_pairs(score, scorer.source_vectors, scorer.target_vectors, source_ids, target_ids)


def map_pairs(
    score: Callable[[Any, Any], Array],
    source_rows: Any,
    target_rows: Any,
    source_ids: Int[Array, " b"],
    target_ids: Int[Array, "b k"],
    batch_size: int | None = _PAIR_CHUNK,
) -> Float[Array, "b k"]:
    """Scores pairs from their rows, on the device that has the target; what a `NodeScorer` does in `score_pairs`.

    Args:
        score: of a row of one user [d] and rows of its targets [k, d], [k]; each as nested as what it is taken from.
        source_rows: array or tree of arrays, [m, d].
        target_rows: likewise, [n, d].
        source_ids: of users.
        target_ids: of each user's targets.
        batch_size: users whose targets' rows are gathered at once; None for one after the other.
    """
    source_rows, target_rows = jax.tree.map(jnp.asarray, (source_rows, target_rows))
    num_targets = len(jax.tree.leaves(target_rows)[0])
    places = replicas.local_indices(target_ids, num_targets)
    sources = jax.tree.map(lambda rows: replicas.take_same(rows, source_ids), source_rows)

    def one_user(of: tuple[Any, Array]) -> Array:
        source, targets = of
        return score(source, jax.tree.map(lambda rows: rows[targets], target_rows))

    return replicas.of_owners(lax.map(one_user, (sources, places), batch_size=batch_size), places, num_targets)


@jax.jit
def _mlp_all(scorer: MlpScorer, targets: Float[Array, "h n"], source_ids: Int[Array, " b"]) -> Float[Array, "b n"]:
    missing = -targets.shape[0] % _UNITS  # units of weight 0 up to a multiple
    sources = replicas.take_same(jnp.asarray(scorer.source_half), source_ids)
    sources = jnp.pad(sources, ((0, 0), (0, missing)))  # [b, h]
    targets = jnp.pad(targets, ((0, missing), (0, 0)))
    weights = jnp.pad(jnp.asarray(scorer.output_weights), (0, missing))
    num_users, num_targets = sources.shape[0], targets.shape[1]

    def chunk(rows: Array) -> Array:
        def add_units(group: Array, total: Array) -> Array:
            own, their, weight = (
                lax.dynamic_slice_in_dim(array, group * _UNITS, _UNITS, axis)
                for array, axis in ((rows, 1), (targets, 0), (weights, 0))
            )
            for unit in range(_UNITS):
                hidden = own[:, unit][:, None] + their[unit][None, :]
                # A ReLU that keeps NaN and is one instruction on CPU, which maximum is not.
                total = total + weight[unit] * jnp.where(hidden < 0, 0, hidden)
            return total

        start = jnp.zeros((rows.shape[0], num_targets), jnp.float32) + scorer.output_bias
        return lax.fori_loop(0, targets.shape[0] // _UNITS, add_units, start)

    size = min(_MLP_CHUNK, num_users)
    padded = jnp.pad(sources, ((0, -num_users % size), (0, 0)))
    scores = lax.map(chunk, padded.reshape(-1, size, padded.shape[1]))
    return scores.reshape(-1, num_targets)[:num_users]


@jax.jit
def _mlp_pairs(scorer: MlpScorer, source_ids: Int[Array, " b"], target_ids: Int[Array, "b k"]) -> Float[Array, "b k"]:
    def score(source: Array, targets: Array) -> Array:
        hidden = jax.nn.relu(source[None, :] + targets)
        product = jnp.matmul(hidden, jnp.asarray(scorer.output_weights), precision=lax.Precision.HIGHEST)
        return product + scorer.output_bias

    return map_pairs(score, scorer.source_half, scorer.target_half, source_ids, target_ids)
