"""One paper, one file; baselines beside them. This page says what a model file offers the trainer.

Its config dataclass has `name`, `task_relations` (the primary one first), `required_relations`, and

- `validate()`: checks its own keys, raises ConfigError;
- `inputs(data)`: the big arrays, with `positives` by task: these become the streams of batches;
- `build(data, seed)`: the module;
- `warnings(inputs, batch_size)`: what may go wrong, in words;
- `trained_nodes(data, node_type)`: which nodes have a vector that training has touched, [n] bool.

Its module, a flax.nnx.Module that holds the dense parameters, has

- `init_tables(key)`: the embedding tables, which live beside the dense parameters;
- `loss(tables, inputs, batch, key)`: (scalar, metrics by name), for one step;
- `scorer(tables, inputs)`: a `lsec_jax.ranking.Scorer` of the primary task;
- `encode(tables, graphs)`: the final vectors by node type.
"""
