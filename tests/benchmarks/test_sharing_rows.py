"""Sweeps over TREEMS and its baselines, and their tables of scenarios."""

import dataclasses

import pytest

from benchmarks import runs, scenario_section, statistics
from benchmarks.quality import sharing_rows, sweep
from lsec_jax.config import ConfigError, validate
from lsec_jax.models import treems
from lsec_jax.models.impressions.config import ImpressionConfig


def base(variant="tiny"):
    return runs.load_config("treems_synthetic", variant)


@pytest.mark.parametrize("name", list(sharing_rows.SWEEPS))
def test_rows_are_valid_and_differ_in_their_models_alone(name):
    whole = base()
    rows = sharing_rows.build(name, whole)
    assert len({(type(row.model).__module__, repr(row.model)) for row in rows.values()}) == len(rows)
    shared = {of.name for of in dataclasses.fields(ImpressionConfig)} - {"features", "history_products", "tower_widths"}
    for row in rows.values():
        validate(row)
        assert dataclasses.replace(row, model=None) == dataclasses.replace(whole, model=None)
        assert all(getattr(row.model, key) == getattr(whole.model, key) for key in shared)
        features = row.model.features
        assert dataclasses.replace(features, paths=()) == dataclasses.replace(whole.model.features, paths=())


def test_every_row_of_the_paper_s_table_can_run():
    rows = sharing_rows.build("sharing", base())
    assert len(rows) == 12 and sweep.check(dict(list(rows.items())[-2:]), [0])
    assert {rows[name].model.aggregator for name in rows if name.startswith("PinSage")} == {"mean", "max", "lstm"}
    assert rows["MMoE"].model.num_experts == base().model.num_experts


def test_ablations_take_away_what_they_say():
    rows = sharing_rows.build("sharing_ablations", base())
    assert rows["TREEMS"].model == base().model
    assert rows["no tree"].model.reader == "leaf" and rows["sum instead of LSTM"].model.reader == "sum"
    assert not rows["no graph"].model.has_graph and rows["no inconsistency loss"].model.inconsistency_weight == 0
    assert [path.hide_rate for path in rows["nothing hidden"].model.features.paths] == [0.0]
    for name in rows:
        assert sharing_rows.rate_row(name, rows) == ("DNN" if name == "DNN" else "TREEMS")


def test_each_row_is_compared_with_treems():
    for name in ("sharing", "sharing_ladder", "sharing_ablations"):
        rows = list(sharing_rows.build(name, base()))
        pairs = sharing_rows.pairs(rows, [*rows, "popularity", "oracle"])
        assert len(set(pairs)) == len(pairs)
        assert {(row, "TREEMS") for row in rows if row != "TREEMS"} <= {*pairs}
        assert {("popularity", rows[0]), ("TREEMS", "oracle")} <= {*pairs}
    assert sharing_rows.pairs(["a", "b"], ["a", "b"]) == [("a", "b")]


def test_a_base_that_is_no_treems_with_a_graph_is_refused():
    without = base()
    without.model = dataclasses.replace(without.model, has_graph=False)
    for config in (without, runs.load_config("eliverec_synthetic", "tiny")):
        with pytest.raises(ConfigError, match="the sweep 'sharing' varies a config of TREEMS"):
            sharing_rows.build("sharing", config)
    assert isinstance(base().model, treems.Config)


def result_of(groups):
    evaluation = {"head_share": 0.8}
    return {
        "seeds": [0, 1],
        "groups": groups,
        "rows": {"low": {"evaluation": evaluation}, "high": {"evaluation": evaluation}},
        "protocols": {"impressions": {"differences": {"high - low": {}, "low - popularity": {}}}},
    }


def test_the_table_of_groups_shows_what_was_measured_and_no_more():
    counts = {"scenarios": 3, "impressions": 70, "training_impressions": 900}

    def group(low, high):
        return {
            name: {"counts": counts, "metrics": {"auc": statistics.summary(values)} if values else {}}
            for name, values in (("low", low), ("high", high))
        }

    groups = {"all": group([0.5, 0.6], [0.7, 0.7]), "cold": group([], [0.7, 0.8])}
    text = "\n".join(scenario_section.tables(result_of(groups)))
    assert "all: 3 scenarios, 70 impressions" in text and "80% of the 900 training impressions" in text
    assert "| low | 0.5500 +- 0.0707 | - |" in text and "| high | 0.7000 +- 0.0000 | 0.7500 +- 0.0707 |" in text
    assert "| high - low | +0.1500 [" in text and "low - popularity" not in text
    assert scenario_section.tables({**result_of({}), "groups": {}}) == []
