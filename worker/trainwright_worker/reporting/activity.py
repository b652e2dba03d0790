"""Accounts the wall time of a launch on rank 0: every second belongs to exactly one activity."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from threading import Lock
from typing import Final

from trainwright.api.status import LaunchSeconds
from trainwright.api.worker import WorkerPhase


class Activity(StrEnum):
    """An activity; the values are fields of `LaunchSeconds`."""

    LOADING = "loading"
    TRAINING = "training"
    CHECKPOINTING = "checkpointing"
    EVALUATING = "evaluating"
    STALLED = "stalled"


ACTIVITY_OF: Final = {
    WorkerPhase.RENDEZVOUS: Activity.LOADING,
    WorkerPhase.PREPARING: Activity.LOADING,
    WorkerPhase.TRAINING: Activity.TRAINING,
    WorkerPhase.EVALUATING: Activity.EVALUATING,
    WorkerPhase.PREDICTING: Activity.EVALUATING,
    WorkerPhase.FINISHED: Activity.EVALUATING,
}
"""The activity of each phase of a worker."""


class ActivityTimer:
    """Counts seconds per activity. The training loop changes the activity, and the reporting thread reads the sums."""

    def __init__(self) -> None:
        self._activity = Activity.LOADING
        self._since = time.monotonic()
        self._spent = dict.fromkeys(Activity, 0.0)
        self._stalled = False
        self._lock = Lock()

    def switch_to(self, activity: Activity) -> Activity:
        """Account the time so far to the current activity, switch to `activity`, and return the previous one."""
        with self._lock:
            self._charge()
            before, self._activity = self._activity, activity
        return before

    @contextmanager
    def during(self, activity: Activity) -> Iterator[None]:
        """Account the time inside the context to `activity`, then return to the previous activity."""
        before = self.switch_to(activity)
        try:
            yield
        finally:
            self.switch_to(before)

    def mark_stalled(self, stalled: bool) -> None:  # noqa: FBT001 - a fact, not a mode
        """Set whether training is stalled. While it is, time of training counts as stalled."""
        with self._lock:
            self._charge()
            self._stalled = stalled

    def read(self) -> LaunchSeconds:
        """Return the seconds so far."""
        with self._lock:
            self._charge()
            return LaunchSeconds(**{activity: round(seconds, 3) for activity, seconds in self._spent.items()})

    def _charge(self) -> None:
        now = time.monotonic()
        stalled = self._stalled and self._activity is Activity.TRAINING
        self._spent[Activity.STALLED if stalled else self._activity] += now - self._since
        self._since = now
