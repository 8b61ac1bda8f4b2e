"""The rows of each sweep: variations of one base config, in the order of the paper's tables.

Every function takes a config of LSEC-GCN with two tasks and returns the rows by name. Rows share data, split, steps,
batch size, early stopping and evaluation; they differ in what their names say. In `models` also the learning rate and
the scale of the initial embeddings differ (NCF's is its authors', LightGCN's were chosen on validation), and NCF has
log loss on uniform negatives whatever the base's first task has.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.models import lsec_gnn, ncf

Rows = dict[str, RunConfig]


def models(base: RunConfig) -> Rows:
    """Tables 5 and 6: NCF, three aggregators on one relation, and the same three on all relations."""
    task, width, depth = base.model.tasks[0], base.model.embedding_dim, len(base.model.layer_dims)
    rows = {}
    for variant in ("gmf", "mlp", "neumf"):
        model = ncf.Config(
            variant,
            relation=task.relation,
            embedding_dim=max(1, width // 2) if variant == "neumf" else width,  # as wide as the others, all in all
            mlp_dims=(base.model.predictor_hidden, *base.model.layer_dims),
            num_negatives=task.num_negatives,
            l2=base.model.l2,
        )
        rows[f"ncf-{variant}"] = _with_model(base, model)
    aggregators: dict[str, tuple[dict[str, Any], float]] = {
        "gcn": ({}, base.optimizer.learning_rate),
        # No weights scale the embeddings, so that they start smaller and move more slowly.
        "lightgcn": (
            {"layer_dims": (width,) * depth, "weights_per_direction": False, "embedding_std": 0.3},
            0.4 * base.optimizer.learning_rate,
        ),
        # As wide as "gcn" with all heads together.
        "gat": (
            {"num_heads": 4, "layer_dims": tuple(max(1, dim // 4) for dim in base.model.layer_dims)},
            base.optimizer.learning_rate,
        ),
    }
    for prefix, relations in (("", base.model.relations[:0]), ("lsec-", base.model.relations)):
        for aggregator, (changes, learning_rate) in aggregators.items():
            model = dataclasses.replace(base.model, aggregator=aggregator, **changes)
            if not relations:
                model = _only(model, (model.tasks[0].relation,), 1)
            row = _with_model(base, model)
            row.optimizer.learning_rate = learning_rate
            rows[prefix + aggregator] = row
    return rows


def relations(base: RunConfig) -> Rows:
    """Table 7: relations added one by one with the first task, then the second task."""
    first, *others = _by_task(base)
    groups = [(first,), *((first, other) for other in others)]
    if len(others) > 1:
        groups.append((first, *others))
    rows = {", ".join(names): _with_model(base, _only(base.model, names, 1)) for names in groups}
    tasks = " and ".join(base.model.task_relations)
    return {**rows, f"{', '.join(groups[-1])}; tasks {tasks}": copy.deepcopy(base)}


def layers(base: RunConfig) -> Rows:
    """K: one to four layers; the widths of more layers than the base has repeat its last one."""
    dims = base.model.layer_dims
    padded = (*dims, *(dims[-1:] * 4))
    return {f"K={k}": _with_model(base, dataclasses.replace(base.model, layer_dims=padded[:k])) for k in (1, 2, 3, 4)}


def alpha(base: RunConfig) -> Rows:
    """The weight of the first task against the second."""
    rows = {}
    for value in (0.1, 0.3, 0.5, 0.7, 0.9):
        weights = (value, 1.0 - value)
        tasks = tuple(
            dataclasses.replace(task, weight=weight) for task, weight in zip(base.model.tasks, weights, strict=True)
        )
        rows[f"alpha={value}"] = _with_model(base, dataclasses.replace(base.model, tasks=tasks))
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
    "exclusion": exclusion,
}


def build(name: str, base: RunConfig) -> Rows:
    """Returns the rows of a sweep.

    Raises:
        ConfigError: if the base is no LSEC-GCN with two tasks.
    """
    model = base.model
    if not isinstance(model, lsec_gnn.Config) or model.aggregator != "gcn" or len(model.tasks) != 2:
        raise ConfigError("--config: sweeps vary a config of LSEC-GNN with aggregator 'gcn' and two tasks")
    return SWEEPS[name](base)


def _by_task(base: RunConfig) -> tuple[str, ...]:
    """The base's relations, those of its tasks first."""
    names = (*base.model.task_relations, *base.model.relations)
    return tuple(dict.fromkeys(name for name in names if name in base.model.relations))


def _only(model: lsec_gnn.Config, names: tuple[str, ...], num_tasks: int) -> lsec_gnn.Config:
    tasks = tuple(dataclasses.replace(task, weight=1.0) for task in model.tasks[:num_tasks])
    return dataclasses.replace(model, relations=names, tasks=tasks)


def _with_model(base: RunConfig, model: Any) -> RunConfig:
    row = copy.deepcopy(base)
    row.model = copy.deepcopy(model)
    return row
