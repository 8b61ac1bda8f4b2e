"""Probes of what vectors know."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import runs
from benchmarks.quality import intentions, intentions_section
from lsec_jax.config import ParallelConfig
from tests.benchmarks.test_suite_section import ENVIRONMENT


def test_a_probe_finds_what_is_linear_in_the_vectors_and_nothing_else():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, 5))
    wanted = vectors @ rng.normal(size=(5, 3)) + 0.01 * rng.normal(size=(600, 3))
    assert intentions.probe(vectors, wanted, 0) > 0.99
    assert abs(intentions.probe(vectors, rng.normal(size=(600, 3)), 0)) < 0.1


def test_explained_variance_is_that_of_scikit_learn():
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(1)
    wanted, predicted = rng.normal(size=(2, 50, 1))
    assert intentions._explained(predicted, wanted) == pytest.approx(r2_score(wanted, predicted))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One seed of the tiny world, barely trained."""
    config = runs.load_config("eliverec_synthetic", "tiny")
    config.evaluation.baselines = ()
    config.training = dataclasses.replace(config.training, num_steps=2, evaluate_every=2, patience=0)
    config.parallel = ParallelConfig(data=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsec_jax.training.plots.draw", lambda *args: None)
        return intentions.measure(config, tmp_path_factory.mktemp("intentions") / "run")


def test_all_intentions_and_mean_embeddings_are_probed_for_all_factors(outcome):
    domains = ("watches", "purchases")
    kinds = ("consistent", "specific", "mean embedding", "category shares")
    for state in ("trained", "untrained"):
        assert {*outcome[state]} == {f"{kind}/{domain}" for kind in kinds for domain in domains}
        for of in outcome[state].values():
            assert [*of] == [*intentions.FACTORS] and max(of.values()) < 1.0
    shares = outcome["trained"]["category shares/watches"]
    assert shares == outcome["untrained"]["category shares/watches"]
    assert shares["in common"] > 0.2 > 0.1 > shares["products alone"]
    assert outcome["users"] > 50 and outcome["step"] == 2


def intentions_result():
    """Two seeds that were not trained."""
    probes = {"consistent/watches": dict.fromkeys(intentions.FACTORS, 0.25)}
    one = {"trained": probes, "untrained": probes}
    return {
        "seeds": [0, 1],
        "probes": intentions.collect([one, one]),
        "users": [90, 91],
        "environments": [ENVIRONMENT],
        "command": "python -m benchmarks.quality.intentions",
    }


def test_the_section_has_trained_and_untrained_vectors_and_a_picture():
    content = json.loads(json.dumps(intentions_result()))
    text = intentions_section.section(content)
    assert "| vector (untrained) | taste in common | taste rooms alone | taste products alone |" in text
    assert "| consistent/watches | 0.250 +- 0.000 |" in text and "90 / 91 users" in text
    assert len(intentions.figure(content).axes) == 3
