"""`python -m lsec_jax.prepare` on logs of growing size: seconds of each stage, memory, and bytes on disk.

Example:
  python -m benchmarks.throughput.preparation --thousands=1000,4000,16000 --workdir=/tmp/preparation

A log is one file of impressions, as Parquet or CSV, with users, rooms and streamers from pools that do not grow with
it, times in no order, requests, two labels, a stay time and 17 features, beside a small file of purchases. Each
preparation is a process of its own, with the histories of what users watched: as end offsets, or 50 items each.
"Anonymous memory" is the largest that the process had of its own, without the pages of mapped files, which the system
may drop at any time.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from absl import flags, logging

from benchmarks import runs
from lsec_jax import cli
from lsec_jax.config import ConfigError, HistoryConfig, RunConfig
from lsec_jax.data.sources.interactions import ColumnSpec, Config, EventSpec, RelationSpec, RoleSpec
from lsec_jax.models import ncf

POOLS = {"user": 200_000, "room": 100_000, "streamer": 20_000}
NUM_ITEMS, NUM_PURCHASES = 20_000, 100_000
NUM_CATEGORICAL, NUM_NUMERIC = 12, 5
FORMATS, LAYOUTS = ("parquet", "csv"), ("ends", "last")
MEMORY_GIB = 1.0
MILLION = 1_000_000
_STAGE = re.compile(r"(reading|sorting|checking|splitting|histories|statistics|writing): ([0-9.]+) s")

_CONFIG_FILE = '''"""A preparation that is measured."""

from benchmarks.throughput import preparation


def get_config():
    return preparation.config_of({path!r}, {kind!r}, {layout!r})
'''


def config_of(path: str, kind: str, layout: str) -> RunConfig:
    """What is prepared: the log of a folder, in a format of FORMATS, with histories in a layout of LAYOUTS."""
    columns = [ColumnSpec(name, kind="label") for name in ("watched", "product_click")]
    columns += [ColumnSpec("stay_seconds", kind="measure")]
    columns += [ColumnSpec(f"c{i}") for i in range(NUM_CATEGORICAL)]
    columns += [ColumnSpec(f"n{i}", kind="numeric") for i in range(NUM_NUMERIC)]
    shown = EventSpec(
        name="impression",
        path=f"impressions.{kind}",
        roles=tuple(RoleSpec(name) for name in POOLS),
        group_column="request",
        columns=tuple(columns),
    )
    buy = RelationSpec("buy", "user", "item", "purchases.parquet", "user", "item", "time")
    watches = HistoryConfig("watches", where="watched", is_materialized=layout == "last")
    return RunConfig(
        data=Config(path, (buy,), "log", events=(shown,)), model=ncf.Config(variant="gmf"), histories=(watches,)
    )


def write_log(folder: Path, num_rows: int, seed: int = 0) -> None:
    """Writes a log in both formats, a million rows at a time."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    bought = {"user": POOLS["user"], "item": NUM_ITEMS}
    purchases = {name: rng.integers(0, size, NUM_PURCHASES) for name, size in bought.items()}
    pq.write_table(pa.table({**purchases, "time": rng.random(NUM_PURCHASES) * 1e6}), folder / "purchases.parquet")
    parquet, csv = None, None
    for block in _impressions(rng, num_rows):
        if parquet is None or csv is None:
            parquet = pq.ParquetWriter(folder / "impressions.parquet", block.schema)
            csv = pa.csv.CSVWriter(folder / "impressions.csv", block.schema)
        parquet.write_table(block)
        csv.write_table(block)
    assert parquet is not None and csv is not None
    parquet.close()
    csv.close()


