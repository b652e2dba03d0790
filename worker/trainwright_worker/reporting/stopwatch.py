"""Measures the duration of the parts of a step. Only a few steps are timed, and timing never waits for a GPU.

On a GPU, laps are events in its stream, which are read at meetings, when the rank waits for the device anyway. So
durations are those on the device, and waiting for data counts only while the device is idle.
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
"""Number of steps timed before each meeting. The last one also measures the gradient, so the one before is used."""
REMEMBERED: Final = 5
LAGGING: Final = 1.25
"""Multiple of the median from which a rank counts as a straggler."""
NEGLIGIBLE: Final = 0.0005
"""Difference in seconds per step that is too small to matter."""


class Stopwatch:
    """Times the parts of steps.

    Attributes:
        own: Seconds per step of this rank's own work, without communication: the median of recently timed steps.
    """

    def __init__(self, trained: nn.Module, device: torch.device) -> None:
        """Prepare the stopwatch.

        Args:
            trained: The model in the wrapper that averages gradients. Communication can only be timed separately under
                DDP, where it continues after the backward pass.
            device: Device of the model.
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
        with closing(batches):  # type: ignore[type-var]  # closing the generator ends its threads
            while True:
                if steps_left() <= TIMED_STEPS:
                    self._begin()
                batch = next(batches)
                self.lap("data")
                yield batch

    def lap(self, part: str) -> None:
        """Record the time since the previous lap as that of a part."""
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
        # Keep the first of two timed steps, because the last one also measures the gradient.
        self._timed, self._laps = self._timed or self._laps, None

    def read(self) -> StepTime | None:
        """Return the parts of the step that was timed since the previous call; None if none was.

        Call this after waiting for the device.
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
    """Return the ranks whose own work takes much longer than the median, slowest first.

    Args:
        seconds: Ranks with seconds per step of their own work; 0 if not yet known.
        most: Maximum number of ranks to return.
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
