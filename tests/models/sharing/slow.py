"""What slow transcriptions of rankers of sharing recommendation read of a batch, one row at a time, in numpy."""

import numpy as np


def value(variable):
    return np.asarray(variable[...], float)


def relu(x):
    return np.maximum(x, 0)


def mlp(tower, x):
    """A tower; the number itself where it has one output."""
    for i, (weights, bias) in enumerate(zip(tower.weights, tower.biases, strict=True)):
        x = x @ value(weights) + value(bias)
        x = relu(x) if i < tower.num_active else x
    return x[0] if tower.num_active < len(tower.weights) else x


class SlowBatch:
    """A batch by row."""

    def __init__(self, module, tables, batch):
        self.layout, self._module, self._batch = module.layout, module, batch
        self._tables = {name: np.asarray(of, float) for name, of in tables.items()}
        self.rows = range(len(batch["labels"]))
        self.start = value(module.output_biases)[0]

    def _ids(self, row, table):
        return np.asarray(self._batch["ids"][table])[row]

    def fields(self, row):
        """By part: the fields side by side."""
        found = {"context": [], "target": [], "dynamic": []}
        for of in self.layout.fields:
            if of.kind == "ids":
                found[of.part] += list(self._tables[of.table][self._ids(row, of.table)[of.start]])
            else:
                found[of.part] += list(np.asarray(self._batch["numbers"], float)[row, of.start : of.stop])
        return {name: np.array(of) for name, of in found.items()}

    def history(self, row):
        """The mean of the projected behaviours, 0 of none."""
        (of,) = self.layout.sequences
        own = self._module.fields.projection(of.name)
        weights, bias = (np.asarray(part, float) for part in (own.weights, own.bias))
        there = np.asarray(self._batch["masks"][of.name])[row]
        ids = self._ids(row, "user")[of.fields[0].start : of.fields[0].stop][there]
        return np.mean([self._tables["user"][i] @ weights + bias for i in ids], axis=0) if there.any() else 0 * bias

    def x(self, row):
        """The context, the target, the dynamic context and the history (Eq. 3)."""
        return np.concatenate([*self.fields(row).values(), self.history(row)])

    def scenario(self, row):
        """The scenario's row in its table."""
        return int(self._ids(row, "scenario")[0])

    def tree(self, row, name):
        """(vector of the node, its neighbours as such pairs) of one neighbourhood."""
        of = next(of for of in self.layout.neighbourhoods if of.name == name)
        ids, table = self._ids(row, of.table), self._tables[of.table]

        def below(hop, number):
            if hop == len(of.fanouts):
                return []
            start, fanout = of.hops[hop][0], of.fanouts[hop]
            places = [start + number * fanout + k for k in range(fanout)]
            return [
                (table[ids[place]], below(hop + 1, number * fanout + k)) for k, place in enumerate(places) if ids[place]
            ]

        return table[ids[of.own]], below(0, 0)

    def path(self, row, name):
        """The vectors of the nodes on a path."""
        ids = np.asarray(self._batch["ids"][name])[row]
        return [self._tables[name][i] for i in ids if i]
