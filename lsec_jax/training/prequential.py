"""The whole job of `python -m lsec_jax.prequential`: train up to a day, evaluate on the next one, move on.

Policies, evaluated on the same users and candidates of a day:

- cold: trained from scratch, `config.training.num_steps` steps on all that happened before the day;
- warm: the model of the day before, `Settings.warm_steps` more steps (`train --init_from`, with `config.replay`);
- refreshed: the cold model of the start day, never trained again, its vectors computed over the graph of today;
- frozen: the same over the graph of the start day: what a deployed snapshot knows. New ids have mean vectors.

Each model sees a data set in which the evaluated day is the test split and later days do not exist (`sources/period`);
every training is audited. Nothing is selected by a test metric: all trainings run for their number of steps.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lsec_jax import config as config_lib
from lsec_jax import config_json
from lsec_jax.config import ConfigError, ReplayConfig, RunConfig
from lsec_jax.data.files import write_json
from lsec_jax.data.sources import period
from lsec_jax.data.sources.offers import check_needs
from lsec_jax.ranking import Rankable
from lsec_jax.schema import FINGERPRINT_VERSION, DataError, LiveCommerceData
from lsec_jax.training import fit, initialisation, prequential_report, reports
from lsec_jax.training.data_records import data_differences, describe_data
from lsec_jax.training.evaluation import baseline_scorers, oracle_scorer
from lsec_jax.training.initialisation import Origin
from lsec_jax.training.relation_run import RelationRun
from lsec_jax.training.run import prepare_relations, require_relations
from lsec_jax.training.writers import make_directory

POLICIES = ("cold", "warm", "refreshed", "frozen")
SETTINGS = "settings.json"
Outcome = dict[str, Any]
Scored = dict[str, tuple[RelationRun, Rankable]]  # by policy
Work = Callable[[], Scored]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is run. Days are numbered from 0, the day of the first edge.

    Attributes:
        start_days: a model of start day s is trained on all that happened before day s.
        num_days: days that each start is evaluated on: s, s + 1, ...; a model's age on them is 0, 1, ...
        seeds: of the run and of the data source where it has a seed.
        policies: which of POLICIES.
        warm_steps: of each day's training under "warm".
        day_length: of a day in the data's unit of time; None = 86400 where times are dates, else 1.
    """

    start_days: tuple[int, ...]
    num_days: int = 5
    seeds: tuple[int, ...] = (0,)
    policies: tuple[str, ...] = POLICIES
    warm_steps: int = 100
    day_length: float | None = None

    def validate(self) -> None:
        """Raises ConfigError for the first one that cannot be used."""
        for name, numbers, least in (("start_days", self.start_days, 1), ("seeds", self.seeds, 0)):
            if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < least:
                raise ConfigError(f"--{name}={numbers}: give whole numbers of at least {least}, each once")
        for policy in self.policies:
            config_lib.require_choice("--policies", policy, POLICIES)
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise ConfigError(f"--policies={self.policies}: give some of {', '.join(POLICIES)}, each once")
        config_lib.require_at_least("--days", self.num_days, 1)
        config_lib.require_at_least("--warm_steps", self.warm_steps, 1)
        if self.day_length is not None and not 0 < self.day_length < math.inf:
            raise ConfigError(f"--day_length={self.day_length} must be positive and finite")


def run(config: RunConfig, settings: Settings, workdir: Path) -> str:
    """Trains and evaluates all policies; writes prequential.json, .md and .png into the workdir.

    What is finished is not done again, so that the same command goes on after a stop; more seeds, start days, days and
    policies may be asked for.

    Returns:
        The table as Markdown.

    Raises:
        ConfigError, DataError: before anything is trained, also where something was measured on other data.
    """
    settings.validate()
    config_lib.validate(config)
    require_relations(config)
    given = {"config": config_json.to_json(config), "warm_steps": settings.warm_steps}
    if settings.day_length is not None:
        given["day_length"] = settings.day_length
    stored = _stored_settings(workdir)
    if "config" in stored:  # by a version that may have lacked some keys
        stored["config"] = config_json.with_defaults(stored["config"], config)
    _require_stored(workdir, stored, given)
    outcomes = []
    for seed in settings.seeds:
        timeline = Timeline(config, settings, seed, workdir / f"seed{seed}")
        settings = timeline.settings
        given |= {"day_length": settings.day_length, f"first_time_of_seed_{seed}": timeline.first}
        _require_stored(workdir, stored, given)
        timeline.check()
        make_directory(workdir, f"--workdir={workdir}")
        write_json(workdir / SETTINGS, stored | given)
        outcomes += list(timeline.outcomes())
    content = {
        "metric": config.training.metric,
        "protocol": outcomes[0]["protocol"],
        "model": config.model.name,
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "config": config_json.to_json(config),
        "curves": prequential_report.curves(outcomes, config.training.metric),
        "outcomes": outcomes,
        "environment": reports.environment(),
    }
    write_json(workdir / "prequential.json", content)
    text = prequential_report.page(content)
    (workdir / "prequential.md").write_text(text)
    prequential_report.figure(content).savefig(workdir / "prequential.png", dpi=120)
    return text


