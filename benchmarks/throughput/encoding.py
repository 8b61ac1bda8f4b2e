"""Encoded records from columns on disk: records per second on one core, against copying the same bytes.

Example:
  python -m benchmarks.throughput.encoding --rows=1000000,4000000 --workdir=/tmp

Synthetic columns of each size are written into a folder of --workdir, which is removed at the end. A record shows 6
ids, 6 numbers and 3 labels, and two sequences of 50 behaviours with an id, a category and a brand each. For each seed a
process of its own on one core fits an encoder, and then makes packed batches of 2,048 records in shuffled blocks of 64,
with the files in the page cache and their pages mapped:

- "encoded": one batch after the other; "placed": through `BatchStream`, which makes them in a thread, on a CPU device;
- the limit: copies of one batch's arrays into new ones, as any way to make batches has to write as much.

Rates are those by the clock and, as other processes may share the core, those by the time that this one had it. Memory
is anonymous memory (RssAnon) above that before the first batch, at its highest.
"""

import concurrent.futures
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from benchmarks import runs
from lsec_jax import cli
from lsec_jax.config import ConfigError, HistoryConfig
from lsec_jax.data import store
from lsec_jax.data.batches import BLOCK_ROWS, BatchStream, EventBatches
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.sequences import add_histories
from lsec_jax.data.writer import Writer
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.schema import TRAIN, EventNodes, Events, Feature, LiveCommerceData, NodeTable

TARGET = 900_000
BATCH_SIZE, LENGTH, NUM_NUMBERS = 2048, 50, 6
NUM_BATCHES, WARM_UP = 400, 50
ROWS_PER_USER = 200
SIZES = {"room": 100_000, "streamer": 10_000}
NUM_CATEGORIES, NUM_BRANDS = 30, 500
HISTORIES = (HistoryConfig("watches", item="room"), HistoryConfig("purchases", item="room", where="purchased"))


def declaration() -> Declaration:
    """What the records show."""
    behaviour = (
        Field("room", "item", table="room"),
        Field("category", "item.category", table="category"),
        Field("brand", "item.brand", table="brand"),
    )
    return Declaration(
        tables=(Table("room"), Table("category"), Table("brand")),
        fields=(
            Field("user", "user", "context"),
            Field("hour", "time.hour", "context"),
            Field("room", "room", "target", "room"),
            Field("streamer", "streamer", "target"),
            Field("category", "room.category", "target", "category"),
            Field("brand", "room.brand", "target", "brand"),
            *(Field(f"number_{i}", f".number_{i}", "dynamic") for i in range(NUM_NUMBERS)),
        ),
        sequences=tuple(SequenceFields(of.name, of.name, LENGTH, behaviour) for of in HISTORIES),
        labels=(
            Label("watched", "watched"),
            Label("stay", "stay_seconds", "regression", "log1p", only_if="watched"),
            Label("purchased", "purchased", only_if="watched"),
        ),
    )


