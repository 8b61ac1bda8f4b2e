"""The whole job of `python -m lsec_jax.figures`: Figures 5 to 9 of TREEMS (WSDM 2021) from trained runs.

Runs are opened one after the other on data that are loaded once; all models are measured on the very same impressions.
Everything that a picture shows is in figures.json.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lsec_jax.config import ConfigError, RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.schema import DataError, LiveCommerceData
from lsec_jax.training import reports, scenario_groups, scenario_vectors, treems_page, treems_plots
from lsec_jax.training.event_evaluation import ImpressionEvaluator
from lsec_jax.training.event_run import EventRun
from lsec_jax.training.run import learns_events, prepare
from lsec_jax.training.scenario_gates import Read, TreeScenarios, mean_gates, require_treems, utilisation
from lsec_jax.training.scenario_groups import GROUPS, ByScenario, Collector, Measured
from lsec_jax.training.state import TrainState
from lsec_jax.training.workdirs import load_config, restore_best
from lsec_jax.training.writers import check_folder, make_directory

MARK = "lsec_jax.figures"  # "written_by" of figures.json: by it earlier figures are known
FILES = ("figures.md", "figure5.png", "figure6.png", "figure7_8.png", "figure9.png")
METRICS = ("auc", "mrr", "hr@5")
NUM_SCENARIOS = 5  # of Figures 5 and 6 each
MAX_POINTS = 2000  # of Figure 9; the silhouette takes their square in memory


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is drawn.

    Attributes:
        split: "validation" or "test".
        scenario: the user's own id of the scenario of Figures 7 and 8; "" = the one with most training impressions.
        min_requests: of a scenario of Figures 5 and 6 in the split; of impressions where requests are not known.
    """

    split: str = "test"
    scenario: str = ""
    min_requests: int = 10


@dataclasses.dataclass
class _Found:
    """What the runs gave, by label, and what they are asked for.

    Attributes:
        evaluator: of the first run's impressions.
        split: "validation" or "test".
        scenarios: of the tree.
        chosen: position of the scenario that Figures 7 and 8 show alone.
        shown: positions of those of Figure 9.
        collected: scored impressions.
        experts: Figures 7 and 8, for JSON.
        panels: of Figure 9.
        models: which runs these are.
    """

    evaluator: ImpressionEvaluator
    split: str
    scenarios: TreeScenarios
    chosen: int
    shown: np.ndarray
    collected: dict[str, Collector] = dataclasses.field(default_factory=dict)
    experts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    panels: list[scenario_vectors.Panel] = dataclasses.field(default_factory=list)
    models: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def take(self, run: EventRun, state: TrainState, path: Path, label: str) -> None:
        """Takes from a run what the figures need of it."""
        collector = self.collected[label] = Collector(self.evaluator)
        for block in self.evaluator.scored(run.scorer_function()(state), self.split):
            collector.add(block)
        self.models[label] = {"model": run.config.model.name, "workdir": str(path), "step": int(state.step)}
        scenarios, reader, shown = self.scenarios, run.gate_reader, self.shown
        read = None
        if reader is not None and np.array_equal(reader.scenarios.nodes, scenarios.nodes):
            read = reader.read(state.params)
            weight = require_treems(run.config.model, "").inconsistency_weight
            parts = gate_parts(read.gates, scenarios, self.chosen)
            self.experts[label] = {"inconsistency_weight": weight, "parts": parts}
        vectors = _scenario_vectors(run, state, scenarios, read)
        if vectors is None:
            self.models[label]["figure9"] = f"has no field of the {scenarios.role}"
            return
        is_trained = scenarios.groups[shown] != GROUPS.index("cold")
        of_shown = (vectors[1][shown], is_trained, scenarios.ancestors[shown], scenarios.parents[shown])
        self.panels.append(scenario_vectors.panel(label, vectors[0], *of_shown))


def draw(
    workdir: Path,
    beside: Sequence[Path],
    output: Path,
    settings: Settings,
    data_path: str | None = None,
    plugins: tuple[str, ...] = (),
) -> str:
    """Draws all figures and writes them.

    Args:
        workdir: of a run of TREEMS.
        beside: of other runs on the same data.
        output: new, empty or of earlier figures, which are replaced.
        settings: what is drawn.
        data_path: replaces the source's path, if the data have moved.
        plugins: packages besides lsec_jax whose classes the runs' configs may name.

    Returns:
        The page as Markdown.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
    """
    check_folder(output, "figures.json", MARK, "figures")
    configs = _read_configs(workdir, beside, data_path, plugins)
    labels = _labels([workdir, *beside], configs)
    data = configs[0].data.load()
    run, state = _open(configs[0], data, workdir, labels[0])
    if settings.split not in run.held_out():
        raise ConfigError(
            f"--split={settings.split}: the run has no such rows of '{run.task}'; choose from: "
            f"{', '.join(run.held_out()) or 'none: hold rows out (config.split)'}"
        )
    reader = run.gate_reader
    assert reader is not None, "a run of TREEMS"
    scenarios = reader.scenarios
    chosen, evaluator = _chosen(scenarios, settings.scenario), _evaluator(run, scenarios.role)
    found = _Found(evaluator, settings.split, scenarios, chosen, _points(scenarios))
    found.take(run, state, workdir, labels[0])
    for path, label, config in zip(beside, labels[1:], configs[1:], strict=True):
        found.take(*_open(config, data, path, label, evaluator), path, label)
    by_scenario = scenario_groups.measure(evaluator, found.collected, settings.split)
    content = {
        "written_by": MARK,
        "settings": dataclasses.asdict(settings),
        "models": found.models,
        **_comparisons(by_scenario, settings.min_requests),
        "figure7_8": {"scenario": str(scenarios.ids[chosen]), "runs": found.experts},
        "figure9": _representations(found.panels, scenarios, found.shown),
        "environment": reports.environment(),
    }
    return _write(output, content)


