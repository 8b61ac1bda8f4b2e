"""Figure 4 of LSEC-GNN: t-SNE of what trained models know of users and items, coloured by streamer.

Source: Yu et al., KDD 2021, Sec. 6.5. Not specified; chosen: the streamers (see `choose_streamers`), the number of
points, t-SNE's settings (scikit-learn's defaults) and the silhouette (Rousseeuw 1987; Euclidean, as t-SNE) of the
original vectors under each panel, so that the eye is not the judge.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data.analysis import Tripartite
from lsec_jax.models import lsec_gnn, ncf
from lsec_jax.schema import DataError, LiveCommerceData
from lsec_jax.training.run import prepare_relations
from lsec_jax.training.workdirs import load_config, restore_best

ROLES = ("ncf", "gcn", "lsec")
NUM_STREAMERS = 5
POINTS_PER_STREAMER = 200
MIN_POINTS = 5  # of each streamer, in each panel
RULE = (
    "streamers are chosen one after the other, each time the one with the most followers who follow none chosen "
    f"before; those with fewer than {MIN_POINTS} users or items that none of the others has are left out; points are "
    "the users who follow exactly one of the rest, and the items that exactly one of the rest sells; all of this among "
    "the users and items that every model was trained on"
)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One scatter plot.

    Attributes:
        title: model and node type.
        ids: the data's own ids, [p].
        labels: position of the point's streamer among the chosen ones, [p] int64.
        points: t-SNE, [p, 2] float32.
        silhouette: of the original vectors by streamer, in [-1, 1].
    """

    title: str
    ids: np.ndarray
    labels: np.ndarray
    points: np.ndarray
    silhouette: float


@dataclasses.dataclass(frozen=True)
class Figure4:
    """The four panels.

    Attributes:
        streamers: positions of the chosen streamers in their node table, [s] int64.
        panels: NCF users, GCN-RS users, LSEC-GCN users, LSEC-GCN items.
        models: name, workdir and step of each role.
    """

    streamers: np.ndarray
    panels: tuple[Panel, ...]
    models: dict[str, dict[str, Any]]


@dataclasses.dataclass
class _Loaded:
    """A data source that has been read already."""

    data: LiveCommerceData

    def load(self) -> LiveCommerceData:
        return self.data


def read_configs(workdirs: Mapping[str, Path], purchase: str, plugins: tuple[str, ...]) -> dict[str, RunConfig]:
    """Reads the configs of the three runs, and checks that they are what the panels' titles say.

    Args:
        workdirs: by role ("ncf", "gcn", "lsec"); all or none.
        purchase: the relation whose recommendation is the runs' primary task.
        plugins: packages besides lsec_jax whose classes the configs may name.

    Raises:
        ConfigError: if a workdir is no run or one of another model, or scikit-learn is missing.
    """
    if workdirs and importlib.util.find_spec("sklearn") is None:
        raise ConfigError("Figure 4 needs scikit-learn, which is optional: python -m pip install scikit-learn")
    configs = {role: load_config(path, None, plugins) for role, path in workdirs.items()}
    for role, config in configs.items():
        model = config.model
        relations = model.relations if isinstance(model, lsec_gnn.Config) else None
        fits, wanted = {
            "ncf": (isinstance(model, ncf.Config), "NCF"),
            "gcn": (relations == (purchase,), f"LSEC-GNN with the one relation '{purchase}'"),
            "lsec": (relations is not None and len(relations) > 1, "LSEC-GNN with several relations"),
        }[role]
        if not fits or model.task_tables[0] != purchase:
            of = "" if relations is None else f" with relations {', '.join(relations)}"
            raise ConfigError(
                f"--{role}={workdirs[role]}: holds a run of {model.name}{of} for '{model.task_tables[0]}', not of "
                f"{wanted} for '{purchase}'; give the workdir of such a run"
            )
    return configs


def compute(
    data: LiveCommerceData,
    graph: Tripartite,
    workdirs: Mapping[str, Path],
    configs: Mapping[str, RunConfig],
    rng: np.random.Generator,
) -> Figure4:
    """Restores the runs on the data, chooses streamers and points, and computes t-SNE and silhouettes.

    Raises:
        DataError: if a run was trained on other data, or too few streamers have points of their own.
    """
    types = graph.purchase.source, graph.purchase.target
    vectors, models = {}, {}
    is_trained = {node_type: np.ones(len(data.nodes[node_type]), bool) for node_type in types}
    for role, config in configs.items():
        run = prepare_relations(dataclasses.replace(config, data=_Loaded(data)))
        state, _ = restore_best(run, workdirs[role])
        vectors[role] = run.final_vectors(state)
        for node_type in types:
            is_trained[node_type] &= config.model.trained_nodes(run.data, node_type)
        models[role] = {"model": config.model.name, "workdir": str(workdirs[role]), "step": int(state.step)}
        logging.info("restored %s, step %d of %s", config.model.name, int(state.step), workdirs[role])
    streamers, labels = choose_streamers(graph, is_trained[types[0]], is_trained[types[1]])
    chosen = {node_type: _draw_points(of, rng) for node_type, of in zip(types, labels, strict=True)}
    panels = []
    for role, node_type in (("ncf", types[0]), ("gcn", types[0]), ("lsec", types[0]), ("lsec", types[1])):
        at = chosen[node_type]
        title = f"{configs[role].model.name}, {node_type}s"
        label = labels[types.index(node_type)][at]
        panels.append(_panel(title, data.nodes[node_type].ids[at], label, vectors[role][node_type][at]))
        logging.info("t-SNE of %s: silhouette %.3f", title, panels[-1].silhouette)
    return Figure4(streamers, tuple(panels), models)


