"""The rows of each sweep over rankers of impressions: variations of one eLiveRec config, in the order of its tables.

Every function takes a config of eLiveRec with two sequences and auxiliary tasks, on any source, and returns the rows by
name. Rows share data, split, features, widths, optimizer, steps, batch size, early stopping and evaluation; they differ
in what their names say.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.models import ctr_baselines, eliverec
from lsec_jax.models.impressions.config import ADAPTIVE_KEYS, ImpressionConfig
from lsec_jax.models.impressions.encoders import EncoderConfig

Rows = dict[str, RunConfig]

# Of the paper: stay, goods bag, product (Sec. 5.1.4), scaled to the sum that the base's adaptive weights have; other
# numbers of tasks share that evenly.
FIXED_WEIGHTS = (0.3, 0.3, 0.1)
LAMBDAS = (0.001, 0.01, 0.1, 1.0)  # those that the paper chose from
LENGTHS = (10, 30, 50, 70)  # of Figure 6, where 70 was best; users of the simulated world have fewer behaviours


def ladder(base: RunConfig) -> Rows:
    """Rankers of impressions from one sequence to eLiveRec."""
    return {
        "single DIN": _baseline(base, "din", (base.model.channel,)),
        "dual DIN": _baseline(base, "din"),
        "dual BST": _baseline(base, "bst"),
        "eLiveRec without multi-task": _changed(base, **_SINGLE_TASK),
        "eLiveRec": copy.deepcopy(base),
    }


def sequences(base: RunConfig) -> Rows:
    """Table II: baselines with one and with two sequences, beside eLiveRec."""
    rows = {}
    for variant in ("wdl", "din", "bst", "hgn", "eta"):
        rows[f"single {variant.upper()}"] = _baseline(base, variant, (base.model.channel,))
        rows[f"dual {variant.upper()}"] = _baseline(base, variant)
    rows["dual MMoE, fixed weights"] = _baseline(base, "mmoe", **_fixed(base))
    return {**rows, "eLiveRec without multi-task": _changed(base, **_SINGLE_TASK), "eLiveRec": copy.deepcopy(base)}


def disentangling(base: RunConfig) -> Rows:
    """Table III: parts of the disentangled encoder taken away or replaced."""
    return {
        "eLiveRec": copy.deepcopy(base),
        "learned prototypes": _changed(base, prototypes="learned"),
        "no distance correlation": _changed(base, independence=0.0),
        "no InfoNCE": _changed(base, contrast="none"),
        "neither": _changed(base, independence=0.0, contrast="none"),
        "no disentangling": _changed(base, is_disentangled=False),
        "cosine instead of InfoNCE": _changed(base, contrast="cosine"),
        "euclidean instead of InfoNCE": _changed(base, contrast="euclidean"),
        "specific parts separated (SR)": _changed(base, specific_separation=base.model.contrast_weight),
        "no gate unit": _changed(base, is_gated=False),
    }


def multi_task(base: RunConfig) -> Rows:
    """Table IV: each ranker alone, with fixed and with adaptive weights of the tasks."""
    rows = {}
    shared = {name: getattr(base.model, name) for name in ADAPTIVE_KEYS} if _is_adaptive(base) else {}
    adaptive = {"tasks": base.model.tasks, "task_weighting": "adaptive", **shared}
    for variant in ("din", "bst", "hgn", "eta"):
        rows[f"{variant.upper()}, single task"] = _baseline(base, variant)
        rows[f"{variant.upper()}, fixed"] = _baseline(base, variant, **_fixed(base))
        rows[f"{variant.upper()}, adaptive"] = _baseline(base, variant, **adaptive)
    rows["eLiveRec, single task"] = _changed(base, **_SINGLE_TASK)
    rows["eLiveRec, fixed"] = _changed(base, **_fixed(base))
    rows["eLiveRec, adaptive"] = _changed(base, **_ADAPTIVE)
    return rows


def task_weights(base: RunConfig) -> Rows:
    """Table V: eLiveRec with fixed weights, and the gain of others on each task."""
    return {
        "fixed": _changed(base, **_fixed(base)),
        "uncertainty": _changed(base, **{**_SINGLE_TASK, "tasks": base.model.tasks, "task_weighting": "uncertainty"}),
        "adaptive": _changed(base, **_ADAPTIVE),
        "adaptive, one step ahead": _changed(base, **_ADAPTIVE, look_ahead="one_step"),
    }


def encoders(base: RunConfig) -> Rows:
    """Figure 5: rankers by themselves, and eLiveRec on their sequence encoders; and on a GRU."""
    rows = {}
    for variant, encoder in (("din", "din"), ("hgn", "hgn"), ("bst", "transformer")):
        rows[f"dual {variant.upper()}"] = _baseline(base, variant)
        rows[f"eLiveRec on {encoder}"] = _changed(base, encoder=encoder)
    return {**rows, "eLiveRec on gru": _changed(base, encoder="gru")}


def lengths(base: RunConfig) -> Rows:
    """Figure 6: eLiveRec with shorter and longer sequences of the second domain."""
    rows = {}
    for length in LENGTHS:
        row = copy.deepcopy(base)
        declared = row.model.features
        sequences = tuple(
            dataclasses.replace(of, length=length) if of.name == row.model.product else of for of in declared.sequences
        )
        row.model.features = dataclasses.replace(declared, sequences=sequences)
        rows[f"the newest {length}"] = row
    return rows


def regularisers(base: RunConfig) -> Rows:
    """The weights of the two regularisers, lambda1 and lambda2 of Eq. 10, one at a time."""
    rows = {}
    for symbol, key in (("lambda1", "independence"), ("lambda2", "contrast_weight")):
        own = getattr(base.model, key)
        rows |= {f"{symbol}={value:g}": _changed(base, **{key: value}) for value in LAMBDAS if value != own}
    own = base.model.independence, base.model.contrast_weight
    return {f"lambda1={own[0]:g}, lambda2={own[1]:g}": copy.deepcopy(base), **rows}


def precision(base: RunConfig) -> Rows:
    """Activations in float32 and in bfloat16; parameters, softmax, sums and losses are float32 in both."""
    return {name: _changed(base, dtype=name) for name in ("float32", "bfloat16")}


SWEEPS: dict[str, Callable[[RunConfig], Rows]] = {
    "ladder": ladder,
    "sequences": sequences,
    "disentangling": disentangling,
    "multi_task": multi_task,
    "task_weights": task_weights,
    "encoders": encoders,
    "lengths": lengths,
    "regularisers": regularisers,
    "precision": precision,
}

_DEFAULTS = ImpressionConfig()
_OF_ADAPTIVE = {name: getattr(_DEFAULTS, name) for name in ADAPTIVE_KEYS}
_SINGLE_TASK: dict[str, Any] = {"tasks": (), "task_weighting": "fixed", "task_weights": (), **_OF_ADAPTIVE}
_ADAPTIVE: dict[str, Any] = {"task_weighting": "adaptive", "task_weights": ()}


def build(name: str, base: RunConfig) -> Rows:
    """Returns the rows of a sweep; raises ConfigError if the base is no eLiveRec with two sequences and tasks."""
    if not isinstance(base.model, eliverec.Config) or not base.model.product or not base.model.tasks:
        raise ConfigError(
            f"--config: the sweep '{name}' varies a config of eLiveRec (lsec_jax.models.eliverec) with config.model."
            "product and config.model.tasks"
        )
    return SWEEPS[name](base)


def pairs(rows: list[str], labels: list[str]) -> list[tuple[str, str]]:
    """What is compared: each row with the one before it and with the first one; all between floor and ceiling."""
    found = [("popularity", rows[0])] if "popularity" in labels else []
    found += [(rows[i], rows[i + 1]) for i in range(len(rows) - 1)]
    found += [(rows[0], other) for other in rows[1:]]
    found += [(rows[-1], "oracle")] if "oracle" in labels else []
    return list(dict.fromkeys(found))


def shown(names: list[str]) -> list[str]:
    """Which of a leaderboard's metrics the tables have: three of the primary task, and those of the others."""
    ranked = [name for name in names if name.startswith("ndcg@")]
    return ["auc", "gauc", *ranked[-1:], *(name for name in names if name.startswith(("auc_", "rmse_")))]


