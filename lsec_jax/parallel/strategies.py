"""The ways to run a step on several devices, behind one interface: place arrays, compile functions of them.

A function is written for one device: it sees that device's part of what is divided and asks `nn/replicas.py` for what
other devices have. What of an argument or a result is divided is said by its `Part`.
"""

import abc
import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lsec_jax.config import ParallelConfig
from lsec_jax.nn import lookups
from lsec_jax.nn.propagation import DividedGraph
from lsec_jax.nn.replicas import DATA, MODEL
from lsec_jax.parallel import processes
from lsec_jax.parallel.mesh import make_mesh
from lsec_jax.training.tables import Params


class Part(enum.Enum):
    """What a device has of an argument or a result.

    Attributes:
        STATE: all, but of tables and their moments (those in a `Params`) its own rows.
        INPUTS: all, but of a `DividedGraph` its own part.
        ROWS: its own rows of a batch, or what it made of them.
        NODES: its own rows of arrays with a row per node.
        SCORER: of a `NodeScorer` its own rows of what has a row per node, and all else.
        REPLICATED: all, the same on every device.
    """

    STATE = enum.auto()
    INPUTS = enum.auto()
    ROWS = enum.auto()
    NODES = enum.auto()
    SCORER = enum.auto()
    REPLICATED = enum.auto()


class Strategy(abc.ABC):
    """How arrays lie on devices and how functions of them run.

    Attributes:
        num_replicas: devices that share a batch.
        num_shards: parts in which tables are divided.
        description: in words, for the log.
    """

    num_replicas: int
    num_shards: int
    description: str

    @abc.abstractmethod
    def place(self, tree: Any, part: Part) -> Any:
        """Puts host arrays, the same in every process, where `part` says; of ROWS each process keeps its own."""

    @abc.abstractmethod
    def compile(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Part],
        results: Sequence[Part],
        donates: bool = False,
    ) -> Callable[..., Any]:
        """Compiles a function at its first call.

        Args:
            function: of arrays that were placed.
            arguments: what it gets of each argument.
            results: what it returns, of any part but INPUTS and ROWS; of one result, its own.
            donates: whether the first argument's buffers may be used again.
        """

    def own_rows(self, num_rows: int) -> slice:
        """Which of the rows that `place` divides this process's devices read; it needs not make the others."""
        return slice(0, num_rows)

    def whole(self, tree: Any) -> Any:
        """Arrays of which every device has all, on the first device of this process."""
        return jax.tree.map(lambda of: of.addressable_data(0), tree)


def make(config: ParallelConfig) -> Strategy:
    """The strategy that a config asks for; raises ConfigError as `make_mesh`."""
    mesh = make_mesh(config)
    if mesh.size == 1:
        return OneDevice(mesh.devices.item())
    return Pmap(mesh) if config.strategy == "pmap" else Sharded(mesh, config)


class OneDevice(Strategy):
    """jax.jit."""

    num_replicas = num_shards = 1

    def __init__(self, device: jax.Device):
        self._device = device
        self.description = f"one device ({device.platform})"

    def place(self, tree: Any, part: Part) -> Any:
        """Commits arrays to the device: jit compiles once for those and for restored ones."""
        return jax.device_put(tree, self._device)

    def compile(
        self, function: Callable[..., Any], arguments: Sequence[Part], results: Sequence[Part], donates: bool = False
    ) -> Callable[..., Any]:
        """Compiles for the device."""
        return jax.jit(function, donate_argnums=(0,) if donates else ())


