"""Training steps of every model on virtual devices: what they send, counted from their HLO, and how long they take."""

import dataclasses
import functools
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.scaling.formulas import Workload
from lsec_jax import cli
from lsec_jax.config import ConfigError, EvaluationConfig, ParallelConfig, RunConfig, TrainingConfig
from lsec_jax.config.parallel import STRATEGIES
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.models.edge_tasks import TaskConfig
from lsec_jax.nn.rows import resolve
from lsec_jax.parallel import traffic
from lsec_jax.parallel.traffic import Collective
from lsec_jax.schema import TRAIN, LiveCommerceData
from lsec_jax.training import run as run_lib
from lsec_jax.training.run import Run
from lsec_jax.training.state import TrainState

# Only how the CPU runs what XLA has made of a step; what is sent is decided before.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TOLERANCE = 0.01  # of the bytes of an operation and group, beside 1 KiB: the compiler sends equal ids once
MESHES = ("sharded-2x4", "pmap-8", "sharded-2x2", "sharded-1x2", "pmap-2")


def models(width: int = 64) -> dict[str, lsec_gnn.Config | ncf.Config]:
    """A config of every kind of model, of equal widths; a name says how tables are updated where there is a choice."""
    tasks = (TaskConfig("buy", weight=0.5), TaskConfig("follow", weight=0.5))
    shared: dict[str, Any] = {
        "tasks": tasks,
        "embedding_dim": width,
        "layer_dims": (width, width),
        "predictor_hidden": width,
    }
    gcn = lsec_gnn.Config(**shared)
    return {
        "LSEC-GCN": gcn,
        "LSEC-LightGCN": lsec_gnn.Config(**shared, aggregator="lightgcn"),
        "LSEC-NGCF": lsec_gnn.Config(**shared, aggregator="ngcf"),
        "LSEC-GAT": lsec_gnn.Config(**{**shared, "layer_dims": (width // 8, width // 8)}, aggregator="gat"),
        "LSEC-GCN, sampled": lsec_gnn.Config(**shared, training_graph="sampled", fanout_limits=(2, 2)),
        "NCF, dense": ncf.Config(embedding_dim=width // 2, mlp_dims=(width, width // 2)),
        "NCF, lazy": ncf.Config(embedding_dim=width // 2, mlp_dims=(width, width // 2)),
    }


@functools.cache
def world() -> LiveCommerceData:
    """A simulated world, small enough that steps compile in seconds."""
    return synthetic.Config(
        num_users=1200, num_items=800, num_streamers=160, num_topics=4, num_buy=6000, num_follow=3000, num_sell=1500
    ).load()


def prepare(name: str, parallel: ParallelConfig, batch_size: int = 128) -> Run:
    """A run of one of `models` in the small world."""
    config = RunConfig(
        data=None,
        model=models()[name],
        parallel=parallel,
        training=TrainingConfig(num_steps=100, batch_size=batch_size, evaluate_every=100, patience=0, metric="ndcg@10"),
        evaluation=EvaluationConfig(num_candidates=50, cutoffs=(10,), baselines=()),
    )
    if isinstance(config.model, ncf.Config):
        config.optimizer.tables = name.partition(", ")[2]
    return run_lib.prepare(config, world())


def workload_of(run: Run) -> Workload:
    """The counts of a run that its formula needs."""
    model, state = run.config.model, jax.eval_shape(run.unplaced_state)
    relations = {name: run.data.relation(name) for name in model.needs.relations}
    return Workload(
        num_nodes={name: len(run.data.nodes[name]) for name in state.params.tables},
        ends={name: (of.source, of.target) for name, of in relations.items()},
        num_edges={name: len(of.edges(TRAIN)[0]) for name, of in relations.items()},
        batch_size=run.config.training.batch_size,
        num_dense=sum(of.size for of in jax.tree.leaves(state.params.dense)),
        lazy=run.table_plan().lazy,
        fanouts={name: (of.to_source, of.to_target) for name, of in run.inputs.fanouts.items()},
        num_windows=sum(of.windows is not None for of in run.inputs.positives.values()),
        has_compiled_kernels=isinstance(model, lsec_gnn.Config) and resolve(model.backend) == "compiled",
    )


def parse_mesh(text: str) -> ParallelConfig:
    """A mesh of several devices from "pmap-N" or "sharded-DATAxMODEL"; raises ConfigError."""
    strategy, _, size = text.partition("-")
    if strategy not in STRATEGIES:
        raise ConfigError(f"--meshes: '{text}' is no mesh; give for example pmap-8,sharded-2x4 (data x model)")
    data, model = cli.parse_mesh(f"--meshes: {strategy}", f"{size}x1" if strategy == "pmap" else size)
    if data * model < 2:
        raise ConfigError(f"--meshes: '{text}' is one device, which sends nothing; give at least two")
    return ParallelConfig(strategy, data, model)


def step_collectives(run: Run, state: TrainState) -> list[Collective]:
    """What a training step sends, from its compiled HLO."""
    arguments = state, run.inputs, run.input_at()(0).batch
    compiled = run.step_function().lower(*arguments).compile(compiler_options=_QUICK)
    return traffic.collectives(compiled.as_text())


def by_operation(found: Iterable[Collective]) -> dict[str, float]:
    """Received bytes by operation and group, e.g. {"all-gather of 8": 1024.0}."""
    totals: defaultdict[str, float] = defaultdict(float)
    for of in found:
        if of.group_size > 1:
            totals[f"{of.name} of {of.group_size}"] += of.received_bytes
    return dict(sorted(totals.items()))


def differences(found: Mapping[str, float], wanted: Mapping[str, float]) -> list[str]:
    """What of two results of `by_operation` differs by more than the tolerance, a line each."""
    sides = [(name, found.get(name, 0.0), wanted.get(name, 0.0)) for name in sorted({*found, *wanted})]
    return [
        f"{name}: {own:.0f} bytes counted, formula {other:.0f}"
        for name, own, other in sides
        if abs(own - other) > TOLERANCE * max(own, other) + 1024
    ]


def device_bytes(tree: Any) -> int:
    """Bytes of arrays on one device."""
    return sum(of.addressable_shards[0].data.nbytes for of in jax.tree.leaves(tree) if isinstance(of, jax.Array))


def measure(name: str, parallel: ParallelConfig) -> dict[str, Any]:
    """Compiles a step and counts what it sends; JSON."""
    run = prepare(name, parallel)
    state = run.initial_state()
    found = step_collectives(run, state)
    return {
        "by_operation": by_operation(found),
        "largest": max(of.num_bytes for of in found),
        "workload": dataclasses.asdict(workload_of(run)),
        "state_bytes": device_bytes(state),
        "input_bytes": device_bytes(run.inputs),
    }


def step_seconds(name: str, num_devices: int, strategy: str, num_steps: int, repeats: int) -> list[float]:
    """Seconds per step of several repetitions on virtual devices, after three steps that do not count."""
    along = {"model": num_devices} if strategy == "sharded" else {"data": num_devices}
    run = prepare(name, ParallelConfig(strategy, **{"data": 1, **along}))
    state, step, input_at = run.initial_state(), run.step_function(), run.input_at()
    times: list[float] = []
    for repeat in range(-1, repeats):
        inputs = [input_at(i) for i in range(3 if repeat < 0 else num_steps)]
        start = time.perf_counter()
        for of in inputs:
            state, metrics = step(state, run.inputs, of.batch, *(() if of.drawn is None else (of.drawn,)))
        jax.block_until_ready((state, metrics))
        if repeat >= 0:
            times.append((time.perf_counter() - start) / num_steps)
    assert np.isfinite(float(metrics["loss"]))
    return times
