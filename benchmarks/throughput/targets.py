"""What the suite's rows are to reach at LSEC-Small's size, and what they reached."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.throughput import summary
from benchmarks.throughput.contestants import OURS

SIZE = "small"
COMPILED, WITHOUT = "compiled", "bcsr"  # what "auto" takes on a CPU, with a compiler and without
TIMES_FLOOR, TIMES_FLOOR_WITHOUT = 2.0, 4.0
DEVICE_SHARE = 0.6

Rows = Mapping[tuple[str, str], Mapping[str, Any]]  # by (row, size)


@dataclasses.dataclass(frozen=True)
class PeerTarget:
    """How many times less than a peer a row is to need.

    Attributes:
        work: in words.
        row: of the suite.
        peers: each by itself.
        factor: at least.
        measure: "seconds" or "memory".
    """

    work: str
    row: str
    peers: tuple[str, ...]
    factor: float
    measure: str = "seconds"


_BOTH = ("rechub", "pytorch_csr")
_WITH, _WITHOUT = "compiled kernels", "no compiler"
PEER_TARGETS = (
    PeerTarget(f"LSEC-GCN step, {_WITH}", "step/lsec_gcn", _BOTH, 2.0),
    PeerTarget(f"LSEC-GCN step, {_WITHOUT}", "step/lsec_gcn_bcsr", _BOTH, 1.5),
    PeerTarget(f"LSEC-LightGCN step, {_WITH}", "step/lsec_lightgcn", ("rechub",), 1.5),
    PeerTarget(f"LSEC-LightGCN step, {_WITHOUT}", "step/lsec_lightgcn_bcsr", ("rechub",), 1.0),
    PeerTarget("LSEC-GAT step, 8 heads", "step/lsec_gat", ("rechub",), 2.5),
    PeerTarget("LSEC-GAT step, 8 heads, peak memory", "step/lsec_gat", ("rechub",), 3.0, "memory"),
    PeerTarget("AUC of each user's 100 candidates", "auc", ("rechub",), 100.0),
    PeerTarget("top 50 of all items for all users, MLP", "ranking/mlp", ("rechub",), 60.0),
    PeerTarget(f"LightGCN-BPR step, {_WITH}", "step/lightgcn_bpr", ("pytorch_csr",), 2.0),
    PeerTarget(f"LightGCN-BPR step, {_WITHOUT}", "step/lightgcn_bpr_bcsr", ("pytorch_csr",), 1.3),
)
_NAMES = {"din": "DIN", "mmoe": "MMoE", "bst": "BST"}
RANKER_TARGETS = tuple(
    PeerTarget(f"{name} step, {width} wide", f"ranker/{model}/{width}", peers, 2.0)
    for model, name in _NAMES.items()
    for width in (16, 64, 128)
    for peers in [("torch_rechub", "deepctr_torch") if width == 16 and model != "bst" else ("torch_rechub",)]
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A target beside what was measured.

    Attributes:
        work, against: in words.
        wanted, measured: with their units; `measured` is None where nothing was.
        is_reached: None likewise.
        share: of the target, 1 or more = reached; for pictures.
    """

    work: str
    against: str
    wanted: str
    measured: str | None = None
    is_reached: bool | None = None
    share: float | None = None

    @property
    def text(self) -> str:
        """In words."""
        return {None: "not measured", True: "reached", False: "NOT reached"}[self.is_reached]


_GOWALLA = Verdict("LightGCN on a GPU, time to Gowalla's Recall@20 of .1800", "the clock", "-")


def by_name(result: Mapping[str, Any]) -> Rows:
    """The rows of a result."""
    return {(row["row"], row["size"]): row for row in result["rows"]}


def is_on_cpu(result: Mapping[str, Any]) -> bool:
    """Whether the result is of a CPU."""
    return all(of["device"].lower() == "cpu" for of in result["environments"])


def is_of_rankers(result: Mapping[str, Any]) -> bool:
    """Whether the result has rows of rankers alone, which is a result of its own."""
    return {row["row"].partition("/")[0] for row in result["rows"]} == {"ranker"}


def verdicts(result: Mapping[str, Any]) -> list[Verdict]:
    """All targets of the device that the result is of; on a CPU another device's are "not measured"."""
    rows = by_name(result)
    device = f"{DEVICE_SHARE:.0%} of the copy bandwidth"
    if not is_on_cpu(result):
        times = worst_times_floor(rows, None)
        share = _over_floor("propagate on a GPU, best backend", device, times, 1 / DEVICE_SHARE, is_share=True)
        return [share, _GOWALLA]
    rankers = [_beside(target, peer, rows) for target in RANKER_TARGETS for peer in target.peers]
    if is_of_rankers(result):
        return [*rankers, Verdict("steps of rankers on a GPU", "torch_rechub", "-")]
    found = [_beside(target, peer, rows) for target in PEER_TARGETS for peer in target.peers]
    for work, backend, most in (
        (f"propagate, forward and backward, {_WITH}", COMPILED, TIMES_FLOOR),
        (f"propagate, forward and backward, {_WITHOUT}", WITHOUT, TIMES_FLOOR_WITHOUT),
    ):
        times = worst_times_floor(rows, (backend,))
        found.append(_over_floor(work, f"at most {most:g} times the floor", times, most))
    return [*found, Verdict("propagate on a GPU, best backend", "copy bandwidth", device), _GOWALLA]


def times_floor(rows: Rows, backends: Iterable[str] | None = None, size: str = SIZE) -> dict[str, dict[str, float]]:
    """How many times the floor `propagate` takes: {"RELATION/WIDTH": {BACKEND: times}}."""
    found: dict[str, dict[str, float]] = {}
    for (name, of_size), row in rows.items():
        kind, *path = name.split("/")
        own = row["results"].get(OURS)
        if kind == "propagate" and of_size == size and own and (backends is None or path[2] in backends):
            found.setdefault(f"{path[0]}/{path[1]}", {})[path[2]] = own["p50"] / own["floor_seconds"]
    return found


def worst_times_floor(rows: Rows, backends: Iterable[str] | None) -> tuple[float, str] | None:
    """Of the best of some backends (None = all), where that is farthest from the floor, and where that is."""
    best = [
        (min(of.values()), f"{place}, {min(of, key=of.__getitem__)}")
        for place, of in times_floor(rows, backends).items()
    ]
    return max(best) if best else None


def _beside(target: PeerTarget, peer: str, rows: Rows) -> Verdict:
    wanted = f"{target.factor:g} x"
    row = rows.get((target.row, SIZE), {})
    if peer not in row.get("ratios", {}):
        return Verdict(target.work, peer, wanted)
    ratio = row["ratios"][peer][target.measure]
    measured = f"{ratio:.2f} x"
    if target.measure == "seconds":
        measured += f" ({summary.cpu_ratio(row, peer):.2f} x of processor time)"
    share = ratio / target.factor
    return Verdict(target.work, peer, wanted, measured, share >= 1, share)


def _over_floor(
    work: str, wanted: str, found: tuple[float, str] | None, most: float, is_share: bool = False
) -> Verdict:
    if found is None:
        return Verdict(work, "copy bandwidth", wanted)
    times, place = found
    measured = f"{1 / times:.0%} ({place})" if is_share else f"{times:.2f} ({place})"
    return Verdict(work, "copy bandwidth", wanted, measured, times <= most, most / times)
