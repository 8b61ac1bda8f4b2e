"""Trains a causal Transformer to predict every next item, and ranks all items after the last one.

Full softmax over the items with the item table tied, Adam, early stopping on validation NDCG@10. Batches have sequences
of similar length and about as many places each, so that short sequences cost little.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from flax import nnx

from lsec_jax import metrics
from lsec_jax.nn.sequence.transformer import TransformerEncoder
from lsec_jax.schema import TEST, TRAIN, VALIDATION, Events

CUTOFF = 10
METRICS = (f"hit_rate@{CUTOFF}", f"ndcg@{CUTOFF}")
_LENGTHS = (2, 3, 4, 6, 9, 14, 25)  # batches are padded to these, or to the longest allowed
_SCORED_ROWS = 1024
_ITEM_STD = 0.02


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines a run, apart from the data.

    Attributes:
        width: of items and states.
        num_layers, num_heads: of the Transformer.
        ffn_width: of its hidden layers.
        dropout_rate: of its dropout.
        max_length: newest behaviours that it sees.
        learning_rate: of Adam.
        places: of a training batch: rows x length.
        max_epochs: at most.
        patience: epochs without a better validation NDCG@10 after which training ends.
        seed: of parameters, dropout and the order of batches.
    """

    width: int = 64
    num_layers: int = 2
    num_heads: int = 2
    ffn_width: int = 256
    dropout_rate: float = 0.5
    max_length: int = 50
    learning_rate: float = 1e-3
    places: int = 1536
    max_epochs: int = 100
    patience: int = 8
    seed: int = 0


class Sequences(NamedTuple):
    """Users' items in the order of time.

    Attributes:
        items: per user.
        num_train: how many of them train, [n].
        num_items: of the catalogue.
    """

    items: list[np.ndarray]
    num_train: np.ndarray
    num_items: int

    def training(self) -> list[np.ndarray]:
        """What trains, of users with at least two such items."""
        return [of[:count] for of, count in zip(self.items, self.num_train, strict=True) if count > 1]

    def held_out(self, split: int) -> list[np.ndarray]:
        """Histories that end with the held-out item, of users who have held-out items."""
        pairs = zip(self.items, self.num_train, strict=True)
        return [of[: count + (1 if split == VALIDATION else 2)] for of, count in pairs if len(of) > count]


def sequences_of(events: Events, num_users: int, num_items: int) -> Sequences:
    """Sorts leave-one-out events by user and time."""
    users = events.ids("user")
    order = np.lexsort((events.time, users))
    bounds = np.searchsorted(users[order], np.arange(1, num_users))
    assert events.split is not None
    splits = np.split(events.split[order], bounds)
    assert all((np.sort(of) == of).all() for of in splits) and TRAIN < VALIDATION < TEST
    num_train = np.array([(of == TRAIN).sum() for of in splits])
    return Sequences(np.split(events.ids("item")[order], bounds), num_train, num_items)


def pad_in_front(sequences: list[np.ndarray], length: int, padding: int, num_rows: int) -> np.ndarray:
    """The newest items of each, [num_rows, length] int32."""
    padded = np.full((num_rows, length), padding, np.int32)
    for row, of in zip(padded, sequences, strict=False):
        row[max(0, length - len(of)) :] = of[-length:]
    return padded


def by_length(sequences: list[np.ndarray], max_length: int) -> dict[int, list[int]]:
    """Positions in the list, by the number of inputs that their batch is padded to."""
    sizes = np.array([*(size for size in _LENGTHS if size < max_length), max_length])
    inputs = np.minimum([len(of) - 1 for of in sequences], max_length)
    group = sizes[np.searchsorted(sizes, inputs)]
    return {int(size): np.flatnonzero(group == size).tolist() for size in sizes if (group == size).any()}


