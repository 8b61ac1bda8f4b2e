"""Lists of live rooms at a moment: what can be on them, and that their scores are those of records."""

import dataclasses

import numpy as np
import pyarrow.parquet as pa_parquet
import pytest
import scipy.special

from lsec_jax.config import ConfigError
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.requests import CANDIDATES, CandidateEvents
from lsec_jax.declaration import Field
from lsec_jax.schema import Availability, DataError
from lsec_jax.training import fit, live_serving, run
from lsec_jax.training.serving import Moment
from lsec_jax.training.workdirs import restore_best
from tests import event_runs, runs
from tests.event_runs import compiled_once  # noqa: F401 a fixture

pytestmark = pytest.mark.usefixtures("no_pictures", "compiled_once")

CONFIG = event_runs.event_config(
    event_runs.baseline_model(tasks=("stay",), task_weights=(0.1,), tower_reads_dynamic=True)
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit.run(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def ready(workdir):
    """(prepared run, state of its best checkpoint)."""
    prepared = run.prepare(CONFIG)
    return prepared, restore_best(prepared, workdir)[0]


def moment(time):
    return Moment(f"{time!r}", float(time), is_date=False)


def busy_time(data):
    """A moment at which several rooms are live, one of which begins then."""
    windows = data.availability["room"]
    counts = [windows.at(start).sum() for start in windows.start]
    return float(windows.start[int(np.argmax(counts))])


def lists(ready, path, at, users=None, k=50):
    """The rows of a list as dicts, and the counts."""
    counts = live_serving.write_live_recommendations(*ready, users, k, path, at)
    return pa_parquet.read_table(path).to_pylist(), counts


def external_rooms(data, internal):
    return set(data.nodes["room"].ids[internal].tolist())


def test_rooms_are_on_lists_from_their_start_on_and_at_their_end_no_more(ready, tmp_path):
    data = ready[0].data
    windows, users = data.availability["room"], data.nodes["user"].ids[:2]
    start = busy_time(data)
    room = int(np.flatnonzero(windows.start == start)[0])
    external = data.nodes["room"].ids[room]
    ends = windows.end[windows.at(start)]
    for time in (start, np.nextafter(start, 0), float(ends.min()), float(np.nextafter(ends.min(), 0))):
        found, _ = lists(ready, tmp_path / "r.parquet", moment(time), users)
        wanted = {i for i in range(len(windows.start)) if windows.start[i] <= time < windows.end[i]}
        assert {row["room_id"] for row in found} == external_rooms(data, sorted(wanted)) != set()
        assert (external in {row["room_id"] for row in found}) == (time >= start and time < windows.end[room])


def test_each_user_has_k_rows_by_falling_score_and_each_room_once(ready, tmp_path):
    data = ready[0].data
    at = moment(busy_time(data))
    num_live = len(live_serving.candidates_at(ready[0], at))
    whole, counts = lists(ready, tmp_path / "r.parquet", at)
    assert counts == {"users": 60, "users_from_popularity": 0, "rows": 60 * num_live} and num_live >= 3
    for i, user in enumerate(data.nodes["user"].ids.tolist()):
        own = whole[i * num_live : (i + 1) * num_live]
        assert [row["rank"] for row in own] == [*range(1, num_live + 1)] and {row["user_id"] for row in own} == {user}
        scores = [row["score"] for row in own]
        assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] < 1
        assert len({row["room_id"] for row in own}) == num_live
    first, counts = lists(ready, tmp_path / "r.parquet", at, k=2)
    assert counts["rows"] == 120 and first == [row for row in whole if row["rank"] <= 2]


def test_scores_and_repeats_are_those_of_records_at_the_moment(ready, tmp_path):
    prepared, state = ready
    data, encoder = prepared.data, prepared.encoder
    at = moment(busy_time(data) + 1e-3)
    rooms = live_serving.candidates_at(prepared, at)
    found, _ = lists(ready, tmp_path / "r.parquet", at)
    pairs = np.repeat(np.arange(60), len(rooms)), np.tile(rooms, 60)
    made = CandidateEvents(data, encoder.declaration)(*pairs, np.full(len(pairs[0]), at.time))
    scores = prepared.score(state.params, made.rows, encoder.reading(made.data, CANDIDATES))["watched"]
    external = [data.nodes[name].ids[ids].tolist() for name, ids in zip(("user", "room"), pairs, strict=True)]
    wanted = dict(zip(zip(*external, strict=True), scipy.special.expit(scores), strict=True))
    shown = data.events["impression"]
    before = shown.value("watched") & (shown.time < at.time)
    visits = set(zip(shown.ids("user")[before].tolist(), shown.ids("streamer")[before].tolist(), strict=True))
    relation = data.relations["hosts"]
    hosts = dict(zip(relation.target_ids.tolist(), relation.source_ids.tolist(), strict=True))
    internal = dict(zip(zip(*external, strict=True), zip(*(of.tolist() for of in pairs), strict=True), strict=True))
    repeats = 0
    for row in found:
        pair = row["user_id"], row["room_id"]
        assert row["score"] == pytest.approx(wanted[pair], rel=1e-5) and row["source"] == "model"
        user, room = internal[pair]
        assert row["is_repeat"] == ((user, hosts[room]) in visits)
        repeats += row["is_repeat"]
    assert 0 < repeats < len(found)


def test_a_candidate_that_was_shown_scores_as_its_impression_if_its_dynamic_context_is_given(ready):
    prepared, state = ready
    shown = prepared.data.events["impression"]
    rows = np.flatnonzero(shown.split == 2)[::7]
    given = {name: feature.values[rows] for name, feature in shown.features.items()}
    pairs = shown.ids("user")[rows], shown.ids("room")[rows], shown.time[rows]
    of_impressions = prepared.score(state.params, rows)["watched"]
    for known in (given, {}):
        made = CandidateEvents(prepared.data, prepared.encoder.declaration)(*pairs, known)
        scores = prepared.score(state.params, made.rows, prepared.encoder.reading(made.data, CANDIDATES))["watched"]
        assert np.array_equal(scores, of_impressions) == bool(known)  # without, viewers are those of an earlier one


def test_a_room_that_was_never_shown_scores_from_its_streamer_and_category(ready, tmp_path):
    """It scores as its streamer's other room of the same category that nobody was shown yet."""
    prepared, state = ready
    data = prepared.data
    rooms, hosts = data.nodes["room"], data.relations["hosts"]
    of = {room: streamer for streamer, room in zip(hosts.source_ids.tolist(), hosts.target_ids.tolist(), strict=True)}
    windows = data.availability["room"]
    room = int(np.argmax(windows.start))
    same = [i for i in of if i != room and of[i] == of[room]]
    other = [i for i in of if of[i] != of[room]]
    at = moment(0.0)  # before anything was shown
    start, end = np.full(len(windows.start), 5.0), np.full(len(windows.start), 6.0)
    chosen = [room, same[0], other[0]]
    start[chosen], end[chosen] = 0.0, 1.0
    category = rooms.features["category"]
    values = category.values.copy()
    values[same[0]] = values[room]
    features = {**rooms.features, "category": dataclasses.replace(category, values=values)}
    nodes = {**data.nodes, "room": dataclasses.replace(rooms, features=features)}
    moved = data.replace(nodes=nodes, availability={"room": Availability(start, end)})
    encoder = EventEncoder(moved, prepared.encoder.declaration, prepared.encoder.fitted)
    again = dataclasses.replace(prepared, data=moved, encoder=encoder)
    found, _ = lists((again, state), tmp_path / "r.parquet", at, data.nodes["user"].ids[:3])
    scores = {(row["user_id"], row["room_id"]): row["score"] for row in found}
    assert len(found) == 9 and not any(row["is_repeat"] for row in found)
    for user in data.nodes["user"].ids[:3].tolist():
        one, same_one, another = (scores[user, rooms.ids[i]] for i in chosen)
        assert one == same_one != another


def test_unknown_users_get_the_list_by_popularity_of_the_streamers_until_then(ready, tmp_path):
    data = ready[0].data
    at = moment(busy_time(data))
    users = np.append(data.nodes["user"].ids[3:4], "a_stranger")
    found, counts = lists(ready, tmp_path / "r.parquet", at, users)
    assert counts["users"] == 2 and counts["users_from_popularity"] == 1
    strange = [row for row in found if row["user_id"] == "a_stranger"]
    assert {row["source"] for row in strange} == {"popularity"} and not any(row["is_repeat"] for row in strange)
    assert {row["source"] for row in found if row not in strange} == {"model"}
    shown, hosts = data.events["impression"], data.relations["hosts"]
    watched = shown.value("watched") & (shown.time < at.time)
    visits = np.bincount(shown.ids("streamer")[watched], minlength=8)
    of = dict(zip(data.nodes["room"].ids[hosts.target_ids].tolist(), hosts.source_ids.tolist(), strict=True))
    assert [row["score"] for row in strange] == sorted((visits[of[row["room_id"]]] for row in strange), reverse=True)
    assert strange[0]["score"] > strange[-1]["score"]


def test_fields_that_no_event_tells_ahead_are_named(ready, tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(live_serving.logging, "warning", lambda text, *given: warned.append(text % given))
    at = moment(busy_time(ready[0].data))
    lists(ready, tmp_path / "known.parquet", at, ready[0].data.nodes["user"].ids[:2])
    assert warned == []
    features = event_runs.small_declaration()
    place = Field("place", ".position", "dynamic")
    features = dataclasses.replace(features, fields=(*features.fields, place))
    config = event_runs.event_config(event_runs.baseline_model(features=features, tower_reads_dynamic=True))
    other = run.prepare(config)
    lists((other, other.initial_state()), tmp_path / "blank.parquet", at, ready[0].data.nodes["user"].ids[:2])
    assert len(warned) == 1 and warned[0].endswith("shown as missing, or as no: place")


def test_a_moment_without_rooms_or_of_another_kind_is_refused(ready):
    prepared, _ = ready
    with pytest.raises(DataError, match=r"--at=1000.0: no room is available then"):
        live_serving.candidates_at(prepared, moment(1000.0))
    with pytest.raises(ConfigError, match=r"--at=2025-05-05: a date, but this data's times are numbers; windows"):
        live_serving.candidates_at(prepared, Moment("2025-05-05", 1.7e9, is_date=True))
    without = dataclasses.replace(prepared, data=prepared.data.replace(availability={}))
    with pytest.raises(ConfigError, match=r"this run's data does not say when each room is available"):
        live_serving.candidates_at(without, moment(3.0))


def test_recommend_writes_what_the_functions_write_and_refuses_flags_of_other_models(ready, workdir, tmp_path):
    at = busy_time(ready[0].data)
    output = tmp_path / "lists.parquet"
    (tmp_path / "users.txt").write_text("\n".join(ready[0].data.nodes["user"].ids[:4].tolist()) + "\n")
    command = (f"--workdir={workdir}", "--k=3", f"--output={output}")
    result = runs.command("recommend", *command, f"--at={at!r}", f"--users={tmp_path}/users.txt")
    assert result.code == 0, result.err
    table = pa_parquet.read_table(output)
    assert table.column_names == ["user_id", "rank", "room_id", "score", "source", "is_repeat"]
    found, _ = lists(ready, tmp_path / "r.parquet", moment(at), ready[0].data.nodes["user"].ids[:4], k=3)
    assert table.to_pylist() == found and len(found) == 12
    for flags, message in (
        ((), "--at is missing: 'wdl' ranks what is available at a time; give a number or date"),
        (("--at=3", "--include_seen"), "--include_seen: rooms of known streamers are always candidates"),
        (("--at=3", f"--export_embeddings={tmp_path}/vectors"), "'wdl' has no final vectors of nodes; leave the flag"),
        (("--at=1000",), "--at=1000: no room is available then"),
        (("--at=soon",), "--at=soon: neither a number nor an ISO 8601 date"),
    ):
        assert message in runs.refusal("recommend", *command, *flags)
    assert not (tmp_path / "vectors").exists()