def _read_configs(
    workdir: Path, beside: Sequence[Path], data_path: str | None, plugins: tuple[str, ...]
) -> list[RunConfig]:
    """Configs of all runs, the first one of TREEMS, the others of models that score the same answers."""
    paths = [workdir, *beside]
    for path in beside:
        if [of.resolve() for of in paths].count(path.resolve()) > 1:
            raise ConfigError(f"--beside={path}: this workdir is given twice; leave it out once")
    configs = [load_config(workdir, data_path, plugins), *(load_config(path, None, plugins) for path in beside)]
    first = require_treems(configs[0].model, f"--workdir={workdir}")
    label = first.declaration.labels[0]
    for path, config in zip(beside, configs[1:], strict=True):
        if not learns_events(config) or config.model.task_tables[0] != first.task_tables[0]:
            raise ConfigError(
                f"--beside={path}: holds a run of '{config.model.name}' on '{config.model.task_tables[0]}', not one "
                f"that scores the events '{first.task_tables[0]}'; leave it out"
            )
        if (other := config.model.declaration.labels[0]) != label:
            raise ConfigError(
                f"--beside={path}: its first label is {other}, and that of {workdir} is {label}; leave it out, or "
                "train it on the same answers"
            )
    return configs


def _labels(paths: Sequence[Path], configs: Sequence[RunConfig]) -> list[str]:
    """The models' names; of several of one name with their workdirs, by as much of these as tells them apart."""
    names = [reports.model_name(config) for config in configs]
    folders = [f"{name} ({path.resolve().name})" for name, path in zip(names, paths, strict=True)]
    whole = [f"{name} ({path})" for name, path in zip(names, paths, strict=True)]
    return [
        name if names.count(name) == 1 else folder if folders.count(folder) == 1 else path
        for name, folder, path in zip(names, folders, whole, strict=True)
    ]


def _open(
    config: RunConfig,
    data: LiveCommerceData,
    path: Path,
    label: str,
    evaluator: ImpressionEvaluator | None = None,
) -> tuple[EventRun, TrainState]:
    """Restores a run on the data; one beside another must have the same rows held out as the evaluator's."""
    run = prepare(config, data, trains=False)
    assert isinstance(run, EventRun), "checked with the config"
    if evaluator is not None and not _same_split(run, evaluator):
        raise DataError(
            f"--beside={path}: other rows of '{run.task}' are held out than in --workdir, so that its metrics say "
            "something else; train it with the same config.split"
        )
    state, _ = restore_best(run, path)
    logging.info("restored %s, step %d of %s", label, int(state.step), path)
    return run, state


def _same_split(run: EventRun, evaluator: ImpressionEvaluator) -> bool:
    own, other = run.evaluator.events.split, evaluator.events.split
    return own is other or (own is not None and other is not None and np.array_equal(own, other))


def _evaluator(run: EventRun, role: str) -> ImpressionEvaluator:
    """That of a run, of the scenarios of a role, with the cutoff of the paper's figures."""
    config = run.config.evaluation
    cutoffs = tuple(sorted({*config.cutoffs, 5}))
    return ImpressionEvaluator(run.data, run.encoder, dataclasses.replace(config, scenario=role, cutoffs=cutoffs))


def _chosen(scenarios: TreeScenarios, name: str) -> int:
    """Position of the scenario that Figures 7 and 8 show alone."""
    if not name:
        return int(scenarios.training_impressions.argmax())
    found = np.flatnonzero(scenarios.ids.astype(np.str_) == name)
    if not len(found):
        frequent = scenarios.ids[np.argsort(-scenarios.training_impressions, kind="stable")[:5]]
        raise ConfigError(
            f"--scenario={name}: none of the {len(scenarios.ids)} scenarios; the most frequent ones are: "
            f"{', '.join(map(str, frequent))}"
        )
    return int(found[0])


def _points(scenarios: TreeScenarios) -> np.ndarray:
    """Positions of the scenarios of Figure 9: all, or as many as can be shown, drawn evenly."""
    count = len(scenarios.nodes)
    if count <= MAX_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MAX_POINTS, replace=False))


