"""Batches of events from columns on disk: impressions per second on one core, against the limits of the machine.

Example:
  python -m benchmarks.throughput.data_pipeline --rows=1000000,4000000,16000000 --workdir=/tmp

Synthetic columns of each size are written into a folder of --workdir, which is removed at the end: 3 roles, 4 values,
20 features and two histories of 50 items, once with end offsets and once materialised. For each layout and seed, in
turns, a process of its own on one core reads batches of 2,048 rows in shuffled blocks of 64:

- "cold": 50 batches after the files were dropped from the page cache; from here on they are in it;
- "first" epoch, one batch after the other, in which this process maps the pages; then "later" ones, at least 1,000;
- "streamed" through `BatchStream`, which makes batches in a thread; "placed": through it on a CPU device; "packed": the
  same with `EventColumns.pack`; all with nothing between two batches and on the same core;
- packed with 5 ms of sleep after each, as if an accelerator were busy: what the caller still waits.

Rates are those by the clock and, as other processes may share the core, those by the time that this one had it. The
limits are those of the same process: slices of consecutive rows of the same bytes, unshuffled, and the bandwidth
of copying memory. Memory is anonymous memory (RssAnon) above that before the first batch, at its highest.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags, logging

from benchmarks import runs
from benchmarks.throughput import machine
from lsec_jax import cli
from lsec_jax.config import ConfigError, HistoryConfig
from lsec_jax.data import store
from lsec_jax.data.batches import BLOCK_ROWS, BatchStream, EventBatches
from lsec_jax.data.columns import NewColumn, blocks
from lsec_jax.data.event_columns import EventColumns, HistoryView
from lsec_jax.data.files import write_json
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.writer import Writer
from lsec_jax.schema import EventNodes, Events, Feature, LiveCommerceData, NodeTable

LAYOUTS = ("ends", "last")
TARGET = 1_000_000
BATCH_SIZE, LENGTH, NUM_FEATURES, NUM_VALUES = 2048, 50, 20, 4
COLD_BATCHES, LEAST_BATCHES, STREAMED_BATCHES, STEP_SECONDS = 50, 1000, 500, 0.005
ROWS_PER_USER = 200
HISTORIES = {"watches": "", "purchases": "value_0"}


def write_world(directory: Path, num_rows: int) -> None:
    """Writes the columns of both layouts as `prepare` does, each into a folder of its name."""
    for layout in LAYOUTS:
        histories = [
            HistoryConfig(name, item="room", where=where, length=LENGTH, is_materialized=layout == "last")
            for name, where in HISTORIES.items()
        ]
        with Writer(directory / layout, {"layout": layout}) as writer:
            data = add_histories(_events(num_rows, writer.new_column), histories, writer.new_column)
            writer.finish(data, {}, lambda num_bytes: None)


def _events(num_rows: int, new_column: NewColumn) -> LiveCommerceData:
    rng = np.random.default_rng(0)
    sizes = {"user": max(num_rows // ROWS_PER_USER, 1), "room": 100_000, "streamer": 10_000}

    def filled(name: str, dtype: Any, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        column = new_column(f"events/impression/{name}", (num_rows,), dtype)
        for block in blocks(num_rows):
            column[block] = draw(block.stop - block.start)
        return column

    def numbers(n: int) -> np.ndarray:
        return rng.random(n, np.float32) - np.float32(0.5)

    nodes = {
        role: EventNodes(role, filled(f"nodes/{role}", np.int32, lambda n, size=size: rng.integers(0, size, n)))
        for role, size in sizes.items()
    }
    values = {f"value_{i}": filled(f"values/value_{i}", np.float32, numbers) for i in range(NUM_VALUES)}
    features = {
        name: Feature("numeric", filled(f"features/{name}", np.float32, numbers))
        for name in (f"feature_{i}" for i in range(NUM_FEATURES))
    }
    moments = new_column("events/impression/time", (num_rows,), np.float64)
    for block in blocks(num_rows):
        moments[block] = np.arange(block.start, block.stop)
    events = Events("impression", nodes, moments, values, features)
    tables = {role: NodeTable(role, np.arange(size)) for role, size in sizes.items()}
    return LiveCommerceData("pipeline", tables, {}, events={"impression": events})


def open_batches(directory: Path, layout: str, seed: int) -> EventBatches:
    """Batches of a layout that `write_world` wrote."""
    data = store.read(directory / layout)
    columns = EventColumns(data, "impression", histories=[HistoryView(name, LENGTH) for name in HISTORIES])
    return EventBatches(columns, slice(None), BATCH_SIZE, (seed,))


def measure(directory: str, layout: str, seed: int) -> dict[str, Any]:
    """Reads batches of one layout in this process, which it binds to one core.

    Returns:
        "impressions_per_second" of "cold", "first", "later", "streamed", "placed", "packed" and of the limits "slices"
        and "memory", and, but for the last, "impressions_per_core_second"; "batch_milliseconds" of later epochs;
        "wait_milliseconds" with sleep; bytes on disk and of a batch; "anonymous_mib" above that before the first batch.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    folder = Path(directory) / layout
    _drop_from_cache(folder)
    batches = open_batches(Path(directory), layout, seed)
    epoch = batches.num_rows // BATCH_SIZE
    anonymous = _Anonymous()
    seconds = {"cold": _seconds(map(batches, range(COLD_BATCHES)))}
    _read_all(Path(directory))
    seconds["first"] = _seconds(map(batches, range(COLD_BATCHES, epoch)), anonymous)
    seconds["later"] = _seconds(map(batches, range(epoch, epoch + max(epoch, LEAST_BATCHES))), anonymous)
    _seconds(_slices(Path(directory), batches.num_rows))  # maps the pages
    seconds["slices"] = _seconds(_slices(Path(directory), batches.num_rows))
    seconds["streamed"], _ = _streamed(batches, None)
    seconds["placed"], _ = _streamed(batches, _place)
    seconds["packed"], _ = _streamed(batches, lambda batch: _place(batches.columns.pack(batch)))
    _, waits = _streamed(batches, lambda batch: _place(batches.columns.pack(batch)), STEP_SECONDS)
    batch_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(batches(0)))
    rates = {name: BATCH_SIZE * len(of.wall) / sum(of.wall) for name, of in seconds.items()}
    return {
        "rows": batches.num_rows,
        "layout": layout,
        "seed": seed,
        "bytes_on_disk": sum(path.stat().st_size for path in folder.rglob("*.npy")),
        "batch_bytes": batch_bytes,
        "batches": {name: len(of.wall) for name, of in seconds.items()},
        "impressions_per_second": rates | {"memory": machine.copy_bandwidth() / 2 / batch_bytes * BATCH_SIZE},
        "impressions_per_core_second": {
            name: BATCH_SIZE * len(of.wall) / of.core for name, of in seconds.items() if name != "cold"
        },
        "batch_milliseconds": _percentiles(seconds["later"].wall),
        "wait_milliseconds": _percentiles(waits),
        "anonymous_mib": anonymous.highest - anonymous.before,
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(seconds, q)) * 1e3 for q in (50, 90, 99)}


