"""Where the time of a step goes. Only a few steps are timed, and timing never waits for a GPU.

On a GPU a lap is an event in its stream. It is read when the ranks meet, after the device was waited for anyway. So the time
of a part is the device's, and waiting for data counts only as far as the device was idle.
"""

import itertools
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainwright.api.figures import StepTime, Straggler
from trainwright_worker.batch import Batch

TIMED_STEPS: Final = 2
"""Steps before each meeting that are timed. The last of them measures the gradient too, so the one before tells more."""
REMEMBERED: Final = 5
LAGGING: Final = 1.25
"""From how many times the median on a rank lags behind."""
NEGLIGIBLE: Final = 0.0005
"""Seconds per step below which differences between ranks say nothing."""


class Stopwatch:
    """Times the parts of steps.

    Attributes:
        own: Seconds of a step that this rank spends on its own work: the median of the newest ones timed.
    """

    def __init__(self, trained: nn.Module, device: torch.device) -> None:
        """Prepare.

        Args:
            trained: The model in the wrapper that brings together gradients. How long that takes beyond the own backward
                pass can only be told where it comes after it, as under DDP.
            device: Where the model is trained.
        """
        self.own = 0.0
        self._cuda = device.type == "cuda"
        distributed = isinstance(trained, DistributedDataParallel)
        self._weights = [weight for weight in trained.parameters() if weight.requires_grad] if distributed else []
        self._laps: list[tuple[str, Any]] | None = None
        self._gradient: Any = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._timed: list[tuple[str, Any]] | None = None
        self._newest: deque[float] = deque(maxlen=REMEMBERED)

    def batches(self, batches: Iterator[Batch], steps_left: Callable[[], int]) -> Iterator[Batch]:
        """Yield the batches, and time the last steps before each meeting.

        Args:
            batches: The batch of every step.
            steps_left: Returns the number of steps until the next meeting.
        """
        with closing(batches):  # type: ignore[type-var]  # a generator, whose threads end with it
            while True:
                if steps_left() <= TIMED_STEPS:
                    self._begin()
                batch = next(batches)
                self.lap("data")
                yield batch

    def lap(self, part: str) -> None:
        """Count the time since the lap before as that of a part."""
        if self._laps is None:
            return
        if part == "backward" and self._gradient is not None:
            self._laps.append(("backward", self._gradient))
            self._gradient, part = None, "communication"
        self._laps.append((part, self._now()))

    def end(self) -> None:
        """End the step."""
        if self._laps is None:
            return
        self.lap("optimizer")
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        # Of two, the first is kept: what is timed last also measures the gradient.
        self._timed, self._laps = self._timed or self._laps, None

    def read(self) -> StepTime | None:
        """Return the parts of the step that was timed since this was called last; None if none was.

        Call it once the device has been waited for.
        """
        laps, self._timed = self._timed, None
        if laps is None:
            return None
        parts: dict[str, float] = defaultdict(float)
        for (_, before), (part, after) in itertools.pairwise(laps):
            parts[part] += before.elapsed_time(after) / 1000 if self._cuda else after - before
        total = sum(parts.values())
        self._newest.append(total - parts["communication"])
        self.own = statistics.median(self._newest)
        names = (name for name in StepTime.model_fields if name != "total")
        return StepTime(total=total, **{name: max(0.0, parts[name]) for name in names})

    def _begin(self) -> None:
        self._laps, self._gradient = [("", self._now())], None
        self._hooks = [
            weight.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]
            for weight in self._weights
        ]

    def _note_gradient(self, _: Tensor) -> None:
        self._gradient = self._now()

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def find_stragglers(seconds: Iterable[tuple[int, float]], most: int) -> list[Straggler]:
    """Return the ranks whose own work takes much longer than that of most, the slowest first.

    Args:
        seconds: Rank and seconds per step of its own work; 0 if not known yet.
        most: How many to name at most.
    """
    known = [(rank, value) for rank, value in seconds if value > 0]
    if len(known) <= 1:
        return []
    usual = statistics.median_low(value for _, value in known)
    lagging = [
        Straggler(rank=rank, factor=value / usual)
        for rank, value in known
        if value >= LAGGING * usual and value - usual >= NEGLIGIBLE
    ]
    return sorted(lagging, key=lambda straggler: -straggler.factor)[:most]
