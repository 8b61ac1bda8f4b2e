"""The simulated world of sharing: sizes, order, openings, slates, planted effects, refusals."""

import dataclasses
import functools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lsec_jax.config import ConfigError, SplitConfig
from lsec_jax.data.sources import sharing_world
from lsec_jax.data.sources.sharing_world_draws import TIES, draw_slates
from lsec_jax.data.splits import assign_splits
from lsec_jax.models.live_baselines import LiveBaselines
from lsec_jax.schema import DataError, EventTruth, Truth
from tests.data.live_world.live_worlds import binned_z_scores, z_score

ROLES = ("user", "target_user", "scenario")


@functools.cache
def loaded(seed=0, **changes):
    """`tiny`, generated once."""
    return sharing_world.tiny(seed=seed, **changes).load()


@functools.cache
def large():
    """A world with enough rows for statistics, and the default tree and slates."""
    return sharing_world.Config(num_users=1_500, num_requests=12_000).load()


def suggested(data):
    """The suggestions, and their roles' ids as int64."""
    events = data.events["suggestion"]
    return events, *(events.ids(role).astype(np.int64) for role in ROLES)


def log_odds_inputs(data):
    """What the scenario's coefficients are multiplied with, in the order of `truth.effects`, [rows, 5 + topics]."""
    events, users, targets, _ = suggested(data)
    of = data.truth.tastes / np.linalg.norm(data.truth.tastes, axis=1, keepdims=True)
    alike = 2 * (of[users] * of[targets]).sum(axis=1) - 1
    ties = [events.feature(name).values for name in TIES]
    return np.column_stack([np.ones(len(users)), alike, *ties, of[targets]])


def scores(data, config, nodes):
    """Log-odds, but for a constant, by the effects of some node of each row, [rows]."""
    means = np.array([0, config.similarity, config.closeness, config.paid, config.shared, *[0.0] * config.num_topics])
    return (log_odds_inputs(data) * (means + data.truth.effects)[nodes]).sum(axis=1)


def test_sizes_are_those_asked_for_and_the_data_is_valid():
    data = loaded()
    data.validate()
    events = data.events["suggestion"]
    assert len(data.nodes["user"]) == 300 and len(events) == 1_500 * 8
    assert len(data.nodes["scenario"]) == 1 + 2 + 4 + 12 + 48
    assert len(data.relations["friend"]) == 300 * 8
    default = sharing_world.Config()
    assert default.num_requests * default.slate_size == 600_000 and default.num_new() == (27, 2)


def test_a_seed_gives_the_same_world_and_another_seed_another_one():
    first, again, other = (sharing_world.tiny(seed=seed).load().fingerprint() for seed in (1, 1, 2))
    assert first == again != other


def test_a_knob_of_one_part_leaves_the_others_as_they_were():
    plain, other = loaded(), loaded(accept_rate=0.3, bias_spread=0.1)
    for role in ROLES:
        np.testing.assert_array_equal(plain.events["suggestion"].ids(role), other.events["suggestion"].ids(role))
    assert other.truth.accepted.mean() == pytest.approx(0.3, abs=1e-4)
    share = [loaded(pay_share=share).relations["friend"].weight for share in (0.3, 0.1)]
    np.testing.assert_array_equal(*share)


def test_suggestions_rise_in_time_and_begin_where_the_views_end():
    data = loaded()
    events = data.events["suggestion"]
    assert (np.diff(events.time) >= 0).all()
    assert 30.0 <= events.time[0] and events.time[-1] < data.end_time == 40.0
    for name in ("pay", "share_view"):
        times = data.relations[name].time
        assert len(times) > 100 and (times >= 0).all() and (times < 30.0).all()


def test_views_hold_friends_alone_and_ties_agree_with_them():
    data = loaded()
    events, users, targets, _ = suggested(data)
    closeness = {}
    for relation in (data.relations[name] for name in ("friend", "pay", "share_view")):
        pairs = list(zip(relation.source_ids.tolist(), relation.target_ids.tolist(), strict=True))
        closeness[relation.name] = dict(zip(pairs, relation.weight, strict=True))
    friend, pay, share = closeness.values()
    assert all(friend[v, u] == weight and u != v for (u, v), weight in friend.items())
    assert set(pay) <= set(friend) and set(share) <= set(friend)
    found = zip(*(events.feature(name).values for name in TIES), strict=True)
    for pair, of in zip(zip(users.tolist(), targets.tolist(), strict=True), found, strict=True):
        assert of == (friend.get(pair, 0.0), pair in pay, pair in share)
    assert min(share.values()) >= 1


