"""What the throughput suite says of its numbers: ratios, targets, tables, the picture."""

import copy
import json

import matplotlib.image
import pytest

from benchmarks import markdown, runs
from benchmarks.throughput import suite_plots, suite_section, summary, targets

ENVIRONMENT = {
    "lsec_jax": "0.1.0",
    "jax": "0.10.2",
    "python": "3.11.7",
    "device": "cpu",
    "cpu": "a cpu",
    "cores": 2,
    "commit": "0123456789abcdef",
    "uncommitted_changes": False,
}


def said(seconds, **more):
    facts = {"setup_seconds": 4.0, "compile_seconds": 3.0, "examples": 4096, "peak_gib": 1.5, "notes": ""}
    return {**facts, "seconds": seconds, "cpu_seconds": seconds[:1], **more}


def row(name, size, answers):
    results = {who: summary.summarize(of) for who, of in answers.items()}
    return {"row": name, "size": size, "results": results, "ratios": summary.ratios(results), "unavailable": {}}


def suite_result():
    """Small numbers that are easy to follow."""
    moved = {"edges": 1000, "bytes": 8 * 10**9, "copy_bytes_per_second": [4e9, 8e9, 9e9]}
    rows = [
        row("propagate/buy/200/compiled", "small", {"lsec_jax": said([1.5], **moved)}),
        row("propagate/buy/200/bcsr", "small", {"lsec_jax": said([5.0], **moved)}),
        row("propagate/buy/200/segment", "small", {"lsec_jax": said([4.5], **moved)}),
        row("propagate/buy/200/compiled", "double", {"lsec_jax": said([3.0], **moved)}),
        row(
            "step/lsec_gcn",
            "small",
            {
                "lsec_jax": said([1.0, 0.9, 1.1], notes="a note"),
                "before": said([2.0, 2.0, 2.0]),
                "pytorch_csr": said([1.5, 1.5, 1.5]),
                "rechub": said([2.5, 2.4, 2.6], peak_gib=6.0, cpu_seconds=[1.25], versions={"torch": "2", "dgl": "1"}),
            },
        ),
        row("step/lsec_gcn_bcsr", "small", {"lsec_jax": said([1.0]), "pytorch_csr": said([1.5])}),
        row("auc", "small", {"lsec_jax": said([0.1]), "rechub": said([2.0], fraction=0.1)}),
    ]
    circumstances = {"environments": [ENVIRONMENT], "command": "python -m x", "before": "fedcba9876543210"}
    return json.loads(json.dumps({"rows": rows, "failed": [], **circumstances}))


def verdict_of(work, against, result=None):
    (found,) = [of for of in targets.verdicts(result or suite_result()) if (of.work, of.against) == (work, against)]
    return found


def test_rates_are_those_of_the_median_and_the_floor_that_of_the_median_bandwidth():
    copied = summary.copy_rates({"bytes": 16e9, "seconds": [4.0, 1.0, 0.5]})
    of = summary.summarize(said([1.0, 2.0, 4.0], edges=10, bytes=8e9) | copied)
    assert copied == {"copy_bytes_per_second": [4e9, 16e9, 32e9]} and summary.copy_rates(None) == {}
    assert (of["p50"], of["examples_per_second"], of["edges_per_second"]) == (2.0, 2048.0, 5.0)
    assert of["p90"] == pytest.approx(3.6) and of["p99"] == pytest.approx(3.96)
    assert (of["floor_seconds"], of["bandwidth_share"], of["bytes_per_second"]) == (0.5, 0.25, 4e9)


def test_a_part_of_the_work_counts_as_the_whole_would_and_its_rate_stays():
    of = summary.summarize(said([0.5], fraction=0.1, examples=10))
    assert of["p50"] == 5.0 and of["examples_per_second"] == 20.0 and of["seconds"] == [0.5]


def test_ratios_are_of_medians_and_peaks_to_ours():
    assert summary.ratios({}) == {}
    results = {name: summary.summarize(said([seconds])) for name, seconds in (("lsec_jax", 2.0), ("rechub", 5.0))}
    assert summary.ratios(results) == {"rechub": {"seconds": 2.5, "memory": 1.0}}


def test_targets_are_reached_at_their_factor_and_not_below():
    work = "LSEC-GCN step, compiled kernels"
    assert verdict_of(work, "rechub").text == "reached" and verdict_of(work, "rechub").measured == (
        "2.50 x (1.25 x of processor time)"
    )
    assert verdict_of(work, "pytorch_csr").text == "NOT reached"
    assert verdict_of("LSEC-GCN step, no compiler", "pytorch_csr").text == "reached"  # 1.5 of 1.5
    assert verdict_of("LSEC-GCN step, no compiler", "rechub").text == "not measured"
    assert verdict_of("AUC of each user's 100 candidates", "rechub").measured == "200.00 x (200.00 x of processor time)"
    assert verdict_of("LSEC-GAT step, 8 heads, peak memory", "rechub").text == "not measured"


