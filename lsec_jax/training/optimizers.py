"""Optimizers from config. Each treats every element by itself: lazy tables (`training/tables.py`) rest on that."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lsec_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step (0-based)."""
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if config.warmup_steps else config.learning_rate,
            peak_value=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_steps=max(num_steps, config.warmup_steps + 1),
        )
    warmup = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    constant = optax.constant_schedule(config.learning_rate)
    return optax.join_schedules([warmup, constant], [config.warmup_steps]) if config.warmup_steps else constant


def build(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The config's optimizer with its schedule."""
    rate = learning_rate(config, num_steps)
    match config.name:
        case "adam":
            return optax.adam(rate, b1=config.b1, b2=config.b2, eps=config.eps)
        case "adagrad":
            if config.accumulator_decay < 1.0:
                decayed = _scale_by_decayed_squares(config.initial_accumulator, config.eps, config.accumulator_decay)
                return optax.chain(decayed, optax.scale_by_learning_rate(rate))
            return optax.adagrad(rate, initial_accumulator_value=config.initial_accumulator, eps=config.eps)
        case _:
            return optax.sgd(rate)


def _scale_by_decayed_squares(initial: float, eps: float, decay: float) -> optax.GradientTransformation:
    """G / sqrt(s + eps) with s = decay s + g^2 (Adagrad with accumulator decay, eLiveRec Sec. 5.1.4)."""

    def init(params: Any) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(jax.tree.map(lambda of: jnp.full_like(of, initial), params))

    def update(gradients: Any, state: optax.ScaleByRssState, params: Any = None) -> Any:
        squares = jax.tree.map(lambda s, g: decay * s + jnp.square(g), state.sum_of_squares, gradients)
        scaled = jax.tree.map(
            lambda s, g: jnp.where(s > 0, lax.rsqrt(jnp.where(s > 0, s, 1.0) + eps) * g, 0.0), squares, gradients
        )
        return scaled, optax.ScaleByRssState(squares)

    return optax.GradientTransformation(init, update)
