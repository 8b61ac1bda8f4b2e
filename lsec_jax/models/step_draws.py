"""What a step of sampled training draws before it reads any parameter: negatives, and neighbours for its nodes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, Int

from lsec_jax.models.edge_tasks import TaskConfig, ids_by_type
from lsec_jax.models.graph_inputs import Inputs
from lsec_jax.nn.subgraphs import Sample, Selection, exclude_from_draws, sample_layers, select_ids


class Drawn(NamedTuple):
    """The draws of one step, a pure function of its batch and its key.

    Attributes:
        negatives: by task relation, what the negatives are chosen from.
        asked_for: by node type, the nodes whose vectors the losses need.
        samples: by relation, the messages of all layers to them.
    """

    negatives: Mapping[str, Int[Array, "_ _"]]
    asked_for: Mapping[str, Selection]
    samples: Mapping[str, Sample]


def draw_negatives(
    keys: Sequence[Array], tasks: Sequence[TaskConfig], inputs: Inputs, batch: Mapping[str, Int[Array, " b"]]
) -> dict[str, Int[Array, "_ _"]]:
    """Draws what each task's negatives are chosen from, with a key for each task."""
    return {
        task.relation: task.draw(key, inputs.positives[task.relation], len(batch[task.relation]))
        for task, key in zip(tasks, keys, strict=True)
    }


def draw_neighbors(
    key: Array,
    inputs: Inputs,
    batch: Mapping[str, Int[Array, " b"]],
    negatives: Mapping[str, Int[Array, "_ _"]],
    own_edges: Mapping[str, Int[Array, " _"]],
    tasks: Sequence[TaskConfig],
    ends: Mapping[str, tuple[str, str]],
    num_nodes: Mapping[str, int],
    num_layers: int,
    renormalize: bool,
    keeps_counts: bool,
) -> Drawn:
    """Draws neighbours for the nodes whose vectors a step's losses need.

    Args:
        key: of the neighbours.
        inputs: graphs, positives and fan-outs.
        batch: for each task relation, positions of the step's positives.
        negatives: from `draw_negatives`.
        own_edges: by relation, edges that send nothing.
        tasks: of the model.
        ends: source and target type of each relation.
        num_nodes: of each type.
        num_layers: of the model.
        renormalize: as in `exclude_from_draws`.
        keeps_counts: as in `sample_layers`.
    """
    excluded = {name: exclude_from_draws(inputs.graphs[name], ids, renormalize) for name, ids in own_edges.items()}
    needed = ids_by_type(tasks, ends, inputs.positives, batch, negatives)
    asked_for = {name: select_ids(needed.get(name, []), count) for name, count in num_nodes.items()}
    samples = {}
    relations = sorted(inputs.graphs)  # jax.jit sorts the keys of a dict: outside it the draws shall be the same
    for name, own_key in zip(relations, jax.random.split(key, len(relations)), strict=True):
        source, target = (asked_for[node_type] for node_type in ends[name])
        drawn_from = inputs.graphs[name], source, target, inputs.fanouts[name]
        samples[name] = sample_layers(own_key, *drawn_from, num_layers, excluded.get(name), keeps_counts)
    return Drawn(negatives, asked_for, samples)
