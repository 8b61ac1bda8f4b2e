"""Rows `step/MODEL`: one training step, with the batch that it takes from the stream.

The LSEC-GNN models are 200 wide with layers of 128 and 64 (LightGCN: 200), an MLP predictor of 128 and log loss with 4
negatives, on 2,048 positives of each of two tasks; the others take 4,096 of the one that they have. Adam.
`..._bcsr` is the same without the compiled kernels. `bytes` are those of the neighbour sums alone, without the last
layer's: a loss reads these for the nodes of its batch only, and how many edges those have differs from step to step.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.throughput.peers.protocol import Unavailable, Work
from benchmarks.throughput.rows import propagation
from benchmarks.throughput.rows.row import Row
from lsec_jax.config import EvaluationConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import prepared
from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.training.run import Run, prepare

POSITIVES, QUICK_POSITIVES = 4096, 64
WIDTH = 200
_WIDE = {"layer_dims": (WIDTH, WIDTH), "aggregator": "lightgcn"}


def _lightgcn_bpr(**changes: Any) -> lsec_gnn.Config:
    return lsec_gnn.Config(
        relations=("buy",),
        tasks=(lsec_gnn.TaskConfig("buy", loss="bpr", num_negatives=1),),
        aggregator="lightgcn",
        layer_dims=(WIDTH,) * 3,
        layer_combination="mean",
        predictor="dot",
        exclude_batch_edges=False,
        **changes,
    )


MODELS: dict[str, Callable[[], Any]] = {
    "lsec_gcn": lsec_gnn.Config,
    "lsec_gcn_bcsr": functools.partial(lsec_gnn.Config, backend="bcsr"),
    "lsec_gcn_sampled": functools.partial(lsec_gnn.Config, training_graph="sampled"),
    "lsec_lightgcn": functools.partial(lsec_gnn.Config, **_WIDE),
    "lsec_lightgcn_bcsr": functools.partial(lsec_gnn.Config, backend="bcsr", **_WIDE),
    "lsec_gat": functools.partial(lsec_gnn.Config, aggregator="gat", num_heads=8),
    "lsec_ngcf": functools.partial(lsec_gnn.Config, aggregator="ngcf"),
    "lightgcn_bpr": _lightgcn_bpr,
    "lightgcn_bpr_bcsr": functools.partial(_lightgcn_bpr, backend="bcsr"),
    "ncf_gmf": functools.partial(ncf.Config, "gmf", embedding_dim=WIDTH),
    "neumf": functools.partial(ncf.Config, "neumf"),
}


def config_of(folder: Path, model: Any, quick: bool) -> RunConfig:
    """The run whose step is measured."""
    positives = QUICK_POSITIVES if quick else POSITIVES
    return RunConfig(
        data=prepared.Config(str(folder)),
        model=model,
        split=SplitConfig(method="given"),
        training=TrainingConfig(batch_size=positives // len(model.task_tables), metric="ndcg@10"),
        evaluation=EvaluationConfig(protocols=("full_ranking",), baselines=()),
    )


def make(folder: Path, quick: bool, model: str) -> Work:
    """One repetition is one step; each goes on with the state of the one before."""
    config = config_of(folder, MODELS[model](), quick)
    check_available(config.model)
    run = prepare(config)
    state, batch_at = run.initial_state(), run.batch_at()
    step, numbers, losses = run.step_function(), itertools.count(), []

    def one() -> None:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, run.inputs, batch_at(next(numbers))))
        losses.append(metrics["loss"])

    moved = _sums(run)
    notes = _fanouts(run)
    if moved is not None:
        notes.append(f"bytes: neighbour sums of all layers but the last, {propagation.BYTES}")
    return Work(
        run=one,
        examples=config.training.batch_size * len(config.model.task_tables),
        edges=_edges(run),
        bytes=moved,
        notes="; ".join(notes),
        finish=lambda: _checked(np.asarray(jax.device_get(losses))),
    )


def check_available(model: Any) -> None:
    """Raises Unavailable where this device has not what the model's backend needs."""
    backend = getattr(model, "backend", "auto")
    if backend != "auto" and jax.default_backend() != "cpu":
        raise Unavailable(f"backend '{backend}' is compared with the compiled kernels on CPU only")
    propagation.require_backend(model)


def _edges(run: Run) -> int | None:
    """Edges that a step propagates over; how many it samples differs from step to step."""
    if getattr(run.config.model, "training_graph", "full") != "full":
        return None
    return sum(graph.to_source.senders.shape[0] for graph in run.inputs.graphs.values()) or None


def _sums(run: Run) -> int | None:
    """Bytes that all layers' neighbour sums but the last one's move, on the narrower side of each layer's weights."""
    model = run.config.model
    if getattr(model, "aggregator", None) not in ("gcn", "lightgcn") or model.training_graph != "full":
        return None
    widths = (model.embedding_dim, *model.layer_dims)
    narrow = sum(min(pair) for pair in itertools.pairwise(widths[:-1]))
    return sum(propagation.moved_bytes(graph, narrow) for graph in run.inputs.graphs.values()) or None


def _fanouts(run: Run) -> list[str]:
    fanouts = {name: dataclasses.asdict(of) for name, of in run.inputs.fanouts.items()}
    drawn = [f"{name} {of['to_source']}/{of['to_target']}" for name, of in fanouts.items()]
    if not drawn:
        return []
    return [f"neighbours drawn within the step, per node and layer, to a source / a target: {', '.join(drawn)}"]


def _checked(losses: np.ndarray) -> Mapping[str, Any]:
    if not np.isfinite(losses).all():
        raise ValueError(f"the loss is not finite: {losses}")
    return {"first_loss": float(losses[0]), "last_loss": float(losses[-1])}


_PEERS = {
    "lsec_gcn": ("pytorch_csr", "rechub"),
    "lsec_lightgcn": ("pytorch_csr", "rechub"),
    "lsec_gat": ("rechub",),
    "lightgcn_bpr": ("pytorch_csr", "recbole"),
}
_LARGE_TOO = ("lsec_gcn", "lsec_gcn_sampled")


def _row(model: str) -> Row:
    plain = model.removesuffix("_bcsr")
    sizes = ("quarter", "small", "double", *(("large",) if model in _LARGE_TOO else ()))
    return Row(
        functools.partial(make, model=model),
        sizes=sizes,
        peers=_PEERS.get(plain, ()),
        peer_row=f"step/{plain}",
        is_quick=model in ("lsec_gcn", "ncf_gmf"),
    )


ROWS = {f"step/{model}": _row(model) for model in MODELS}