def test_a_request_is_one_user_in_one_scenario_at_one_moment_and_its_candidates_are_others_and_different():
    events, users, targets, nodes = suggested(loaded())
    group = events.group.reshape(-1, 8)
    np.testing.assert_array_equal(group, np.repeat(np.arange(1_500), 8).reshape(-1, 8))
    for column in (users, nodes, events.time):
        assert (column.reshape(-1, 8) == column[::8, None]).all()
    assert (targets != users).all()
    assert all(len(set(slate)) == 8 for slate in targets.reshape(-1, 8))


def test_slates_mix_friends_friends_of_friends_and_others():
    data = loaded()
    by_kind = {
        kind: sharing_world.tiny(friend_slots=slots[0], near_slots=slots[1]).load()
        for kind, slots in {"friends": (1.0, 0.0), "near": (0.0, 1.0), "others": (0.0, 0.0)}.items()
    }
    friends = {
        kind: (of.events["suggestion"].feature("closeness").values > 0).mean()
        for kind, of in {**by_kind, "mixed": data}.items()
    }
    assert friends["friends"] > friends["mixed"] + 0.1 > friends["near"] + 0.2 > friends["others"] + 0.2
    assert friends["others"] < 0.06

    def same_circle(of):
        _, users, targets, _ = suggested(of)
        circles = of.truth.tastes.argmax(axis=1)
        return (circles[users] == circles[targets]).mean()

    assert same_circle(by_kind["near"]) > same_circle(by_kind["others"]) + 0.2


def test_the_smallest_crowd_still_fills_every_slate():
    data = sharing_world.tiny(num_users=16, slate_size=4, num_friends=0.0).load()
    data.validate()
    assert not data.relations
    assert not data.events["suggestion"].feature("closeness").values.any()
    friends = sharing_world.draw_friends(np.eye(5), 0.0, 0.0, np.random.default_rng(0))
    activity = np.array([1.0, 0.0, 0.0, 0.0, 0.0])  # all draws by activity are of the user herself
    slates = draw_slates(np.zeros(50, int), 4, (0.5, 0.5), friends, activity, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(slates, axis=1), np.tile([1, 2, 3, 4], (50, 1)))


def test_scenarios_are_leaves_with_a_long_tail():
    data = large()
    _, _, _, nodes = suggested(data)
    tree = data.trees["scenario"]
    assert (tree.depths()[nodes] == 4).all() and tree.depths().max() == 4
    assert tree.parents[0] == -1 and data.nodes["scenario"].ids[0] == "C2C"
    in_training = np.bincount(nodes[: int(0.8 * len(nodes))], minlength=265)[49:]
    counts = np.sort(in_training)[::-1]
    assert len(counts) == 216 and counts[:43].sum() > 0.8 * counts.sum()
    assert (in_training < 200).mean() > 0.25


def test_new_scenarios_are_in_no_training_row_and_all_of_them_in_the_test():
    data = assign_splits(large(), SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)), ("suggestion",))
    events, _, _, nodes = suggested(data)
    counts = np.stack([np.bincount(nodes[events.split == code], minlength=265) for code in range(3)])
    opening, parents = data.availability["scenario"].start, data.trees["scenario"].parents
    new = np.flatnonzero(np.isfinite(opening))
    leaves = new[new >= 49]
    assert len(leaves) == 27
    assert (counts[0, leaves] == 0).all() and (counts[2, leaves] > 0).all() and counts[1, leaves].sum() > 0
    assert 0.15 < counts[2, leaves].sum() / counts[2].sum() < 0.3
    assert data.availability["scenario"].at(events.time, nodes).all()
    # Two lowest inner nodes are new as a whole; all other new leaves have a sibling that was there before.
    assert len(new) - len(leaves) == 2
    for node in range(1, 265):
        below = np.flatnonzero(parents == node)
        assert len(below) == 0 or opening[node] == opening[below].min()
    of_branches = np.isin(parents[leaves], new)
    assert of_branches.sum() == 12
    assert not np.isfinite(opening[parents[leaves[~of_branches]]]).any()


