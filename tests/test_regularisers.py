"""Distance correlation, InfoNCE and their rivals against slow transcriptions and the package dcor."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsec_jax.regularisers import (
    contrastive,
    cosine_distance,
    distance_correlation,
    euclidean_distance,
    mutual_information,
)

GROUPS, ROWS, WIDTH = 3, 12, 4
MASK = np.ones((GROUPS, ROWS), bool)
MASK[1, [0, 5]] = False
MASK[2, 6:] = False
USERS = np.array([[0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 6, 6]] * GROUPS, np.int32)


def vectors(seed=0, dependence=0.5):
    x, noise = np.random.default_rng(seed).normal(size=(2, GROUPS, ROWS, WIDTH))
    return x, dependence * x**2 + noise


def in_jax(*arrays):
    return tuple(jnp.asarray(of, jnp.float32) for of in arrays)


def slow_centred(x):
    """Double-centred distances, pair by pair."""
    n = len(x)
    a = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(n)] for i in range(n)])
    return a - a.mean(axis=0)[None, :] - a.mean(axis=1)[:, None] + a.mean()


def slow_correlation(x, y):
    a, b = slow_centred(x), slow_centred(y)
    covariance, x_variance, y_variance = (np.sqrt((s * t).mean()) for s, t in ((a, b), (a, a), (b, b)))
    return covariance / np.sqrt(x_variance * y_variance)


# In a process of its own: dcor compiles through numba when it is imported, which once aborted a process that had loaded
# much before.
DCOR = """
import dcor, json, sys
import numpy as np
found = {}
for name in ("distance_correlation", "u_distance_correlation_sqr"):
    found[name] = [float(getattr(dcor, name)(np.array(x), np.array(y))) for x, y in json.load(open(sys.argv[1]))]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def dcor_values(tmp_path_factory):
    """What dcor says of `vectors`, by its function, group after group."""
    x, y = vectors()
    path = tmp_path_factory.mktemp("dcor") / "pairs.json"
    path.write_text(json.dumps([[x[g][MASK[g]].tolist(), y[g][MASK[g]].tolist()] for g in range(GROUPS)]))
    done = subprocess.run([sys.executable, "-c", DCOR, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_distance_correlation_is_that_of_the_equation_and_of_dcor(dcor_values):
    x, y = vectors()
    found = distance_correlation(*in_jax(x, y), jnp.asarray(MASK))
    for g in range(GROUPS):
        rows = x[g][MASK[g]], y[g][MASK[g]]
        np.testing.assert_allclose(found[g], slow_correlation(*rows), rtol=1e-5)
        np.testing.assert_allclose(found[g], dcor_values["distance_correlation"][g], rtol=1e-5)


def test_the_unbiased_distance_correlation_is_that_of_dcor(dcor_values):
    x, y = vectors()
    found = distance_correlation(*in_jax(x, y), jnp.asarray(MASK), unbiased=True)
    np.testing.assert_allclose(found, dcor_values["u_distance_correlation_sqr"], atol=1e-5)


def test_independent_vectors_have_no_correlation_only_without_bias():
    x, y = np.random.default_rng(0).normal(size=(2, 8, 256, 128))
    mask = jnp.ones((8, 256), bool)
    biased, unbiased = (distance_correlation(*in_jax(x, y), mask, unbiased=of) for of in (False, True))
    np.testing.assert_allclose(biased, 0.82, atol=0.01)  # what the design of eLiveRec warns of
    assert abs(float(unbiased.mean())) < 0.005


def test_distance_correlation_does_not_change_with_shift_scale_or_order():
    x, y = in_jax(*vectors())
    wanted = distance_correlation(x, y, jnp.asarray(MASK))
    order = np.random.default_rng(1).permutation(ROWS)
    for other in (
        distance_correlation(30 + 7 * x, y - 50, jnp.asarray(MASK)),
        distance_correlation(x[:, order], y[:, order], jnp.asarray(MASK[:, order])),
        distance_correlation(y, x, jnp.asarray(MASK)),
    ):
        np.testing.assert_allclose(other, wanted, rtol=1e-4)
    np.testing.assert_allclose(distance_correlation(x, 3 - 2 * x, jnp.asarray(MASK)), 1, rtol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_ties_zeros_and_small_groups_give_finite_values_and_gradients(unbiased):
    x, y = in_jax(*vectors())
    x = x.at[0].set(0.0)  # no variance at all
    x = x.at[1, 1:5].set(x[1, 1])  # ties
    mask = jnp.asarray(MASK).at[2].set(False)
    for count in (0, 1, 2, 3):
        own = mask.at[2, :count].set(True)

        def value(x, y, own=own):
            return distance_correlation(x, y, own, unbiased=unbiased)

        found = value(x, y)
        assert np.isfinite(found).all() and found[0] == 0 and (count < 2) <= (found[2] == 0)
        gradients = jax.grad(lambda x, y: value(x, y).sum(), (0, 1))(x, y)
        assert all(np.isfinite(of).all() for of in gradients)
        assert all(not np.asarray(of)[~np.asarray(own)].any() for of in gradients)


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradients_of_distance_correlation_are_its_differences(unbiased):
    x, y = in_jax(*vectors())
    direction = jnp.asarray(np.random.default_rng(4).normal(size=x.shape), jnp.float32)

    def value(step):
        return distance_correlation(x + step * direction, y, jnp.asarray(MASK), unbiased).sum()

    found, difference = jax.grad(value)(0.0), (value(0.01) - value(-0.01)) / 0.02
    np.testing.assert_allclose(found, difference, rtol=0.02)


def slow_logits(x, y, temperature):
    x, y = (of / np.linalg.norm(of, axis=-1, keepdims=True) for of in (x, y))
    return x @ y.T / temperature


def slow_contrastive(x, y, users, mask, temperature):
    """One anchor after the other."""
    s, losses = slow_logits(x, y, temperature), []
    for i in np.flatnonzero(mask):
        against = [j for j in np.flatnonzero(mask) if j == i or users[j] != users[i]]
        losses.append(-np.log(np.exp(s[i, i]) / sum(np.exp(s[i, j]) for j in against)))
    return np.mean(losses)


@pytest.mark.parametrize("symmetric", [False, True])
def test_contrastive_compares_each_anchor_with_its_own_and_other_users_positives(symmetric):
    x, y = vectors()
    found = contrastive(*in_jax(x, y), jnp.asarray(USERS), jnp.asarray(MASK), 0.3, symmetric)
    for g in range(GROUPS):
        wanted = slow_contrastive(x[g], y[g], USERS[g], MASK[g], 0.3)
        if symmetric:
            wanted = (wanted + slow_contrastive(y[g], x[g], USERS[g], MASK[g], 0.3)) / 2
        np.testing.assert_allclose(found[g], wanted, rtol=1e-5)


def test_mutual_information_compares_the_own_pair_with_other_users_pairs():
    x, y = vectors()
    found = mutual_information(*in_jax(x, y), jnp.asarray(USERS), jnp.asarray(MASK), 0.3)
    for g in range(GROUPS):
        s, values, own = slow_logits(x[g], y[g], 0.3), [], np.flatnonzero(MASK[g])
        for i in own:
            values.append(s[i, i] - np.log(np.mean([np.exp(s[i, j]) for j in own if USERS[g, j] != USERS[g, i]])))
        np.testing.assert_allclose(found[g], np.mean(values), rtol=1e-4)
    alike = mutual_information(*in_jax(x, x), jnp.asarray(USERS), jnp.asarray(MASK), 0.3)
    assert (alike > found).all()


def test_a_group_of_one_user_has_nothing_to_compare_with():
    x, y = in_jax(*vectors())
    users = jnp.zeros((GROUPS, ROWS), jnp.int32)
    assert not contrastive(x, y, users, jnp.asarray(MASK)).any()
    assert not mutual_information(x, y, users, jnp.asarray(MASK)).any()


def test_distances_are_means_over_the_rows_that_count():
    x, y = vectors()
    cosine, euclidean = (of(*in_jax(x, y), jnp.asarray(MASK)) for of in (cosine_distance, euclidean_distance))
    for g in range(GROUPS):
        own = MASK[g]
        np.testing.assert_allclose(cosine[g], (1 - np.diag(slow_logits(x[g], y[g], 1.0)))[own].mean(), rtol=1e-5)
        np.testing.assert_allclose(euclidean[g], np.linalg.norm(x[g] - y[g], axis=1)[own].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, mask: contrastive(x, y, jnp.asarray(USERS), mask, symmetric=True),
        lambda x, y, mask: mutual_information(x, y, jnp.asarray(USERS), mask),
        cosine_distance,
        euclidean_distance,
    ],
)
def test_masked_rows_change_nothing_and_zeros_and_equal_rows_have_finite_gradients(function):
    x, y = in_jax(*vectors())
    x, y = x.at[0, 3].set(0.0), y.at[0, 3].set(0.0).at[0, 4].set(x[0, 4])
    mask = jnp.asarray(MASK).at[2].set(False)
    found = function(x, y, mask)
    other = function(*(jnp.where(mask[:, :, None], of, 5.0) for of in (x, y)), mask)
    np.testing.assert_allclose(found, other, rtol=1e-6)
    assert found[2] == 0 and (found[:2] != 0).all()
    gradients = jax.grad(lambda x, y: function(x, y, mask).sum(), (0, 1))(x, y)
    assert all(np.isfinite(of).all() for of in gradients)
    assert all(not np.asarray(of)[~np.asarray(mask)].any() for of in gradients)
