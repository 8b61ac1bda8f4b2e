import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lsec_jax import config_json
from lsec_jax.config import ConfigError, RunConfig, validate
from lsec_jax.config_json import from_dict, to_dict
from lsec_jax.data.sources import interactions
from lsec_jax.models import lsec_gnn
from tests import runs


def through_json(config):
    return json.loads(json.dumps(to_dict(config)))


def some_config():
    config = runs.tiny_config()
    config.model = lsec_gnn.Config()
    spec = interactions.RelationSpec("buy", "user", "item", "b.csv", "u", "i", column_names=("u", "i"))
    config.data = interactions.Config("${SOMEWHERE}", (spec,))
    return config


def test_a_config_survives_json():
    config = some_config()
    restored = from_dict(RunConfig, through_json(config))
    assert restored == config
    assert isinstance(restored.model.tasks[0], lsec_gnn.TaskConfig) and isinstance(restored.model.layer_dims, tuple)
    assert restored.data.relations[0].time_column is None


def test_open_fields_carry_their_class_and_others_do_not():
    stored = through_json(some_config())
    assert stored["model"]["type"] == "lsec_jax.models.lsec_gnn:Config"
    assert "type" not in stored["training"] and "type" not in stored["model"]["tasks"][0]


def test_unknown_keys_are_refused_with_the_valid_ones():
    stored = through_json(runs.tiny_config())
    stored["training"]["num_step"] = 3
    with pytest.raises(
        ConfigError, match=r"'config\.training\.num_step' \(did you mean 'num_steps'\?\); valid here: .*patience"
    ):
        from_dict(RunConfig, stored)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("training", "num_steps"), "many", "config.training.num_steps: expected int, got 'many'"),
        (("training", "num_steps"), True, "config.training.num_steps: expected int, got True"),
        (("training", "num_steps"), None, "config.training.num_steps: expected int, got None"),
        (("training", "num_steps"), 2.5, "config.training.num_steps: expected int, got 2.5"),
        (("training", "track_test"), 1, "config.training.track_test: expected bool, got 1"),
        (("evaluation", "cutoffs"), 5, "config.evaluation.cutoffs: expected a list, got 5"),
        (("evaluation", "cutoffs"), [5, "a"], "config.evaluation.cutoffs[1]: expected int, got 'a'"),
        (("model", "tasks"), ["buy"], "config.model.tasks[0]: expected a table of fields, got 'buy'"),
        (("training",), 3, "config.training: expected a table of fields, got 3"),
    ],
)
def test_wrong_types_are_refused_with_key_and_value(path, value, message):
    stored = through_json(runs.tiny_config())
    holder = stored
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(RunConfig, stored)


def test_a_part_that_must_be_there_is_named_where_it_is_missing():
    stored = through_json(runs.tiny_config())
    del stored["data"]
    with pytest.raises(ConfigError, match=r"config\.data is missing; give it"):
        from_dict(RunConfig, stored)


def test_a_whole_number_is_a_float():
    stored = through_json(runs.tiny_config())
    stored["optimizer"]["learning_rate"] = 1
    assert isinstance(from_dict(RunConfig, stored).optimizer.learning_rate, float)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "config.model.type: 'os:system' is outside lsec_jax; name its package with --plugin"),
        ("lsec_jax_evil.x:Config", "is outside lsec_jax"),
        ("lsec_jax.models.nothing:Config", "cannot find 'lsec_jax.models.nothing:Config'"),
        ("lsec_jax.models.lsec_gnn:Confog", "cannot find"),
        ("lsec_jax.models.lsec_gnn:jnp", "is not a config dataclass"),
        ("", "is outside lsec_jax"),
        (5, "config.model.type: expected str, got 5"),
    ],
)
def test_a_stored_class_outside_the_package_is_refused(name, message):
    stored = through_json(runs.tiny_config())
    stored["model"]["type"] = name
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(RunConfig, stored)


@dataclasses.dataclass
class PluginModel:
    width: int = 3


