"""Which days a prequential run may have, and what becomes of measurements when the data changes."""

import dataclasses
import json

import numpy as np
import pytest

from lsec_jax.config import ConfigError, ReplayConfig
from lsec_jax.schema import DataError
from lsec_jax.training import prequential
from lsec_jax.training.prequential import Settings, Timeline
from tests import runs

SETTINGS = Settings((30,), num_days=2, warm_steps=4)
DAY = 86400.0


@dataclasses.dataclass
class World:
    """The tiny world of 50 days, as it is now: that is no key of the config."""

    def load(self):
        return self.change(runs.tiny_world(num_buy=1500).load())


def config_of(change=lambda data: data, **changes):
    world = World()
    world.change = change
    return dataclasses.replace(runs.tiny_config(num_steps=6), data=world, **changes)


def timeline(folder, change=lambda data: data, **changes):
    return Timeline(config_of(change), dataclasses.replace(SETTINGS, **changes), 0, folder)


def with_times(data, function, **changes):
    """The data with other times of all edges, of which those with NaN are left out."""
    relations = {}
    for name, of in data.relations.items():
        kept = ~np.isnan(function(of.time))
        relations[name] = dataclasses.replace(of.take(kept), time=function(of.time)[kept])
    return data.replace(relations=relations, truth=None, **changes)


def dated(data):
    """From 2020-01-01 on, in seconds."""
    return with_times(data, lambda time: time * DAY + 18262 * DAY, end_time=18312 * DAY, has_dates=True)


def until(end):
    """Data that ends at a time, and does not say so."""
    return lambda data: with_times(data, lambda time: np.where(time < end, time, np.nan), end_time=None)


def buys(is_kept):
    def change(data):
        buy = data.relations["buy"]
        return data.replace(relations={**data.relations, "buy": buy.take(is_kept(buy.time))})

    return change


def buys_until(end):
    return buys(lambda time: time < end)


def buys_from(start):
    return buys(lambda time: time >= start)


def test_every_relation_of_the_model_needs_edges_to_train_on(tmp_path):
    config = config_of(buys_from(20.0))
    config.model = dataclasses.replace(config.model, relations=("buy", "follow"))
    assert Timeline(config, dataclasses.replace(SETTINGS, start_days=(21,)), 0, tmp_path).first == 0.0
    with pytest.raises(ConfigError, match=r"relation 'buy' has no edges before day 19 \(--day_length=1\)"):
        Timeline(config, dataclasses.replace(SETTINGS, start_days=(19, 21)), 0, tmp_path)


def no_work():
    return {}


def test_what_was_measured_is_used_again_while_its_day_and_those_before_are_the_same(tmp_path):
    assert timeline(tmp_path)._measured("floors_31", 30, 31, no_work) == []
    later = timeline(tmp_path, buys_until(32.0))
    later.check()
    assert later._measured("floors_31", 30, 31, lambda: pytest.fail("measured again")) == []


@pytest.mark.parametrize("end", [31.5, 29.0])
def test_what_was_measured_on_other_data_is_refused(tmp_path, end):
    timeline(tmp_path)._measured("floors_31", 30, 31, no_work)
    other = timeline(tmp_path, buys_until(end))
    message = r"(?s)outcomes/floors_31\.json: was measured on other data .*data\.edges\.buy: .*Use another --workdir"
    with pytest.raises(DataError, match=message):
        other.check()


def test_data_whose_first_edges_are_gone_has_other_days_and_is_refused(tmp_path, monkeypatch):
    """The command begins, and is stopped; then the log loses its first three days."""

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Timeline, "outcomes", stop)
        prequential.run(config_of(), SETTINGS, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["first_time_of_seed_0"] == 0.0
    lost = config_of(lambda data: with_times(data, lambda time: np.where(time < 3.0, np.nan, time)))
    for seeds, expected in (((0,), "first_time_of_seed_0: 0.0 -> 3.0"), ((0, 1), "first_time_of_seed_0: 0.0 -> 3.0")):
        with pytest.raises(ConfigError, match=expected):
            prequential.run(lost, dataclasses.replace(SETTINGS, seeds=seeds), tmp_path / "run")


def test_a_day_has_86400_seconds_where_times_are_dates(tmp_path):
    own = timeline(tmp_path, dated)
    assert own.settings.day_length == DAY and own.first == 18262 * DAY
    data = own._cell(30, 31, 1).data
    assert (data.train_end, data.test_start, data.end) == tuple((18262 + day) * DAY for day in (30, 31, 32))
    assert timeline(tmp_path).settings.day_length == 1.0
    assert timeline(tmp_path, dated, day_length=2 * DAY, start_days=(10,)).settings.day_length == 2 * DAY


@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        (dated, {"day_length": 1.0}, r"relation 'sell' has no edges before day 31 \(--day_length=1\)"),
        (until(32.4), {"start_days": (31,)}, r"reach day 32, but .* has 32 whole days \(--day_length=1\)"),
        (until(32.4), {"day_length": 40.0, "start_days": (1,)}, r"reach day 2, but .* has 0 whole days"),
    ],
)
def test_days_that_cannot_be_measured_are_refused_before_anything_is_written(tmp_path, change, settings, expected):
    with pytest.raises((ConfigError, DataError), match=expected):
        prequential.run(config_of(change), dataclasses.replace(SETTINGS, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_day_counts_once_it_is_over(tmp_path):
    assert timeline(tmp_path, until(32.4), start_days=(30,)).settings.num_days == 2


def test_a_replay_window_without_edges_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(prequential.fit, "train", lambda *args: pytest.fail("trains"))
    config = config_of(replay=ReplayConfig(window=1e-9))
    with pytest.raises(ConfigError, match="no training edge of 'buy' is so new"):
        prequential.run(config, SETTINGS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_not_trained_has_no_replay_window(tmp_path):
    config = config_of(replay=ReplayConfig(window=1e-9))
    own = Timeline(config, SETTINGS, 0, tmp_path)
    assert own._cell(30, 31, 1).replay == ReplayConfig()
    without_warm = dataclasses.replace(SETTINGS, policies=("cold", "frozen", "refreshed"))
    Timeline(config, without_warm, 0, tmp_path).check()
