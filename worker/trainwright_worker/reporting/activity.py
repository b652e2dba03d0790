"""Where the wall time of a launch goes, on rank 0: every second belongs to one activity, from the first to the last."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from threading import Lock
from typing import Final

from trainwright.api.status import LaunchSeconds
from trainwright.api.worker import WorkerPhase


class Activity(StrEnum):
    """What time is spent on; the values are fields of `LaunchSeconds`."""

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
"""What each phase of a worker spends its time on."""


class ActivityTimer:
    """Counts seconds per activity. The loop changes the activity, the reporting thread reads the sums."""

    def __init__(self) -> None:
        self._activity = Activity.LOADING
        self._since = time.monotonic()
        self._spent = dict.fromkeys(Activity, 0.0)
        self._stalled = False
        self._lock = Lock()

    def switch_to(self, activity: Activity) -> Activity:
        """Charge the time so far to what was done, and time from now on to `activity`; return what was done."""
        with self._lock:
            self._charge()
            before, self._activity = self._activity, activity
        return before

    @contextmanager
    def during(self, activity: Activity) -> Iterator[None]:
        """Charge the time inside to `activity`, and then go on with what was done before."""
        before = self.switch_to(activity)
        try:
            yield
        finally:
            self.switch_to(before)

    def mark_stalled(self, stalled: bool) -> None:  # noqa: FBT001 - a fact, not a mode
        """Say whether training stands still, for reasons that are not its own; no other activity can."""
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
