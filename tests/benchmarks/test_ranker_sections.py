"""What docs/results.md says of steps of rankers, and the benchmark of eLiveRec's step."""

import numpy as np

from benchmarks.throughput import eliverec_section, eliverec_step, suite_section
from tests.benchmarks.test_suite_section import ENVIRONMENT, suite_result

CIRCUMSTANCES = {"environments": [ENVIRONMENT], "command": "python -m x"}


def eliverec_step_result():
    """A step of 4 s of the core with adaptive weights, 2.5 s with fixed ones, 20 GFLOP; a product does 10 a second."""
    times = {"adaptive": 4.0, "fixed": 2.5, "adaptive_bfloat16": 5.0}
    steps = {name: {"seconds": [2 * of], "cpu_seconds": [of], "compile_seconds": 30.0} for name, of in times.items()}
    model = {"embedding_dim": 128, "num_heads": 8, "feed_forward_width": 0}
    return {
        "variants": steps,
        "product": {"seconds": [1.0], "cpu_seconds": [0.5], "operations": 5e9},
        "encoding": {"seconds": [0.1], "cpu_seconds": [0.01]},
        "operations": 2e10,
        "waiting": {"steps": 20, "seconds": 80.0, "input_wait_share": 0.0125},
        **{"model": model, "batch_size": 2000, "length": 50, "target_ratio": 1.5, **CIRCUMSTANCES},
    }


def test_the_section_of_eliverecs_step_compares_times_of_the_core():
    text = eliverec_section.section(eliverec_step_result())
    assert "| fixed weights | 5,000 | 2,500 | 400 | 800 | 1.00 | 30 |" in text
    assert "feed-forward nets of 512" in text and "at most 1.5: NOT REACHED, 1.60." in text
    assert "5 G a second of the core, 50% of the 10 G" in text
    assert "200,000 records a second of the core, 400 times" in text and "1.25% of the time" in text
    faster = eliverec_step_result()
    faster["variants"]["adaptive"]["cpu_seconds"] = [3.75]
    assert "at most 1.5: reached, 1.50." in eliverec_section.section(faster)


def rankers_result():
    """The suite's result with rows of rankers in place of its own."""
    found = suite_result()
    (row,) = [of for of in found["rows"] if of["row"] == "step/lsec_gcn_bcsr"]
    renamed = {"pytorch_csr": "torch_rechub", "lsec_jax": "lsec_jax"}
    own = {key: {renamed[name]: value for name, value in row[key].items()} for key in ("results", "ratios")}
    return {**found, "rows": [{**row, "row": "ranker/din/64", **own}]}


def test_rankers_have_targets_and_a_section_of_their_own():
    text = suite_section.ranker_section(rankers_result())
    assert "| DIN step, 64 wide | torch_rechub | 2 x | 1.50 x (1.50 x of processor time) | NOT reached |" in text
    assert "| DIN step, 16 wide | deepctr_torch | 2 x | - | not measured |" in text
    assert "LSEC" not in text.partition("Processes in turns")[0] and "copy bandwidth" not in text
    assert "DIN step" not in suite_section.section(suite_result())


def test_the_benchmark_of_eliverecs_step_measures_every_variant(monkeypatch, tmp_path):
    """With few rows, narrow; its section reads what it stores."""
    monkeypatch.setattr(eliverec_step, "NUM_ROWS", 3_000)
    monkeypatch.setattr(eliverec_step, "PRODUCT", 64)
    monkeypatch.setattr(eliverec_step.encoding, "SIZES", {"room": 50, "streamer": 20})
    monkeypatch.setattr(eliverec_step.encoding, "LENGTH", 4)
    monkeypatch.setattr(eliverec_step, "VARIANTS", {"adaptive": {}, "fixed": eliverec_step.FIXED})
    found = eliverec_step.measure(8, 256, 2, 3, tmp_path)
    assert found["variants"].keys() == {"adaptive", "fixed"} and not list(tmp_path.iterdir())
    for of in (*found["variants"].values(), found["product"], found["encoding"]):
        assert len(of["seconds"]) == len(of["cpu_seconds"]) == 2 and min(of["cpu_seconds"]) > 0
    # At least the towers' products, forward and backward: 256 rows, 56 to 128 to 64 to 1.
    assert found["operations"] > 3 * 2 * 256 * (56 * 128 + 128 * 64)
    assert 0 <= found["waiting"]["input_wait_share"] <= 1 and found["waiting"]["steps"] == 3
    found["variants"]["adaptive_bfloat16"] = found["variants"]["adaptive"]
    result = {**found, "batch_size": 256, "target_ratio": 1.5, **CIRCUMSTANCES}
    rate = 256 / np.median(found["encoding"]["cpu_seconds"])
    assert f"{rate:,.0f} records a second" in eliverec_section.section(result)