def test_a_stored_class_of_a_named_plugin_is_found():
    stored = {"data": through_json(runs.tiny_config())["data"], "model": {"type": "tests.test_config:PluginModel"}}
    with pytest.raises(ConfigError, match="--plugin"):
        from_dict(RunConfig, stored)
    # importlib mode gives this very module another name, so only the fields are compared.
    assert from_dict(RunConfig, stored, plugins=("tests",)).model.width == 3


def test_differences_name_every_changed_key():
    stored, current = through_json(runs.tiny_config()), through_json(runs.tiny_config())
    assert config_json.differences(stored, current) == []
    current["training"]["num_steps"] = 9
    current["model"]["tasks"][0]["weight"] = 2.0
    current["model"]["relations"] = ["buy", "follow"]
    del current["seed"]
    assert config_json.differences(stored, current) == [
        'config.model.relations: ["buy"] -> ["buy", "follow"]',
        "config.model.tasks[0].weight: 1.0 -> 2.0",
        'config.seed: 0 -> "(absent)"',
        "config.training.num_steps: 8 -> 9",
    ]
    current["model"]["tasks"].append(current["model"]["tasks"][0])
    assert any(line.startswith("config.model.tasks: [") for line in config_json.differences(stored, current))


@pytest.mark.parametrize(("name", "key"), [("sgd", "eps"), ("sgd", "b1"), ("adagrad", "b2")])
def test_a_key_that_the_optimizer_does_not_have_is_refused_and_not_ignored(name, key):
    config = runs.tiny_config()
    config.optimizer.name = name
    validate(config)
    setattr(config.optimizer, key, 0.5)
    with pytest.raises(ConfigError, match=rf"config\.optimizer\.{key} = 0\.5: '{name}' has no such key"):
        validate(config)


def test_what_an_older_version_did_not_store_counts_as_its_default():
    config = runs.tiny_config()
    stored = through_json(config)
    for holder, name in (
        (stored, "histories"),
        (stored["optimizer"], "name"),
        (stored["evaluation"], "cutoffs"),
        (stored["model"]["tasks"][0], "rows_per_draw"),
    ):
        del holder[name]
    assert config_json.differences(stored, through_json(config))
    filled = config_json.with_defaults(stored, config)
    assert config_json.differences(filled, through_json(config)) == [
        "config.evaluation.cutoffs: [10, 20, 50] -> [5, 10]"
    ]
    config.model.tasks[0].rows_per_draw = 2
    assert "config.model.tasks[0].rows_per_draw: 1 -> 2" in config_json.differences(filled, through_json(config))
    assert config_json.with_defaults("damaged", config) == "damaged"


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("training.num_steps", 0, "at least 1"),
        ("training.batch_size", -1, "at least 1"),
        ("training.evaluate_every", 0, "at least 1"),
        ("training.log_every", 0, "at least 1"),
        ("training.patience", -1, "at least 0"),
        ("training.max_seconds", float("nan"), "at least 0"),
        ("optimizer.name", "lamb", "adam, adagrad, sgd"),
        ("optimizer.tables", "sparse", "auto, dense, lazy"),
        ("optimizer.initial_accumulator", 0.5, "'adam' has no such key; leave it at 0.1"),
        ("optimizer.initial_accumulator", -0.5, "at least 0"),
        ("optimizer.schedule", "linear", "constant, cosine"),
        ("optimizer.learning_rate", 0.0, "positive"),
        ("optimizer.learning_rate", float("inf"), "finite"),
        ("optimizer.eps", float("nan"), "positive"),
        ("optimizer.warmup_steps", -1, "at least 0"),
        ("optimizer.b1", 1.0, "in [0, 1)"),
        ("optimizer.b2", -0.1, "in [0, 1)"),
        ("evaluation.protocols", ("ranking",), "candidates, full_ranking"),
        ("evaluation.protocols", (), "candidates, full_ranking"),
        ("evaluation.baselines", ("knn",), "popularity, item_knn"),
        ("evaluation.num_candidates", 0, "at least 1"),
        ("evaluation.block_size", 0, "at least 1"),
        ("evaluation.knn_neighbors", 0, "at least 1"),
        ("evaluation.validation_users", -1, "at least 0"),
        ("evaluation.knn_shrinkage", -1.0, "at least 0"),
        ("evaluation.recent_days", 0.0, "above 0"),
        ("evaluation.rate_shrinkage", -1.0, "at least 0"),
        ("evaluation.cutoffs", (), "at least one K"),
        ("evaluation.cutoffs", (10, 0), "at least one K"),
        ("evaluation.candidates_seed", -1, "in [0, 2**32)"),
        ("checkpoint.keep_last", 0, "at least 1"),
        ("checkpoint.keep_best", 0, "at least 1"),
        ("checkpoint.save_seconds", 0, "at least 1"),
        ("checkpoint.save_every", -1, "at least 0"),
        ("training.max_skipped", -1, "at least 0"),
        ("training.on_nonfinite", "ignore", "stop"),
        ("seed", -1, "in [0, 2**32)"),
        ("model.aggregator", "sage", "gcn, lightgcn, ngcf, gat"),
        ("model.layer_dims", (), "at least one width"),
        ("model.embedding_dim", 0, "at least 1"),
        ("model.layer_dims", (4,), "to embedding_dim = 8"),
        ("model.relations", ("buy", "buy"), "each once"),
        ("model.weights_per_direction", True, "'lightgcn' has no weights per direction; set it to False"),
        ("model.tasks", (), "at least one task"),
        ("model.backend", "cuda", "auto"),
        ("data.num_users", 0, "at least 1"),
    ],
)
def test_validate_names_key_value_and_remedy(key, value, remedy):
    config = runs.tiny_config()
    validate(config)
    holder_name, _, name = key.rpartition(".")
    setattr(getattr(config, holder_name) if holder_name else config, name, value)
    with pytest.raises(ConfigError) as caught:
        validate(config)
    message = str(caught.value)
    assert key in message and remedy in message, message
    assert value == () or str(value[0] if isinstance(value, tuple) and len(value) == 1 else value) in message, message


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory with one config file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(runs.CONFIG_FILE)
    return tmp_path


