"""Scoring and ranking in blocks of users: both evaluation protocols and top-K lists.

Every block has `block_size` users (the last one is padded by repeating its last user), and the padded widths are taken
over all blocks, so that a call compiles once, and other users with equal counts do not compile again. While the device
ranks one block, the host prepares the next. A model only has to offer the two methods of `Scorer`.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lsec_jax import metrics, user_blocks

AnyArray = Array | np.ndarray
Csr = user_blocks.Csr
_Dispatched = tuple[tuple[Any, Array], np.ndarray]  # (a block's results, who has a NaN score) on the device; its users

_PAIR_CHUNK = 16  # users whose candidates' rows are gathered at once
_MLP_CHUNK = 64  # users whose hidden units are added up together
_LEAST_POSITIVES = 16  # room in a list, so that other users seldom need another compilation
_UNITS = 16  # hidden units added at once: the running scores are read and written that many times less often


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
        return _mlp_all(self, self._targets_by_unit, source_ids)

    def score_pairs(self, source_ids: np.ndarray, target_ids: np.ndarray) -> Array:
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
    sources = jnp.asarray(scorer.source_vectors)[source_ids]
    return jnp.matmul(sources, jnp.asarray(scorer.target_vectors).T, precision=lax.Precision.HIGHEST)


@jax.jit
def _dot_pairs(scorer: DotScorer, source_ids: Int[Array, " b"], target_ids: Int[Array, "b k"]) -> Float[Array, "b k"]:
    def one_user(ids: tuple[Array, Array]) -> Array:
        source, targets = ids
        rows = jnp.asarray(scorer.target_vectors)[targets]  # [k, d]
        return jnp.matmul(rows, jnp.asarray(scorer.source_vectors)[source], precision=lax.Precision.HIGHEST)

    return lax.map(one_user, (source_ids, target_ids), batch_size=_PAIR_CHUNK)


@jax.jit
def _mlp_all(scorer: MlpScorer, targets: Float[Array, "h n"], source_ids: Int[Array, " b"]) -> Float[Array, "b n"]:
    missing = -targets.shape[0] % _UNITS  # units of weight 0 up to a multiple
    sources = jnp.pad(jnp.asarray(scorer.source_half)[source_ids], ((0, 0), (0, missing)))  # [b, h]
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
    def one_user(ids: tuple[Array, Array]) -> Array:
        source, targets = ids
        hidden = jax.nn.relu(
            jnp.asarray(scorer.source_half)[source][None, :] + jnp.asarray(scorer.target_half)[targets]
        )
        product = jnp.matmul(hidden, jnp.asarray(scorer.output_weights), precision=lax.Precision.HIGHEST)
        return product + scorer.output_bias

    return lax.map(one_user, (source_ids, target_ids), batch_size=_PAIR_CHUNK)


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
        block_size: users scored at once; peak memory is about 5 x block_size x n x 4 bytes, two blocks being in flight.
        offered: which targets are ranked at all, besides the positives, [n] bool; None = all.

    Returns:
        `metrics.full_ranking_metrics` as numpy arrays [u], NaN for users without positives.

    Raises:
        NanScoreError: a score is NaN.
        ValueError: a positive is also seen, so that it could never be found.
    """
    source_ids = np.asarray(source_ids, np.int32)
    _check_disjoint(source_ids, seen, positives)
    width = user_blocks.round_up(max(1, int(user_blocks.lengths(positives, source_ids).max(initial=0))))
    both = user_blocks.lengths(seen, source_ids) + user_blocks.lengths(positives, source_ids)
    masked_width = user_blocks.largest_sum(both, block_size)

    def blocks() -> Iterator[_Dispatched]:
        for ids, num_real in user_blocks.split(source_ids, block_size):
            rows, targets = user_blocks.concatenated_rows([seen, positives], ids[:num_real], masked_width)
            wanted = user_blocks.padded_rows(positives, ids, width)
            scores = scorer.score_all(ids)
            yield _full_ranking_block(scores, rows, targets, *wanted, tuple(cutoffs), offered), ids[:num_real]

    return _join(list(_fetch(blocks())))


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
    labels = np.asarray(labels, bool)
    most = int(labels.sum(axis=1).max(initial=0))
    width = user_blocks.round_up(max(_LEAST_POSITIVES, most))

    def blocks() -> Iterator[_Dispatched]:
        for at, num_real in user_blocks.split(np.arange(len(source_ids)), block_size):
            scores = scorer.score_pairs(source_ids[at], np.asarray(target_ids[at], np.int32))
            result = _candidates_block(scores, labels[at], tuple(cutoffs), width)
            yield result, source_ids[at[:num_real]]

    return _join(list(_fetch(blocks())))


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
        lengths = user_blocks.lengths(seen, source_ids)
        masked_width = max(user_blocks.largest_sum(of, block_size) for of in (heaviest, lengths))
    target_ids = np.full((len(source_ids), k), -1, np.int32)
    scores = np.full((len(source_ids), k), -np.inf, np.float32)

    def blocks() -> Iterator[_Dispatched]:
        for ids, num_real in user_blocks.split(source_ids, block_size):
            rows, targets = user_blocks.concatenated_rows(masks, ids[:num_real], masked_width)
            yield _top_k_block(scorer.score_all(ids), rows, targets, k, offered), ids[:num_real]

    start = 0
    for best_ids, best in _fetch(blocks()):
        end = start + len(best)
        target_ids[start:end, : best.shape[1]], scores[start:end, : best.shape[1]] = best_ids, best
        start = end
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


@functools.partial(jax.jit, static_argnames=("cutoffs", "max_positives"))
def _candidates_block(
    scores: Float[Array, "b k"], labels: Bool[Array, "b k"], cutoffs: tuple[int, ...], max_positives: int
) -> tuple[dict[str, Float[Array, " b"]], Bool[Array, " b"]]:
    scores, has_nan = _without_nan(scores)
    return metrics.candidate_metrics(scores, labels, cutoffs, max_positives), has_nan


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


def _check_disjoint(source_ids: np.ndarray, seen: Csr, positives: Csr) -> None:
    rows, targets = user_blocks.flat_rows(positives, source_ids)
    seen_rows, seen_targets = user_blocks.flat_rows(seen, source_ids)
    num_targets = 1 + max(targets.max(initial=0), seen_targets.max(initial=0))
    both = np.isin(rows * np.int64(num_targets) + targets, seen_rows * np.int64(num_targets) + seen_targets)
    if both.any():
        at = np.flatnonzero(both)[0]
        raise ValueError(
            f"{both.sum()} positives are also masked as seen, the first: target {targets[at]} of source node "
            f"{source_ids[rows[at]]}; a pair belongs to one split, drop repeated pairs from the evaluated one"
        )


def _fetch(dispatched: Iterable[_Dispatched]) -> Iterator[Any]:
    """Brings each block's results to the host without the padding rows, once the device has the next block to do."""
    waiting: collections.deque[_Dispatched] = collections.deque()
    for block in dispatched:
        waiting.append(block)
        if len(waiting) > 1:
            yield _to_host(waiting.popleft())
    if waiting:
        yield _to_host(waiting.popleft())


def _to_host(block: _Dispatched) -> Any:
    (result, has_nan), ids = jax.device_get(block[0]), block[1]
    if has_nan[: len(ids)].any():
        raise NanScoreError(int(ids[np.flatnonzero(has_nan[: len(ids)])[0]]))
    return jax.tree.map(lambda values: values[: len(ids)], result)


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if not parts:
        raise ValueError("there are no users to rank: source_ids is empty")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
