"""Rows `pipeline/events` and `checkpoint/...`: what goes between the disk and the model."""

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.throughput.peers.protocol import Work
from benchmarks.throughput.rows import steps
from benchmarks.throughput.rows.row import Row
from benchmarks.throughput.workloads import HISTORY
from lsec_jax.data.batches import EventBatches
from lsec_jax.data.event_columns import EventColumns, HistoryView
from lsec_jax.data.sources import prepared
from lsec_jax.models import lsec_gnn
from lsec_jax.training.checkpoints import Checkpoints, Progress
from lsec_jax.training.run import prepare
from lsec_jax.training.state import TrainState

BATCH_SIZE, NUM_BATCHES = 2048, 100


def make_pipeline(folder: Path, quick: bool) -> Work:
    """One repetition is 100 batches of impressions with the last 50 rooms watched, in blocks of a shuffled order."""
    data = prepared.Config(str(folder)).load()
    columns = EventColumns(data, "impression", histories=[HistoryView(HISTORY.name, HISTORY.length)])
    batches = EventBatches(columns, slice(None), 128 if quick else BATCH_SIZE, (0,))
    numbers = itertools.count()

    def one() -> None:
        for _ in range(NUM_BATCHES):
            batches(next(numbers))

    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(batches(0)))
    notes = f"batches of {batches.batch_size} of {batches.num_rows} impressions; bytes: of the batches"
    return Work(run=one, examples=NUM_BATCHES * batches.batch_size, bytes=NUM_BATCHES * size, notes=notes)


def make_save(folder: Path, quick: bool) -> Work:
    """One repetition saves the state of LSEC-GCN and waits until it is on the disk."""
    state, size = _state(folder, quick)
    directory = tempfile.TemporaryDirectory()
    checkpoints = Checkpoints(Path(directory.name))
    numbers = itertools.count(1)

    def one() -> None:
        checkpoints.save(state._replace(step=np.asarray(next(numbers), np.int32)), Progress())
        assert checkpoints.finished_step() is not None

    return Work(run=one, bytes=size, notes=f"bytes: of the state; {_PLACE}", finish=lambda: _closed(directory))


def make_restore(folder: Path, quick: bool) -> Work:
    """One repetition restores the state of LSEC-GCN; the files are in the page cache."""
    state, size = _state(folder, quick)
    directory = tempfile.TemporaryDirectory()
    start = time.perf_counter()
    with Checkpoints(Path(directory.name)) as writer:
        writer.save(state, Progress())
    checkpoints = Checkpoints(Path(directory.name), read_only=True)
    notes = f"bytes: of the state; {_PLACE}; saved before in {time.perf_counter() - start:.2f} s"
    step = int(state.step)
    return Work(
        run=lambda: jax.block_until_ready(checkpoints.restore(state, step)[0]),
        bytes=size,
        notes=notes,
        finish=lambda: _closed(directory),
    )


_PLACE = "in the folder for temporary files"


def _state(folder: Path, quick: bool) -> tuple[TrainState, int]:
    """The state before the first step, and its bytes."""
    state = prepare(steps.config_of(folder, lsec_gnn.Config(), quick)).initial_state()
    return state, sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _closed(directory: tempfile.TemporaryDirectory[str]) -> dict[str, Any]:
    directory.cleanup()
    return {}


ROWS = {
    "pipeline/events": Row(make_pipeline, workload="events", is_quick=True),
    "checkpoint/save": Row(make_save, is_quick=True),
    "checkpoint/restore": Row(make_restore),
}