def _stored_settings(workdir: Path) -> dict[str, Any]:
    """What all outcomes of a workdir depend on; nothing if it is new or empty, ConfigError if it is something else."""
    path = workdir / SETTINGS
    if path.exists():
        try:
            return dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: damaged ({error}); choose a new directory") from None
    if workdir.is_file() or (workdir.is_dir() and any(workdir.iterdir())):
        raise ConfigError(f"workdir {workdir} is not empty and holds no prequential run; choose a new directory")
    return {}


def _require_stored(workdir: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuses settings that differ from the stored ones. Data that begins elsewhere gives the days other numbers."""
    common = [name for name in given if name in stored]
    known, now = ({name: of[name] for name in common} for of in (stored, given))
    if changed := config_json.differences(known, now, "prequential"):
        raise ConfigError(
            f"workdir {workdir} belongs to other settings or data (stored -> given):\n  "
            + "\n  ".join(changed)
            + "\nUse another --workdir, or give the stored values, and the data as it was, again to go on."
        )


class Timeline:
    """One seed: its data, its days, its models."""

    def __init__(self, config: RunConfig, settings: Settings, seed: int, folder: Path):
        """Loads the data.

        Raises:
            ConfigError: a relation of the model has no times or nothing to train on, or days reach beyond the data.
        """
        data_config = config.data
        if hasattr(data_config, "seed"):
            data_config = dataclasses.replace(data_config, seed=seed)
        self.config = dataclasses.replace(config, data=data_config, seed=seed)
        self.seed, self.folder = seed, folder
        self.data = data_config.load()
        self.data.validate()
        check_needs(self.data, config.model.needs)
        times = self._times(config.model.needs.relations)
        self._day_length = settings.day_length or (86400.0 if self.data.has_dates else 1.0)
        self.settings = dataclasses.replace(settings, day_length=self._day_length)
        self.first = math.floor(min(of.min() for of in times.values()) / self._day_length) * self._day_length
        self._check_days(times)
        self._descriptions: dict[tuple[int, int], dict[str, Any]] = {}

    def _check_days(self, times: dict[str, np.ndarray]) -> None:
        """Every start needs data, and a day counts once all of it is over."""
        end = self.data.end_time
        if end is None:
            end = float(np.nextafter(max(of.max() for of in times.values()), np.inf))
        length, num_days = f"--day_length={self._day_length:g}", math.floor((end - self.first) / self._day_length)
        if (last := max(self.settings.start_days) + self.settings.num_days) > num_days:
            raise ConfigError(
                f"--start_days and --days reach day {last - 1}, but data set '{self.data.name}' has {num_days} whole "
                f"days ({length}), numbered from 0; start earlier, give fewer days, or another length"
            )
        start = min(self.settings.start_days)
        for name, relation in self.data.relations.items():
            # Training needs edges of the model's relations; the others must not be empty once the day is over.
            day = start if name in times else start + 1
            if relation.time is not None and relation.time.min() >= self.first + day * self._day_length:
                raise ConfigError(
                    f"relation '{name}' has no edges before day {day} ({length}); start later, or give another length "
                    "in the data's unit of time"
                )

    def _times(self, relations: tuple[str, ...]) -> dict[str, np.ndarray]:
        found = {}
        for name in relations:
            times = self.data.relations[name].time
            if times is None:
                raise ConfigError(
                    f"relation '{name}' has no times, so that nothing says what of it was known on a day; leave it out "
                    "of config.model, or name its time column in the data config"
                )
            found[name] = times
        return found

    def check(self) -> None:
        """Refuses what cannot work, before anything is trained: prepares the first trainings where nothing is measured.

        Raises:
            DataError: what was measured before was measured on other data.
            ConfigError, DataError: the data does not suit the config.
        """
        measured = [(path, day) for name, _, day, _ in self._measurements() if (path := self._path(name)).exists()]
        for path, day in measured:
            self._check_data(path, day)
        if measured:
            return
        start = self.settings.start_days[0]
        config = self._cell(start, start, 1)
        prepare_relations(config, self._cut(config))
        if self.config.replay.window and "warm" in self.settings.policies and self.settings.num_days > 1:
            config = self._with_replay(self._cell(start + 1, start + 1, 1))
            prepare_relations(config, self._cut(config))

    def outcomes(self) -> Iterator[Outcome]:
        """All policies on all days of all starts."""
        for one in self._measurements():
            yield from self._measured(*one)

    def _measurements(self) -> Iterator[tuple[str, int, int, Work]]:
        """What is measured: its name, its start day, its day, and what makes the models."""
        for start in self.settings.start_days:
            for day in range(start, start + self.settings.num_days):
                yield f"floors_{day}", start, day, functools.partial(self._floors, day)
                for policy in self.settings.policies:
                    name = f"cold_{day}" if policy == "cold" else f"{policy}_{start}_{day}"
                    yield name, start, day, functools.partial(self._model, policy, start, day)

    def _path(self, name: str) -> Path:
        return self.folder / "outcomes" / f"{name}.json"

    def _measured(self, name: str, start: int, day: int, work: Work) -> list[Outcome]:
        """Evaluates what `work` returns, by policy, or reads what was measured."""
        path = self._path(name)
        if not path.exists():
            found = {}
            for policy, (of, scorer) in work().items():
                row = of.evaluator.evaluate(scorer, "test", self.config.evaluation.protocols[0])
                found[policy] = {"protocol": row.description, "users": row.num_users, "metrics": row.metrics}
                value = row.metrics[self.config.training.metric]
                logging.info("seed %d, day %d, %s: %s %.4f", self.seed, day, policy, self._metric, value)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"data": self._describe(day), "policies": found})
        stored = json.loads(path.read_text())["policies"]
        at = {"seed": self.seed, "start_day": start, "day": day, "age": day - start}
        return [{"policy": policy, **at, **values} for policy, values in stored.items()]

    def _check_data(self, path: Path, day: int) -> None:
        stored = json.loads(path.read_text()).get("data")
        if stored is None:
            raise DataError(f"{path}: does not say which data it was measured on; use another --workdir")
        if lines := data_differences(stored, functools.partial(self._describe, day), f"{path}: "):
            raise DataError(
                f"{path}: was measured on other data (stored -> now):\n  "
                + "\n  ".join(lines)
                + "\nUse another --workdir, or the data as it was."
            )

    def _describe(self, day: int, version: int = FINGERPRINT_VERSION) -> dict[str, Any]:
        """All that is known once a day is over: what is measured on that day follows from it."""
        if (day, version) not in self._descriptions:
            self._descriptions[day, version] = describe_data(self._cut(self._cell(day, day, 1)), version)
        return self._descriptions[day, version]

    @property
    def _metric(self) -> str:
        return self.config.training.metric

    def _floors(self, day: int) -> Scored:
        """Popularity of the days before, and on simulated worlds the oracle."""
        config = self._cell(day, day, 1)
        found = prepare_relations(config, self._cut(config))
        evaluation = dataclasses.replace(config.evaluation, baselines=("popularity",))
        scorers = baseline_scorers(found.data, found.task, evaluation)
        oracle = oracle_scorer(found.data, found.task, "test")
        return {name: (found, of) for name, of in (scorers | ({} if oracle is None else {"oracle": oracle})).items()}

    def _model(self, policy: str, start: int, day: int) -> Scored:
        """A policy's model for a day, and the run to evaluate it in."""
        if policy in ("cold", "warm"):
            found = self._trained(start if policy == "warm" else day, day)
            assert isinstance(found.run, RelationRun), "checked before anything was trained"
            return {policy: (found.run, found.run.scorer_function()(found.state))}
        config = self._cell(start if policy == "frozen" else day, day, 1)
        own = prepare_relations(config, self._cut(config))
        state = initialisation.start(own, self._origin(start, start, "reset")).state
        return {policy: (own, own.scorer_function()(state))}

    def _trained(self, start: int, day: int) -> fit.Trained:
        """The model that is trained from scratch for the start day, and from there on day by day."""
        num_steps, origin = self.config.training.num_steps, None
        if day > start:
            num_steps, origin = self.settings.warm_steps, self._origin(start, day - 1, "keep")
        config = self._cell(day, day, num_steps)
        if day > start:
            config = self._with_replay(config)
        return fit.train(config, self._workdir(start, day), True, origin, self._cut(config))

    def _origin(self, start: int, day: int, moments: str) -> Origin:
        """An earlier model, which is trained now if it is not yet."""
        workdir = self._workdir(start, day)
        num_steps = self.config.training.num_steps if day == start else self.settings.warm_steps
        if not (workdir / "checkpoints" / str(num_steps)).is_dir():
            self._trained(start, day)
        return Origin(workdir, "last", moments)

    def _workdir(self, start: int, day: int) -> Path:
        if day == start:
            return self.folder / "cold" / str(day)
        return self.folder / f"warm from {start}" / str(day)

    def _with_replay(self, cell: RunConfig) -> RunConfig:
        """A cell's config for warm training; all others train on everything, or not at all."""
        return dataclasses.replace(cell, replay=self.config.replay)

    def _cell(self, train_day: int, test_day: int, num_steps: int) -> RunConfig:
        """The config of a run that trains on what was before one day and is tested on another one."""
        times = (self.first + number * self._day_length for number in (train_day, test_day, test_day + 1))
        training = dataclasses.replace(
            self.config.training,
            num_steps=num_steps,
            evaluate_every=num_steps,
            patience=0,
            max_seconds=0.0,
            track_test=False,
        )
        return dataclasses.replace(
            self.config,
            data=period.Config(self.config.data, *times),
            split=dataclasses.replace(self.config.split, method="given"),
            replay=ReplayConfig(),
            training=training,
            evaluation=dataclasses.replace(
                self.config.evaluation, protocols=self.config.evaluation.protocols[:1], baselines=()
            ),
        )

    def _cut(self, config: RunConfig) -> LiveCommerceData:
        return config.data.cut(self.data)
