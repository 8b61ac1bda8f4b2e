"""NCF against a slow numpy transcription of He et al. 2017, Eq. 7-12."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.config import ConfigError
from lsec_jax.models.ncf import Config
from lsec_jax.nn.sampling import uniform_targets
from lsec_jax.training.state import Keys, TrainableModel
from tests.worlds import NUM_NODES, world

VARIANTS = ("gmf", "mlp", "neumf")


def build(variant, **changes):
    config = Config(**({"variant": variant, "embedding_dim": 3, "embedding_std": 1.0, "mlp_dims": (5, 4)} | changes))
    config.validate()
    model = TrainableModel(config.build(world(), nnx.Rngs(1)))
    params = model.init(Keys.from_seed(0))
    noisy = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(7), leaf.shape), params.dense)
    return config, model, params._replace(dense=noisy)  # biases start at zero and would hide a missing one


def score_in_numpy(config, params, user, item):
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.dense)
    p, q = np.asarray(params.tables["user"][user], np.float64), np.asarray(params.tables["item"][item], np.float64)
    width = config.embedding_dim
    last = np.zeros(0)
    if config.variant != "mlp":
        last = p[:width] * q[:width]
        p, q = p[width:], q[width:]
    if config.variant != "gmf":
        tower = dense["tower"]
        first = np.concatenate([tower["source_weights"], tower["target_weights"]])
        hidden = np.maximum(np.concatenate([p, q]) @ first + tower["first_bias"], 0)
        for i in range(len(config.mlp_dims) - 1):
            hidden = np.maximum(hidden @ tower["weights"][i] + tower["biases"][i], 0)
        last = np.concatenate([last, hidden])
    return last @ dense["output_weights"] + dense["output_bias"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mlp_dims", [(5,), (5, 4), (6, 5, 4)])
def test_scores_follow_the_equations_for_all_targets_and_for_pairs(variant, mlp_dims):
    config, model, params = build(variant, mlp_dims=mlp_dims)
    scorer = model.module(params.dense).scorer(params.tables, config.inputs(world()))
    expected = [[score_in_numpy(config, params, user, item) for item in range(9)] for user in range(12)]
    np.testing.assert_allclose(scorer.score_all(np.arange(12, dtype=np.int32)), expected, rtol=1e-4, atol=1e-5)
    users, items = np.array([3, 0], np.int32), np.array([[1, 8, 1], [0, 2, 7]], np.int32)
    pairs = np.take_along_axis(np.array(expected)[users], items, axis=1)
    np.testing.assert_allclose(scorer.score_pairs(users, items), pairs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_the_log_loss_of_the_positives_and_the_unmasked_negatives(variant):
    config, model, params = build(variant, num_negatives=20)
    inputs, key = config.inputs(world()), jax.random.key(3)
    edges = inputs.positives["buy"]
    batch = {"buy": jnp.asarray([0, 7], jnp.int32)}
    found, metrics = model.module(params.dense).loss(params.tables, inputs, batch, key)
    bought = set(zip(edges.source_ids.tolist(), edges.target_ids.tolist(), strict=True))
    draws = np.asarray(uniform_targets(key, edges, 2, 20))
    losses = []
    for row, edge in enumerate((0, 7)):
        user, item = int(edges.source_ids[edge]), int(edges.target_ids[edge])
        losses.append(np.logaddexp(0, -score_in_numpy(config, params, user, item)))
        negatives = [item for item in draws[row] if (user, item) not in bought]
        losses += [np.logaddexp(0, score_in_numpy(config, params, user, item)) for item in negatives]
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["false_negatives"], 1 - (len(losses) - 2) / 40, rtol=1e-5)


def test_l2_counts_the_batchs_embeddings():
    plain, model, params = build("neumf")
    with_l2 = TrainableModel(Config("neumf", embedding_dim=3, mlp_dims=(5, 4), l2=0.5).build(world(), nnx.Rngs(1)))
    inputs, batch, key = plain.inputs(world()), {"buy": jnp.asarray([2], jnp.int32)}, jax.random.key(0)
    edges = inputs.positives["buy"]
    items = [int(edges.target_ids[2]), *np.asarray(uniform_targets(key, edges, 1, 4))[0].tolist()]
    rows = [params.tables["user"][int(edges.source_ids[2])], *(params.tables["item"][item] for item in items)]
    difference = (
        with_l2.module(params.dense).loss(params.tables, inputs, batch, key)[0]
        - model.module(params.dense).loss(params.tables, inputs, batch, key)[0]
    )
    np.testing.assert_allclose(difference, 0.5 * 0.5 * sum(float(row @ row) for row in rows), rtol=1e-4)


def test_only_nodes_with_training_edges_count_as_trained():
    config, _, _ = build("gmf")
    data = world()
    buyers = np.isin(np.arange(NUM_NODES["user"]), data.relations["buy"].source_ids)
    np.testing.assert_array_equal(config.trained_nodes(data, "user"), buyers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "svd"}, "gmf, mlp, neumf"),
        ({"embedding_dim": 0}, "config.model.embedding_dim = 0 must be at least 1"),
        ({"mlp_dims": ()}, "at least one width"),
        ({"embedding_std": 0.0}, "zeros never change"),
        ({"l2": -1.0}, "config.model.l2"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_the_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**({"variant": "neumf"} | changes))
