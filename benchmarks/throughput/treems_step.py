"""How fast TREEMS trains: its experts, its sampler, its step and what makes it longer, and a peer's MMoE beside it.

Example:
  python -m benchmarks.throughput.treems_step --peers=torch_rechub=PEER/bin/python

All on one core, which the process binds itself to; what is compared takes turns, so that what else the machine does
touches all alike.

- Experts together, as the model has them, against a loop over networks of their own (`expert_loop.py`).
- Neighbours drawn from a graph of 1 M users, against plain reads of as many numbers (`link_graph.py`).
- The step on columns that are written into a folder of --workdir and removed at the end (`treems_world.py`): at two
  batch sizes, and, at the smaller one, with other numbers of experts, views and neighbours, one at a time. Then runs of
  some steps whose inputs a thread makes ahead, on the same core and on another one where the process may have one, say
  how much of their time the steps waited.
- Steps without a graph, a process each, beside torch-rechub's MMoE (`rows/sharing.py`).
"""

import dataclasses
import itertools
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import runs
from benchmarks.throughput import catalogue, contestants, expert_loop, link_graph, run, treems_world
from benchmarks.throughput.contestants import Contestant, Effort
from benchmarks.throughput.step_times import Step, in_turns, operations, product, waiting
from benchmarks.throughput.treems_world import Shape
from lsec_jax import cli
from lsec_jax.config import ConfigError
from lsec_jax.data import store
from lsec_jax.data.files import write_json
from lsec_jax.training.run import prepare


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is measured and how often.

    Attributes:
        repetitions: of each kind of work.
        warm_ups: turns before them.
        steps: of the runs that read inputs made ahead.
        expert_counts: of `expert_loop`.
        experts: sizes there.
        graph: of `link_graph`.
        world: of `treems_world`.
        batch_sizes: of steps; the first one is that of the tables of growth.
        default: shape of the model.
        growth: by the shape's key, what else it is.
        product: rows of the matrices whose product is the core's peak.
        peer_size: of the records of rows `sharing/...`.
        effort: of these rows.
    """

    repetitions: int
    warm_ups: int
    steps: int
    expert_counts: tuple[int, ...]
    experts: expert_loop.Sizes
    graph: link_graph.Sizes
    world: treems_world.Sizes
    batch_sizes: tuple[int, ...]
    default: Shape
    growth: tuple[tuple[str, tuple[Any, ...]], ...]
    product: int
    peer_size: str
    effort: Effort


FULL = Protocol(
    repetitions=20,
    warm_ups=3,
    steps=30,
    expert_counts=(8, 16, 32),
    experts=expert_loop.Sizes(2048, 256, (128, 96, 64, 32, 16), 32),
    graph=link_graph.Sizes(1_000_000, 10_000_000, 2048, (8, 4), 256),
    world=treems_world.Sizes(),
    batch_sizes=(512, 2048),
    default=Shape(),
    growth=(
        ("experts", (2, 4, 8, 16, 32)),
        ("views", (0, 1, 2, 3)),
        ("fanouts", ((4, 4), (8, 4), (16, 4))),
    ),
    product=2048,
    peer_size="small",
    effort=Effort(least=10, most=20, seconds=30.0),
)
QUICK = Protocol(
    repetitions=3,
    warm_ups=1,
    steps=3,
    expert_counts=(2,),
    experts=expert_loop.Sizes(32, 8, (8, 4, 4, 4, 4), 4),
    graph=link_graph.Sizes(1_000, 5_000, 64, (3, 2), 8),
    world=treems_world.Sizes(500, 2_000, 2_000, 4, (8, 4, 4, 4, 4), (8,)),
    batch_sizes=(64, 128),
    default=Shape(2, 1, (2, 2)),
    growth=(("experts", (2, 3)), ("views", (0, 1)), ("fanouts", ((2, 2),))),
    product=64,
    peer_size="tiny",
    effort=run.QUICK,
)


def measure_sampling(protocol: Protocol, workdir: Path) -> dict[str, Any]:
    """The sampler, plain reads and the loop in turns, with the graph's facts; its files are removed afterwards."""
    with tempfile.TemporaryDirectory(dir=workdir, prefix="links_") as directory:
        view = link_graph.write_graph(Path(directory), protocol.graph)
        works = link_graph.works(view, protocol.graph)
        times = in_turns(works, protocol.repetitions, protocol.warm_ups)
        return {**link_graph.facts(view, protocol.graph), "ways": times}


def shapes(protocol: Protocol) -> dict[str, tuple[Shape, int]]:
    """All variants of the step by name, each once: the default at all batch sizes, and what grows at the first."""
    found = [(protocol.default, size) for size in protocol.batch_sizes]
    for key, values in protocol.growth:
        found += [(protocol.default._replace(**{key: value}), protocol.batch_sizes[0]) for value in values]
    return {name_of(*of): of for of in found}


def name_of(shape: Shape, batch_size: int) -> str:
    """Of a variant."""
    fanouts = "x".join(map(str, shape.fanouts))
    return f"{shape.experts} experts, {shape.views} views, fan-outs {fanouts}, batch {batch_size}"


