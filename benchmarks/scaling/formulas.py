"""How many bytes a device receives in a training step, by what they are for: closed formulas of counts and widths.

Each term is a list of collectives as `lsec_jax/parallel/traffic.py` reads them from compiled steps, so that both sides
count bytes alike. Ids and numbers have 4 bytes. What the formulas leave out, and what the compiler does besides:
- it may send the same ids once for two uses, so the formulas may be above what is counted, by ids only;
- several reductions may be one collective: only sums by operation and group are the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from lsec_jax.config import ParallelConfig
from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.nn.divided_graphs import rows_per_part
from lsec_jax.parallel.traffic import Collective

TERMS = {
    "batch": "ids of the batch's positives and of the nodes that its losses ask for",
    "degrees": "where the batch's own edges stand, and the degrees that remain without them",
    "senders": "what the nodes of a whole graph send, to all parts, in each layer",
    "senders_back": "the gradients of the same",
    "lookups": "ids and rows that are looked up in divided tables and vectors",
    "lookups_back": "the gradients of the same",
    "table_gradients": "gradients of tables, whole ones or those of a part",
    "row_gradients": "ids and gradients of the rows of tables that are updated lazily",
    "dense_gradients": "gradients of all other parameters",
    "scalars": "metrics, norms, and how many negatives count",
}
BYTES = 4  # of an int32 id and of a float32 number

Terms = dict[str, list[Collective]]


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a step works on.

    Attributes:
        num_nodes: by node type, of the types that have a table.
        ends: source and target type of each relation.
        num_edges: training edges of each relation.
        batch_size: positives of each task in a step, of all devices together.
        num_dense: parameters outside tables.
        lazy: tables that are updated lazily.
        fanouts: of sampled training, slots of a source and of a target node by relation.
        num_windows: tasks whose targets are not always available; each has a metric more.
        has_compiled_kernels: whether the graph's sums leave out nodes that no loss asks for.
    """

    num_nodes: Mapping[str, int]
    ends: Mapping[str, tuple[str, str]]
    num_edges: Mapping[str, int]
    batch_size: int
    num_dense: int
    lazy: tuple[str, ...] = ()
    fanouts: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    num_windows: int = 0
    has_compiled_kernels: bool = False


def terms(model: lsec_gnn.Config | ncf.Config, workload: Workload, parallel: ParallelConfig) -> Terms:
    """The collectives of a training step.

    Args:
        model: its config; relations and tasks together must have every node type in a task.
        workload: the counts.
        parallel: strategy and mesh; `data` must be a number above 0, and lookups go by "all_gather".

    Returns:
        The terms that are not empty, by name.
    """
    assert parallel.lookup == "all_gather", "what all-to-all sends depends on which ids are asked for"
    counted = _Counted(parallel)
    if isinstance(model, ncf.Config):
        _count_ncf(counted, model, workload)
    else:
        _count_lsec_gnn(counted, model, workload)
    return {name: found for name, found in counted.terms.items() if found}


def received_bytes(counted: Terms) -> dict[str, float]:
    """What a device receives in a step, by term."""
    return {name: sum(of.received_bytes for of in found) for name, found in counted.items()}


def table_width(model: lsec_gnn.Config | ncf.Config) -> int:
    """The width of the embedding tables."""
    is_double = isinstance(model, ncf.Config) and model.variant == "neumf"
    return model.embedding_dim * (2 if is_double else 1)


