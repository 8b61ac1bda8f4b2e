"""The records that all contestants of rows `ranker/...` train on, and the layers that they train. Needs NumPy only.

Each record has ids of four context fields and of a target, a history of targets with padding in front, and two binary
labels; all tables have as many rows. Ids are uniform: nothing is to be learnt, and every row of a table is as likely.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

CONTEXT = ("user", "hour", "scene", "device")
TARGET, HISTORY = "room", "watches"
TASKS = ("watched", "stayed")
SIZES = {"tiny": 64, "small": 2048}  # records of a batch
LENGTH, NUM_BATCHES, VOCABULARY = 50, 8, 10_000

# Hidden layers, the same for all.
WIDTHS = (16, 64, 128)
TOWER, TASK_TOWER = (256, 128), (64,)
ACTIVATION_UNIT = (36,)
NUM_EXPERTS, EXPERT = 8, (256, 128)
NUM_HEADS, FEED_FORWARD = 4, 2048
# Of rows `sharing/...`, without the history; a scenario takes the place of the scene.
SHARING_WIDTHS = (32,)
SCENARIO, NUM_SCENARIOS = "scene", 240
SHARING_EXPERT, SHARING_TOWER = (128, 96, 64, 32, 16), (128, 64)
LEARNING_RATE = 1e-3


class Records(NamedTuple):
    """Some batches of records.

    Attributes:
        context: [n, b, 4] int32, columns of CONTEXT, 1 to VOCABULARY.
        target: [n, b] int32.
        history: [n, b, LENGTH] int32, newest last, 0 = padding, which is in front.
        labels: [n, b, 2] float32, columns of TASKS.
    """

    context: np.ndarray
    target: np.ndarray
    history: np.ndarray
    labels: np.ndarray


def make(size: str) -> Records:
    """Draws the records of a size, the same ones every time."""
    rng, shape = np.random.default_rng(0), (NUM_BATCHES, SIZES[size])
    lengths = rng.integers(1, LENGTH + 1, shape)
    history = rng.integers(1, VOCABULARY + 1, (*shape, LENGTH))
    history[np.arange(LENGTH) < LENGTH - lengths[..., None]] = 0
    return Records(
        rng.integers(1, VOCABULARY + 1, (*shape, len(CONTEXT))).astype(np.int32),
        rng.integers(1, VOCABULARY + 1, shape).astype(np.int32),
        history.astype(np.int32),
        (rng.random((*shape, len(TASKS))) < 0.3).astype(np.float32),
    )


def with_scenarios(of: Records) -> Records:
    """The same with 1 to NUM_SCENARIOS in the column SCENARIO; of all batches or of one."""
    context, column = of.context.copy(), CONTEXT.index(SCENARIO)
    context[..., column] = 1 + context[..., column] % NUM_SCENARIOS
    return of._replace(context=context)


def write(folder: Path, size: str) -> None:
    """Writes the records of a size."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in make(size)._asdict().items():
        np.save(folder / f"{name}.npy", column)


def read(folder: Path) -> Records:
    """Reads what `write` wrote."""
    return Records(*(np.load(folder / f"{name}.npy") for name in Records._fields))