def gate_parts(gates: np.ndarray, scenarios: TreeScenarios, chosen: int) -> list[dict[str, Any]]:
    """The mean gates [s, H, n] of one scenario, and of each group that has any, for JSON; Figures 7 and 8.

    "entropy" and "largest" are of the mean gate, as `utilisation` says; "own_entropy" is the mean over the scenarios of
    each one's: experts may be used alike by all scenarios together, and each scenario use one.
    """
    alone = np.zeros(len(scenarios.nodes))
    alone[chosen] = 1.0
    of_each = np.stack([utilisation(of)["entropy"] for of in gates.astype(np.float64)])
    found = []
    for name, weights in zip((str(scenarios.ids[chosen]), *GROUPS), (alone, *scenarios.weights()), strict=True):
        if weights.any():
            mean = mean_gates(gates, weights)
            found.append(
                {
                    "name": name,
                    "scenarios": int((weights > 0).sum()),
                    "training_impressions": int(scenarios.training_impressions[weights > 0].sum()),
                    "gates": mean.tolist(),
                    **{key: of.tolist() for key, of in utilisation(mean).items()},
                    "own_entropy": (weights @ of_each).tolist(),
                }
            )
    return found


def _scenario_vectors(
    run: EventRun, state: TrainState, scenarios: TreeScenarios, read: Read | None
) -> tuple[str, np.ndarray] | None:
    """What a model's vectors of scenarios are, and these, [s, d]; None of a model that does not read scenarios."""
    if read is not None:
        return "last state of the path's reader", read.states[:, -1]
    for field in run.encoder.layout.fields:
        declared = next((of for of in run.encoder.declaration.fields if of.name == field.name), None)
        if field.kind == "ids" and declared is not None and declared.source == scenarios.role:
            rows = run.encoder.rows_of_nodes(field.name)[scenarios.nodes]
            return f"embedding of the field '{field.name}'", np.asarray(state.params.tables[field.table])[rows]
    return None


def _comparisons(found: Mapping[str, ByScenario], min_requests: int) -> dict[str, Any]:
    """Figures 5 and 6 for JSON."""
    first = next(iter(found.values()))
    unit = "requests" if first.resampled == "requests" else "impressions"
    metrics = [name for name in METRICS if any(name in of.metrics for of in first.scenarios)]

    def is_enough(of: Measured) -> bool:
        return of.counts[unit] >= min_requests and all(name in of.metrics for name in metrics)

    kept = [of for of in first.scenarios if is_enough(of)]
    head = sorted((of for of in kept if of.group == "head"), key=lambda of: -of.counts["training_impressions"])
    tail = sorted((of for of in kept if of.group == "tail"), key=lambda of: of.counts["training_impressions"])
    by_name = {label: {of.name: of for of in every.scenarios} for label, every in found.items()}

    def section(letter: str, members: Sequence[Measured], rule: str) -> dict[str, Any]:
        listed = [
            {
                "label": f"{letter}S{i + 1}",
                "name": of.name,
                **of.counts,
                "models": {label: _values(every[of.name], metrics) for label, every in by_name.items()},
            }
            for i, of in enumerate(members[:NUM_SCENARIOS])
        ]
        rule = f"{rule}, with at least {min_requests} {unit} of the split, of both answers"
        return {"rule": rule, "metrics": metrics, "unit": unit, "scenarios": listed}

    common = {"resampled": first.resampled, "samples": first.num_samples, "groups": _groups(found, metrics)}
    return {
        "scenarios": {"role": first.role, "split": first.split, **common},
        "figure5": section("H", head, "head scenarios with most training impressions"),
        "figure6": section("T", tail, "long-tail scenarios with fewest training impressions"),
    }


def _groups(found: Mapping[str, ByScenario], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        label: {of.name: {"counts": of.counts, "metrics": _values(of, metrics)} for of in every.groups}
        for label, every in found.items()
    }


def _values(of: Measured, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Value and, where there is one, interval by metric."""
    found = {}
    for name in metrics:
        if name in of.metrics:
            interval = of.intervals.get(name)
            bounds = {} if interval is None else {"low": interval[0], "high": interval[1]}
            found[name] = {"value": of.metrics[name], **bounds}
    return found


def _representations(
    panels: Sequence[scenario_vectors.Panel], scenarios: TreeScenarios, shown: np.ndarray
) -> dict[str, Any]:
    """Figure 9 for JSON."""
    return {
        "projection": scenario_vectors.PROJECTION,
        "scenarios": scenarios.ids[shown].tolist(),
        "groups": [GROUPS[group] for group in scenarios.groups[shown]],
        "ancestors": scenarios.node_ids[scenarios.ancestors[shown]].tolist(),
        "of": len(scenarios.nodes),
        "panels": [panel.to_json() for panel in panels],
    }


def _write(output: Path, content: dict[str, Any]) -> str:
    """Writes everything; what earlier figures left goes first."""
    pictures = treems_plots.pictures(content)
    text = treems_page.page(content, list(pictures))
    make_directory(output, f"--output={output}")
    for name in FILES:
        (output / name).unlink(missing_ok=True)
    write_json(output / "figures.json", content)
    for name, picture in pictures.items():
        picture.savefig(output / f"{name}.png", dpi=130)
    (output / "figures.md").write_text(text)
    return text
