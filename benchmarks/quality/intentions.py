"""Do eLiveRec's vectors find what a simulated world has planted: tastes that domains have in common, and their own?

Example:
  python -m benchmarks.quality.intentions --config=configs/eliverec_synthetic.py --seeds=0,1,2 --lambdas=0.01:0.01,0.1:1

For each pair of weights of the regularisers (lambda1 of the distance correlation, lambda2 of the contrast) and each
seed, the config's world and model with this seed. The intention vectors (Eq. 7) of each user's test
impressions are averaged, and linear probes (ridge regression, penalty chosen on a validation part) read the world's
latent tastes from them: for both domains, for rooms alone, and for products alone. Reported is the share of explained
variance on users that no probe was fitted on, beside probes of the mean embeddings of both sequences, which no
intention has shaped, and of the vectors of an untrained model.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from matplotlib.figure import Figure
from ml_collections import config_flags

from benchmarks import runs, statistics
from benchmarks.quality.sweep import with_seed
from lsec_jax import cli
from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.data.splits import event_rows
from lsec_jax.declaration.layout import Layout
from lsec_jax.models import eliverec
from lsec_jax.nn import replicas
from lsec_jax.nn.attention import masked_mean
from lsec_jax.schema import TEST
from lsec_jax.training import fit
from lsec_jax.training.event_run import SCORED_ROWS, EventRun
from lsec_jax.training.tables import Params
from lsec_jax.training.writers import make_directory

FACTORS = ("in common", "rooms alone", "products alone")
CATEGORY = "category"
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
_PARTS = (0.6, 0.2)  # of users: fitted on, chosen on; the rest is measured on


def factors_of(run: EventRun) -> dict[str, np.ndarray]:
    """The planted tastes of all users by name, [u, topics] each, as mixed into what they do."""
    world = run.data.truth.world  # type: ignore[union-attr]
    return dict(zip(FACTORS, world.taste_parts, strict=True))


def vectors_of(run: EventRun, params: Params) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Mean vectors of users' test impressions: (user indices [u], by name [u, d])."""

    def compute(params: Params, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        module = run.model.module(params.dense)
        rows = {name: replicas.take(params.tables[name], ids) for name, ids in batch["ids"].items()}
        fields = module.fields(rows, batch)
        raw = {f"mean embedding/{name}": masked_mean(of.elements, of.mask) for name, of in fields.sequences.items()}
        return {**module.intentions(fields), **raw, **_category_shares(module.layout, batch)}

    compiled = jax.jit(compute)
    rows = event_rows(run.data, run.data.events[run.task], TEST)
    numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    users = run.data.events[run.task].ids(run.encoder.declaration.user)[numbers]
    count = len(run.data.nodes["user"])
    sums: dict[str, np.ndarray] = {}
    for start in range(0, len(numbers), SCORED_ROWS):
        own = numbers[start : start + SCORED_ROWS]
        padded = np.concatenate([own, np.full(SCORED_ROWS - len(own), own[-1])])
        for name, of in jax.device_get(compiled(params, run.encoder.encode(padded))).items():
            total = sums.setdefault(name, np.zeros((count, of.shape[1])))
            np.add.at(total, users[start : start + SCORED_ROWS], of[: len(own)])
    shown = np.bincount(users, minlength=count)
    kept = np.flatnonzero(shown)
    return kept, {name: of[kept] / shown[kept, None] for name, of in sums.items()}


def _category_shares(layout: Layout, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Of each sequence whose elements have a CATEGORY, how many of them have which, [b, rows of its table]."""
    found = {}
    for sequence in layout.sequences:
        for of in (field for field in sequence.fields if field.name == CATEGORY):
            ids = batch["ids"][of.table][:, of.start : of.stop]
            known = jax.nn.one_hot(ids, layout.table(of.table).num_rows)
            found[f"category shares/{sequence.name}"] = masked_mean(known, batch["masks"][sequence.name])
    return found


def probe(vectors: np.ndarray, wanted: np.ndarray, seed: int) -> float:
    """Explained variance of [u, c] by a linear map of [u, d], on users that it was not fitted on."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    bounds = np.cumsum([round(share * len(order)) for share in _PARTS])
    fitted, chosen, measured = np.split(order, bounds)
    mean, deviation = vectors[fitted].mean(axis=0), vectors[fitted].std(axis=0) + 1e-9
    inputs = np.concatenate([(vectors - mean) / deviation, np.ones((len(vectors), 1))], axis=1)
    gram, moments = inputs[fitted].T @ inputs[fitted], inputs[fitted].T @ wanted[fitted]
    found = []
    for penalty in PENALTIES:
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), moments)
        found.append((_explained(inputs[chosen] @ weights, wanted[chosen]), weights))
    best = max(found, key=lambda of: of[0])[1]
    return _explained(inputs[measured] @ best, wanted[measured])


def _explained(predicted: np.ndarray, wanted: np.ndarray) -> float:
    total = np.square(wanted - wanted.mean(axis=0)).sum()
    return float(1.0 - np.square(wanted - predicted).sum() / total)


