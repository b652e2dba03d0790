"""When a status may be written: keeps the number of writes bounded, whatever jobs and workers have to say.

Holds the times of past writes and a bucket of tokens, nothing else. Times are seconds of a monotonic clock.
"""

from collections.abc import Hashable

from trainwright.api.status import TrainingJobStatus
from trainwright.controller.tuning import Tuning


def is_decision(old: TrainingJobStatus, new: TrainingJobStatus) -> bool:
    """Return whether the new status is one that further steps wait for, and so must be written without delay."""
    return (
        old.phase != new.phase
        or old.attempt != new.attempt
        or old.oldest_attempt != new.oldest_attempt
        or old.restarts != new.restarts
        or old.finished_at != new.finished_at
        or old.observed_generation != new.observed_generation
    )


class StatusThrottle:
    """Says how long a status write has to wait.

    A decision never waits. Urgent news of one job make at most one write per `urgent_interval`; all else makes at most
    one per `status_interval` and job, and at most `status_rate` per second over all jobs. Writes that do not wait take
    tokens too, so under load the periodic ones give way.
    """

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._written: dict[Hashable, float] = {}
        self._tokens = tuning.status_rate
        self._filled = 0.0

    def wait(self, key: Hashable, now: float, *, decision: bool, urgent: bool) -> float:
        """Return the seconds until the job's status may be written; 0 means now."""
        if decision:
            return 0.0
        interval = self._tuning.urgent_interval if urgent else self._tuning.status_interval
        last = self._written.get(key)
        own = 0.0 if last is None else max(0.0, last + interval - now)
        if urgent or own > 0:
            return own
        self._fill(now)
        return max(0.0, (1.0 - self._tokens) / self._tuning.status_rate)

    def written(self, key: Hashable, now: float) -> None:
        """Take note of a write."""
        self._fill(now)
        self._tokens = max(-self._tuning.status_rate, self._tokens - 1.0)
        self._written[key] = now

    def forget(self, key: Hashable) -> None:
        """Drop what is known of a job."""
        self._written.pop(key, None)

    def _fill(self, now: float) -> None:
        rate = self._tuning.status_rate
        self._tokens = min(rate, self._tokens + max(0.0, now - self._filled) * rate)
        self._filled = now