def _drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_all(folder: Path) -> None:
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            while file.read(2**20):
                pass


class _Anonymous:
    """Anonymous memory of this process, MiB."""

    def __init__(self) -> None:
        self.before = self.highest = self._now()

    def look(self) -> None:
        self.highest = max(self.highest, self._now())

    @staticmethod
    def _now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1024


class _Seconds(NamedTuple):
    """Of each batch by the clock, and of all batches by the time that the process had the core."""

    wall: list[float]
    core: float


def _seconds(made: Iterator[Any], anonymous: _Anonymous | None = None) -> _Seconds:
    wall, begin = [], time.process_time()
    while True:
        start = time.perf_counter()
        if next(made, None) is None:
            return _Seconds(wall, time.process_time() - begin)
        wall.append(time.perf_counter() - start)
        if anonymous is not None and len(wall) % 50 == 0:
            anonymous.look()


def _slices(directory: Path, num_rows: int) -> Iterator[list[np.ndarray]]:
    """The same columns of consecutive rows, copied, from the materialised layout."""
    stored = store.columns_of(store.read(directory / "last"))
    unread = ("/time", "/split", "/group", "/parent")
    shown = [
        np.asarray(values)
        for path, values in stored.items()
        if (path.startswith("events/") and not path.endswith(unread)) or "/last/" in path
    ]
    for start in range(0, num_rows - BATCH_SIZE + 1, BATCH_SIZE):
        yield [values[start : start + BATCH_SIZE].copy() for values in shown]


