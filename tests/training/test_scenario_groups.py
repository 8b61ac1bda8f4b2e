"""Impressions by scenario: groups by hand, metrics of each part, intervals, differences, and what the report says."""

import dataclasses
import json

import numpy as np
import pytest

from lsec_jax.config import ConfigError
from lsec_jax.event_metrics import resampled
from lsec_jax.schema import SPLITS, TRAIN
from lsec_jax.training import scenario_groups
from tests.impressions import measured
from tests.training.live_impressions import CONFIG, LABELS, Answers, evaluator_of, scores_of, split_world, with_column

NAMES = ["auc", "gauc", "mrr", "hr@1", "hr@3", "hr@10"]


def config_of(role="streamer", **keys):
    return dataclasses.replace(CONFIG, **{"scenario": role, "bootstrap_samples": 60, **keys})


def perfect(rows, data):
    return {"watched": data.events["impression"].value("watched")[rows].astype(np.float32)}


def constant(rows):
    return {"watched": np.zeros(len(rows), np.float32)}


@pytest.fixture(scope="module")
def data():
    """A world in whose training rows three streamers are not shown."""
    data = split_world()
    events = data.events["impression"]
    split = np.where(np.isin(events.ids("streamer"), [1, 4, 9]) & (events.split == TRAIN), -1, events.split)
    return with_column(data, split=split.astype(events.split.dtype))


@pytest.fixture(scope="module")
def found(data):
    scorers = {"random": scores_of, "perfect": lambda rows: perfect(rows, data), "constant": constant}
    return scenario_groups.evaluate(evaluator_of(data, config_of()), scorers, "test")


def test_head_is_the_fewest_scenarios_that_hold_the_share_of_the_training_impressions():
    counts = np.array([5, 0, 50, 20, 5, 20, 0])
    head, tail, cold = 0, 1, 2
    assert scenario_groups.group_of(counts, 0.8).tolist() == [tail, cold, head, head, tail, head, cold]
    assert scenario_groups.group_of(counts, 0.7).tolist() == [tail, cold, head, head, tail, tail, cold]
    assert scenario_groups.group_of(counts, 0.71).tolist() == [tail, cold, head, head, tail, head, cold]
    assert scenario_groups.group_of(counts, 0.5).tolist() == [tail, cold, head, tail, tail, tail, cold]
    assert scenario_groups.group_of(counts, 1e-9).tolist() == [tail, cold, head, tail, tail, tail, cold]
    assert scenario_groups.group_of(counts, 1.0).tolist() == [head, cold, head, head, head, head, cold]
    assert scenario_groups.group_of(np.array([55, 45]), 0.55).tolist() == [head, tail]
    assert scenario_groups.group_of(np.array([0, 0]), 0.8).tolist() == [cold, cold]


def test_groups_are_by_training_impressions_and_have_the_metrics_of_their_rows(data, found):
    events = data.events["impression"]
    streamers, test = events.ids("streamer"), np.flatnonzero(events.split == SPLITS["test"])
    in_training = np.bincount(streamers[events.split == TRAIN], minlength=len(data.nodes["streamer"]))
    order, head = sorted(range(len(in_training)), key=lambda i: (-in_training[i], i)), []
    while sum(in_training[head]) < 0.8 * sum(in_training):
        head.append(order[len(head)])
    cold = np.flatnonzero(in_training == 0).tolist()
    tail = [of for of in order if of not in head and of not in cold]
    assert len(head) > 3 and len(tail) > 3 and set(cold) >= {1, 4, 9}
    members = {"all": order, "head": head, "tail": tail, "cold": cold}
    assert [part.name for part in found["random"].groups] == list(members)
    for part in found["random"].groups:
        rows = test[np.isin(streamers[test], members[part.name])]
        requests = np.unique(events.group[rows], return_inverse=True)[1]
        expected = measured(
            {"watched": scores_of(rows)["watched"]}, Answers(data).answers(rows), events.ids("user")[rows], requests,
            labels=LABELS,
        )  # fmt: skip
        assert part.metrics == pytest.approx({name: expected.metrics[name] for name in NAMES}), part.name
        assert part.counts == {
            "scenarios": len(np.unique(streamers[rows])),
            "training_impressions": in_training[members[part.name]].sum(),
            **{name: expected.counts[name] for name in ("impressions", "positives", "requests")},
        }


