"""What rankers of sharing recommendation have in common (TREEMS, WSDM 2021, Eq. 3): x = concat(u, v, t, c).

Of the declared features, the part "context" is the source user u, "target" what is ranked, v, "dynamic" the context c
of the scenario, and t the mean of each sequence's behaviours. A model file may add what it makes of the neighbours of
users (`augment`, or `build_graph` and `read_graph` of `GraphRanker`), and says what it makes of x (`mix`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lsec_jax.config import ConfigError, require_choice
from lsec_jax.declaration.layout import FieldLayout, Layout, NeighbourhoodLayout
from lsec_jax.models.impressions.config import ImpressionConfig
from lsec_jax.models.impressions.fields import Batch, Fields, Hops, history_products, side_by_side, table_width
from lsec_jax.models.impressions.ranker import Draws, ImpressionRanker, Represented
from lsec_jax.nn.dense import dense, glorot


@dataclasses.dataclass
class GraphConfig(ImpressionConfig):
    """Of rankers that cannot do without neighbours; keys of all rankers are inherited, and there are no others."""

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        super().validate()
        if not self.features.neighbourhoods:
            raise ConfigError(
                f"config.model.features.neighbourhoods is empty, and '{self.name}' reads neighbours; declare views to "
                "read, such as Neighbourhood('friends', 'friend', 'user')"
            )

    @property
    def reads_neighbours(self) -> bool:
        """Always."""
        return True


@dataclasses.dataclass
class PairConfig(GraphConfig):
    """Of rankers whose primary task has no tower (`PairRanker`): its keys have no effect."""

    def uses(self) -> dict[str, bool]:
        """Keys that some settings only read, and whether these do."""
        return super().uses() | dict.fromkeys(("tower_widths", "tower_reads_dynamic", "history_products"), False)


@dataclasses.dataclass
class ScenarioConfig(ImpressionConfig):
    """Of rankers that have parameters of their own for each scenario; keys of all rankers are inherited.

    Attributes:
        scenario: name of the declared field of the part "dynamic" that shows the scenario's id. Scenarios without a row
            in its table, those that training does not know, have the parameters that all share.
    """

    scenario: str = "scenario_id"

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        super().validate()
        dynamic = tuple(of.name for of in self.features.fields if of.part == "dynamic")
        if not dynamic:
            raise ConfigError(
                "config.model.features.fields: none is of the part 'dynamic', where a scenario shows; declare one, "
                f"such as Field('{self.scenario}', 'scenario', 'dynamic')"
            )
        require_choice("config.model.scenario", self.scenario, dynamic)


class SharingRanker(ImpressionRanker):
    """Towers on x; what model files add is in `build_graph` and `augment`, `build_head` and `mix`."""

    def __init__(self, config: ImpressionConfig, layout: Layout, rngs: nnx.Rngs):
        super().__init__(config, layout, rngs)
        parts = self.fields.part_widths
        width = sum(map(sum, parts.values())) + config.embedding_dim * len(layout.sequences)
        width += config.embedding_dim * len(layout.sequences) if config.history_products else 0
        self.in_width = width + self.build_graph(rngs)
        self.build_head(rngs)

    def build_graph(self, rngs: nnx.Rngs) -> int:
        """Builds what `augment` needs; returns the numbers that it adds to x."""
        return 0

    def build_head(self, rngs: nnx.Rngs) -> None:
        """Builds what `mix` needs, and the towers."""
        self.build_towers(self.in_width, rngs)

    def augment(self, fields: Fields) -> Sequence[Float[Array, "b _"]]:
        """What the neighbours of users add to x."""
        return []

    def mix(self, x: Float[Array, "b f"], fields: Fields, batch: Batch) -> Represented:
        """What the towers read."""
        return Represented(x, fields.dynamic)

    def represent(self, fields: Fields, batch: Batch, draws: Draws | None) -> Represented:
        """x, and what the model makes of it."""
        means = [of.mean() for of in fields.sequences.values()]
        means += history_products(fields) if self.config.history_products else []
        parts = [fields.context, fields.target, fields.dynamic, *means, *self.augment(fields)]
        return self.mix(side_by_side(parts), fields, batch)


class RoleGraph(NamedTuple):
    """The neighbourhoods of one of a record's nodes.

    Attributes:
        role: of the node.
        neighbourhoods: in their order.
        width: of the node's vector and its neighbours'.
        num_hops: L.
    """

    role: str
    neighbourhoods: tuple[NeighbourhoodLayout, ...]
    width: int
    num_hops: int

    @property
    def key(self) -> str:
        """Roles of the same views, widths and hops have equal keys, and so the same weights."""
        return f"{'+'.join(of.view for of in self.neighbourhoods)} {self.width} wide {self.num_hops} hops"


def role_graphs(layout: Layout, width: int) -> tuple[RoleGraph, ...]:
    """The neighbourhoods of each role, in their order.

    Args:
        layout: with the neighbourhoods; without, there are no graphs.
        width: d, of the tables that declare none.

    Raises:
        ConfigError: for vectors of several widths, or several numbers of hops, in one role.
    """
    found = []
    for role in dict.fromkeys(of.role for of in layout.neighbourhoods):
        of_role = tuple(of for of in layout.neighbourhoods if of.role == role)
        widths = {table_width(of.table, layout, width) for of in of_role}
        depths = {len(of.fanouts) for of in of_role}
        if len(widths) > 1 or len(depths) > 1:
            raise ConfigError(
                f"config.model.features.neighbourhoods of '{role}' have vectors {sorted(widths)} wide and "
                f"{sorted(depths)} hops; give those of one role tables of one width, and as many fanouts"
            )
        found.append(RoleGraph(role, of_role, min(widths), min(depths)))
    return tuple(found)


class GraphRanker(SharingRanker):
    """x has a vector for each role that has neighbours; a model file says which, in `make_graph` and `read_graph`."""

    def build_graph(self, rngs: nnx.Rngs) -> int:
        """One graph for each set of views: both ends of a share have the same weights where they have the same."""
        self.roles = role_graphs(self.layout, self.config.embedding_dim)
        self.graphs: nnx.Dict = nnx.Dict()
        for of in self.roles:
            if of.key not in self.graphs:
                self.graphs[of.key] = self.make_graph(of, rngs)
        return sum(self.graph_width(of) for of in self.roles)

    def make_graph(self, of: RoleGraph, rngs: nnx.Rngs) -> nnx.Module:
        """Builds what reads the neighbours of a role."""
        raise NotImplementedError

    def graph_width(self, of: RoleGraph) -> int:
        """Numbers that a role's graph adds to x: as many as a node's vector has."""
        return of.width

    def read_graph(self, graph: Any, views: Sequence[Hops], fields: Fields) -> Float[Array, "b v"]:
        """One vector for each row, from the neighbourhoods of a role."""
        return graph(views)

    def augment_roles(self, fields: Fields) -> dict[str, Float[Array, "b _"]]:
        """What each role's graph makes of its neighbourhoods."""
        return {
            of.role: self.read_graph(
                self.graphs[of.key], [fields.neighbours[near.name] for near in of.neighbourhoods], fields
            )
            for of in self.roles
        }

    def augment(self, fields: Fields) -> Sequence[Float[Array, "b _"]]:
        """The vectors of the roles that have neighbours."""
        return list(self.augment_roles(fields).values())


