"""Metrics of scored impressions, exact for any number of them; numpy only.

`streaming` collects rows and says what is measured, `user_parts` adds it up by user, `top_share` what is ranked first,
`resampled` measures parts of the rows in bootstrap samples, `ranked` measures sorted rows, `sorted_keys` sorts them.
"""

from lsec_jax.event_metrics.sorted_keys import GROUP_SHIFT, ROWS_IN_MEMORY, SortedKeys, pack
from lsec_jax.event_metrics.streaming import (
    OUTPUTS,
    EventMetrics,
    EventResult,
    Label,
    NanScoreError,
    is_higher_better,
    metric_names,
)
from lsec_jax.event_metrics.top_share import TopShare

__all__ = [
    "GROUP_SHIFT",
    "OUTPUTS",
    "ROWS_IN_MEMORY",
    "EventMetrics",
    "EventResult",
    "Label",
    "NanScoreError",
    "SortedKeys",
    "TopShare",
    "is_higher_better",
    "metric_names",
    "pack",
]