def measure(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Trains one seed (or takes what is trained) and probes; "trained" and "untrained" by vector and factor."""
    trained = fit.train(config, workdir)
    run = trained.run
    assert isinstance(run, EventRun)
    factors, result = factors_of(run), {}
    for name, state in (("trained", trained.state), ("untrained", run.initial_state())):
        users, vectors = vectors_of(run, state.params)
        result[name] = {
            vector: {factor: probe(of, wanted[users], config.seed) for factor, wanted in factors.items()}
            for vector, of in vectors.items()
        }
        logging.info("seed %d, %s: %s", config.seed, name, result[name])
    ranked = run.evaluator.evaluate(run.scorer_function()(trained.state), "test").metrics
    return {**result, "users": len(users), "step": int(trained.state.step), "gauc": ranked["gauc"]}


def collect(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over seeds."""
    probes = {
        state: {
            vector: {
                factor: statistics.summary([outcome[state][vector][factor] for outcome in outcomes])
                for factor in FACTORS
            }
            for vector in outcomes[0][state]
        }
        for state in ("trained", "untrained")
    }
    return {
        "probes": probes,
        "gauc": statistics.summary([outcome["gauc"] for outcome in outcomes]),
        "users": [outcome["users"] for outcome in outcomes],
        "steps": [outcome["step"] for outcome in outcomes],
    }


def label(setting: dict[str, Any]) -> str:
    """Names the weights of a setting."""
    return f"lambda1 = {setting['independence']:g}, lambda2 = {setting['contrast_weight']:g}"


def figure(content: dict[str, Any]) -> Figure:
    """Bars of explained variance: a row of panels for each setting, one for each factor, trained beside untrained."""
    settings = content["settings"]
    drawn = Figure(figsize=(4.2 * len(FACTORS), 3.8 * len(settings)), layout="constrained")
    rows = drawn.subplots(len(settings), len(FACTORS), sharey=True, sharex="col", squeeze=False)
    for setting, panels in zip(settings, rows, strict=True):
        for panel, factor in zip(panels, FACTORS, strict=True):
            for offset, (state, colour) in enumerate((("trained", "#4878a8"), ("untrained", "#c9c9c9"))):
                of = setting["probes"][state]
                values = [entry[factor]["mean"] for entry in of.values()]
                errors = [entry[factor]["std"] or 0.0 for entry in of.values()]
                places = np.arange(len(of)) + 0.4 * (0.5 - offset)
                panel.barh(places, values, 0.4, xerr=errors, label=state, color=colour)
            panel.set(title=f"taste {factor}", yticks=range(len(of)), yticklabels=list(of))
            panel.axvline(0.0, color="black", linewidth=0.6)
        panels[0].set_title(f"{label(setting)}\ntaste {FACTORS[0]}")
    for panel in rows[-1]:
        panel.set_xlabel("explained variance")
    rows[0][0].invert_yaxis()  # which all panels share
    rows[0][-1].legend()
    return drawn


def parse_lambdas(values: Sequence[str]) -> list[tuple[float, float]]:
    """Pairs of (lambda1, lambda2); raises ConfigError unless all are different pairs of numbers of 0 or more."""
    try:
        pairs = [(float(first), float(second)) for first, second in (value.split(":") for value in values)]
    except ValueError:
        pairs = []
    if not pairs or len(set(pairs)) < len(pairs) or not all(0 <= of < math.inf for pair in pairs for of in pair):
        raise ConfigError(
            f"--lambdas={','.join(values)}: give different pairs LAMBDA1:LAMBDA2 of numbers of 0 or more, for example "
            "0.01:0.01,0.1:1"
        )
    return pairs


def main() -> None:
    """Runs the command."""
    seeds, pairs = runs.parse_seeds(flags.FLAGS.seeds), parse_lambdas(flags.FLAGS.lambdas)
    base = cli.check_types(flags.FLAGS.config)
    if not isinstance(base.model, eliverec.Config) or not base.model.is_disentangled:
        raise ConfigError("--config: give one of eLiveRec with config.model.is_disentangled")
    if not getattr(getattr(base.data, "live", None), "specific_tastes", 0.0):
        raise ConfigError("--config: give a synthetic live world with config.data.live.specific_tastes above 0")
    output = Path(flags.FLAGS.output or runs.QUALITY / "intentions.json")
    workdir = Path(flags.FLAGS.workdir or "workdirs/benchmarks/intentions")
    runs.check_output(output)
    make_directory(workdir, f"--workdir={workdir}")
    settings, every = [], []
    for independence, contrast_weight in pairs:
        outcomes = []
        for seed in seeds:
            config = with_seed(base, seed)
            config.evaluation.baselines = ()
            config.model = dataclasses.replace(config.model, independence=independence, contrast_weight=contrast_weight)
            place = workdir / f"lambda1_{independence:g}_lambda2_{contrast_weight:g}_seed{seed}"
            known = {"config": runs.as_json(config)}
            outcomes.append(runs.finished_or(Path(f"{place}.json"), known, functools.partial(measure, config, place)))
        settings.append({"independence": independence, "contrast_weight": contrast_weight, **collect(outcomes)})
        every += outcomes
    content = {
        "benchmark": "intentions",
        "config": runs.as_json(base),
        "seeds": seeds,
        "settings": settings,
        "environments": runs.distinct([outcome["environment"] for outcome in every]),
        "command": runs.command(),
    }
    write_json(output, content)
    figure(content).savefig(output.with_suffix(".png"), dpi=120)
    logging.info("wrote %s and its picture", output)


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    config_flags.DEFINE_config_file("config", None, "Config of eLiveRec on a world with specific tastes.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of worlds and models.")
    flags.DEFINE_list("lambdas", ["0.01:0.01"], "Weights of the regularisers, as pairs LAMBDA1:LAMBDA2.")
    flags.DEFINE_string("output", None, "JSON file to write; its picture stands beside it.")
    flags.DEFINE_string("workdir", None, "Where the runs are; reused.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
