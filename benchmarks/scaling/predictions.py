"""What the formulas predict for published accelerators: bytes, memory and time of a training step. Nothing is measured.

A step's time is taken to be that of its own memory traffic, at least, plus that of its bytes on the wire, one after the
other and both at published speeds. Matrix products, starting times of collectives and kernels, and imbalance are left
out; so is that both could overlap. The efficiency is the time of one device, if all fitted on it, divided by the time
of n devices and by n, at one size of the whole batch.
"""

import dataclasses
from typing import Any

import jax
from flax import nnx

from benchmarks.scaling import compiled, formulas
from benchmarks.scaling.formulas import BYTES, Workload
from lsec_jax.config import ParallelConfig
from lsec_jax.data.sources import synthetic
from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.nn.divided_graphs import rows_per_part

Model = lsec_gnn.Config | ncf.Config

_MOMENTS = 2  # of Adam
# Read and write a number and its moments; write and read its gradient.
_UPDATE = 2 * (1 + _MOMENTS) + 2
_ENDS = {"buy": ("user", "item"), "follow": ("user", "streamer"), "sell": ("streamer", "item")}
_BATCH_SIZE, _FANOUT = 65_536, 16
_NUM_IMPRESSIONS = 10**9


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A device and its links.

    Attributes:
        memory_bytes: of the device.
        memory_bandwidth: bytes a second.
        link_bandwidth: bytes a second that it can receive from its neighbours.
        source: where that is published.
    """

    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    source: str


# Links are published with both directions together: 900 and 1,200 GB/s.
ACCELERATORS = {
    "H200": Accelerator(
        141e9,
        4.8e12,
        450e9,
        "https://raw.githubusercontent.com/mlcommons/inference_results_v4.1/main/closed/NVIDIA/systems/"
        "H200-SXM-141GBx8_TRT_MaxQ.json (memory, links), https://www.aiminingco.com/gpu/h200/specs (bandwidth)",
    ),
    "TPU v5p": Accelerator(95e9, 2.765e12, 600e9, "https://docs.cloud.google.com/tpu/docs/v5p-training"),
}
MESHES = {
    "H200": (ParallelConfig("pmap", 8), ParallelConfig("sharded", 1, 8), ParallelConfig("sharded", 2, 4)),
    "TPU v5p": (ParallelConfig("pmap", 64), ParallelConfig("sharded", 1, 64), ParallelConfig("sharded", 8, 8)),
}
ONE = ParallelConfig("pmap", 1)


def sizes() -> dict[str, dict[str, dict[str, int]]]:
    """Nodes and edges by the name of the size; the large one has LSEC-Large's proportions of relations."""
    published = synthetic.lsec_large()
    nodes = {"user": published.num_users, "item": published.num_items, "streamer": published.num_streamers}
    edges = {"buy": published.num_buy, "follow": published.num_follow, "sell": published.num_sell}
    times = _NUM_IMPRESSIONS / sum(edges.values())
    return {
        "LSEC-Large": {"nodes": nodes, "edges": edges},
        "1e9 impressions": {
            "nodes": {"user": 10**8, "item": 10**7, "streamer": 10**6},
            "edges": {name: round(times * count) for name, count in edges.items()},
        },
    }


def predict() -> dict[str, Any]:
    """All predictions and what they assume, as JSON."""
    rows, curves = [], []
    for size in sizes():
        for name, model in compiled.models().items():
            workload = workload_of(model, size, is_lazy=name.endswith("lazy"))
            for accelerator, meshes in MESHES.items():
                shown = {"size": size, "model": name, "accelerator": accelerator}
                rows += [shown | predicted(model, workload, mesh, ACCELERATORS[accelerator]) for mesh in meshes]
            for count in (2, 4, 8):
                for mesh in (ParallelConfig("pmap", count), ParallelConfig("sharded", 1, count)):
                    of = predicted(model, workload, mesh, ACCELERATORS["H200"])
                    curves.append({"size": size, "model": name, "devices": count, **of})
    return {
        "predictions": rows,
        "curves": curves,
        "sizes": sizes(),
        "batch_size": _BATCH_SIZE,
        "fanout": _FANOUT,
        "accelerators": {name: dataclasses.asdict(of) for name, of in ACCELERATORS.items()},
    }


def mesh_json(parallel: ParallelConfig) -> dict[str, Any]:
    """A mesh as JSON."""
    return {"strategy": parallel.strategy, "data": parallel.data, "model_axis": parallel.model}


def workload_of(model: Model, size: str, is_lazy: bool) -> Workload:
    """The counts of a model's step at one of `sizes`."""
    counts = sizes()[size]
    relations = (model.relation,) if isinstance(model, ncf.Config) else model.relations
    ends = {name: _ENDS[name] for name in relations}
    num_nodes = {name: counts["nodes"][name] for name in sorted({end for pair in ends.values() for end in pair})}
    module: nnx.Module
    if isinstance(model, ncf.Config):
        module = ncf.Ncf(model, num_nodes, ends[model.relation], nnx.Rngs(0))
    else:
        module = lsec_gnn.LsecGnn(model, num_nodes, ends, nnx.Rngs(0))
    return Workload(
        num_nodes=num_nodes,
        ends=ends,
        num_edges={name: counts["edges"][name] for name in relations},
        batch_size=_BATCH_SIZE,
        num_dense=sum(of.size for of in jax.tree.leaves(nnx.state(module))),
        lazy=tuple(num_nodes) if is_lazy else (),
        fanouts={name: (_FANOUT, _FANOUT) for name in relations},
    )


