"""Batches of recent training edges with a fixed share of older ones: what `config.replay` asks for."""

import numpy as np

from lsec_jax.config import ConfigError, ReplayConfig
from lsec_jax.data.batches import EdgeBatches
from lsec_jax.schema import TRAIN, LiveCommerceData


class ReplayBatches:
    """Batches of two parts of fixed sizes, each its own endless row of permutations: a function of seed and step.

    Attributes:
        num_recent, num_older: edges of a batch that are of the window, and older. Where there are fewer older edges
            than the share asks for, recent ones take their place.
        batch_size: both together.
    """

    def __init__(self, is_recent: np.ndarray, batch_size: int, share: float, seed: tuple[int, ...]):
        """Takes the stream's shape.

        Args:
            is_recent: of each training edge, [e] bool; at least one is.
            batch_size: edges per batch, as far as there are so many.
            share: of the batch that is to be older.
            seed: entropy of this stream.
        """
        parts = np.flatnonzero(is_recent).astype(np.int32), np.flatnonzero(~is_recent).astype(np.int32)
        self.num_older = min(round(share * batch_size), len(parts[1]))
        self.num_recent = min(batch_size - self.num_older, len(parts[0]))
        sizes = self.num_recent, self.num_older
        self.batch_size = sum(sizes)
        self._parts = [
            (positions, EdgeBatches(len(positions), size, (*seed, 1 + i)))
            for i, (positions, size) in enumerate(zip(parts, sizes, strict=True))
            if size
        ]

    def __call__(self, step: int) -> np.ndarray:
        """Returns the positions of batch `step`, [num_recent + num_older] int32, the recent ones first."""
        return np.concatenate([positions[batches(step)] for positions, batches in self._parts])


def replay_batches(
    data: LiveCommerceData, relation: str, config: ReplayConfig, batch_size: int, seed: tuple[int, ...]
) -> ReplayBatches:
    """Makes the batches of one task.

    The window ends where training does: at the first cut where the split is by time, else after the last training edge.

    Args:
        data: with splits.
        relation: of the task.
        config: with a window.
        batch_size: edges per batch.
        seed: entropy of this stream.

    Raises:
        ConfigError: the relation has no times, none of its training edges is in the window, or the share of a batch
            rounds to nothing or to all of it.
    """
    times = None if relation not in data.relations else data.relations[relation].edge_times(TRAIN)
    if times is None:
        timed = [name for name, of in data.relations.items() if of.time is not None]
        raise ConfigError(
            f"config.replay.window = {config.window}: '{relation}' has no times (relations with times: "
            f"{', '.join(timed) or 'none'}); set it to 0, or name the time column in the data config"
        )
    end = data.cut_times[0] if data.cut_times is not None else float(np.nextafter(times.max(), np.inf))
    is_recent = times >= end - config.window
    if not is_recent.any():
        raise ConfigError(
            f"config.replay.window = {config.window}: no training edge of '{relation}' is so new; the newest is of "
            f"{data.time_text(times.max())}, training ends at {data.time_text(end)}: give a longer window"
        )
    if config.share and not 0 < round(config.share * batch_size) < batch_size:
        raise ConfigError(
            f"config.replay.share = {config.share} of config.training.batch_size = {batch_size} rounds to "
            f"{round(config.share * batch_size)} edges; change one of both"
        )
    return ReplayBatches(is_recent, batch_size, config.share, seed)
