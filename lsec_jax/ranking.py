"""Scoring and ranking in blocks of users: both evaluation protocols and top-K lists.

Every block has `block_size` users (the last one is padded by repeating its last user), and the padded widths are taken
over all blocks, so that a call compiles once, and other users with equal counts do not compile again. While the device
ranks one block, the host prepares the next. A model only has to offer the two methods of `Scorer`; one whose vectors
are divided over devices comes as a `Ranker`, on which the same functions of blocks run.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lsec_jax import metrics, user_blocks
from lsec_jax.nn import replicas
from lsec_jax.scorers import Scorer

Csr = user_blocks.Csr
Result = tuple[Any, Array]  # a block's results by user, and who has a NaN score, on the device
_Dispatched = tuple[Result, np.ndarray]  # and the block's users
Masked = tuple[np.ndarray, np.ndarray]  # flat (positions in a block, targets): pairs that are left out

_LEAST_POSITIVES = 16  # room in a list, so that other users seldom need another compilation


class NanScoreError(ValueError):
    """A scorer returned NaN. `source_id` is the internal index of the first user that it happened to."""

    def __init__(self, source_id: int, who: str = "") -> None:
        self.source_id = source_id
        super().__init__(
            f"the scores of {who or f'source node {source_id}'} contain NaN; a model with NaN scores cannot be ranked. "
            "Look for a diverged run (lower the learning rate) or NaN in the features."
        )


@runtime_checkable
class Ranker(Protocol):
    """Runs this module's functions of a block of b users on the devices that have a scorer's arrays.

    Attributes:
        users_together: b is a multiple of it.
    """

    users_together: int

    def place(self, offered: np.ndarray | None) -> Any:
        """Puts which of n targets are ranked at all, [n] bool or None = all, on the devices."""
        ...

    def rank_all(
        self, function: "functools.partial[Result]", ids: np.ndarray, by_user: Any, masked: Masked, offered: Any
    ) -> Result:
        """Ranks all targets for the users ids [b]: function(scores [b, n], *by_user, masked, offered).

        Args:
            function: jittable; returns arrays with a row per user.
            ids: of the users.
            by_user: arrays with a row per user.
            masked: pairs that are left out.
            offered: from `place`.
        """
        ...

    def rank_pairs(
        self, function: "functools.partial[Result]", ids: np.ndarray, target_ids: np.ndarray, by_user: Any
    ) -> Result:
        """Ranks candidates target_ids [b, k] of the users ids [b]: function(scores [b, k], *by_user)."""
        ...


Rankable = Scorer | Ranker


class _OneDevice:
    """The ranker of a scorer whose arrays are in one place."""

    users_together = 1

    def __init__(self, scorer: Scorer):
        self._scorer = _on_device(scorer)
        self._scores: Any = None

    def place(self, offered: np.ndarray | None) -> np.ndarray | None:
        return offered

    def rank_all(
        self, function: Callable[..., Result], ids: np.ndarray, by_user: Any, masked: Masked, offered: Any
    ) -> Result:
        # Kept until the next block has its own: else all of a block's memory may go back to the system at its end, and
        # the next block has to wait for pages that the system clears first.
        self._scores = self._scorer.score_all(ids)
        return function(self._scores, *by_user, masked, offered)

    def rank_pairs(
        self, function: Callable[..., Result], ids: np.ndarray, target_ids: np.ndarray, by_user: Any
    ) -> Result:
        return function(self._scorer.score_pairs(ids, target_ids), *by_user)


def _on_device(scorer: Scorer) -> Scorer:
    """The scorer with its arrays on the device: numpy ones would be copied there for each block."""
    if not hasattr(scorer, "per_node") or all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(scorer)):
        return scorer  # as it is, with what it keeps from earlier rankings
    # Copied, as XLA reads memory that it shares with numpy more slowly (docs/performance.md).
    return jax.tree.map(functools.partial(jnp.array, copy=True), scorer)


def _ranker(scorer: Rankable, block_size: int) -> tuple[Ranker, int]:
    """The ranker, and the size of its blocks."""
    ranker = scorer if isinstance(scorer, Ranker) else _OneDevice(scorer)
    return ranker, -(-block_size // ranker.users_together) * ranker.users_together


def full_ranking(
    scorer: Rankable,
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
    ranker, block_size = _ranker(scorer, block_size)
    rank, placed = functools.partial(_full_ranking_block, cutoffs=tuple(cutoffs)), ranker.place(offered)
    width = user_blocks.round_up(max(1, int(user_blocks.lengths(positives, source_ids).max(initial=0))))
    both = user_blocks.lengths(seen, source_ids) + user_blocks.lengths(positives, source_ids)
    masked_width = user_blocks.largest_sum(both, block_size)

    def blocks() -> Iterator[_Dispatched]:
        for ids, num_real in user_blocks.split(source_ids, block_size):
            masked = user_blocks.concatenated_rows([seen, positives], ids[:num_real], masked_width)
            wanted = user_blocks.padded_rows(positives, ids, width)
            yield ranker.rank_all(rank, ids, wanted, masked, placed), ids[:num_real]

    return _join(list(_fetch(blocks())))


def rank_candidates(
    scorer: Rankable,
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
    ranker, block_size = _ranker(scorer, block_size)
    rank = functools.partial(_candidates_block, cutoffs=tuple(cutoffs), max_positives=width)

    def blocks() -> Iterator[_Dispatched]:
        for at, num_real in user_blocks.split(np.arange(len(source_ids)), block_size):
            targets = np.asarray(target_ids[at], np.int32)
            yield ranker.rank_pairs(rank, source_ids[at], targets, (labels[at],)), source_ids[at[:num_real]]

    return _join(list(_fetch(blocks())))


def top_k(
    scorer: Rankable,
    source_ids: np.ndarray,
    seen: Csr | None,
    k: int,
    block_size: int,
    offered: np.ndarray | None = None,
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
    ranker, block_size = _ranker(scorer, block_size)
    rank, placed = functools.partial(_top_k_block, k=k), ranker.place(offered)
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
            masked = user_blocks.concatenated_rows(masks, ids[:num_real], masked_width)
            yield ranker.rank_all(rank, ids, (), masked, placed), ids[:num_real]

    start = 0
    for best_ids, best in _fetch(blocks()):
        end = start + len(best)
        target_ids[start:end, : best.shape[1]], scores[start:end, : best.shape[1]] = best_ids, best
        start = end
    return target_ids, scores


@functools.partial(jax.jit, static_argnames="cutoffs")
def _full_ranking_block(
    scores: Float[Array, "b n"],
    positive_ids: Int[Array, "b p"],
    positive_mask: Bool[Array, "b p"],
    masked: tuple[Int[Array, " e"], Int[Array, " e"]],
    offered: Bool[Array, " n"] | None,
    cutoffs: tuple[int, ...],
) -> tuple[dict[str, Float[Array, " b"]], Bool[Array, " b"]]:
    scores, has_nan = _without_nan(scores)
    places = replicas.local_indices(positive_ids, scores.shape[1])
    positive_scores = jnp.take_along_axis(scores, places, axis=1, mode="clip")
    positive_scores = replicas.of_owners(positive_scores, places, scores.shape[1])
    best, _ = _best(_left(scores, masked, offered), max(cutoffs))
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
    masked: tuple[Int[Array, " e"], Int[Array, " e"]],
    offered: Bool[Array, " n"] | None,
    k: int,
) -> tuple[tuple[Int[Array, "b j"], Float[Array, "b j"]], Bool[Array, " b"]]:
    scores, has_nan = _without_nan(scores)
    best, best_ids = _best(_left(scores, masked, offered), k)
    return (jnp.where(best == -jnp.inf, -1, best_ids), best), has_nan


def _left(
    scores: Float[Array, "b n"], masked: tuple[Int[Array, " e"], Int[Array, " e"]], offered: Bool[Array, " n"] | None
) -> Float[Array, "b n"]:
    """The scores of what is neither masked nor not offered; -inf elsewhere."""
    scores = scores if offered is None else jnp.where(offered[None, :], scores, -jnp.inf)
    rows, targets = masked
    return scores.at[rows, replicas.local_indices(targets, scores.shape[1])].set(-jnp.inf, mode="drop")


def _best(scores: Float[Array, "b n"], k: int) -> tuple[Float[Array, "b j"], Int[Array, "b j"]]:
    """The k best scores of a row, as far as there are, and their ids; of equal ones, those of lower ids first.

    Of divided targets every device sends its k best, in the order of ids, and all choose among them.
    """
    best, ids = lax.top_k(scores, min(k, scores.shape[1]))
    if replicas.num_shards() == 1:
        return best, ids
    every, every_id = replicas.all_columns(best), replicas.all_columns(replicas.global_ids(scores.shape[1])[ids])
    best, at = lax.top_k(every, min(k, every.shape[1]))
    return best, jnp.take_along_axis(every_id, at, axis=1)


def _without_nan(scores: Float[Array, "b k"]) -> tuple[Float[Array, "b k"], Bool[Array, " b"]]:
    is_nan = jnp.isnan(scores)
    return jnp.where(is_nan, -jnp.inf, scores).astype(jnp.float32), replicas.any_of_shards(is_nan.any(axis=1))


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