def result_widths(model: lsec_gnn.Config, ends: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """The width of each node type's vectors after all relations."""
    heads = model.num_heads if model.aggregator == "gat" else 1
    outputs = [heads * width for width in model.layer_dims]
    width = sum(outputs, model.embedding_dim) if model.layer_combination == "concat" else outputs[-1]
    types = [node_type for relation in model.relations for node_type in ends[relation]]
    return {name: width * (types.count(name) if model.combination == "concat" else 1) for name in types}


def sent_widths(model: lsec_gnn.Config) -> list[int]:
    """The width of what a node sends in each layer, for all heads together; "gat" adds a logit to each head."""
    heads = model.num_heads if model.aggregator == "gat" else 1
    inputs = [model.embedding_dim, *(heads * width for width in model.layer_dims[:-1])]
    match model.aggregator:
        case "gat":
            return [heads * (width + 1) for width in model.layer_dims]
        case "gcn":
            return [min(pair) for pair in zip(inputs, model.layer_dims, strict=True)]
        case _:
            return inputs


def selected(model: lsec_gnn.Config, workload: Workload, relation: str, num_replicas: int) -> list[tuple[int, int]]:
    """Room for the source and target nodes of a relation on a device, in sampled training.

    Returns:
        Of those that the losses ask for first, then of what the last layer reads, up to those whose rows are read.
    """
    source, target = workload.ends[relation]
    num_sources, num_targets = workload.num_nodes[source], workload.num_nodes[target]
    asked_for = {name: count // num_replicas for name, count in _needed(model, workload).items()}
    sources, targets = min(num_sources, asked_for[source]), min(num_targets, asked_for[target])
    to_source, to_target = workload.fanouts[relation]
    result = [(sources, targets)]
    for _ in model.layer_dims:
        sources, targets = (
            min(num_sources, sources + targets * to_target),
            min(num_targets, targets + sources * to_source),
        )
        result.append((sources, targets))
    return result


class _Counted:
    """Collects the collectives of a step on a mesh."""

    def __init__(self, parallel: ParallelConfig):
        self.copies, self.shards = parallel.data, parallel.model
        self.replicas = self.copies * self.shards
        self.terms: Terms = {name: [] for name in TERMS}

    def add(self, term: str, operation: str, num_numbers: float, group_size: int, times: int = 1) -> None:
        """Counts a collective by the numbers on its larger side; among one device there is none."""
        if group_size > 1 and num_numbers:
            self.terms[term].append(Collective(operation, int(BYTES * num_numbers), group_size, times))

    def padded(self, num_rows: int) -> int:
        """Rows of a table with those that fill up the last part."""
        return self.shards * rows_per_part(num_rows, self.shards)

    def gather_senders(self, num_nodes: int, width: int, term: str = "senders", times: int = 1) -> None:
        """The vectors of all nodes, from the parts."""
        self.add(term, "all-gather", self.padded(num_nodes) * width, self.shards, times)

    def look_up(self, num_rows: int, width: int, is_differentiated: bool = True, has_ids: bool = True) -> None:
        """Rows of a divided array, `num_rows` of all devices together."""
        own = num_rows // self.copies
        self.add("lookups", "all-gather", own * has_ids, self.shards)
        self.add("lookups", "reduce-scatter", own * width, self.shards)
        if is_differentiated:
            self.add("lookups_back", "all-gather", own * width, self.shards)

    def update(self, model: lsec_gnn.Config | ncf.Config, workload: Workload, num_scalars: int) -> None:
        """Gradients of dense parameters and of whole tables, and scalars."""
        dense = [of for name, of in workload.num_nodes.items() if name not in workload.lazy]
        own_rows = sum(rows_per_part(count, self.shards) for count in dense)
        self.add("table_gradients", "all-reduce", own_rows * table_width(model), self.copies)
        self.add("dense_gradients", "all-reduce", workload.num_dense, self.replicas)
        self.add("scalars", "all-reduce", num_scalars + workload.num_windows, self.replicas)
        self.add("scalars", "all-reduce", 1, self.shards)


def _count_ncf(counted: _Counted, model: ncf.Config, workload: Workload) -> None:
    width, (source, target) = table_width(model), workload.ends[model.relation]
    for name, num_rows in ((source, 1), (target, 1 + model.num_negatives)):
        num_lookups = workload.batch_size * num_rows
        counted.look_up(num_lookups, width, is_differentiated=name not in workload.lazy)
        if name in workload.lazy:
            counted.add("row_gradients", "all-gather", num_lookups, counted.replicas)
            counted.add("row_gradients", "all-gather", num_lookups * width, counted.replicas)
    counted.update(model, workload, num_scalars=3)


def _count_lsec_gnn(counted: _Counted, model: lsec_gnn.Config, workload: Workload) -> None:
    is_sampled = model.training_graph == "sampled"
    excluded = [name for name in model.task_tables if name in model.relations and model.exclude_batch_edges]
    for _ in excluded:
        counted.add("batch", "all-gather", workload.batch_size, counted.replicas)
    if is_sampled:
        _count_sample(counted, model, workload)
    elif counted.shards > 1:
        _count_whole_graph(counted, model, workload, excluded)
    widths = result_widths(model, workload.ends)
    for task in model.tasks:
        source, target = workload.ends[task.relation]
        num_pairs = workload.batch_size * (1 + task.num_negatives)
        if not is_sampled:
            counted.look_up(workload.batch_size, widths[source])
            # A half is taken of all nodes, once, unless that is more than the batch looks up.
            is_half = num_pairs // counted.replicas >= rows_per_part(workload.num_nodes[target], counted.shards)
            counted.look_up(
                num_pairs, model.predictor_hidden if is_half and model.predictor == "mlp" else widths[target]
            )
        if model.l2:
            for num_rows in (workload.batch_size, num_pairs):
                counted.look_up(num_rows, model.embedding_dim, has_ids=is_sampled)
    counts_negatives = [task.loss != "sampled_softmax" for task in model.tasks]
    counted.update(model, workload, num_scalars=1 + 2 * len(model.tasks) + sum(counts_negatives))


def _count_whole_graph(counted: _Counted, model: lsec_gnn.Config, workload: Workload, excluded: list[str]) -> None:
    for relation in excluded:
        counted.add("degrees", "all-reduce", 2 * workload.batch_size, counted.shards)
        if model.excluded_degrees == "remain" and model.aggregator != "gat":
            for end in workload.ends[relation]:  # roots of the whole degrees, then the factors of those that remain
                counted.gather_senders(workload.num_nodes[end], 1, "degrees", times=2)
    if workload.has_compiled_kernels and model.aggregator != "gat":
        for count in _needed(model, workload).values():
            counted.add("batch", "all-gather", count, counted.replicas)
    if model.aggregator == "gat":
        _count_attention(counted, model, workload)
        return
    for layer, width in enumerate(sent_widths(model)):
        ends = [end for relation in model.relations for end in workload.ends[relation]]
        is_table = layer == 0 and not (model.aggregator == "gcn" and model.layer_dims[0] <= model.embedding_dim)
        for end in dict.fromkeys(ends) if is_table else ends:  # all relations read the same table
            counted.gather_senders(workload.num_nodes[end], width)
        for end in ends:
            counted.gather_senders(workload.num_nodes[end], width, "senders_back")


def _count_attention(counted: _Counted, model: lsec_gnn.Config, workload: Workload) -> None:
    """Senders' vectors and logits by head; all layers but the last of a stack gather them again on the way back."""
    for layer, width in enumerate(sent_widths(model)):
        is_gathered_again = model.layer_combination == "last" and layer < len(model.layer_dims) - 1
        for end in (end for relation in model.relations for end in workload.ends[relation]):
            num_nodes = workload.num_nodes[end]
            counted.gather_senders(num_nodes, width)
            if is_gathered_again:
                counted.gather_senders(num_nodes, width, "senders_back")
            counted.add("senders_back", "reduce-scatter", counted.padded(num_nodes) * width, counted.shards)


def _count_sample(counted: _Counted, model: lsec_gnn.Config, workload: Workload) -> None:
    """Tables that a device reads whole, and rows that it looks up of the others."""
    gathered: set[str] = set()
    for relation in model.relations:
        own = selected(model, workload, relation, counted.replicas)[-1]
        for end, num_rows in zip(workload.ends[relation], own, strict=True):
            num_nodes = workload.num_nodes[end]
            if num_rows < num_nodes:
                counted.look_up(num_rows * counted.replicas, model.embedding_dim)
                continue
            if end not in gathered:
                counted.gather_senders(num_nodes, model.embedding_dim)
                gathered.add(end)
            numbers = counted.padded(num_nodes) * model.embedding_dim
            counted.add("senders_back", "reduce-scatter", numbers, counted.shards)


def _needed(model: lsec_gnn.Config, workload: Workload) -> dict[str, int]:
    """How many nodes of each type the losses of all devices ask for, repetitions counted."""
    result = dict.fromkeys(workload.num_nodes, 0)
    for task in model.tasks:
        source, target = workload.ends[task.relation]
        draws = workload.batch_size // task.rows_per_draw * task.num_negatives * task.hardest_of
        result[source] += workload.batch_size
        result[target] += workload.batch_size + draws
    return result
