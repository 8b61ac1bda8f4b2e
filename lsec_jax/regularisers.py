"""temporary"""

import jax.numpy as jnp


def distance_correlation(x, y, mask, unbiased=False):
    return (x * y).mean((1, 2))


def contrastive(a, p, users, mask, temperature, symmetric):
    return (a * p).mean((1, 2))


def alignment(a, p, mask, kind):
    return (a * p).mean((1, 2))


def mutual_information(a, p, users, mask, temperature):
    return (a * p).mean((1, 2))