def rate_row(name: str, rows: Rows) -> str:
    """The row whose validation chooses a row's learning rate: its own."""
    return name


def _fixed(base: RunConfig) -> dict[str, Any]:
    count = len(base.model.tasks)
    shares = FIXED_WEIGHTS if count == len(FIXED_WEIGHTS) else (1.0,) * count
    total = (base.model.total_task_weight or count) if _is_adaptive(base) else sum(FIXED_WEIGHTS)
    weights = tuple(round(total * share / sum(shares), 6) for share in shares)
    return {**_SINGLE_TASK, "tasks": base.model.tasks, "task_weights": weights}


def _is_adaptive(base: RunConfig) -> bool:
    return bool(base.model.task_weighting == "adaptive")


def _changed(base: RunConfig, **keys: Any) -> RunConfig:
    row = copy.deepcopy(base)
    row.model = dataclasses.replace(row.model, **keys).without_unused()
    return row


def _baseline(base: RunConfig, variant: str, sequences: tuple[str, ...] = (), **keys: Any) -> RunConfig:
    """A baseline with the base's features and widths, of one task unless the keys say otherwise."""
    own = {of.name for part in (ImpressionConfig, EncoderConfig) for of in dataclasses.fields(part)}
    own |= {"num_experts", "expert_widths"}
    shared = {name: copy.deepcopy(getattr(base.model, name)) for name in own}
    chosen = sequences or (base.model.channel, base.model.product)
    model = ctr_baselines.Config(**{**shared, "variant": variant, **_SINGLE_TASK, "sequences": chosen, **keys})
    return dataclasses.replace(copy.deepcopy(base), model=model.without_unused())
