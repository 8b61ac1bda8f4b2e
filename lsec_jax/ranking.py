"""Scoring and ranking in blocks of users: both evaluation protocols and top-K lists.

Every block has `block_size` users (the last one is padded by repeating its last user), and the padded widths are taken
over all blocks, so that a call compiles once, and top-K lists of other users do not compile again. A model only has to
offer the two methods of `Scorer`.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lsec_jax import metrics

AnyArray = Array | np.ndarray
Csr = tuple[np.ndarray, np.ndarray]

_CHUNK = 16  # users whose scores against all targets stay in a core's cache while the hidden units are added up
_NO_TARGET = np.iinfo(np.int32).max  # out of range for every table: scatters drop it


class NanScoreError(ValueError):
    """A scorer returned NaN. `source_id` is the internal index of the first user that it happened to."""

    def __init__(self, source_id: int, who: str = "") -> None:
        self.source_id = source_id
        super().__init__(
            f"the scores of {who or f'source node {source_id}'} contain NaN; a model with NaN scores cannot be ranked. "
            "Look for a diverged run (lower the learning rate) or NaN in the features."
        )


@runtime_checkable
class Scorer(Protocol):
    """What can be ranked. Either method may return a numpy or a jax array of floats; higher is better."""

    def score_all(self, source_ids: np.ndarray) -> AnyArray:
        """Scores all targets: source_ids [b] int32 -> [b, n]."""
        ...

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> AnyArray:
        """Scores given targets: source_ids [b], target_ids [b, k] int32 -> [b, k]."""
        ...


@functools.partial(jax.tree_util.register_dataclass, data_fields=["source_vectors", "target_vectors"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class DotScorer:
    """score(u, i) = source_vectors[u] . target_vectors[i].

    Attributes:
        source_vectors: [m, d] float32.
        target_vectors: [n, d] float32.
    """

    source_vectors: AnyArray
    target_vectors: AnyArray

    def score_all(self, source_ids: np.ndarray) -> Array:
        """[b] -> [b, n] float32."""
        return _dot_all(self, source_ids)

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> Array:
        """[b], [b, k] -> [b, k] float32."""
        return _dot_pairs(self, source_ids, target_ids)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["source_half", "target_half", "output_weights", "output_bias"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class MlpScorer:
    """The two-layer predictor of LSEC-GNN (Eq. 8) with its first layer applied once per node.

    W1 [v_u ; v_i] + b1 = (W1u v_u + b1) + W1i v_i, so score(u, i) = relu(source_half[u] + target_half[i]) . w + b.

    Attributes:
        source_half: W1u v_u + b1, [m, h] float32.
        target_half: W1i v_i, [n, h] float32.
        output_weights: w, [h] float32.
        output_bias: b, scalar.
    """

    source_half: AnyArray
    target_half: AnyArray
    output_weights: AnyArray
    output_bias: AnyArray | float

    def score_all(self, source_ids: np.ndarray) -> Array:
        """[b] -> [b, n] float32."""
        return _mlp_all(self, source_ids)

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> Array:
        """[b], [b, k] -> [b, k] float32."""
        return _mlp_pairs(self, source_ids, target_ids)


# Rankings compare scores that lie close together, so these products run at full precision on every backend.
@jax.jit
def _dot_all(scorer: DotScorer, source_ids: Int[Array, " b"]) -> Float[Array, "b n"]:
    sources = jnp.asarray(scorer.source_vectors)[source_ids]
    return jnp.matmul(sources, jnp.asarray(scorer.target_vectors).T, precision=lax.Precision.HIGHEST)


@jax.jit
def _dot_pairs(scorer: DotScorer, source_ids: Int[Array, " b"], target_ids: Int[Array, "b k"]) -> Float[Array, "b k"]:
    def one_user(ids: tuple[Array, Array]) -> Array:
        source, targets = ids
        rows = jnp.asarray(scorer.target_vectors)[targets]  # [k, d]
        return jnp.matmul(rows, jnp.asarray(scorer.source_vectors)[source], precision=lax.Precision.HIGHEST)

    return lax.map(one_user, (source_ids, target_ids), batch_size=_CHUNK)


@jax.jit
def _mlp_all(scorer: MlpScorer, source_ids: Int[Array, " b"]) -> Float[Array, "b n"]:
    sources = jnp.asarray(scorer.source_half)[source_ids]  # [b, h]
    targets = jnp.asarray(scorer.target_half).T  # [h, n]: a hidden unit is one contiguous row
    weights = jnp.asarray(scorer.output_weights)
    num_users, num_targets = sources.shape[0], targets.shape[1]

    def chunk(rows: Array) -> Array:
        def add_unit(unit: Array, total: Array) -> Array:
            hidden = jax.nn.relu(rows[:, unit][:, None] + targets[unit][None, :])
            return total + weights[unit] * hidden

        start = jnp.zeros((rows.shape[0], num_targets), jnp.float32) + scorer.output_bias
        return lax.fori_loop(0, targets.shape[0], add_unit, start)

    padded = jnp.pad(sources, ((0, -num_users % _CHUNK), (0, 0)))
    scores = lax.map(chunk, padded.reshape(-1, _CHUNK, padded.shape[1]))
    return scores.reshape(-1, num_targets)[:num_users]


@jax.jit
def _mlp_pairs(scorer: MlpScorer, source_ids: Int[Array, " b"], target_ids: Int[Array, "b k"]) -> Float[Array, "b k"]:
    def one_user(ids: tuple[Array, Array]) -> Array:
        source, targets = ids
        hidden = jax.nn.relu(
            jnp.asarray(scorer.source_half)[source][None, :] + jnp.asarray(scorer.target_half)[targets]
        )
        product = jnp.matmul(hidden, jnp.asarray(scorer.output_weights), precision=lax.Precision.HIGHEST)
        return product + scorer.output_bias

    return lax.map(one_user, (source_ids, target_ids), batch_size=_CHUNK)


def full_ranking(
    scorer: Scorer,
    source_ids: np.ndarray,
    seen: Csr,
    positives: Csr,
    cutoffs: tuple[int, ...],
    block_size: int,
    offered: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Ranks the positives of every user among all targets that the user has not seen.

    Args:
        scorer: scores [b, n] for b users.
        source_ids: users to evaluate, [u].
        seen: (indptr, indices) over all users: left out of the ranking.
        positives: (indptr, indices) over all users: what should rank high.
        cutoffs: the K of the @K metrics.
        block_size: users scored at once; peak memory is a few times block_size x n x 4 bytes.
        offered: which targets are ranked at all, besides the positives, [n] bool; None = all.

    Returns:
        `metrics.full_ranking_metrics` as numpy arrays [u], NaN for users without positives.

    Raises:
        NanScoreError: a score is NaN.
        ValueError: a positive is also seen, so that it could never be found.
    """
    source_ids = np.asarray(source_ids, np.int32)
    _check_disjoint(source_ids, seen, positives)
    width = _round_up(max(1, int(_counts(positives, source_ids).max(initial=0))))
    both = _counts(seen, source_ids) + _counts(positives, source_ids)
    masked_width = _max_block_sum(both, block_size)
    parts = []
    for ids, num_real in _blocks(source_ids, block_size):
        rows, targets = _concatenate_rows([seen, positives], ids[:num_real], masked_width)
        positive_ids, positive_mask = _padded_rows(positives, ids, width)
        scores = scorer.score_all(ids)
        result, has_nan = _full_ranking_block(
            scores, rows, targets, positive_ids, positive_mask, tuple(cutoffs), offered
        )
        parts.append(_fetch(result, has_nan, ids, num_real))
    return _join(parts)


