"""How vectors of scenarios lie to each other."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from lsec_jax.training import scenario_vectors


def cloud(count=40, width=5, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=count)
    return generator.normal(size=(count, width)) + 1.5 * generator.normal(size=(4, width))[labels], labels


@pytest.mark.parametrize("seed", range(3))
def test_silhouettes_are_those_of_scikit_learn(seed):
    vectors, labels = cloud(seed=seed)
    labels[0] = 9  # alone with its label
    found = scenario_vectors.silhouette(vectors, labels)
    assert found == pytest.approx(silhouette_score(vectors, labels), abs=1e-9)


def test_silhouettes_of_one_label_or_of_as_many_as_vectors_are_not_defined_and_equal_vectors_have_0():
    vectors, _ = cloud(6)
    for labels in (np.zeros(6, int), np.arange(6)):
        assert scenario_vectors.silhouette(vectors, labels) is None
    assert scenario_vectors.silhouette(vectors[:0], np.zeros(0, int)) is None
    assert scenario_vectors.silhouette(np.ones((6, 3)), np.arange(6) % 2) == 0.0


def test_points_are_the_main_components_of_the_fitted_vectors():
    vectors, labels = cloud()
    is_fitted = labels != 2
    points, explained = scenario_vectors.project(vectors, is_fitted)
    model = PCA(2).fit(vectors[is_fitted])
    np.testing.assert_allclose(explained, model.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(points), np.abs(model.transform(vectors)), rtol=1e-7, atol=1e-9)
    turned, _ = scenario_vectors.project(-vectors, is_fitted)
    np.testing.assert_allclose(np.abs(turned), np.abs(points), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (3, 4)])
def test_few_vectors_and_narrow_ones_are_projected_too(shape):
    vectors = np.arange(np.prod(shape), dtype=float).reshape(shape) ** 2
    for is_fitted in (np.ones(len(vectors), bool), np.zeros(len(vectors), bool)):
        points, explained = scenario_vectors.project(vectors, is_fitted)
        assert points.shape == (len(vectors), 2) and np.isfinite(points).all() and np.isfinite(explained).all()


def test_a_nearest_neighbour_counts_if_it_has_the_same_parent_and_equally_near_ones_share():
    vectors, parents = cloud(30)
    vectors[5] = vectors[6] = vectors[7]
    share, chance = scenario_vectors.neighbour_share(vectors, parents)
    wanted, expected = [], []
    for i in range(30):
        others = [j for j in range(30) if j != i]
        distances = {j: float(np.sqrt(((vectors[i] - vectors[j]) ** 2).sum())) for j in others}
        nearest = [j for j in others if distances[j] == min(distances.values())]
        wanted.append(np.mean([parents[j] == parents[i] for j in nearest]))
        expected.append(np.mean([parents[j] == parents[i] for j in others]))
    assert share == pytest.approx(np.mean(wanted)) and chance == pytest.approx(np.mean(expected))
    assert scenario_vectors.neighbour_share(vectors[:1], parents[:1]) == (None, None)


def test_a_panel_is_measured_on_trained_scenarios_and_shows_all():
    vectors, labels = cloud()
    is_trained = np.arange(40) < 30
    panel = scenario_vectors.panel("model", "vectors", vectors, is_trained, labels, labels)
    changed = vectors + 100.0 * ~is_trained[:, None]
    other = scenario_vectors.panel("model", "vectors", changed, is_trained, labels, labels)
    assert panel.silhouette == other.silhouette and panel.nearest == other.nearest
    np.testing.assert_array_equal(panel.points[is_trained], other.points[is_trained])
    content = panel.to_json()
    assert len(content["x"]) == len(content["y"]) == 40 and "points" not in content
