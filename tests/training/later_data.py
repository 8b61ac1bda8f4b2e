"""Runs on the data of a later day, which start from those of the day before."""

import dataclasses

import jax
import numpy as np

from lsec_jax.models import ncf
from lsec_jax.schema import Feature, NodeTable
from lsec_jax.training import initialisation, run, workdirs
from lsec_jax.training.checkpoints import Checkpoints
from tests import runs

# The later data: items in another order, some gone, some new. Users stay.
GONE, NUM_NEW = (3, 4, 39), 5


@dataclasses.dataclass
class Later:
    """The tiny world one day later; `colours` are an item feature."""

    has_colours: bool = True

    def load(self):
        data = runs.tiny_world().load()
        items = data.nodes["item"]
        order = np.setdiff1d(np.arange(len(items)), GONE)[::-1]
        ids = items.ids[order].astype("U20")
        ids[:NUM_NEW] = [f"a_new_item_{i}" for i in range(NUM_NEW)]
        at = np.full(len(items), -1)
        at[order] = np.arange(len(order))
        # Of colour 2 there are only new items, and the last one's is not known.
        colours = np.where(np.arange(len(order)) < 2, 2, np.arange(len(order)) % 2).astype(np.int32)
        colours[[NUM_NEW - 1, -1]] = -1
        features = {"colour": Feature("categorical", colours, ("red", "green", "blue"))} if self.has_colours else {}
        buy = data.relations["buy"].take(at[data.relations["buy"].target_ids] >= 0)
        buy = dataclasses.replace(buy, target_ids=at[buy.target_ids].astype(np.int32))
        nodes = {**data.nodes, "item": NodeTable("item", ids, features)}
        return data.replace(nodes=nodes, relations={"buy": buy}, truth=None)


def later_config(**training):
    return dataclasses.replace(runs.tiny_config(**training), data=Later())


def ncf_config(**training):
    model = ncf.Config(embedding_dim=4, mlp_dims=(8,))
    config = dataclasses.replace(runs.tiny_config(**training), model=model)
    return runs.replace(config, optimizer={"tables": "lazy"})


def stored(workdir, step):
    """The state of a checkpoint, as numpy."""
    template = run.prepare(workdirs.load_config(workdir, None, ("tests",))).initial_state()
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return jax.device_get(checkpoints.restore(template, step)[0])


def started(config, origin):
    """(data, numpy state, record) of a run before its first step."""
    prepared = run.prepare(config)
    found = initialisation.start(prepared, origin)
    return prepared.data, jax.device_get(found.state), found.record
