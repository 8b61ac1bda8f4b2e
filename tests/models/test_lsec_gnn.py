"""LSEC-GNN against a slow numpy transcription of Eq. 4-11, and its traps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lsec_jax.config import ConfigError
from lsec_jax.models.lsec_gnn import Config, TaskConfig
from lsec_jax.nn.propagation import exclude_edges
from lsec_jax.nn.sampling import draw_targets, hardest_targets, uniform_targets
from lsec_jax.schema import DataError, LiveCommerceData, NodeTable, Relation
from lsec_jax.training.state import Keys, TrainableModel
from tests import runs
from tests.worlds import ENDS, NUM_NODES, random_edges, world


def build(data=None, **changes):
    defaults = {"embedding_dim": 6, "layer_dims": (5, 4), "predictor_hidden": 7, "exclude_batch_edges": False}
    config = Config(**(defaults | changes))
    config.validate()
    model = TrainableModel(config.build(data or world(), nnx.Rngs(1)))
    return config, model, model.init(Keys.from_seed(0))


def normalised(source_ids, target_ids, num_sources, num_targets, self_loop):
    size = num_sources + num_targets
    adjacency = np.zeros((size, size))
    adjacency[source_ids, num_sources + target_ids] = adjacency[num_sources + target_ids, source_ids] = 1
    adjacency += np.eye(size) * self_loop
    degrees = np.maximum(adjacency.sum(1), 1e-30)
    return adjacency / np.sqrt(degrees[:, None] * degrees[None, :])


def leaky_relu(values):
    return np.where(values > 0, values, 0.2 * values)


def gat_in_numpy(hidden, split, edges, weights, self_loop, num_heads):
    """Velickovic et al. Eq. 1-5, node by node and head by head."""
    weights = {name: {k: np.asarray(v, np.float64) for k, v in heads.items()} for name, heads in weights.items()}
    neighbors = [[i] if self_loop else [] for i in range(len(hidden))]
    for source, target in zip(*edges, strict=True):
        neighbors[source].append(split + target)
        neighbors[split + target].append(source)
    result = []
    for i, near in enumerate(neighbors):
        heads = weights["to_source_heads"] if i < split else weights.get("to_target_heads", weights["to_source_heads"])
        projected = (hidden @ heads["weights"]).reshape(len(hidden), num_heads, -1)
        row = np.zeros(projected.shape[1:])
        for h in range(num_heads):
            own = heads["receiver_vectors"][h] @ projected[i, h]
            logits = np.array([leaky_relu(own + heads["sender_vectors"][h] @ projected[j, h]) for j in near])
            if near:
                attention = np.exp(logits) / np.exp(logits).sum()
                row[h] = attention @ projected[near, h]
        result.append(row.ravel())
    return np.array(result)


def encode_in_numpy(config, params, edges):
    """Eq. 5-7, with the matrices written out."""
    parts = {}
    activate = {
        "gcn": lambda values: np.maximum(values, 0),
        "lightgcn": lambda values: values,
        "ngcf": leaky_relu,
        "gat": lambda values: np.where(values > 0, values, np.expm1(values)),
    }[config.aggregator]
    for name in config.relations:
        source, target = ENDS[name]
        split = NUM_NODES[source]
        self_loop = config.aggregator == "gcn" and config.self_loop
        matrix = normalised(*edges[name], split, NUM_NODES[target], self_loop)
        hidden = np.concatenate([params.tables[source], params.tables[target]]).astype(np.float64)
        outputs = [hidden]
        for i in range(len(config.layer_dims)):
            if config.aggregator == "gcn":
                weights = params.dense["stacks"][name]["layers"][i]
                first = np.asarray(weights["source_weights"], np.float64)
                second = np.asarray(weights.get("target_weights", first), np.float64)
                hidden = np.concatenate([hidden[:split] @ first, hidden[split:] @ second])
            if config.aggregator == "gat":
                weights = params.dense["stacks"][name]["layers"][i]
                hidden = gat_in_numpy(hidden, split, edges[name], weights, config.self_loop, config.num_heads)
            elif config.aggregator == "ngcf":
                weights = {k: np.asarray(v, np.float64) for k, v in params.dense["stacks"][name]["layers"][i].items()}
                arrived = matrix @ hidden
                hidden = (arrived + hidden) @ weights["sum_weights"] + (arrived * hidden) @ weights["product_weights"]
            else:
                hidden = matrix @ hidden
            if i < len(config.layer_dims) - 1 or config.last_activation == "same":
                hidden = activate(hidden)
            outputs.append(hidden)
        if config.layer_combination == "mean":
            hidden = np.mean(outputs, axis=0)
        elif config.layer_combination == "concat":
            hidden = np.concatenate(outputs, axis=1)
        parts.setdefault(source, []).append(hidden[:split])
        parts.setdefault(target, []).append(hidden[split:])
    if config.combination == "attention":
        return {name: attend_in_numpy(vectors, params.dense["attention"][name]) for name, vectors in parts.items()}
    return {name: np.concatenate(vectors, axis=1) for name, vectors in parts.items()}


def attend_in_numpy(vectors, weights):
    weights = {name: np.asarray(values, np.float64) for name, values in weights.items()}
    logits = np.array(
        [[weights["query"] @ np.tanh(v @ weights["weights"] + weights["bias"]) for v in of] for of in vectors]
    )
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    return sum(share[:, None] * of for share, of in zip(shares, vectors, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"self_loop": False, "weights_per_direction": True, "last_activation": "none"},
        {"layer_dims": (8, 9)},
        {"relations": ("buy",), "tasks": (TaskConfig("buy"),)},
        {"aggregator": "lightgcn", "layer_dims": (6, 6, 6)},
        {"aggregator": "lightgcn", "layer_dims": (6, 6), "layer_combination": "mean", "predictor": "dot"},
        {"backend": "segment", "layer_dims": (8, 3), "weights_per_direction": True},
        {"aggregator": "ngcf", "layer_combination": "concat"},
        {"aggregator": "ngcf", "last_activation": "none"},
        {"aggregator": "gat", "num_heads": 3},
        {
            "aggregator": "gat",
            "num_heads": 2,
            "self_loop": False,
            "weights_per_direction": True,
            "last_activation": "none",
        },
        {"aggregator": "gat", "num_heads": 3, "backend": "segment"},
        {"combination": "attention", "attention_hidden": 3},
    ],
    ids=[
        *("paper", "authors", "widening", "one relation", "lightgcn", "lightgcn mean dot", "segment"),
        *("ngcf", "ngcf linear", "gat", "gat as the authors", "gat segment", "attention"),
    ],
)
def test_encoding_follows_equations_5_to_7(changes):
    config, model, params = build(**({"relations": ("sell", "buy", "follow")} | changes))
    edges = random_edges()
    inputs = config.inputs(world(edges))
    found = model.module(params.dense).encode(params.tables, inputs)
    expected = encode_in_numpy(config, params, edges)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("predictor", ["mlp", "dot"])
def test_the_scorer_gives_the_predictors_scores_of_equation_8(predictor):
    relations = {"relations": ("buy",), "tasks": (TaskConfig("buy"),)}
    config, model, params = build(predictor=predictor, **relations)
    edges = random_edges()
    inputs = config.inputs(world(edges))
    vectors = encode_in_numpy(config, params, edges)
    scores = np.asarray(
        model.module(params.dense).scorer(params.tables, inputs).score_all(np.arange(12, dtype=np.int32))
    )
    for user in range(12):
        for item in range(9):
            if predictor == "dot":
                expected = vectors["user"][user] @ vectors["item"][item]
            else:
                weights = {k: np.asarray(v) for k, v in params.dense["predictors"]["buy"].items()}
                first = np.concatenate([weights["source_weights"], weights["target_weights"]])
                pair = np.concatenate([vectors["user"][user], vectors["item"][item]])
                hidden = np.maximum(pair @ first + weights["hidden_bias"], 0)
                expected = hidden @ weights["output_weights"] + weights["output_bias"]
            np.testing.assert_allclose(scores[user, item], expected, rtol=1e-4, atol=1e-6)


def batch_of(config, ids):
    return {task.relation: jnp.asarray(ids, jnp.int32) for task in config.tasks}


def test_the_loss_is_the_weighted_sum_of_the_task_losses():
    config, model, params = build(tasks=(TaskConfig("buy", weight=0.3), TaskConfig("follow", weight=0.7)))
    inputs = config.inputs(world())
    loss, metrics = model.module(params.dense).loss(params.tables, inputs, batch_of(config, [0, 3]), jax.random.key(0))
    np.testing.assert_allclose(loss, 0.3 * metrics["buy/loss"] + 0.7 * metrics["follow/loss"], rtol=1e-6)


def test_excluding_the_batchs_edges_changes_the_loss_and_only_those_edges_matter():
    config, model, params = build()
    excluding = model.module(params.dense)
    edges = random_edges()
    inputs = config.inputs(world(edges))
    batch, key = batch_of(config, [0, 5, 9]), jax.random.key(0)
    with_leak, _ = excluding.loss(params.tables, inputs, batch, key)
    config_without, model_without, _ = build(exclude_batch_edges=True, excluded_degrees="whole")
    without_leak, _ = model_without.module(params.dense).loss(params.tables, inputs, batch, key)
    assert abs(float(with_leak - without_leak)) > 1e-6
    emptied = {}
    for name, graph in inputs.graphs.items():
        ids = batch.get(name)
        rows = {}
        for side, position in (("to_source", graph.source_position), ("to_target", graph.target_position)):
            values = np.array(getattr(graph, side).values)
            if ids is not None:
                values[np.asarray(position)[np.asarray(ids)]] = 0
            rows[side] = getattr(graph, side)._replace(values=jnp.asarray(values))
        emptied[name] = graph._replace(**rows)
    by_hand, _ = excluding.loss(params.tables, inputs._replace(graphs=emptied), batch, key)
    np.testing.assert_allclose(by_hand, without_leak, rtol=1e-6)
    assert config_without.exclude_batch_edges


@pytest.mark.parametrize("changes", [{}, {"self_loop": False}], ids=["self-loops", "no self-loops"])
def test_gat_does_not_attend_to_excluded_edges(changes):
    edges, excluded = random_edges(), np.array([0, 5, 9, 39])
    config, model, params = build(
        aggregator="gat", num_heads=2, relations=("buy",), tasks=(TaskConfig("buy"),), **changes
    )
    thinned = {**edges, "buy": tuple(np.delete(ids, excluded) for ids in edges["buy"])}
    inputs, expected = config.inputs(world(edges)), config.inputs(world(thinned))
    graph = exclude_edges(inputs.graphs["buy"], jnp.asarray(excluded))
    module = model.module(params.dense)
    found = module.encode(params.tables, inputs._replace(graphs={"buy": graph}))
    for name, vectors in module.encode(params.tables, expected).items():
        np.testing.assert_allclose(found[name], vectors, rtol=1e-5, atol=1e-6)


PER_DIRECTION = {"self_loop": False, "weights_per_direction": True}
ONE_TASK = {"relations": ("buy",), "tasks": (TaskConfig("buy"),)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"exclude_batch_edges": False, **ONE_TASK},
        {"excluded_degrees": "whole", **ONE_TASK},
        {"layer_dims": (8, 9), **PER_DIRECTION, **ONE_TASK},
        {"aggregator": "lightgcn", "layer_dims": (6, 6), "layer_combination": "mean"},
        {"aggregator": "ngcf", "layer_combination": "concat", **ONE_TASK},
        {"aggregator": "gat", "num_heads": 2, **ONE_TASK},
        {"aggregator": "gat", "num_heads": 2, **PER_DIRECTION, **ONE_TASK},
        {"aggregator": "lightgcn", "layer_dims": (6,), "combination": "attention"},
        {"tasks": (TaskConfig("buy", hardest_of=3, rows_per_draw=2, loss="bpr"),), "l2": 0.1},
    ],
)
def test_sampled_training_with_wide_fanouts_equals_training_on_the_full_graph(changes):
    found = []
    for training_graph in ("full", "sampled"):
        wide = {"exclude_batch_edges": True, "training_graph": training_graph, "fanout_limits": (64, 64)}
        config, model, params = build(**(wide | changes))
        arguments = config.inputs(world()), batch_of(config, [0, 5, 9, 5]), jax.random.key(0)

        def loss(params, model=model, arguments=arguments):
            return model.module(params.dense).loss(params.tables, *arguments)[0]

        found.append(jax.jit(jax.value_and_grad(loss))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6), *found)


@pytest.mark.parametrize("backend", ["bcsr", "chunked", pytest.param("compiled", marks=pytest.mark.compiled)])
@pytest.mark.parametrize("aggregator", ["gcn", "lightgcn", "ngcf", "gat"])
@pytest.mark.parametrize("layer_combination", ["last", "mean"])
def test_every_backend_gives_the_reference_loss_and_gradients(backend, aggregator, layer_combination):
    layer_dims = (3, 3) if aggregator == "gat" else (6, 6)
    changes = {"aggregator": aggregator, "layer_dims": layer_dims, "layer_combination": layer_combination}
    found = []
    for name in (backend, "segment"):
        config, model, params = build(backend=name, num_heads=2, exclude_batch_edges=True, l2=0.1, **changes)
        arguments = config.inputs(world()), batch_of(config, [5]), jax.random.key(0)

        def loss(params, model=model, arguments=arguments):
            return model.module(params.dense).loss(params.tables, *arguments)[0]

        found.append(jax.jit(jax.value_and_grad(loss))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


@pytest.mark.parametrize("aggregator", ["gcn", "gat"])
def test_the_memory_of_a_sampled_step_does_not_grow_with_the_edges(aggregator):
    changes = {"exclude_batch_edges": True, "training_graph": "sampled", "fanout_limits": (4, 4), "num_heads": 2}
    found = []
    for num_edges in (3000, 30_000):
        pairs = np.arange(num_edges) * (250_000 // num_edges)
        nodes = {name: NodeTable(name, np.arange(500)) for name in ENDS["buy"]}
        ids = (pairs // 500).astype(np.int32), (pairs % 500).astype(np.int32)
        buy = Relation("buy", *ENDS["buy"], *ids, split=np.zeros(num_edges, np.int8))
        data = LiveCommerceData("large world", nodes, {"buy": buy})
        config, model, params = build(aggregator=aggregator, data=data, **changes, **ONE_TASK)

        def loss(params, inputs, batch, key, model=model):
            return model.module(params.dense).loss(params.tables, inputs, batch, key)[0]

        arguments = params, config.inputs(data), batch_of(config, range(8)), jax.random.key(0)
        compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
        found.append(compiled.memory_analysis().temp_size_in_bytes)
    assert 0 < found[1] < 1.05 * found[0]


def test_sampled_training_compiles_once_and_draws_anew_each_step():
    config, model, params = build(training_graph="sampled", fanout_limits=(1, 1))
    inputs = config.inputs(world())
    assert {fanout.to_source for fanout in inputs.fanouts.values()} == {1}

    @jax.jit
    def loss(params, inputs, batch, key):
        return model.module(params.dense).loss(params.tables, inputs, batch, key)[0]

    with runs.compiled_names() as compiled:
        losses = [
            float(loss(params, inputs, batch_of(config, [step, 2 * step, 7]), jax.random.key(step)))
            for step in range(5)
        ]
    assert compiled.count("loss") == 1 and len(set(losses)) == 5


def test_a_model_that_sees_its_own_positives_in_the_graph_learns_to_read_them_off():
    """The leak at work: on edges without any structure, only the leaking model separates its batch from new pairs."""
    edges = random_edges()
    final = {}
    for exclude in (False, True):
        config, model, params = build(
            exclude_batch_edges=exclude, tasks=(TaskConfig("buy", num_negatives=2),), relations=("buy",)
        )
        inputs = config.inputs(world(edges))
        optimizer = optax.adam(0.01)
        state = optimizer.init(params)

        @jax.jit
        def step(params, state, batch, key, model=model, inputs=inputs, optimizer=optimizer):
            def loss(p):
                return model.module(p.dense).loss(p.tables, inputs, batch, key)[0]

            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state, value

        generator, losses = np.random.default_rng(0), []
        for i in range(150):
            batch = batch_of(config, generator.choice(40, 4, replace=False))
            params, state, value = step(params, state, batch, jax.random.key(i))
            losses.append(float(value))
        final[exclude] = np.mean(losses[-50:])
    assert final[False] < final[True] - 0.05, final


@pytest.mark.parametrize("rows_per_draw", [1, 2, 5])
def test_each_negative_is_the_best_scored_of_its_own_draws(rows_per_draw):
    task = TaskConfig("buy", num_negatives=3, hardest_of=4, rows_per_draw=rows_per_draw)
    config, model, params = build(tasks=(task,), relations=("buy",))
    module, inputs = model.module(params.dense), config.inputs(world())
    vectors, edges, key = module.encode(params.tables, inputs), inputs.positives["buy"], jax.random.key(0)
    predictor = module.predictors["buy"]
    sources, targets = predictor.source_half(vectors["user"][:5]), predictor.target_half(vectors["item"])
    draws = draw_targets(key, edges, 5, 3, 4, rows_per_draw)
    chosen = np.asarray(hardest_targets(predictor, sources, draws, targets[draws], 3, rows_per_draw))
    draws = np.asarray(draws)
    np.testing.assert_array_equal(draws, uniform_targets(key, edges, -(-5 // rows_per_draw), 12))
    all_scores = np.asarray(predictor(sources[None], targets[None]))[0]
    assert chosen.shape == (5, 3)
    for row in range(5):
        own_draws = draws[row // rows_per_draw].reshape(3, 4)
        expected = all_scores[row][own_draws].max(axis=1)
        np.testing.assert_allclose(all_scores[row][chosen[row]], expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["bce", "bpr", "sampled_softmax"])
def test_known_positives_among_the_negatives_carry_no_loss(loss):
    config, model, params = build(tasks=(TaskConfig("buy", num_negatives=50, loss=loss),), relations=("buy",))
    inputs, key = config.inputs(world()), jax.random.key(0)
    module, edges = model.module(params.dense), inputs.positives["buy"]
    found, metrics = module.loss(params.tables, inputs, batch_of(config, [0]), key)
    user, bought = int(edges.source_ids[0]), np.asarray(edges.target_ids)[np.asarray(edges.source_ids) == 0]
    assert user == 0
    scores = np.asarray(module.scorer(params.tables, inputs).score_all(np.array([user], np.int32)))[0].astype(
        np.float64
    )
    draws = np.asarray(uniform_targets(jax.random.split(key, 1)[0], edges, 1, 50))[0]
    negatives = scores[draws[~np.isin(draws, bought)]]
    positive = scores[int(edges.target_ids[0])]
    if loss == "bce":
        expected = np.concatenate([[np.logaddexp(0, -positive)], np.logaddexp(0, negatives)]).mean()
    elif loss == "bpr":
        expected = np.logaddexp(0, negatives - positive).mean()
    else:
        expected = np.log(np.exp(positive) + np.exp(negatives).sum()) - positive
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["buy/false_negatives"], 1 - len(negatives) / 50, rtol=1e-5)


def test_by_default_the_loss_is_that_of_a_graph_without_the_batchs_edges():
    config, model, params = build(exclude_batch_edges=True)
    edges, ids, key = random_edges(), np.array([0, 5, 9]), jax.random.key(0)
    inputs = config.inputs(world(edges))
    found, _ = model.module(params.dense).loss(params.tables, inputs, batch_of(config, ids), key)
    thinned = {
        name: tuple(np.delete(end, ids) for end in ends) if name in config.task_tables else ends
        for name, ends in edges.items()
    }
    config_leaking, model_leaking, _ = build()
    without = inputs._replace(graphs=config_leaking.inputs(world(thinned)).graphs)
    expected, _ = model_leaking.module(params.dense).loss(params.tables, without, batch_of(config, ids), key)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_relation_between_nodes_of_one_type_is_refused():
    friends = Relation(
        "friend", "user", "user", np.array([0], np.int32), np.array([1], np.int32), split=np.zeros(1, np.int8)
    )
    data = world()
    data = data.replace(relations={**data.relations, "friend": friends})
    with pytest.raises(ConfigError, match="'friend' joins user nodes with each other"):
        Config(relations=("buy", "friend"), tasks=(TaskConfig("buy"),)).inputs(data)


def test_a_weight_that_is_not_positive_is_refused_when_weights_are_used():
    data = world()
    weights = np.ones(len(data.relations["buy"]), np.float32)
    weights[3] = -1
    buy = dataclasses.replace(data.relations["buy"], weight=weights)
    config = Config(relations=("buy",), tasks=(TaskConfig("buy"),), edge_weights=True)
    with pytest.raises(DataError, match=r"'buy', edge 3: weight -1\.0 is not positive"):
        config.inputs(data.replace(relations={"buy": buy}))
    with pytest.raises(ConfigError, match="has no weights; turn it off"):
        config.inputs(data)


def test_l2_is_half_the_mean_squared_norm_of_the_batchs_initial_embeddings():
    one_task = {"relations": ("buy",), "tasks": (TaskConfig("buy", num_negatives=1),)}
    _, plain, params = build(**one_task)
    config, with_l2, _ = build(l2=0.1, **one_task)
    inputs, batch, key = config.inputs(world()), batch_of(config, [0, 1, 2]), jax.random.key(0)

    def of_tables(model):
        return jax.grad(lambda tables: model.module(params.dense).loss(tables, inputs, batch, key)[0])(params.tables)

    difference = jax.tree.map(lambda a, b: np.asarray(a - b), of_tables(with_l2), of_tables(plain))
    users = np.asarray(inputs.positives["buy"].source_ids[np.array([0, 1, 2])])
    counts = np.bincount(users, minlength=12)[:, None]
    np.testing.assert_allclose(difference["user"], 0.1 * counts * np.asarray(params.tables["user"]) / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregator": "gcnn"}, "config.model.aggregator = 'gcnn' is not known"),
        ({"aggregator": "lightgcn"}, "to embedding_dim = 6"),
        ({"relations": ()}, "at least one relation"),
        ({"tasks": ()}, "at least one task"),
        ({"predictor": "dot"}, None),
        ({"relations": ("buy",)}, "task 'follow' needs streamer vectors"),
        ({"embedding_std": 0.0}, "must be positive"),
        ({"tasks": (TaskConfig("buy", weight=0.0),)}, "every weight is 0"),
        ({"tasks": (TaskConfig("buy", loss="hinge"),)}, r"config.model.tasks\[0\].loss"),
        ({"aggregator": "gat", "edge_weights": True}, "learns its weights; set it to False"),
        ({"aggregator": "gat", "excluded_degrees": "whole"}, "'gat' has no degrees"),
        ({"aggregator": "gat", "layer_combination": "mean"}, "times num_heads"),
        ({"aggregator": "ngcf", "weights_per_direction": True}, "no weights per direction"),
        ({"aggregator": "gat", "num_heads": 0}, "config.model.num_heads = 0 must be at least 1"),
        ({"combination": "sum"}, "concat, attention"),
        ({"training_graph": "minibatch"}, "full, sampled"),
        ({"fanout_quantile": 0.0}, "must be in"),
        ({"fanout_limits": (5, 4)}, "smallest and a largest"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_the_key(changes, message):
    if message is None:  # buy and follow: two relations at each end
        build(**changes)
        return
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_dot_refuses_unequal_widths():
    with pytest.raises(ConfigError, match="needs equal widths"):
        build(predictor="dot", relations=("buy", "follow"), tasks=(TaskConfig("buy"),))
