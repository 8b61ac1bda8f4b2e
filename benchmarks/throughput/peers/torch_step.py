"""A training step of a peer's PyTorch ranker on the suite's records."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import records
import torch
from protocol import Work
from training import loss_report, num_threads

Inputs = Callable[[records.Records], Any]


def step(workload: Path, model: torch.nn.Module, inputs: Inputs, num_tasks: int, note: str) -> Work:
    """Forward, backward and Adam on all parameters; their trainers also move each batch and show a progress bar.

    Args:
        workload: folder of the records.
        model: whose output is the probability of each task, [b] or [b, m].
        inputs: makes what the model is called with from one batch of records.
        num_tasks: m.
        note: what a reader has to know.
    """
    torch.set_num_threads(num_threads())
    given = records.read(workload)
    batches = itertools.cycle(
        [(inputs(batch), torch.from_numpy(batch.labels[:, :num_tasks])) for batch in map(records.Records, *given)]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=records.LEARNING_RATE)
    loss_of = torch.nn.BCELoss()
    model.train()
    losses: list[float] = []

    def one() -> None:
        x, labels = next(batches)
        predicted = model(x).reshape(labels.shape)
        # The sum over tasks of their means, as ours.
        loss = num_tasks * loss_of(predicted, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return Work(one, given.target.shape[1], notes=note, finish=lambda: loss_report(losses))
