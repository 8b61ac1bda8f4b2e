"""One task of a model: predict which edges of a relation exist, from positives and sampled negatives."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lsec_jax import losses
from lsec_jax.config import require_at_least, require_choice
from lsec_jax.nn.sampling import PositiveEdges, draw_targets, hardest_targets, negative_mask

_LOSSES = {
    "bce": losses.binary_cross_entropy,
    "bpr": losses.bayesian_personalized_ranking,
    "sampled_softmax": losses.sampled_softmax,
}


@dataclasses.dataclass
class TaskConfig:
    """One prediction task: which edges of a relation exist.

    Attributes:
        relation: whose edges are predicted; its two node types must occur in some relation of the model.
        weight: alpha of Eq. 11.
        loss: "bce", "bpr" or "sampled_softmax".
        num_negatives: negatives per positive.
        hardest_of: each negative is the best-scored of this many uniform draws; 1 = plain uniform.
        rows_per_draw: this many rows of a batch choose their negatives from the same draws. Above 1, scoring the draws
            needs a gather of that many times fewer vectors, and with "dot" is a small matrix product; what each row
            draws from keeps its distribution, but rows of a group are no longer independent of each other.
    """

    relation: str = "buy"
    weight: float = 1.0
    loss: str = "bce"
    num_negatives: int = 4
    hardest_of: int = 1
    rows_per_draw: int = 1

    def validate(self, key: str) -> None:
        """Checks its values; raises ConfigError naming `key`, for example "config.model.tasks[0]"."""
        require_choice(f"{key}.loss", self.loss, tuple(_LOSSES))
        require_at_least(f"{key}.weight", self.weight, 0)
        for name in ("num_negatives", "hardest_of", "rows_per_draw"):
            require_at_least(f"{key}.{name}", getattr(self, name), 1)

    def draw(self, key: Array, edges: PositiveEdges, num_rows: int) -> Int[Array, "g k"]:
        """Draws what a batch's negatives are chosen from."""
        return draw_targets(key, edges, num_rows, self.num_negatives, self.hardest_of, self.rows_per_draw)


def ids_by_type(
    tasks: Sequence[TaskConfig],
    ends: Mapping[str, tuple[str, str]],
    positives: Mapping[str, PositiveEdges],
    batch: Mapping[str, Int[Array, " b"]],
    draws: Mapping[str, Int[Array, "_ _"]],
) -> dict[str, list[Int[Array, " _"]]]:
    """The nodes whose vectors a step's losses need, by node type; a node may come several times.

    Args:
        tasks: of the model.
        ends: source and target type of each task's relation.
        positives: the training positives of each.
        batch: positions of the step's positives in them.
        draws: what the negatives are chosen from.
    """
    result: dict[str, list[Array]] = {}
    for name in (task.relation for task in tasks):
        (source_type, target_type), edges = ends[name], positives[name]
        result.setdefault(source_type, []).append(edges.source_ids[batch[name]])
        result.setdefault(target_type, []).extend([edges.target_ids[batch[name]], draws[name].ravel()])
    return result


def task_loss(
    task: TaskConfig,
    predictor: Any,
    vectors: Sequence[Float[Array, "_ _"]],
    takes: Sequence[Callable[[Array, Array], Array]],
    edges: PositiveEdges,
    edge_ids: Int[Array, " b"],
    draws: Int[Array, "g k"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], tuple[Int[Array, " b"], Int[Array, "b m"]]]:
    """The loss of one batch of a task.

    Args:
        task: the task.
        predictor: scores pairs from the halves of their ends.
        vectors: of the source nodes and of the target nodes, or of a selection of them.
        takes: how a source's and a target's row is taken from such vectors, (vectors, node ids) -> rows.
        edges: the training positives.
        edge_ids: the batch's positions in them.
        draws: from `TaskConfig.draw`.

    Returns:
        (loss, metrics, the ids of the batch's sources [b] and of its positives and negatives [b, 1 + num_negatives]).
    """
    take_source, take_target = takes
    source_ids, positive_ids = edges.source_ids[edge_ids], edges.target_ids[edge_ids]
    sources = predictor.source_half(take_source(vectors[0], source_ids))
    is_choice = task.hardest_of > 1
    num_looked_up = (draws.size if is_choice else 0) + len(edge_ids) * (1 + task.num_negatives)
    # Each node's half once, unless that is more than the batch looks up.
    halves = predictor.target_half(vectors[1]) if num_looked_up >= len(vectors[1]) else None

    def target_halves(ids: Int[Array, "..."]) -> Float[Array, "... h"]:
        of_nodes = vectors[1] if halves is None else halves
        rows = take_target(of_nodes, ids)
        return predictor.target_half(rows) if halves is None else rows

    drawn = target_halves(draws) if is_choice else None
    negative_ids = hardest_targets(predictor, sources, draws, drawn, task.num_negatives, task.rows_per_draw)
    mask, shares = negative_mask(edges, edge_ids, negative_ids)
    pair_ids = jnp.concatenate([positive_ids[:, None], negative_ids], axis=1)
    scores = predictor(sources[:, None], target_halves(pair_ids))[:, 0]
    loss = _LOSSES[task.loss](scores[:, 0], scores[:, 1:], mask)
    return loss, {"loss": loss, **shares}, (source_ids, pair_ids)
