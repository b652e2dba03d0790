"""How often workers are asked to report, so that a thousand jobs cost little more than a few."""

from collections.abc import Callable, Hashable

_WINDOW = 30.0
"""Seconds after which everyone who still reports has done so: longer than any pause that is asked for."""


class Pace:
    """Spreads reports over time: the more there are who report, the longer each of them is asked to pause.

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
        """Take note of a report and return for how many seconds its sender should pause at least."""
        now = self._clock()
        if now >= self._ends:
            self._before = len(self._senders) if now < self._ends + _WINDOW else 0
            self._senders = set()
            self._ends = now + _WINDOW
        self._senders.add(sender)
        return min(self._longest, max(self._before, len(self._senders)) / self._rate)
