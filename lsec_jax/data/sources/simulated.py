"""What the simulated worlds share: checks of knobs, tables with numbered ids, tastes. No jax here."""

import dataclasses
import math
from typing import Any

import numpy as np

from lsec_jax.config import ConfigError
from lsec_jax.schema import Feature, NodeTable, Relation


@dataclasses.dataclass(frozen=True)
class Knobs:
    """Checks of a config's numbers; each raises ConfigError naming the first unusable knob, its value and the remedy.

    Attributes:
        config: whose knobs.
        group: its place below `data.`, e.g. "live.social."; "" = the source's own config.
    """

    config: Any
    group: str = ""

    def require(self, holds: bool, name: str, remedy: str) -> None:
        """Refuses a knob unless something holds."""
        if not holds:
            value = getattr(self.config, name)
            raise ConfigError(f"data.{self.group}{name}={value!r} cannot be used: {remedy}")

    def counts(self, lowest: int, *names: str) -> None:
        """Requires finite numbers of at least `lowest`."""
        for name in names:
            remedy = f"give a finite number of at least {lowest}"
            self.require(lowest <= getattr(self.config, name) < math.inf, name, remedy)

    def between(self, low: float, high: float, *names: str) -> None:
        """Requires numbers in [low, high]."""
        for name in names:
            self.require(low <= getattr(self.config, name) <= high, name, f"give a number in [{low}, {high}]")

    def positive(self, *names: str) -> None:
        """Requires finite numbers above 0."""
        for name in names:
            self.require(0 < getattr(self.config, name) < math.inf, name, "give a finite number above 0")

    def rates(self, *names: str, allows_zero: bool = False) -> None:
        """Requires chances; those that log-odds need cannot be 0."""
        for name in names:
            rate = getattr(self.config, name)
            bounds = "[0, 1)" if allows_zero else "(0, 1)"
            self.require(0 < rate < 1 or (rate == 0 and allows_zero), name, f"give a chance in {bounds}")

    def branching(self, name: str) -> None:
        """Requires the children of a tree's nodes by level."""
        levels = getattr(self.config, name)
        remedy = "give a whole number of at least 1 for each level, and at most 100000 leaves"
        self.require(len(levels) >= 1 and min(levels) >= 1 and math.prod(levels) <= 100_000, name, remedy)


def numbered_nodes(name: str, count: int, features: dict[str, Feature] | None = None) -> NodeTable:
    """Nodes with the ids name_00000, name_00001, ..., as wide as the last one needs."""
    digits = max(5, len(str(count - 1)))
    ids = np.char.add(f"{name}_", np.char.zfill(np.arange(count).astype(np.str_), digits))
    return NodeTable(name, ids, features or {})


def make_relation(
    name: str,
    ends: tuple[str, str],
    source_ids: np.ndarray,
    target_ids: np.ndarray,
    time: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> Relation:
    """A relation of pairs [e], each at most once, in the dtypes of the schema."""
    sources, targets = source_ids.astype(np.int32), target_ids.astype(np.int32)
    return Relation(name, *ends, sources, targets, time, None if weight is None else weight.astype(np.float32))


def sparse_dirichlet(rng: np.random.Generator, concentration: float, rows: int, topics: int) -> np.ndarray:
    """Symmetric Dirichlet rows [rows, topics] that survive small parameters, where all gammas may underflow to 0."""
    # Gamma(a) = Gamma(a + 1) * U^(1 / a): in logarithms, and relative to the row's largest, nothing underflows.
    logs = np.log(rng.gamma(concentration + 1.0, size=(rows, topics)))
    logs += np.log1p(-rng.random((rows, topics))) / concentration
    values = np.exp(logs - logs.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)