def measure_steps(protocol: Protocol, workdir: Path, input_cores: dict[str, int | None]) -> dict[str, Any]:
    """The step.

    Args:
        protocol: how.
        workdir: for the columns.
        input_cores: by name, the core of the thread that makes inputs.

    Returns:
        JSON: "variants" with their times, "encoding" of a batch and "waiting" by batch size, "operations" and
        "product", "world", "config".
    """
    with tempfile.TemporaryDirectory(dir=workdir, prefix="treems_") as directory:
        folder = Path(directory) / "world"
        world = treems_world.write_world(folder, protocol.world)
        data = store.read(folder)
        of_shapes, steps = shapes(protocol), {}
        for name, (shape, size) in of_shapes.items():
            steps[name] = Step(prepare(treems_world.config_of(folder, shape, protocol.world, size), data))
            logging.info("%s: compiled in %.1f s", name, steps[name].compile_seconds)
        multiply, num_operations = product(protocol.product)
        defaults = {size: steps[name_of(protocol.default, size)] for size in protocol.batch_sizes}
        encodings = {f"encoding {size}": _encoding(step) for size, step in defaults.items()}
        times = in_turns({**steps, **encodings, "product": multiply}, protocol.repetitions, protocol.warm_ups)
        variants = {
            name: {**shape._asdict(), "batch_size": size, "compile_seconds": steps[name].compile_seconds, **times[name]}
            for name, (shape, size) in of_shapes.items()
        }
        waits = [
            {"batch_size": size, "inputs_on": where, **waiting(step, protocol.steps, core)}
            for (size, step), (where, core) in itertools.product(defaults.items(), input_cores.items())
        ]
        largest = max(defaults)
        config = runs.as_json(defaults[largest].run.config)
        return {
            "variants": variants,
            "default": {str(size): name_of(protocol.default, size) for size in protocol.batch_sizes},
            "growth": {
                key: [name_of(protocol.default._replace(**{key: value}), protocol.batch_sizes[0]) for value in values]
                for key, values in protocol.growth
            },
            "encoding": {str(size): times[f"encoding {size}"] for size in protocol.batch_sizes},
            "waiting": waits,
            "operations": {str(size): operations(step.run) for size, step in defaults.items()},
            "product": times["product"] | {"operations": num_operations},
            "world": {**dataclasses.asdict(protocol.world), **world},
            # The folder is gone, and of no matter.
            "config": {key: value for key, value in config.items() if key != "data"},
        }


def _encoding(step: Step) -> Any:
    batch_at, numbers = step.run.batch_at(), itertools.count(1)
    return lambda: batch_at(next(numbers))


def measure_peers(protocol: Protocol, peers: list[Contestant], workdir: Path) -> list[dict[str, Any]]:
    """Rows `sharing/...` of the suite, ours and the peers' in turns."""
    field = [contestants.ours(), contestants.copies(), *peers]
    with tempfile.TemporaryDirectory(dir=workdir, prefix="sharing_") as directory:
        return [
            run.measure_row(name, protocol.peer_size, row, field, protocol.effort, Path(directory))
            for name, row in catalogue.chosen(["sharing"]).items()
        ]


def why_no_torch_geometric(peers: list[Contestant]) -> str:
    """Why its neighbour sampler has no row."""
    if not peers:
        return "no environment of peers was given"
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch_geometric') is None)"
    done = subprocess.run([peers[0].command[0], "-c", code], capture_output=True)
    if done.returncode:
        return "torch_geometric is not installed in the peers' environment"
    return "torch_geometric is installed in the peers' environment, but there is no driver for its sampler yet"


def measure(
    protocol: Protocol, peers: list[Contestant], workdir: Path, input_cores: dict[str, int | None]
) -> dict[str, Any]:
    """All of it, JSON; see the other functions."""
    started = time.perf_counter()
    experts = expert_loop.measure(protocol.expert_counts, protocol.experts, protocol.repetitions, protocol.warm_ups)
    logging.info("experts are done")
    sampling = measure_sampling(protocol, workdir)
    logging.info("sampling is done")
    return {
        "experts": {"sizes": protocol.experts._asdict(), "rows": experts},
        "sampling": {**sampling, "unavailable": {"torch_geometric": why_no_torch_geometric(peers)}},
        "steps": measure_steps(protocol, workdir, input_cores),
        "peers": measure_peers(protocol, peers, workdir),
        "protocol": {
            "repetitions": protocol.repetitions,
            "warm_ups": protocol.warm_ups,
            "seed": 0,
            "dtype": "float32",
            "seconds": time.perf_counter() - started,
        },
    }


def bind_to_one_core() -> dict[str, int | None]:
    """Binds the process, before XLA makes its threads, to one of its cores.

    Returns:
        "the same core" and, if the process had another one, "another core", for `measure_steps`.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    return {"the same core": None, **({"another core": cores[1]} if len(cores) > 1 else {})}


def main() -> None:
    """Runs the command."""
    of = flags.FLAGS
    output, workdir = Path(of.output), Path(of.workdir)
    if not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir} is not a folder; give one with room for the columns")
    peers = contestants.parse_peers(of.peers)
    runs.check_output(output)
    input_cores = bind_to_one_core()
    started_in = runs.environment()
    found = measure(QUICK if of.quick else FULL, peers, workdir, input_cores)
    write_json(output, {"benchmark": "treems_step", **found, "environments": [started_in], "command": run.command()})
    logging.info("wrote %s", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_bool("quick", False, "A trial of a minute: tiny sizes, few repetitions.")
    flags.DEFINE_list("peers", [], "torch_rechub=PYTHON: the Python of its environment; none = ours alone.")
    flags.DEFINE_string("workdir", tempfile.gettempdir(), "Folder for the columns: 200 MiB.")
    flags.DEFINE_string("output", str(runs.THROUGHPUT / "treems_step.json"), "JSON file to write.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
