"""Standardised numbers."""

import json

import numpy as np

from lsec_jax.data.normalisation import ScaleFit, from_fitted, to_fitted


def fit(parts, transform=""):
    found = ScaleFit(parts[0].shape[1], transform)
    for part in parts:
        found.add(part)
    return found.scale()


def test_mean_and_deviation_are_those_of_all_parts_without_missing_rows():
    rng = np.random.default_rng(0)
    values = rng.normal([1e6, -3.0], [2.0, 0.1], (1_000, 2))
    values[rng.random(1_000) < 0.2, 1] = np.nan
    scale = fit([values[:7].astype(np.float32), values[7:7], values[7:].astype(np.float32)])
    there = values[~np.isnan(values[:, 1])].astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(scale.mean, there.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale.deviation, there.std(axis=0), rtol=1e-9)
    found = scale(values.astype(np.float32))
    assert found.dtype == np.float32 and found.shape == (1_000, 3)
    np.testing.assert_array_equal(found[:, 2], np.isnan(values[:, 1]))
    np.testing.assert_array_equal(found[np.isnan(values[:, 1]), :2], 0)
    np.testing.assert_allclose(found[found[:, 2] == 0, :2], (there - there.mean(axis=0)) / there.std(axis=0), rtol=1e-5)


def test_the_logarithm_is_taken_before_the_mean():
    values = np.array([[0.0], [np.e - 1.0], [np.e**2 - 1.0]])
    scale = fit([values], "log1p")
    np.testing.assert_allclose(scale.mean, 1.0)
    np.testing.assert_allclose(scale(values)[:, 0], np.array([-1, 0, 1]) / np.sqrt(2 / 3), atol=1e-6)


def test_constants_and_numbers_that_never_were_there_become_0():
    constant = np.full((10, 1), 0.1)
    assert not fit([constant[:3], constant[3:]])(constant).any()
    scale = fit([np.full((4, 1), np.nan)])
    assert scale(np.array([[np.nan], [2.0]])).tolist() == [[0.0, 1.0], [2.0, 0.0]]


def test_a_scale_comes_back_from_json_exactly():
    scale = fit([np.random.default_rng(0).random((50, 2))], "log1p")
    again = from_fitted(json.loads(json.dumps(to_fitted(scale))), "log1p")
    values = np.random.default_rng(1).random((50, 2))
    np.testing.assert_array_equal(again(values), scale(values))