def test_propagate_is_judged_by_the_backend_that_auto_takes_where_that_is_farthest_from_the_floor():
    compiled = verdict_of("propagate, forward and backward, compiled kernels", "copy bandwidth")
    assert (compiled.measured, compiled.text) == ("1.50 (buy/200, compiled)", "reached")
    without = verdict_of("propagate, forward and backward, no compiler", "copy bandwidth")
    assert (without.measured, without.text) == ("5.00 (buy/200, bcsr)", "NOT reached")


def test_on_a_gpu_the_target_is_a_share_of_the_bandwidth_and_elsewhere_it_is_not_measured():
    gpu, work = suite_result(), "propagate on a GPU, best backend"
    gowalla = "LightGCN on a GPU, time to Gowalla's Recall@20 of .1800"
    assert verdict_of(work, "copy bandwidth").text == verdict_of(gowalla, "the clock").text == "not measured"
    gpu["environments"][0]["device"] = "a GPU"
    assert [of.work for of in targets.verdicts(gpu)] == [work, gowalla]
    assert verdict_of(work, "copy bandwidth", gpu).measured == "67% (buy/200, compiled)"
    assert verdict_of(work, "copy bandwidth", gpu).text == "reached"


def test_the_section_shows_our_numbers_and_those_of_the_others_beside_them():
    text = suite_section.section(suite_result())
    assert "| buy/200/compiled | small | 1,500 / 1,500 / 1,500 | 0.6667 | 1.50 | 1.50 | 4.0 | 3.0 |" in text
    assert "| step/lsec_gcn | small | rechub | 2,500 / 2,580 | 1,000 / 1,080 | 2.50 | 1.25 | 4.00 | 7.0 |" in text
    assert "- rechub: torch 2, dgl 1." in text
    assert "20,000 / 20,000 (0.1 of it a run)" in text and "step/lsec_gcn, small and the like: a note" in text
    assert "is 1.5 GiB (propagate/buy/200/compiled, small): below 16 GiB" in text
    assert "after the first run: nothing." in text


def test_what_changed_since_the_earlier_revision_has_a_table_of_its_own():
    peers = {"lsec_jax": said([1.0, 0.9, 1.1]), "before": said([2.0, 2.0, 2.0], peak_gib=6.0, cpu_seconds=[0.5])}
    result = suite_result() | {"rows": [row("step/lsec_gat", "small", peers), suite_result()["rows"][5]]}
    text = suite_section.tables(result)
    changes, others = text.partition("### Before and after: fedcba987654 and now")[2].split("### Beside peers")
    assert "| step/lsec_gat | small | 2,000 / 2,000 | 1,000 / 1,080 | 2.00 | 0.50 | 6.00 | 1.50 | 4.00 |" in changes
    assert "lsec_gcn_bcsr" not in changes and "lsec_gcn_bcsr" in others and "lsec_gat" not in others
    assert "Before and after" not in suite_section.tables(suite_result() | {"rows": suite_result()["rows"][:4]})


def test_the_section_does_not_hide_what_went_wrong():
    result = suite_result()
    result["rows"][4]["results"]["lsec_jax"] |= {"compilations_after_warm_up": 1, "peak_gib": 17.0}
    result["rows"][4]["unavailable"] = {"recbole": "no row"}
    result["failed"] = [{"row": "auc", "size": "double", "reason": "auc, double: was killed"}]
    text = suite_section.section(result)
    assert "STEP/LSEC_GCN, SMALL" in text and "17.0 GiB (step/lsec_gcn, small): ABOVE 16 GiB" in text
    assert "No recbole for step/lsec_gcn, small: no row" in text and "FAILED: auc, double: was killed" in text


def test_variables_that_change_how_fast_things_are_stand_beside_the_versions(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    text = markdown.circumstances({"command": "x", "environments": [runs.environment(), ENVIRONMENT]})
    assert text.count("GLIBC_TUNABLES=glibc.malloc.hugetlb=1") == 1 and text.endswith("Python 3.11.7.\n")


def test_a_picture_is_drawn_of_all_rows_and_of_none(tmp_path):
    none = copy.deepcopy(suite_result())
    none["rows"] = []
    for name, result in (("all", suite_result()), ("none", none)):
        suite_plots.draw(result, tmp_path / f"{name}.png")
        assert matplotlib.image.imread(tmp_path / f"{name}.png").std() > 0
