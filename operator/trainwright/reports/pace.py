"""Limits the total rate of reports: the more workers report, the longer each is asked to pause."""

from collections.abc import Callable, Hashable

_WINDOW = 30.0
"""Window in which every active sender reports at least once: longer than the longest pause, in seconds."""


class Pace:
    """Computes the pause between a worker's reports from the number of reporting workers.

    Args:
        rate: Reports per second to aim at, over all senders.
        longest: The longest pause to ask for, in seconds.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, rate: float, longest: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._longest = min(longest, _WINDOW / 2)
        self._clock = clock
        self._senders: set[Hashable] = set()
        self._before = 0
        self._ends = clock() + _WINDOW

    def pause(self, sender: Hashable) -> float:
        """Record a report and return the minimum seconds that its sender should pause."""
        now = self._clock()
        if now >= self._ends:
            self._before = len(self._senders) if now < self._ends + _WINDOW else 0
            self._senders = set()
            self._ends = now + _WINDOW
        self._senders.add(sender)
        return min(self._longest, max(self._before, len(self._senders)) / self._rate)
