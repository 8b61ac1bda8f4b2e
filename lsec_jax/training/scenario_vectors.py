"""How vectors of scenarios lie to each other (TREEMS, Figure 9): in a plane, and by where they stand in the tree.

Numbers are of the original vectors, of scenarios that training shows: all others share few vectors, or one.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

PROJECTION = "the two main directions of the trained scenarios (PCA)"


@dataclasses.dataclass(frozen=True)
class Panel:
    """Vectors of s scenarios in a plane.

    Attributes:
        title: the model.
        vectors: what they are, in words.
        points: [s, 2] float64.
        explained: share of the trained vectors' variance along each direction, [2].
        silhouette: by the ancestor at the second level, in [-1, 1]; None where that is not defined.
        nearest: share of the trained scenarios whose nearest other one has the same parent; None of fewer than two.
        chance: the same if the nearest one were any other one.
    """

    title: str
    vectors: str
    points: Float[np.ndarray, "s 2"]
    explained: Float[np.ndarray, " 2"]
    silhouette: float | None
    nearest: float | None
    chance: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns it for JSON."""
        content = {key: value for key, value in vars(self).items() if key != "points"}
        return {**content, "explained": self.explained.tolist(), "x": self.points[:, 0].tolist()} | {
            "y": self.points[:, 1].tolist()
        }


def panel(
    title: str,
    kind: str,
    vectors: Float[np.ndarray, "s d"],
    is_trained: Bool[np.ndarray, " s"],
    ancestors: Int[np.ndarray, " s"],
    parents: Int[np.ndarray, " s"],
) -> Panel:
    """Projects vectors and measures how they lie.

    Args:
        title: of the panel.
        kind: what the vectors are, in words.
        vectors: of s scenarios.
        is_trained: which of them training shows.
        ancestors: labels of the silhouette.
        parents: whose children are to be neighbours.
    """
    vectors = vectors.astype(np.float64)
    points, explained = project(vectors, is_trained)
    trained = vectors[is_trained]
    nearest, chance = neighbour_share(trained, parents[is_trained])
    return Panel(title, kind, points, explained, silhouette(trained, ancestors[is_trained]), nearest, chance)


def project(
    vectors: Float[np.ndarray, "s d"], is_fitted: Bool[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, "s 2"], Float[np.ndarray, " 2"]]:
    """Projects on the two main directions of some of the vectors; of each, the largest coordinate is positive.

    Returns:
        The points of all vectors, and the share of the fitted ones' variance along each direction; zeros for directions
        that there are not.
    """
    fitted = vectors[is_fitted] if is_fitted.any() else vectors
    center = fitted.mean(axis=0)
    _, sizes, directions = np.linalg.svd(fitted - center, full_matrices=False)
    directions = directions[:2]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    points = np.zeros((len(vectors), 2))
    points[:, : len(directions)] = (vectors - center) @ (directions * np.sign(largest)).T
    explained = np.zeros(2)
    explained[: len(directions)] = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-30)
    return points, explained


def silhouette(vectors: Float[np.ndarray, "s d"], labels: Int[np.ndarray, " s"]) -> float | None:
    """Mean silhouette of vectors by label; None unless there are at least two labels, and fewer than vectors.

    A vector that is alone with its label has 0.
    """
    _, labels = np.unique(labels, return_inverse=True)
    num_labels = int(labels.max(initial=-1)) + 1
    if not 2 <= num_labels < len(labels):
        return None
    sizes = np.bincount(labels)
    distances = _distances(vectors)
    sums = np.stack([distances[:, labels == label].sum(axis=1) for label in range(num_labels)], axis=1)
    rows, own = np.arange(len(labels)), sizes[labels]
    inside = sums[rows, labels] / np.maximum(own - 1, 1)
    others = sums / sizes
    others[rows, labels] = np.inf
    outside = others.min(axis=1)
    scale = np.maximum(inside, outside)
    scores = np.where((own > 1) & (scale > 0), (outside - inside) / np.where(scale > 0, scale, 1.0), 0.0)
    return float(scores.mean())


def neighbour_share(
    vectors: Float[np.ndarray, "s d"], parents: Int[np.ndarray, " s"]
) -> tuple[float | None, float | None]:
    """How many vectors have a nearest other one of the same parent, and how many would by chance; None of one vector.

    Of several nearest ones, each counts its part.
    """
    count = len(vectors)
    if count < 2:
        return None, None
    distances = _distances(vectors)
    np.fill_diagonal(distances, np.inf)
    is_same = parents[:, None] == parents[None]
    is_nearest = distances <= distances.min(axis=1, keepdims=True)
    share = (is_nearest & is_same).sum(axis=1) / is_nearest.sum(axis=1)
    chance = (is_same.sum(axis=1) - 1) / (count - 1)
    return float(share.mean()), float(chance.mean())


def _distances(vectors: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "s s"]:
    """Euclidean, of all pairs; equal vectors have exactly 0."""
    found = np.zeros((len(vectors), len(vectors)))
    for column in vectors.T:  # a [s, s, d] array would be too large
        found += np.square(column[:, None] - column[None])
    return np.sqrt(found)
