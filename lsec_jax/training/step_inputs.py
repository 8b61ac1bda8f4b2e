"""What a training step reads besides its state, made ahead by a thread while the device works on the steps before."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple


class StepInput(NamedTuple):
    """The input of one step: a pure function of the run's seed and the step.

    Attributes:
        batch: arrays by stream.
        drawn: what the model draws before it reads a parameter, on the device; None if it draws nothing ahead.
        draw_seconds: how long that took, with the wait for steps that an accelerator had to finish before it.
    """

    batch: Mapping[str, Any]
    drawn: Any = None
    draw_seconds: float = 0.0


class StepInputs:
    """Inputs in the order of steps. Use as a context manager: leaving it ends the thread.

    Attributes:
        seconds_waited: how long the last call of `next` took.
    """

    def __init__(self, make: Callable[[int], StepInput], first_step: int, end_step: int, num_ahead: int):
        """Makes nothing before the first input is asked for.

        Args:
            make: step -> input.
            first_step: the first one.
            end_step: none is made from here on.
            num_ahead: inputs kept ready; 0 = each is made when it is asked for.
        """
        self._make, self._next, self._end, self._num_ahead = make, first_step, end_step, num_ahead
        self._pool = ThreadPoolExecutor(1, "step-inputs") if num_ahead else None
        self._ready: deque[Future[StepInput]] = deque()
        self.seconds_waited = 0.0

    def next(self) -> StepInput:
        """Returns the next step's input; raises what making it raised."""
        started = time.perf_counter()
        if self._pool is None:
            self._next += 1
            found = self._make(self._next - 1)
        else:
            self._order(self._pool)
            found = self._ready.popleft().result()
            self._order(self._pool)
        self.seconds_waited = time.perf_counter() - started
        return found

    def _order(self, pool: ThreadPoolExecutor) -> None:
        while len(self._ready) < self._num_ahead and self._next < self._end:
            self._ready.append(pool.submit(self._make, self._next))
            self._next += 1

    def __enter__(self) -> "StepInputs":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
