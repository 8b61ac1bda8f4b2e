"""What a compiled function sends between devices, read from its HLO.

Of a conditional, one branch counts: that of a false predicate, unless the other one is asked for. The condition of a
lookup by all-to-all (`nn/lookups.py`) is that ids have no room, which a large enough capacity prevents.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Bytes that a device receives, as a multiple of the larger side of the collective, in a group of g devices with the
# algorithms that use all links alike (rings): https://arxiv.org/abs/2004.09362, Table 1.
_SHARES = {
    "all-gather": lambda size: (size - 1) / size,
    "reduce-scatter": lambda size: (size - 1) / size,
    "all-reduce": lambda size: 2 * (size - 1) / size,
    "all-to-all": lambda size: (size - 1) / size,
    "collective-permute": lambda _: 1.0,
}
_UNCOUNTED = ("collective-broadcast", "ragged-all-to-all", "send", "recv")
_OPERATION = re.compile(
    rf" = (?P<result>.*?) (?P<name>{'|'.join((*_SHARES, *_UNCOUNTED))})(?P<start>-start)?\((?P<rest>.*)"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%(?P<name>[\w.\-]+) \(.*\{\s*$")
_WHILE = re.compile(r" while\(.*body=%(?P<body>[\w.\-]+)")
_CALLED = re.compile(r"(?:to_apply|calls)=%(?P<name>[\w.\-]+)")
# Branches are numbered, and the first one is that of a false predicate; or they are named.
_BRANCHES = re.compile(r" conditional\(.*branch_computations=\{%(?P<false>[\w.\-]+), %(?P<true>[\w.\-]+)\}")
_NAMED_BRANCHES = re.compile(
    r" conditional\(.*true_computation=%(?P<true>[\w.\-]+), false_computation=%(?P<false>[\w.\-]+)"
)
_TRIPS = re.compile(r'known_trip_count":\{"n":"(?P<count>\d+)"')
_ARRAY = re.compile(r"(?P<type>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation of a compiled function.

    Attributes:
        name: in HLO, such as "all-gather".
        num_bytes: of its larger side, on one device.
        group_size: devices that take part together.
        times: how often it runs in a call.
    """

    name: str
    num_bytes: int
    group_size: int
    times: int

    @property
    def received_bytes(self) -> float:
        """What a device receives in a call."""
        return self.times * self.num_bytes * _SHARES[self.name](self.group_size)


def collectives(hlo: str, predicate: bool = False) -> list[Collective]:
    """Lists the collectives of a compiled function.

    Args:
        hlo: `compiled.as_text()`.
        predicate: of all conditionals.

    Raises:
        ValueError: for a loop around a collective that does not say how often it runs, a choice between more than two
            branches, or anything else that is not understood.
    """
    lines = {name: list(body) for name, body in _computations(hlo)}
    entry = next(name for name in lines if re.search(rf"^ENTRY %{re.escape(name)} ", hlo, re.MULTILINE))
    return list(_in_computation(entry, lines, 1, "true" if predicate else "false"))


def received_bytes(hlo: str, predicate: bool = False) -> float:
    """What a device receives from others in one call of a compiled function, at least; arguments as `collectives`."""
    return sum(of.received_bytes for of in collectives(hlo, predicate))


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
    name, body = "", list[str]()
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name, body = header["name"], []
        elif line.startswith("}") and name:
            yield name, body
            name = ""
        else:
            body.append(line)


def _in_computation(name: str, lines: dict[str, list[str]], times: int | None, predicate: str) -> Iterator[Collective]:
    for line in lines[name]:
        if found := _OPERATION.search(line):
            if times is None:
                raise ValueError(f"a loop with a {found['name']} does not say how often it runs: {line.strip()[:200]}")
            if found["name"] in _UNCOUNTED:
                raise ValueError(f"the bytes of a {found['name']} are not counted: {line.strip()[:200]}")
            name, size = found["name"], _group_size(found["name"], found["rest"])
            # What starts an all-gather or a permutation names its operands beside its results.
            sizes = _num_bytes(found["result"])
            if found["start"] and name != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]
            yield Collective(name, sum(sizes) * (size if name == "reduce-scatter" else 1), size, times)
        if loop := _WHILE.search(line):
            trips = _TRIPS.search(line)
            inside = None if trips is None or times is None else times * int(trips["count"])
            yield from _in_computation(loop["body"], lines, inside, predicate)
        if " conditional(" in line:
            branches = _BRANCHES.search(line) or _NAMED_BRANCHES.search(line)
            if branches is None:
                raise ValueError(f"a conditional that has not two branches: {line.strip()[:200]}")
            yield from _in_computation(branches[predicate], lines, times, predicate)
        for called in _CALLED.finditer(line):
            yield from _in_computation(called["name"], lines, times, predicate)


def _num_bytes(text: str) -> list[int]:
    """Of each array in a list of them."""
    sizes = []
    for array in _ARRAY.finditer(text):
        count = int(np.prod([int(length) for length in array["shape"].split(",") if length], dtype=np.int64))
        bits = 8 if array["type"] == "pred" else int(array["bits"])
        sizes.append(count * bits // 8)
    if not sizes:
        raise ValueError(f"a collective of arrays whose type is not known: {text[:200]}")
    return sizes


def _group_size(name: str, text: str) -> int:
    """Devices in a group: {{0,1},{2,3}}, [2,4]<=[8] (groups, size), mesh['a'=2,'b'=4] {'b'}; 2 in a permutation."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{('[^']+'(?:,'[^']+')*)\}", text):  # since jax 0.11
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))
    if name == "collective-permute":
        return 2
    raise ValueError(f"the group of a {name} is not known: {text.strip()[:200]}")