def choose_streamers(
    graph: Tripartite, may_be_user: np.ndarray, may_be_item: np.ndarray, count: int = NUM_STREAMERS
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Chooses streamers with many followers of their own; RULE says how.

    Args:
        graph: follows and sales.
        may_be_user: which users may become points, [n_users] bool.
        may_be_item: which items, [n_items] bool.
        count: streamers wanted; those with fewer than MIN_POINTS users or items of their own are left out.

    Returns:
        (streamers [s] int64, (streamer of each user [n_users], of each item [n_items])): places among the chosen
        streamers, -1 for nodes that are no points.

    Raises:
        DataError: if fewer than two streamers are left.
    """
    follow, sell = graph.follow, graph.sell
    is_free, chosen = may_be_user.copy(), []
    for _ in range(count):
        counts = np.bincount(follow.target_ids[is_free[follow.source_ids]], minlength=graph.num_streamers)
        if counts.max() == 0:
            break
        chosen.append(int(counts.argmax()))
        is_free[follow.source_ids[follow.target_ids == chosen[-1]]] = False
    streamers = np.array(chosen, np.int64)

    def labels_of(streamers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            _only_streamer(follow.source_ids, follow.target_ids, may_be_user, streamers),
            _only_streamer(sell.target_ids, sell.source_ids, may_be_item, streamers),
        )

    sizes = [np.bincount(of[of >= 0], minlength=len(streamers)) for of in labels_of(streamers)]
    kept = streamers[np.minimum(*sizes) >= MIN_POINTS]
    if len(kept) < 2:
        raise DataError(
            f"Figure 4 needs two {follow.target}s with {MIN_POINTS} {follow.source}s and {sell.target}s of their "
            f"own, and there are {len(kept)}; leave --ncf, --gcn and --lsec out, or give more data"
        )
    # What a streamer who is left out shares with one of the rest is now that one's own; nobody loses a point.
    return kept, labels_of(kept)


def _only_streamer(
    node_ids: np.ndarray, streamer_ids: np.ndarray, may_be: np.ndarray, streamers: np.ndarray
) -> np.ndarray:
    """The place of a node's streamer where exactly one of the chosen is linked to it, else -1; [n] int64."""
    place = np.full(max(streamer_ids.max(), streamers.max(initial=-1)) + 1, -1)
    place[streamers] = np.arange(len(streamers))
    linked = place[streamer_ids] >= 0
    count = np.bincount(node_ids[linked], minlength=len(may_be))
    labels = np.full(len(may_be), -1)
    labels[node_ids[linked]] = place[streamer_ids[linked]]
    return np.where((count == 1) & may_be, labels, -1)


def _draw_points(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most POINTS_PER_STREAMER nodes of each label, drawn without replacement; ascending, [p] int64."""
    order = rng.permutation(len(labels))
    parts = [order[labels[order] == s][:POINTS_PER_STREAMER] for s in range(labels.max() + 1)]
    return np.sort(np.concatenate(parts))


def _panel(title: str, ids: np.ndarray, labels: np.ndarray, vectors: np.ndarray) -> Panel:
    # The extra `figure4`: nothing else needs these.
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(ids) - 1) / 3)
    # So few points are slower on several threads, and a hundred times slower where other work holds the cores.
    with threadpool_limits(1):
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
        silhouette = float(silhouette_score(vectors, labels))
    return Panel(title, ids, labels, points, silhouette)


def summary(found: Figure4, data: LiveCommerceData, graph: Tripartite) -> dict[str, Any]:
    """The content of figure4.json."""
    followers = np.bincount(graph.follow.target_ids, minlength=graph.num_streamers)
    goods = np.bincount(graph.sell.source_ids, minlength=graph.num_streamers)
    names = data.nodes[graph.follow.target].ids[found.streamers].tolist()
    return {
        "rule": RULE,
        "models": found.models,
        "streamers": [
            {"id": name, "followers": int(followers[at]), "items": int(goods[at])}
            for name, at in zip(names, found.streamers, strict=True)
        ],
        "panels": [
            {
                "title": panel.title,
                "silhouette": panel.silhouette,
                "num_points": len(panel.ids),
                "ids": panel.ids.tolist(),
                "streamers": [names[label] for label in panel.labels],
                "x": np.round(panel.points[:, 0].astype(np.float64), 3).tolist(),
                "y": np.round(panel.points[:, 1].astype(np.float64), 3).tolist(),
            }
            for panel in found.panels
        ],
    }
