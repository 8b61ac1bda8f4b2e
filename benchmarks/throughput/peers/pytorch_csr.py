"""A peer of the throughput suite: the same models in PyTorch, written by hand on its sparse CSR product.

  PYTHON benchmarks/throughput/peers/pytorch_csr.py ROW WORKLOAD_DIR [--quick]

What makes PyTorch fast on a CPU is here: int32 indices, `torch.sparse.mm(..., "sum")` (faster than the product through
MKL at widths of 128 and 200), a gradient that multiplies by the stored transpose, weights applied before the sum where
that is narrower, the predictor's first layer in halves, and the fused Adam. Lighter than ours: a step keeps its own
edges in the graph, and negatives that are positives are not masked.
"""

import functools
import gzip
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prepared
import torch
from protocol import Unavailable, Work, serve
from torch import Tensor, nn
from torch.nn import functional
from training import POSITIVES, QUICK_POSITIVES, loss_report, num_threads

TASKS = ("buy", "follow")
EMBEDDING_DIM, LAYER_DIMS, HIDDEN = 200, (128, 64), 128
NEGATIVES, LEARNING_RATE, L2 = 4, 1e-3, 1e-4
GOWALLA_BATCH, TOP_K = 2048, 50
NOTE = "the step's own edges stay in the graph; negatives are not masked"


class NeighborSum(torch.autograd.Function):
    """matrix @ rows, whose gradient multiplies by the stored transpose."""

    @staticmethod
    def forward(context, matrix: Tensor, transpose: Tensor, rows: Tensor) -> Tensor:  # noqa: D102
        context.transpose = transpose
        return torch.sparse.mm(matrix, rows, "sum")

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[None, None, Tensor]:  # noqa: D102
        return None, None, torch.sparse.mm(context.transpose, gradient.contiguous(), "sum")


