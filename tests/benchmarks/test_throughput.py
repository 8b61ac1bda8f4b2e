"""The throughput benchmarks measure what they say, at the smallest size."""

import json

import jax
import numpy as np
import pytest

from benchmarks import runs
from benchmarks.throughput import data_pipeline, embedding_tables, encoding, preparation, sections
from lsec_jax.config import ConfigError


@pytest.fixture
def tiny_pipeline(monkeypatch):
    """The benchmark of batches at a size of seconds; processes of their own would not see the changes."""
    monkeypatch.setattr(data_pipeline, "BATCH_SIZE", 64)
    monkeypatch.setattr(data_pipeline, "COLD_BATCHES", 2)
    monkeypatch.setattr(data_pipeline, "STREAMED_BATCHES", 3)
    monkeypatch.setattr(data_pipeline, "LEAST_BATCHES", 10)
    monkeypatch.setattr(data_pipeline.os, "sched_setaffinity", lambda process, cores: None)
    monkeypatch.setattr(data_pipeline.os, "fsync", lambda file: None)  # waits for whatever else is being written


def test_both_layouts_of_the_pipeline_benchmark_hold_the_same_batches(tiny_pipeline, tmp_path):
    data_pipeline.write_world(tmp_path, 1_000)
    first, second = (data_pipeline.open_batches(tmp_path, layout, 0) for layout in data_pipeline.LAYOUTS)
    for step in range(3):
        batches = jax.tree.leaves(first(step)), jax.tree.leaves(second(step))
        assert len(batches[0]) == len(batches[1]) == 29
        for one, other in zip(*batches, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(jax.tree.leaves(first.columns.pack(first(0)))) == 4
    items = first(0)["histories"]["watches"]["items"]
    assert items.shape == (64, 50) and (items >= 0).any()


def test_the_pipeline_benchmark_measures_every_rate_and_its_section_shows_them(tiny_pipeline, tmp_path):
    data_pipeline.write_world(tmp_path, 1_000)
    rows = [data_pipeline.measure(str(tmp_path), layout, 0) for layout in data_pipeline.LAYOUTS]
    for row in json.loads(json.dumps(rows)):
        rates = ("cold", "first", "later", "slices", "streamed", "placed", "packed", "memory")
        assert {name: rate > 0 for name, rate in row["impressions_per_second"].items()} == dict.fromkeys(rates, True)
        assert row["rows"] == 1_000 and row["batches"]["later"] >= 10 and row["anonymous_mib"] < 50
        assert row["batch_bytes"] == 64 * 4 * (3 + 4 + 20 + 2 * 50)
    assert rows[0]["bytes_on_disk"] < rows[1]["bytes_on_disk"]
    section = sections.data_pipeline_section(data_pipeline.result_of(rows, [0], runs.environment()))
    assert section.count("| last |") == 2 and "The target of 1 M per second of one core is" in section


def test_the_pipeline_benchmark_refuses_sizes_that_are_too_small():
    with pytest.raises(ConfigError, match="--rows=10: give whole numbers, 204800 or more"):
        data_pipeline.parse_sizes(["10"])


def test_the_encoding_benchmark_measures_every_rate_and_its_section_shows_them(monkeypatch, tmp_path):
    for name, size in {"BATCH_SIZE": 64, "NUM_BATCHES": 5, "WARM_UP": 2}.items():
        monkeypatch.setattr(encoding, name, size)
    monkeypatch.setattr(encoding.os, "sched_setaffinity", lambda process, cores: None)
    encoding.write_world(tmp_path / "world", 2_000)
    row = json.loads(json.dumps(encoding.measure(str(tmp_path / "world"), 0)))
    for kind in ("records_per_second", "records_per_core_second"):
        assert {name: rate > 0 for name, rate in row[kind].items()} == dict.fromkeys(
            ("encoded", "copied", "placed"), True
        )
    assert row["rows"] == 2_000 and row["anonymous_mib"] < 50
    columns = 4 * (6 + 2 * 50 * 3 + 2) + 4 * (6 * 2 + 3) + 2 * 50  # ids, users, rows; numbers, labels; masks
    assert row["batch_bytes"] == 64 * columns
    result = {**encoding.result_of([row], [0]), "environments": [runs.environment()], "command": "x"}
    section = sections.encoding_section(result)
    assert section.count("| 0 M |") == 1 and "The target of 0.9 M per second of one core is" in section
    with pytest.raises(ConfigError, match="--rows=10: give whole numbers, 64 or more"):
        encoding.parse_sizes(["10"])


def test_the_preparation_benchmark_measures_each_format_and_layout_and_its_section_shows_the_growth(tmp_path):
    rows = []
    for size in (1_000, 3_000):
        folder = tmp_path / str(size)
        preparation.write_log(folder, size)
        for kind, layout in (("parquet", "ends"), ("csv", "ends"), ("csv", "last")):
            found = preparation.measure(folder, kind, layout)
            assert {"reading", "sorting", "histories", "writing"} <= found["stages"].keys()
            assert found["seconds"] > 0 and found["anonymous_gib"] > 0
            shape = {"impressions": size, "format": kind, "layout": layout, "source_bytes": 1}
            rows.append({**shape, **found})
    assert rows[1]["prepared_bytes"] < rows[2]["prepared_bytes"] - 4 * 50 * 900
    result = {"rows": rows, "memory_gib": 1.0, "environments": [runs.environment()], "command": "x"}
    section = sections.preparation_section(json.loads(json.dumps(result)))
    assert "- csv: 3 times the rows take" in section and section.count("| csv | last |") == 2


def test_steps_of_dense_and_lazy_tables_alternate_on_one_state_and_their_lookups_are_counted():
    row = json.loads(json.dumps(embedding_tables.measure(50, 40, ("dense", "lazy", "lazy_items"), 2, 8, 4)))
    assert row["lookups"] == {"user": 8, "item": 40} and row["rows"] == {"user": 50, "item": 40}
    for mode in row["modes"].values():
        assert [len(mode[name]) for name in ("step_seconds", "cpu_seconds", "losses")] == [2, 2, 2]
        assert np.isfinite(mode["losses"]).all() and mode["compile_seconds"] > 0 and mode["temporary_bytes"] > 0
