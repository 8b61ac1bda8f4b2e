"""The rows of each sweep: variations of one base config, in the order of the paper's tables.

Every function takes a config of LSEC-GNN, on any source, and returns the rows by name. Rows share data, split,
optimizer, steps, batch size, early stopping and evaluation; they differ in what their names say. In `models` also the
scale of the initial embeddings differs: where a base with weights becomes LightGCN it was chosen on validation, and
NCF has its authors'. NCF has log loss on uniform negatives whatever the base's first task has.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.models import lsec_gnn, ncf

Rows = dict[str, RunConfig]

GAT_HEADS = 4


def models(base: RunConfig) -> Rows:
    """Tables 5 and 6: NCF, three aggregators on one relation, and the same three on all relations."""
    _require(len(base.model.relations) > 1, "models", "two relations or more")
    task, width = base.model.tasks[0], base.model.embedding_dim
    rows = {}
    for variant in ("gmf", "mlp", "neumf"):
        model = ncf.Config(
            variant,
            relation=task.relation,
            embedding_dim=max(1, width // 2) if variant == "neumf" else width,  # as wide as the others, all in all
            mlp_dims=(base.model.predictor_hidden, *_widths(base.model)),
            num_negatives=4 if task.loss == "bpr" else task.num_negatives,  # BPR has one negative a pair
            l2=base.model.l2,
        )
        rows[f"ncf-{variant}"] = _with_model(base, model)
    for prefix, model in (("", _only(base.model, (task.relation,), 1)), ("lsec-", base.model)):
        for aggregator in ("gcn", "lightgcn", "gat"):
            rows[prefix + aggregator] = _with_model(base, _with_aggregator(model, aggregator))
    return rows


def _widths(model: lsec_gnn.Config) -> tuple[int, ...]:
    heads = model.num_heads if model.aggregator == "gat" else 1
    return tuple(heads * width for width in model.layer_dims)


def _with_aggregator(model: lsec_gnn.Config, aggregator: str) -> lsec_gnn.Config:
    """The model with another aggregator, as wide in all."""
    if aggregator == model.aggregator:
        return model
    widths = _widths(model)
    if aggregator == "lightgcn":
        # No weights scale the embeddings, so that they start smaller.
        widths = (model.embedding_dim,) * len(widths)
        changed = dataclasses.replace(model, aggregator=aggregator, layer_dims=widths, weights_per_direction=False)
        return dataclasses.replace(changed, embedding_std=0.3)
    if model.aggregator == "lightgcn":  # it has none of these options: as in the authors' code
        model = dataclasses.replace(model, self_loop=False, weights_per_direction=True, last_activation="none")
    if aggregator == "gat":
        widths = tuple(max(1, width // GAT_HEADS) for width in widths)
        model = dataclasses.replace(model, num_heads=GAT_HEADS, edge_weights=False, excluded_degrees="remain")
    return dataclasses.replace(model, aggregator=aggregator, layer_dims=widths)


def relations(base: RunConfig) -> Rows:
    """Table 7: relations added one by one with the first task, then the other tasks."""
    _require(len(base.model.relations) > 1, "relations", "two relations or more")
    first, *others = _by_task(base)
    groups = [(first,), *((first, other) for other in others)]
    if len(others) > 1:
        groups.append((first, *others))
    rows = {", ".join(names): _with_model(base, _only(base.model, names, 1)) for names in groups}
    if len(base.model.tasks) == 1:
        return rows
    tasks = " and ".join(base.model.task_tables)
    return {**rows, f"{', '.join(groups[-1])}; tasks {tasks}": copy.deepcopy(base)}


def layers(base: RunConfig) -> Rows:
    """K: one to four layers; the widths of more layers than the base has repeat its last one."""
    dims = base.model.layer_dims
    padded = (*dims, *(dims[-1:] * 4))
    return {f"K={k}": _with_model(base, dataclasses.replace(base.model, layer_dims=padded[:k])) for k in (1, 2, 3, 4)}


def alpha(base: RunConfig) -> Rows:
    """The weight of the first task against the second."""
    _require(len(base.model.tasks) == 2, "alpha", "two tasks")
    rows = {}
    for value in (0.1, 0.3, 0.5, 0.7, 0.9):
        weights = (value, 1.0 - value)
        tasks = tuple(
            dataclasses.replace(task, weight=weight) for task, weight in zip(base.model.tasks, weights, strict=True)
        )
        rows[f"alpha={value}"] = _with_model(base, dataclasses.replace(base.model, tasks=tasks))
    return rows


def quantile(base: RunConfig) -> Rows:
    """p: the quantile of the degrees that says how many neighbours are sampled, beside the whole graph."""
    rows = {"full graph": _with_model(base, dataclasses.replace(base.model, training_graph="full"))}
    for p in (0.5, 0.7, 0.9, 0.99):
        model = dataclasses.replace(base.model, training_graph="sampled", fanout_quantile=p)
        rows[f"p={p}"] = _with_model(base, model)
    return rows


def exclusion(base: RunConfig) -> Rows:
    """What a step does with its own positives: sees them, or leaves them out with either degrees."""
    variants = {
        "seen": {"exclude_batch_edges": False},
        "left out, degrees of the whole graph": {"exclude_batch_edges": True, "excluded_degrees": "whole"},
        "left out, degrees that remain": {"exclude_batch_edges": True, "excluded_degrees": "remain"},
    }
    return {name: _with_model(base, dataclasses.replace(base.model, **changes)) for name, changes in variants.items()}


SWEEPS: dict[str, Callable[[RunConfig], Rows]] = {
    "models": models,
    "relations": relations,
    "layers": layers,
    "alpha": alpha,
    "quantile": quantile,
    "exclusion": exclusion,
}


def build(name: str, base: RunConfig) -> Rows:
    """Returns the rows of a sweep.

    Raises:
        ConfigError: if the base is no LSEC-GNN, or lacks the relations or tasks that the sweep varies.
    """
    if not isinstance(base.model, lsec_gnn.Config):
        raise ConfigError(f"--config: the sweep '{name}' varies a config of LSEC-GNN (lsec_jax.models.lsec_gnn)")
    return SWEEPS[name](base)


def pairs(rows: list[str], labels: list[str]) -> list[tuple[str, str]]:
    """What is compared: rows to the first and the last two; of models, each to what should be below and above it."""
    on_all = [name for name in rows if name.startswith("lsec-")]
    if not on_all:
        return list(dict.fromkeys([*((rows[0], other) for other in rows[1:]), (rows[-2], rows[-1])]))
    pairs = []
    for name in on_all:
        one_relation = name.removeprefix("lsec-")
        floors = [floor for floor in labels if floor.startswith("ncf-")]
        pairs += [(floor, one_relation) for floor in floors] + [(one_relation, name)]
        pairs += [(floor, name) for floor in floors]
        pairs += [
            (lower, higher) for lower, higher in (("item_knn", name), (name, "oracle")) if {lower, higher} <= {*labels}
        ]
    return pairs


def shown(names: list[str]) -> list[str]:
    """Which of a leaderboard's metrics the tables have."""
    return names[:4]


def rate_row(name: str, rows: Rows) -> str:
    """The row whose validation chooses a row's learning rate: an aggregator's is that of its one-relation row."""
    one_relation = name.removeprefix("lsec-")
    return one_relation if one_relation in rows else name


def _require(holds: bool, sweep: str, needed: str) -> None:
    if not holds:
        raise ConfigError(f"--sweep={sweep} needs a base with {needed}; give another --config")


def _by_task(base: RunConfig) -> tuple[str, ...]:
    """The base's relations, those of its tasks first."""
    names = (*base.model.task_tables, *base.model.relations)
    return tuple(dict.fromkeys(name for name in names if name in base.model.relations))


def _only(model: lsec_gnn.Config, names: tuple[str, ...], num_tasks: int) -> lsec_gnn.Config:
    tasks = tuple(dataclasses.replace(task, weight=1.0) for task in model.tasks[:num_tasks])
    return dataclasses.replace(model, relations=names, tasks=tasks)


def _with_model(base: RunConfig, model: Any) -> RunConfig:
    row = copy.deepcopy(base)
    row.model = copy.deepcopy(model)
    return row
