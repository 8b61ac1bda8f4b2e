"""Multi-Scenario: a DNN with a layer of each scenario's own before the prediction (Niu et al., WSDM 2021, Sec. 4.1.2).

Implemented: h = the tower of `tower_widths` on x, z = ReLU(h W_s + b_s), as wide as h, and a logit that is linear in z.

Departures:
- W_s = W + D_s and b_s = b + c_s, where all scenarios share W and b, and D and c begin at 0. A scenario that training
  does not know has D = 0 and c = 0. The paper says nothing of such scenarios, for which a matrix of their own would be
  random.
- Towers of other labels than the primary one have no layer of scenarios.
"""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from lsec_jax.declaration.layout import Layout
from lsec_jax.models.impressions.fields import Batch, Fields
from lsec_jax.models.impressions.ranker import Represented
from lsec_jax.models.sharing import ScenarioConfig, ScenarioRanker
from lsec_jax.nn.grouped_dense import GroupedDense
from lsec_jax.nn.towers import Tower


@dataclasses.dataclass
class Config(ScenarioConfig):
    """Multi-Scenario; all keys are inherited."""

    @property
    def name(self) -> str:
        """For reports."""
        return "multi_scenario"

    def build(self, layout: Layout, rngs: nnx.Rngs) -> "MultiScenario":
        """Builds the ranker; raises ConfigError for a scenario that is no id."""
        return MultiScenario(self, layout, rngs)


class MultiScenario(ScenarioRanker):
    """A tower, the scenario's layer, and the prediction."""

    def build_primary(self, in_width: int, rngs: nnx.Rngs) -> None:
        """The three of them."""
        width = self.config.tower_widths[-1]
        self.tower = Tower(in_width, self.config.tower_widths, rngs, dtype=self.dtype)
        self.scenario_layer = GroupedDense(width, width, self.num_scenarios, rngs, dtype=self.dtype)
        self.prediction = Tower(width, (), rngs, out_width=1, dtype=self.dtype)

    def mix(self, x: Float[Array, "b f"], fields: Fields, batch: Batch) -> Represented:
        """x, and each row's scenario."""
        return Represented(x, fields.dynamic, passed={"scenarios": self.scenarios(batch)})

    def primary_output(self, read: Float[Array, "b f"], represented: Represented) -> Float[Array, "b 1"]:
        """The logit."""
        return self.prediction(jax.nn.relu(self.scenario_layer(self.tower(read), represented.passed["scenarios"])))
