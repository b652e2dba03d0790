"""What a rank measures from one meeting to the next: how fast steps are, and their mean loss."""

import time
from dataclasses import dataclass


@dataclass
class Clock:
    """When things happened in this launch, on the monotonic clock, in seconds.

    Attributes:
        measured_from: When the throughput began to be measured; None until the first, slow step is over.
        measured_samples: Samples seen by then.
        measured_step: Steps done by then.
        met: When the ranks last met.
        met_step: Steps done by then.
        saved: When the last checkpoint was begun.
        logged: When the last progress line was printed.
        loss_sum: Sum of the mean losses since the epoch began, as known at the last meeting.
        loss_steps: Steps in that sum.
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
        """Take note that training begins, after so many steps."""
        self.meet(step)
        self.saved = self.logged = self.met

    def meet(self, step: int) -> None:
        """Take note that the ranks have met, or have moved to another place in the data together."""
        self.met, self.met_step = time.monotonic(), step

    def step_seconds(self, step: int) -> float:
        """Return how long a step took since the ranks last met."""
        return (time.monotonic() - self.met) / max(1, step - self.met_step)

    def window_loss(self, loss_sum: float, steps: int) -> float | None:
        """Return the mean loss since the last meeting; None if no step was taken since.

        Args:
            loss_sum: Sum of the mean losses since the epoch began.
            steps: Steps in that sum.
        """
        taken, total = steps - self.loss_steps, loss_sum - self.loss_sum
        self.loss_sum, self.loss_steps = loss_sum, steps
        return total / taken if taken > 0 else None

    def expect_losses(self, loss_sum: float = 0.0, steps: int = 0) -> None:
        """Go on from another sum of losses: that of a new epoch, or of the checkpoint from which training goes on.

        Args:
            loss_sum: Sum of the mean losses since the epoch began.
            steps: Steps in that sum.
        """
        self.loss_sum, self.loss_steps = loss_sum, steps

    def rates(self, step: int, samples: int) -> tuple[float | None, float | None]:
        """Return steps and samples per second of this launch so far; None until its second meeting.

        The first step of a launch allocates and tunes; counting it would spoil the estimate of the time left.
        """
        now = time.monotonic()
        if self.measured_from is None:
            self.measured_from, self.measured_step, self.measured_samples = now, step, samples
        seconds = now - self.measured_from
        if seconds <= 0:
            return None, None
        return (step - self.measured_step) / seconds, (samples - self.measured_samples) / seconds
