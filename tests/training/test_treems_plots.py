"""Pictures and page of Figures 5 to 9, from their numbers alone."""

import copy

import numpy as np
import pytest
from matplotlib.container import BarContainer

from lsec_jax.training import treems_figures, treems_page, treems_plots
from lsec_jax.training.scenario_groups import ByScenario, Measured

METRICS = {"auc": 0.6, "mrr": 0.5, "hr@5": 0.7}


def measured(name, group, trained, requests, missing=(), has_interval=True):
    counts = {"training_impressions": trained, "impressions": 10 * requests, "positives": requests}
    metrics = {key: value for key, value in METRICS.items() if key not in missing}
    intervals = {key: (value - 0.1, value + 0.2) for key, value in metrics.items()} if has_interval else {}
    return Measured(name, group, {**counts, "requests": requests}, metrics, intervals, {})


SCENARIOS = (
    *(measured(f"h{i}", "head", 1000 - 10 * i, 40 + i) for i in range(7)),
    *(measured(f"t{i}", "tail", 100, 9 + i, has_interval=i > 1) for i in range(7)),
    measured("few", "head", 5000, 9),
    measured("one class", "head", 4000, 50, missing=("auc",)),
    measured("new", "cold", 0, 60),
)


def by_scenario(scenarios=SCENARIOS):
    of_groups = [
        Measured(name, "", {"scenarios": 3, "impressions": 9, "requests": 2}, METRICS, {}, {})
        for name in ("all", "head")
    ]
    return ByScenario("scenario", "test", "requests", 100, "", tuple(of_groups), tuple(scenarios))


def content_of(found, min_requests=10):
    gates = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    part = {"name": "h0", "scenarios": 1, "training_impressions": 5, "gates": gates.tolist()}
    part |= {"entropy": [0.5, 1.0, 0.7], "own_entropy": [0.5, 1.0, 0.7], "largest": [0.9, 0.5, 0.8]}
    x, y = np.random.default_rng(0).normal(size=(2, 30)).tolist()
    panel = {"title": "treems", "vectors": "states", "explained": [0.5, 0.2], "silhouette": None, "nearest": None}
    return {
        "settings": {"split": "test", "scenario": "", "min_requests": min_requests},
        "models": {label: {"model": label, "workdir": "here", "step": 3} for label in found},
        **treems_figures._comparisons(found, min_requests),
        "figure7_8": {"scenario": "h0", "runs": {"treems": {"inconsistency_weight": 0.1, "parts": [part] * 2}}},
        "figure9": {
            "projection": "two directions",
            "scenarios": list(range(30)),
            "groups": ["head"] * 10 + ["tail"] * 10 + ["cold"] * 10,
            "ancestors": [f"a|{i % 11}" for i in range(30)],
            "of": 40,
            "panels": [{**panel, "chance": None, "x": x, "y": y}],
        },
    }


@pytest.fixture
def content():
    return content_of({"treems": by_scenario(), "mmoe": by_scenario()})


def test_head_scenarios_are_the_most_trained_and_tail_ones_the_least_asked_of_those_that_are_defined(content):
    head, tail = content["figure5"], content["figure6"]
    assert [of["name"] for of in head["scenarios"]] == ["h0", "h1", "h2", "h3", "h4"]
    assert [of["name"] for of in tail["scenarios"]] == ["t1", "t2", "t3", "t4", "t5"]
    assert [of["label"] for of in tail["scenarios"]] == ["TS1", "TS2", "TS3", "TS4", "TS5"]
    assert head["unit"] == "requests" and "at least 10 requests" in head["rule"]
    assert head["scenarios"][0]["models"]["mmoe"]["auc"] == {"value": 0.6, "low": 0.5, "high": pytest.approx(0.8)}
    assert tail["scenarios"][0]["models"]["treems"]["auc"] == {"value": 0.6}


def test_without_requests_impressions_are_counted_and_only_auc_is_shown():
    def bare(of):
        counts = {key: value for key, value in of.counts.items() if key != "requests"}
        return Measured(of.name, of.group, counts, {"auc": 0.6}, {}, {})

    whole = by_scenario([bare(of) for of in SCENARIOS])
    found = {"treems": ByScenario(**{**vars(whole), "resampled": "users"})}
    section = content_of(found, 95)["figure6"]
    assert section["metrics"] == ["auc"] and section["unit"] == "impressions"
    assert [of["name"] for of in section["scenarios"]] == ["t1", "t2", "t3", "t4", "t5"]


def test_bars_and_lines_are_values_and_intervals(content):
    figure = treems_plots.pictures(content)["figure6"]
    assert [panel.get_ylabel() for panel in figure.axes] == ["AUC", "MRR", "HR@5"]
    for panel, value in zip(figure.axes, METRICS.values(), strict=True):
        bars = [of for of in panel.containers if isinstance(of, BarContainer)]
        assert [of.get_label() for of in bars] == ["treems", "mmoe"]
        assert all(bar.get_height() == value for of in bars for bar in of)
        for lines in (of for of in panel.containers if not isinstance(of, BarContainer)):
            drawn = [segment[:, 1] for segment in lines[2][0].get_segments() if segment.size]
            assert len(drawn) == 4  # the first scenario has no interval
            np.testing.assert_allclose(drawn, [[value - 0.1, value + 0.2]] * 4)


def test_an_interval_beside_the_value_is_drawn_where_it_is(content):
    for of in content["figure5"]["scenarios"]:
        of["models"]["treems"]["auc"] = {"value": 0.6, "low": 0.7, "high": 0.9}
    panel = treems_plots.pictures(content)["figure5"].axes[0]
    lines = next(of for of in panel.containers if not isinstance(of, BarContainer))
    np.testing.assert_allclose([of[:, 1] for of in lines[2][0].get_segments()], [[0.7, 0.9]] * 5)


def test_heat_maps_show_the_gates_in_percent(content):
    panels = treems_plots.pictures(content)["figure7_8"].axes[:2]
    for panel in panels:
        np.testing.assert_array_equal(
            panel.images[0].get_array(), content["figure7_8"]["runs"]["treems"]["parts"][0]["gates"]
        )
        assert [text.get_text() for text in panel.texts] == ["90", "10", "50", "50", "20", "80"]


def test_every_scenario_is_a_point_and_ancestors_beyond_the_palette_share_a_grey(content):
    figure = treems_plots.pictures(content)["figure9"]
    shown = np.concatenate([of.get_offsets() for of in figure.axes[0].collections[:3]])
    panel = content["figure9"]["panels"][0]
    np.testing.assert_allclose(shown, np.array([panel["x"], panel["y"]]).T)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 7 + 1 + 3 and "4 others" in labels and "cold scenarios" in labels


def test_figures_without_scenarios_are_left_out_and_the_page_says_so(content):
    empty = copy.deepcopy(content)
    empty["figure6"]["scenarios"] = []
    pictures = treems_plots.pictures(empty)
    assert list(pictures) == ["figure5", "figure7_8", "figure9"]
    text = treems_page.page(empty, list(pictures))
    assert "figure6.png" not in text and "a smaller --min_requests than 10 may find some" in text
    whole = treems_page.page(content, list(treems_plots.pictures(content)))
    assert "(figure6.png)" in whole and "| TS1 | t1 | 100 | 10 | mmoe | 0.6000 | 0.5000 | 0.7000 |" in whole
    assert "0.6000 [0.5000, 0.8000]" in whole and ", 30 of 40, projected" in whole
    assert "| treems | states | - | - | - |" in whole