def test_a_world_without_new_scenarios_is_open_from_the_start():
    data = loaded(new_scenarios=0.0)
    data.validate()
    assert (data.availability["scenario"].start == -np.inf).all()


def test_acceptance_agrees_with_the_truth_in_every_bin():
    data = large()
    accepted, chances = data.events["suggestion"].value("accepted"), data.truth.expected("suggestion", "accepted")
    assert accepted.dtype == bool and chances.dtype == np.float32 and len(chances) == len(accepted)
    assert abs(z_score(accepted, chances)) < 4 and np.abs(binned_z_scores(accepted, chances, 10)).max() < 4
    assert chances.mean() == pytest.approx(0.2, abs=1e-4)
    assert 0.79 < roc_auc_score(accepted, chances) < 0.88


def test_the_truth_is_the_sum_of_what_is_planted():
    data, config = loaded(), sharing_world.tiny()
    _, _, _, nodes = suggested(data)
    chances = data.truth.accepted.astype(np.float64)
    constant = np.log(chances / (1 - chances)) - scores(data, config, nodes)
    np.testing.assert_allclose(constant, np.median(constant), atol=1e-3)


def test_effects_are_inherited_and_siblings_are_alike():
    config = sharing_world.Config(num_users=100, num_requests=400, scenario_branching=(20, 20, 5), new_scenarios=0.0)
    config.level_shares = (6.0, 3.0, 1.0)
    truth = config.load().truth
    leaves = truth.effects[1 + 20 + 400 :].reshape(20, 20, 5, 17)
    np.testing.assert_array_equal(truth.effects[0], 0.0)
    within = leaves.var(axis=2, ddof=1).mean(axis=(0, 1))
    spreads = np.array([0.7, 1.2, *[0.5] * 3, *[1.2] * 12])
    np.testing.assert_allclose(within, 0.1 * spreads**2, rtol=0.15)
    between = leaves.mean(axis=(1, 2)).var(axis=0, ddof=1)
    np.testing.assert_allclose(between.mean(), (0.6 * spreads**2).mean(), rtol=0.4)


@pytest.mark.parametrize("seed", [0, 1])
def test_knowing_the_scenario_is_worth_much_and_its_parent_tells_most_of_it(seed):
    config = sharing_world.Config(num_users=1_500, num_requests=12_000, seed=seed)
    data = config.load()
    events, _, _, nodes = suggested(data)
    accepted, parents = events.value("accepted"), data.trees["scenario"].parents
    inputs, cut = log_odds_inputs(data)[:, 1:], int(0.8 * len(nodes))
    blind = LogisticRegression(max_iter=500).fit(inputs[:cut], accepted[:cut]).decision_function(inputs[cut:])
    is_new = np.isfinite(data.availability["scenario"].start[nodes[cut:]])
    for rows in (slice(None), is_new):
        of = accepted[cut:][rows]
        oracle = roc_auc_score(of, data.truth.accepted[cut:][rows])
        parent = roc_auc_score(of, scores(data, config, parents[nodes])[cut:][rows])
        ignoring = roc_auc_score(of, blind[rows])
        assert oracle > ignoring + 0.05
        assert parent > ignoring + 0.6 * (oracle - ignoring)


def test_the_same_pair_suits_some_scenarios_and_not_others():
    similarity = large().truth.effects[49:, 1] + sharing_world.Config().similarity
    assert (similarity > 0.3).mean() > 0.1 and (similarity < -0.3).mean() > 0.1


