"""Passes records from the training loop to a tracker in a separate thread.

The loop only appends to a queue. The thread creates the tracker when the first record arrives, so that its imports do
not delay the first step. A slow, unreachable or broken tracker does not delay later steps.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from trainwright_worker.tracking.tracker import Ending, Record, Tracker

_LONGEST_QUEUE: Final = 100_000
"""Maximum number of queued records for a slow tracker; the oldest are dropped first."""


class Recorder:
    """A tracker and its thread."""

    def __init__(self, name: str, make: Callable[[], Tracker], pause: float, warn: Callable[[str], None]) -> None:
        """Start the thread.

        Args:
            name: Name of the tracker in warnings.
            make: Creates the tracker; called once, in the thread.
            pause: Seconds for which records are collected before they are passed on together.
            warn: Called once if the tracker fails.
        """
        self._name = name
        self._make = make
        self._pause = pause
        self._warn = warn
        self._pending: deque[Record] = deque(maxlen=_LONGEST_QUEUE)
        self._condition = threading.Condition()
        self._ending: tuple[Ending, Mapping[str, str]] | None = None
        self._thread = threading.Thread(target=self._run, name=f"tracking-{name}", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Add a record; does not block."""
        with self._condition:
            self._pending.append(record)
            self._condition.notify()

    def end(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """Request that the tracker ends the run after all records."""
        with self._condition:
            self._ending = (ending, artifacts)
            self._condition.notify()

    def join(self, seconds: float) -> None:
        """Wait for the requested end, for at most `seconds`."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(f"{self._name} has not accepted all records within {seconds:.0f} s")

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 - no error of a tracker may stop training
            first = (str(error).splitlines() or [""])[0]
            self._warn(f"tracking with {self._name} stopped: {type(error).__name__}: {first[:300]}")

    def _serve(self) -> None:
        tracker: Tracker | None = None
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pending or self._ending)
                self._condition.wait_for(lambda: self._ending, self._pause)
                records, ending = list(self._pending), self._ending
                self._pending.clear()
            if records:
                tracker = tracker or self._make()
                tracker.write(records)
            if ending is not None:
                if tracker is not None:
                    tracker.close(*ending)
                return
