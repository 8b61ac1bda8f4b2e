"""The rows of each sweep over rankers of sharing: variations of one TREEMS config, in the order of its tables.

Every function takes a config of TREEMS with neighbourhoods, on any source, and returns the rows by name. Rows share
data, split, features, widths, optimizer, steps, batch size, early stopping and evaluation; they differ in what their
names say.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.models import treems
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.sharing_baselines import (
    cune,
    diffnet,
    dnn,
    gat,
    mmoe,
    multi_scenario,
    pinsage,
    scenario_meta,
)

Rows = dict[str, RunConfig]


def sharing(base: RunConfig) -> Rows:
    """Table 2 of TREEMS: all baselines, and TREEMS with the published attention and with the dynamic one."""
    return {
        "DNN": _baseline(base, dnn.Config),
        "CUNE": _baseline(base, cune.Config),
        "DiffNet": _baseline(base, diffnet.Config),
        "PinSage_A": _baseline(base, pinsage.Config, aggregator="mean"),
        "PinSage_M": _baseline(base, pinsage.Config, aggregator="max"),
        "PinSage_L": _baseline(base, pinsage.Config, aggregator="lstm"),
        "GAT": _baseline(base, gat.Config),
        "Multi-Scenario": _baseline(base, multi_scenario.Config),
        "MMoE": _mmoe(base),
        "ScenarioMeta": _baseline(base, scenario_meta.Config),
        "TREEMS, dynamic attention": _changed(base, attention="dynamic"),
        "TREEMS": copy.deepcopy(base),
    }


def sharing_ladder(base: RunConfig) -> Rows:
    """From one network for all scenarios to TREEMS: what experts, the tree, and the graph add."""
    return {
        "DNN": _baseline(base, dnn.Config),
        "MMoE": _mmoe(base),
        "TREEMS without graph": _changed(base, has_graph=False),
        "TREEMS": copy.deepcopy(base),
    }


def sharing_ablations(base: RunConfig) -> Rows:
    """TREEMS with parts taken away or replaced, above the network that has none of them."""
    return {
        "DNN": _baseline(base, dnn.Config),
        "TREEMS": copy.deepcopy(base),
        "no tree": _changed(base, reader="leaf"),
        "no graph": _changed(base, has_graph=False),
        "no inconsistency loss": _changed(base, inconsistency_weight=0.0),
        "sum instead of LSTM": _changed(base, reader="sum"),
        "nothing hidden": _unhidden(base),
    }


def inconsistency(base: RunConfig) -> Rows:
    """gamma: the weight of the inconsistency loss."""
    return {f"gamma={value:g}": _changed(base, inconsistency_weight=value) for value in (0.0, 0.001, 0.01, 0.1, 1.0)}


SWEEPS: dict[str, Callable[[RunConfig], Rows]] = {
    "sharing": sharing,
    "sharing_ladder": sharing_ladder,
    "sharing_ablations": sharing_ablations,
    "inconsistency": inconsistency,
}


def build(name: str, base: RunConfig) -> Rows:
    """Returns the rows of a sweep; raises ConfigError if the base is no TREEMS with a graph."""
    if not isinstance(base.model, treems.Config) or not base.model.has_graph:
        raise ConfigError(
            f"--config: the sweep '{name}' varies a config of TREEMS (lsec_jax.models.treems) with config.model."
            "has_graph"
        )
    return SWEEPS[name](base)


def pairs(rows: list[str], labels: list[str]) -> list[tuple[str, str]]:
    """What is compared: each row with TREEMS, or where there is none with the last one; all with floor and ceiling."""
    reference = "TREEMS" if "TREEMS" in rows else rows[-1]
    found = [("popularity", rows[0])] if "popularity" in labels else []
    found += [(other, reference) for other in rows if other != reference]
    found += [(rows[0], other) for other in rows[1:] if other != reference]
    found += [(reference, "oracle")] if "oracle" in labels else []
    return found


def shown(names: list[str]) -> list[str]:
    """Which of a leaderboard's metrics the tables have: those of the paper."""
    return [name for name in ("auc", "gauc", "mrr", "hr@5", "hr@10") if name in names]


def rate_row(name: str, rows: Rows) -> str:
    """The row whose validation chooses a row's learning rate: its own; of what is TREEMS in other ways, TREEMS'."""
    return "TREEMS" if "TREEMS" in rows and isinstance(rows[name].model, treems.Config) else name


def _changed(base: RunConfig, **keys: Any) -> RunConfig:
    row = copy.deepcopy(base)
    row.model = dataclasses.replace(row.model, **keys).without_unused()
    return row


def _unhidden(base: RunConfig) -> RunConfig:
    """No node is taken for unknown in training, so that unknown children stay as they are drawn."""
    features = base.model.features
    paths = tuple(dataclasses.replace(path, hide_rate=0.0) for path in features.paths)
    return _changed(base, features=dataclasses.replace(features, paths=paths))


def _mmoe(base: RunConfig) -> RunConfig:
    """As many experts as TREEMS, of its widest two layers."""
    widths = base.model.expert_widths[:2]
    return _baseline(base, mmoe.Config, num_experts=base.model.num_experts, expert_widths=widths)


def _baseline(base: RunConfig, config: type[ImpressionConfig], **keys: Any) -> RunConfig:
    """A baseline with the base's features and widths."""
    own = {of.name for of in dataclasses.fields(ImpressionConfig)}
    shared = {name: copy.deepcopy(getattr(base.model, name)) for name in own}
    return dataclasses.replace(copy.deepcopy(base), model=config(**{**shared, **keys}).without_unused())