def test_friends_tell_tastes_and_features_tell_less():
    data = large()
    tastes, friend = data.truth.tastes, data.relations["friend"]
    near = np.zeros_like(tastes)
    np.add.at(near, friend.source_ids, tastes[friend.target_ids])
    degrees = np.maximum(np.bincount(friend.source_ids, minlength=len(tastes)), 1)
    users = data.nodes["user"].features
    codes = [np.eye(len(of.vocabulary))[of.values] for of in users.values() if of.kind != "numeric"]

    def explained(inputs):
        inputs = np.column_stack([np.ones(len(tastes)), inputs])
        left = tastes - inputs @ np.linalg.lstsq(inputs, tastes, rcond=None)[0]
        return 1.0 - left.var(axis=0).sum() / tastes.var(axis=0).sum()

    assert explained(near / degrees[:, None]) > 0.4
    assert 0.02 < explained(np.column_stack(codes)) < 0.25
    _, users_shown, targets, _ = suggested(data)
    asked = np.bincount(users_shown, minlength=1_500)
    assert np.corrcoef(users["log_activity"].values, np.log1p(asked))[0, 1] > 0.7
    shown = np.bincount(targets, minlength=1_500)
    assert np.quantile(shown, 0.1) < 0.3 * shown.mean()


def test_the_oracle_of_evaluation_finds_its_probabilities():
    data = assign_splits(loaded(), SplitConfig(method="time", fractions=(0.8, 0.1, 0.1)), ("suggestion",))
    assert isinstance(data.truth, Truth) and isinstance(data.truth, EventTruth)
    accepted = data.events["suggestion"].value("accepted")
    columns = {"accepted": "accepted"}
    baselines = LiveBaselines(data, "suggestion", "user", "target_user", "accepted", accepted, columns, 1.0, 10.0)
    rows = np.array([5, 3])
    np.testing.assert_array_equal(baselines.oracle()(rows)["accepted"], data.truth.accepted[rows])
    with pytest.raises(DataError, match=r"no truth of suggestion.shared; it has: suggestion.accepted"):
        data.truth.expected("suggestion", "shared")
    with pytest.raises(DataError, match="no probabilities of relation 'friend'"):
        data.truth.probabilities("friend", np.array([0]), 0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_users": 0}, r"data.num_users=0 cannot be used: give a finite number of at least 1"),
        ({"slate_size": 76}, r"data.slate_size=76 .* a quarter of num_users=300"),
        ({"view_share": 1.0}, r"data.view_share=1.0 .* chance in \(0, 1\)"),
        ({"view_share": 0.0}, r"data.view_share"),
        ({"accept_rate": 0.0}, r"data.accept_rate"),
        ({"new_traffic": 1.0}, r"data.new_traffic=1.0 .* \[0, 1\)"),
        ({"new_traffic": 0.0}, r"data.new_traffic=0.0 .* there are new scenarios"),
        ({"friend_slots": 0.8}, r"data.near_slots=0.3 .* friend_slots=0.8 at most 1"),
        ({"circle_strength": 1.1}, r"data.circle_strength"),
        ({"taste_concentration": 0.0}, r"data.taste_concentration"),
        ({"taste_concentration": np.inf}, r"data.taste_concentration"),
        ({"activity_spread": np.nan}, r"data.activity_spread=nan"),
        ({"closeness": 11.0}, r"data.closeness"),
        ({"share_rate": -0.1}, r"data.share_rate"),
        ({"seed": -1}, r"data.seed"),
        ({"scenario_branching": ()}, r"data.scenario_branching=\(\)"),
        ({"scenario_branching": (2, 0)}, r"data.scenario_branching"),
        ({"scenario_branching": (48,)}, r"data.level_shares=.* give 1 numbers"),
        ({"level_shares": (0.0, 0.0, 0.0, 0.0)}, r"data.level_shares"),
        ({"level_shares": (0.5, 0.6, -0.1, 0.0)}, r"data.level_shares"),
        ({"new_scenarios": 0.9, "new_branches": 0.0}, r"data.new_scenarios=0.9 .* at most 36 can be new"),
        ({"new_scenarios": 0.99, "new_branches": 1.0}, r"data.new_scenarios"),
        ({"num_requests": 30}, r"data.num_requests=30 .* at least 70"),
    ],
)
def test_knobs_that_cannot_be_used_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        sharing_world.tiny(**changes).load()


def test_every_knob_is_described():
    described = sharing_world.Config.__doc__
    assert all(f"{field.name}" in described for field in dataclasses.fields(sharing_world.Config))