def test_every_scenario_with_impressions_has_the_metrics_of_its_rows_the_largest_first(data, found):
    events = data.events["impression"]
    test = np.flatnonzero(events.split == SPLITS["test"])
    shown, counts = np.unique(events.ids("streamer")[test], return_counts=True)
    parts = found["random"].scenarios
    assert [part.counts["impressions"] for part in parts] == sorted(counts.tolist(), reverse=True)
    ids = data.nodes["streamer"].ids
    assert {part.name for part in parts} == {str(ids[of]) for of in shown}
    groups = {part.name: part.group for part in parts}
    assert {groups[str(ids[of])] for of in (1, 4, 9)} == {"cold"} and set(groups.values()) == {"head", "tail", "cold"}
    for part in (parts[0], parts[-1]):
        rows = test[ids[events.ids("streamer")[test]] == part.name]
        requests = np.unique(events.group[rows], return_inverse=True)[1]
        of_rows = {"watched": scores_of(rows)["watched"]}
        expected = measured(of_rows, Answers(data).answers(rows), events.ids("user")[rows], requests, labels=LABELS)
        assert part.metrics == pytest.approx({name: expected.metrics[name] for name in part.metrics})
        assert part.metrics.keys() == {name for name in NAMES if name in expected.metrics}


def test_a_perfect_scorer_has_no_spread_and_a_constant_one_finds_only_what_is_alone(found):
    for part in found["perfect"].groups:
        assert part.metrics == dict.fromkeys(NAMES, 1.0) and set(part.intervals.values()) == {(1.0, 1.0)}
    for part in found["constant"].groups:
        assert part.metrics["auc"] == part.metrics["gauc"] == 0.5 and part.intervals["auc"] == (0.5, 0.5)
        assert part.metrics["mrr"] < 1


def test_intervals_and_differences_are_those_of_the_same_samples_of_the_requests(data, found):
    evaluator = evaluator_of(data, config_of())
    values, rows_of = {}, {}
    for name, scorer in (("random", scores_of), ("constant", constant)):
        collector = scenario_groups.Collector(evaluator)
        for block in evaluator.scored(scorer, "test"):
            collector.add(block)
        positions, rows_of[name] = collector.rows()
        scenarios = scenario_groups.scenarios_of(evaluator)
        parts = scenarios.groups[scenarios.of_rows[positions]]
        metrics = resampled.PartMetrics(rows_of[name], parts, 3, (1, 3, 10))
        drawn = [metrics.measure(of) for of in resampled.samples(rows_of[name].units()[0], 60, 0, len(parts))]
        values[name] = {key: np.concatenate([of[key] for of in drawn], axis=1) for key in NAMES}
    for number, part in enumerate(found["random"].groups[1:]):
        other = found["constant"].groups[1 + number]
        assert part.differences == {} and other.differences.keys() == set(NAMES)
        for name in NAMES:
            of_part = [values[model][name][number] for model in ("random", "constant")]
            np.testing.assert_allclose(part.intervals[name], np.nanquantile(of_part[0], [0.025, 0.975]), rtol=1e-12)
            low, high = np.nanquantile(of_part[1] - of_part[0], [0.025, 0.975])
            value = other.metrics[name] - part.metrics[name]
            assert other.differences[name] == pytest.approx({"value": value, "low": low, "high": high})
    assert found["constant"].compared_to == "random" and found["random"].compared_to == ""


def test_a_scorer_compared_with_itself_has_no_difference(data):
    of = scenario_groups.evaluate(evaluator_of(data, config_of()), {"one": scores_of, "two": scores_of}, "test")
    for part in of["two"].groups:
        assert part.metrics == of["one"].groups[of["two"].groups.index(part)].metrics
        assert all(set(ends.values()) == {0.0} for ends in part.differences.values()) and part.differences