OVERRIDES = {
    "--config.training.num_step=3": "'config.training.num_step' (did you mean 'num_steps'?); valid here:",
    "--config.trainin.num_steps=3": "'config.trainin' (did you mean 'training'?)",
    "--config.training.num_steps=abc": "abc",
    "--config.training.num_steps=2.5": "2.5",
    "--config.training.num_steps=0": "config.training.num_steps = 0 must be at least 1",
    "--config.training.num_steps": "num_steps",
    "--config.training.num_steps.more=1": "'config.training.num_steps' = 8 is a value and has no keys",
    "--config.data.live.num_impressions=1": "'config.data.live' = None is a value and has no keys; it is switched off",
    "--config.training.num_steps[0]=1": "'config.training.num_steps' = 8 is not a list",
    "--config.training.track_test=maybe": "maybe",
    "--config.training=3": "'config.training' is a group of keys; set one of them: batch_size",
    "--config.data=kuailive": "'config.data' is a group of keys",
    "--config.model.tasks[5].weight=3": "'config.model.tasks' has 1 entries, numbered from 0; there is no [5]",
    "--config.model.tasks[-1].weight=3": "there is no [-1]",
    "--config.model.tasks[0].weigt=3": "(did you mean 'weight'?)",
    "--config.model.tasks[0]=3": "group of keys",
    "--config.model.tasks[a].weight=3": "cannot read 'tasks[a]'",
    "--config.model.tasks=3": "config.model.tasks[0]: expected a table of fields, got 3",
    "--config.evaluation.cutoffs=3,a": "config.evaluation.cutoffs",
    "--config.evaluation.protocols=candidate": "choose one of: candidates, full_ranking",
    "--config.evaluation.head_share=2": "config.evaluation.head_share = 2.0 must be above 0 and at most 1",
    "--config.evaluation.scenario=streamer": "config.evaluation.scenario = 'streamer': scenarios are of impressions",
    "--config.evaluation.bootstrap_samples=-1": "config.evaluation.bootstrap_samples = -1 must be at least 0",
    "--config.training.metric=precision": "not measured by protocol 'candidates'",
    "--config.seed=-1": "config.seed = -1 must be in",
    "--config.split.fractions=0.5,0.1": "fractions",
    "--config.model.relations=('byu',)": "relation 'byu' is not in data set",
    "--worksdir=x": "Did you mean: workdir",
    "stray": "unexpected argument 'stray'",
    "--workdir=tiny.py": "workdir tiny.py is a file",
}