def rank_candidates(
    scorer: Scorer,
    source_ids: np.ndarray,
    target_ids: np.ndarray,
    labels: np.ndarray,
    cutoffs: tuple[int, ...],
    block_size: int,
) -> dict[str, np.ndarray]:
    """Ranks every user's candidate list.

    Args:
        scorer: scores [b, k] for b users and their candidates.
        source_ids: [u].
        target_ids: candidates, [u, k].
        labels: True = positive, [u, k].
        cutoffs: the K of the @K metrics.
        block_size: users scored at once.

    Returns:
        `metrics.candidate_metrics` as numpy arrays [u].

    Raises:
        NanScoreError: a score is NaN.
    """
    source_ids = np.asarray(source_ids, np.int32)
    parts = []
    for at, num_real in _blocks(np.arange(len(source_ids)), block_size):
        scores = scorer.score_pairs(source_ids[at], np.asarray(target_ids[at], np.int32))
        result, has_nan = _candidates_block(scores, np.asarray(labels[at], bool), tuple(cutoffs))
        parts.append(_fetch(result, has_nan, source_ids[at], num_real))
    return _join(parts)


def top_k(
    scorer: Scorer, source_ids: np.ndarray, seen: Csr | None, k: int, block_size: int, offered: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best targets of every user, best first; equal scores in the order of their ids.

    Args:
        scorer: scores [b, n] for b users.
        source_ids: [u].
        seen: (indptr, indices) over all users, left out of the lists; None = leave out nothing.
        k: length of the lists.
        block_size: users scored at once.
        offered: which targets may be listed, [n] bool; None = all.

    Returns:
        (target_ids [u, k] int32, scores [u, k] float32); -1 and -inf where fewer than k targets are left.

    Raises:
        NanScoreError: a score is NaN.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    source_ids = np.asarray(source_ids, np.int32)
    masks = [] if seen is None else [seen]
    masked_width = 1
    if seen is not None:
        # As wide as the heaviest users need, so that another slice of users has the same shapes; a user who is asked
        # for twice in a block may need more.
        heaviest = np.sort(np.diff(seen[0]))[-block_size:]
        masked_width = max(_max_block_sum(heaviest, block_size), _max_block_sum(_counts(seen, source_ids), block_size))
    target_ids = np.full((len(source_ids), k), -1, np.int32)
    scores = np.full((len(source_ids), k), -np.inf, np.float32)
    start = 0
    for ids, num_real in _blocks(source_ids, block_size):
        rows, targets = _concatenate_rows(masks, ids[:num_real], masked_width)
        (best_ids, best), has_nan = _top_k_block(scorer.score_all(ids), rows, targets, k, offered)
        best_ids, best = _fetch((best_ids, best), has_nan, ids, num_real)
        target_ids[start : start + num_real, : best.shape[1]] = best_ids
        scores[start : start + num_real, : best.shape[1]] = best
        start += num_real
    return target_ids, scores


@functools.partial(jax.jit, static_argnames="cutoffs")
def _full_ranking_block(
    scores: Float[Array, "b n"],
    masked_rows: Int[Array, " e"],
    masked_targets: Int[Array, " e"],
    positive_ids: Int[Array, "b p"],
    positive_mask: Bool[Array, "b p"],
    cutoffs: tuple[int, ...],
    offered: Bool[Array, " n"] | None,
) -> tuple[dict[str, Float[Array, " b"]], Bool[Array, " b"]]:
    scores, has_nan = _without_nan(scores)
    positive_scores = jnp.take_along_axis(scores, positive_ids, axis=1)
    negatives = _only_offered(scores, offered).at[masked_rows, masked_targets].set(-jnp.inf, mode="drop")
    best = lax.top_k(negatives, min(max(cutoffs), scores.shape[1]))[0]
    best = jnp.pad(best, ((0, 0), (0, max(cutoffs) - best.shape[1])), constant_values=-jnp.inf)
    return metrics.full_ranking_metrics(best, positive_scores, positive_mask, cutoffs), has_nan


@functools.partial(jax.jit, static_argnames="cutoffs")
def _candidates_block(
    scores: Float[Array, "b k"], labels: Bool[Array, "b k"], cutoffs: tuple[int, ...]
) -> tuple[dict[str, Float[Array, " b"]], Bool[Array, " b"]]:
    scores, has_nan = _without_nan(scores)
    return metrics.candidate_metrics(scores, labels, cutoffs), has_nan


@functools.partial(jax.jit, static_argnames="k")
def _top_k_block(
    scores: Float[Array, "b n"],
    masked_rows: Int[Array, " e"],
    masked_targets: Int[Array, " e"],
    k: int,
    offered: Bool[Array, " n"] | None,
) -> tuple[tuple[Int[Array, "b j"], Float[Array, "b j"]], Bool[Array, " b"]]:
    scores, has_nan = _without_nan(scores)
    left = _only_offered(scores, offered).at[masked_rows, masked_targets].set(-jnp.inf, mode="drop")
    best, best_ids = lax.top_k(left, min(k, scores.shape[1]))
    return (jnp.where(best == -jnp.inf, -1, best_ids), best), has_nan


def _only_offered(scores: Float[Array, "b n"], offered: Bool[Array, " n"] | None) -> Float[Array, "b n"]:
    return scores if offered is None else jnp.where(offered[None, :], scores, -jnp.inf)


def _without_nan(scores: Float[Array, "b k"]) -> tuple[Float[Array, "b k"], Bool[Array, " b"]]:
    is_nan = jnp.isnan(scores)
    return jnp.where(is_nan, -jnp.inf, scores).astype(jnp.float32), is_nan.any(axis=1)


def _blocks(rows: np.ndarray, block_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (rows of one block, how many of them are real): `block_size` rows, the last repeated."""
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    for start in range(0, len(rows), block_size):
        at = np.minimum(np.arange(start, start + block_size), len(rows) - 1)
        yield rows[at], min(block_size, len(rows) - start)


def _counts(csr: Csr, source_ids: np.ndarray) -> np.ndarray:
    return csr[0][source_ids + 1] - csr[0][source_ids]


def _round_up(width: int) -> int:
    """To a power of two: data of similar size share a compilation."""
    return 1 << (width - 1).bit_length()


def _max_block_sum(counts: np.ndarray, block_size: int) -> int:
    sums = [int(counts[at[:num_real]].sum()) for at, num_real in _blocks(np.arange(len(counts)), block_size)]
    return _round_up(max([1, *sums]))


def _flat_rows(csr: Csr, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat (positions in `ids`, targets) of some rows of a CSR pair."""
    counts = _counts(csr, ids)
    rows = np.repeat(np.arange(len(ids), dtype=np.int32), counts)
    offsets = np.repeat(csr[0][ids] - (np.cumsum(counts) - counts), counts)
    return rows, csr[1][offsets + np.arange(len(rows))].astype(np.int32)


def _concatenate_rows(csrs: list[Csr], ids: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat (positions, targets) of some rows of several CSR pairs, [width] int32, padded with targets out of range."""
    rows, targets = np.zeros(width, np.int32), np.full(width, _NO_TARGET, np.int32)
    start = 0
    for csr in csrs:
        flat_rows, flat_targets = _flat_rows(csr, ids)
        end = start + len(flat_rows)
        rows[start:end], targets[start:end] = flat_rows, flat_targets
        start = end
    return rows, targets


def _padded_rows(csr: Csr, ids: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a CSR pair as (targets [b, width] int32, mask [b, width])."""
    mask = np.arange(width)[None, :] < _counts(csr, ids)[:, None]
    targets = np.zeros(mask.shape, np.int32)
    targets[mask] = _flat_rows(csr, ids)[1]
    return targets, mask


def _check_disjoint(source_ids: np.ndarray, seen: Csr, positives: Csr) -> None:
    rows, targets = _flat_rows(positives, source_ids)
    seen_rows, seen_targets = _flat_rows(seen, source_ids)
    num_targets = 1 + max(targets.max(initial=0), seen_targets.max(initial=0))
    both = np.isin(rows * np.int64(num_targets) + targets, seen_rows * np.int64(num_targets) + seen_targets)
    if both.any():
        at = np.flatnonzero(both)[0]
        raise ValueError(
            f"{both.sum()} positives are also masked as seen, the first: target {targets[at]} of source node "
            f"{source_ids[rows[at]]}; a pair belongs to one split, drop repeated pairs from the evaluated one"
        )


def _fetch(result: Any, has_nan: Array, ids: np.ndarray, num_real: int) -> Any:
    """Brings one block's results to the host, without the padding rows."""
    result, has_nan = jax.device_get((result, has_nan))
    if has_nan[:num_real].any():
        raise NanScoreError(int(ids[np.flatnonzero(has_nan[:num_real])[0]]))
    return jax.tree.map(lambda values: values[:num_real], result)


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if not parts:
        raise ValueError("there are no users to rank: source_ids is empty")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
