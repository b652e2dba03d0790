"""Rate limits by key, in bounded memory."""

from collections import OrderedDict
from collections.abc import Callable, Hashable


class RateLimits:
    """A token bucket per key: `rate` per second, up to `burst` at once.

    Args:
        rate: Tokens per second and key.
        burst: Tokens that a key can save up.
        clock: A monotonic clock, in seconds.
        capacity: How many keys are remembered; the least recently used are forgotten, and so start full again.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float], capacity: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._capacity = capacity
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def allow(self, key: Hashable) -> bool:
        """Take a token from this key's bucket and return whether there was one."""
        now = self._clock()
        tokens, filled = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - filled) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return allowed