class Pmap(Strategy):
    """Copies of everything on every device, which computes its rows of the batch; gradients are averaged."""

    num_shards = 1

    def __init__(self, mesh: jax.sharding.Mesh):
        self._mesh = mesh
        self.num_replicas = mesh.size
        self.description = f"pmap over {mesh.size} devices ({mesh.devices.flat[0].platform})"

    def place(self, tree: Any, part: Part) -> Any:
        """Copies arrays to all devices; rows lie as [devices, rows of each]."""
        if part is not Part.ROWS:
            return _place(tree, jax.tree.map(lambda _: P(), tree), self._mesh)
        devices = self.num_replicas
        rows = jax.tree.map(lambda of: np.reshape(of, (devices, len(of) // devices, *np.shape(of)[1:])), tree)
        return _place(rows, jax.tree.map(lambda _: P(DATA), rows), self._mesh)

    def own_rows(self, num_rows: int) -> slice:
        """Those of the devices of this process."""
        return _own_rows(self._mesh, num_rows)

    def compile(
        self, function: Callable[..., Any], arguments: Sequence[Part], results: Sequence[Part], donates: bool = False
    ) -> Callable[..., Any]:
        """Compiles with jax.pmap; copies are passed whole, without an axis of devices.

        Without rows to divide there is nothing to share: then this process's first device does it for all.
        """
        if Part.ROWS not in arguments:
            alone = jax.jit(function)
            return lambda *copies: self.place(alone(*self.whole(copies)), Part.REPLICATED)
        divided = jax.pmap(
            function,
            DATA,
            in_axes=tuple(0 if part is Part.ROWS else None for part in arguments),
            out_axes=None,
            devices=list(self._mesh.devices.flat),
            donate_argnums=(0,) if donates else (),
        )
        if processes.count() == 1:
            return divided
        return lambda *arrays: jax.tree.map(self._of_all_processes, divided(*arrays))

    def _of_all_processes(self, copy: jax.Array) -> jax.Array:
        """What jax.pmap returns is each process's own, which checkpoints are not made of."""
        pieces = [shard.data for shard in copy.addressable_shards]
        return jax.make_array_from_single_device_arrays(copy.shape, NamedSharding(self._mesh, P()), pieces)


class Sharded(Strategy):
    """jit of jax.shard_map over the axes `data` and `model`."""

    def __init__(self, mesh: jax.sharding.Mesh, config: ParallelConfig):
        self._mesh, self._config = mesh, config
        self.num_replicas, self.num_shards = mesh.size, mesh.shape[MODEL]
        self.description = (
            f"sharded over {mesh.shape[DATA]} x {mesh.shape[MODEL]} devices (data x model, "
            f"{mesh.devices.flat[0].platform}){', lookups by all-to-all' if config.lookup == 'all_to_all' else ''}"
        )

    def place(self, tree: Any, part: Part) -> Any:
        """Divides arrays along their first axis, as far as `part` says so."""
        return _place(tree, _specs(tree, part), self._mesh)

    def own_rows(self, num_rows: int) -> slice:
        """Those of the devices of this process."""
        return _own_rows(self._mesh, num_rows)

    def compile(
        self, function: Callable[..., Any], arguments: Sequence[Part], results: Sequence[Part], donates: bool = False
    ) -> Callable[..., Any]:
        """Compiles for the mesh; results of the part STATE have the form of the first argument."""
        if self._config.lookup == "all_to_all":
            function = lookups.exchanging(self._config.lookup_capacity)(function)

        def bind(*examples: Any) -> Any:
            in_specs = tuple(_specs(of, part) for of, part in zip(examples, arguments, strict=True))

            def divided(out_specs: Any) -> Any:
                return jax.shard_map(function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

            forms: Any = [None] * len(results)
            if Part.SCORER in results:  # only what it returns says which fields it has
                shapes = jax.eval_shape(divided(P()), *examples)
                forms = [shapes] if len(results) == 1 else shapes
            out_specs = [
                in_specs[0] if part is Part.STATE else _specs(form, part)
                for form, part in zip(forms, results, strict=True)
            ]
            return jax.jit(divided(_one_or_all(out_specs)), donate_argnums=(0,) if donates else ())

        return _Bound(bind)


def _specs(tree: Any, part: Part) -> Any:
    """Which axes of the mesh divide the first axis of each array."""
    match part:
        case Part.ROWS:
            return P((DATA, MODEL))
        case Part.REPLICATED:
            return P()
        case Part.NODES:
            return P(MODEL)
        case Part.SCORER:
            return dataclasses.replace(tree, **{of.name: _of_field(tree, of.name) for of in dataclasses.fields(tree)})
        case Part.INPUTS:
            return _map_of(DividedGraph, lambda graph: jax.tree.map(lambda _: P(MODEL), graph), tree)
        case Part.STATE:
            return _map_of(Params, lambda of: Params(_all(of.dense, P()), _all(of.tables, P(MODEL))), tree)


def _of_field(scorer: Any, name: str) -> P:
    return P(MODEL) if name in scorer.per_node else P()


def _map_of(kind: type, function: Callable[[Any], Any], tree: Any) -> Any:
    def one(node: Any) -> Any:
        return function(node) if isinstance(node, kind) else P()

    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, kind))


def _all(tree: Any, spec: P) -> Any:
    return jax.tree.map(lambda _: spec, tree)


def _place(tree: Any, specs: Any, mesh: jax.sharding.Mesh) -> Any:
    """Puts host arrays on the mesh; each process reads the parts of its own devices only."""

    def one(spec: P, values: Any) -> Any:
        sharding = NamedSharding(mesh, spec)

        def put(leaf: Any) -> jax.Array:
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(put, values)

    return jax.tree.map(one, specs, tree, is_leaf=lambda node: isinstance(node, P))


def _own_rows(mesh: jax.sharding.Mesh, num_rows: int) -> slice:
    """From the first to the last row of this process's devices, each of which has as many as the others."""
    own = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    size = num_rows // mesh.size
    return slice(min(own) * size, (max(own) + 1) * size)


class _Bound:
    """A jitted function that is made from its first arguments: specs follow the structure of trees."""

    def __init__(self, bind: Callable[..., Any]):
        self._bind, self._jitted = bind, None

    def _of(self, arguments: tuple[Any, ...]) -> Any:
        if self._jitted is None:
            self._jitted = self._bind(*arguments)
        return self._jitted

    def __call__(self, *arguments: Any) -> Any:
        return self._of(arguments)(*arguments)

    def lower(self, *arguments: Any) -> Any:
        return self._of(arguments).lower(*arguments)


def _one_or_all(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else tuple(items)
