"""MMoE over scenarios: experts that all share, and a gate of each scenario (Ma et al., KDD 2018).

Implemented: y = p(sum_k g_k f^k(x)), g = softmax(W_s x), as TREEMS has it (WSDM 2021, Eq. 1-2), with the tower of
`tower_widths` as p. The tasks of MMoE are scenarios here. MMoE whose tasks are the labels of an impression is "mmoe" of
`models/ctr_baselines.py`; the experts are the same layers.

Departures:
- W_s = W + D_s, where all scenarios share W, and D begins at 0; scenarios that training does not know have D = 0. MMoE
  knows all its tasks.
- One tower p for all scenarios. MMoE has one for each task; hundreds of them would stay as they are drawn in the long
  tail.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.config import ConfigError, require_at_least
from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.fields import Batch, Fields
from lsec_jax.models.impressions.ranker import Represented
from lsec_jax.models.sharing import ScenarioConfig, ScenarioRanker
from lsec_jax.nn.experts import Experts
from lsec_jax.nn.grouped_dense import GroupedDense


@dataclasses.dataclass
class Config(ScenarioConfig):
    """MMoE over scenarios; keys of `ScenarioConfig` are inherited.

    Attributes:
        num_experts: n.
        expert_widths: of each expert's layers.
    """

    num_experts: int = 8
    expert_widths: tuple[int, ...] = (64,)

    def validate(self) -> None:
        """Checks the model's keys; raises ConfigError."""
        super().validate()
        require_at_least("config.model.num_experts", self.num_experts, 1)
        if not self.expert_widths or min(self.expert_widths) < 1:
            raise ConfigError(f"config.model.expert_widths = {self.expert_widths} must hold at least one width >= 1")

    @property
    def name(self) -> str:
        """For reports; "mmoe" is the one over tasks."""
        return "scenario_mmoe"

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "ScenarioMmoe":
        """Builds the ranker; raises ConfigError for a scenario that is no id."""
        return ScenarioMmoe(self, layout, rngs)


class ScenarioMmoe(ScenarioRanker):
    """Experts on x, and towers on what the scenario's gate mixes them to."""

    config: Config

    def build_head(self, rngs: nnx.Rngs) -> None:
        """Experts, gates and towers."""
        config = self.config
        widths = tuple(config.expert_widths)
        self.experts = Experts(self.in_width, config.num_experts, widths, rngs, dtype=self.dtype)
        self.gates = GroupedDense(self.in_width, config.num_experts, self.num_scenarios, rngs, has_bias=False)
        self.build_towers(widths[-1], rngs)

    def mix(self, x: Float[Array, "b f"], fields: Fields, batch: Batch) -> Represented:
        """The mixture (Eq. 1)."""
        weights = jax.nn.softmax(self.gates(x, self.scenarios(batch)), axis=-1)
        return Represented(jnp.einsum("bn,bnf->bf", weights, self.experts(x)[-1]), fields.dynamic)
