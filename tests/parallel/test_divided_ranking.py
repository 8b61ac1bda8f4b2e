"""Ranking on several devices gives what one device gives, and moves neither vectors nor scores of all targets."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pa_parquet
import pytest

from lsec_jax import ranking
from lsec_jax.config import ParallelConfig
from lsec_jax.data.csr import csr_from_pairs
from lsec_jax.models.ncf import NcfScorer
from lsec_jax.parallel import strategies, traffic
from lsec_jax.parallel.divided_ranking import DividedRanking
from lsec_jax.parallel.strategies import Part
from lsec_jax.scorers import DotScorer, MlpScorer
from tests import runs

NUM_SOURCES, NUM_TARGETS, CUTOFFS = 45, 61, (5, 30)
MESHES = {
    "pmap": ParallelConfig("pmap", data=8),
    "sharded": ParallelConfig("sharded", data=2, model=4),
    "sharded along model": ParallelConfig("sharded", data=1, model=8),
}


def whole_numbers(*shape, seed=0):
    """Sums of products are exact in any order, and many scores are equal."""
    return jnp.asarray(np.random.default_rng(seed).integers(-2, 3, shape), jnp.float32)


SCORERS = {
    "dot": DotScorer(whole_numbers(NUM_SOURCES, 3), whole_numbers(NUM_TARGETS, 3, seed=1)),
    "mlp": MlpScorer(
        whole_numbers(NUM_SOURCES, 5), whole_numbers(NUM_TARGETS, 5, seed=1), whole_numbers(5, seed=2), jnp.float32(2)
    ),
    "ncf": NcfScorer(
        whole_numbers(NUM_SOURCES, 3),
        whole_numbers(NUM_TARGETS, 3, seed=1),
        whole_numbers(NUM_SOURCES, 4),
        whole_numbers(NUM_TARGETS, 4, seed=1),
        ((whole_numbers(4, 2, seed=2), whole_numbers(2, seed=3)),),
        whole_numbers(2, seed=4),
        jnp.float32(1),
    ),
}


def divided(scorer, mesh):
    """The scorer where a strategy has it."""
    strategy = strategies.make(MESHES[mesh])

    def padded(array):
        return np.pad(array, ((0, -len(array) % strategy.num_shards), (0, 0)))

    rows = {name: padded(getattr(scorer, name)) for name in scorer.per_node}
    placed = strategy.place(dataclasses.replace(scorer, **rows), Part.SCORER)
    return DividedRanking(strategy, NUM_TARGETS).of(placed)


def pairs(share, seed):
    rng = np.random.default_rng(seed)
    return rng.random((NUM_SOURCES, NUM_TARGETS)) < share


def csr(mask):
    return csr_from_pairs(*np.nonzero(mask), NUM_SOURCES)


POSITIVES = pairs(0.1, 1)
SEEN = pairs(0.4, 2) & ~POSITIVES
OFFERED = np.random.default_rng(3).random(NUM_TARGETS) < 0.8
USERS = np.random.default_rng(4).permutation(NUM_SOURCES)[:37]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("scorer", SCORERS)
def test_every_function_gives_on_several_devices_what_it_gives_on_one(scorer, mesh):
    alone, ranker = SCORERS[scorer], divided(SCORERS[scorer], mesh)
    candidates = np.argsort(np.random.default_rng(5).random((NUM_SOURCES, NUM_TARGETS)), axis=1)[:, :12]
    labels = np.arange(12)[None, :] < 3 + np.arange(NUM_SOURCES)[:, None] % 3

    def all_of(of, block_size, offered):
        lists = ranking.top_k(of, USERS, csr(SEEN), 20, block_size, offered)
        full = ranking.full_ranking(of, USERS, csr(SEEN), csr(POSITIVES), CUTOFFS, block_size, offered)
        listed = ranking.rank_candidates(of, USERS, candidates[USERS], labels[USERS], CUTOFFS, block_size)
        return lists, full, listed

    for block_size, offered in ((9, OFFERED), (64, None)):
        found, wanted = all_of(ranker, block_size, offered), all_of(alone, block_size, offered)
        jax.tree.map(np.testing.assert_array_equal, found[0], wanted[0])  # ids too: ties go to lower ids everywhere
        jax.tree.map(lambda *of: np.testing.assert_allclose(*of, rtol=1e-6), found[1:], wanted[1:])
    assert np.ptp(found[1]["ndcg@5"]) > 0


@pytest.mark.parametrize("mesh", MESHES)
def test_lists_may_be_longer_than_a_device_has_targets_and_longer_than_there_are(mesh):
    ids, scores = ranking.top_k(divided(SCORERS["dot"], mesh), USERS, csr(SEEN), NUM_TARGETS + 9, 8)
    wanted, wanted_scores = ranking.top_k(SCORERS["dot"], USERS, csr(SEEN), NUM_TARGETS + 9, 8)
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert (ids >= 0).sum() == (~SEEN[USERS]).sum()


@pytest.mark.parametrize("mesh", MESHES)
def test_a_nan_on_any_device_names_the_user(mesh):
    vectors = SCORERS["dot"]
    for scorer, user in (
        (dataclasses.replace(vectors, source_vectors=vectors.source_vectors.at[30].set(jnp.nan)), 30),
        (dataclasses.replace(vectors, target_vectors=vectors.target_vectors.at[NUM_TARGETS - 1].set(jnp.nan)), 0),
    ):
        ranker = divided(scorer, mesh)
        with pytest.raises(ranking.NanScoreError) as caught:
            ranking.top_k(ranker, np.arange(NUM_SOURCES), None, 5, 8)
        assert caught.value.source_id == user


def test_what_fills_up_the_last_part_is_never_ranked():
    vectors = DotScorer(jnp.ones((NUM_SOURCES, 2)), -jnp.ones((NUM_TARGETS, 2)))  # zeros would be the best
    ids, scores = ranking.top_k(divided(vectors, "sharded"), USERS, None, NUM_TARGETS, 8)
    assert np.sort(ids, axis=1).tolist() == [list(range(NUM_TARGETS))] * len(USERS)
    assert (scores == -2).all()


def test_no_collective_moves_all_vectors_or_scores():
    rows, width, k = 16, 64, 20
    scorer = DotScorer(whole_numbers(NUM_SOURCES * 200, width), whole_numbers(NUM_TARGETS * 200, width))
    strategy = strategies.make(MESHES["sharded"])
    placed = strategy.place(dataclasses.replace(scorer, target_vectors=np.asarray(scorer.target_vectors)), Part.SCORER)
    programs = DividedRanking(strategy, NUM_TARGETS * 200)
    function = functools.partial(ranking._top_k_block, k=k)
    users = strategy.place((np.arange(rows, dtype=np.int32),), Part.ROWS)
    nothing = strategy.place((np.zeros(8, np.int32), np.full(8, NUM_TARGETS * 200, np.int32)), Part.REPLICATED)
    hlo = programs.all_targets(function).lower(placed, users, nothing, None).compile().as_text()
    found = traffic.collectives(hlo)
    of_group, shards = rows // 2, 4
    # Vectors of a group's users, and every device's best scores and ids; then what all groups found.
    most = max(of_group * width * 4, of_group * shards * k * 4, rows * k * 4)
    assert found
    assert max(of.num_bytes for of in found) <= most
    assert most < min(of_group * NUM_TARGETS * 200, NUM_TARGETS * 200 * width) * 4 // 100


def test_another_scorer_and_other_users_do_not_compile_again():
    strategy = strategies.make(MESHES["sharded"])
    programs = DividedRanking(strategy, NUM_TARGETS)

    def rank(seed, users):
        scorer = DotScorer(whole_numbers(48, 3, seed=seed), whole_numbers(NUM_TARGETS + 3, 3, seed=seed))
        ranker = programs.of(strategy.place(scorer, Part.SCORER))
        ranking.full_ranking(ranker, users, csr(SEEN), csr(POSITIVES), CUTOFFS, 16, OFFERED)

    with runs.compilations() as compiled:
        rank(0, np.arange(NUM_SOURCES))
        assert compiled
        compiled.clear()
        rank(1, np.arange(NUM_SOURCES)[::-1].copy())
        assert compiled == []


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run whose batches could not be divided over eight devices."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.py").write_text(runs.CONFIG_FILE)
    arguments = "--config.training.batch_size=50", "--config.training.num_steps=6"
    done = runs.command("train", f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}", *arguments)
    assert done.code == 0, done.err
    return folder / "run"


def test_a_trained_run_is_evaluated_and_recommended_from_on_any_mesh(workdir, tmp_path):
    metrics, lists, vectors = [], [], []
    for name, mesh in (("one", []), ("eight", ["--mesh=2x4"])):
        folder = tmp_path / name
        folder.mkdir()
        for protocol in ("candidates", "full_ranking"):
            output = folder / f"{protocol}.json"
            done = runs.command(
                "evaluate", f"--workdir={workdir}", f"--protocol={protocol}", f"--output={output}", *mesh
            )
            assert done.code == 0, done.err
            metrics.append(json.loads(output.read_text())["rows"][0]["metrics"])
        output, exported = folder / "lists.parquet", folder / "vectors"
        done = runs.command(
            "recommend", f"--workdir={workdir}", f"--output={output}", f"--export_embeddings={exported}", *mesh
        )
        assert done.code == 0, done.err
        lists.append(pa_parquet.read_table(output).to_pydict())
        vectors.append({path.name: np.load(path, allow_pickle=False) for path in exported.glob("*.npy")})
    for of_one, of_eight in ((metrics[0], metrics[2]), (metrics[1], metrics[3])):
        assert of_eight == pytest.approx(of_one, abs=2e-3)
    assert lists[0]["user_id"] == lists[1]["user_id"] and lists[0]["rank"] == lists[1]["rank"]
    np.testing.assert_allclose(lists[0]["score"], lists[1]["score"], rtol=1e-4, atol=1e-6)
    assert np.mean(np.array(lists[0]["item_id"]) == np.array(lists[1]["item_id"])) > 0.99  # but for equal scores
    assert vectors[0].keys() == vectors[1].keys() and len(vectors[0]) == 2
    jax.tree.map(lambda *of: np.testing.assert_allclose(*of, rtol=1e-4, atol=1e-6), *vectors)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("8", r"--mesh=8: write DATAxMODEL, two whole numbers from 1, such as 2x4"),
        ("0x4", r"--mesh=0x4: write DATAxMODEL"),
        ("4x4", r"--mesh=4x4 needs 16 devices, and there are 8 \(cpu\); give a smaller one"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(workdir, tmp_path, mesh, message):
    output = tmp_path / "lists.csv"
    assert re.match(message, runs.refusal("recommend", f"--workdir={workdir}", f"--output={output}", f"--mesh={mesh}"))
    assert not output.exists()