def _place(batch: Any) -> Any:
    return jax.device_put(batch, jax.devices("cpu")[0])


def _streamed(
    batches: EventBatches, place: Callable[[Any], Any] | None, step_seconds: float = 0.0
) -> tuple[_Seconds, list[float]]:
    """Seconds from one batch to the next, and those of them that were waits for the stream."""
    wall, waits = [], []
    with BatchStream(batches, place=place) as stream:
        jax.block_until_ready(next(stream))
        begin = time.process_time()
        for _ in range(STREAMED_BATCHES):
            start, before = time.perf_counter(), stream.seconds_waited
            jax.block_until_ready(next(stream))
            time.sleep(step_seconds)
            wall.append(time.perf_counter() - start)
            waits.append(stream.seconds_waited - before)
        core = time.process_time() - begin
    return _Seconds(wall, core), waits


def measure_size(num_rows: int, seeds: list[int], workdir: Path) -> list[dict[str, Any]]:
    """`measure` of both layouts in turns, each in a fresh process, on columns that are removed afterwards."""
    rows = []
    with tempfile.TemporaryDirectory(dir=workdir, prefix="data_pipeline_") as directory:
        logging.info("writing %d rows", num_rows)
        write_world(Path(directory), num_rows)
        for seed, layout in itertools.product(seeds, LAYOUTS):
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                row = pool.submit(measure, directory, layout, seed).result()
            rates = ", ".join(f"{name} {rate / 1e6:.2f} M" for name, rate in row["impressions_per_core_second"].items())
            logging.info("%d rows, %s, seed %d: %s impressions per second of the core", num_rows, layout, seed, rates)
            rows.append(row)
    return rows


def main() -> None:
    """Runs the command."""
    seeds, output, workdir = runs.parse_seeds(flags.FLAGS.seeds), Path(flags.FLAGS.output), Path(flags.FLAGS.workdir)
    sizes = parse_sizes(flags.FLAGS.rows)
    if not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir} is not a folder; give one with room for the columns")
    runs.check_output(output)
    environment = runs.environment()
    rows = [row for size in sizes for row in measure_size(size, seeds, workdir)]
    write_json(output, result_of(rows, seeds, environment))
    logging.info("wrote %s", output)


def result_of(rows: list[dict[str, Any]], seeds: list[int], environment: dict[str, Any]) -> dict[str, Any]:
    """The JSON that is stored."""
    return {
        "benchmark": "data_pipeline",
        "target": TARGET,
        "batch_size": BATCH_SIZE,
        "block_rows": BLOCK_ROWS,
        "history_length": LENGTH,
        "step_milliseconds": STEP_SECONDS * 1e3,
        "seeds": seeds,
        "rows": rows,
        "environments": [environment],
        "command": runs.command(),
    }


def parse_sizes(values: list[str]) -> list[int]:
    """Sizes of a list flag; raises ConfigError for anything but whole numbers of batches enough."""
    smallest = BATCH_SIZE * 2 * COLD_BATCHES
    if not values or not all(value.isdecimal() and int(value) >= smallest for value in values):
        raise ConfigError(f"--rows={','.join(values)}: give whole numbers, {smallest} or more")
    return [int(value) for value in values]


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("rows", ["1000000", "4000000", "16000000"], "Sizes of the log.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the order of blocks; a process each.")
    flags.DEFINE_string("workdir", tempfile.gettempdir(), "Folder for the columns: 700 bytes of disk a row.")
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "data_pipeline.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