def predicted(model: Model, workload: Workload, parallel: ParallelConfig, device: Accelerator) -> dict[str, Any]:
    """One step on one mesh, as JSON."""
    by_term = formulas.received_bytes(formulas.terms(model, workload, parallel))
    memory = memory_bytes(model, workload, parallel)
    total, num_devices = sum(by_term.values()), parallel.data * parallel.model
    own = moved_bytes(model, workload, parallel) / device.memory_bandwidth
    alone = moved_bytes(model, workload, ONE) / device.memory_bandwidth
    wire = total / device.link_bandwidth
    return {
        **mesh_json(parallel),
        "received_bytes": total,
        "terms": by_term,
        "memory": memory,
        "memory_bytes": sum(memory.values()),
        "fits": sum(memory.values()) <= device.memory_bytes,
        "memory_seconds": own,
        "wire_seconds": wire,
        "efficiency": alone / (num_devices * (own + wire)),
    }


def memory_bytes(model: Model, workload: Workload, parallel: ParallelConfig) -> dict[str, float]:
    """What a device holds during a step, at least, by what it is."""
    width, shards = formulas.table_width(model), parallel.model
    own_rows = {name: rows_per_part(count, shards) for name, count in workload.num_nodes.items()}
    dense_rows = sum(count for name, count in own_rows.items() if name not in workload.lazy)
    result = {
        "state": BYTES * (1 + _MOMENTS) * (sum(own_rows.values()) * width + workload.num_dense),
        "gradients": BYTES * (dense_rows * width + workload.num_dense),
        "positives": _positives_bytes(model, workload),
    }
    if isinstance(model, ncf.Config):
        return result
    is_sampled = model.training_graph == "sampled"
    parts = 1 if is_sampled else shards
    # Sender, receiver, weight and place of each edge; its twin where a device has the whole graph, or attends.
    has_twins, has_transposes = parts == 1 or model.aggregator == "gat", parts > 1 and model.aggregator == "gat"
    of_edge = BYTES * (4 + has_twins + 4 * has_transposes)
    result["graphs"] = 2 * sum(workload.num_edges.values()) * of_edge / parts
    ends = [end for relation in model.relations for end in workload.ends[relation]]
    if is_sampled:
        for relation in model.relations:
            rows = sum(formulas.selected(model, workload, relation, parallel.data * shards)[-1])
            result["vectors"] = result.get("vectors", 0.0) + BYTES * rows * model.embedding_dim * len(model.layer_dims)
    else:
        own_nodes = sum(rows_per_part(workload.num_nodes[end], shards) for end in ends)
        result["vectors"] = BYTES * own_nodes * sum(_output_widths(model))
        if shards > 1:
            heads = model.num_heads if model.aggregator == "gat" else 1
            result["senders"] = BYTES * max(workload.num_nodes.values()) * max(formulas.sent_widths(model)) / heads
    return result


def moved_bytes(model: Model, workload: Workload, parallel: ParallelConfig) -> float:
    """What a device reads and writes in its own memory in a step, at least.

    Whole tables are updated by the optimizer; of a graph, an id, a weight and a vector are read for each edge and a
    vector is written for each node, in each layer and direction, forward and backward; rows of the batch are read, and
    their gradients written, and rows of lazy tables updated.
    """
    width, shards, replicas = formulas.table_width(model), parallel.model, parallel.data * parallel.model
    dense = [count for name, count in workload.num_nodes.items() if name not in workload.lazy]
    total = float(_UPDATE * sum(rows_per_part(count, shards) for count in dense) * width)
    if isinstance(model, ncf.Config):
        rows = workload.batch_size * (2 + model.num_negatives)
        return BYTES * (total + 2 * rows * width / replicas + _UPDATE * rows * width * bool(workload.lazy) / shards)
    widths = formulas.result_widths(model, workload.ends)
    for task in model.tasks:
        pair = [widths[end] for end in workload.ends[task.relation]]
        total += 2 * workload.batch_size * (pair[0] + (1 + task.num_negatives) * pair[1]) / replicas
    for relation in model.relations:
        if model.training_graph == "sampled":
            *receiving, _ = formulas.selected(model, workload, relation, replicas)
            slots = sum(sources + targets for sources, targets in receiving) * _FANOUT
            total += 2 * slots * (2 + model.embedding_dim)
            continue
        num_nodes = sum(workload.num_nodes[end] for end in workload.ends[relation])
        for sent in formulas.sent_widths(model):
            total += 2 * (2 * workload.num_edges[relation] * (2 + sent) + num_nodes * sent) / shards
    return BYTES * total


def _positives_bytes(model: Model, workload: Workload) -> float:
    """Both ends of each training positive and where each source's start: every device has all of them."""
    result = 0
    for relation in model.task_tables:
        source, _ = workload.ends[relation]
        result += BYTES * (2 * workload.num_edges[relation] + workload.num_nodes[source])
    return result


def _output_widths(model: lsec_gnn.Config) -> list[int]:
    return [width * (model.num_heads if model.aggregator == "gat" else 1) for width in model.layer_dims]