def test_without_requests_users_are_resampled_and_there_are_no_metrics_of_requests(data):
    evaluator = evaluator_of(with_column(data, group=None), config_of())
    found = scenario_groups.evaluate(evaluator, {"random": scores_of}, "test")["random"]
    assert found.resampled == "users" and found.groups[0].metrics.keys() == {"auc", "gauc"}
    assert "requests" not in found.groups[0].counts and found.groups[0].intervals.keys() == {"auc", "gauc"}
    assert "requests" in scenario_groups.markdown({"random": found})


def test_without_samples_there_are_metrics_and_no_intervals(data):
    evaluator = evaluator_of(data, config_of(bootstrap_samples=0))
    found = scenario_groups.evaluate(evaluator, {"random": scores_of, "constant": constant}, "test")
    assert found["random"].groups[0].metrics and not found["random"].groups[0].intervals
    assert found["constant"].groups[0].differences["auc"].keys() == {"value"}
    assert "[" not in scenario_groups.markdown(found)


def test_impressions_of_no_scenario_are_in_all_and_in_no_group(data):
    events = data.events["impression"]
    nodes = {
        **events.nodes,
        "streamer": dataclasses.replace(events.nodes["streamer"], ids=events.ids("streamer").copy()),
    }
    nodes["streamer"].ids[::2] = -1
    found = scenario_groups.evaluate(
        evaluator_of(with_column(data, nodes=nodes), config_of()), {"constant": constant}, "test"
    )["constant"]
    sizes = [part.counts["impressions"] for part in found.groups]
    assert 0.4 * sizes[0] < sum(sizes[1:]) < 0.6 * sizes[0]
    assert sum(part.counts["impressions"] for part in found.scenarios) == sum(sizes[1:])


def test_what_rows_do_not_define_is_a_dash_and_never_nan(data):
    found = scenario_groups.evaluate(evaluator_of(data, config_of("room")), {"a": scores_of, "b": constant}, "test")
    groups = {part.name: part for part in found["a"].groups}
    assert groups["head"].counts["impressions"] == 0 and groups["head"].metrics == {}
    assert any("auc" not in part.metrics for part in found["a"].scenarios)
    assert any("auc" in part.metrics and "auc" not in part.intervals for part in found["a"].scenarios)
    content = json.loads(json.dumps({name: of.to_json() for name, of in found.items()}, allow_nan=False))
    assert content["a"]["groups"]["cold"]["metrics"]["auc"] == groups["cold"].metrics["auc"]
    assert content["a"]["groups"]["cold"]["intervals"]["auc"] == list(groups["cold"].intervals["auc"])
    assert content["b"]["groups"]["cold"]["differences"]["mrr"].keys() == {"value", "low", "high"}
    text = scenario_groups.markdown(found)
    assert (
        "nan" not in text and f"| a | head | 0 | {groups['head'].counts['training_impressions']} | 0 | - | 0 |" in text
    )


def test_the_report_lists_the_largest_and_the_smallest_of_many_scenarios_once_each(found):
    few = {name: dataclasses.replace(of, scenarios=of.scenarios[:5]) for name, of in found.items()}
    names = [part.name for part in found["random"].scenarios]
    lines = scenario_groups.markdown(found).splitlines()
    assert f"The 10 largest and the 10 smallest of {len(names)}:" in lines and len(names) > 20
    listed = [line.split(" | ")[0].removeprefix("| ") for line in lines if " | random | " in line]
    assert listed == names[:10] + names[-10:]
    lines = scenario_groups.markdown(few).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines if " | random | " in line] == names[:5]
    assert not any("smallest" in line for line in lines)
    assert any(line.startswith("| perfect - random | cold | +") for line in lines)


def test_a_role_that_is_not_there_is_refused_with_those_that_are(data):
    with pytest.raises(
        ConfigError, match=r"scenario = 'place': events 'impression' have no such role; .* user, .*room"
    ):
        scenario_groups.evaluate(evaluator_of(data, config_of("place")), {"random": scores_of}, "test")