class Graph:
    """One relation's D^-1/2 A D^-1/2 and its transpose, with self-connections (kept apart) or without."""

    def __init__(self, edges: prepared.Edges, num_sources: int, num_targets: int, self_loops: bool) -> None:
        sides = (edges.source_ids, num_sources), (edges.target_ids, num_targets)
        degrees = [np.bincount(ids, minlength=count) + self_loops for ids, count in sides]
        roots = [1 / np.sqrt(np.maximum(degree, 1)) for degree in degrees]
        weights = roots[0][edges.source_ids] * roots[1][edges.target_ids]
        self.to_sources = _csr(*sides[0], *sides[1], weights)
        self.to_targets = _csr(*sides[1], *sides[0], weights)
        self.selves = [torch.tensor(root[:, None] ** 2, dtype=torch.float32) for root in roots] if self_loops else None

    def sums(self, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What arrives at the sources and at the targets."""
        at_sources = NeighborSum.apply(self.to_sources, self.to_targets, targets)
        at_targets = NeighborSum.apply(self.to_targets, self.to_sources, sources)
        if self.selves is None:
            return at_sources, at_targets
        return at_sources.addcmul(sources, self.selves[0]), at_targets.addcmul(targets, self.selves[1])


def _csr(rows: np.ndarray, num_rows: int, columns: np.ndarray, num_columns: int, weights: np.ndarray) -> Tensor:
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))])
    indices = (torch.tensor(part, dtype=torch.int32) for part in (starts, columns[order]))
    return torch.sparse_csr_tensor(
        *indices, torch.tensor(weights[order], dtype=torch.float32), size=(num_rows, num_columns)
    )


class Lsec(nn.Module):
    """LSEC-GCN (a weight matrix per layer, ReLU) or LSEC-LightGCN (two layers, no weights), with the MLP predictor."""

    def __init__(self, workload: Path, is_gcn: bool, batch_per_task: int) -> None:
        super().__init__()
        self.is_gcn, self.batch = is_gcn, batch_per_task
        num_nodes = prepared.num_nodes(workload)
        self.edges = {name: prepared.edges(workload, name) for name in prepared.manifest(workload)["relations"]}
        self.positives = {
            name: [torch.tensor(ids) for ids in (self.edges[name].source_ids, self.edges[name].target_ids)]
            for name in TASKS
        }
        self.num_nodes = num_nodes
        self.graphs = {
            name: Graph(edges, num_nodes[edges.source], num_nodes[edges.target], is_gcn)
            for name, edges in self.edges.items()
        }
        self.tables = nn.ParameterDict({name: _table(count, EMBEDDING_DIM) for name, count in num_nodes.items()})
        pairs = list(itertools.pairwise((EMBEDDING_DIM, *LAYER_DIMS))) if is_gcn else []
        self.layers = nn.ModuleDict(
            {name: nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairs) for name in self.edges}
        )
        width = 2 * (LAYER_DIMS[-1] if is_gcn else EMBEDDING_DIM)  # every node type is in two relations
        self.source_halves = nn.ModuleDict({name: nn.Linear(width, HIDDEN) for name in TASKS})
        self.target_halves = nn.ModuleDict({name: nn.Linear(width, HIDDEN, bias=False) for name in TASKS})
        self.outputs = nn.ModuleDict({name: nn.Linear(HIDDEN, 1) for name in TASKS})

    def encode(self) -> dict[str, Tensor]:
        """The vectors of all nodes, by type."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.tables}
        for name, edges in self.edges.items():
            both = self.tables[edges.source], self.tables[edges.target]
            if self.is_gcn:
                for layer in self.layers[name]:
                    both = tuple(map(torch.relu, self.graphs[name].sums(*map(layer, both))))
            else:
                for _ in LAYER_DIMS:
                    both = self.graphs[name].sums(*both)
            for node_type, vectors in zip((edges.source, edges.target), both, strict=True):
                parts[node_type].append(vectors)
        return {node_type: torch.cat(vectors, dim=1) for node_type, vectors in parts.items()}

    def loss(self) -> Tensor:
        """Of one batch, drawn here."""
        vectors = self.encode()
        return 0.5 * sum(self.task_loss(name, vectors) for name in TASKS)

    def task_loss(self, name: str, vectors: dict[str, Tensor]) -> Tensor:
        """Log loss of uniform positives of a task, with uniform negatives."""
        edges, (source_ids, target_ids) = self.edges[name], self.positives[name]
        chosen = torch.randint(len(source_ids), (self.batch,))
        negatives = torch.randint(self.num_nodes[edges.target], (self.batch, NEGATIVES))
        pair_ids = torch.cat([target_ids[chosen, None], negatives], dim=1)
        sources = self.source_halves[name](vectors[edges.source][source_ids[chosen]])
        targets = self.target_halves[name](vectors[edges.target][pair_ids])
        logits = self.outputs[name](torch.relu(sources[:, None] + targets))[..., 0]
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1
        return functional.binary_cross_entropy_with_logits(logits, labels)


class LightGcn(nn.Module):
    """LightGCN: three layers, their mean with the table, BPR with one negative, L2 of the batch's rows."""

    def __init__(self, edges: prepared.Edges, num_sources: int, num_targets: int, width: int, batch: int) -> None:
        super().__init__()
        self.graph = Graph(edges, num_sources, num_targets, self_loops=False)
        self.positives = [torch.tensor(ids) for ids in (edges.source_ids, edges.target_ids)]
        self.sources, self.targets = _table(num_sources, width), _table(num_targets, width)
        self.batch = batch

    def encode(self) -> tuple[Tensor, Tensor]:
        """The vectors of sources and targets."""
        both = total = self.sources, self.targets
        for _ in range(3):
            both = self.graph.sums(*both)
            total = tuple(a + b for a, b in zip(total, both, strict=True))
        return total[0] / 4, total[1] / 4

    def loss(self) -> Tensor:
        """Of one batch, drawn here."""
        chosen = torch.randint(len(self.positives[0]), (self.batch,))
        source_ids, positive_ids = (ids[chosen] for ids in self.positives)
        negative_ids = torch.randint(len(self.targets), (self.batch,))
        sources, targets = self.encode()
        difference = targets[negative_ids] - targets[positive_ids]
        loss = functional.softplus((sources[source_ids] * difference).sum(1)).mean()
        rows = self.sources[source_ids], self.targets[positive_ids], self.targets[negative_ids]
        return loss + L2 / 2 * sum(row.square().sum() for row in rows) / self.batch


def _table(num_rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.1 * torch.randn(num_rows, width))


def training(model: nn.Module, examples: int, num_edges: int, notes: str = NOTE) -> Work:
    """One step of Adam a repetition."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    losses: list[float] = []

    def step() -> None:
        optimizer.zero_grad()
        loss = model.loss()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return Work(step, examples, num_edges, notes=notes, finish=lambda: loss_report(losses))


def lsec_step(is_gcn: bool, workload: Path, is_quick: bool) -> Work:
    """A training step of LSEC-GCN or LSEC-LightGCN over all training edges."""
    positives = QUICK_POSITIVES if is_quick else POSITIVES
    model = Lsec(workload, is_gcn, positives // len(TASKS))
    return training(model, positives, sum(len(edges.source_ids) for edges in model.edges.values()))


def lightgcn_step(workload: Path, is_quick: bool) -> Work:
    """A training step of LightGCN on the first task's relation."""
    edges, num_nodes = prepared.edges(workload, TASKS[0]), prepared.num_nodes(workload)
    positives = QUICK_POSITIVES if is_quick else POSITIVES
    model = LightGcn(edges, num_nodes[edges.source], num_nodes[edges.target], EMBEDDING_DIM, positives)
    return training(model, positives, len(edges.source_ids))


def gowalla_step(_workload: Path, _is_quick: bool) -> Work:
    """A training step of LightGCN as published: Gowalla, 64 wide, batch 2,048."""
    path = Path(os.environ.get("LSEC_JAX_DATA", "")) / "gowalla" / "train.txt.gz"
    if not path.exists():
        raise Unavailable(f"{path}: no such file; set LSEC_JAX_DATA to the folder that has gowalla/train.txt.gz")
    lines = gzip.decompress(path.read_bytes()).splitlines()  # user, then her items
    counts = np.array([line.strip().count(b" ") for line in lines])
    numbers = np.array(b" ".join(lines).split(), np.int64)
    is_user = np.zeros(len(numbers), bool)
    is_user[np.cumsum(counts + 1) - counts - 1] = True
    edges = prepared.Edges("user", "item", np.repeat(numbers[is_user], counts), numbers[~is_user])
    model = LightGcn(edges, edges.source_ids.max() + 1, edges.target_ids.max() + 1, 64, GOWALLA_BATCH)
    num_edges = len(edges.source_ids)
    return training(model, GOWALLA_BATCH, num_edges, f"an epoch is {-(-num_edges // GOWALLA_BATCH)} steps; {NOTE}")


def ranking(workload: Path, is_quick: bool, share: int, rank: Callable[[int, int], Callable[[], object]]) -> Work:
    """Top 50 of all items for one in `share` users (quick: one in eight times as many)."""
    edges, num_nodes = prepared.edges(workload, TASKS[0]), prepared.num_nodes(workload)
    num_users, num_items = num_nodes[edges.source], num_nodes[edges.target]
    chosen = max(1, num_users // (8 * share if is_quick else share))
    note = f"{chosen} of {num_users} users; their vectors are there beforehand; training items are not left out"
    return Work(rank(chosen, num_items), chosen, fraction=chosen / num_users, notes=note)


def rank_by_dot(num_users: int, num_items: int) -> Callable[[], object]:
    """Inner products in blocks of users."""
    users, items = torch.randn(num_users, EMBEDDING_DIM), torch.randn(num_items, EMBEDDING_DIM)

    def run() -> list[Tensor]:
        return [torch.topk(block @ items.T, min(TOP_K, num_items)).indices for block in users.split(256)]

    return torch.no_grad()(run)


def rank_by_mlp(num_users: int, num_items: int) -> Callable[[], object]:
    """The MLP's second layer on sums of halves, in blocks that stay in the cache."""
    users, items, output = torch.randn(num_users, HIDDEN), torch.randn(num_items, HIDDEN), torch.randn(HIDDEN)

    def scores(user: Tensor) -> Tensor:
        return torch.cat([torch.relu_(block + user) @ output for block in items.split(512)])

    def run() -> list[Tensor]:
        return [torch.topk(scores(user), min(TOP_K, num_items)).indices for user in users]

    return torch.no_grad()(run)


ROWS = {
    "step/lsec_gcn": functools.partial(lsec_step, True),
    "step/lsec_lightgcn": functools.partial(lsec_step, False),
    "step/lightgcn_bpr": lightgcn_step,
    "step/lightgcn_gowalla": gowalla_step,
    "ranking/dot": functools.partial(ranking, share=8, rank=rank_by_dot),
    "ranking/mlp": functools.partial(ranking, share=128, rank=rank_by_mlp),
}

if __name__ == "__main__":
    torch.set_num_threads(num_threads())
    torch.manual_seed(0)
    serve(ROWS)
