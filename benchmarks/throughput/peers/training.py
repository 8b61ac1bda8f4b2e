"""What peers share: threads, one training step at a time, and how the loss went. Standard library only."""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

POSITIVES, QUICK_POSITIVES = 4096, 64


def num_threads() -> int:
    """Threads that a peer may use: OMP_NUM_THREADS, which the suite sets, or 1."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def loss_report(losses: list[float]) -> dict[str, float]:
    """The first and the last loss; raises ValueError if one is not finite."""
    if not all(map(math.isfinite, losses)):
        raise ValueError(f"the loss is not finite: {losses}")
    return {"first_loss": losses[0], "last_loss": losses[-1]}


class Lockstep:
    """Another package's own training loop, made to advance by one step at a time.

    The loop runs in a thread and takes its batches from `batches`; whenever it asks for the next one it has finished a
    step, and waits there for the next `run`. A step therefore begins with making its batch.
    """

    def __init__(self, train: Callable[["Lockstep"], Any]) -> None:
        """Takes the loop, which is started by the first `run`; it is called with this object."""
        self._go, self._done, self._error = threading.Semaphore(0), threading.Semaphore(0), None
        self._thread = threading.Thread(target=self._train, args=(train,), daemon=True)

    def _train(self, train: Callable[["Lockstep"], Any]) -> None:
        try:
            train(self)
            self._error = RuntimeError("the training loop has ended")
        except BaseException as error:  # also SystemExit, which would end this thread alone
            self._error = error
        self._done.release()

    def run(self) -> None:
        """One step; raises RuntimeError if the loop has failed or ended."""
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise RuntimeError(f"the peer's training loop: {self._error!r}") from self._error

    def batches(self, loader: Iterable[Any], is_wanted: Callable[[Any], bool] = lambda batch: True) -> Iterator[Any]:
        """The wanted batches of a loader, over and over, each made when a step begins."""
        endless = _over_and_over(loader, is_wanted)
        while True:
            self._go.acquire()
            yield next(endless)
            self._done.release()


def _over_and_over(loader: Iterable[Any], is_wanted: Callable[[Any], bool]) -> Iterator[Any]:
    while True:
        count = 0
        for batch in filter(is_wanted, loader):
            count += 1
            yield batch
        if not count:
            raise ValueError("the peer's loader has no whole batch; the workload is too small for it")
