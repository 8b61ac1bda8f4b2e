"""The small feed one day later: streamers in other places, two of them new."""

import dataclasses

import numpy as np

from lsec_jax.schema import NodeTable
from tests import event_runs


@dataclasses.dataclass
class LaterFeed:
    """The same events by streamers with other ids: those of the earlier feed, moved by one place, and new ones.

    Attributes:
        num_known: streamers that the earlier feed has.
    """

    num_known: int = 6

    def load(self):
        data = event_runs.small_world().load()
        streamers = data.nodes["streamer"]
        ids = np.roll(streamers.ids, 1).astype("U20")
        ids[self.num_known :] = [f"a_new_streamer_{i}" for i in range(len(ids) - self.num_known)]
        return data.replace(nodes={**data.nodes, "streamer": NodeTable("streamer", ids, streamers.features)})
