"""Measures the speed of steps and their mean loss between meetings."""

import time
from dataclasses import dataclass


@dataclass
class Clock:
    """Times of events in this launch, in seconds of the monotonic clock, and counts at those times.

    Attributes:
        measured_from: Start of the measurement of throughput; None until the first step, which is slow, has ended.
        measured_samples: Samples seen at that time.
        measured_step: Steps done at that time.
        met: Time of the last meeting.
        met_step: Steps done at that time.
        saved: Start of the last checkpoint.
        logged: Time of the last progress line.
        loss_sum: Sum of the mean losses since the start of the epoch, as of the last meeting.
        loss_steps: Number of steps in that sum.
    """

    measured_from: float | None = None
    measured_samples: int = 0
    measured_step: int = 0
    met: float = 0.0
    met_step: int = 0
    saved: float = 0.0
    logged: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0

    def begin(self, step: int) -> None:
        """Record the start of training after the given number of steps."""
        self.meet(step)
        self.saved = self.logged = self.met

    def meet(self, step: int) -> None:
        """Record a meeting of the ranks, or a change of the position in the data."""
        self.met, self.met_step = time.monotonic(), step

    def step_seconds(self, step: int) -> float:
        """Return the mean duration of a step since the last meeting, in seconds."""
        return (time.monotonic() - self.met) / max(1, step - self.met_step)

    def window_loss(self, loss_sum: float, steps: int) -> float | None:
        """Return the mean loss since the last meeting; None if no step was taken since.

        Args:
            loss_sum: Sum of the mean losses since the start of the epoch.
            steps: Number of steps in that sum.
        """
        taken, total = steps - self.loss_steps, loss_sum - self.loss_sum
        self.loss_sum, self.loss_steps = loss_sum, steps
        return total / taken if taken > 0 else None

    def expect_losses(self, loss_sum: float = 0.0, steps: int = 0) -> None:
        """Set the sum of losses that the next window starts from: that of a new epoch, or of a checkpoint.

        Args:
            loss_sum: Sum of the mean losses since the start of the epoch.
            steps: Number of steps in that sum.
        """
        self.loss_sum, self.loss_steps = loss_sum, steps

    def rates(self, step: int, samples: int) -> tuple[float | None, float | None]:
        """Return steps and samples per second of this launch so far; None until its second meeting.

        The first step of a launch is slow, because it allocates memory and tunes kernels. It is not counted, so that it
        does not distort the estimate of the remaining time.
        """
        now = time.monotonic()
        if self.measured_from is None:
            self.measured_from, self.measured_step, self.measured_samples = now, step, samples
        seconds = now - self.measured_from
        if seconds <= 0:
            return None, None
        return (step - self.measured_step) / seconds, (samples - self.measured_samples) / seconds
