"""Reports to the operator: rank 0 posts a WorkerReport every few seconds from a separate thread.

Only the latest report is sent, so reports do not queue up: a slow or unavailable endpoint delays reports, but not
training. The other ranks write their heartbeats to the rendezvous store, where rank 0's thread reads them. Ages are
measured only by rank 0's clock, so clocks need not be synchronized.
"""

import threading
import time
from collections.abc import Iterable
from typing import Any, Final

from torch.distributed import Store  # type: ignore[attr-defined]

from trainwright.api.figures import MOST_STRAGGLERS
from trainwright.api.worker import MOST_HEARTBEATS, Cause, RankHeartbeat, ReportsEndpoint, WorkerPhase, WorkerReport
from trainwright_worker.reporting.activity import ACTIVITY_OF, ActivityTimer
from trainwright_worker.reporting.client import Client
from trainwright_worker.reporting.pulse import Pulse
from trainwright_worker.reporting.stopwatch import find_stragglers

LAST_REPORT_SECONDS: Final = 5.0
MAX_BACKOFF_SECONDS: Final = 10.0
ASKED_AGAIN: Final = 8
"""Number of consecutive refusals after which the pause requested by the operator is ignored."""


class Reporter:
    """The report of rank 0, and the thread that sends it.

    Attributes:
        activities: Time of this launch by activity.
    """

    def __init__(self, endpoint: ReportsEndpoint | None, first: WorkerReport, pulse: Pulse) -> None:
        """Start to report immediately.

        Args:
            endpoint: The endpoint of the operator; None to send no reports.
            first: The first report.
            pulse: The heartbeat of rank 0.
        """
        self.activities = ActivityTimer()
        self._endpoint = endpoint
        self._report = first
        self._phases = {first.phase}
        self._pulse = pulse
        self._beats: dict[int, tuple[int, int, float]] = {}
        self._paces: dict[int, float] = {}
        self._store: Store | None = None
        self._size = 1
        self._condition = threading.Condition()
        self._urgent = True
        self._closing = False
        self._client = None if endpoint is None else Client(endpoint, "rank 0")
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._thread.start()

    @property
    def report(self) -> WorkerReport:
        """The latest report."""
        return self._report

    def watch(self, store: Store, size: int) -> None:
        """Read the heartbeats of `size` ranks from `store` from now on; each rank must already have written one."""
        self._size = size
        self._store = store

    def update(self, **changes: Any) -> None:
        """Change fields of the report. The first occurrence of a phase is reported immediately.

        Other changes wait for the next regular report, because training and evaluation may alternate many times per
        second.
        """
        with self._condition:
            self._report = self._report.changed(**changes)
            if "phase" in changes:
                self.activities.switch_to(ACTIVITY_OF[self._report.phase])
            if self._report.phase not in self._phases:
                self._phases.add(self._report.phase)
                self._urgent = True
                self._condition.notify()

    def close(self, seconds: float = LAST_REPORT_SECONDS) -> WorkerReport:
        """Try for `seconds` to deliver the last report, and return it."""
        with self._condition:
            self._closing = self._urgent = True
            self._condition.notify()
        self._thread.join(seconds)
        return self._report

    def _run(self) -> None:
        failures = 0
        while True:
            with self._condition:
                self._condition.wait_for(
                    self._is_due_early if failures == 0 else self._is_closing, self._pause(failures)
                )
                closing, self._urgent = self._closing, False
            sent = self._send()
            failures = 0 if sent else failures + 1
            if closing and (sent or failures > 1):
                return

    def _is_due_early(self) -> bool:
        return self._closing or self._urgent

    def _is_closing(self) -> bool:
        return self._closing

    def _pause(self, failures: int) -> float:
        if self._endpoint is None or self._client is None:
            return 1.0
        interval = self._endpoint.interval_seconds
        if 0 < failures <= ASKED_AGAIN and self._client.pause:
            return (
                self._client.pause
            )  # A standby replica of the operator refuses reports; the next connection may reach the active one.
        if failures:
            return min(MAX_BACKOFF_SECONDS, interval * 2.0 ** (failures - 1))
        return max(interval, self._client.pause)

    def _send(self) -> bool:
        # Read before taking the lock, because the store may be slow and the training loop must not wait for it.
        heartbeats = self._heartbeats()
        stragglers = find_stragglers(self._paces.items(), MOST_STRAGGLERS)
        with self._condition:
            # Increases over all launches in this pod, even if the clock was set back.
            sequence = max(int(time.time() * 1000), self._pulse.sequence + 1)
            self._pulse.sequence = sequence
            changes = {"sequence": sequence, "heartbeats": heartbeats, "stragglers": stragglers}
            self.activities.mark_stalled(self._pulse.stalled)
            changes["seconds"] = self.activities.read()
            self._report = self._report.changed(**changes)
            report = self._report
        return True if self._client is None else self._client.post(report)

    def _heartbeats(self) -> list[RankHeartbeat]:
        now = time.monotonic()
        signs = {0: (self._pulse.step, self._pulse.moves)}
        self._paces[0] = self._pulse.seconds
        if self._store is not None:
            try:
                keys = [f"pulse/{rank}" for rank in range(1, self._size)]
                for rank, value in enumerate(self._store.multi_get(keys), start=1):
                    numbers = bytes(value).decode().split()
                    signs[rank] = (int(numbers[0]), int(numbers[1]))
                    self._paces[rank] = float(numbers[2])
            except RuntimeError:
                self._store = None  # Worker 0 is gone, so the agent will stop this process soon.
        for rank, (step, moves) in signs.items():
            known = self._beats.get(rank)
            if known is None or known[1] != moves:
                self._beats[rank] = (step, moves, now)
        longest = sorted(self._beats, key=lambda rank: self._beats[rank][2])[:MOST_HEARTBEATS]
        return [
            RankHeartbeat(rank=rank, step=self._beats[rank][0], seconds_ago=round(now - self._beats[rank][2], 3))
            for rank in sorted(longest)
        ]


class PulseSender:
    """Writes this rank's heartbeat to the store about once per interval, from a separate thread."""

    def __init__(self, store: Store, rank: int, pulse: Pulse, seconds: float) -> None:
        """Start; the first heartbeat is written before this returns, so that rank 0 finds every key."""
        self._store = store
        self._key = f"pulse/{rank}"
        self._pulse = pulse
        self._seconds = seconds
        self._stop = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop writing."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._write()
            except RuntimeError:
                return  # Worker 0 is gone; the agent detects this itself.

    def _write(self) -> None:
        self._store.set(self._key, f"{self._pulse.step} {self._pulse.moves} {self._pulse.seconds:.6f}")


def first_report(
    uid: str, attempt: int, launch: str, cause: Cause | None = None, absent: Iterable[int] = ()
) -> WorkerReport:
    """Return the first report of a launch, before any data is read.

    Args:
        uid: UID of the job.
        attempt: Attempt that created this pod.
        launch: Identifies the launch.
        cause: Why the previous launch in the same pod ended; None for the pod's first launch.
        absent: Workers that do not take part in this launch.
    """
    sequence = int(time.time() * 1000)
    phase = WorkerPhase.PREPARING
    return WorkerReport(
        uid=uid,
        attempt=attempt,
        launch=launch,
        sequence=sequence,
        phase=phase,
        relaunched=cause,
        absent=list(absent),
    )
