"""What each source has: as its data, as the documentation, and in the message of what a model lacks."""

import ast
from pathlib import Path

import pytest

from lsec_jax.config import SplitConfig
from lsec_jax.data.candidates import generate_candidates
from lsec_jax.data.sources import lsec, offers, sharing_world, synthetic
from lsec_jax.data.sources.offers import SOURCES, Offers, as_markdown, check_needs
from lsec_jax.data.splits import assign_splits
from lsec_jax.schema import TEST, VALIDATION, DataError
from lsec_jax.schema.needs import Needs
from tests import kuailive_files, runs, stand_ins
from tests.data import (
    test_ciao,
    test_ciao_domains,
    test_ciao_scenarios,
    test_ghcf,
    test_interactions,
    test_lightgcn_text,
    test_lsec,
    test_open_bandit,
    test_sequences_source,
    test_twitch_scenarios,
)
from tests.worlds import world

ROOT = Path(__file__).resolve().parents[2]


def load(name, folder):
    """A small data set of each source that can be had without another program."""
    if name == "interactions":
        (folder / "buy.csv").write_text(test_interactions.BUY)
        return test_interactions.load(folder, test_interactions.buy_spec())
    if name == "lsec":
        world = assign_splits(runs.tiny_world().load(), SplitConfig(), ("buy",))
        lists = {("buy", split): generate_candidates(world, "buy", split, 5, 0) for split in (VALIDATION, TEST)}
        lsec.write(world, folder / "lsec", lists)
        return test_lsec.load(folder / "lsec")
    if name == "lightgcn_text":
        (folder / "train.txt").write_text(test_lightgcn_text.TRAIN_TEXT)
        (folder / "test.txt").write_text(test_lightgcn_text.TEST_TEXT)
        return test_lightgcn_text.load(folder)
    if name in stand_ins.WRITERS:
        stand_ins.WRITERS[name](runs.tiny_world().load(), folder)
        module = __import__(f"lsec_jax.data.sources.{name}", fromlist=["Config"])
        return module.Config(path=str(folder)).load()
    if name == "kuailive":
        return kuailive_files.load(kuailive_files.write(folder))
    modules = {"ciao": test_ciao, "sequences": test_sequences_source, "open_bandit": test_open_bandit}
    modules |= {"ciao_domains": test_ciao_domains, "ghcf": test_ghcf}
    modules |= {"ciao_scenarios": test_ciao_scenarios, "twitch_scenarios": test_twitch_scenarios}
    if name in modules:
        return modules[name].write(folder).load()
    worlds = {"synthetic": synthetic.tiny, "synthetic (live)": synthetic.live_tiny, "sharing_world": sharing_world.tiny}
    return worlds[name]().load()


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("prepared", "period", "tfds")])
def test_a_source_has_what_it_says_and_is_valid(name, tmp_path):
    """`prepared` and `period` have what their sources have; the tests of `tfds` compare its tables."""
    data, said = load(name, tmp_path), SOURCES[name]
    data.validate()
    if "relations" not in said.configured:
        assert set(data.relations) == set(said.relations)
    assert {key for key, of in data.relations.items() if of.weight is not None} >= set(said.weighted)
    columns = {key: {*of.nodes, *of.values, *of.features} for key, of in data.events.items()}
    assert columns == {key: set(of) for key, of in said.events.items()}
    features = {key: set(table.features) for key, table in data.nodes.items() if table.features}
    assert features == {key: set(of) for key, of in said.features.items()}
    assert set(data.trees) == set(said.trees)
    if "availability" not in said.configured:
        assert set(data.availability) == set(said.availability)
    has_time = any(of.time is not None for of in data.relations.values()) or bool(data.events)
    assert has_time == bool(said.time)
    assert (data.truth is not None) == bool(said.truth)
    if said.given_split != "where configured":
        assert any(of.split is not None for of in data.relations.values()) == bool(said.given_split)
    assert bool(data.candidates) == ("candidates" in said.given_split)


def test_every_source_says_what_it_has():
    found = set()
    for path in Path(offers.__file__).parent.glob("*.py"):
        classes = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
        found |= {path.stem} if "Config" in classes else set()
    assert {name.partition(" ")[0] for name in SOURCES} == found


def test_the_documentation_has_the_tables_of_the_code():
    text = (ROOT / "docs" / "data-formats.md").read_text()
    assert as_markdown() in text, "put the output of lsec_jax.data.sources.offers:as_markdown into data-formats.md"


def test_configured_names_are_told_apart_in_the_documentation():
    assert offers._cell(Offers(configured=("relations",)), "relations") == "as configured"
    assert offers._cell(SOURCES["tfds"], "relations") == "as configured (`rate` (weighted))"


@pytest.mark.parametrize(
    ("needs", "subject", "rest"),
    [
        (
            Needs(relations=("buy", "gift")),
            "relation 'gift' is",
            "buy, follow, sell; sources that have it: kuailive; where yours name it so: "
            "interactions, lsec, lightgcn_text, sequences, tfds, prepared, period\n",
        ),
        (
            Needs(events={"impression": ("watched",)}),
            "events 'impression' are",
            "none; sources that have it: kuailive, synthetic (live); where yours name it so: interactions, prepared\n",
        ),
        (
            Needs(features={"user": ("age",)}),
            "features of 'user' are",
            "none; sources that have it: kuailive; where",
        ),
        (
            Needs(trees=("scenario",)),
            "tree of 'scenario' is",
            "none; sources that have it: ciao, ciao_scenarios, twitch_scenarios, kuailive, synth",
        ),
        (
            Needs(availability=("room",)),
            "availability of 'room' is",
            "none; sources that have it: kuailive, synth",
        ),
    ],
)
def test_what_a_model_lacks_is_named_with_the_sources_that_have_it(needs, subject, rest):
    with pytest.raises(DataError) as error:
        check_needs(world(), needs)
    line = f"{subject} not in data set 'test world'; it has: {rest}"
    assert "the data has not all that the model needs:\n  " + line in str(error.value)


def test_everything_that_a_model_lacks_is_named_at_once_and_columns_with_their_table():
    data = synthetic.live_tiny().load()
    here = Needs(
        ("buy", "hosts"),
        {"impression": ("room", "watched", "viewers"), "gift": ()},
        {"room": ("category",)},
        ("scenario",),
        ("room",),
    )
    check_needs(data, here)
    with pytest.raises(DataError) as error:
        check_needs(data, Needs(("cart",), {"impression": ("click",)}, {"user": ("age",)}, ("item",)))
    lines = str(error.value).splitlines()
    assert len(lines) == 6 and "model (relations and tasks" in lines[-1]
    assert (
        lines[2].startswith("  column 'click' of events 'impression' is not in data set 'synthetic-")
        and "; it has: user, room" in lines[2]
    )
    assert lines[2].endswith("; sources that have it: open_bandit; where yours name it so: interactions, prepared")
    assert (
        lines[3].startswith("  column 'age' of features of 'user' is not")
        and "; it has: gender, age_band, " in lines[3]
    )
