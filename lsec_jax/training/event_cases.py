"""Some requests at full length: what the user did in each domain, and what scorers rank first (eLiveRec's Figure 8).

Numbers say how good a ranking is, not what it is like. A case shows the newest behaviours of one user beside the first
of what was shown to her, as each scorer orders it, with what she chose. Cases are the requests of the split's first
impressions whose user has behaved most in the domain where she did least, one request for each user.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lsec_jax.data.encoding import EventEncoder
from lsec_jax.declaration.layout import FieldLayout
from lsec_jax.models.impressions.fields import Batch
from lsec_jax.training.event_evaluation import ImpressionEvaluator, RowScorer

NUM_CASES, NUM_BEHAVIOURS, NUM_RANKED = 2, 10, 5
SEARCHED_ROWS = 65_536  # impressions among which cases are looked for
_UNKNOWN = "?"


@dataclasses.dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        user: who, with her own id.
        shown: names of the target's fields that are ids.
        behaviours: by sequence, with the names of its fields that are ids, the newest ones, newest first: these ids.
        rankings: by scorer what it ranks first, best first: (the ids of the target's fields, whether she chose it).
    """

    user: str
    shown: str
    behaviours: dict[str, list[str]]
    rankings: dict[str, list[tuple[str, bool]]]


def find(
    evaluator: ImpressionEvaluator, encoder: EventEncoder, scorers: Mapping[str, RowScorer], split: str
) -> list[Case]:
    """Finds cases in a split.

    Args:
        evaluator: of the impressions.
        encoder: what the model reads of them; its ids are shown.
        scorers: by name, as `ImpressionEvaluator.evaluate` takes them.
        split: "validation" or "test".

    Returns:
        At most NUM_CASES; none where it is not known what was shown together, or nothing was chosen.
    """
    group = evaluator.events.group
    if group is None:
        return []
    rows = next(evaluator.row_blocks(split, None, SEARCHED_ROWS), np.zeros(0, np.int64))
    primary, reader, cases = evaluator.declaration.labels[0].name, _Reader(encoder), []
    for row in _richest(evaluator, encoder, rows[evaluator.is_watch[rows]]):
        shown = rows[group[rows] == group[row]]
        scores = {name: np.asarray(scorer(shown)[primary]) for name, scorer in scorers.items()}
        orders = {name: np.argsort(-of, kind="stable")[:NUM_RANKED] for name, of in scores.items()}
        targets = reader.targets(shown)
        cases.append(
            Case(
                user=f"{evaluator.declaration.user} {evaluator.user_ids(np.array([row]))[0]}",
                shown=reader.shown,
                behaviours=reader.behaviours(row),
                rankings={
                    name: [(targets[i], bool(evaluator.is_watch[shown[i]])) for i in order]
                    for name, order in orders.items()
                },
            )
        )
    return cases


def markdown(cases: list[Case]) -> str:
    """Returns a table for each case; what the user chose is bold."""
    parts = []
    for case in cases:
        lines = [f"| {_cell(case.user)} | newest or best first |", "|---|---|"]
        lines += [f"| {name} | {_listed(found)} |" for name, found in case.behaviours.items()]
        for name, ranking in case.rankings.items():
            lines.append(
                f"| {case.shown}, ranked by {name} | {_listed([f'**{of}**' if hit else of for of, hit in ranking])} |"
            )
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def _listed(found: list[str]) -> str:
    return "; ".join(_cell(of) for of in found) or "-"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _richest(evaluator: ImpressionEvaluator, encoder: EventEncoder, rows: np.ndarray) -> list[int]:
    """Of rows [b], those of NUM_CASES users who have behaved most where they did least, the first row of each."""
    if not len(rows):
        return []
    masks = encoder.encode(rows)["masks"].values()
    least = np.min([of.sum(axis=1) for of in masks], axis=0) if masks else np.zeros(len(rows))
    order = np.argsort(-least, kind="stable")
    _, first = np.unique(evaluator.user_ids(rows)[order], return_index=True)
    return [int(rows[order[place]]) for place in np.sort(first)[:NUM_CASES]]


class _Reader:
    """Reads batches back: the external ids of fields."""

    def __init__(self, encoder: EventEncoder):
        self._encoder, self._ids = encoder, encoder.table_ids()
        self._fields = [of for of in encoder.layout.fields if of.part == "target" and of.kind == "ids"]
        self.shown = _names(self._fields)

    def targets(self, rows: np.ndarray) -> list[str]:
        """Of the targets of rows [b]."""
        batch = self._encoder.encode(rows)
        return [" ".join(self._id(batch, of, i, of.start) for of in self._fields) for i in range(len(rows))]

    def behaviours(self, row: int) -> dict[str, list[str]]:
        """The newest behaviours of a row by sequence, newest first."""
        batch, found = self._encoder.encode(np.array([row])), {}
        for sequence in self._encoder.layout.sequences:
            fields = [of for of in sequence.fields if of.kind == "ids"]
            places = np.flatnonzero(batch["masks"][sequence.name][0])[::-1][:NUM_BEHAVIOURS].tolist()
            found[f"{sequence.name}: {_names(fields)}"] = [
                " ".join(self._id(batch, of, 0, of.start + place) for of in fields) for place in places
            ]
        return found

    def _id(self, batch: Batch, field: FieldLayout, row: int, column: int) -> str:
        number = int(batch["ids"][field.table][row, column])
        return str(self._ids[field.table][number - 1]) if number else _UNKNOWN


def _names(fields: list[FieldLayout]) -> str:
    return ", ".join(of.name for of in fields)
