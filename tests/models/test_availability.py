"""Training respects availability: what a drawn negative costs depends on whether it could be bought then."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.nn.sampling import uniform_targets
from lsec_jax.schema import Availability
from lsec_jax.training.state import Keys, TrainableModel
from tests.worlds import world

CONFIGS = {
    "lsec_gnn": lsec_gnn.Config(
        relations=("buy",), tasks=(lsec_gnn.TaskConfig("buy"),), embedding_dim=4, layer_dims=(4,), predictor_hidden=4
    ),
    "ncf": ncf.Config(embedding_dim=3, mlp_dims=(4,)),
}


def timed_world(start=-np.inf, end=np.inf):
    """Purchases at times 0 to 39, and the same window for all items."""
    data = world()
    buy = dataclasses.replace(data.relations["buy"], time=np.arange(40.0))
    data = data.replace(relations={**data.relations, "buy": buy})
    return data.replace(availability={"item": Availability(np.full(9, start), np.full(9, end))})


def loss_and_gradient(config, data):
    model = TrainableModel(config.build(data, nnx.Rngs(1)))
    params, inputs = model.init(Keys.from_seed(0)), config.inputs(data)
    batch = {"buy": jnp.arange(40, dtype=jnp.int32)}

    def loss(tables):
        return model.module(params.dense).loss(tables, inputs, batch, jax.random.key(3))

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params.tables)
    return value, metrics, gradient


def with_negatives(config, count):
    if isinstance(config, ncf.Config):
        return dataclasses.replace(config, num_negatives=count)
    return dataclasses.replace(config, tasks=(lsec_gnn.TaskConfig("buy", num_negatives=count),))


@pytest.mark.parametrize("name", CONFIGS)
def test_windows_that_are_always_open_change_nothing_bit_for_bit(name):
    open_world = timed_world()
    plain, _, plain_gradient = loss_and_gradient(CONFIGS[name], open_world.replace(availability={}))
    value, metrics, gradient = loss_and_gradient(CONFIGS[name], open_world)
    np.testing.assert_array_equal(value, plain)
    jax.tree.map(np.testing.assert_array_equal, gradient, plain_gradient)
    assert [float(value) for name, value in metrics.items() if "unavailable" in name] == [0.0]


@pytest.mark.parametrize("name", CONFIGS)
def test_negatives_that_could_not_be_bought_then_carry_no_loss(name):
    data = timed_world(50.0, 60.0)
    nothing, metrics, gradient = loss_and_gradient(CONFIGS[name], data)
    assert [float(value) for key, value in metrics.items() if "unavailable" in key] == [1.0]
    # Then it makes no difference how many are drawn.
    other, _, other_gradient = loss_and_gradient(with_negatives(CONFIGS[name], 1), data)
    np.testing.assert_allclose(other, nothing, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), gradient, other_gradient)
    everything, _, _ = loss_and_gradient(CONFIGS[name], timed_world())
    assert float(everything) != float(nothing)


def test_windows_need_times_and_a_target_with_windows():
    data = timed_world(0.0, 10.0)
    assert CONFIGS["ncf"].inputs(data).positives["buy"].windows is not None
    assert CONFIGS["ncf"].inputs(world().replace(availability=data.availability)).positives["buy"].windows is None
    users = {"user": Availability(np.zeros(12), np.ones(12))}
    assert CONFIGS["ncf"].inputs(data.replace(availability=users)).positives["buy"].windows is None


def test_the_window_is_that_of_the_drawn_item_and_the_time_that_of_the_rows_purchase():
    data = timed_world()
    windows = Availability(np.where(np.arange(9) < 4, 0.0, 25.0), np.where(np.arange(9) < 4, 25.0, np.inf))
    config = CONFIGS["ncf"]
    _, metrics, _ = loss_and_gradient(config, data.replace(availability={"item": windows}))
    edges = config.inputs(data).positives["buy"]
    drawn = np.asarray(uniform_targets(jax.random.key(3), edges, 40, config.num_negatives))
    # World's edges are sorted already, so purchase i happened at time i.
    expected = (drawn < 4) != (np.arange(40)[:, None] < 25)
    assert float(metrics["unavailable_negatives"]) == pytest.approx(expected.mean())
