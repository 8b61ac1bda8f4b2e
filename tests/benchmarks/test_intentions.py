"""Probes of what vectors know."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import runs
from benchmarks.quality import intentions, intentions_section
from lsec_jax.config import ConfigError, ParallelConfig
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
    assert outcome["users"] > 50 and outcome["step"] == 2 and 0.2 < outcome["gauc"] < 0.9


def intentions_result():
    """Two pairs of weights, two seeds that were not trained."""
    probes = {"consistent/watches": dict.fromkeys(intentions.FACTORS, 0.25)}
    one = {"trained": probes, "untrained": probes, "gauc": 0.625, "users": 90, "step": 7}
    pairs = ((0.01, 0.01), (0.1, 1.0))
    return {
        "seeds": [0, 1],
        "settings": [
            {"independence": first, "contrast_weight": second, **intentions.collect([one, one])}
            for first, second in pairs
        ],
        "environments": [ENVIRONMENT],
        "command": "python -m benchmarks.quality.intentions",
    }


def test_the_section_has_trained_and_untrained_vectors_and_a_picture():
    content = json.loads(json.dumps(intentions_result()))
    text = intentions_section.section(content)
    assert "| vector (untrained) | taste in common | taste rooms alone | taste products alone |" in text
    assert text.count("| consistent/watches | 0.250 +- 0.000 |") == 3 and "90 / 90 users" in text
    assert "lambda1 = 0.1, lambda2 = 1 (test gauc 0.6250 +- 0.0000):" in text
    assert len(intentions.figure(content).axes) == 6


@pytest.mark.parametrize("given", [["1"], ["0.1:0.1", "0.1:0.1"], ["a:1"], ["-1:1"], ["nan:1"], ["1:2:3"], []])
def test_pairs_of_weights_that_make_no_sense_are_refused(given):
    with pytest.raises(ConfigError, match=r"LAMBDA1:LAMBDA2"):
        intentions.parse_lambdas(given)


def test_pairs_of_weights_are_read():
    assert intentions.parse_lambdas(["0.01:0.01", "0:1"]) == [(0.01, 0.01), (0.0, 1.0)]
