"""When missing children may be created again: what was refused, or vanished as soon as it was made, is waited with.

Passes go on meanwhile, whatever else happens to the job. Decides nothing about what is created.
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
class Lack:
    """What a job lacks.

    Attributes:
        pods: Names of the pods to create.
        strangers: UIDs of pods of a former job of the same name: once they go, names become free.
    """

    pods: frozenset[str]
    strangers: frozenset[str]


@dataclass(frozen=True)
class _Try:
    lack: Lack
    at: float
    times: int
    until: float


class Restraint:
    """Remembers what was last created for each job, or refused.

    A name says which attempt a pod is of, so one that is asked for twice never lasted.

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

    def pause(self, key: JobKey, lack: Lack, now: float) -> float:
        """Return for how many seconds not to create what the job lacks."""
        last = self._tries.get(key)
        if last is None or last.lack.pods.isdisjoint(lack.pods) or last.lack.strangers != lack.strangers:
            return 0.0
        return max(0.0, last.until - now)

    def note(self, key: JobKey, lack: Lack, now: float) -> float:
        """Take note of a try, whatever came of it, and return the seconds until the next one for the same pods."""
        last = self._tries.get(key)
        lasted = last is None or last.lack.pods.isdisjoint(lack.pods) or now - last.at > 2 * self._limit
        times = 1 if last is None or lasted else last.times + 1
        wait = backoff(times, self._base, self._limit, self._jitter)
        self._tries[key] = _Try(lack, now, times, now + wait)
        return wait

    def forget(self, key: JobKey) -> None:
        """Forget a job that is gone."""
        self._tries.pop(key, None)
