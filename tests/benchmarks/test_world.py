"""The benchmark of the live world's statistics: what it counts, and that every row has what it compares with."""

import json

import numpy as np
import pytest

from benchmarks import runs, sections
from benchmarks.quality import world
from lsec_jax.data.live_statistics import live_statistics
from lsec_jax.training import live_report
from tests.data.live_world.live_worlds import loaded


def world_outcome(value):
    statistics = dict.fromkeys(world.PUBLISHED, value)
    memory = {"seconds": 2.0, "imported_gib": 0.25, "peak_gib": 0.5}
    return {**memory, "statistics": statistics, "live": {"impressions": 30_000}}


def world_result():
    found = world.collect({"tests": [world_outcome(2.0), world_outcome(3.0)]})
    return {**found, "seeds": [0, 1], "environments": [], "command": "python -m x"}


@pytest.fixture(scope="module")
def found():
    data = loaded()
    return world.world_statistics(data, live_report.summary(live_statistics(data)))


def test_every_statistic_is_finite_and_has_a_row(found):
    assert list(found) == list(world.PUBLISHED)
    assert all(np.isfinite(value) and value > 0 for value in found.values())


def test_statistics_are_those_counted_by_loops(found):
    data = loaded()
    impression, friend = data.events["impression"], data.relations["friend"]
    sequences = {}
    for row in np.flatnonzero(impression.value("watched")):
        sequences.setdefault(impression.ids("user")[row], []).append(impression.ids("streamer")[row])
    recent = [of[-50:] for of in sequences.values()]
    lengths, distinct = np.mean([len(of) for of in recent]), np.mean([len(set(of)) for of in recent])
    assert max(len(of) for of in sequences.values()) > 50
    assert found["number of a user's last 50 watches"] == pytest.approx(lengths)
    assert found["repeats among a user's last 50 watches, %"] == pytest.approx(100 * (1 - distinct / lengths))
    watches = sum(len(of) for of in sequences.values())
    assert found["gifts, per watch"] == pytest.approx(len(data.events["gift"]) / watches)
    assert found["friends, per user who has some"] == len(friend) / len(set(friend.source_ids))
    assert found["buy: density, %"] == pytest.approx(100 * 2_400 / (200 * 150))
    assert found["scenarios"] == 216
    buy = data.relations["buy"]
    order = np.sort(buy.time)
    seen = set(buy.target_ids[buy.time < order[int(0.8 * len(order))]])
    late = buy.target_ids[buy.time >= order[int(0.9 * len(order))]]
    unseen = 100 * np.mean([item not in seen for item in late])
    assert found["purchases of the test period of items unseen in training, %"] == pytest.approx(unseen, abs=0.5)


def test_a_simulated_world_comes_with_its_time_and_memory():
    outcome = json.loads(json.dumps(world.measure("tests", 0)))
    assert outcome["seconds"] > 0 and 0 < outcome["imported_gib"] <= outcome["peak_gib"]
    assert outcome["live"]["impressions"] == 30_000


def test_the_table_has_the_published_numbers_beside_ours():
    text = sections.world_section(world_result())
    assert "| impressions, per request | 2.5 +- 0.71 | 7.71 (Taobao Live) |" in text
    assert "| users | 2.5 +- 0.71 | 29,422 (LSEC-Small); 202,850 (LSEC-Large) |" in text
    assert "| tests: 30,000 impressions | 2.00 +- 0.00 | 0.25 +- 0.00 | 0.50 +- 0.00 |" in text


def test_published_densities_are_those_of_the_published_numbers():
    for name, published in world.PUBLISHED.items():
        assert all(of.value > 0 and of.source for of in published), name
    for size, (users, items, buy) in {0: (29_422, 31_630, 451_441), 1: (202_850, 109_502, 3_062_463)}.items():
        assert world.PUBLISHED["buy: density, %"][size].value == pytest.approx(100 * buy / users / items, abs=1e-4)


def test_the_committed_result_is_of_the_shipped_default_world():
    result = json.loads((runs.QUALITY / "world.json").read_text())
    assert set(result["worlds"]) == set(world.SIZES) and len(result["seeds"]) >= 3
    assert result["published"] == json.loads(json.dumps(world.collect({})["published"]))
    assert not any(environment["uncommitted_changes"] for environment in result["environments"])