def training_batches(
    sequences: list[np.ndarray], settings: Settings, padding: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """One epoch in random order: [rows, length + 1]; inputs are all but the last item of a row."""
    batches = []
    for size, rows in by_length(sequences, settings.max_length).items():
        count = max(1, settings.places // size)
        order = generator.permutation(rows)
        batches += [(size, count, order[start : start + count]) for start in range(0, len(order), count)]
    for i in generator.permutation(len(batches)):
        size, count, rows = batches[i]
        yield pad_in_front([sequences[row] for row in rows], size + 1, padding, count)


class NextItem(nnx.Module):
    """A table of items, and an encoder whose state at an item scores the next one by inner products with the table."""

    def __init__(self, num_items: int, settings: Settings, rngs: nnx.Rngs):
        self.items = nnx.Param(_ITEM_STD * jax.random.normal(rngs.params(), (num_items, settings.width)))
        self.encoder = TransformerEncoder(
            settings.width,
            rngs,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            ffn_width=settings.ffn_width,
            max_length=settings.max_length,
            is_causal=True,
            scale="head",
            dropout_rate=settings.dropout_rate,
        )

    def __call__(self, inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """States after each input, [b, t] int32 -> [b, t, d]; ids past the table are padding."""
        table = self.items[...]
        elements = table[jnp.minimum(inputs, len(table) - 1)] * table.shape[1] ** 0.5
        row_ids = jnp.arange(len(inputs), dtype=jnp.int32)
        return self.encoder(elements, inputs < len(table), elements[:, -1], key, row_ids)


def loss_of(model: NextItem, batch: jax.Array, key: jax.Array) -> jax.Array:
    """Mean of -log softmax of the next item among all items, over the places that have one."""
    inputs, targets = batch[:, :-1], batch[:, 1:].ravel()
    table = model.items[...]
    states = model(inputs, key).reshape(-1, table.shape[1])
    mask = inputs.ravel() < len(table)
    scores = (states * table[jnp.minimum(targets, len(table) - 1)]).sum(axis=1)
    losses = jax.nn.logsumexp(states @ table.T, axis=1) - scores
    return jnp.where(mask, losses, 0.0).sum() / jnp.maximum(mask.sum(), 1)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def train_step(
    graphdef: Any, optimizer: optax.GradientTransformation, state: Any, moments: Any, batch: jax.Array, key: jax.Array
) -> tuple[Any, Any, jax.Array]:
    """One step; returns parameters, moments and the loss."""
    loss, gradients = jax.value_and_grad(lambda of: loss_of(nnx.merge(graphdef, of), batch, key))(state)
    updates, moments = optimizer.update(gradients, moments, state)
    return optax.apply_updates(state, updates), moments, loss


@functools.partial(jax.jit, static_argnums=0)
def score_batch(
    graphdef: Any, state: Any, inputs: jax.Array, seen: jax.Array, targets: jax.Array
) -> dict[str, jax.Array]:
    """The metrics of each row; what the user had before is no candidate, unless it is the target."""
    model = nnx.merge(graphdef, state)
    scores = model(inputs)[:, -1] @ model.items[...].T
    rows = jnp.arange(len(inputs))[:, None]
    positives = jnp.take_along_axis(scores, targets[:, None], axis=1)
    others = scores.at[rows, seen].set(-jnp.inf, mode="drop").at[rows, targets[:, None]].set(-jnp.inf)
    best, _ = jax.lax.top_k(others, CUTOFF)
    return metrics.full_ranking_metrics(best, positives, jnp.ones_like(positives, bool), (CUTOFF,))


def evaluate(graphdef: Any, state: Any, histories: list[np.ndarray], settings: Settings, num_items: int) -> dict:
    """Means over the users of METRICS, ranking all items after all but the last item of each history."""
    totals = dict.fromkeys(METRICS, 0.0)
    for size, rows in by_length(histories, settings.max_length).items():
        most_seen = max(len(histories[row]) - 1 for row in rows)
        count = min(_SCORED_ROWS, len(rows))
        for start in range(0, len(rows), count):
            chosen = [histories[row] for row in rows[start : start + count]]
            before = [of[:-1] for of in chosen]
            targets = np.zeros(count, np.int32)
            targets[: len(chosen)] = [of[-1] for of in chosen]
            found = score_batch(
                graphdef,
                state,
                jnp.asarray(pad_in_front(before, size, num_items, count)),
                jnp.asarray(pad_in_front(before, most_seen, num_items, count)),
                jnp.asarray(targets),
            )
            for name in METRICS:
                totals[name] += float(np.asarray(found[name], np.float64)[: len(chosen)].sum())
    return {name: total / len(histories) for name, total in totals.items()}


def train(sequences: Sequences, settings: Settings) -> dict[str, Any]:
    """Trains one seed.

    Returns:
        "metrics" (test, of the best epoch), "validation", "best_epoch", "curve" (per epoch: epoch, train_seconds,
        loss, validation metrics), "train_seconds" (without evaluation) and "users".
    """
    of_init, of_dropout = jax.random.split(jax.random.key(settings.seed))
    generator = np.random.default_rng(settings.seed)
    graphdef, state = nnx.split(NextItem(sequences.num_items, settings, nnx.Rngs(of_init)))
    optimizer = optax.adam(settings.learning_rate)
    moments = optimizer.init(state)
    training, validation, test = sequences.training(), *map(sequences.held_out, (VALIDATION, TEST))
    best: dict[str, Any] = {}
    curve: list[dict[str, Any]] = []
    step, seconds = 0, 0.0
    for epoch in range(1, settings.max_epochs + 1):
        started, losses = time.perf_counter(), []
        for batch in training_batches(training, settings, sequences.num_items, generator):
            key = jax.random.fold_in(of_dropout, step)
            state, moments, loss = train_step(graphdef, optimizer, state, moments, jnp.asarray(batch), key)
            losses.append(loss)
            step += 1
        mean_loss = float(np.mean(jax.device_get(losses)))
        seconds += time.perf_counter() - started
        found = evaluate(graphdef, state, validation, settings, sequences.num_items)
        curve.append({"epoch": epoch, "train_seconds": seconds, "loss": mean_loss, **found})
        logging.info("seed %d, epoch %d: %s", settings.seed, epoch, curve[-1])
        if not best or found[METRICS[1]] > best["validation"][METRICS[1]]:
            best = {"validation": found, "best_epoch": epoch, "state": jax.tree.map(np.asarray, state)}
        elif epoch - best["best_epoch"] >= settings.patience:
            break
    return {
        "metrics": evaluate(graphdef, best.pop("state"), test, settings, sequences.num_items),
        **best,
        "curve": curve,
        "train_seconds": seconds,
        "users": len(test),
    }
