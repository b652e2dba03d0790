"""Limits the total rate of reports: the more workers report, the longer each is asked to pause."""

from collections import Counter
from collections.abc import Callable, Hashable

_WINDOW = 30.0
"""Window in which every active sender reports at least once: longer than the longest pause, in seconds."""
_UNLIMITED = 1.0
"""A sender that is asked to pause for a second or less is not held back: workers report every other second."""


class Pace:
    """Computes the pause between a worker's reports from the number of reporting workers.

    The groups of senders share the rate. A group that needs less than an equal share is not held back, and the others share what
    it leaves.

    Args:
        rate: Reports per second to aim at, over all senders.
        longest: The longest pause to ask for, in seconds.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, rate: float, longest: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._longest = min(longest, _WINDOW / 2)
        self._clock = clock
        self._senders: set[tuple[Hashable, Hashable]] = set()
        self._sizes: Counter[Hashable] = Counter()
        self._before: Counter[Hashable] = Counter()
        self._ends = clock() + _WINDOW

    def pause(self, sender: Hashable, group: Hashable) -> float:
        """Record a report and return the minimum seconds that its sender should pause."""
        now = self._clock()
        if now >= self._ends:
            self._before = self._sizes if now < self._ends + _WINDOW else Counter()
            self._senders, self._sizes = set(), Counter()
            self._ends = now + _WINDOW
        if (group, sender) not in self._senders:
            self._senders.add((group, sender))
            self._sizes[group] += 1
        return min(self._longest, self._shared(group))

    def _shared(self, group: Hashable) -> float:
        """Return the pause with which the group keeps to its share of the rate."""
        sizes = self._sizes | self._before
        rate, groups = self._rate, len(sizes)
        for size in sorted(sizes.values()):
            if size / _UNLIMITED > rate / groups or size >= sizes[group]:
                break
            rate -= size / _UNLIMITED
            groups -= 1
        return sizes[group] * groups / rate
