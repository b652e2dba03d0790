"""Backoff for the creation of children that were refused, or that disappeared right after their creation.

Passes go on meanwhile. Decides nothing about what is created.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from trainwright.cluster.port import JobKey


def backoff(failures: int, base: float, limit: float, jitter: Callable[[], float]) -> float:
    """Return the seconds to wait after so many failures in a row: between half and all of what doubles with each."""
    full = min(limit, base * 2.0 ** min(failures - 1, 30))
    return full * (0.5 + 0.5 * jitter())


@dataclass(frozen=True)
class MissingPods:
    """Pods that a job is missing.

    Attributes:
        names: Names of the pods to create.
        former: UIDs of pods of an earlier job of the same name: once they are gone, names become free.
    """

    names: frozenset[str]
    former: frozenset[str]


@dataclass(frozen=True)
class _Try:
    missing: MissingPods
    at: float
    times: int
    until: float


class CreationBackoff:
    """Remembers which pods were last created for each job, or refused.

    A pod's name contains its attempt, so a pod that is missing twice under the same name did not last.

    Args:
        base: Seconds to wait after the first try.
        limit: The longest wait.
        jitter: Returns a number from 0 to 1.
    """

    def __init__(self, base: float, limit: float, jitter: Callable[[], float] = random.random) -> None:
        self._base = base
        self._limit = limit
        self._jitter = jitter
        self._tries: dict[JobKey, _Try] = {}

    def pause(self, key: JobKey, missing: MissingPods, now: float) -> float:
        """Return how many seconds to wait before creating the missing pods."""
        last = self._tries.get(key)
        if last is None or last.missing.names.isdisjoint(missing.names) or last.missing.former != missing.former:
            return 0.0
        return max(0.0, last.until - now)

    def note(self, key: JobKey, missing: MissingPods, now: float) -> float:
        """Record an attempt, successful or not, and return the seconds until the next one for the same pods."""
        last = self._tries.get(key)
        lasted = last is None or last.missing.names.isdisjoint(missing.names) or now - last.at > 2 * self._limit
        times = 1 if last is None or lasted else last.times + 1
        wait = backoff(times, self._base, self._limit, self._jitter)
        self._tries[key] = _Try(missing, now, times, now + wait)
        return wait

    def forget(self, key: JobKey) -> None:
        """Forget a job that is gone."""
        self._tries.pop(key, None)