@pytest.mark.parametrize("argument", OVERRIDES)
def test_a_bad_argument_ends_in_one_message_and_writes_nothing(here, argument):
    message = runs.refusal("train", "--config=tiny.py", argument)
    assert OVERRIDES[argument] in message and len(message) < 800, message
    assert [path.name for path in here.iterdir() if path.name != "__pycache__"] == ["tiny.py"]


FILES = {
    "syntax.py": ("def get_config(:\n", "syntax.py, line 1: SyntaxError"),
    "imports.py": (
        "\nimport nothing_here\n",
        "imports.py, line 2: ModuleNotFoundError: No module named 'nothing_here'",
    ),
    "without.py": ("x = 1\n", "'without.py' has no function get_config"),
    "number.py": ("def get_config():\n    return 3\n", "get_config returned 3"),
    "none.py": ("def get_config():\n    pass\n", "get_config returned None"),
    "raises.py": ("def get_config():\n    return {}['x']\n", "raises.py, line 2: KeyError: 'x'"),
    "empty.py": ("", "'empty.py' has no function get_config"),
    "config.json": ("{}", "'config.json' is not a Python file"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_config_file_is_named_with_its_line(here, name):
    text, expected = FILES[name]
    (here / name).write_text(text)
    assert expected in runs.refusal("train", f"--config={name}", "--config.training.num_steps=2")
    assert not (here / "workdirs").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--config is missing"),
        (("--config.training.num_steps=3",), "--config is missing"),
        (("--config",), "there is no file ''"),
        (("--config=nowhere.py",), "there is no file 'nowhere.py'"),
        (("--config=nowhere.py:tiny",), "there is no file 'nowhere.py'"),
        (("--config=.",), "there is no file '.'"),
        (("--config=tiny.py:huge",), "tiny.py, line 10: unknown variant ':huge'; this config has none"),
        (("--config", "tiny.py", "--config.training.num_step", "3"), "did you mean 'num_steps'"),
    ],
)
def test_a_missing_config_or_variant_is_refused(here, arguments, expected):
    message = runs.refusal("train", *arguments)
    assert expected in message, message
    assert not (here / "workdirs").exists()


FLAGS = {
    "train": ("config", "workdir"),
    "evaluate": ("workdir", "data", "plugin", "split", "protocol", "output"),
    "recommend": ("workdir", "data", "plugin", "k", "users", "output", "include_seen", "export_embeddings"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_helpfull_shows_the_usage_and_every_flag_of_the_command(name):
    out = runs.command(name, "--helpfull").out
    assert f"python -m lsec_jax.{name} --" in out
    assert all(re.search(rf"^ +--(\[no\])?{own}:", out, re.MULTILINE) for own in FLAGS[name])


def test_help_shows_the_usage_and_every_flag_of_the_command():
    # Own processes: the run-time type checks of conftest hide from absl which module a flag belongs to.
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"lsec_jax.{name}", "--help"],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in FLAGS
    }
    for name, process in processes.items():
        out, err = process.communicate(timeout=120)
        assert f"python -m lsec_jax.{name} --" in out and not err and process.returncode == 0
        for own in FLAGS[name]:
            assert re.search(rf"^ +--(\[no\])?{own}:", out, re.MULTILINE), own


@pytest.mark.parametrize("name", ["evaluate", "recommend"])
def test_a_directory_without_a_run_is_refused(here, name):
    output = ("--output=out.parquet",) if name == "recommend" else ()
    assert "--workdir must have a value" in runs.refusal(name, *output).replace("Flag ", "")
    assert "no config.json here; give the --workdir of a trained run" in runs.refusal(name, "--workdir=.", *output)
    assert "no config.json here" in runs.refusal(name, "--workdir=nowhere", *output)
