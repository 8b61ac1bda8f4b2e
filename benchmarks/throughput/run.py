"""The throughput suite: how fast each kind of work runs, beside peers, an earlier revision and the machine's limits.

Example:
  taskset -c 0 python -m benchmarks.throughput.run --quick
  taskset -c 0 python -m benchmarks.throughput.run --only=propagate,step/lsec_gcn --sizes=small --before=HEAD~3
  taskset -c 0 python -m benchmarks.throughput.run --peers=pytorch_csr=PEER/bin/python --workdir=/tmp/suite \
      --output=benchmarks/throughput/results/suite.json

A row is one kind of work at one size. Every contestant (ours, each peer that knows the row, ours as of --before) is a
process of its own: it loads, compiles and runs once, then all of them repeat the work in turns, so that what else the
machine does touches all alike. Peers take part at the size "small", that of the published LSEC-Small.

A process that only copies memory takes part in the turns: its median is the copy bandwidth. "Compilation" is lowering
and compiling by XLA; setting up is the rest until the first repetition is done. "Peak memory" is the largest resident
size of the process, libraries and all; on another device also that of the device.

With --workdir, a row that is finished is not measured again. peers/README.md says how to install peers.
"""

import dataclasses
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import runs
from benchmarks.throughput import catalogue, contestants, suite_plots, suite_section, summary, workloads
from benchmarks.throughput.contestants import COPIES, OURS, Contestant, Effort, Worker
from benchmarks.throughput.rows.row import Row
from lsec_jax import cli
from lsec_jax.config import ConfigError, require_choice
from lsec_jax.data.files import write_json


class RowFailedError(ConfigError):
    """Our worker failed; the other rows are measured all the same."""


QUICK = Effort(least=3, most=3, is_quick=True)
PEER_SIZES = ("tiny", "small")


def measure_row(
    name: str, size: str, row: Row, field: list[Contestant], effort: Effort, workdir: Path
) -> dict[str, Any]:
    """Measures a row at a size.

    Args:
        name: of the row.
        size: of its workload.
        row: what it is.
        field: all contestants; those that know the row take part.
        effort: how long.
        workdir: for workloads, and what workers print.

    Returns:
        JSON: "results" by contestant, "ratios" of each to ours, "unavailable" with reasons.

    Raises:
        RowFailedError: our own worker failed.
    """
    folder = workloads.prepare(row.workload, size, workdir)
    with ExitStack() as stack:
        workers = []
        for of in contestants.taking_part(row.peers if size in PEER_SIZES else (), field):
            called = row.peer_row or name if of.name in contestants.PEERS else name
            log = workdir / "logs" / f"{_file(name, size)}_{of.name}.txt"
            workers.append(stack.enter_context(Worker(of, called, folder, effort.is_quick, log)))
        found, reasons = contestants.measure(workers, effort)
    copied = summary.copy_rates(found.pop(COPIES, None))
    results = {who: summary.summarize(found[who] | copied) for who in contestants.sides(found)}
    why = {who: str(reason).replace(f"{workdir}/", "") for who, reason in reasons.items()}
    for who, reason in why.items():
        logging.warning("%s, %s, %s: %s", name, size, who, reason)
    if OURS in reasons and reasons[OURS].is_fault:
        raise RowFailedError(f"{name}, {size}: {why[OURS]}")
    logging.info("%s", summary.described(name, size, results))
    return {
        "row": name,
        "size": size,
        "workload": workloads.counts(row.workload, folder),
        "results": results,
        "ratios": summary.ratios(results),
        "unavailable": why,
    }


def measure_all(
    rows: dict[str, Row], sizes: list[str], field: list[Contestant], effort: Effort, before: str, workdir: Path
) -> dict[str, Any]:
    """Measures rows at their sizes, or at those of a list, and keeps each finished one in the workdir.

    Returns:
        JSON: "rows" and "failed", those that our worker could not do, with "environments".
    """
    started_in = runs.environment()
    done, failed = [], []
    for name, row in rows.items():
        for size in [of for of in sizes if of in workloads.sizes_of(row.workload)] or row.sizes:
            settings = {"row": name, "size": size, "effort": dataclasses.asdict(effort), "before": before}
            settings["contestants"] = [of.name for of in field if of.name != COPIES]
            path = workdir / "rows" / f"{_file(name, size)}.json"
            try:
                done.append(
                    runs.finished_or(
                        path,
                        settings,
                        lambda name=name, size=size, row=row: measure_row(name, size, row, field, effort, workdir),
                    )
                )
            except RowFailedError as error:
                failed.append({"row": name, "size": size, "reason": str(error)})
    environments = runs.distinct([of["environment"] for of in done] or [started_in])
    done = [{key: value for key, value in of.items() if key != "environment"} for of in done]
    return {"rows": done, "failed": failed, "environment": started_in, "environments": environments}


def _file(name: str, size: str) -> str:
    return f"{name.replace('/', '_')}_{size}"


def command() -> str:
    """The command line, without the places of this machine's environments."""
    return re.sub(rf"\b({'|'.join(contestants.PEERS)})=[^\s,']+", r"\1=\1/bin/python", runs.command())


def main() -> None:
    """Runs the command."""
    of = flags.FLAGS
    rows = catalogue.chosen(of.only)
    for size in of.sizes:
        require_choice("--sizes", size, workloads.SIZES)
    field = [contestants.ours(), contestants.copies(), *contestants.parse_peers(of.peers)]
    commit = contestants.revision(of.before) if of.before else ""
    if of.output:
        runs.check_output(Path(of.output))
    if of.workdir and not Path(of.workdir).parent.is_dir():
        raise ConfigError(f"--workdir={of.workdir}: the folder above it does not exist; create it first")
    if of.quick and not of.only:
        rows = {name: row for name, row in rows.items() if row.is_quick}
    sizes = of.sizes or (["tiny"] if of.quick else [])
    effort = QUICK if of.quick else Effort(seconds=of.seconds)
    with ExitStack() as stack:
        workdir = Path(of.workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="throughput_")))
        if commit:
            field.append(contestants.check_out(commit, workdir))
        result = measure_all(rows, sizes, field, effort, commit, workdir)
    result |= {"benchmark": "suite", "before": commit, "command": command()}
    print(suite_section.tables(result))
    if of.output:
        write_json(Path(of.output), result)
        suite_plots.draw(result, Path(of.output).with_suffix(".png"))
        logging.info("wrote %s", of.output)
    if result["failed"]:
        raise ConfigError("; ".join(f["reason"] for f in result["failed"]))


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_list("only", [], "Rows, or paths above them: propagate,step/lsec_gcn. Default: all.")
    flags.DEFINE_list("sizes", [], f"Any of: {', '.join(workloads.SIZES)}. Default: those of each row.")
    flags.DEFINE_bool(
        "quick", False, "A trial of a minute or two: a tiny world, few repetitions, few rows unless --only."
    )
    flags.DEFINE_list("peers", [], f"NAME=PYTHON for each of: {', '.join(contestants.PEERS)}.")
    flags.DEFINE_string("before", "", "Revision whose lsec_jax takes part as well.")
    flags.DEFINE_float("seconds", 60.0, "Repetitions of a row go on that long, within 5 to 20.", lower_bound=0.0)
    flags.DEFINE_string("workdir", "", "Folder that keeps workloads, logs and finished rows. Default: a temporary one.")
    flags.DEFINE_string("output", "", "JSON file to write, with a picture beside it. Default: the tables are printed.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
