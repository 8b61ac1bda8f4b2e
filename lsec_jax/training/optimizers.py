"""Optimizers from config. Each treats every element by itself: lazy tables (`training/tables.py`) rest on that."""

import optax

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
            return optax.adagrad(rate, initial_accumulator_value=config.initial_accumulator, eps=config.eps)
        case _:
            return optax.sgd(rate)
