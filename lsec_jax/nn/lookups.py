"""Lookups in divided tables by all-to-all: each device asks the owners of rows for them, for each row once.

The devices along one axis own equal parts of a table, in order. What one sends another must have a static size: there
is room for `capacity` times an even share of a lookup's ids. Where a device has more different ids of one owner than
that, all devices look up in the other way, which `nn/replicas.py` has, and the ids without room are counted: results
do not depend on the capacity.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


class Devices(NamedTuple):
    """Who takes part in a lookup.

    Attributes:
        owners: axis of the devices that have the parts of a table.
        all: axes of all devices, which must look up in the same way.
    """

    owners: str
    all: tuple[str, ...]

    @property
    def copies(self) -> tuple[str, ...]:
        """The axes along which tables are copied."""
        return tuple(axis for axis in self.all if axis != self.owners)


class Exchange:
    """The lookups by all-to-all of one function while it is traced.

    Attributes:
        capacity: room for the different ids of each owner, as a multiple of an even share of a lookup's ids.
    """

    def __init__(self, capacity: float):
        """Begins without a lookup."""
        self.capacity = capacity
        self._overflows: list[Array] = []

    def take(
        self,
        table: Float[Array, "n d"],
        ids: Int[Array, " s"],
        otherwise: Callable[[Array], Array],
        devices: Devices,
    ) -> Float[Array, "s d"]:
        """Rows of a divided table. Gradients go the same way back, after those of one row were summed.

        Args:
            table: this device's part.
            ids: of the whole table, different ones on each device.
            otherwise: the other way to look the ids up, from the table.
            devices: that take part.
        """
        requests, overflow = self._requests(ids, len(table), devices)

        def exchanged(table: Array) -> Array:
            asked_for = _exchange(requests.rows, devices)
            answers = _exchange(table.at[asked_for].get(mode="fill", fill_value=0), devices)
            return answers.reshape(-1, table.shape[1]).at[requests.slots].get(mode="fill", fill_value=0)

        if overflow is None:
            return exchanged(table)
        self._overflows.append(overflow)
        return lax.cond(overflow > 0, otherwise, exchanged, table)

    def give(
        self,
        values: Float[Array, "s d"],
        ids: Int[Array, " s"],
        num_rows: int,
        otherwise: Callable[[Array], tuple[Array, Array]],
        devices: Devices,
    ) -> tuple[Int[Array, " r"], Float[Array, "r d"]]:
        """What all devices have for this device's part of a table, after a device's values of one row were summed.

        Args:
            values: for the rows of the ids.
            ids: as in `take`, which counts those without room.
            num_rows: of this device's part.
            otherwise: the other way, from the values; returns the same but for the order.
            devices: that take part.

        Returns:
            (rows of this part, some more than once, those past its end for nothing; their values, 0 for nothing). r is
            s times the number of devices, so that both ways fit.
        """
        requests, overflow = self._requests(ids, num_rows, devices)
        size = len(ids) * lax.axis_size(devices.all)

        def exchanged(values: Array) -> tuple[Array, Array]:
            summed = jax.ops.segment_sum(values, requests.slots, num_segments=requests.rows.size)
            received = _exchange(summed.reshape(*requests.rows.shape, -1), devices).reshape(summed.shape)
            both = _exchange(requests.rows, devices).ravel(), received
            if devices.copies:
                both = lax.all_gather(both, devices.copies, tiled=True)
            missing = size - len(both[0])
            return (
                jnp.pad(both[0], (0, missing), constant_values=num_rows),
                jnp.pad(both[1], ((0, missing), (0, 0))),
            )

        return exchanged(values) if overflow is None else lax.cond(overflow > 0, otherwise, exchanged, values)

    def pop_overflow(self) -> Float[Array, ""]:
        """How many ids of all devices had no room in the lookups since the last call."""
        counts, self._overflows = self._overflows, []
        return sum(counts, start=jnp.zeros((), jnp.float32))

    def forget(self) -> None:
        """Drops what was not popped."""
        self._overflows = []

    def _requests(
        self, ids: Int[Array, " s"], num_rows: int, devices: Devices
    ) -> tuple["Requests", Int[Array, ""] | None]:
        """What a lookup asks for, and how many ids of all devices have no room; None where that cannot be."""
        num_owners = lax.axis_size(devices.owners)
        most = min(len(ids), num_rows)
        room = min(most, math.ceil(self.capacity * len(ids) / num_owners))
        requests, num_left_out = requests_of(ids, num_rows, num_owners, room)
        return requests, None if room == most else lax.psum(num_left_out, devices.all)


class Requests(NamedTuple):
    """What a device asks of each owner.

    Attributes:
        rows: [p, c], of the owner's part, each once; the number of its rows where nothing is asked for.
        slots: [s], where in `rows`, flat, each id of the lookup stands; p * c for ids outside the table or without
            room.
    """

    rows: Array
    slots: Array


def requests_of(ids: Int[Array, " s"], num_rows: int, num_owners: int, room: int) -> tuple[Requests, Int[Array, ""]]:
    """Lists different ids by their owners, in static shapes.

    Args:
        ids: of the whole table.
        num_rows: of each owner's part.
        num_owners: p.
        room: c, different ids of one owner that can be asked for.

    Returns:
        (requests, how many different ids have no room).
    """
    ids = jnp.where(ids < 0, num_owners * num_rows, ids)
    # A sort: its time and memory grow neither with the table nor with the devices, as those of a word for each row do.
    order = jnp.argsort(ids, stable=False)
    sorted_ids = ids[order]
    owners = sorted_ids // num_rows
    starts_id, starts_owner = (jnp.append(True, of[1:] != of[:-1]) for of in (sorted_ids, owners))
    numbers = jnp.cumsum(starts_id, dtype=jnp.int32)
    places = numbers - lax.cummax(jnp.where(starts_owner, numbers, 0))  # of different ids among their owner's
    is_inside = owners < num_owners
    slots = jnp.where(is_inside & (places < room), owners * room + places, num_owners * room).astype(jnp.int32)
    rows = jnp.full(num_owners * room, num_rows, jnp.int32).at[slots].set(sorted_ids % num_rows, mode="drop")
    requests = Requests(rows.reshape(num_owners, room), jnp.zeros_like(slots).at[order].set(slots))
    return requests, jnp.sum(starts_id & is_inside & (places >= room), dtype=jnp.int32)


def _exchange(blocks: Array, devices: Devices) -> Array:
    """Sends each block along the first axis to its device; returns what came, in the devices' order."""
    return lax.all_to_all(blocks, devices.owners, 0, 0)


# Among the keys of jax's caches, so that what was traced with one way is never taken for the other.
_CURRENT = jax.make_user_context(None)


@contextlib.contextmanager
def exchanging(capacity: float) -> Iterator[None]:
    """Lookups that are traced inside go by all-to-all. Also a decorator of functions that are to be traced.

    Args:
        capacity: as in `Exchange`.
    """
    exchange = Exchange(capacity)
    try:
        with _CURRENT(exchange):
            yield
    finally:
        exchange.forget()  # jax's caches keep their keys, which must not keep what was traced


def current() -> Exchange | None:
    """The way of lookups where this is traced, None for the default one."""
    return _CURRENT.value
