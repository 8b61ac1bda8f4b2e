"""Lists for the requests of a file: scores are those of logged rows, and what a file may not hold is refused."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
import scipy.special

from lsec_jax.config import ConfigError, EvaluationConfig
from lsec_jax.data import request_files
from lsec_jax.schema import Availability, DataError
from lsec_jax.training import fit, live_serving, request_serving, run
from lsec_jax.training.serving import Moment
from lsec_jax.training.workdirs import restore_best
from tests import event_runs, runs
from tests.event_runs import compiled_once  # noqa: F401 a fixture

pytestmark = pytest.mark.usefixtures("no_pictures", "compiled_once")

TIES = ("closeness", "paid", "shared")
ROLES = ("user", "target_user", "scenario")


def config(**model):
    """TREEMS on the tiny world of sharing, without its graph; three steps."""
    of = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "treems_synthetic.py"))["get_config"]("tiny")
    of.model = dataclasses.replace(of.model, **{"has_graph": False, "attention": "published", **model})
    of.training.num_steps = of.training.evaluate_every = 3
    of.training.patience, of.training.metric = 0, "auc"
    of.evaluation = EvaluationConfig(protocols=("impressions",), cutoffs=(1, 3), baselines=())
    return of


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit.run(config(), folder)
    return folder


@pytest.fixture(scope="module")
def ready(workdir):
    """(prepared run, state of its best checkpoint)."""
    prepared = run.prepare(config())
    return prepared, restore_best(prepared, workdir)[0]


def logged(data, rows):
    """Columns of a file that has logged suggestions, at their times and with their ties."""
    shown = data.events["suggestion"]
    of_role = {role: data.nodes[shown.nodes[role].node_type].ids[shown.ids(role)[rows]] for role in ROLES}
    ties = {name: shown.feature(name).values[rows] for name in TIES}
    return {**of_role, "time": shown.time[rows], **ties, "accepted": shown.value("accepted")[rows]}


def some_rows(data):
    """Rows of all splits, of whole requests, in an order that is not theirs."""
    rows = np.flatnonzero(data.events["suggestion"].group % 60 == 1)
    return np.random.default_rng(0).permutation(rows)


def write(path, columns):
    pa_parquet.write_table(pa.table(columns), path)
    return path


def scores_of(ready, path, at=None):
    return request_serving.score_requests(*ready, request_serving.asked_of(ready[0], path, at))


def evaluated(ready, rows):
    """What the scorer that is evaluated says of logged rows."""
    logits = ready[0].scorer_function()(ready[1])(rows)["accepted"]
    return scipy.special.expit(logits.astype(np.float64))


def test_a_logged_suggestion_scores_as_its_row(ready, tmp_path, monkeypatch):
    """Exactly, in any order of the rows and in blocks of any size: histories, paths and clock are those of then."""
    data, rows = ready[0].data, some_rows(ready[0].data)
    path = write(tmp_path / "requests.parquet", logged(data, rows))
    np.testing.assert_array_equal(scores_of(ready, path), evaluated(ready, rows))
    monkeypatch.setattr(request_serving, "_RECORDS_AT_ONCE", 77)
    np.testing.assert_array_equal(scores_of(ready, path), evaluated(ready, rows))
    assert ready[0].encoder.encode(rows)["masks"]["accepted"].any() and len(rows) > 150


def test_a_logged_suggestion_scores_as_its_row_with_its_graph(tmp_path):
    """Also of users with more neighbours than are drawn: whom they get does not depend on what else is in the file."""
    prepared = run.prepare(config(has_graph=True))
    ready = prepared, prepared.initial_state()
    rows = some_rows(prepared.data)[:60]
    path = write(tmp_path / "requests.parquet", logged(prepared.data, rows))
    np.testing.assert_allclose(scores_of(ready, path), evaluated(ready, rows), rtol=1e-6)
    fanout = prepared.encoder.layout.neighbourhoods[0].fanouts[0]
    assert any((np.diff(view.starts) > fanout).any() for view in prepared.data.views.values())


def test_what_is_available_is_no_list_for_a_model_that_reads_a_scenario(ready):
    with pytest.raises(ConfigError, match=r"--at=39: 'treems' also reads the scenario of an event.*\(--requests\)"):
        live_serving.candidates_at(ready[0], Moment("39", 39.0, False))


def test_requests_are_ranked_by_hand(ready, tmp_path):
    data, rows = ready[0].data, some_rows(ready[0].data)
    path = write(tmp_path / "requests.parquet", logged(data, rows))
    asked = request_serving.asked_of(ready[0], path, None)
    output = tmp_path / "lists.parquet"
    counts = request_serving.write_requests(*ready, asked, 3, output)
    columns, scores = logged(data, rows), evaluated(ready, rows).astype(np.float32)
    requests: dict = {}
    for i in range(len(rows)):
        key = columns["user"][i], columns["scenario"][i], columns["time"][i]
        requests.setdefault(key, []).append((-float(scores[i]), i))
    wanted = []
    for (user, scenario, time), of in requests.items():
        for rank, (score, i) in enumerate(sorted(of)[:3], 1):
            of_request = {"user": user, "scenario": scenario, "time": time}
            wanted.append({**of_request, "rank": rank, "target_user": columns["target_user"][i], "score": -score})
    assert pa_parquet.read_table(output).to_pylist() == wanted
    assert counts == {"requests": len(requests), "candidates": len(rows), "rows": len(wanted)}
    assert asked.unread == ("accepted",) and asked.absent == () and len(requests) > 20


def test_a_scenario_that_training_never_saw_is_asked_for_with_its_siblings_unknown_child(ready, tmp_path):
    prepared, _ = ready
    data, shown = prepared.data, prepared.data.events["suggestion"]
    cold = np.setdiff1d(shown.ids("scenario"), shown.ids("scenario")[shown.split == 0])
    paths = prepared.encoder.scenario_paths["path"]
    assert len(cold) and np.isin(paths.rows[cold], paths.unknown).any(axis=1).all()
    rows = np.flatnonzero(np.isin(shown.ids("scenario"), cold))[:16]
    path = write(tmp_path / "requests.parquet", logged(data, rows))
    np.testing.assert_array_equal(scores_of(ready, path), evaluated(ready, rows))
    user = data.nodes["user"].ids
    one = {"user": user[:1], "target_user": user[1:2], "closeness": [0.0], "paid": [0.0], "shared": [0.0]}
    of_scenario = {}
    for scenario in cold.tolist():
        path = write(tmp_path / "one.parquet", {**one, "scenario": data.nodes["scenario"].ids[[scenario]]})
        of_scenario.setdefault(tuple(paths.rows[scenario]), []).append(
            float(scores_of(ready, path, Moment("39", 39.0, is_date=False))[0])
        )
    assert all(len(set(of)) == 1 for of in of_scenario.values()) and len(of_scenario) > 1


def test_a_column_that_is_not_there_is_named(ready, tmp_path, monkeypatch):
    warned, columns = [], logged(ready[0].data, np.arange(8))
    monkeypatch.setattr(request_serving.logging, "warning", lambda text, *of: warned.append(text % of))
    scores_of(ready, write(tmp_path / "r.parquet", columns))
    assert warned == []
    del columns["paid"]
    scores_of(ready, write(tmp_path / "r.parquet", columns))
    assert len(warned) == 1 and "newest event of the same target_user" in warned[0] and warned[0].endswith(": paid")


def test_requests_are_numbered_in_the_order_of_their_first_rows():
    users, times = np.array([4, 2, 4, 2, 4]), np.array([1.0, 0.5, 1.0, 0.5, 0.0])
    assert request_files.request_numbers([users, times]).tolist() == [0, 1, 0, 1, 2]
    order, ranks = request_serving.ranked(np.array([0.1, 0.3, 0.2, 0.3, 0.9]), np.array([0, 1, 0, 1, 2]), 5)
    assert order.tolist() == [2, 0, 1, 3, 4] and ranks.tolist() == [1, 2, 1, 2, 1]


GOOD = (
    "user,target_user,scenario,time,closeness\nuser_00000,user_00001,{leaf},35,0.5\nuser_00000,user_00002,{leaf},35,0\n"
)
WRONG = {
    "no target": (
        ("target_user", "target"),
        r"no column 'target_user' \(did you mean 'target'\?\); it has: user",
    ),
    "no scenario": (("scenario", "place"), "no column 'scenario'; it has: .* add a column with the ids of type scenar"),
    "no time": (("time", "when"), "no column 'time', and --at is missing; add the column, or give --at=TIME"),
    "user": (
        ("user_00000,user_00001", "nobody,user_00001"),
        r"line 2, column 'user': id nobody is no user of data set 'sharing-.*' \(1 such ids in 1 rows\); correct it, "
        r"leave the rows out, or add it to the data as a user and train on from this run \(train --init_from\)",
    ),
    "target": ((",user_00002,", ",user_x,"), "line 3, column 'target_user': id user_x is no user of"),
    "scenario": (
        ("{leaf}", "moon"),
        r"line 2, column 'scenario': id moon is no scenario of .* \(1 such ids in 2 rows\); .* tree's file under its",
    ),
    "twice": (
        (",user_00002,", ",user_00001,"),
        r"line 3, column 'target_user': user_00001 is a candidate of this request already \(line 2; 1 such rows\)",
    ),
    "dates": ((",35,", ",2025-05-05,"), "column 'time': dates, but times of data set 'sharing-.*' are numbers"),
    "time": ((",35,0.5", ",soon,0.5"), "line 2, column 'time': 'soon' is not a number"),
    "tie": ((",0.5", ",near"), "line 2, column 'closeness': 'near' is not a number"),
    "nobody": (("user_00000,user_00002", ",user_00002"), "line 3, column 'user': empty value where an id is expected"),
    "empty": (("{all}", ""), "empty file; write or copy it again; the first line names the columns"),
}


def text_of(data, old="", new=""):
    leaf = str(data.nodes["scenario"].ids[-1])
    text = new if old == "{all}" else GOOD.replace(old, new) if old else GOOD
    return text.replace("{leaf}", f'"{leaf}"')


@pytest.mark.parametrize("case", WRONG)
def test_files_that_cannot_be_asked_are_refused(ready, tmp_path, case):
    (old, new), message = WRONG[case]
    data = ready[0].data
    path = tmp_path / "requests.csv"
    path.write_text(text_of(data))
    assert request_serving.asked_of(ready[0], path, None).requests.tolist() == [0, 0]
    assert old == "{all}" or old in GOOD
    path.write_text(text_of(data, old, new))
    with pytest.raises(DataError, match=message):
        request_serving.asked_of(ready[0], path, None)


def test_a_target_that_is_not_available_then_is_refused(ready, tmp_path):
    prepared, _ = ready
    size = len(prepared.data.nodes["user"])
    windows = Availability(np.full(size, 36.0), np.full(size, np.inf))
    closed = dataclasses.replace(prepared, data=prepared.data.replace(availability={"user": windows}))
    path = tmp_path / "requests.csv"
    path.write_text(text_of(prepared.data))
    message = r"line 2, column 'target_user': user user_00001 is available from 36.0 to an unknown time \(exclusive\)"
    with pytest.raises(DataError, match=message + r", not at 35.0 \(2 such rows\)"):
        request_serving.asked_of(closed, path, None)


def test_recommend_answers_requests_and_refuses_flags_of_other_lists(ready, workdir, tmp_path):
    data, rows = ready[0].data, np.arange(16)
    path = write(tmp_path / "requests.parquet", logged(data, rows))
    output = tmp_path / "lists.tsv"
    command = (f"--workdir={workdir}", f"--requests={path}", f"--output={output}", "--k=2")
    result = runs.command("recommend", *command)
    assert result.code == 0, result.err
    lines = output.read_text().splitlines()
    assert lines[0].replace('"', "").split("\t") == ["user", "scenario", "time", "rank", "target_user", "score"]
    assert len(lines) == 1 + 2 * 2
    for flags, message in (
        (("--users=users.txt",), "--users: --requests="),
        (("--include_seen",), "--include_seen: --requests="),
        (("--export_embeddings=vectors",), "--export_embeddings: --requests="),
        (("--at=35",), "a column 'time', and --at is given too"),
        (("--at=2025-05-05",), "--at=2025-05-05: a date, but this data's times are numbers"),
        (("--requests=requests.json",), "--requests=requests.json: unknown ending"),
    ):
        assert message in runs.refusal("recommend", *command, *flags)


def test_recommend_refuses_requests_for_a_model_of_relations(earlier, tmp_path):
    message = runs.refusal("recommend", f"--workdir={earlier}", "--requests=r.csv", f"--output={tmp_path}/lists.csv")
    assert "learns relations, and its lists are of all items" in message


def test_a_streamer_of_the_room_need_not_be_named(tmp_path):
    """What `hosts` tells of the target is in no file of requests, and is no part of a request."""
    prepared = run.prepare(event_runs.event_config())
    data, shown = prepared.data, prepared.data.events["impression"]
    rows = np.arange(1_000, 1_040)
    columns = {role: data.nodes[role].ids[shown.ids(role)[rows]] for role in ("user", "room", "streamer")}
    columns |= {"time": shown.time[rows], "viewers": shown.feature("viewers").values[rows]}
    ready = prepared, prepared.initial_state()
    path = write(tmp_path / "r.parquet", columns)
    asked = request_serving.asked_of(prepared, path, None)
    assert asked.unread == ("streamer",)
    found = request_serving.score_requests(*ready, asked)
    logits = prepared.scorer_function()(ready[1])(rows)["watched"]
    np.testing.assert_array_equal(found, scipy.special.expit(logits.astype(np.float64)))
    columns["viewers"] = np.where(np.arange(40) == 7, np.float32(-1), columns["viewers"])
    with pytest.raises(DataError, match="row 8, column 'viewers': -1, but the model reads the logarithm"):
        request_serving.asked_of(prepared, write(path, columns), None)
    with pytest.raises(ConfigError, match="--at=2025-05-05: a date"):
        request_serving.asked_of(prepared, path, Moment("2025-05-05", 1.7e9, is_date=True))
