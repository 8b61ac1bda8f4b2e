"""Which checkpoints of a run stay: the newest, the best so far, and those of the best validations."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Info(NamedTuple):
    """What is asked of a checkpoint.

    Attributes:
        step: which one.
        metrics: of `metrics_of`, as stored.
    """

    step: int
    metrics: Mapping[str, float] | None


class Kept:
    """Orbax's preservation policy."""

    def __init__(self, num_last: int, num_best: int):
        self._num_last, self._num_best = num_last, num_best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:
        """Returns which of the checkpoints, given in the order of steps, stay."""
        validated = [info for info in checkpoints if "validation" in (info.metrics or {})]
        validated.sort(key=lambda info: (-info.metrics["validation"], info.step))
        kept = [*checkpoints[-self._num_last :], *validated[: self._num_best]]
        kept.append(max(checkpoints, key=lambda info: rank(info.metrics)))
        steps = {info.step for info in kept}
        return [info.step in steps for info in checkpoints]


def metrics_of(step: int, is_best: bool, validation: float | None) -> dict[str, float]:
    """What ranks a checkpoint.

    Args:
        step: of the checkpoint.
        is_best: whether it is the best so far, or there is no validation to say so.
        validation: the metric at this very step, if it was validated.
    """
    # Later bests are better, so steps rank them; the metric itself would leave ties to Orbax.
    return {"value": float(step if is_best else 0)} | ({} if validation is None else {"validation": validation})


def rank(metrics: Mapping[str, float] | None) -> tuple[float, float]:
    """The best so far first, then by validation: where the best one was damaged and moved aside."""
    metrics = metrics or {}
    return metrics.get("value", 0.0), metrics.get("validation", -float("inf"))
