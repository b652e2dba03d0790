"""Rate limit of status writes, independent of how often jobs and workers change.

Holds the times of past writes and of those to come, nothing else. Times are seconds of a monotonic clock.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from trainwright.controller.tuning import Tuning
from trainwright.plan.urgency import Urgency

Key = TypeVar("Key", bound=Hashable)

_BURST = 1.0
_GIVE_WAY = 2.0
"""Seconds by which other writes may push periodic ones back, at most."""
_INSTANT = 0.002
"""Seconds that are not worth a wait: the queue is not that precise, and would ask again at once, for ever."""


class StatusThrottle(Generic[Key]):
    """Computes how long a status write has to wait.

    A decision never waits. News of one job make at most one write per `news_interval`; all else makes at most
    one per `status_interval` and job, and at most `status_rate` per second over all jobs. For the latter a job is given
    a slot that stays its own: were it told to try again soon, a thousand waiting jobs would try for every free slot.
    Writes that do not wait use up slots too, so under load the periodic ones give way.

    Groups share the rate: each has a schedule of its own, whose slots are further apart the more groups have slots to come.
    Slots that were given before another group came stay, so the rate is exceeded until these are over.

    Args:
        tuning: The intervals and the rate.
        group: The group of a job.
    """

    def __init__(self, tuning: Tuning, group: Callable[[Key], Hashable] = lambda _: None) -> None:
        self._tuning = tuning
        self._group = group
        self._spacing = 1.0 / tuning.status_rate
        self._written: dict[Key, float] = {}
        self._slots: dict[Key, float] = {}
        self._taken_until: dict[Hashable, float] = {}

    def wait(self, key: Key, now: float, urgency: Urgency) -> float:
        """Return the seconds until the job's status may be written; 0 means now."""
        seconds = 0.0 if urgency == Urgency.DECISION else self._wait(key, now, news=urgency == Urgency.NEWS)
        return seconds if seconds > _INSTANT else 0.0

    def _wait(self, key: Key, now: float, *, news: bool) -> float:
        interval = self._tuning.news_interval if news else self._tuning.status_interval
        last = self._written.get(key)
        own = 0.0 if last is None else max(0.0, last + interval - now)
        if news or own > 0:
            return own
        if key not in self._slots:
            # A second's worth of slots may be used at once after a quiet time.
            self._slots[key] = max(now, self._taken(key, now) - _BURST)
            self._take_slot(key, now)
        return max(0.0, self._slots[key] - now)

    def written(self, key: Key, now: float) -> None:
        """Record a write."""
        self._written[key] = now
        if self._slots.pop(key, None) is None and self._taken(key, now) < now + _GIVE_WAY:
            self._take_slot(key, now)

    def forget(self, key: Key) -> None:
        """Forget a job."""
        self._written.pop(key, None)
        self._slots.pop(key, None)

    def _taken(self, key: Key, now: float) -> float:
        """Return until when the slots of the key's group are taken."""
        return max(now, self._taken_until.get(self._group(key), now))

    def _take_slot(self, key: Key, now: float) -> None:
        self._taken_until = {group: until for group, until in self._taken_until.items() if until > now}
        self._taken_until[self._group(key)] = self._taken(key, now)  # So that this group is counted, too.
        self._taken_until[self._group(key)] += self._spacing * len(self._taken_until)