class PairRanker(GraphRanker):
    """The primary task as an inner product, <p, q> + biases: p of the source user, q of the target, both d wide.

    p is linear in the fields of the context and what her graphs give, plus the mean of each history; q is linear in the
    fields of the target and what its graph gives; the biases are linear in all fields, so that each user, target and
    scenario has one. The towers of other tasks read p and q, as they would x.
    """

    def build_head(self, rngs: nnx.Rngs) -> None:
        """Two linear maps, the biases, and the towers of other tasks."""
        parts, width = self.fields.part_widths, self.config.embedding_dim
        target = self.config.features.target
        of_target = sum(of.width for of in self.roles if of.role == target)
        of_source = sum(of.width for of in self.roles) - of_target
        widths = (sum(parts["context"]) + of_source, sum(parts["target"]) + of_target)
        self.maps = nnx.List([nnx.Param(glorot(rngs.params(), of, width)) for of in widths])
        self.bias_weights = nnx.Param(jnp.zeros((sum(map(sum, parts.values())), 1)))
        self.build_towers(2 * width, rngs)

    def build_primary(self, in_width: int, rngs: nnx.Rngs) -> None:
        """There is no tower."""

    def represent(self, fields: Fields, batch: Batch, draws: Draws | None) -> Represented:
        """The vectors p and q side by side, and the biases."""
        found = self.augment_roles(fields)
        target = self.config.features.target
        sources = [of for role, of in found.items() if role != target]
        targets = [of for role, of in found.items() if role == target]
        source = dense(side_by_side([fields.context, *sources]), self.maps[0][...])
        source = sum((of.mean() for of in fields.sequences.values()), source)
        item = dense(side_by_side([fields.target, *targets]), self.maps[1][...])
        biases = dense(side_by_side([fields.context, fields.target, fields.dynamic]), self.bias_weights[...])
        shared = side_by_side([source, item])
        return Represented(shared, fields.dynamic, self.pair_penalty(fields), offset=biases[:, 0])

    def pair_penalty(self, fields: Fields) -> Float[Array, ""] | float:
        """What the model adds to the loss."""
        return 0.0

    def primary_output(self, read: Float[Array, "b f"], represented: Represented) -> Float[Array, "b 1"]:
        """<p, q>."""
        width = self.config.embedding_dim
        return (read[:, :width] * read[:, width : 2 * width]).sum(axis=1, keepdims=True)


def scenario_field(layout: Layout, name: str) -> FieldLayout:
    """Where the scenario's row is.

    Raises:
        ConfigError: for a field that is no single id.
    """
    found = next(of for of in layout.fields if of.name == name)
    if found.kind != "ids" or found.size != 1:
        raise ConfigError(
            f"config.model.scenario = '{name}' shows {found.size} {found.kind}, but a scenario is one id; name the "
            "field whose source is the scenario's role"
        )
    return found


class ScenarioRanker(SharingRanker):
    """Knows each row's scenario, 0 = one that training does not know."""

    config: ScenarioConfig

    @property
    def num_scenarios(self) -> int:
        """Rows of the scenarios' table, that of the unknown one counted."""
        return self.layout.table(scenario_field(self.layout, self.config.scenario).table).num_rows

    def scenarios(self, batch: Batch) -> Int[Array, " b"]:
        """Each row's scenario."""
        field = scenario_field(self.layout, self.config.scenario)
        return batch["ids"][field.table][:, field.start]
