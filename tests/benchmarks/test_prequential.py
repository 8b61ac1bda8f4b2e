"""The benchmark of models that age."""

import json
import re

import pytest
from absl import flags

from benchmarks import runs, sections
from benchmarks.quality import prequential
from lsec_jax.training.prequential import Settings
from tests.training.test_prequential import day_config

SETTINGS = Settings((30,), num_days=2, warm_steps=2)


def outcome(policy, seed, age, value):
    at = {"seed": seed, "start_day": 30, "day": 30 + age, "age": age}
    return {"policy": policy, **at, "protocol": "candidates: 20 per user", "users": 9, "metrics": {"ndcg@10": value}}


def prequential_result():
    found = [
        {
            "protocol": "candidates: 20 per user",
            "outcomes": [
                outcome("cold", seed, 0, 0.5),
                outcome("cold", seed, 1, 0.5 + 0.1 * seed),
                outcome("frozen", seed, 0, 0.5),
                outcome("frozen", seed, 1, 0.25),
            ],
        }
        for seed in (0, 1)
    ]
    return {"config": "x", "seeds": [0, 1], **prequential.collect(day_config(), SETTINGS, found)}


def test_the_section_has_the_metric_and_the_differences_by_age():
    text = sections.prequential_section({**prequential_result(), "environments": [], "command": "python -m x"})
    assert "| 1 | 0.5500 +- 0.0707 | 0.2500 +- 0.0000 |" in text and "| 1 | -0.3000 +- 0.0707 |" in text
    assert "x (simulated, new items every day), 2 seeds (0, 1), means over models first trained before day 30" in text
    assert "cold: 6 steps from scratch every day; warm: 2 steps a day" in text


def test_the_benchmark_writes_its_result_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_config", lambda name, variant: day_config())
    before = set(flags.FLAGS)
    prequential._define_flags()
    output = tmp_path / "result.json"
    try:
        arguments = ["--seeds=1", "--start_days=30", "--days=2", "--warm_steps=2", "--num_steps=3"]
        flags.FLAGS(["x", *arguments, f"--output={output}", f"--workdir={tmp_path / 'runs'}"])
        prequential.main()
        result = json.loads(output.read_text())
        assert result["settings"]["num_steps"] == 3 and result["seeds"] == [1]
        assert set(result["curves"]) == {"oracle", "cold", "warm", "refreshed", "frozen", "popularity"}
        assert [point["age"] for point in result["curves"]["warm"]] == [0, 1]
        assert output.with_suffix(".png").stat().st_size > 10_000
        monkeypatch.setattr(prequential, "measure", lambda *args: pytest.fail("measured again"))
        prequential.main()
        assert json.loads(output.read_text())["curves"] == result["curves"]
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)


def test_no_benchmark_takes_the_flag_that_commands_read_as_a_config_file():
    texts = [path.read_text() for path in (runs.ROOT / "benchmarks").rglob("*.py")]
    assert any('DEFINE_string("config_name"' in text for text in texts)
    assert not any(re.search(r'(?<!config_)flags.DEFINE_\w+\(\s*"config"', text) for text in texts)
