"""What a step of sampled training draws before it reads any parameter."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsec_jax.models.lsec_gnn import Config, TaskConfig
from tests.worlds import world


def test_the_draws_of_a_step_are_the_same_inside_and_outside_jit():
    """Of relations out of alphabetical order: inside jit the keys of a dict are sorted."""
    config = Config(
        relations=("follow", "buy"),
        tasks=(TaskConfig("buy"),),
        layer_dims=(4,),
        training_graph="sampled",
        fanout_limits=(1, 1),
    )
    data = world()
    model, inputs, batch = config.build(data, nnx.Rngs(0)), config.inputs(data), {"buy": jnp.arange(5)}
    outside, inside = (draw(inputs, batch, jax.random.key(0)) for draw in (model.draw, jax.jit(model.draw)))
    for relation in config.relations:
        for one, other in zip(*(jax.tree.leaves(of.samples[relation]) for of in (outside, inside)), strict=True):
            np.testing.assert_array_equal(one, other)