def _impressions(rng: np.random.Generator, num_rows: int) -> Iterator[pa.Table]:
    for start in range(0, num_rows, MILLION):
        n = min(MILLION, num_rows - start)
        watched = rng.random(n) < 0.2
        # Popularity falls as a power of the rank, and long idle ids stay rare.
        columns: dict[str, Any] = {name: (size * rng.random(n) ** 3).astype(np.int64) for name, size in POOLS.items()}
        columns["time"] = np.round(rng.random(n) * 1e6, 3)
        columns["request"] = start // 8 + rng.integers(0, max(n // 8, 1), n)
        columns["watched"], columns["product_click"] = watched.astype(np.int8), (rng.random(n) < 0.02).astype(np.int8)
        columns["stay_seconds"] = pa.array(np.round(rng.random(n) * 300, 1), mask=~watched)
        for i in range(NUM_CATEGORICAL):
            columns[f"c{i}"] = np.char.add("word", rng.integers(0, 5 * (i + 1), n).astype(np.str_))
        for i in range(NUM_NUMERIC):
            columns[f"n{i}"] = np.round(rng.random(n), 4)
        yield pa.table(columns)


def measure(folder: Path, kind: str, layout: str) -> dict[str, Any]:
    """Prepares a log in a process of its own.

    Returns:
        "seconds" in all, "stages" (seconds of each), "anonymous_gib" at most, "prepared_bytes", and, for the layout,
        "history_bytes".

    Raises:
        ConfigError: the command failed; with what it said.
    """
    config_file, output, log = folder / f"{kind}_{layout}.py", folder / "prepared", folder / "prepare.log"
    config_file.write_text(_CONFIG_FILE.format(path=str(folder), kind=kind, layout=layout))
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "lsec_jax.prepare", f"--config={config_file}", f"--output={output}"]
    start, anonymous = time.perf_counter(), 0
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, f"--memory_gib={MEMORY_GIB}"], cwd=runs.ROOT, stdout=stream, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            anonymous = max(anonymous, _anonymous_bytes(process.pid))
            time.sleep(0.02)
    seconds = time.perf_counter() - start
    text = log.read_text()
    if process.returncode:
        raise ConfigError(f"{shlex.join(command)} failed:\n{text[-2000:]}")
    files = {path: path.stat().st_size for path in output.rglob("*.npy")}
    found = {
        "seconds": seconds,
        "stages": {stage: float(value) for stage, value in _STAGE.findall(text)},
        "anonymous_gib": anonymous / 2**30,
        "prepared_bytes": sum(files.values()),
        "history_bytes": sum(size for path, size in files.items() if "histories" in path.parts),
    }
    shutil.rmtree(output)
    return found


def _anonymous_bytes(process: int) -> int:
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Runs the command."""
    output, workdir = Path(flags.FLAGS.output), Path(flags.FLAGS.workdir)
    if not all(value.isdecimal() and int(value) > 0 for value in flags.FLAGS.thousands):
        raise ConfigError(f"--thousands={','.join(flags.FLAGS.thousands)}: give whole numbers above 0")
    if workdir.exists() and any(workdir.iterdir()):
        raise ConfigError(f"--workdir={workdir} is not empty; the logs need a new folder")
    runs.check_output(output)
    environment = runs.environment()
    rows = []
    for thousands in map(int, flags.FLAGS.thousands):
        folder = workdir / str(thousands)
        write_log(folder, thousands * 1000)
        for kind in FORMATS:
            for layout in LAYOUTS if kind == FORMATS[0] else LAYOUTS[:1]:
                for repeat in range(flags.FLAGS.repeats):
                    found = measure(folder, kind, layout)
                    source_bytes = (folder / f"impressions.{kind}").stat().st_size
                    row = {"impressions": thousands * 1000, "format": kind, "layout": layout, "repeat": repeat}
                    rows.append({**row, "source_bytes": source_bytes, **found})
                    logging.info("%s", rows[-1])
        shutil.rmtree(folder)
    runs.write_result(output, "preparation", {"memory_gib": MEMORY_GIB, "rows": rows}, environment)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("thousands", ["1000", "4000", "16000"], "Impressions of each log, in thousands.")
    flags.DEFINE_integer("repeats", 2, "Preparations of each kind.", lower_bound=1)
    flags.DEFINE_string("workdir", None, "New folder for the logs, which are removed at the end.", required=True)
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "preparation.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