def write_world(directory: Path, num_rows: int) -> None:
    """Writes the columns as `prepare` does."""
    rng = np.random.default_rng(0)

    def categorical(size: int, count: int, name: str) -> Feature:
        vocabulary = tuple(f"{name}_{i}" for i in range(count))
        return Feature("categorical", rng.integers(0, count, size).astype(np.int32), vocabulary)

    sizes = {"user": max(num_rows // ROWS_PER_USER, 1), **SIZES}
    nodes = {name: NodeTable(name, np.arange(size)) for name, size in sizes.items()}
    rooms = {
        "category": categorical(SIZES["room"], NUM_CATEGORIES, "category"),
        "brand": categorical(SIZES["room"], NUM_BRANDS, "brand"),
    }
    nodes["room"] = NodeTable("room", nodes["room"].ids, rooms)
    watched = rng.random(num_rows) < 0.5
    events = Events(
        "impression",
        {name: EventNodes(name, rng.integers(0, size, num_rows).astype(np.int32)) for name, size in sizes.items()},
        np.arange(num_rows) / num_rows * 30.0,
        {
            "watched": watched,
            "stay_seconds": np.where(watched, rng.random(num_rows) * 60, np.nan).astype(np.float32),
            "purchased": watched & (rng.random(num_rows) < 0.3),
        },
        {f"number_{i}": Feature("numeric", rng.random(num_rows, np.float32)) for i in range(NUM_NUMBERS)},
        split=np.full(num_rows, TRAIN, np.int8),
    )
    data = LiveCommerceData("encoding", nodes, {}, events={"impression": events})
    with Writer(directory, {"benchmark": "encoding"}) as writer:
        writer.finish(add_histories(data, HISTORIES, writer.new_column), {}, lambda num_bytes: None)


def measure(directory: str, seed: int) -> dict[str, Any]:
    """Makes batches in this process, which it binds to one core.

    Returns:
        "records_per_second" and "records_per_core_second" of "encoded", "placed" and the limit "copied";
        "fit_seconds"; "batch_milliseconds"; "batch_bytes"; "anonymous_mib" above that before the first batch.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    data = store.read(Path(directory))
    start = time.perf_counter()
    encoder = EventEncoder(data, declaration())
    fit_seconds = time.perf_counter() - start
    batches = EventBatches(encoder.packed, slice(None), BATCH_SIZE, (seed,))
    before = _anonymous_mib()
    packed = batches(0)
    found = {
        "encoded": _seconds(batches, WARM_UP),
        "copied": _seconds(lambda step: {name: of.copy() for name, of in packed.items()}, WARM_UP),
        "placed": _placed(batches),
    }
    highest = _anonymous_mib()
    return {
        "rows": batches.num_rows,
        "seed": seed,
        "fit_seconds": fit_seconds,
        "batch_bytes": sum(of.nbytes for of in packed.values()),
        "records_per_second": {name: BATCH_SIZE * len(wall) / sum(wall) for name, (wall, _) in found.items()},
        "records_per_core_second": {name: BATCH_SIZE * len(wall) / core for name, (wall, core) in found.items()},
        "batch_milliseconds": {f"p{q}": float(np.percentile(found["encoded"][0], q)) * 1e3 for q in (50, 90, 99)},
        "anonymous_mib": highest - before,
    }


def _seconds(make: Callable[[int], Any], first: int) -> tuple[list[float], float]:
    """Of each batch by the clock, and of all by the time that the process had the core."""
    for step in range(first):  # maps the pages
        make(step)
    wall, begin = [], time.process_time()
    for step in range(first, first + NUM_BATCHES):
        start = time.perf_counter()
        make(step)
        wall.append(time.perf_counter() - start)
    return wall, time.process_time() - begin


def _placed(batches: EventBatches) -> tuple[list[float], float]:
    device = jax.devices("cpu")[0]
    with BatchStream(batches, place=lambda batch: jax.device_put(batch, device)) as stream:
        return _seconds(lambda step: jax.block_until_ready(next(stream)), WARM_UP)


def _anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1024


def measure_size(num_rows: int, seeds: list[int], workdir: Path) -> list[dict[str, Any]]:
    """`measure` of each seed in a fresh process, on columns that are removed afterwards."""
    rows = []
    with tempfile.TemporaryDirectory(dir=workdir, prefix="encoding_") as directory:
        write_world(Path(directory) / "world", num_rows)
        for seed in seeds:
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows.append(pool.submit(measure, f"{directory}/world", seed).result())
            rates = rows[-1]["records_per_core_second"]
            text = ", ".join(f"{name} {rate / 1e6:.2f} M" for name, rate in rates.items())
            logging.info("%d rows, seed %d: %s records per second of the core", num_rows, seed, text)
    return rows


def result_of(rows: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """The JSON that is stored, without its circumstances."""
    return {
        "target": TARGET,
        "batch_size": BATCH_SIZE,
        "block_rows": BLOCK_ROWS,
        "length": LENGTH,
        "batches": NUM_BATCHES,
        "seeds": seeds,
        "rows": rows,
    }


def parse_sizes(values: list[str]) -> list[int]:
    """Sizes of a list flag; raises ConfigError for anything but whole numbers of a batch or more."""
    if not values or not all(value.isdecimal() and int(value) >= BATCH_SIZE for value in values):
        raise ConfigError(f"--rows={','.join(values)}: give whole numbers, {BATCH_SIZE} or more")
    return [int(value) for value in values]


def main() -> None:
    """Runs the command."""
    seeds, output, workdir = runs.parse_seeds(flags.FLAGS.seeds), Path(flags.FLAGS.output), Path(flags.FLAGS.workdir)
    sizes = parse_sizes(flags.FLAGS.rows)
    if not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir} is not a folder; give one with room for the columns")
    runs.check_output(output)
    started_in = runs.environment()
    rows = [row for size in sizes for row in measure_size(size, seeds, workdir)]
    runs.write_result(output, "encoding", result_of(rows, seeds), started_in)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("rows", ["1000000", "4000000"], "Sizes of the log.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the order of blocks; a process each.")
    flags.DEFINE_string("workdir", tempfile.gettempdir(), "Folder for the columns: 150 bytes of disk a row.")
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "encoding.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
