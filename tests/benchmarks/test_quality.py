"""The pure parts of the quality benchmarks: intervals, collected results, generated tables."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import scipy.stats

from benchmarks import runs, statistics, tables
from benchmarks.quality import gowalla, impression_rows, influence, rechub_agreement, sweep, sweep_rows, synthetic
from lsec_jax.config import ConfigError, validate
from lsec_jax.config_json import differences
from lsec_jax.training.loop import NonFiniteError
from tests.benchmarks.test_intentions import intentions_result
from tests.benchmarks.test_next_item import next_item_result
from tests.benchmarks.test_prequential import prequential_result
from tests.benchmarks.test_ranker_sections import eliverec_step_result, rankers_result
from tests.benchmarks.test_suite_section import ENVIRONMENT, suite_result
from tests.benchmarks.test_time_to_level import auc_result, gowalla_result
from tests.benchmarks.test_time_to_level import gowalla_outcome as seconds_outcome
from tests.benchmarks.test_treems_step import treems_step_result
from tests.benchmarks.test_world import world_result

CIRCUMSTANCES = {"environments": [ENVIRONMENT], "command": "python -m x"}


def gowalla_outcome(offset):
    metrics = {"recall@20": 0.18 + offset, "ndcg@20": 0.15 + offset}
    model = {"model": "lightgcn", "candidates": "full ranking", "users": 9, "metrics": metrics}
    popularity = {**model, "model": "popularity", "metrics": {"recall@20": 0.04156, "ndcg@20": 0.03174}}
    curve = [
        {"train_seconds": 60.0 * i, "step": 100 * i, "recall@20": 0.17 + 0.01 * i, "ndcg@20": 0.15 + 0.004 * i}
        for i in (1, 2, 3)
    ]
    rows = [{**row, "split": "test", "evaluation_seconds": 5.0} for row in (model, popularity)]
    return {"rows": rows, "curve": curve, "train_seconds": 180.0, "environment": ENVIRONMENT}


def synthetic_outcome(seed):
    values = {"popularity": 0.1, "item_knn": 0.25, "gcn": 0.2 + 0.01 * seed, "lsec-gcn": 0.3, "oracle": 0.5}
    metrics = {
        protocol: {model: dict.fromkeys(names, value) for model, value in values.items()}
        for protocol, names in synthetic.COMPARED.items()
    }
    users = {
        protocol: {
            f"{higher} - {lower}": {name: {"mean": 0.1, "low": 0.05, "high": 0.15} for name in names}
            for lower, higher in synthetic.PAIRS
        }
        for protocol, names in synthetic.COMPARED.items()
    }
    described = {name: {"description": name, "users": 7, "users_left_out": 1} for name in metrics}
    training = {model: {"best_step": 50, "train_seconds": 9.0} for model in synthetic.CONFIGS}
    return {
        "metrics": metrics,
        "users": users,
        "protocols": described,
        "training": training,
        "environment": ENVIRONMENT,
    }


def agreement_result():
    def run(offset):
        point = {"steps": 10, "positives": {"buy": 1000, "follow": 1000}, "train_seconds": 1.0}
        return {"points": [{**point, "auc": 0.8 + offset, "ndcg@10": 0.3 + offset}]}

    return {
        "seeds": [0, 1],
        "data": {"name": "world", "candidates": "generated"},
        "metric_functions": {
            "score_sets": {"random": {"auc": {"ours": 0.5, "theirs": 0.5, "difference": 0.0}}},
            "largest": 0.0,
            "tolerance": 1e-6,
            "agrees": True,
            "users": 3,
        },
        "points": rechub_agreement.compare_points([run(0.01), run(0.03)], [run(0.0), run(0.0)]),
        "popularity": {"auc": 0.6, "ndcg@10": 0.1},
        "settings": {"peer_threads": 1},
        "peer": {"rechub": "0.0.5"},
        "environments": [ENVIRONMENT],
        "command": "python -m x",
    }


def influence_outcome(ratio):
    group = {"probability": 0.1, "cosine": {"mean": 0.2}, "jaccard": {"mean": 0.1}}
    found = {"joined": group, "apart": group, "ratio": ratio, "monte_carlo_ratio": {"mean": ratio + 0.1}}
    found["truth"] = {"ratio": ratio - 0.1, "z_score": 0.5}
    return {"influence": found, "users": found, "items": found, "seconds": 40.0}


def influence_result():
    outcomes = {"as planted": [influence_outcome(8.0), influence_outcome(9.0)], "off": [influence_outcome(1.0)] * 2}
    return {**CIRCUMSTANCES, "size": "tiny", "seeds": [0, 1], "worlds": influence.collect(outcomes)}


def sweep_outcomes():
    def outcome(values):
        return {
            "rows": [
                {"model": model, "protocol": "candidates", "candidates": "c", "metrics": {"auc": value}}
                for model, value in values.items()
            ]
        }

    return {
        "gcn": [outcome({"gcn": 0.5, "item_knn": 0.3}), outcome({"gcn": 0.6, "item_knn": 0.4})],
        "lsec-gcn": [outcome({"lsec-gcn": 0.7}), outcome({"lsec-gcn": 0.7})],
    }


def sweep_result():
    spread = statistics.summary([1.0, 2.0])
    return {
        **CIRCUMSTANCES,
        "sweep": "models",
        "title": "A title.",
        "config": "configs/x.py",
        "seeds": [0, 1],
        "protocols": sweep.collect(sweep_outcomes(), ("candidates",)),
        "training": {key: dict.fromkeys(sweep.TRAINING, spread) for key in ("gcn", "lsec-gcn")},
    }


def embedding_tables_result():
    modes = {
        name: {"step_seconds": [scale, 2 * scale], "temporary_bytes": 2**20}
        for name, scale in (("dense", 4e-3), ("lazy", 1e-3))
    }
    row = {"rows": {"user": 10, "item": 20}, "lookups": {"user": 1, "item": 2}, "batch_size": 1, "width": 2}
    return {"rows": [{**row, "modes": modes}], **CIRCUMSTANCES}


def preparation_result():
    row = {"impressions": 10**6, "format": "csv", "layout": "ends", "source_bytes": 1, "seconds": 2.0, "stages": {}}
    row |= {"anonymous_gib": 0.5, "prepared_bytes": 1, "history_bytes": 1}
    return {"rows": [row], "memory_gib": 1.0, **CIRCUMSTANCES}


def all_results():
    return {
        "influence": influence_result(),
        "suite": suite_result(),
        "suite_gpu": {**suite_result(), "environments": [{**ENVIRONMENT, "device": "a GPU"}]},
        "gowalla": gowalla.collect({}, [0, 1], [gowalla_outcome(0.0), gowalla_outcome(0.002)]),
        "next_item": next_item_result(),
        "intentions": intentions_result(),
        "synthetic": synthetic.collect({}, [0, 1], [synthetic_outcome(0), synthetic_outcome(1)]),
        "rechub": agreement_result(),
        "rechub_long": agreement_result(),
        "prequential": {**prequential_result(), **CIRCUMSTANCES},
        "world": {**world_result(), **CIRCUMSTANCES},
        "time_to_auc": {**auc_result(), **CIRCUMSTANCES},
        "time_to_auc_small_world": {**auc_result(), **CIRCUMSTANCES},
        "gowalla_time": {**gowalla_result(seconds_outcome(1.5)), **CIRCUMSTANCES},
        "sweep_x": sweep_result(),
        "preparation": preparation_result(),
        "rankers": rankers_result(),
        "eliverec_step": eliverec_step_result(),
        "treems_step": treems_step_result(),
        "embedding_tables": embedding_tables_result(),
        "data_pipeline": json.loads((runs.THROUGHPUT / "data_pipeline.json").read_text()),
        "encoding": json.loads((runs.THROUGHPUT / "encoding.json").read_text()),
        "scaling": json.loads((runs.SCALING / "scaling.json").read_text()),
    }


def test_a_paired_interval_is_that_of_a_one_sample_t_test():
    higher, lower = np.random.default_rng(0).normal(size=(2, 5))
    found = statistics.paired_difference(higher, lower)
    wanted = scipy.stats.ttest_rel(higher, lower).confidence_interval(0.95)
    np.testing.assert_allclose([found["low"], found["high"]], [wanted.low, wanted.high], rtol=1e-10)
    np.testing.assert_allclose(found["mean"], (higher - lower).mean(), rtol=1e-10)


def test_an_unpaired_interval_is_that_of_welchs_t_test():
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=5), 3 * generator.normal(size=4)
    found = statistics.welch_difference(ours, theirs)
    wanted = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([found["low"], found["high"]], [wanted.low, wanted.high], rtol=1e-10)


def test_one_seed_has_no_spread_and_no_interval():
    assert statistics.summary([0.5]) == {"mean": 0.5, "std": None, "values": [0.5]}
    assert statistics.paired_difference([0.5], [0.25])["low"] is None
    assert statistics.welch_difference([0.5], [0.25, 0.5])["high"] is None


def test_equal_values_have_an_interval_without_width():
    assert statistics.welch_difference([0.5, 0.5], [0.25, 0.25]) == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_pairs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="equally many"):
        statistics.paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="equally many"):
        statistics.bootstrap_difference(np.zeros(3), np.zeros(2))


def test_a_bootstrap_interval_is_near_the_normal_one():
    generator = np.random.default_rng(1)
    differences = generator.normal(0.2, 1.0, size=400)
    found = statistics.bootstrap_difference(differences, np.zeros(400))
    half = 1.96 * differences.std() / 20
    np.testing.assert_allclose([found["low"], found["high"]], differences.mean() + np.array([-half, half]), atol=0.02)


def test_the_synthetic_configs_differ_in_relations_and_tasks_only():
    for variant in ("", "tiny"):
        configs = synthetic.seeded_configs(3, variant)
        assert {config.seed for config in configs.values()} == {config.data.seed for config in configs.values()} == {3}


def test_gowalla_reaches_its_target_only_where_both_metrics_do():
    curve = gowalla_outcome(0.0)["curve"]
    assert gowalla.seconds_to_target(curve) == 120.0
    assert gowalla.seconds_to_target(curve[:1]) is None
    assert gowalla.seconds_to_target([{**curve[2], "ndcg@20": 0.1}]) is None


def test_the_popularity_check_compares_four_decimals():
    result = all_results()["gowalla"]
    assert result["popularity_check"]["agrees"]
    assert result["metrics"]["recall@20"]["mean"] == pytest.approx(0.181)
    wrong = gowalla_outcome(0.0)
    wrong["rows"][1]["metrics"]["recall@20"] = 0.04146
    assert not gowalla.collect({}, [0], [wrong])["popularity_check"]["agrees"]


def test_synthetic_differences_are_between_neighbours_of_the_order_and_item_knn():
    values = all_results()["synthetic"]["protocols"]["candidates"]["differences"]
    in_order = ["gcn - popularity", "lsec-gcn - gcn", "oracle - lsec-gcn"]
    assert list(values) == [*in_order, "gcn - item_knn", "lsec-gcn - item_knn"]
    np.testing.assert_allclose(values["lsec-gcn - gcn"]["auc"]["values"], [0.1, 0.09])


def test_ranks_keep_the_order_and_have_no_ties():
    scores = np.array([0.5, 0.1, 0.5, 0.9], np.float32)
    np.testing.assert_array_equal(rechub_agreement.without_ties(scores), [1, 0, 2, 3])


def test_a_page_without_results_says_not_measured():
    assert tables.page({}).count(tables.NOT_MEASURED) == len(tables.SECTIONS) + 1


def test_a_page_shows_means_spreads_intervals_and_circumstances():
    text = tables.page(json.loads(json.dumps(all_results())))
    assert tables.NOT_MEASURED not in text
    assert "| LightGCN, here | 0.1810 +- 0.0014 | 0.1510 +- 0.0014 | 3.0 +- 0.0 |" in text
    assert "LightGCN, 2 seeds (0, 1); " in text
    assert "| lsec-gcn - gcn | auc | +0.0950 [+0.0315, +0.1585] | 2 of 2 |" in text
    assert "0.8200 +- 0.0141 | +0.0200 [-0.1071, +0.1471] |" in text
    assert "| as planted | 0.100000 +- 0.000000 | 0.100000 +- 0.000000 | 8.500 +- 0.707 | 8.600 +- 0.707 |" in text
    assert "step, compiled kernels | pytorch_csr | 2 x | 1.50 x (1.50 x of processor time) | NOT reached |" in text
    assert "| x | gcn | auc, candidates | 0.5500 +- 0.0707 | 0.7000 +- 0.0000 | +0.1500 [-0.4853, +0.7853] |" in text
    assert "| 10 | 20 | 6.0 (4.0 to 8.0) | 1.5 (1.0 to 2.0) | 4.00 | 1 | 1 | both |" in text
    assert "Popularity's AUC on these candidates is 0.7000: the highest level is above it." in text
    assert "| 0.5000 | 30 (16) | 5.0 (2.0 to 80.0) | 6.0 | 5.0 | 6.0 | 4.3 |" in text
    assert "| 0.9000 | 60 (32) | not reached | - | - | - | - |" in text
    assert "| of the core | 3.0 | 1.0 | 2000 | 1.7 | 2000 | 1500 | 33.3 |" in text
    assert "| not shown |" in text
    assert "2 cores of a cpu" in text and "0123456789ab," in text


def test_markers_are_filled_and_filling_twice_changes_nothing():
    text = "before\n<!-- results:gowalla -->\nold\n<!-- /results -->\nafter\n"
    filled = tables.fill_markers(text, all_results())
    assert "old" not in filled and "LightGCN, here" in filled
    assert filled.startswith("before\n<!-- results:gowalla -->\n") and filled.endswith("<!-- /results -->\nafter\n")
    assert tables.fill_markers(filled, all_results()) == filled
    assert "not measured" in tables.fill_markers(text, {})


@pytest.mark.parametrize(
    "text",
    [
        "<!-- results:youshu -->\n<!-- /results -->",
        "<!-- results:gowalla -->\n",
        "<!-- results:gowalla -->\n<!-- results:synthetic -->\n<!-- /results -->",
        "<!-- /results -->",
    ],
)
def test_bad_markers_are_refused(text):
    with pytest.raises(ConfigError, match="results"):
        tables.fill_markers(text, {})


def test_finished_work_is_not_done_again_and_other_settings_are_refused(tmp_path):
    path = tmp_path / "piece.json"
    done = runs.finished_or(path, {"steps": 1}, lambda: {"value": 5})
    assert done["value"] == 5 and done["environment"]["cores"] >= 1
    assert runs.finished_or(path, {"steps": 1}, pytest.fail) == done
    with pytest.raises(ConfigError, match=r"steps: 1 -> 2"):
        runs.finished_or(path, {"steps": 2}, pytest.fail)


@pytest.mark.parametrize("values", [[], ["a"], ["-1"], ["1", "1"]])
def test_bad_seeds_are_refused(values):
    with pytest.raises(ConfigError, match="--seeds"):
        runs.parse_seeds(values)


def test_the_committed_pages_are_what_the_committed_results_give():
    results = tables.read_results(runs.RESULTS)
    assert (runs.ROOT / "docs" / "results.md").read_text() == tables.page(results), "run benchmarks.tables"
    for name in tables.MARKED:
        text = (runs.ROOT / name).read_text()
        assert text == tables.fill_markers(text, results), "run benchmarks.tables"


@pytest.mark.parametrize("name", ["gowalla", "synthetic"])
def test_the_committed_results_were_measured_with_the_shipped_configs(name):
    """Keys that are newer than a result are left out: their defaults must keep what was there before."""
    result = json.loads((runs.QUALITY / f"{name}.json").read_text())
    measured = (
        {"lightgcn_gowalla": result["config"]}
        if name == "gowalla"
        else {synthetic.CONFIGS[model]: config for model, config in result["configs"].items()}
    )
    for config, stored in measured.items():
        shipped = runs.as_json(runs.load_config(config))
        changed = [line for line in differences(stored, shipped) if "(absent)" not in line]
        assert not changed, f"configs/{config}.py: measure {name} again: {changed}"


@pytest.mark.parametrize("variant", ["", "tiny"])
@pytest.mark.parametrize("name", ["gcn", "lightgcn", "gat"])
def test_the_one_relation_configs_differ_from_lsecs_in_relations_and_tasks_alone(name, variant):
    own, lsec = (runs.as_json(runs.load_config(f"{prefix}{name}_synthetic", variant)) for prefix in ("", "lsec_"))
    assert own["model"]["relations"] == ["buy"] and len(lsec["model"]["relations"]) == 3
    for key in ("relations", "tasks"):
        del own["model"][key], lsec["model"][key]
    assert own == lsec


def test_every_sweep_has_valid_rows_that_differ_from_each_other():
    base = runs.load_config("lsec_gcn_synthetic", "tiny")
    before = runs.as_json(base)
    for name in sweep_rows.SWEEPS:
        rows = sweep_rows.build(name, base)
        forms = []
        for row in rows.values():
            validate(row)
            forms.append(runs.as_json(row))
            same = {key: value for key, value in forms[-1].items() if key not in ("model", "optimizer")}
            assert same == {key: before[key] for key in same}
        assert len(rows) > 2 and all(a != b for i, a in enumerate(forms) for b in forms[:i]), name
    assert runs.as_json(base) == before


def test_the_relations_sweep_has_the_papers_five_rows():
    rows = sweep_rows.build("relations", runs.load_config("lsec_gcn_synthetic"))
    found = [(row.model.relations, row.model.task_tables) for row in rows.values()]
    assert found == [
        (("buy",), ("buy",)),
        (("buy", "follow"), ("buy",)),
        (("buy", "sell"), ("buy",)),
        (("buy", "follow", "sell"), ("buy",)),
        (("buy", "follow", "sell"), ("buy", "follow")),
    ]


def test_the_exclusion_sweep_does_what_its_rows_say_whatever_the_base_does():
    for exclude in (False, True):
        base = runs.load_config("lsec_gcn_synthetic", "tiny")
        base.model.exclude_batch_edges = exclude
        rows = sweep_rows.build("exclusion", base).values()
        found = [(row.model.exclude_batch_edges, row.model.excluded_degrees) for row in rows]
        assert found == [(False, "remain"), (True, "whole"), (True, "remain")]


def test_a_row_that_cannot_work_is_refused_with_its_name_before_any_training():
    base = runs.load_config("lsec_gcn_synthetic", "tiny")
    base.model.predictor = "dot"
    with pytest.raises(ConfigError, match="row 'buy, follow': predictor 'dot' needs equal widths"):
        sweep.check(sweep_rows.build("relations", base), [0])
    rows = sweep_rows.build("relations", runs.load_config("lsec_gcn_synthetic", "tiny"))
    list(rows.values())[-1].model.edge_weights = True
    with pytest.raises(ConfigError, match=r"row 'buy, follow, sell; tasks buy and follow': .*edge_weights"):
        sweep.check(rows, [0])


def test_the_datas_fingerprint_is_known_by_seed_before_any_training():
    rows = sweep_rows.build("relations", runs.load_config("lsec_gcn_synthetic", "tiny"))
    found = sweep.check(rows, [0, 1])
    assert sweep.check(rows, [0])[0] == found[0] != found[1]


class FakeCells(sweep.Cells):
    def __init__(self, validation):
        self.validation = validation

    def outcome(self, name, seed, factor):
        assert (name, seed) == ("gcn", 3)
        return {"validation": self.validation[factor]}


def test_the_learning_rate_is_the_best_on_validation():
    chosen = FakeCells({1.0: 0.2, 0.4: 0.3, 0.2: 0.1}).best_factor("gcn", 3, [1.0, 0.4, 0.2])
    assert chosen == (0.4, {"1": 0.2, "0.4": 0.3, "0.2": 0.1})
    assert FakeCells({}).best_factor("gcn", 3, [0.4]) == (0.4, {})


def test_an_aggregator_has_one_learning_rate_for_one_relation_and_for_all():
    rows = sweep_rows.build("models", runs.load_config("lsec_gcn_synthetic"))
    wanted = {"ncf-gmf": "ncf-gmf", "gat": "gat", "lsec-gat": "gat", "lsec-gcn": "gcn"}
    assert {name: sweep_rows.rate_row(name, rows) for name in wanted} == wanted


def test_every_cell_has_a_place_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "measure", lambda config, cell: {"validation": None, "rows": [{"metrics": {}}]})
    rows = sweep_rows.build("layers", runs.load_config("lsec_gcn_synthetic", "tiny"))
    cells = sweep.Cells(rows, {0: "x", 1: "y"}, tmp_path)
    for name in rows:
        for seed in (0, 1):
            for factor in (1.0, 0.4, 0.45):
                cells.outcome(name, seed, factor)
    assert len(list(tmp_path.iterdir())) == 4 * 2 * 3


def test_rows_are_picked_by_name_in_the_sweeps_order():
    rows = sweep_rows.build("models", runs.load_config("lsec_gcn_synthetic"))
    assert sweep._wanted(["lsec-gcn", "ncf-gmf"], rows) == ["ncf-gmf", "lsec-gcn"]
    assert sweep._wanted([], rows) == list(rows)
    for names in (["sasrec"], ["gcn", "gcn"]):
        with pytest.raises(ConfigError, match="--row="):
            sweep._wanted(names, rows)


@pytest.mark.parametrize("values", [[], ["a"], ["0"], ["-1"], ["1", "1.0"], ["inf"], ["nan"]])
def test_bad_rate_factors_are_refused(values):
    with pytest.raises(ConfigError, match="--rate_factors"):
        sweep._parse_factors(values)


def test_a_cell_that_fails_is_named(tmp_path):
    rows = sweep_rows.build("exclusion", runs.load_config("lsec_gcn_synthetic", "tiny"))
    for row in rows.values():
        row.optimizer.learning_rate = 1e30
    with pytest.raises(NonFiniteError, match=r"row 'seen', seed 0, learning rate 1e\+30: step \d+"):
        sweep.Cells(rows, {0: "x"}, tmp_path).outcome("seen", 0, 1.0)


def test_a_damaged_piece_of_work_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "piece.json"
    runs.finished_or(path, {"steps": 1}, dict)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ConfigError, match=r"piece.json: damaged; delete it"):
        runs.finished_or(path, {"steps": 1}, pytest.fail)


@pytest.mark.parametrize("path", sorted(runs.QUALITY.glob("sweep_*.json")), ids=lambda path: path.stem)
def test_the_committed_sweeps_compare_what_they_should(path):
    result = json.loads(path.read_text())
    for values in result["protocols"].values():
        pairs = sweep._rows_of(result["sweep"]).pairs
        wanted = [f"{higher} - {lower}" for lower, higher in pairs(list(result["rows"]), list(values["models"]))]
        assert list(values["differences"]) == wanted


@pytest.mark.parametrize("name", impression_rows.SWEEPS)
def test_the_rows_of_sweeps_over_impressions_are_valid_and_differ_in_what_they_say(name):
    base = runs.load_config("eliverec_synthetic", "tiny")
    rows = impression_rows.build(name, base)
    for row in rows.values():
        validate(row)
        assert row.model.features == base.model.features or name == "lengths"
        assert row.model.embedding_dim == base.model.embedding_dim
        assert (row.training, row.optimizer, row.data) == (base.training, base.optimizer, base.data)
    texts = [json.dumps(runs.as_json(row)["model"], sort_keys=True) for row in rows.values()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(("total", "expected"), [(0.2, 0.2), (0.0, 3.0)])
def test_weights_of_tasks_have_one_sum_in_all_rows_of_a_sweep(total, expected):
    base = runs.load_config("eliverec_synthetic", "tiny")
    base.model.total_task_weight = total
    for name in ("multi_task", "task_weights"):
        for label, row in impression_rows.build(name, base).items():
            if row.model.task_weighting == "fixed" and row.model.tasks:
                assert sum(row.model.task_weights) == pytest.approx(expected, abs=1e-5), label
                assert row.model.task_weights[0] / row.model.task_weights[2] == pytest.approx(3.0, rel=1e-4), label
            elif row.model.task_weighting == "adaptive":
                assert row.model.total_task_weight == total, label


def test_lengths_are_those_of_the_second_domain_alone():
    rows = impression_rows.build("lengths", runs.load_config("eliverec_synthetic", "tiny"))
    found = [{of.name: of.length for of in row.model.features.sequences} for row in rows.values()]
    assert [of["purchases"] for of in found] == [10, 30, 50, 70] and {of["watches"] for of in found} == {20}


def test_sweeps_that_share_a_workdir_run_a_common_row_once(tmp_path, monkeypatch):
    base, measured = runs.load_config("eliverec_synthetic", "tiny"), []

    def measure(config, workdir):
        measured.append(workdir)
        return {"validation": 0.5, "rows": [{"metrics": {}}]}

    monkeypatch.setattr(sweep, "measure", measure)
    for name in ("disentangling", "regularisers", "disentangling"):
        rows = impression_rows.build(name, base)
        cells = sweep.Cells(rows, {0: "data", 1: "other data"}, tmp_path)
        for label, seed in itertools.product([*rows][:2], (0, 1)):
            cells.outcome(label, seed, 1.0)
    assert len(measured) == len(set(measured)) == 6  # the first rows of both are the base itself
    cells.outcome("eLiveRec", 0, 0.4)
    assert len(measured) == 7


def test_a_cell_has_one_place_whether_or_not_scenarios_could_be_measured_when_it_was_stored():
    base = runs.load_config("eliverec_synthetic", "tiny")
    form = runs.as_json(base)
    assert not form["evaluation"].keys() & set(runs.SCENARIO_KEYS) and len(runs.SCENARIO_KEYS) == 3
    assert {of.name for of in dataclasses.fields(base.evaluation)} == form["evaluation"].keys() | {*runs.SCENARIO_KEYS}
    base.evaluation.scenario = "streamer"
    assert runs.as_json(base)["evaluation"]["head_share"] == 0.8


def report_with(examined):
    row = {"model": "m", "split": "test", "protocol": "impressions", "metrics": {"auc": 0.7}}
    return {"rows": [row], "examined": examined, **dict.fromkeys(sweep.TRAINING, 1)}


def test_a_cell_keeps_the_groups_of_scenarios_where_the_report_has_them(tmp_path, monkeypatch):
    head = {"metrics": {"auc": 0.7}, "counts": {"impressions": 9}, "intervals": {"auc": [0.6, 0.8]}, "differences": {}}
    scenarios = {"groups": {"head": head}, "scenarios": {}}
    monkeypatch.setattr(sweep.fit, "run", lambda config, workdir: None)
    base = runs.load_config("eliverec_synthetic", "tiny")
    for examined, expected in (
        ({"m": {"scenarios": scenarios}}, {"m": {"head": {"metrics": {"auc": 0.7}, "counts": {"impressions": 9}}}}),
        ({"m": {"metrics": {}}}, None),
    ):
        monkeypatch.setattr(sweep.reports, "read", lambda workdir, found=examined: report_with(found))
        assert sweep.measure(base, tmp_path).get("groups") == expected


def test_groups_of_scenarios_are_summed_up_over_seeds_where_every_cell_has_them():
    def outcome(model, auc, baseline):
        group = {"head": {"metrics": {"auc": auc, "mrr": 0.5}, "counts": {"impressions": 9}}}
        cold = {"cold": {"metrics": {}, "counts": {"impressions": 0}}}
        return {"groups": {model: {**group, **cold}, baseline: group, "oracle": group}}

    outcomes = {"din": [outcome("din", 0.6, "popularity"), outcome("din", 0.8, "watch_rate")]}
    outcomes["tree"] = [outcome("tree", 0.7, "oracle"), outcome("tree", 0.9, "oracle")]
    del outcomes["tree"][1]["groups"]["tree"]["head"]["metrics"]["mrr"]
    found = sweep.collect_groups(outcomes)
    assert found["head"].keys() == {"din", "oracle", "tree"} and found["cold"]["din"]["metrics"] == {}
    assert found["head"]["din"]["metrics"]["auc"] == statistics.summary([0.6, 0.8])
    assert found["head"]["tree"]["metrics"] == {"auc": statistics.summary([0.7, 0.9])}
    assert found["head"]["tree"]["counts"] == {"impressions": 9}
    del outcomes["din"][1]["groups"]
    assert sweep.collect_groups(outcomes) == {}


def test_cells_of_before_a_metric_was_there_and_after_it_have_those_of_both():
    outcomes = sweep_outcomes()
    outcomes["gcn"][0]["rows"][0]["metrics"]["mrr"] = 0.5
    models = sweep.collect(outcomes, ("candidates",))["candidates"]["models"]
    assert models["gcn"].keys() == {"auc"} and models["gcn"]["auc"]["values"] == [0.5, 0.6]


def test_the_ladder_is_compared_rung_by_rung():
    names = list(impression_rows.build("ladder", runs.load_config("eliverec_synthetic", "tiny")))
    found = impression_rows.pairs(names, [*names, "popularity", "oracle"])
    steps = ["popularity", *names, "oracle"]
    assert set(itertools.pairwise(steps)) <= set(found)
    assert (names[0], names[-1]) in found


def test_a_sweep_over_impressions_needs_two_sequences_and_tasks():
    for name in ("gcn_synthetic", "ncf_synthetic"):
        with pytest.raises(ConfigError, match=r"the sweep 'ladder' varies a config of eLiveRec"):
            impression_rows.build("ladder", runs.load_config(name))


def test_a_base_that_lacks_what_a_sweep_varies_is_refused():
    with pytest.raises(ConfigError, match="two tasks"):
        sweep_rows.build("alpha", runs.load_config("gcn_synthetic"))
    for name in ("models", "relations"):
        with pytest.raises(ConfigError, match="two relations or more"):
            sweep_rows.build(name, runs.load_config("gcn_synthetic"))
    with pytest.raises(ConfigError, match="LSEC-GNN"):
        sweep_rows.build("layers", runs.load_config("ncf_synthetic"))


@pytest.mark.parametrize("name", ["youshu", "twitch_follow", "mafengwo"])
def test_the_models_sweep_has_valid_rows_of_equal_width_from_a_base_of_one_task(name):
    base = runs.load_config(f"lsec_lightgcn_{name}")
    rows = sweep_rows.build("models", base)
    for row in rows.values():
        validate(row)
    assert runs.as_json(rows["lsec-lightgcn"]) == runs.as_json(base)
    assert rows["gcn"].model.layer_dims == (64, 64) and not rows["gcn"].model.self_loop
    gat = rows["lsec-gat"].model
    assert gat.num_heads * gat.layer_dims[0] == 64 and gat.relations == base.model.relations
    assert rows["ncf-gmf"].model.relation == base.model.tasks[0].relation


def test_an_aggregator_with_weights_becomes_lightgcn_with_its_own_start():
    base = runs.load_config("lsec_gcn_synthetic")
    base.model.aggregator, base.model.num_heads, base.model.layer_dims = "gat", 8, (25, 25)
    rows = sweep_rows.build("models", base)
    assert rows["lsec-gcn"].model.layer_dims == (200, 200)
    assert rows["lsec-lightgcn"].model.embedding_std == 0.3
    assert runs.as_json(rows["lsec-gat"]) == runs.as_json(base)


def test_the_quantile_sweep_samples_in_every_row_but_the_first():
    rows = list(sweep_rows.build("quantile", runs.load_config("lsec_gcn_synthetic")).values())
    assert [row.model.training_graph for row in rows] == ["full", *["sampled"] * 4]
    assert [row.model.fanout_quantile for row in rows[1:]] == [0.5, 0.7, 0.9, 0.99]


def test_a_sweep_pairs_its_rows_by_seed_and_takes_the_floors_from_its_first_row():
    result = sweep_result()["protocols"]["candidates"]
    assert {name: values["auc"]["values"] for name, values in result["models"].items()} == {
        "gcn": [0.5, 0.6],
        "item_knn": [0.3, 0.4],
        "lsec-gcn": [0.7, 0.7],
    }
    page = tables.page({"sweep_x": sweep_result()})
    assert "| lsec-gcn | 0.7000 +- 0.0000 |" in page and "| lsec-gcn - item_knn | +0.3500 [" in page
    differences = {name: values["auc"]["values"] for name, values in result["differences"].items()}
    assert list(differences) == ["lsec-gcn - gcn", "lsec-gcn - item_knn"]
    np.testing.assert_allclose(differences["lsec-gcn - gcn"], [0.2, 0.1])
